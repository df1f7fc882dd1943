"""The guard at its edges: both directions of every bound, and points that are not asked."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.testing.traces import reading_at
from memrl_ctrl.trace import Verdict
from memrl_deploy.guard import Excess, Guard, GuardConfig, Outlook
from memrl_deploy.guard.decision import Stage
from memrl_deploy.guard.outlook import CELL_RAD, PHASES

POINTS = 6
STEP_RAD = math.pi / 2.0
CTIME = np.linspace(300.0, 800.0, POINTS)
ZERO = np.zeros(POINTS)
ALL = np.ones(POINTS, dtype=np.bool_)
WIDE = PhaseLimits(step_rad=10.0, slope_rad_per_ms=10.0, min_rad=-50.0, max_rad=50.0)
UP_AND_DOWN = pytest.mark.parametrize("sign", [1.0, -1.0], ids=["up", "down"])


def guard(limits: PhaseLimits = WIDE, step_rad: float = STEP_RAD, **settings: float) -> Guard:
    return Guard(limits, CTIME, step_rad, GuardConfig(**settings))  # type: ignore[arg-type]


def only(*points: int) -> np.ndarray:
    return np.isin(np.arange(POINTS), points)


def test_excess_has_three_degrees() -> None:
    """None, small, hard: three, in this order."""
    assert [one.name for one in sorted(Excess)] == ["NONE", "SMALL", "HARD"]


def test_thresholds_at_the_end_of_what_is_allowed_are_taken() -> None:
    """Half a step, whole shares, and two thresholds that are one."""
    whole = {"saturated_share": 1.0, "wide_share": 1.0, "lookahead_passing_loss": 1.0}
    config = GuardConfig(coherence_fraction=0.5, **whole)  # type: ignore[arg-type]
    replace(config, lookahead_loss=1.0, readback_hard_rad=config.readback_rad)


def test_what_was_asked_for_is_kept_as_it_was_asked() -> None:
    """The proposal is what is applied and the answer, also where the function is cut."""
    applied, delta = np.full(POINTS, 0.5), np.linspace(0.1, 0.4, POINTS)
    decision = guard(replace(WIDE, step_rad=0.2)).decide(delta, reading_at(applied), ALL)
    np.testing.assert_array_equal(decision.proposed_rad, applied + delta)


def test_what_a_point_answers_that_was_not_shown_does_not_count() -> None:
    """Neither a sick pick-up's, nor one that is too large for the policy's own small step."""
    reading = reading_at(ZERO)
    profile = reading.profile.copy()
    profile[1] = 0.0
    delta = np.where(only(1), 10.0, 0.1)
    assert guard().decide(delta, replace(reading, profile=profile)).excess is Excess.SMALL
    decision = guard(step_rad=0.5).decide(np.where(only(2), 10.0, 0.1), reading, ~only(2))
    assert decision.excess is Excess.NONE


def test_fewer_than_half_of_the_pick_ups_may_be_sick_for_ever() -> None:
    """Two of six hold, cycle after cycle, and the agent goes on."""
    subject = guard()
    for cycle in range(7):
        reading = reading_at(ZERO, cycle=cycle)
        profile = reading.profile.copy()
        profile[:2] = 0.0
        assert subject.decide(ZERO, replace(reading, profile=profile)).excess is Excess.SMALL


def test_every_reading_is_looked_at_anew() -> None:
    """What was found in one reading says nothing of the next."""
    subject, well = guard(), reading_at(ZERO)
    profile = well.profile.copy()
    profile[1] = 0.0
    assert subject.usable(well).all()
    np.testing.assert_array_equal(subject.usable(replace(well, profile=profile)), ~only(1))
    assert subject.usable(well).all()


def test_infinite_slices_hold_their_point_and_disturb_nothing() -> None:
    """No arithmetic is done with them: a warning would be an error here."""
    reading = reading_at(ZERO)
    profile = reading.profile.copy()
    profile[1, 3:6] = np.inf
    decision = guard().decide(np.full(POINTS, 0.1), replace(reading, profile=profile))
    np.testing.assert_array_equal(decision.held, only(1))


def test_points_between_held_ones_go_where_they_want() -> None:
    """A held point has no goal that its neighbours had to fit to."""
    delta = np.where(only(0, 2, 4), STEP_RAD, math.nan)
    decision = guard().decide(delta, reading_at(ZERO), ALL)
    np.testing.assert_array_equal(decision.phi_hw_rad, np.nan_to_num(delta))


def test_two_points_are_enough_to_go_together() -> None:
    """Held points aside, two are left that want to part: one of them is turned."""
    delta = np.where(only(1), STEP_RAD, np.where(only(4), -STEP_RAD, math.nan))
    decision = guard().decide(delta, reading_at(ZERO), ALL)
    turned = decision.verdicts[:, Stage.COHERENCE] == Verdict.ALTERED
    assert turned.sum() == 1
    assert decision.phi_hw_rad[1] == decision.phi_hw_rad[4]


@UP_AND_DOWN
def test_small_steps_that_would_make_it_too_steep_are_looked_at_together(sign: float) -> None:
    """Two groups a turn apart, between which the slope is used up: one of them is to go round."""
    limits = replace(WIDE, slope_rad_per_ms=0.06)
    applied = sign * np.array([0.0, 0.0, 0.0, 6.0, 6.0, 6.0])
    for last, steep in ((0.28, True), (-0.1, False)):
        delta = sign * np.array([0.0, 0.0, 0.0, last, last, last])
        decision = guard(limits).decide(delta, reading_at(applied), ALL)
        assert bool((decision.verdicts[:, Stage.COHERENCE] == Verdict.ALTERED).any()) is steep


@UP_AND_DOWN
def test_wishes_beyond_the_range_are_looked_at_together(sign: float) -> None:
    """Beyond it by more than a little, two groups a turn apart are; by a little, they are left alone."""
    low, high = (-1.0, 6.3) if sign > 0 else (-6.3, 1.0)
    applied = sign * np.array([0.0, 0.0, 0.0, 6.25, 6.25, 6.25])
    for last, beyond in ((0.15, True), (0.07, False), (0.03, False)):
        delta = sign * np.array([0.0, 0.0, 0.0, last, last, last])
        subject = guard(replace(WIDE, min_rad=low, max_rad=high))
        decision = subject.decide(delta, reading_at(applied), ALL)
        altered = decision.verdicts[:, Stage.COHERENCE] == Verdict.ALTERED
        np.testing.assert_array_equal(altered, only(3, 4, 5) & beyond)


@UP_AND_DOWN
def test_a_fit_that_is_not_true_any_more_cuts_no_single_point_either(sign: float) -> None:
    """Up and down: a single point is cut by a table that is true, and is not by one that is not."""
    share = np.ones((POINTS, PHASES))
    share[2, np.arange(10, 20) if sign > 0 else np.arange(52, 62)] = 0.5
    for asymmetry, place in ((0.0, 9.0 if sign > 0 else 10.0), (1.0, 12.0)):
        subject = guard()
        subject.note_outlook(Outlook.made(0, share, np.full((POINTS, PHASES), asymmetry)))
        decision = subject.decide(np.full(POINTS, sign * 12.0 * CELL_RAD), reading_at(ZERO))
        reached = np.where(only(2), place, 12.0)
        np.testing.assert_allclose(sign * decision.phi_hw_rad / CELL_RAD, reached)


@UP_AND_DOWN
def test_budgets_hold_in_both_directions(sign: float) -> None:
    """Drift and travel end at their budgets; a point that wants nothing then is not cut."""
    for settings, stage in (
        ({"drift_rad": 0.25}, Stage.DRIFT),
        ({"rate_travel_rad": 0.25, "rate_cycles": 9}, Stage.RATE),
    ):
        subject, place = guard(**settings), ZERO
        for cycle, expected in enumerate((0.1, 0.2, 0.25)):
            reading = reading_at(place, cycle=cycle)
            decision = subject.decide(np.full(POINTS, sign * 0.1), reading)
            place = decision.phi_hw_rad
            np.testing.assert_allclose(place, sign * expected)
        assert (decision.verdicts[:, stage] == Verdict.ALTERED).all()
        rest = subject.decide(ZERO, reading_at(place, cycle=3))
        assert (rest.verdicts[:, stage] == Verdict.PASSED).all()
        np.testing.assert_array_equal(rest.phi_hw_rad, place)


@UP_AND_DOWN
def test_slope_step_and_value_are_cut_in_both_directions(sign: float) -> None:
    """Beside a held point, across zero, at either end of the range, and where every slope is too steep."""
    limits = replace(WIDE, slope_rad_per_ms=0.001)
    beside = guard(limits).decide(np.full(POINTS, sign * 0.5), reading_at(ZERO), ~only(0))
    np.testing.assert_allclose(beside.phi_hw_rad, sign * 0.1 * np.arange(POINTS), atol=1e-12)
    across = guard(replace(WIDE, step_rad=0.3)).decide(
        np.full(POINTS, sign * 0.5), reading_at(np.full(POINTS, -0.2 * sign)), ALL
    )
    np.testing.assert_allclose(across.phi_hw_rad, sign * 0.1)
    assert (across.verdicts[:, Stage.STEP] == Verdict.ALTERED).all()
    narrow = guard(replace(WIDE, min_rad=-0.25, max_rad=0.25))
    value = narrow.decide(np.full(POINTS, sign * 0.4), reading_at(ZERO), ALL)
    np.testing.assert_allclose(value.phi_hw_rad, sign * 0.25)
    zigzag = sign * 0.2 * (-1.0) ** np.arange(POINTS)
    steep = guard(limits).decide(zigzag, reading_at(ZERO), ALL)
    assert not steep.refused
    limits.check(steep.phi_hw_rad, ZERO, CTIME)


def test_a_held_point_says_nothing_of_the_slope_of_others() -> None:
    """Where nothing is too steep no slope is marked, held point or not."""
    decision = guard().decide(np.full(POINTS, 0.2), reading_at(ZERO + 0.3), ~only(3))
    np.testing.assert_array_equal(
        decision.verdicts[:, Stage.SLOPE], np.where(only(3), Verdict.NOT_RUN, Verdict.PASSED)
    )
    far = guard(replace(WIDE, step_rad=0.1)).decide(
        np.full(POINTS, 0.2), reading_at(ZERO + 0.3), ALL
    )
    assert (far.verdicts[:, Stage.SLOPE] == Verdict.PASSED).all()
