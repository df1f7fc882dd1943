"""Export: one file, written only if torch and onnxruntime agree over whole episodes."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from memrl_ctrl.agents.exportable import ExportablePolicy, untrained_policy
from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.config import LayersConfig, LstmTd3Config
from memrl_ctrl.errors import FileError, MismatchError
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.manifest import (
    ActionSpec,
    MemorySpec,
    ObservationSpec,
    PolicyManifest,
    Training,
)
from memrl_deploy import exporter
from memrl_deploy.exporter import export_policy

SMALL = ((1, 40), (7, 40))


class Accumulator(torch.nn.Module):
    """A policy whose memory is the sum of what was applied."""

    def __init__(self, jump: float = 0.0, steep: float = 1.0) -> None:
        super().__init__()
        self.jump, self.steep = jump, steep

    def forward(
        self, observation: torch.Tensor, previous: torch.Tensor, total: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = total + previous
        action = torch.tanh(observation.mean(dim=1, keepdim=True) - total)
        if self.steep > 1.0:
            action = torch.sin(self.steep * action)
        if self.jump and not torch.onnx.is_in_onnx_export():
            action = action + self.jump
        return action, total


def accumulator(jump: float = 0.0, steep: float = 1.0) -> ExportablePolicy:
    manifest = PolicyManifest(
        name="accumulator",
        observation=ObservationSpec(kind="beam-phase", shape=(17,), n_slices=16),
        action=ActionSpec(kind="delta-phi-rad", shape=(1,), low=-1.0, high=1.0),
        memory=(MemorySpec(name_in="total_in", name_out="total_out", shape=(1,), reset=0.25),),
        max_step_rad=1.0,
        training=Training(algorithm="none"),
    )
    return ExportablePolicy(module=Accumulator(jump, steep), manifest=manifest)


def test_the_file_says_what_was_proven(tmp_path: Path) -> None:
    """Parity, its steps, digest and versions stand in the file's own manifest."""
    report = export_policy(accumulator(), tmp_path / "a.onnx", plan=SMALL)
    policy = OnnxPolicy.load(tmp_path / "a.onnx")
    assert policy.digest == report.digest
    assert policy.manifest == report.manifest
    assert policy.manifest.parity_max_abs_diff is not None
    assert policy.manifest.parity_max_abs_diff <= exporter.PARITY_LIMIT
    assert policy.manifest.parity_steps == 40 + 280
    assert {"torch", "onnx", "memrl-ctrl"} <= set(policy.manifest.versions)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_the_default_plan_is_long_enough() -> None:
    """Parity is measured over at least 10,000 steps, with one row and with many."""
    assert sum(rows * calls for rows, calls in exporter.PLAN) >= 10_000
    assert min(rows for rows, _ in exporter.PLAN) == 1
    assert max(rows for rows, _ in exporter.PLAN) > 100


def test_a_policy_that_differs_is_not_written(tmp_path: Path) -> None:
    """Where torch and the graph differ nothing is written, and an older file stays."""
    path = tmp_path / "a.onnx"
    path.write_bytes(b"older")
    with pytest.raises(MismatchError, match=r"not written.*differ by 1\.0e-04"):
        export_policy(accumulator(jump=1e-4), path, plan=SMALL)
    assert path.read_bytes() == b"older"


def test_a_policy_that_gives_nan_is_not_written(tmp_path: Path) -> None:
    """Outputs that are not finite count as different."""
    with pytest.raises(MismatchError, match="differ by inf"):
        export_policy(accumulator(jump=float("nan")), tmp_path / "a.onnx", plan=SMALL)


def test_a_folder_that_does_not_exist_is_made_and_a_file_is_no_folder(tmp_path: Path) -> None:
    """A path through a file is one clear sentence."""
    made = export_policy(accumulator(), tmp_path / "new" / "a.onnx", plan=SMALL).path
    assert made.is_file()
    with pytest.raises(FileError, match="cannot be written"):
        export_policy(accumulator(), made / "a.onnx", plan=SMALL)


def test_exporting_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    """What the exporter silences stays silenced only inside it."""
    before = list(warnings.filters)
    export_policy(accumulator(), tmp_path / "a.onnx", plan=SMALL)
    assert warnings.filters == before


def test_rounding_alone_is_no_reason_to_refuse(tmp_path: Path) -> None:
    """Where a policy magnifies the last digits, torch in float64 says how far; more is refused."""
    report = export_policy(accumulator(steep=1000.0), tmp_path / "a.onnx", plan=SMALL)
    assert exporter.PARITY_LIMIT < report.parity.call <= report.parity.call_allowed
    assert report.parity.call <= report.parity_max_abs_diff == report.parity.largest
    with pytest.raises(MismatchError, match=r"not written.*differ by [12]\.\de-03"):
        export_policy(accumulator(jump=1.5e-3, steep=1000.0), tmp_path / "b.onnx", plan=SMALL)
    with pytest.raises(MismatchError, match=r"from the same memory \(allowed 1e-03\)"):
        export_policy(accumulator(jump=0.1, steep=1e6), tmp_path / "c.onnx", plan=SMALL)


def differences(call: float, *steps: float) -> exporter._Differences:
    """Of a run of 4,000 steps that differ by nothing but for the last ones."""
    rest = np.zeros(4000)
    rest[len(rest) - len(steps) :] = steps
    return exporter._Differences(calls=[0.0, call], steps=list(rest.reshape(100, 40)))


@pytest.mark.parametrize(
    ("file", "rounding", "proven"),
    [
        (differences(9e-6), differences(0.0), True),
        (differences(2e-5), differences(0.0), False),
        (differences(2e-5), differences(3e-6), True),
        (differences(2e-3), differences(3e-2), False),
        # The last digit decided, and each side goes on from its own memory: rarely, and as torch's does.
        (differences(6e-6, 2e-3), differences(5e-6), False),
        (differences(6e-6, 2e-3), differences(5e-6, 1e-4), False),
        (differences(6e-6, 2e-3), differences(5e-6, 1e-3), True),
        (differences(6e-6, 2e-3, 2e-3, 2e-3), differences(5e-6, 1e-3), True),
        (differences(6e-6, 2e-3, 2e-3, 2e-3, 2e-3), differences(5e-6, 1e-3), False),
        (differences(6e-6, *[2e-3] * 40), differences(5e-6, *[2e-3] * 40), False),
        (differences(6e-6, *[2e-5] * 40), differences(5e-6, *[4e-6] * 40), True),
        (differences(math.inf), differences(0.0), False),
    ],
)
def test_what_a_file_may_differ_by(
    file: exporter._Differences, rounding: exporter._Differences, proven: bool
) -> None:
    """As much as rounding explains; beyond 1e-3 only where each side goes on from its own memory, and in less
    than one step in a thousand."""
    parity = exporter._judged([(file, rounding)])
    assert parity.proven is proven
    assert parity.largest == max(*file.calls, *(float(step.max()) for step in file.steps))


@pytest.mark.parametrize(
    "agent",
    [
        LstmTd3Config(memory="window"),
        LstmTd3Config(memory="sequence"),
        LstmTd3Config(memory="window", history_length=0),
        LstmTd3Config(
            memory="sequence",
            filters=(0.3, 0.8, 0.99),
            history_scale="logarithmic",
            estimate_weight=1.0,
            critic_sees_truth=True,
            actor=LayersConfig(current=()),
        ),
    ],
    ids=["window", "sequence", "none", "filters"],
)
def test_every_kind_of_memory_survives_the_export(agent: LstmTd3Config, tmp_path: Path) -> None:
    """Window, sequence, none and filters give the same actions from the file as from torch."""
    report = export_policy(
        untrained_policy(beam_task(n_slices=32), agent, gain=5.0), tmp_path / "p.onnx", plan=SMALL
    )
    # Filters in contradiction turn on the last digits; what torch itself makes of them is the measure.
    assert report.parity.proven
    assert report.parity_max_abs_diff <= exporter.MOST_ROUNDING
    assert agent.filters or report.parity_max_abs_diff <= exporter.PARITY_LIMIT


def test_a_policy_for_another_task_is_exported_too(tmp_path: Path) -> None:
    """A policy with several actions and no beam keeps its own action range."""
    task = TaskSpec(
        environment="HalfCheetah",
        kind="task",
        n_observation=5,
        action_low=(-2.0, -2.0),
        action_high=(2.0, 2.0),
    )
    export_policy(untrained_policy(task), tmp_path / "p.onnx", plan=SMALL)
    assert OnnxPolicy.load(tmp_path / "p.onnx").manifest.action.shape == (2,)
