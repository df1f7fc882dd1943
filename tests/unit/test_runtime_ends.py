"""The online loop when something is refused, late, silent, gone or full: it holds, counts, or ends."""

from __future__ import annotations

import errno
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from memrl_ctrl.backend import Reading, Receipt
from memrl_ctrl.errors import (
    ConnectionFailed,
    ReadingTimeout,
    RefusalReason,
    Refused,
)
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import OutcomeRecord, TraceReader, verify
from memrl_deploy.engaging import EngageConfig
from memrl_deploy.live import show_summary
from memrl_deploy.modes import Shadow
from memrl_deploy.replaying import replay_trace
from memrl_deploy.runtime import Disengaged, Runtime
from memrl_deploy.stopping import Stopping
from memrl_deploy.summary import CycleView

from .online_loop import Collect, Looker, N, Spy, closed_loop, policy


def transitions(outcome: OutcomeRecord | None) -> list[tuple[str, str, str]]:
    assert outcome is not None
    modes = [event for event in outcome.events if event["kind"] == "mode"]
    return [(event["from"], event["to"], event["cause"]) for event in modes]


def test_a_refusal_holds_and_is_counted(tmp_path: Path) -> None:
    """A refused function changes nothing; the loop goes on, and tells the policy so."""
    refused = Refused(RefusalReason.NOT_ARMED, "not armed")
    backend = Spy(fail=lambda count: refused if count in (1, 2, 4, 5) else None)
    view = Collect()
    summary = closed_loop(backend, tmp_path, cycles=8, view=view).run()
    assert summary.error is None
    assert summary.missed == {"refused (not-armed)": 4}
    assert summary.written == 4
    assert [v.outcome for v in view.cycles][:4] == [
        "written",
        "refused (not-armed), held",
        "refused (not-armed), held",
        "written",
    ]
    assert view.notes.count("refused (not-armed): not armed") == 4
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        outcome, step = trace.outcome(1), trace.record(2).policy
        assert outcome is not None
        assert step is not None
        assert (outcome.accepted, outcome.reason) == (False, "not-armed")
        assert not step.previous_applied.any()
        assert replay_trace(trace).identical


@pytest.mark.parametrize("reason", sorted(set(RefusalReason) - {RefusalReason.FENCED}))
def test_three_refusals_for_one_reason_end_the_run(reason: RefusalReason, tmp_path: Path) -> None:
    """Whatever the reason: the sentence names it and the machine's words, and nothing is tried again."""
    backend = Spy(fail=lambda count: Refused(reason, "so it says") if count in (2, 3, 4) else None)
    summary = closed_loop(backend, tmp_path, cycles=12).run()
    assert isinstance(summary.error, Disengaged)
    assert summary.error.exit_code == 5
    kind = "late" if reason is RefusalReason.LATE else f"refused ({reason})"
    assert f"3 times '{kind}' in a row: so it says" in str(summary.error)
    assert summary.missed == {kind: 3}
    assert len(backend.submitted) == 5
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        outcome = trace.outcome(-1)
        assert replay_trace(trace).identical
    assert transitions(outcome) == [("closed-loop", "manual", "missed")]


def test_other_refusals_in_between_do_not_begin_the_row_anew(tmp_path: Path) -> None:
    """Reasons that take turns end the run with the third of one; a function that is taken ends all rows."""
    turns = [RefusalReason.LIMIT, RefusalReason.RATE]
    said = dict(enumerate([None, *turns, None, *turns, *turns, *turns]))
    backend = Spy(fail=lambda count: Refused(reason, "no") if (reason := said.get(count)) else None)
    summary = closed_loop(backend, tmp_path, cycles=20).run()
    assert isinstance(summary.error, Disengaged)
    assert summary.missed == {"refused (limit)": 4, "refused (rate)": 3}
    assert len(backend.submitted) == 9


@pytest.mark.parametrize("attended", [False, True])
def test_a_machine_that_is_not_armed_at_engage_is_left(tmp_path: Path, *, attended: bool) -> None:
    """Three times the first function of the transition is refused: it ends, or waits in manual for `e`."""
    refused = Refused(RefusalReason.NOT_ARMED, "an operator arms it")
    backend, view = Spy(fail=lambda count: refused if count < 3 else None), Collect()
    keys = iter([*[""] * 7, "e"])
    runtime = closed_loop(
        backend, tmp_path, cycles=14, view=view, engage=EngageConfig(after_cycles=2, blend_cycles=3)
    )
    if attended:
        runtime.listen(lambda: next(keys, ""))
    summary = runtime.run()
    assert [one.mode for one in view.cycles][:3] == ["shadow", *["transition"] * 2]
    np.testing.assert_array_equal(backend.submitted[:3], np.zeros((3, 8)))
    if not attended:
        assert isinstance(summary.error, Disengaged)
        assert "3 times 'refused (not-armed)' in a row: an operator arms it" in str(summary.error)
        assert len(backend.submitted) == 3
        return
    assert summary.error is None
    assert [one.mode for one in view.cycles][3:] == [
        "transition", *["manual"] * 3, "shadow", *["transition"] * 3, *["closed-loop"] * 3
    ]  # fmt: skip
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical


def test_an_engagement_by_a_person_begins_the_rows_anew(tmp_path: Path) -> None:
    """Two refusals, the operator for a while, two more refusals: no three in a row."""
    refused = Refused(RefusalReason.NOT_ARMED, "not armed")
    backend = Spy(fail=lambda count: refused if count in (1, 2, 3, 4) else None)
    keys = iter(["", "", "", "m", "e"])
    runtime = closed_loop(backend, tmp_path, cycles=10)
    runtime.listen(lambda: next(keys, ""))
    summary = runtime.run()
    assert summary.error is None
    assert summary.missed == {"refused (not-armed)": 4}
    assert not [change for change in summary.changes if "missed" in change]


@pytest.mark.parametrize("how", ["count", "signal", "signal while waiting"])
@pytest.mark.parametrize(("cycles", "rung"), [(6, "hold"), (12, "restore")])
def test_a_run_that_ends_in_the_fallback_ends_as_an_error(
    how: str, cycles: int, rung: str, tmp_path: Path
) -> None:
    """By its own count or by a signal: exit code 5, and a sentence with the rung and what stays."""

    class Stops(Spy):
        def observe(self, timeout_s: float | None = None) -> Reading:
            if how == "signal while waiting" and len(view.cycles) == cycles:
                runtime.stop("stopped by SIGTERM")
            return super().observe(timeout_s)

    class Looks(Collect):
        def cycle(self, view: CycleView) -> None:
            super().cycle(view)
            if how == "signal" and len(self.cycles) == cycles:
                runtime.stop("stopped by SIGTERM")

    def lies(reading: Reading) -> Reading:
        wrong = 2.0 if reading.cycle > 4 else 0.0
        return replace(reading, readback_rad=reading.applied_rad + wrong)

    view = Looks()
    runtime = closed_loop(
        Stops(alter=lies), tmp_path, cycles=cycles if how == "count" else None, view=view
    )
    summary = runtime.run()
    assert len(view.cycles) == cycles
    assert isinstance(summary.error, Disengaged)
    assert summary.error.exit_code == 5
    assert f"ended in the fallback, on its rung '{rung}' (the readback of point" in str(
        summary.error
    )
    assert "the machine goes on with the last function that it took" in str(summary.error)
    assert summary.reason == ("all cycles done" if how == "count" else "stopped by SIGTERM")
    assert summary.trace is not None
    assert verify(summary.trace).whole


def test_a_run_that_ends_recovered_ends_well(tmp_path: Path) -> None:
    """Once the fallback led back to shadow there is nothing left to say."""

    def lies(reading: Reading) -> Reading:
        wrong = 2.0 if reading.cycle == 5 else 0.0
        return replace(reading, readback_rad=reading.applied_rad + wrong)

    view = Collect()
    summary = closed_loop(Spy(alter=lies), tmp_path, cycles=7, view=view).run()
    assert [one.mode for one in view.cycles][4:] == ["fallback", "fallback", "shadow"]
    assert summary.error is None
    assert summary.not_engaged == "in shadow, it did not engage again"


@pytest.mark.parametrize(
    ("engage", "alter", "why"),
    [
        (
            EngageConfig(after_cycles=9),
            None,
            "100 % of the points agreed (80 % are asked for), 5 cycles",
        ),
        (EngageConfig(), "nan", "the guard let nothing through"),
    ],
)
def test_a_run_that_never_engaged_says_why(
    engage: EngageConfig, alter: str | None, why: str, tmp_path: Path
) -> None:
    """A run that may write and ends in shadow says so, and what its last cycle lacked."""

    def blind(reading: Reading) -> Reading:
        return replace(reading, profile=np.full_like(reading.profile, np.nan))

    backend = Spy(alter=blind) if alter else Spy()
    summary = closed_loop(backend, tmp_path, cycles=5, engage=engage).run()
    assert (summary.error, summary.written) == (None, 0)
    assert summary.not_engaged.startswith("in shadow, it did not engage: in the last cycle ")
    assert why in summary.not_engaged
    console = Console(file=(out := io.StringIO()), width=200)
    show_summary(summary, console)
    assert why in out.getvalue()


def test_who_takes_over_by_hand_keeps_control(tmp_path: Path) -> None:
    """One refusal because another client is in control ends the run; nothing is tried again."""
    fenced = Refused(RefusalReason.FENCED, "'shift' is in control")
    backend = Spy(fail=lambda count: fenced if count == 2 else None)
    summary = closed_loop(backend, tmp_path, cycles=8).run()
    assert isinstance(summary.error, Disengaged)
    assert "not in control any more ('shift' is in control)" in str(summary.error)
    assert "it takes control no more until someone starts it again" in str(summary.error)
    assert (summary.written, len(backend.submitted)) == (2, 3)
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        outcome = trace.outcome(2)
    assert outcome is not None
    assert outcome.reason == "fenced"
    assert transitions(outcome) == [("closed-loop", "manual", "taken-over")]


@pytest.mark.parametrize(
    ("fences", "refused", "ends"),
    [
        ([4, 4, 5, 5, 5], (), False),  # slept through its own lease
        ([4, 4, 6, 6, 6], (), True),  # another client was in between
        ([4, 4, 3, 3, 3], (), True),  # the machine has forgotten whom it gave it to
        ([4, 4, 0, 6, 6], (2,), False),  # a lease of its own for the one that came late
    ],
)
def test_a_lease_in_between_ends_the_run(
    fences: list[int], refused: tuple[int, ...], ends: bool, tmp_path: Path
) -> None:
    """Who took over and gave back is noticed by the fencing number, and so is a machine that forgot who was
    in control; an own new lease is no reason.
    """

    class Leased(Spy):
        def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
            fence = fences[len(self.submitted)]
            return replace(super().submit(phi_hw_rad, cycle, deadline_s), fence=fence)

    late = Refused(RefusalReason.LATE, "too late")
    backend = Leased(fail=lambda count: late if count in refused else None)
    summary = closed_loop(backend, tmp_path, cycles=5).run()
    assert isinstance(summary.error, Disengaged) == ends
    assert len(backend.submitted) == (3 if ends else 5)
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        outcome = trace.outcome(-1)
    assert transitions(outcome) == ([("closed-loop", "manual", "taken-over")] if ends else [])


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
        assert isinstance(summary.error, Disengaged)
        assert summary.error.exit_code == 5
    assert summary.trace is not None
    assert verify(summary.trace).whole
    with TraceReader(summary.trace) as trace:
        outcome = trace.outcome(-1)
    assert transitions(outcome) == ([("closed-loop", "manual", "missed")] if ends else [])


def test_who_sits_at_the_keys_gets_the_machine_and_may_engage_again(tmp_path: Path) -> None:
    """Three missed deadlines lead to manual, nothing more is written until `e`, then it agrees anew."""
    error = Refused(RefusalReason.LATE, "too late")
    backend, view = Spy(fail=lambda count: error if count in (1, 2, 3) else None), Collect()
    keys = iter(["", "", "", "", "", "", "e", "", ""])
    runtime = closed_loop(backend, tmp_path, cycles=9, view=view)
    runtime.listen(lambda: next(keys))
    summary = runtime.run()
    assert summary.error is None
    assert [one.mode for one in view.cycles][4:7] == ["manual", "manual", "transition"]
    assert [one.outcome == "written" for one in view.cycles] == [
        True, False, False, False, False, False, True, True, True
    ]  # fmt: skip
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        changes = [
            (event["cause"], event["cycle"])
            for record in trace
            for event in record.events
            if event["kind"] == "mode"
        ]
        assert replay_trace(trace).identical
    assert ("missed", 4) in changes


def test_a_run_that_stays_handed_over_ends_as_an_error(tmp_path: Path) -> None:
    """Nobody engaged again: the end says why, with the exit code of a run that disengaged."""
    error = Refused(RefusalReason.LATE, "too late")
    runtime = closed_loop(Spy(fail=lambda count: error if count > 0 else None), tmp_path, cycles=6)
    runtime.listen(lambda: "")
    summary = runtime.run()
    assert isinstance(summary.error, Disengaged)
    assert "handed over to the operator: 3 times 'late' in a row" in str(summary.error)


def test_a_decision_after_its_deadline_is_not_sent(tmp_path: Path) -> None:
    """With a period that is over before the decision, nothing is submitted at all."""
    backend = Spy(period_s=1e-9)
    summary = closed_loop(backend, tmp_path, cycles=8).run()
    assert backend.submitted == []
    assert summary.missed == {"late": 3}
    assert isinstance(summary.error, Disengaged)


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
        assert transitions(outcome) == [("closed-loop", "manual", "lost")]
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

    def stop_cause(self: Stopping) -> str:
        nonlocal looks
        looks += 1
        now = str(self.__dict__.get("kept", ""))
        if looks == 1:  # the signal comes right after the first look, in the same thread
            self.ask("stopped by SIGTERM")
        return now

    def keep(self: Stopping, cause: str) -> None:
        self.__dict__["kept"] = cause

    monkeypatch.setattr(Stopping, "cause", property(stop_cause, keep), raising=False)
    summary = runtime.run()
    assert summary.error is None
    assert (summary.cycles, summary.reason) == (0, "stopped by SIGTERM")


def test_who_stops_a_run_that_is_ending_is_heard(tmp_path: Path) -> None:
    """A signal after the last cycle changes nothing of the run, and whoever would begin another knows."""

    class Late(Collect):
        def close(self) -> None:
            runtime.stop("stopped by SIGTERM")

    runtime = closed_loop(Spy(), tmp_path, view=Late(), cycles=2)
    summary = runtime.run()
    assert (summary.cycles, summary.reason) == (2, "all cycles done")
    assert runtime.stop_cause == "stopped by SIGTERM"


def test_a_transition_behind_the_last_record_stands_in_the_end(tmp_path: Path) -> None:
    """Where no more record is made, the reason of the trace's end names the transition and its cause."""

    class Silent(Spy):
        def observe(self, timeout_s: float | None = None) -> Reading:
            if len(self.submitted) >= 3:
                raise ReadingTimeout("nothing came")
            return super().observe(timeout_s)

    summary = closed_loop(Silent(), tmp_path).run()
    assert isinstance(summary.error, Disengaged)
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert trace.report.end is not None
        assert trace.report.end.reason.endswith("closed-loop -> manual (missed)")
