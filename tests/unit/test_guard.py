"""The guard: every stage, what it says, and what it lets through."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from memrl_ctrl.backend import Quality
from memrl_ctrl.errors import MismatchError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.testing.traces import reading_at
from memrl_ctrl.trace import Verdict
from memrl_deploy.guard import STAGES, Guard, GuardConfig, usable_points
from memrl_deploy.guard.coherence import _data, coherent
from memrl_deploy.guard.decision import Stage

POINTS = 6
STEP_RAD = math.pi / 2.0
CTIME = np.linspace(300.0, 800.0, POINTS)
LIMITS = PhaseLimits(step_rad=STEP_RAD)
ALL = np.ones(POINTS, dtype=np.bool_)
ZERO = np.zeros(POINTS)


def guard(limits: PhaseLimits = LIMITS, fraction: float = 0.8) -> Guard:
    return Guard(limits, CTIME, STEP_RAD, GuardConfig(coherence_fraction=fraction))


def test_what_keeps_the_limits_goes_through_unchanged() -> None:
    """A small, smooth change passes every stage as it is."""
    delta = np.linspace(0.0, 0.3, POINTS)
    decision = guard().decide(delta, reading_at(ZERO), ALL)
    np.testing.assert_array_equal(decision.phi_hw_rad, delta)
    # Without statistics of the training, and without a fit of the beam, two stages do not run.
    told = np.delete(decision.verdicts, [Stage.DISTRIBUTION, Stage.LOOK_AHEAD], axis=1)
    assert (told == Verdict.PASSED).all()
    assert decision.write
    assert not decision.altered.any()


def test_a_point_without_a_reading_holds_exactly() -> None:
    """An unusable point stays where it is, to the bit, whatever its neighbours do."""
    applied = np.linspace(0.1, 0.2, POINTS)
    usable = ALL.copy()
    usable[2] = False
    decision = guard().decide(np.full(POINTS, 0.7), reading_at(applied), usable)
    assert decision.phi_hw_rad[2] == applied[2]
    assert decision.proposed_rad[2] == applied[2]
    assert decision.verdicts[2, Stage.FINITE_FRESH] == Verdict.HELD
    assert (decision.verdicts[2, Stage.COHERENCE :] == Verdict.NOT_RUN).all()
    np.testing.assert_allclose(np.delete(decision.phi_hw_rad - applied, 2), 0.7)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_holds(bad: float) -> None:
    """NaN or infinity from the policy holds its point; it is never written."""
    delta = np.full(POINTS, 0.2)
    delta[4] = bad
    decision = guard().decide(delta, reading_at(ZERO), ALL)
    assert decision.phi_hw_rad[4] == 0.0
    assert decision.verdicts[4, Stage.ACTION] == Verdict.HELD
    assert decision.write


def test_nothing_to_write_where_every_point_holds() -> None:
    """If no point has a reading or an answer, nothing is to be written."""
    assert not guard().decide(np.full(POINTS, math.nan), reading_at(ZERO), ALL).write
    assert not guard().decide(ZERO, reading_at(ZERO), ~ALL).write


@pytest.mark.parametrize("applied", [math.nan, 100.0])
def test_a_function_that_breaks_the_limits_is_refused(applied: float) -> None:
    """If what is applied is not finite or outside the limits, the whole cycle is refused."""
    now = ZERO.copy()
    now[3] = applied
    decision = guard().decide(np.full(POINTS, 0.1), reading_at(now), ALL)
    assert decision.refused
    assert not decision.write
    assert (decision.verdicts[:, Stage.APPLIED] == Verdict.REFUSED).all()
    assert (decision.verdicts[:, Stage.APPLIED + 1 :] == Verdict.NOT_RUN).all()


def test_engaging_on_a_function_outside_the_limits_is_refused_in_words() -> None:
    """The sentence names the limit, the point and what to do."""
    kink = ZERO.copy()
    kink[3] = 3.0 * math.pi
    with pytest.raises(MismatchError, match=r"not engaged.*between points 2 and 3.*bring the"):
        guard().check_engage(kink)
    guard().check_engage(ZERO)


def test_step_is_cut() -> None:
    """More than the machine's step is cut to it, and only at the points that asked for it."""
    delta = np.array([0.1, 0.2, 0.5, 0.2, 0.1, 0.0])
    decision = guard(replace(LIMITS, step_rad=0.3)).decide(delta, reading_at(ZERO), ALL)
    assert decision.phi_hw_rad[2] == pytest.approx(0.3)
    np.testing.assert_array_equal(np.flatnonzero(decision.verdicts[:, Stage.STEP]), [2])


def test_value_is_cut() -> None:
    """Nothing goes beyond the allowed values."""
    decision = guard(replace(LIMITS, min_rad=-1.0, max_rad=0.25)).decide(
        np.full(POINTS, 0.4), reading_at(ZERO), ALL
    )
    np.testing.assert_allclose(decision.phi_hw_rad, 0.25)
    assert (decision.verdicts[:, Stage.VALUE] == Verdict.ALTERED).all()


def test_slope_is_cut() -> None:
    """Neighbours that part too far are brought together."""
    limits = replace(LIMITS, slope_rad_per_ms=0.001)  # 0.1 rad between points
    decision = guard(limits).decide(np.array([0, 0, 0, 0.5, 0.5, 0.5]), reading_at(ZERO), ALL)
    assert np.abs(np.diff(decision.phi_hw_rad)).max() == pytest.approx(0.1)
    assert decision.verdicts[2, Stage.SLOPE] == decision.verdicts[3, Stage.SLOPE] == Verdict.ALTERED


def test_slope_beside_a_held_point_bends_the_others() -> None:
    """A held point is not dragged along by its neighbours' slope; they come to it."""
    limits = replace(LIMITS, slope_rad_per_ms=0.001)
    usable = ALL.copy()
    usable[0] = False
    decision = guard(limits).decide(np.full(POINTS, 0.5), reading_at(ZERO), usable)
    np.testing.assert_allclose(decision.phi_hw_rad, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], atol=1e-12)
    limits.check(decision.phi_hw_rad, ZERO, CTIME)
    assert decision.verdicts[1, Stage.SLOPE] == Verdict.ALTERED
    assert decision.verdicts[0, Stage.SLOPE] == Verdict.NOT_RUN


def wide() -> Guard:
    """A guard that cuts neither slope nor step, so that only coherence alters anything."""
    return guard(PhaseLimits(step_rad=10.0, slope_rad_per_ms=10.0, min_rad=-50.0, max_rad=50.0))


def test_undecided_points_go_round_together() -> None:
    """Half a turn from the goal, the few follow the many, and the many keep what they asked for."""
    delta = STEP_RAD * np.array([1, 1, -1, 1, -1, 1]) * 0.95
    decision = guard().decide(delta, reading_at(ZERO), ALL)
    np.testing.assert_array_equal(np.flatnonzero(decision.verdicts[:, Stage.COHERENCE]), [2, 4])
    assert (decision.phi_hw_rad > 0.9 * STEP_RAD).all()
    np.testing.assert_array_equal(decision.phi_hw_rad[[0, 1, 3, 5]], delta[0])


def test_points_at_the_unstable_place_are_taken_along() -> None:
    """A policy that wants to stay half a turn from the goal is told apart by its neighbours."""
    delta = np.array([-1.57, -1.57, -1.5, 0.0, 0.4, -1.4])
    applied = np.full(POINTS, -1.3)
    decision = wide().decide(delta, reading_at(applied), ALL)
    np.testing.assert_array_equal(np.flatnonzero(decision.verdicts[:, Stage.COHERENCE]), [3, 4])
    assert (decision.phi_hw_rad < applied - 1.0).all()


def test_a_tie_keeps_the_policys_signs() -> None:
    """Where all points agree, all keep their change, though the other way round is as smooth."""
    for sign in (1.0, -1.0):
        decision = guard().decide(np.full(POINTS, sign * STEP_RAD), reading_at(ZERO), ALL)
        assert not decision.altered.any()
        np.testing.assert_allclose(decision.phi_hw_rad, sign * STEP_RAD)


def test_goals_a_turn_apart_are_brought_together() -> None:
    """Two parts that converged a whole turn apart: the smaller one goes round, step by step."""
    place = np.array([0.0, 0.0, 0.0, 0.0, 2.0 * math.pi, 2.0 * math.pi])
    for _ in range(5):
        error = np.angle(np.exp(1j * place))
        change, _ = coherent(np.clip(-error, -STEP_RAD, STEP_RAD), place, STEP_RAD)
        place = place + change
    np.testing.assert_allclose(place, 0.0, atol=1e-9)


def test_a_converged_cycle_is_left_alone() -> None:
    """While all ask for small changes that can be played, signs are the policy's, however rough."""
    delta = 0.79 * STEP_RAD * np.array([1, -1, 1, -1, 1, -1]) * 0.5
    decision = guard().decide(delta, reading_at(ZERO), ALL)
    assert (decision.verdicts[:, Stage.COHERENCE] == Verdict.PASSED).all()


def test_one_wild_answer_is_not_followed() -> None:
    """A single point that asks for a whole step between neighbours that are at rest stays there."""
    delta = np.array([0.0, 0.0, 0.0, STEP_RAD, 0.0, 0.0])
    decision = guard().decide(delta, reading_at(ZERO), ALL)
    np.testing.assert_allclose(decision.phi_hw_rad, 0.0, atol=0.1)
    np.testing.assert_array_equal(np.flatnonzero(decision.verdicts[:, Stage.COHERENCE]), [3])


def test_a_wild_answer_at_the_end_of_a_cycle_is_followed_only_among_few() -> None:
    """It makes one step, not two: among ten points that is too rough, of four it may be how it is."""
    for points, altered in ((4, []), (10, [0])):
        delta = STEP_RAD * (np.arange(points) == 0)
        _, differs = coherent(delta, np.zeros(points), STEP_RAD)
        np.testing.assert_array_equal(np.flatnonzero(differs), altered)


@pytest.mark.parametrize(("points", "hump"), [(2, False), (3, False), (4, True), (5, True)])
def test_few_points_are_not_swung_round_for_ever(points: int, *, hump: bool) -> None:
    """From any offset, goals that span a radian, up or up and down: they arrive in five shots, and stay."""
    along = np.linspace(0.0, 1.0, points)
    span = 4.8 * along * (1.0 - along) if hump else 1.2 * along
    for offset in np.linspace(-math.pi, math.pi, 25):
        subject = Guard(PhaseLimits(), 500.0 * along, STEP_RAD)
        goal, place = offset - span, np.zeros(points)
        for shot in range(12):
            error = np.angle(np.exp(1j * (place - goal)))
            assert shot < 5 or np.abs(error).max() < math.radians(1.0)
            place = subject.decide(
                np.clip(-error, -STEP_RAD, STEP_RAD), reading_at(place, cycle=shot)
            ).phi_hw_rad


def test_held_points_do_not_stop_the_others_from_going_together() -> None:
    """Coherence looks past a held point at its next neighbours."""
    delta = STEP_RAD * np.array([1.0, 1.0, math.nan, -1.0, 1.0, 1.0])
    decision = wide().decide(delta, reading_at(ZERO), ALL)
    np.testing.assert_array_equal(np.flatnonzero(decision.verdicts[:, Stage.COHERENCE] == 1), [3])
    assert decision.phi_hw_rad[2] == 0.0


def test_what_an_answer_weighs_against_a_way() -> None:
    """By hand: as it is within 150 degrees, taken into one turn and capped at 1; beyond, little."""
    half = math.pi / 2.0
    for delta, way, cost in (
        (0.3, 0.7, 0.4),
        (half, 2.0, 0.0),
        (0.3, 1.5 * math.pi, 1.0),
        (-1.5, 1.5 * math.pi, half - 1.5),
        (1.5, -1.5 * math.pi, half - 1.5),
        (0.0, math.pi, 0.1 + 0.25),
        (half, math.pi, 0.0),
        (-half, math.radians(160.0), 0.1),
        (-half, math.radians(140.0), 1.0),
        (1.2, math.radians(160.0), 0.35 * (half - 1.2)),
    ):
        told = _data(np.array([[delta]]), np.array([[way]]), half)[0, 0]
        assert told == pytest.approx(cost, abs=1e-12)


def test_coherence_needs_related_points() -> None:
    """Rows without a ctime axis have offsets of their own and keep their signs."""
    lonely = Guard(LIMITS, None, STEP_RAD)
    delta = STEP_RAD * np.array([1, 1, -1, 1, -1, 1])
    np.testing.assert_array_equal(lonely.decide(delta, reading_at(ZERO), ALL).phi_hw_rad, delta)


def test_a_fraction_that_turns_small_corrections_is_refused() -> None:
    """Settings under which the guard would fight the policy are refused."""
    with pytest.raises(ValueError, match=r"0\.5 or more"):
        GuardConfig(coherence_fraction=0.1)


def test_what_makes_a_point_unusable() -> None:
    """A flag, a profile, an applied phase or a synchronous phase that is not finite."""
    reading = FakeBackend(points=POINTS, n_slices=16).start()
    assert usable_points(reading).all()
    quality = reading.quality.copy()
    quality[0] = Quality.STALE
    profile = reading.profile.copy()
    profile[1, 3] = np.nan
    applied = reading.applied_rad.copy()
    applied[2] = np.inf
    phase = reading.synchronous_phase_rad.copy()
    phase[3] = np.nan
    bad = replace(
        reading,
        quality=quality,
        profile=profile,
        applied_rad=applied,
        synchronous_phase_rad=phase,
    )
    np.testing.assert_array_equal(np.flatnonzero(~usable_points(bad)), [0, 1, 2, 3])


def test_a_function_that_rounding_puts_beyond_a_limit_is_refused() -> None:
    """Between two held points, each too steep by what a check forgives, a third cannot keep both."""
    limits = replace(LIMITS, slope_rad_per_ms=0.001)
    applied = (0.001 + 0.95e-9) * 100.0 * np.array([0.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    limits.check(applied, applied, CTIME)
    usable = np.arange(POINTS) == 1
    decision = guard(limits).decide(np.full(POINTS, 0.05), reading_at(applied), usable)
    assert (decision.verdicts[:, Stage.SLOPE] == Verdict.REFUSED).all()
    assert decision.hard_stage == "slope"
    assert "the nearest function does not keep" in decision.reason
    assert not decision.write
    np.testing.assert_array_equal(decision.phi_hw_rad, applied)


def test_stages_have_their_places() -> None:
    """The verdicts' columns are the named stages."""
    assert STAGES.index("coherence") == Stage.COHERENCE
    assert len(STAGES) == guard().decide(ZERO, reading_at(ZERO), ALL).verdicts.shape[1]
