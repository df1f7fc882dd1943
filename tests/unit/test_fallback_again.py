"""A fallback that recovered, and trouble that comes again: holding may end it, and prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.backend import Reading
from memrl_ctrl.trace import TraceReader
from memrl_deploy.classical import FALLBACK_KEY, described
from memrl_deploy.fallback import FallbackConfig
from memrl_deploy.guard import GuardConfig
from memrl_deploy.replaying import GUARD_KEY, replay_trace
from memrl_deploy.states import Cause, IllegalTransitionError, State, StateMachine
from memrl_deploy.summary import RunSummary

from .online_loop import Collect, Spy, closed_loop

GUARD = GuardConfig(repeats=2)
CONFIG = FallbackConfig(
    hold_cycles=3, recover_cycles=2, restore_cycles=5, recoveries=2, stuck_cycles=6
)


def run(
    records: Path, wrong: Callable[[int], bool], *, cycles: int, config: FallbackConfig = CONFIG
) -> tuple[RunSummary, Collect]:
    """Run on a machine whose readback lies in some cycles; two of them in a row are trouble."""

    def alter(reading: Reading) -> Reading:
        lie = 0.5 if wrong(reading.cycle) else 0.0
        return replace(reading, readback_rad=reading.applied_rad + lie)

    view = Collect()
    loop = closed_loop(
        Spy(offset_rad=0.3, alter=alter),
        records,
        cycles=cycles,
        view=view,
        guard=GUARD,
        fallback=config,
        configuration={FALLBACK_KEY: described(config, None), GUARD_KEY: asdict(GUARD)},
    )
    return loop.run(), view


def causes(summary: RunSummary) -> list[str]:
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical
        events = [event for record in trace for event in record.events]
        return [event["cause"] for event in events if event["kind"] == "mode"]


def test_a_fault_that_comes_again_and_again_is_handed_over(tmp_path: Path) -> None:
    """Two cycles of every ten: it recovers twice, and the third descent goes on to the operator."""
    summary, view = run(tmp_path, lambda cycle: cycle > 10 and cycle % 10 < 2, cycles=60)
    found = causes(summary)
    assert found.count(Cause.RECOVERED) == 2
    assert found.count(Cause.TROUBLE) == 3
    assert found[-1] == Cause.LADDER_ENDED
    assert "handed over to the operator" in str(summary.error)
    assert any("it recovered 2 times in 200 cycles and does not again" in n for n in view.notes)
    rungs = [note for note in view.notes if note.startswith("fallback, rung")]
    assert rungs[-2:] == [
        "fallback, rung 'hold': the last function stays",
        "fallback, rung 'restore': back to the function at which the loop was engaged",
    ]


def test_recoveries_long_ago_do_not_count(tmp_path: Path) -> None:
    """The same fault, and cycles enough between: it recovers every time."""
    config = replace(CONFIG, recoveries_within=8)
    summary, _ = run(tmp_path, lambda c: c > 10 and c % 10 < 2, cycles=60, config=config)
    found = causes(summary)
    assert found.count(Cause.RECOVERED) >= 4
    assert Cause.LADDER_ENDED not in found
    assert summary.error is None


def test_trouble_that_lasts_in_shadow_behind_a_fallback_is_handed_over(tmp_path: Path) -> None:
    """Holding ended it for two cycles; then it stays: nobody would lead the machine, and nobody know."""
    summary, view = run(tmp_path, lambda cycle: cycle in (10, 11) or cycle > 13, cycles=60)
    found = causes(summary)
    assert found[-4:] == [Cause.TROUBLE, Cause.RECOVERED, Cause.TROUBLE, Cause.LADDER_ENDED]
    (said,) = (note for note in view.notes if "in shadow for 6 cycles" in note)
    assert said.startswith("shadow -> fallback (trouble)")
    assert "handed over to the operator" in str(summary.error)


def test_shadow_that_was_never_engaged_is_not_left_for_trouble(tmp_path: Path) -> None:
    """Nothing was ever written, so that there is nothing to fall back to."""
    summary, _ = run(tmp_path, lambda _: True, cycles=30)
    assert causes(summary) == []
    assert summary.written == 0
    machine = StateMachine()
    with pytest.raises(IllegalTransitionError):
        machine.go(Cause.TROUBLE, 1, "test")
    machine.go(Cause.AGREED, 1, "test")
    machine.go(Cause.TROUBLE, 2, "test")
    machine.go(Cause.RECOVERED, 3, "test")
    assert machine.go(Cause.TROUBLE, 4, "test").after is State.FALLBACK


def test_what_the_ladder_writes_is_shown(tmp_path: Path) -> None:
    """The recommendation stays where the guard holds; the way back to the snapshot is another function."""
    summary, view = run(tmp_path, lambda cycle: cycle > 9, cycles=30)
    assert summary.written > 0
    back = [one for one in view.cycles if one.mode == "fallback" and one.outcome == "written"]
    other = back[0].other_rad
    assert other is not None
    assert np.abs(other - back[0].applied_rad).max() > 0.1


def test_cycles_without_a_reading_are_counted_and_told(tmp_path: Path) -> None:
    """The machine plays on while readings are lost: how many is in the record, the summary and a note."""
    jump = Spy(alter=lambda r: replace(r, cycle=r.cycle + (7 if r.cycle > 6 else 0)))
    view = Collect()
    summary = closed_loop(jump, tmp_path, cycles=10, view=view).run()
    assert summary.unseen == 7
    (said,) = (note for note in view.notes if "no reading came of" in note)
    assert said.startswith("no reading came of 7 cycles before 14")
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        told = [event for record in trace for event in record.events if event["kind"] == "unseen"]
    assert told == [{"kind": "unseen", "cycles": 7}]
