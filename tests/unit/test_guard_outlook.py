"""The guard's look-ahead: where the beam would be lost, by a table that came from a fit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.backend import Reading
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.metrics import measure
from memrl_ctrl.testing.traces import reading_at
from memrl_ctrl.trace import Verdict
from memrl_deploy.guard import Decision, Excess, Guard, GuardConfig, Outlook
from memrl_deploy.guard.decision import Stage
from memrl_deploy.guard.outlook import CELL_RAD, PHASES

POINTS = 4
STEP_RAD = math.pi / 2.0
CTIME = np.linspace(300.0, 800.0, POINTS)
ZERO = np.zeros(POINTS)
WIDE = PhaseLimits(step_rad=2.0, slope_rad_per_ms=10.0)


def outlook(*held: tuple[int, int, float], points: int = POINTS, cycle: int = 0) -> Outlook:
    """An outlook of a bunch that is lost at nothing but (first phase, last phase, share held)."""
    share = np.ones((points, PHASES))
    for first, last, kept in held:
        share[:, np.arange(first, last + 1) % PHASES] = kept
    return Outlook.made(cycle, share, np.zeros((points, PHASES)))


def nearest(
    table: Outlook, target: float, applied: float, stays: float = 0.2, passes: float = 0.5
) -> float:
    """Where one point comes, in phases of the table."""
    ahead = table.nearest(
        np.array([target * CELL_RAD]), np.array([applied * CELL_RAD]), stays=stays, passes=passes
    )
    return float(ahead[0] / CELL_RAD)


def test_a_table_comes_back_from_its_event_to_the_bit() -> None:
    """What a trace keeps gives the same shares and asymmetries; unknown ones stay unknown."""
    rng = np.random.default_rng(3)
    asymmetry = rng.uniform(-2.0, 2.0, (POINTS, PHASES))
    asymmetry[1, 5] = np.nan
    held = rng.uniform(-0.1, 1.1, (POINTS, PHASES))
    held[2, 7] = np.nan
    one = Outlook.made(41, held, asymmetry)
    again = Outlook.of(one.event(), POINTS)
    assert again is not None
    assert again.cycle == 41
    np.testing.assert_array_equal(again.held, one.held)
    np.testing.assert_array_equal(again.asymmetry, one.asymmetry)
    np.testing.assert_allclose(
        one.held / 250.0, np.clip(np.nan_to_num(held), 0.0, 1.0), atol=0.5 / 250.0 + 1e-12
    )
    assert one.asymmetry[1, 5] == -128
    kept = np.delete(one.asymmetry.ravel(), PHASES + 5) / 80.0
    told = np.clip(np.delete(asymmetry.ravel(), PHASES + 5), -127.0 / 80.0, 127.0 / 80.0)
    np.testing.assert_allclose(kept, told, atol=0.5 / 80.0 + 1e-12)


def test_an_event_of_a_fit_that_was_no_use_has_no_table() -> None:
    """It tells that there was one, and nothing to look ahead by."""
    assert Outlook.of({"kind": "outlook", "cycle": 3, "verdict": "poor"}, POINTS) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "mode"}, "no outlook of a cycle"),
        ({"cycle": "3"}, "no outlook of a cycle"),
        ({"table": "no base64!"}, "outlook of cycle 3 is damaged"),
        ({"table": "AAAA"}, "outlook of cycle 3 is damaged"),
        (
            {"table": outlook().event()["table"].replace("A", "!A", 1)},
            "outlook of cycle 3 is damaged",
        ),
        ({"table": outlook(points=5).event()["table"]}, "outlook of cycle 3 is not of 4 points"),
        ({"table": outlook(points=3).event()["table"]}, "outlook of cycle 3 is not of 4 points"),
    ],
)
def test_a_damaged_event_is_refused_in_words(change: dict[str, Any], says: str) -> None:
    """The sentence names the cycle and what is wrong."""
    with pytest.raises(ValueError, match=says):
        Outlook.of({"kind": "outlook", "cycle": 3, "table": ""} | change, POINTS)


@pytest.mark.parametrize("turn", [-2, 0, 1])
def test_a_step_into_a_loss_ends_where_the_beam_is_still_held(turn: int) -> None:
    """Up and down, on every turn of phi_hw; what stays outside is not touched."""
    table = outlook((20, 30, 0.7), points=1)
    at = 72.0 * turn
    for target, applied, reached in (
        (25.3, 12.0, 19.0),
        (20.0, 12.0, 19.0),
        (19.5, 12.0, 19.0),
        (19.0, 12.0, 19.0),
        (18.7, 12.0, 18.7),
        (25.3, 40.5, 31.0),
        (30.5, 40.5, 31.0),
        (31.2, 40.5, 31.2),
        (25.0, 19.0, 19.0),
        (25.0, 31.0, 31.0),
        (21.0, 19.5, 19.5),
        (31.0, 15.0, 31.0),
        (19.0, 35.0, 19.0),
        (30.9, 15.0, 19.0),
        (31.0, 31.0, 31.0),
        (12.0, 12.0, 12.0),
    ):
        assert nearest(table, at + target, at + applied) == pytest.approx(at + reached, abs=1e-9)


def test_one_phase_that_loses_beam_closes_both_sides_of_it() -> None:
    """Between two phases of the table the larger loss counts, next to where the point is and far from it."""
    table = outlook((19, 19, 0.7), points=1)
    for target, applied, reached in (
        (19.5, 18.5, 18.5),
        (20.0, 18.5, 20.0),
        (18.5, 19.5, 19.5),
        (18.0, 19.5, 18.0),
        (19.5, 12.0, 18.0),
        (18.5, 12.0, 18.0),
        (18.5, 26.0, 20.0),
        (20.5, 12.0, 20.5),
    ):
        assert nearest(table, target, applied) == pytest.approx(reached, abs=1e-9)


def test_the_table_spans_one_turn() -> None:
    """72 phases of 5 degrees: a loss from 170 to 190 degrees is there, and again a turn further."""
    share = np.ones((2, PHASES))
    share[:, 34:39] = 0.7
    table = Outlook.made(0, share, np.zeros((2, PHASES)))
    applied = np.radians([140.0, 140.0 + 360.0])
    ahead = table.nearest(applied + np.radians(40.0), applied, stays=0.2, passes=0.5)
    np.testing.assert_allclose(np.degrees(ahead), [165.0, 525.0])


def test_a_narrow_loss_may_be_jumped_and_a_deep_one_may_not() -> None:
    """No shot is played between two steps; but most of the bunch must not be at stake on the way back."""
    assert nearest(outlook((20, 24, 0.7), points=1), 28.0, 16.0) == 28.0
    assert nearest(outlook((20, 24, 0.4), points=1), 28.0, 16.0) == pytest.approx(19.0)
    assert nearest(outlook((20, 24, 0.4), points=1), 16.0, 28.0) == pytest.approx(25.0)
    assert nearest(outlook((20, 24, 0.7), (26, 26, 0.4), points=1), 28.0, 16.0) == pytest.approx(
        25.0
    )


def test_what_is_allowed_is_beyond_the_least_loss_of_the_point() -> None:
    """A bunch that no phase holds whole is judged by what the best phase holds."""
    low = outlook((0, 71, 0.7), (20, 24, 0.55), (40, 44, 0.4), points=1)
    assert nearest(low, 22.0, 12.0) == 22.0
    assert nearest(low, 42.0, 32.0) == pytest.approx(39.0)
    assert nearest(low, 42.0, 32.0, stays=0.3) == 42.0


def test_out_of_a_loss_every_step_leads_that_loses_no_more() -> None:
    """A point that loses beam already may go on, and out, but not deeper."""
    slope = outlook((20, 22, 0.7), (23, 25, 0.6), (26, 28, 0.3), points=1)
    assert nearest(slope, 15.0, 23.5) == pytest.approx(15.0)
    assert nearest(slope, 25.0, 23.5) == pytest.approx(25.0)
    assert nearest(slope, 27.0, 23.5) == pytest.approx(25.0)
    assert nearest(slope, 23.4, 21.4) == pytest.approx(22.0)
    assert nearest(slope, 31.0, 27.5) == pytest.approx(31.0)


def test_a_step_from_the_edge_of_a_loss_does_not_creep_into_it() -> None:
    """Between a phase that holds and one that does not, the better one counts as what is lost now."""
    place, table = 18.0, outlook((20, 30, 0.7), points=1)
    for _ in range(5):
        place = nearest(table, place + 3.0, place)
    assert place == pytest.approx(19.0)


def guarded(table: Outlook | None, **settings: float) -> Guard:
    subject = Guard(WIDE, CTIME, STEP_RAD, GuardConfig(**settings))  # type: ignore[arg-type]
    if table is not None:
        subject.note_outlook(table)
    return subject


def seen(applied: np.ndarray, cycle: int = 0) -> Reading:
    return reading_at(applied, cycle=cycle)


def told(decision: Decision) -> np.ndarray:
    return np.asarray(decision.verdicts[:, Stage.LOOK_AHEAD])


def test_a_step_that_would_lose_the_beam_is_cut() -> None:
    """The point goes as far as it may and the stage says so; the others go where they want."""
    share = np.ones((POINTS, PHASES))
    share[2, 10:20] = 0.5
    subject = guarded(Outlook.made(0, share, np.zeros((POINTS, PHASES))))
    decision = subject.decide(np.full(POINTS, 12.0 * CELL_RAD), seen(ZERO))
    np.testing.assert_allclose(decision.phi_hw_rad / CELL_RAD, [12.0, 12.0, 9.0, 12.0])
    np.testing.assert_array_equal(told(decision), [0, 0, Verdict.ALTERED, 0])
    assert decision.excess is Excess.SMALL
    assert decision.write


def test_harmless_steps_pass_as_they_are() -> None:
    """With a table that objects to nothing the function is the same to the bit."""
    delta = np.linspace(-1.0, 1.0, POINTS)
    free, bare = guarded(outlook((60, 62, 0.7))), guarded(None)
    decision = free.decide(delta, seen(ZERO + 3.0))
    np.testing.assert_array_equal(
        decision.phi_hw_rad, bare.decide(delta, seen(ZERO + 3.0)).phi_hw_rad
    )
    assert (told(decision) == Verdict.PASSED).all()
    assert decision.excess is Excess.NONE


def test_without_a_fit_or_with_an_old_one_the_stage_does_not_run() -> None:
    """None, one of a later cycle, one that is too old: not run, nothing cut. At the age allowed it is."""
    delta = np.full(POINTS, 12.0 * CELL_RAD)
    for table, runs in (
        (None, False),
        (outlook((10, 20, 0.5), cycle=9), False),
        (outlook((10, 20, 0.5), cycle=21), False),
        (outlook((10, 20, 0.5), cycle=10), True),
        (outlook((10, 20, 0.5), cycle=20), True),
    ):
        decision = guarded(table).decide(delta, seen(ZERO, cycle=20))
        assert bool((told(decision) == Verdict.ALTERED).all()) is runs
        assert bool((told(decision) == Verdict.NOT_RUN).all()) is not runs
        np.testing.assert_allclose(decision.phi_hw_rad / CELL_RAD, 9.0 if runs else 12.0)


def test_a_fit_that_does_not_describe_the_newest_reading_cuts_nothing() -> None:
    """Where the measured asymmetries are not those of the table, the machine has changed since."""
    reading = seen(ZERO)
    measured = measure(reading.profile).asymmetry
    share = np.ones((POINTS, PHASES))
    share[:, 10:20] = 0.5
    for off, runs in ((0.0, True), (0.09, True), (0.12, False), (-0.12, False)):
        table = Outlook.made(0, share, np.tile(measured[:, None] + off, (1, PHASES)))
        decision = guarded(table).decide(np.full(POINTS, 12.0 * CELL_RAD), reading)
        assert bool((told(decision) == Verdict.ALTERED).all()) is runs
        assert bool((told(decision) == Verdict.NOT_RUN).all()) is not runs
    wrong = np.tile(measured[:, None], (1, PHASES))
    wrong[:2] += 0.05
    wrong[3] += 1.0
    assert Outlook.made(0, share, wrong).explains(measured, ZERO, 0.1)
    assert not Outlook.made(0, share, wrong).explains(measured, ZERO, 0.01)
    nothing = np.full((POINTS, PHASES), np.nan)
    assert not Outlook.made(0, share, nothing).explains(measured, ZERO, 0.1)
    assert not Outlook.made(0, share, wrong).explains(np.full(POINTS, np.nan), ZERO, 0.1)
    some = np.tile(measured[:, None], (1, PHASES))
    some[:3] = np.nan
    assert Outlook.made(0, share, some).explains(measured, ZERO, 0.1)
    right = np.tile(measured[:, None], (1, PHASES))
    blind = np.where(np.arange(POINTS) < 3, np.nan, measured)
    assert Outlook.made(0, share, right).explains(blind, ZERO, 0.1)


def test_the_asymmetry_of_the_nearest_phase_counts() -> None:
    """Compared is the entry at what is applied, on whichever turn that is."""
    asymmetry = np.zeros((1, PHASES))
    asymmetry[0, 5] = 1.0
    table = Outlook.made(0, np.ones((1, PHASES)), asymmetry)
    for place, one in ((4.6, True), (5.4, True), (77.4, True), (5.6, False), (4.4, False)):
        at = np.array([place * CELL_RAD])
        assert table.explains(np.ones(1), at, 0.1) is one
        assert table.explains(np.zeros(1), at, 0.1) is not one


def test_a_neighbour_that_is_bent_into_a_loss_stays() -> None:
    """Where the slope takes a point to a phase that loses beam, it holds, and the others come to it."""
    limits = PhaseLimits(step_rad=2.0, slope_rad_per_ms=4.0 * CELL_RAD / 166.0)
    share = np.ones((POINTS, PHASES))
    share[1, 4:7] = 0.5  # wants 8 and may jump, but the slope from point 0 leaves it at 4
    table = Outlook.made(0, share, np.zeros((POINTS, PHASES)))
    subject = Guard(limits, CTIME, STEP_RAD, GuardConfig())
    subject.note_outlook(table)
    delta = CELL_RAD * np.array([0.0, 8.0, 8.0, 8.0])
    decision = subject.decide(delta, seen(ZERO))
    limits.check(decision.phi_hw_rad, ZERO, CTIME)
    assert told(decision)[1] == Verdict.ALTERED
    moved = decision.phi_hw_rad / CELL_RAD
    again = table.nearest(decision.phi_hw_rad, ZERO, stays=0.2, passes=0.5)
    np.testing.assert_array_equal(again, decision.phi_hw_rad)
    assert moved[1] < 3.0 + 1e-9
    assert moved[3] > 3.0


def test_where_nothing_helps_nothing_moves() -> None:
    """Point 0 is cut, bends 1 into a loss; that 1 stays bends 2 into one: the whole function stays."""
    limits = PhaseLimits(step_rad=2.0, slope_rad_per_ms=4.0 * CELL_RAD / 166.0)
    share = np.ones((POINTS, PHASES))
    share[0, 3:40], share[1, 5:8], share[2, 3:6] = 0.3, 0.7, 0.7
    table = Outlook.made(0, share, np.zeros((POINTS, PHASES)))
    delta = CELL_RAD * np.array([12.0, 8.0, 8.0, 8.0])
    subject = Guard(limits, CTIME, STEP_RAD, GuardConfig())
    subject.note_outlook(table)
    decision = subject.decide(delta, seen(ZERO))
    np.testing.assert_array_equal(decision.phi_hw_rad, ZERO)
    assert (told(decision) == Verdict.ALTERED).all()
    share[2] = 1.0
    subject.undo()
    subject.note_outlook(Outlook.made(0, share, np.zeros((POINTS, PHASES))))
    decision = subject.decide(delta, seen(ZERO))
    np.testing.assert_allclose(decision.phi_hw_rad / CELL_RAD, [2.0, 0.0, 4.0, 8.0], atol=0.1)
    np.testing.assert_array_equal(told(decision), [1, 1, 0, 0])


def test_unrelated_rows_are_cut_each_for_itself() -> None:
    """Without a ctime axis no slope bends anything: the one goes as far as it may, the others all the way."""
    share = np.ones((POINTS, PHASES))
    share[1, 5:] = 0.3
    subject = Guard(WIDE, None, STEP_RAD, GuardConfig())
    subject.note_outlook(Outlook.made(0, share, np.zeros((POINTS, PHASES))))
    decision = subject.decide(np.full(POINTS, 8.0 * CELL_RAD), seen(ZERO))
    np.testing.assert_allclose(decision.phi_hw_rad / CELL_RAD, [8.0, 4.0, 8.0, 8.0])


def test_five_steps_in_a_row_into_a_loss_are_hard() -> None:
    """A policy that insists is not followed any more; the reason says why."""
    subject = guarded(outlook((10, 40, 0.5)))
    place, excess = ZERO, []
    for cycle in range(5):
        decision = subject.decide(np.full(POINTS, 12.0 * CELL_RAD), seen(place, cycle))
        excess.append(decision.excess)
        place = decision.phi_hw_rad
    assert excess == [Excess.SMALL] * 4 + [Excess.HARD]
    assert decision.hard_stage == "look-ahead"
    assert "phases at which the beam would be lost, 5 cycles in a row" in decision.reason
    np.testing.assert_allclose(place / CELL_RAD, 9.0)


def test_a_held_point_is_not_asked() -> None:
    """Without a reading the point holds, whatever the table says of where it is."""
    subject = guarded(outlook((70, 75, 0.1)))
    shown = np.array([False, True, True, True])
    decision = subject.decide(np.full(POINTS, 0.5), seen(ZERO), shown)
    assert told(decision)[0] == Verdict.NOT_RUN
    assert decision.phi_hw_rad[0] == 0.0


def test_an_undone_cycle_keeps_the_table_that_came_before_it() -> None:
    """The event that brought it stands in the next record, and the guard still goes by it."""
    subject = guarded(outlook((10, 20, 0.5)))
    delta = np.full(POINTS, 12.0 * CELL_RAD)
    first = subject.decide(delta, seen(ZERO))
    subject.undo()
    np.testing.assert_array_equal(subject.decide(delta, seen(ZERO)).verdicts, first.verdicts)


def test_thresholds_of_the_look_ahead_fit_together() -> None:
    """What may be passed is not below what may be stayed at."""
    with pytest.raises(ValueError, match=r"lookahead_passing_loss 0.1 must not be below"):
        GuardConfig(lookahead_passing_loss=0.1)
    with pytest.raises(ValueError, match=r"lookahead_loss is a share"):
        replace(GuardConfig(), lookahead_loss=1.5, lookahead_passing_loss=1.0)
