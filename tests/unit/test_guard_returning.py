"""The way back by a turn: goals beyond the range of values are reached where they stand once more."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.testing.traces import reading_at
from memrl_ctrl.trace import Verdict
from memrl_deploy.guard import Excess, Guard, GuardConfig
from memrl_deploy.guard.decision import Stage
from memrl_deploy.guard.returning import LED_RAD, MARGIN_RAD, PATIENCE, TURN, Returning

POINTS = 30
STEP_RAD = math.pi / 2.0
CTIME = np.linspace(275.0, 805.0, POINTS)
ALONG = np.linspace(0.0, 1.0, POINTS)
END_RAD = 4.0 * math.pi
NAN = math.nan


def circular(angle: np.ndarray) -> np.ndarray:
    return np.asarray(math.pi - np.mod(math.pi - angle, 2.0 * math.pi))


class Loop:
    """A policy that sees one point at a time, behind the guard."""

    def __init__(
        self,
        start: np.ndarray,
        limits: PhaseLimits | None = None,
        *,
        related: bool = True,
        drift_rad: float = 2.0 * END_RAD,
    ) -> None:
        ctime = CTIME[: start.size] if related else None
        config = GuardConfig(drift_rad=drift_rad)  # unless given, it spans the whole range
        self.guard = Guard(limits or PhaseLimits(), ctime, STEP_RAD, config)
        self.place = start.copy()
        self.usable = np.ones(start.size, dtype=np.bool_)
        self.took = True
        self.cycles = 0
        self._random = np.random.default_rng(0)

    def cycle(self, goal: np.ndarray) -> np.ndarray:
        """Play one cycle; return how far every point is from its goal, rad."""
        noise = self._random.normal(0.0, 0.01, goal.size)
        delta = np.clip(circular(goal - self.place) + noise, -STEP_RAD, STEP_RAD)
        reading = reading_at(self.place, cycle=self.cycles)
        decision = self.guard.decide(delta, reading, self.usable)
        self.cycles += 1
        self.guard.limits.check(decision.phi_hw_rad, self.place, self.guard.ctime_ms)
        self.decision = decision
        if self.took:
            self.place = decision.phi_hw_rad
        return np.asarray(np.abs(circular(goal - self.place)))


@pytest.mark.parametrize("end", [END_RAD, -END_RAD])
@pytest.mark.parametrize(
    "beyond", [0.5 + 0.0 * ALONG, ALONG - 0.5, 2.8 + 0.0 * ALONG], ids=["near", "across", "far"]
)
def test_a_goal_beyond_the_range_is_reached_a_turn_back(end: float, beyond: np.ndarray) -> None:
    """Above the range and below it, all points or some: all arrive, and stay."""
    side = math.copysign(1.0, end)
    loop = Loop(np.full(POINTS, end - 0.3 * side))
    goal = end + side * beyond
    for _ in range(10):
        error = loop.cycle(goal)
    for _ in range(20):
        assert loop.cycle(goal).max() < math.radians(4.0)
    assert error.max() < math.radians(4.0)
    np.testing.assert_allclose(loop.place, goal - side * 2.0 * math.pi, atol=0.1)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_drift_across_the_range_does_not_get_stuck(side: float) -> None:
    """The offset drifts on and on; the function goes back a turn each time and is lost a few cycles."""
    loop = Loop(np.zeros(POINTS))
    lost = 0
    for cycle in range(2500):
        lost += int(loop.cycle(side * 0.01 * cycle + 0.5 * ALONG).max() > math.radians(10.0))
    assert lost <= 12


def test_points_alone_and_unrelated_rows_go_back_each_for_itself() -> None:
    """One point, and rows without a ctime axis: only what is beyond the range goes back."""
    one = Loop(np.array([END_RAD - 0.3]))
    rows = Loop(np.full(4, END_RAD - 0.3), related=False)
    goals = END_RAD + np.array([-0.4, 0.5, -0.2, 1.2])
    for _ in range(10):
        alone = one.cycle(np.array([END_RAD + 0.5]))
        error = rows.cycle(goals)
    assert alone.max() < math.radians(4.0)
    assert error.max() < math.radians(4.0)
    np.testing.assert_allclose(rows.place, goals - np.array([0, 1, 0, 1]) * 2 * math.pi, atol=0.1)


def test_the_way_back_does_not_turn_round() -> None:
    """With small machine steps the way takes many cycles, each nearer, and refused ones in between."""
    loop = Loop(np.full(POINTS, END_RAD - 0.05), PhaseLimits(step_rad=0.1))
    goal = np.full(POINTS, END_RAD + 0.5)
    for cycle in range(90):
        loop.took = cycle % 3 > 0
        before = loop.place
        loop.cycle(goal)
        if 0 < cycle < 60:
            assert (loop.place <= before).all()
            assert (loop.decision.verdicts[:30, Stage.COHERENCE] <= Verdict.ALTERED).all()
    np.testing.assert_allclose(loop.place, goal - 2.0 * math.pi, atol=0.1)


def test_whoever_moves_the_function_elsewhere_ends_the_way_back() -> None:
    """Moved away from where it was going, or left alone where it is, a point is the policy's again."""
    loop = Loop(np.full(POINTS, END_RAD - 0.05))
    loop.cycle(np.full(POINTS, END_RAD + 0.5))
    assert loop.decision.altered.all()
    loop.place = np.full(POINTS, END_RAD - 0.01)
    for _ in range(5):
        error = loop.cycle(np.full(POINTS, END_RAD - 0.1))
    assert error.max() < math.radians(4.0)
    np.testing.assert_allclose(loop.place, END_RAD - 0.1, atol=0.1)

    still = Loop(np.full(POINTS, END_RAD - 0.05))
    still.took = False
    still.cycle(np.full(POINTS, END_RAD + 0.5))
    for _ in range(4):
        still.cycle(np.full(POINTS, END_RAD - 0.1))
    assert not still.decision.altered.any()


def test_a_point_that_is_blind_for_a_while_comes_after() -> None:
    """A point without readings stays exactly where it is; with readings it goes where the others are."""
    loop = Loop(np.full(POINTS, END_RAD - 0.3))
    goal = np.full(POINTS, END_RAD + 1.5)
    loop.usable[15] = False
    for _ in range(10):
        loop.cycle(goal)
    assert loop.place[15] == END_RAD - 0.3
    loop.usable[15] = True
    for _ in range(15):
        error = loop.cycle(goal)
    assert error.max() < math.radians(4.0)
    np.testing.assert_allclose(loop.place, goal - 2.0 * math.pi, atol=0.1)


def test_where_no_turn_fits_the_range_cuts() -> None:
    """In a range that is too small for another turn the function stays at its end, within it."""
    loop = Loop(np.zeros(POINTS), PhaseLimits(min_rad=-1.0, max_rad=1.0))
    for _ in range(10):
        loop.cycle(np.full(POINTS, 1.5))
    np.testing.assert_allclose(loop.place, 1.0)


def begun(*wanted: float, together: bool, before: Returning | None = None) -> np.ndarray:
    """Where points of these wishes go back to in a range of 10 rad to both sides, rad; NaN: not at all."""
    limits = PhaseLimits(min_rad=-10.0, max_rad=10.0)
    state = before or Returning.nowhere(len(wanted))
    drift = np.full(len(wanted), -11.0), np.full(len(wanted), 11.0)
    return state.begun(np.array(wanted), limits, drift, together=together).aim_rad


def going(*aim_rad: float, applied: float = 0.0) -> Returning:
    """Points on their way there, all of them here in the cycle before."""
    there = np.array(aim_rad)
    return Returning(
        aim_rad=there,
        last_rad=np.full(there.size, applied),
        idle=np.zeros(there.size, dtype=np.int64),
    )


@pytest.mark.parametrize("together", [True, False])
def test_a_turn_back_leads_into_the_range(together: bool) -> None:
    """From above it leads down, from below up; what is beyond the end by less than the margin stays."""
    assert begun(11.0, together=together).tolist() == [11.0 - TURN]
    assert begun(-11.0, together=together).tolist() == [-11.0 + TURN]
    for near in (9.99, 10.0 + 0.99 * MARGIN_RAD):
        np.testing.assert_array_equal(begun(near, together=together), [NAN])
        np.testing.assert_array_equal(begun(-near, together=together), [NAN])


def test_unrelated_rows_begin_each_in_its_own_direction() -> None:
    """One goes down and one up; one inside the range, and one that no turn brings into it, do not go."""
    back = begun(11.0, 0.0, -11.0, 17.0, together=False)
    np.testing.assert_array_equal(back, [11.0 - TURN, NAN, -11.0 + TURN, NAN])


def test_points_of_a_cycle_go_where_most_of_them_want_to() -> None:
    """Also those inside the range; of as many to either side none goes."""
    wishes = np.array([11.0, 11.5, 5.0, 4.0])
    np.testing.assert_array_equal(begun(*wishes, together=True), wishes - TURN)
    np.testing.assert_array_equal(begun(*-wishes, together=True), TURN - wishes)
    assert np.isnan(begun(11.0, 5.0, -5.0, -11.0, together=True)).all()


def test_points_of_a_cycle_go_only_if_all_fit() -> None:
    """One that would leave the range at the other end keeps all of them where they are."""
    for side in (1.0, -1.0):
        assert np.isnan(begun(side * 11.0, side * 11.0, side * -4.0, together=True)).all()


@pytest.mark.parametrize("together", [True, False])
def test_a_point_on_its_way_keeps_its_aim(together: bool) -> None:
    """Whatever it wants meanwhile: it neither begins anew, nor counts when others begin."""
    before = going(3.0, NAN)
    for wish in (10.5, -17.0):
        back = begun(wish, 11.0, together=together, before=before)
        np.testing.assert_array_equal(back, [3.0, 11.0 - TURN])
    back = begun(11.0, 0.0, together=together, before=before)
    np.testing.assert_array_equal(back, before.aim_rad)


def test_a_point_waits_three_cycles_before_it_gives_up() -> None:
    """Whoever stands still ends in the fourth cycle; coming nearer once begins the count anew."""
    state, here = going(5.0, NAN), np.zeros(2)
    for cycle in range(1, PATIENCE + 1):
        state = state.seen(here)
        assert state.going.tolist() == [True, False]
        assert state.idle.tolist() == [cycle, 0]
    nearer = state.seen(np.full(2, 0.1))
    assert nearer.going.tolist() == [True, False]
    assert nearer.idle.tolist() == [0, 0]
    ended = state.seen(here)
    assert not ended.going.any()
    assert ended.idle.tolist() == [0, 0]


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_point_is_let_go_where_the_policy_leads_on(side: float) -> None:
    """From 150 degrees to its aim on; and where it was moved away from it, or past it."""
    here = np.zeros(1)
    assert going(side * 1.01 * LED_RAD, applied=-side * 0.1).seen(here).going.all()
    assert not going(side * 0.99 * LED_RAD, applied=-side * 0.1).seen(here).going.any()
    assert not going(side * 5.0, applied=side * 0.1).seen(here).going.any()
    assert not going(side * 5.0, applied=side * 11.0).seen(here).going.any()


def test_an_aim_does_not_outlive_what_it_was_made_for() -> None:
    """While a point is blind the whole function is moved elsewhere by hand: with readings it stays there."""
    loop = Loop(np.full(POINTS, END_RAD - 0.3))
    loop.usable[15] = False
    for _ in range(3):
        loop.cycle(np.full(POINTS, END_RAD + 1.5))
    loop.place = np.zeros(POINTS)
    for _ in range(5):
        loop.cycle(np.zeros(POINTS))
    loop.usable[15] = True
    for _ in range(5):
        assert loop.cycle(np.zeros(POINTS)).max() < math.radians(4.0)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_where_the_drift_budget_does_not_reach_the_range_cuts(side: float) -> None:
    """The way back would be cut far from any goal; at the end of the range little is missing."""
    loop = Loop(np.full(POINTS, side * (END_RAD - 0.3)), drift_rad=math.pi / 2.0)
    for _ in range(10):
        loop.cycle(np.full(POINTS, side * (END_RAD + 0.3)))
        assert loop.decision.excess is Excess.SMALL
    np.testing.assert_allclose(loop.place, side * END_RAD)
