"""The online loop over a fake machine: what is written, held, counted, recorded."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from memrl_ctrl.backend import Quality, Reading, Receipt
from memrl_ctrl.errors import (
    ConnectionFailed,
    MismatchError,
    ReadingTimeout,
    RefusalReason,
    Refused,
    TraceError,
)
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.manifest import decode_manifest
from memrl_ctrl.policy.write import finish, proportional_policy
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader, verify
from memrl_deploy.inference import Inference
from memrl_deploy.modes import ClosedLoop, Shadow
from memrl_deploy.pacing import SECTIONS, Pacing
from memrl_deploy.replaying import replay_trace, ulp_distance
from memrl_deploy.runtime import Disengaged, Runtime
from memrl_deploy.summary import CycleView

N = 64
SMALL_OFFSET = 0.4
PROPORTIONAL = proportional_policy(n_slices=N, gain_rad=1.5)


class Spy(FakeBackend):
    """Counts what is submitted; `fail` may raise before it is taken."""

    def __init__(
        self, fail: Callable[[int], Exception | None] | None = None, **options: Any
    ) -> None:
        super().__init__(**{"n_slices": N, "points": 8, "offset_rad": SMALL_OFFSET, **options})
        self.submitted: list[np.ndarray] = []
        self.fail = fail

    def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
        error = self.fail(len(self.submitted)) if self.fail else None
        self.submitted.append(np.array(phi_hw_rad))
        if error is not None:
            raise error
        return super().submit(phi_hw_rad, cycle, deadline_s)


class Looker:
    """A source without any way to write."""

    def __init__(self, readings: list[Reading], machine: FakeBackend) -> None:
        self.description = machine.description
        self._readings = iter(readings)

    def observe(self, timeout_s: float | None = None) -> Reading:
        del timeout_s
        reading = next(self._readings, None)
        if reading is None:
            raise ReadingTimeout("no more readings")
        return reading

    def close(self) -> None:
        pass


class Collect:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.cycles: list[CycleView] = []
        self.notes: list[str] = []

    def cycle(self, view: CycleView) -> None:
        self.cycles.append(view)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        pass


def policy(data: bytes = PROPORTIONAL) -> OnnxPolicy:
    return OnnxPolicy.load(data)


def nan_policy() -> OnnxPolicy:
    """The proportional controller whose gain is not a number."""
    model = onnx.load_from_string(PROPORTIONAL)
    for name in ("gain", "low", "high"):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32("nan"), name))
    return OnnxPolicy.load(finish(model, decode_manifest(model.metadata_props[0].value))[0])


def closed_loop(backend: FakeBackend, records: Path, **options: Any) -> Runtime:
    return Runtime(
        ClosedLoop(backend), options.pop("policy", None) or policy(), records=records, **options
    )


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
            assert {"record", "write"} <= set(outcome.timings_ns)
        assert trace.record(0).events[0]["kind"] == "engaged"


def test_replay_is_identical(tmp_path: Path) -> None:
    """The recorded policy, run again over the recorded readings, gives the same bits."""

    def drop(reading: Reading) -> Reading:
        quality = reading.quality.copy()
        quality[reading.cycle % 8] = Quality.DEAD
        return replace(reading, quality=quality)

    summary = closed_loop(Spy(alter=drop, noise=0.02), tmp_path, cycles=12).run()
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        result = replay_trace(trace)
    assert result.identical
    assert (result.cycles, result.actions) == (12, 96)
    assert result.own_policy
    assert result.environment == {}


def test_a_way_back_by_a_turn_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guard remembers on the way back a replay builds up itself, also past a lost cycle."""
    limits = PhaseLimits(min_rad=-6.0, max_rad=1.0, step_rad=0.5)
    backend = Spy(limits=limits, offset_rad=1.5)
    runtime = closed_loop(backend, tmp_path, cycles=40, view=(view := Collect()))
    real = os.writev

    def full(file: int, parts: Any) -> int:
        if len(view.cycles) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, parts)

    monkeypatch.setattr(os, "writev", full)
    summary = runtime.run()
    assert summary.missed == {"unrecorded": 1}
    assert summary.stages["coherence"] > 0
    assert backend.submitted[-1].max() < -3.0
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical


def test_replay_of_another_policy_says_where_it_differs(tmp_path: Path) -> None:
    """Another policy is asked in open loop, and the largest difference has a place."""
    summary = closed_loop(Spy(), tmp_path, cycles=4).run()
    other = policy(proportional_policy(n_slices=N, gain_rad=0.7))
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        result = replay_trace(trace, other)
    assert not result.own_policy
    assert not result.identical
    assert result.where is not None
    assert result.largest_rad > 0.01


def test_replay_without_anything_to_replay_is_said(tmp_path: Path) -> None:
    """A trace in which no policy was asked is one clear sentence."""
    summary = closed_loop(Spy(), tmp_path, cycles=1).run()
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        trace.record = lambda index: replace(TraceReader.record(trace, index), policy=None)  # type: ignore[method-assign]
        with pytest.raises(TraceError, match="nothing to replay"):
            replay_trace(trace)


def test_ulp_distance_counts_floats() -> None:
    """Neighbouring floats are one apart, across zero too; equal bits are none apart."""
    a = np.array([1.0, -0.0, np.nan, -1.0], dtype=np.float32)
    b = np.array(
        [np.nextafter(np.float32(1), np.float32(2)), 1e-45, np.nan, -1.0], dtype=np.float32
    )
    np.testing.assert_array_equal(ulp_distance(a, b), [1, 1, 0, 0])


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


def test_a_refusal_holds_and_is_counted(tmp_path: Path) -> None:
    """A refused function changes nothing; the loop goes on, and tells the policy so."""
    refused = Refused(RefusalReason.NOT_ARMED, "not armed")
    backend = Spy(fail=lambda count: refused if count in (1, 2, 3, 4) else None)
    view = Collect()
    summary = closed_loop(backend, tmp_path, cycles=8, view=view).run()
    assert summary.error is None
    assert summary.missed == {"not-armed": 4}
    assert summary.written == 4
    assert [v.outcome for v in view.cycles][:3] == [
        "written",
        "refused (not-armed), held",
        "refused (not-armed), held",
    ]
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        outcome, step = trace.outcome(1), trace.record(2).policy
        assert outcome is not None
        assert step is not None
        assert (outcome.accepted, outcome.reason) == (False, "not-armed")
        assert not step.previous_applied.any()


def test_who_takes_over_by_hand_keeps_control(tmp_path: Path) -> None:
    """One refusal because another client is in control ends the run; nothing is tried again."""
    fenced = Refused(RefusalReason.FENCED, "'shift' is in control")
    backend = Spy(fail=lambda count: fenced if count == 2 else None)
    summary = closed_loop(backend, tmp_path, cycles=8).run()
    assert isinstance(summary.error, Disengaged)
    assert "control was taken over ('shift' is in control)" in str(summary.error)
    assert "until someone starts the agent again" in str(summary.error)
    assert (summary.written, len(backend.submitted)) == (2, 3)
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        outcome = trace.outcome(2)
    assert outcome is not None
    assert outcome.reason == "fenced"


@pytest.mark.parametrize(
    ("fences", "refused", "ends"),
    [
        ([4, 4, 5, 5, 5], (), False),  # slept through its own lease
        ([4, 4, 6, 6, 6], (), True),  # another client was in between
        ([4, 4, 0, 6, 6], (2,), False),  # a lease of its own for the one that came late
    ],
)
def test_a_lease_in_between_ends_the_run(
    fences: list[int], refused: tuple[int, ...], ends: bool, tmp_path: Path
) -> None:
    """Who took over and gave back is noticed by the fencing number; an own new lease is no reason."""

    class Leased(Spy):
        def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
            fence = fences[len(self.submitted)]
            return replace(super().submit(phi_hw_rad, cycle, deadline_s), fence=fence)

    late = Refused(RefusalReason.LATE, "too late")
    backend = Leased(fail=lambda count: late if count in refused else None)
    summary = closed_loop(backend, tmp_path, cycles=5).run()
    assert isinstance(summary.error, Disengaged) == ends
    assert len(backend.submitted) == (3 if ends else 5)


@pytest.mark.parametrize(("late", "ends"), [((1, 2), False), ((1, 2, 3), True)])
def test_three_missed_deadlines_in_a_row_end_the_run(
    late: tuple[int, ...], ends: bool, tmp_path: Path
) -> None:
    """Two are survived, three disengage with an exit code that is not 0."""
    error = Refused(RefusalReason.LATE, "too late")
    backend = Spy(fail=lambda count: error if count in late else None)
    summary = closed_loop(backend, tmp_path, cycles=8).run()
    assert isinstance(summary.error, Disengaged) == ends
    if ends:
        assert "3 times 'late' in a row" in str(summary.error)
        assert "last applied function" in str(summary.error)
        assert summary.error.exit_code == 5
    assert summary.trace is not None
    assert verify(summary.trace).whole


def test_a_decision_after_its_deadline_is_not_sent(tmp_path: Path) -> None:
    """With a period that is over before the decision, nothing is submitted at all."""
    backend = Spy(period_s=1e-9)
    summary = closed_loop(backend, tmp_path, cycles=8).run()
    assert backend.submitted == []
    assert summary.missed == {"late": 3}
    assert isinstance(summary.error, Disengaged)


def test_three_silent_waits_end_the_run(tmp_path: Path) -> None:
    """Readings that do not come are waited for three times."""
    machine = FakeBackend(points=8, n_slices=N)
    summary = Runtime(Shadow(Looker([machine.start()], machine)), policy(), records=tmp_path).run()
    assert summary.missed == {"timeout": 3}
    assert isinstance(summary.error, Disengaged)
    assert summary.cycles == 1


def test_the_same_reading_is_not_decided_twice(tmp_path: Path) -> None:
    """A reading that comes again is skipped and counted."""
    machine = FakeBackend(points=8, n_slices=N)
    first = machine.start()
    source = Looker([first, first, machine.observe()], machine)
    summary = Runtime(Shadow(source), policy(), records=tmp_path, cycles=2).run()
    assert summary.error is None
    assert (summary.cycles, summary.missed["stale"]) == (2, 1)


def test_a_machine_that_vanishes_ends_the_run(tmp_path: Path) -> None:
    """A lost connection ends the run at once; what was decided is recorded with its outcome."""
    gone = ConnectionFailed("nobody answers")
    backend = Spy(fail=lambda count: gone if count == 2 else None)
    summary = closed_loop(backend, tmp_path, cycles=8).run()
    assert summary.error is gone
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        outcome = trace.outcome(2)
        assert len(trace) == 3
        assert outcome is not None
        assert outcome.reason == "ConnectionFailed"


def test_a_cycle_that_cannot_be_recorded_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the disk full the machine is left alone; with room again the run goes on, and replays."""
    backend = Spy()
    runtime = closed_loop(backend, tmp_path, cycles=6, view=(view := Collect()))
    real = os.writev

    def full(file: int, parts: Any) -> int:
        if len(view.cycles) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, parts)

    monkeypatch.setattr(os, "writev", full)
    summary = runtime.run()
    assert summary.error is None
    assert len(backend.submitted) == 4
    assert summary.missed == {"unrecorded": 2}
    assert [v.outcome for v in view.cycles][2:4] == ["not recorded, held"] * 2
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert [event["kind"] for event in trace.record(2).events] == ["unrecorded", "unrecorded"]
        before, after = trace.record(1).policy, trace.record(2).policy
        assert before is not None
        assert after is not None
        np.testing.assert_array_equal(after.memory_in["calls_in"], before.memory_out["calls_out"])
        moved = trace.record(2).reading.applied_rad - trace.record(1).reading.applied_rad
        assert np.abs(moved).max() > 0.01
        np.testing.assert_array_equal(after.previous_applied[:, 0], moved.astype(np.float32))
        result = replay_trace(trace)
        assert result.identical
        assert result.resumed == 0


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


def test_stopping_between_cycles_is_clean(tmp_path: Path) -> None:
    """A stop that comes during a decision lets the cycle end first."""

    class Stops(Collect):
        def cycle(self, view: CycleView) -> None:
            super().cycle(view)
            if len(self.cycles) == 3:
                runtime.stop("stopped by SIGINT")

    runtime = closed_loop(Spy(), tmp_path, view=Stops())
    summary = runtime.run()
    assert summary.error is None
    assert (summary.cycles, summary.written, summary.reason) == (3, 3, "stopped by SIGINT")


def test_a_stop_just_before_the_wait_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the signal falls on the way into a wait, the run does not wait once more."""
    backend = Spy()
    runtime = closed_loop(backend, tmp_path, cycles=5)
    looks = 0

    def stop_cause(self: Runtime) -> str:
        nonlocal looks
        looks += 1
        now = str(self.__dict__.get("cause", ""))
        if looks == 1:  # the signal comes right after the first look, in the same thread
            self.stop("stopped by SIGTERM")
        return now

    def keep(self: Runtime, cause: str) -> None:
        self.__dict__["cause"] = cause

    monkeypatch.setattr(Runtime, "_stop_cause", property(stop_cause, keep), raising=False)
    summary = runtime.run()
    assert summary.error is None
    assert (summary.cycles, summary.reason) == (0, "stopped by SIGTERM")


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
