"""The guard's judgement on readings and on how far points go: health, likeness, readback, budgets."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from memrl_ctrl.backend import Quality, Reading
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.observation import beam_observation
from memrl_ctrl.policy.statistics import measure_statistics
from memrl_ctrl.testing.traces import reading_at
from memrl_ctrl.trace import Verdict
from memrl_deploy.guard import Excess, Guard, GuardConfig
from memrl_deploy.guard.decision import Stage

POINTS = 6
STEP_RAD = math.pi / 2.0
CTIME = np.linspace(300.0, 800.0, POINTS)
ZERO = np.zeros(POINTS)
SMALL = np.full(POINTS, 0.1)


def guard(**settings: float) -> Guard:
    return Guard(PhaseLimits(), CTIME, STEP_RAD, GuardConfig(**settings))  # type: ignore[arg-type]


def with_profile(reading: Reading, point: int, profile: np.ndarray) -> Reading:
    changed = reading.profile.copy()
    changed[point] = profile
    return replace(reading, profile=changed)


def clipped(reading: Reading) -> np.ndarray:
    return np.minimum(reading.profile[1], np.float32(0.5))


def pure_noise(reading: Reading) -> np.ndarray:
    return np.random.default_rng(5).normal(0.0, 0.02, reading.profile.shape[1]).astype(np.float32)


@pytest.mark.parametrize("make", [clipped, pure_noise, lambda r: 0.0 * r.profile[1]])
def test_a_sick_pick_up_is_not_shown_and_holds(make: object) -> None:
    """A clipped profile, pure noise and nothing at all: the point is not shown, and holds."""
    reading = reading_at(ZERO)
    reading = with_profile(reading, 1, make(reading))  # type: ignore[operator]
    subject = guard()
    np.testing.assert_array_equal(np.flatnonzero(~subject.usable(reading)), [1])
    decision = subject.decide(SMALL, reading)
    assert decision.verdicts[1, Stage.HEALTH] == Verdict.HELD
    assert decision.phi_hw_rad[1] == 0.0
    assert decision.excess is Excess.SMALL
    assert decision.write


def test_a_level_without_a_long_flat_top_is_not_clipped() -> None:
    """Many slices at the largest value, none beside another, are quantisation, not clipping."""
    reading = reading_at(ZERO)
    profile = reading.profile[1].copy()
    profile[40:90:2] = profile.max()
    assert guard(dead_score=0.1).usable(with_profile(reading, 1, profile)).all()


def test_a_profile_that_comes_again_to_the_bit_is_frozen() -> None:
    """The same bits twice hold a point, or all of them, however long; without noise they do not."""
    subject = guard()
    first = reading_at(ZERO, cycle=1)
    subject.decide(ZERO, first)
    second = with_profile(reading_at(ZERO, cycle=2), 3, first.profile[3])
    np.testing.assert_array_equal(np.flatnonzero(~subject.usable(second)), [3])
    subject.decide(ZERO, second)
    for cycle in (3, 4):
        again = replace(second, cycle=cycle)
        assert not subject.usable(again).any()
        assert subject.decide(SMALL, again).held.all()
    assert subject.usable(reading_at(ZERO, cycle=5)).all()
    silent = reading_at(ZERO, noise=0.0)
    subject.decide(ZERO, silent)
    assert subject.usable(silent).all()
    assert subject.usable(with_profile(silent, 0, 2.0 * silent.profile[0])).all()


@pytest.mark.parametrize("points", [1, POINTS])
def test_a_reading_that_comes_again_five_times_is_hard(points: int) -> None:
    """Under new cycle numbers the same reading holds its points, one of one too; the fifth time is hard."""
    subject = Guard(PhaseLimits(), CTIME[:points], STEP_RAD)
    reading = reading_at(np.zeros(points))
    assert subject.decide(SMALL[:points], reading).excess is Excess.NONE
    for cycle in range(1, 6):
        decision = subject.decide(SMALL[:points], replace(reading, cycle=cycle))
        assert (decision.verdicts[:, Stage.HEALTH] == Verdict.HELD).all()
        assert not decision.write
        assert decision.excess is (Excess.HARD if cycle == 5 else Excess.SMALL)
    assert decision.hard_stage == "health"


@pytest.mark.parametrize("missing", [math.nan, 1.0])
def test_what_stands_still_beside_a_missing_point_is_frozen(missing: float) -> None:
    """The points that can be used came again: all of them hold, as the missing one does."""
    subject, reading = guard(), reading_at(ZERO)
    profile, quality = reading.profile.copy(), reading.quality.copy()
    profile[2] *= missing
    quality[2] = Quality.STALE
    reading = replace(reading, profile=profile, quality=quality)
    assert subject.decide(SMALL, reading).held.tolist() == [point == 2 for point in range(POINTS)]
    assert subject.decide(SMALL, replace(reading, cycle=1)).held.all()


def test_an_undone_cycle_was_never_seen() -> None:
    """After undo the same reading is not compared with itself, and budgets are as before."""
    subject, other = guard(), guard()
    first, second = reading_at(ZERO, cycle=1), reading_at(SMALL, cycle=2)
    for one in (subject, other):
        one.decide(ZERO, first)
    subject.decide(SMALL, second)
    subject.undo()
    np.testing.assert_array_equal(
        subject.decide(SMALL, second).verdicts, other.decide(SMALL, second).verdicts
    )


def test_readings_unlike_the_training_hold() -> None:
    """A double bunch is not what round bunches taught; what the training held passes."""
    seen = [reading_at(np.zeros(100), cycle=k) for k in range(20)]
    statistics = measure_statistics(
        np.concatenate([beam_observation(r.profile, r.synchronous_phase_rad, 64) for r in seen])
    )

    def fresh() -> Guard:
        return Guard(PhaseLimits(), CTIME, STEP_RAD, None, statistics)

    reading = reading_at(ZERO, cycle=50)
    strange = with_profile(reading, 2, reading.profile[2] + np.roll(reading.profile[2], 50))
    decision = fresh().decide(SMALL, strange)
    np.testing.assert_array_equal(np.flatnonzero(~decision.in_distribution), [2])
    assert decision.verdicts[2, Stage.DISTRIBUTION] == Verdict.HELD
    assert decision.verdicts[0, Stage.DISTRIBUTION] == Verdict.PASSED
    assert decision.phi_hw_rad[2] == 0.0
    # What the policy saw may be handed over; it is that which is judged.
    saw = beam_observation(strange.profile, strange.synchronous_phase_rad, 64)
    again = fresh().decide(SMALL, strange, None, saw)
    np.testing.assert_array_equal(again.in_distribution, decision.in_distribution)
    assert fresh().decide(SMALL, strange, None, np.roll(saw, 1, axis=0)).in_distribution[2]


def test_a_machine_that_does_not_follow_holds_and_in_the_end_is_hard() -> None:
    """A readback 20 degrees off holds its point; five cycles in a row end it, 90 degrees at once."""
    subject = guard()
    off = ZERO.copy()
    off[4] = math.radians(20.0)
    for cycle in range(5):
        decision = subject.decide(SMALL, replace(reading_at(ZERO, cycle=cycle), readback_rad=off))
        assert decision.verdicts[4, Stage.READBACK] == Verdict.HELD
        assert decision.excess is (Excess.HARD if cycle == 4 else Excess.SMALL)
    assert decision.hard_stage == "readback"
    assert "5 cycles in a row" in decision.reason
    assert not decision.write
    far = replace(reading_at(ZERO), readback_rad=np.full(POINTS, 2.0))
    decision = guard().decide(SMALL, far)
    assert decision.excess is Excess.HARD
    assert "114.6 degrees" in decision.reason


def test_an_unknown_readback_is_not_judged() -> None:
    """A machine without readback works; the stage says that it was not run."""
    decision = guard().decide(
        SMALL, replace(reading_at(ZERO), readback_rad=np.full(POINTS, np.nan))
    )
    assert (decision.verdicts[:, Stage.READBACK] == Verdict.NOT_RUN).all()
    assert decision.excess is Excess.NONE


def test_an_infinite_readback_is_a_far_one() -> None:
    """It is known, and wrong: its point holds and the agent falls back."""
    far = ZERO.copy()
    far[4] = math.inf
    decision = guard().decide(SMALL, replace(reading_at(ZERO), readback_rad=far))
    assert decision.verdicts[4, Stage.READBACK] == Verdict.HELD
    assert decision.excess is Excess.HARD
    assert decision.hard_stage == "readback"


def test_travel_over_a_window_is_limited_forth_and_back() -> None:
    """To and fro adds up: three changes of 0.4 rad with 1 rad allowed leave 0.2 for the third."""
    subject = guard(rate_travel_rad=1.0, rate_cycles=3)
    place, sign = ZERO, 1.0
    for cycle, expected in enumerate((0.4, 0.0, 0.2)):
        decision = subject.decide(np.full(POINTS, 0.4 * sign), reading_at(place, cycle=cycle))
        place, sign = decision.phi_hw_rad, -sign
        np.testing.assert_allclose(place, expected, atol=1e-12)
    assert (decision.verdicts[:, Stage.RATE] == Verdict.ALTERED).all()
    assert decision.excess is Excess.SMALL
    for cycle in range(3, 6):
        place = subject.decide(ZERO, reading_at(place, cycle=cycle)).phi_hw_rad
    last = subject.decide(np.full(POINTS, 0.4), reading_at(place, cycle=6))
    np.testing.assert_allclose(last.phi_hw_rad - place, 0.4)


def test_a_change_counts_for_the_window_and_no_longer() -> None:
    """Of three changes the first leaves nothing for the next two; the fourth is free again."""
    subject = guard(rate_travel_rad=1.0, rate_cycles=3)
    place, wish = ZERO, np.full(POINTS, 1.0)
    for cycle, expected in enumerate((1.0, 1.0, 1.0, 2.0)):
        place = subject.decide(wish, reading_at(place, cycle=cycle)).phi_hw_rad
        np.testing.assert_allclose(place, expected)


def test_drift_ends_at_its_budget_until_engaged_anew() -> None:
    """No point goes further from where it was engaged; a new engagement begins anew."""
    subject = guard(drift_rad=0.25)
    place = ZERO
    for cycle, expected in enumerate((0.1, 0.2, 0.25)):
        decision = subject.decide(SMALL, reading_at(place, cycle=cycle))
        place = decision.phi_hw_rad
        np.testing.assert_allclose(place, expected)
    assert (decision.verdicts[:, Stage.DRIFT] == Verdict.ALTERED).all()
    subject.note_control(taken=True, applied_rad=place)
    anew = subject.decide(SMALL, reading_at(place, cycle=3))
    np.testing.assert_allclose(anew.phi_hw_rad, 0.35)


def test_who_has_no_control_has_no_budget() -> None:
    """What an operator does with the function counts for nothing; from the engagement on it is counted."""
    subject, place = guard(drift_rad=0.25, rate_travel_rad=0.3), ZERO
    subject.note_control(taken=False)
    for cycle in range(8):
        assert subject.decide(SMALL, reading_at(place, cycle=cycle)).excess is Excess.NONE
        subject.note_control(taken=None, applied_rad=place)
        place = place + 0.2
    for told in (True, False):
        start = place
        subject.note_control(taken=True, applied_rad=start if told else None)
        for cycle, expected in enumerate((0.1, 0.2, 0.25), 8 if told else 11):
            decision = subject.decide(SMALL, reading_at(place, cycle=cycle))
            place = decision.phi_hw_rad
            np.testing.assert_allclose(place, start + expected)
        assert (decision.verdicts[:, Stage.DRIFT] == Verdict.ALTERED).all()


def test_answers_that_are_none_or_too_large_are_hard() -> None:
    """No number five times in a row is hard; more than the policy can ask for is so at once."""
    subject, delta = guard(), SMALL.copy()
    delta[2] = math.nan
    told = [subject.decide(delta, reading_at(ZERO, cycle=k)).excess for k in range(5)]
    assert told == [Excess.SMALL] * 4 + [Excess.HARD]
    delta[2] = 1.5 * STEP_RAD
    decision = guard().decide(delta, reading_at(ZERO))
    assert (decision.excess, decision.hard_stage) == (Excess.HARD, "action")
    assert "point 2 for 1.5 times" in decision.reason
    assert decision.verdicts[2, Stage.ACTION] == Verdict.PASSED


def test_a_refused_function_is_hard() -> None:
    """What is applied beyond the limits is hard, with the stage's name."""
    decision = guard().decide(SMALL, reading_at(np.full(POINTS, 100.0)))
    assert (decision.excess, decision.hard_stage) == (Excess.HARD, "applied")


def test_most_pick_ups_sick_for_cycles_are_hard() -> None:
    """Half of the pick-ups dead, five cycles in a row, is no reading any more."""
    subject = guard()
    for cycle in range(5):
        reading = reading_at(ZERO, cycle=cycle)
        for point in range(3):
            reading = with_profile(reading, point, pure_noise(reading))
        decision = subject.decide(SMALL, reading)
    assert (decision.excess, decision.hard_stage) == (Excess.HARD, "health")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rate_travel_rad": 0.0}, "rate_travel_rad must be a positive number, not 0"),
        ({"drift_rad": math.nan}, "drift_rad must be a positive number, not nan"),
        ({"wide_share": 1.5}, "wide_share is a share, at most 1"),
        ({"readback_hard_rad": 0.1}, "must not be below readback_rad"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(settings: dict[str, float], says: str) -> None:
    """The sentence names the field and what is allowed."""
    with pytest.raises(ValueError, match=says):
        guard(**settings)


def test_a_clean_cycle_begins_the_row_anew() -> None:
    """Four bad cycles, a good one and four bad ones are no five in a row."""
    subject, bad = guard(), SMALL.copy()
    bad[2] = math.nan
    for cycle in range(9):
        delta = ZERO if cycle == 4 else bad
        decision = subject.decide(delta, reading_at(ZERO, cycle=cycle))
        assert decision.excess is (Excess.NONE if cycle == 4 else Excess.SMALL)


def test_one_readback_far_away_is_named() -> None:
    """One point far off is enough, and it is that point that is named, unknown ones or not."""
    off = np.array([math.nan, 0.0, 0.1, 0.0, math.radians(100.0), 0.2])
    decision = guard().decide(SMALL, replace(reading_at(ZERO), readback_rad=off))
    assert (decision.excess, decision.hard_stage) == (Excess.HARD, "readback")
    assert "point 4 is 100.0 degrees" in decision.reason
