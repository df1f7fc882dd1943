"""Whatever comes, cycle after cycle: budgets are kept, hard excess ends, and undo leaves no mark."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.backend import Quality, Reading
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.testing.traces import reading_at
from memrl_ctrl.trace import Verdict
from memrl_deploy.guard import Decision, Excess, Guard, GuardConfig
from memrl_deploy.guard.decision import Stage

MAX_STEP_RAD = math.pi / 2.0
ROUNDING_RAD = 1e-8
"""What a sum of a few dozen clipped steps may be off by."""
SICK = ("healthy", "dead", "noise", "clipped", "frozen", "nan", "stale")


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """What the policy says and what ails the reading; all [points]."""

    delta_rad: np.ndarray
    off_rad: np.ndarray
    """Readback, from what is applied; NaN is unknown."""
    ails: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Story:
    """A guard's limits and thresholds, where the points begin, and the cycles that it sees."""

    limits: PhaseLimits
    config: GuardConfig
    ctime_ms: np.ndarray | None
    start_rad: np.ndarray
    cycles: tuple[Cycle, ...]

    def guard(self) -> Guard:
        return Guard(self.limits, self.ctime_ms, MAX_STEP_RAD, self.config)


def arrays(points: int, elements: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return st.lists(elements, min_size=points, max_size=points).map(np.array)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Draw everything; in every other story nothing is wrong but the way that the policy goes.

    Else most would end in a hard excess long before a budget does.
    """
    calm = draw(st.booleans())
    points = draw(st.integers(1, 6))
    related = draw(st.booleans())
    ctime = np.cumsum(draw(arrays(points, st.floats(5.0, 50.0))))
    limits = PhaseLimits(
        min_rad=draw(st.floats(-12.0, -1.0)),
        max_rad=draw(st.floats(1.0, 12.0)),
        step_rad=draw(st.floats(0.05, 3.0)),
        slope_rad_per_ms=draw(st.floats(1e-3, 0.5)),
    )
    near = draw(st.floats(0.01, 1.0))
    config = GuardConfig(
        rate_cycles=draw(st.integers(1, 6)),
        rate_travel_rad=draw(st.floats(0.05, 6.0)),
        drift_rad=draw(st.floats(0.05, 6.0)),
        readback_rad=near,
        readback_hard_rad=near + draw(st.floats(0.0, 2.0)),
        repeats=9 if calm else draw(st.integers(1, 5)),
    )
    wish = np.clip(draw(arrays(points, st.floats(-12.0, 12.0))), limits.min_rad, limits.max_rad)
    start = limits.restrict(wish, wish, ctime).phi_hw_rad
    answer = st.floats(-1.0, 1.0).map(lambda share: share * MAX_STEP_RAD)
    if not calm:
        answer |= st.sampled_from([math.nan, math.inf, -math.inf, 1.2 * MAX_STEP_RAD, -1e30])
    off = st.just(0.0) if calm else st.sampled_from([0.0, math.nan]) | st.floats(-3.0, 3.0)
    ails = st.lists(
        st.sampled_from(SICK[:1] if calm else SICK), min_size=points, max_size=points
    ).map(tuple)
    cycle = st.builds(
        Cycle, delta_rad=arrays(points, answer), off_rad=arrays(points, off), ails=ails
    )
    return Story(
        limits=limits,
        config=config,
        ctime_ms=ctime if related else None,
        start_rad=start,
        cycles=tuple(draw(st.lists(cycle, min_size=4 if calm else 1, max_size=8))),
    )


def shown(number: int, told: Cycle, applied: np.ndarray, before: Reading | None) -> Reading:
    """Return a cycle's reading with all that ails it."""
    reading = reading_at(applied, n_slices=64, cycle=number)
    profile, quality = reading.profile.copy(), reading.quality.copy()
    rng = np.random.default_rng(number)
    for point, ail in enumerate(told.ails):
        if ail == "dead":
            profile[point] = 0.0
        elif ail == "noise":
            profile[point] = rng.normal(0.0, 0.02, 64).astype(np.float32)
        elif ail == "clipped":
            profile[point] = np.minimum(profile[point], np.float32(0.5))
        elif ail == "frozen" and before is not None:
            profile[point] = before.profile[point]
        elif ail == "nan":
            profile[point, 3] = math.nan
        elif ail == "stale":
            quality[point] = Quality.STALE
    return replace(reading, profile=profile, quality=quality, readback_rad=applied + told.off_rad)


def play(story: Story, guard: Guard) -> list[tuple[Reading, Decision]]:
    """Play a story as the runtime does, up to the first hard excess; what is written is applied."""
    played: list[tuple[Reading, Decision]] = []
    place = story.start_rad
    for number, told in enumerate(story.cycles):
        reading = shown(number, told, place, played[-1][0] if played else None)
        decision = guard.decide(told.delta_rad, reading)
        played.append((reading, decision))
        if decision.excess is Excess.HARD:
            break
        place = decision.phi_hw_rad if decision.write else place
    return played


@settings(max_examples=60)
@given(stories())
def test_what_is_written_keeps_limits_and_budgets(story: Story) -> None:
    """Over any cycles: finite, within the machine's limits, the travel and the drift allowed."""
    places = [story.start_rad]
    for reading, decision in play(story, story.guard()):
        if decision.write:
            story.limits.check(decision.phi_hw_rad, reading.applied_rad, story.ctime_ms)
            places.append(decision.phi_hw_rad)
        else:
            places.append(places[-1])
        held = decision.held
        np.testing.assert_array_equal(decision.phi_hw_rad[held], reading.applied_rad[held])
    went = np.abs(np.array(places) - story.start_rad)
    assert went.max() <= story.config.drift_rad + ROUNDING_RAD
    moved = np.abs(np.diff(places, axis=0))
    for first in range(len(moved)):
        travel = moved[first : first + story.config.rate_cycles].sum(axis=0)
        assert travel.max() <= story.config.rate_travel_rad + ROUNDING_RAD


@settings(max_examples=60)
@given(stories())
def test_hard_excess_is_never_written_and_small_is_no_more_than_that(story: Story) -> None:
    """An answer beyond the policy's largest or a far readback ends it; what ails holds its point."""
    for (reading, decision), told in zip(play(story, story.guard()), story.cycles, strict=False):
        assert decision.write <= (decision.excess < Excess.HARD)
        assert (
            (decision.excess is Excess.HARD) == bool(decision.hard_stage) == bool(decision.reason)
        )
        far = np.abs(told.off_rad)
        if (far > story.config.readback_hard_rad + ROUNDING_RAD).any():
            assert decision.excess is Excess.HARD
        sick = np.isin(told.ails, ("dead", "noise", "clipped", "nan", "stale"))
        wild = np.isfinite(told.delta_rad) & (np.abs(told.delta_rad) > 1.1 * MAX_STEP_RAD)
        if (wild & ~sick & (np.array(told.ails) != "frozen")).any():
            assert decision.excess is Excess.HARD
        must_hold = sick | ~np.isfinite(told.delta_rad) | (far > story.config.readback_rad + 1e-9)
        assert decision.held[must_hold].all()
        assert np.isfinite(decision.phi_hw_rad).all()
        unknown = np.isnan(reading.readback_rad)
        assert (decision.verdicts[unknown, Stage.READBACK] == Verdict.NOT_RUN).all()


@settings(max_examples=60)
@given(stories(), st.data())
def test_an_undone_cycle_leaves_no_mark(story: Story, data: st.DataObject) -> None:
    """A guard that saw and undid other cycles in between decides to the bit as one that did not."""
    plain = play(story, story.guard())
    subject = story.guard()
    for number, (reading, expected) in enumerate(plain):
        other = data.draw(st.sampled_from(story.cycles))
        strange = shown(100 + number, other, reading.applied_rad, reading)
        subject.decide(other.delta_rad, strange)
        subject.undo()
        decision = subject.decide(story.cycles[number].delta_rad, reading)
        np.testing.assert_array_equal(decision.phi_hw_rad, expected.phi_hw_rad)
        np.testing.assert_array_equal(decision.verdicts, expected.verdicts)
        assert (decision.excess, decision.reason) == (expected.excess, expected.reason)
