"""The state machine of a run, agreement, blending and the fallback ladder."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memrl_ctrl.backend import Reading
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader
from memrl_deploy.engaging import Agreement, EngageConfig, blended
from memrl_deploy.fallback import FallbackConfig, Ladder, Rung, Snapshot
from memrl_deploy.guard import STAGES, Decision, Excess, GuardConfig
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.replaying import GUARD_KEY, replay_trace
from memrl_deploy.runtime import Disengaged
from memrl_deploy.states import (
    TRANSITIONS,
    WRITING,
    Cause,
    Control,
    IllegalTransitionError,
    State,
    StateMachine,
    control_in,
)
from memrl_deploy.steering import Steering

from .online_loop import Collect, Spy, closed_loop

P = 8
HARD = Excess.HARD
ALL = np.ones(P, dtype=np.bool_)


def decision(phi: np.ndarray, excess: Excess = Excess.NONE, *, inside: bool = True) -> Decision:
    return Decision(
        phi_hw_rad=phi,
        proposed_rad=phi,
        verdicts=np.zeros((phi.size, len(STAGES)), dtype=np.uint8),
        excess=excess,
        reason="too much" if excess is HARD else "",
        in_distribution=np.full(phi.size, inside),
    )


def reading_of(applied: np.ndarray, cycle: int, readback: np.ndarray | None = None) -> Reading:
    reading = FakeBackend(points=P, n_slices=64).start()
    back = applied if readback is None else readback
    return replace(reading, applied_rad=applied, readback_rad=back, cycle=cycle)


@given(st.lists(st.sampled_from(list(Cause)), max_size=30))
def test_the_closed_loop_is_reached_through_agreement_and_a_taken_function(
    causes: list[Cause],
) -> None:
    """Whatever happens, closed loop follows transition, which follows agreement in shadow."""
    machine = StateMachine()
    for cause in causes:
        if machine.allows(cause):
            assert (machine.state, cause) in TRANSITIONS
            machine.go(cause, 0, "test")
        else:
            state = machine.state
            with pytest.raises(IllegalTransitionError, match=cause.value):
                machine.go(cause, 0, "test")
            assert machine.state is state
    for before, change in zip([None, *machine.changes], machine.changes, strict=False):
        if change.after is State.CLOSED_LOOP:
            assert change.cause is Cause.BLENDED
            assert before is not None
            assert (before.before, before.cause) == (State.SHADOW, Cause.AGREED)
        if change.after in WRITING and change.before not in WRITING:
            # Behind a fallback that recovered trouble leads back to it; the loop was engaged before.
            engaged = change.cause is Cause.TROUBLE and change.control is Control.KEPT
            assert change.cause is Cause.AGREED or engaged
    has_it = False
    for (
        change
    ) in machine.changes:  # taken by a person's engagement, kept by all that happens till manual
        if change.after is State.MANUAL:
            assert change.control is Control.LEFT
        elif change.after in WRITING:
            assert change.control is (Control.KEPT if has_it else Control.TAKEN)
        else:
            assert change.control is (Control.KEPT if has_it else Control.LEFT)
        has_it = change.control is not Control.LEFT


@given(
    st.lists(st.sampled_from(["good", "hard", "outside", "manual", "engage", "lost"]), max_size=40)
)
def test_no_path_writes_in_shadow_or_manual(happened: list[str]) -> None:
    """In any order of good and bad cycles, refusals and the operator's wishes."""
    backend = FakeBackend(points=P, n_slices=64)
    steering = Steering(
        ClosedLoop(backend),
        backend.description,
        engage=EngageConfig(after_cycles=2, blend_cycles=2),
    )
    applied = np.zeros(P)
    good_in_a_row = 0
    for cycle, what in enumerate(happened):
        if what == "manual":
            steering.ask_manual()
        if what == "engage":
            steering.ask_engage()
        excess = HARD if what == "hard" else Excess.NONE
        now = decision(applied + 0.01, excess, inside=what != "outside")
        before = len(steering.changes)
        function = steering.choose(now, reading_of(applied, cycle))
        good_in_a_row = 0 if what in ("hard", "outside") else good_in_a_row + 1
        for change in steering.changes[before:]:
            if change.cause is Cause.AGREED:
                assert good_in_a_row >= 2
        if isinstance(steering.mode, ClosedLoop):
            assert steering.mode.name in WRITING
        else:
            assert function is None
            assert not hasattr(steering.mode, "write")
        if what == "manual":
            assert steering.mode.name == State.MANUAL
        if function is not None and what != "lost":
            applied = function
            steering.written(cycle)


def test_agreement_is_near_the_machine_or_the_cycle_before() -> None:
    """Round the circle too; an erratic recommendation never agrees, one unlike the training neither."""
    agreement = Agreement(EngageConfig(after_cycles=2))
    far = np.full(P, 1.5)
    for turn in (0.0, 2.0 * math.pi):
        agreement.see(decision(far + turn), np.zeros(P))
    assert agreement.reached
    agreement.see(decision(-far), np.zeros(P))
    assert agreement.cycles == 0
    agreement.see(decision(np.full(P, 0.1)), np.zeros(P))
    assert agreement.cycles == 1
    agreement.see(decision(np.full(P, 0.1), inside=False), np.zeros(P))
    assert agreement.cycles == 0


@given(st.floats(0.0, 1.0))
def test_a_part_of_a_step_keeps_the_limits(factor: float) -> None:
    """What lies between two functions that keep the limits keeps them too."""
    limits, ctime = PhaseLimits(), np.linspace(275.0, 805.0, P)
    applied = np.zeros(P)
    wanted = limits.restrict(np.linspace(-3.0, 3.0, P), applied, ctime).phi_hw_rad
    limits.check(blended(applied, wanted, factor), applied, ctime)


def snapshot_of(applied: np.ndarray, readback: np.ndarray | None = None) -> Snapshot:
    return Snapshot.of(reading_of(applied, 0, applied if readback is None else readback))


def restored(then: np.ndarray, back: np.ndarray, applied: np.ndarray | None = None) -> str:
    """How the ladder of a snapshot at 0, read back as `then`, ends where it is read back as `back`."""
    config = FallbackConfig(first=Rung.RESTORE, restore_cycles=1)
    ladder = Ladder(
        snapshot_of(np.zeros(then.size), then),
        PhaseLimits(),
        np.linspace(275.0, 805.0, then.size),
        config,
    )
    reading = reading_of(np.zeros(then.size) if applied is None else applied, 0, back)
    ladder.next(reading, trouble="x", shown=np.ones(then.size, dtype=np.bool_))
    return ladder.ended


def test_the_noise_of_a_readback_does_not_hide_that_the_snapshot_is_restored() -> None:
    """30 points, 0.05 degrees in both readings, on a slope that lags by 0.2: one cycle verifies it."""
    random = np.random.default_rng(5)
    lag = np.radians(-0.2) * np.sin(np.linspace(0.0, 3.0, 30))
    noise = np.radians(0.05)
    ends = [
        restored(lag + noise * random.standard_normal(30), lag + noise * random.standard_normal(30))
        for _ in range(400)
    ]
    assert sum("verified by readback" in end for end in ends) >= 398


def test_a_snapshot_is_verified_by_what_was_read_back_then_or_by_itself() -> None:
    """One point that is neither, or no number, or another function applied, and it is not restored."""
    then, degree = np.radians(np.array([2.0, 0.0, -2.0])), np.radians(1.0)
    assert "verified by readback" in restored(then, then)
    assert "verified by readback" in restored(then, np.zeros(3))
    assert "verified by readback" in restored(then, then + 0.29 * degree)
    assert not restored(then, then + 0.31 * degree)
    assert not restored(then, then + np.array([0.0, degree, 0.0]))
    assert not restored(then, np.array([0.0, np.nan, 0.0]))
    assert not restored(np.full(3, np.nan), np.full(3, np.nan))
    assert "verified by readback" in restored(np.full(3, np.nan), np.zeros(3))
    assert not restored(then, then, np.full(3, 0.11 * degree))


@pytest.mark.parametrize("verified", [True, False])
def test_the_ladder_restores_the_snapshot_and_verifies_it(verified: bool) -> None:
    """Hold, then steps to the snapshot; the readback decides what is said at its end."""
    limits, ctime = PhaseLimits(), np.linspace(275.0, 805.0, P)
    ladder = Ladder(
        snapshot_of(np.zeros(P)),
        limits,
        ctime,
        FallbackConfig(hold_cycles=2, recover_cycles=1, restore_cycles=9),
    )
    applied, rungs = np.full(P, 2.0), []
    while not ladder.ended:
        rungs.append(ladder.rung)
        back = applied if verified else applied + 0.5
        function = ladder.next(reading_of(applied, 0, back), trouble="x", shown=ALL)
        if function is not None:
            limits.check(function, applied, ctime)
            applied = function
    assert rungs[:3] == [Rung.HOLD, Rung.HOLD, Rung.RESTORE]
    assert np.abs(applied).max() < 1e-9
    assert ("could not be verified" in ladder.ended) is not verified


def test_trouble_that_ends_while_holding_goes_back_to_shadow() -> None:
    """Two good cycles after one with trouble, with the default settings; one good cycle is not enough."""
    ladder = Ladder(
        snapshot_of(np.zeros(P)), PhaseLimits(), np.linspace(275.0, 805.0, P), FallbackConfig()
    )
    recovered = []
    for trouble in ("x", "", "x", "", ""):
        assert ladder.next(reading_of(np.zeros(P), 0), trouble=trouble, shown=ALL) is None
        recovered.append(ladder.recovered)
    assert recovered == [False, False, False, False, True]
    assert ladder.ended == ""


def test_settings_that_cannot_work_are_refused() -> None:
    """No cycles of agreement, no rung of no cycles."""
    with pytest.raises(ValueError, match="after_cycles must be 1"):
        EngageConfig(after_cycles=0)
    with pytest.raises(ValueError, match="1 cycle or more"):
        FallbackConfig(restore_cycles=0)
    with pytest.raises(ValueError, match="readback_rad must be between 0 and pi"):
        FallbackConfig(readback_rad=0.0)
    with pytest.raises(ValueError, match="fewer than hold_cycles"):
        FallbackConfig(hold_cycles=2)


def test_control_is_taken_and_given_back_in_a_cycle() -> None:
    """Its own transitions count, or those of cycles before; the last of them; other events do not."""

    def mode(cycle: object, to: object) -> dict[str, object]:
        return {"kind": "mode", "cycle": cycle, "to": to}

    taken, left = mode(5, "transition"), mode(5, "manual")
    assert control_in([], 5) is None
    assert control_in([taken], 5) is True
    assert control_in([taken, left], 5) is False
    assert control_in([mode(5, "shadow"), taken], 5) is True
    assert control_in([mode(5, "closed-loop"), mode(5, "fallback")], 5) is None
    assert control_in([taken], 6) is None
    assert control_in([taken], 6, late=True) is True
    assert control_in([taken], 5, late=True) is None
    assert control_in([{"kind": "begun", "mode": "shadow"}], 5, late=True) is False
    assert control_in([{"kind": "begun", "mode": "shadow"}], 5) is None
    assert control_in([mode("5", "transition"), mode(None, []), {}], 5) is None


def test_control_is_what_the_event_says_of_it() -> None:
    """An engagement by itself keeps it, and so does a fallback that recovers; a manual hour ends it."""

    def mode(to: str, control: object) -> dict[str, object]:
        return {"kind": "mode", "cycle": 5, "to": to, "control": control}

    taken, left = mode("transition", "taken"), mode("manual", "left")
    recovered, again = mode("shadow", "kept"), mode("transition", "kept")
    assert control_in([taken], 5) is True
    assert control_in([recovered], 5) is None
    assert control_in([again], 5) is None
    assert control_in([taken, recovered, again], 5) is True
    assert control_in([left, recovered], 5) is False
    assert control_in([left, mode("shadow", "left"), taken], 6, late=True) is True
    assert control_in([mode("transition", ["?"])], 5) is False


@pytest.mark.parametrize("full", [(), (13,), (19, 20)], ids=["recorded", "one lost", "two lost"])
def test_a_policy_in_trouble_now_and_then_is_led_no_further_than_one_budget(
    full: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fallback recovers by itself, and none renews the drift; the first snapshot is restored at last."""

    def runs_away(reading: Reading) -> Reading:
        backend.disturb(offset_rad=np.full(P, 0.2 * reading.cycle), v2_factor=np.ones(P))
        wrong = 2.0 if reading.cycle % 8 == 0 else 0.0
        return replace(reading, readback_rad=reading.applied_rad + wrong)

    real = os.writev

    def write(file: int, parts: Any) -> int:
        if len(view.cycles) in full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, parts)

    monkeypatch.setattr(os, "writev", write)
    view, guard = Collect(), GuardConfig(drift_rad=3.0)
    backend = Spy(alter=runs_away, limits=PhaseLimits(min_rad=-50.0, max_rad=50.0))
    runtime = closed_loop(
        backend,
        tmp_path,
        cycles=150,
        view=view,
        guard=guard,
        configuration={GUARD_KEY: asdict(guard)},
    )
    summary = runtime.run()
    engaged = [change for change in summary.changes if "(agreed)" in change]
    assert len(engaged) >= 3
    assert all("counted from cycle 1, as before" in change for change in engaged[1:])
    assert 2.5 < np.max(backend.submitted) <= 3.0 + 1e-9
    assert isinstance(summary.error, Disengaged)
    assert "handed over to the operator: the snapshot taken at engage is restored" in str(
        summary.error
    )
    np.testing.assert_allclose(view.cycles[-1].applied_rad, 0.0, atol=math.radians(0.1))
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical
        for cycle in trace.cycles[[9, 17, 40]].tolist():
            assert replay_trace(trace, from_cycle=cycle).identical


def test_a_run_engages_blends_and_replays(tmp_path: Path) -> None:
    """Two cycles agree, three functions blend in; all of it is in the trace, which replays."""
    backend, view = Spy(), Collect()
    engage = EngageConfig(after_cycles=2, blend_cycles=3)
    summary = closed_loop(backend, tmp_path, cycles=8, engage=engage, view=view).run()
    assert summary.error is None
    assert [v.mode for v in view.cycles] == [
        "shadow", *["transition"] * 3, *["closed-loop"] * 4
    ]  # fmt: skip
    np.testing.assert_array_equal(backend.submitted[0], np.zeros(P))
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        events = [event for record in trace for event in record.events]
        assert replay_trace(trace).identical
    causes = [event["cause"] for event in events if event["kind"] == "mode"]
    factors = [event["factor"] for event in events if event["kind"] == "blend"]
    assert causes == ["agreed", "blended"]
    np.testing.assert_allclose(factors, [0.0, 1.0 / 3.0, 2.0 / 3.0])
    assert len(summary.changes) == 2


def test_the_operator_takes_over_and_engages_again(tmp_path: Path) -> None:
    """From the key on nothing is written; the last function stays; engaging goes through shadow."""
    backend, view = Spy(), Collect()
    keys = iter(["", "", "m", "", "e", "", ""])
    runtime = closed_loop(backend, tmp_path, cycles=7, view=view)
    runtime.listen(lambda: next(keys))
    summary = runtime.run()
    assert summary.error is None
    assert [v.outcome == "written" for v in view.cycles] == [
        True,
        True,
        False,
        False,
        True,
        True,
        True,
    ]
    np.testing.assert_array_equal(view.cycles[3].applied_rad, backend.submitted[1])
    assert [change.split(" (")[0] for change in summary.changes][2:4] == [
        "closed-loop -> manual",
        "manual -> shadow",
    ]


@pytest.mark.parametrize("full", [False, True], ids=["recorded", "engages unrecorded"])
def test_where_the_operator_led_the_function_the_budgets_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    """Led further away than the drift allows, then engaged again, the loop goes on from there."""
    seen: list[Reading] = []
    backend = Spy(offset_rad=2.5, alter=lambda reading: seen.append(reading) or reading)
    keys, view = iter(["", "m", "by hand", "by hand", *[""] * 8, "e"]), Collect()

    def key() -> str:
        pressed, now = next(keys, ""), seen[-1]
        if pressed == "by hand":
            FakeBackend.submit(backend, now.applied_rad + 0.8, now.cycle + 1, 1.0)
        return pressed

    real = os.writev

    def write(file: int, parts: Any) -> int:
        if full and len(view.cycles) == 12:  # where it engages
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, parts)

    monkeypatch.setattr(os, "writev", write)
    guard = GuardConfig(drift_rad=1.2)
    runtime = closed_loop(
        backend,
        tmp_path,
        cycles=20,
        view=view,
        guard=guard,
        configuration={GUARD_KEY: asdict(guard)},
    )
    runtime.listen(key)
    summary = runtime.run()
    assert summary.error is None
    assert view.cycles[-1].mode == "closed-loop"
    assert view.cycles[-1].applied_rad.max() > 2.5
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical


def test_trouble_ends_with_the_snapshot_and_the_operator(tmp_path: Path) -> None:
    """A readback that stays wrong leads down the ladder: nothing is invented, the run ends as an error."""

    def lies(reading: Reading) -> Reading:
        wrong = 2.0 if reading.cycle > 4 else 0.0
        return replace(reading, readback_rad=reading.applied_rad + wrong)

    backend, view = Spy(alter=lies), Collect()
    fallback = FallbackConfig(hold_cycles=2, recover_cycles=1, restore_cycles=4)
    summary = closed_loop(backend, tmp_path, cycles=16, fallback=fallback, view=view).run()
    assert isinstance(summary.error, Disengaged)
    assert "could not be verified" in str(summary.error)
    assert {v.mode for v in view.cycles} >= {"closed-loop", "fallback", "manual"}
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        events = [event for record in trace for event in record.events]
        assert replay_trace(trace).identical
    rungs = [event["rung"] for event in events if event["kind"] == "fallback"]
    assert rungs[:3] == ["hold", "hold", "restore"]
