"""A strict replay compares all that went into the policy and came out of it, and says what differs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from memrl_ctrl.errors import TraceError
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader
from memrl_deploy.cli_replay import replay
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.replaying import replay_trace
from memrl_deploy.runtime import Runtime

N, POINTS, CYCLES = 64, 8, 12
pytest.importorskip("onnx", reason="policies are written with onnx (extra 'train')")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace of a run of a policy with memory."""
    backend = FakeBackend(points=POINTS, n_slices=N, noise=0.02)
    policy = OnnxPolicy.load(proportional_policy(n_slices=N, lstm_units=4))
    records = tmp_path_factory.mktemp("replay")
    summary = Runtime(ClosedLoop(backend), policy, records=records, cycles=CYCLES).run()
    assert summary.error is None
    assert summary.trace is not None
    return summary.trace


@pytest.fixture
def copy(recorded: Path, tmp_path: Path) -> Path:
    """A copy of its HDF5 file, that may be changed."""
    return Path(shutil.copy(recorded, tmp_path / "trace.h5"))


def test_an_honest_trace_is_identical(copy: Path) -> None:
    """Observation, change applied, memory and action come out again, bit for bit."""
    with TraceReader(copy) as trace:
        result = replay_trace(trace)
    assert result.identical
    assert result.different_arrays == {}


@pytest.mark.parametrize(
    ("column", "row"),
    [("observation", 5), ("previous_applied", 5), ("memory_in", 0), ("memory_out", CYCLES - 1)],
)
def test_what_went_in_and_came_out_is_compared(
    copy: Path, column: str, row: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """One changed value: the actions are the same, and the replay is not identical and says why."""
    with h5py.File(copy, "r+") as file:
        held: Any = file[f"cycles/{column}"]
        name = column
        if isinstance(held, h5py.Group):
            inside = next(iter(held))
            name, held = f"{column}/{inside}", held[inside]
        value = held[row]
        value.flat[0] += 1.0
        held[row] = value
    with TraceReader(copy) as trace:
        result = replay_trace(trace)
    assert not result.identical
    assert (result.different, result.different_arrays) == (0, {name: 1})
    assert replay(copy) == 1
    assert f"{name} differs in 1 of {CYCLES} cycles" in capsys.readouterr().out


@pytest.mark.parametrize(
    "guard", ['{"zzz":1}', '{"frozen_readings":"x"}', '{"frozen_readings":-1}']
)
def test_settings_that_no_guard_has_are_told(copy: Path, guard: str) -> None:
    """A sentence, where the recorded configuration names what this release does not know."""
    with h5py.File(copy, "r+") as file:
        file["header/configuration_json"][()] = f'{{"guard":{guard}}}'
    with (
        TraceReader(copy) as trace,
        pytest.raises(TraceError, match="guard's settings in it do not"),
    ):
        replay_trace(trace)


def test_a_memory_that_was_changed_later_is_not_carried_on(copy: Path) -> None:
    """The replay goes on from its own memory: a changed one costs its cycle only."""
    with h5py.File(copy, "r+") as file:
        outs = file["cycles/memory_out"]
        for name in outs:
            outs[name][4] = np.float32(3.0)
    with TraceReader(copy) as trace:
        found = replay_trace(trace).different_arrays
    assert set(found.values()) == {1}
