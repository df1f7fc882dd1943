"""The online loop over a fake machine: what is written, recorded, and refused before anything begins."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from memrl_ctrl.backend import Reading
from memrl_ctrl.errors import (
    MismatchError,
    Refused,
)
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.manifest import decode_manifest
from memrl_ctrl.policy.write import finish
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader, verify
from memrl_deploy.inference import Inference
from memrl_deploy.modes import ClosedLoop, Shadow
from memrl_deploy.pacing import SECTIONS, Pacing
from memrl_deploy.replaying import replay_trace
from memrl_deploy.runtime import Disengaged, Runtime

from .online_loop import PROPORTIONAL, SMALL_OFFSET, Collect, Looker, N, Spy, closed_loop, policy


def nan_policy() -> OnnxPolicy:
    """The proportional controller whose gain is not a number."""
    model = onnx.load_from_string(PROPORTIONAL)
    for name in ("gain", "low", "high"):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32("nan"), name))
    return OnnxPolicy.load(finish(model, decode_manifest(model.metadata_props[0].value))[0])


def test_the_loop_converges(tmp_path: Path) -> None:
    """With a proportional controller the machine goes to its reference, and all is recorded."""
    backend = Spy()
    summary = closed_loop(backend, tmp_path, cycles=25).run()
    assert summary.error is None
    assert summary.written == summary.cycles == 25
    backend._closed = False
    truth = backend.observe().truth
    assert truth is not None
    assert np.degrees(np.abs(truth.phase_error_rad)).max() < 1.0
    assert summary.asymmetry[-1] < 0.1 * summary.asymmetry[0]
    assert summary.trace is not None
    assert verify(summary.trace).whole


def test_the_trace_holds_what_was_decided(tmp_path: Path) -> None:
    """Observation, memory, action, verdicts, function and outcome of every cycle are recorded."""
    backend = Spy()
    summary = closed_loop(backend, tmp_path, cycles=5, configuration={"seed": 7}).run()
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert trace.header.policy == PROPORTIONAL
        assert trace.header.configuration["seed"] == 7
        for index in range(5):
            record, outcome = trace.record(index), trace.outcome(index)
            assert record.policy is not None
            assert outcome is not None
            assert outcome.accepted
            np.testing.assert_array_equal(record.written_rad, backend.submitted[index])
            np.testing.assert_array_equal(record.measures["recommended_rad"], record.written_rad)
            np.testing.assert_array_equal(
                record.policy.memory_in["calls_in"], np.full((8, 1), index)
            )
            moved = record.reading.applied_rad - (
                trace.record(index - 1).reading.applied_rad if index else record.reading.applied_rad
            )
            np.testing.assert_array_equal(
                record.policy.previous_applied[:, 0], moved.astype(np.float32)
            )
            assert {"observe", "infer", "guard", "measure"} <= set(record.timings_ns)
            assert {"record", "write", "answer"} <= set(outcome.timings_ns)
            assert "record_before" not in record.timings_ns
        assert trace.record(0).events[0]["kind"] == "begun"


def test_shadow_writes_nothing_and_recommends(tmp_path: Path) -> None:
    """In shadow every cycle has a recommendation and nothing that was written."""
    machine = FakeBackend(points=8, n_slices=N, offset_rad=SMALL_OFFSET)
    readings = [machine.start(), *(machine.observe() for _ in range(4))]
    view = Collect()
    runtime = Runtime(
        Shadow(Looker(readings, machine)), policy(), records=tmp_path, cycles=5, view=view
    )
    summary = runtime.run()
    assert summary.written == 0
    assert [v.outcome for v in view.cycles] == ["recommended"] * 5
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        record = trace.record(0)
        assert record.written_rad is None
        # No outcome says what recording took: the next record does.
        told = ["record_before" in trace.record(index).timings_ns for index in range(5)]
        assert told == [False, True, True, True, True]
        assert np.abs(record.measures["recommended_rad"]).max() > 0.01
        assert trace.outcome(0) is None
        assert replay_trace(trace).identical


def test_a_policy_that_gives_nan_never_writes(tmp_path: Path) -> None:
    """Three cycles of NaN end the run; nothing was written."""
    backend = Spy()
    summary = closed_loop(backend, tmp_path, policy=nan_policy(), cycles=10).run()
    assert backend.submitted == []
    assert isinstance(summary.error, Disengaged)
    assert summary.held == summary.cycles == 3
    assert summary.error.exit_code != 0


def test_nan_does_not_poison_the_memory(tmp_path: Path) -> None:
    """A point without a usable reading keeps its memory, and the machine never sees NaN."""

    def poison(reading: Reading) -> Reading:
        profile = reading.profile.copy()
        profile[3] = np.nan
        return replace(reading, profile=profile)

    backend = Spy(alter=poison)
    summary = closed_loop(backend, tmp_path, cycles=4).run()
    assert summary.error is None
    assert all(np.isfinite(phi).all() and phi[3] == 0.0 for phi in backend.submitted)
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        step = trace.record(3).policy
        assert step is not None
        np.testing.assert_array_equal(step.memory_out["calls_out"][:, 0], [4, 4, 4, 0, 4, 4, 4, 4])


def test_a_machine_outside_its_limits_is_not_engaged(tmp_path: Path) -> None:
    """If what is played does not keep the limits nothing begins, and no folder is made."""

    def kink(reading: Reading) -> Reading:
        applied = reading.applied_rad.copy()
        applied[3] = 3.0 * math.pi
        return replace(reading, applied_rad=applied)

    backend = Spy(alter=kink, points=30)
    summary = closed_loop(backend, tmp_path / "records").run()
    assert isinstance(summary.error, MismatchError)
    assert "not engaged" in str(summary.error)
    assert backend.submitted == []
    assert not (tmp_path / "records").exists()


def test_a_machine_that_takes_nothing_is_refused() -> None:
    """Closed loop on a read-only machine is refused before anything begins."""
    with pytest.raises(Refused, match="memrl-ctrl shadow"):
        ClosedLoop(FakeBackend(writable=False))


def test_a_larger_policy_step_is_cut_not_refused(tmp_path: Path) -> None:
    """A policy with a larger step than the machine allows works, with its steps cut."""
    backend = Spy(limits=PhaseLimits(step_rad=0.05))
    summary = closed_loop(backend, tmp_path, cycles=3).run()
    assert summary.written == 3
    assert summary.stages["step"] > 0


def changed(**manifest: Any) -> OnnxPolicy:
    loaded = policy()
    loaded._manifest = msgspec.structs.replace(loaded.manifest, **manifest)
    return loaded


def test_policies_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Too many slices, another task, another version of the observation: one sentence each."""
    with pytest.raises(MismatchError, match=r"measures only 32.*at most 32 slices"):
        Runtime(ClosedLoop(FakeBackend(n_slices=32)), policy(), records=tmp_path)
    spec = policy().manifest
    task = msgspec.structs.replace(spec.observation, kind="task")
    machine = FakeBackend(n_slices=N).description
    with pytest.raises(MismatchError, match="not for the beam"):
        Inference(changed(observation=task), machine)
    later = msgspec.structs.replace(spec.observation, version=9)
    with pytest.raises(MismatchError, match="version 9"):
        Inference(changed(observation=later), machine)


def test_pacing_gives_each_section_its_time() -> None:
    """Sections add up, and old cycles are forgotten."""
    pacing = Pacing(kept=2)
    for _ in range(3):
        pacing.begin()
        pacing.lap("receive")
        pacing.lap("infer")
        pacing.end()
    assert pacing.history_ns().shape == (2, len(SECTIONS))
    assert set(pacing.timings_ns()) <= {"receive", "infer"}
    assert pacing.timings_ns("write") == {"write": 0}
    assert pacing.decision_ns == pacing.timings_ns("infer")["infer"]
