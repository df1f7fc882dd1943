"""Whatever the policy says, what the guard lets through passes the machine's own check."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.testing.traces import reading_at
from memrl_ctrl.trace import Verdict
from memrl_deploy.guard import Excess, Guard

anything = st.floats(allow_nan=True, allow_infinity=True, width=32)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Guard, np.ndarray, np.ndarray, np.ndarray]:
    """Draw a guard, what the policy says, a function that keeps the limits, and usable points."""
    points = draw(st.integers(1, 30))
    gaps = draw(st.lists(st.floats(0.1, 100.0), min_size=points, max_size=points))
    ctime = np.cumsum(gaps)
    low = draw(st.floats(-20.0, 0.0))
    limits = PhaseLimits(
        min_rad=low,
        max_rad=low + draw(st.floats(0.01, 30.0)),
        step_rad=draw(st.floats(0.001, 4.0)),
        slope_rad_per_ms=draw(st.floats(1e-4, 1.0)),
    )
    wish = draw(st.lists(st.floats(-25.0, 25.0), min_size=points, max_size=points))
    start = np.clip(np.array(wish), limits.min_rad, limits.max_rad)
    applied = limits.restrict(start, start, ctime).phi_hw_rad
    delta = np.array(draw(st.lists(anything, min_size=points, max_size=points)))
    usable = np.array(draw(st.lists(st.booleans(), min_size=points, max_size=points)))
    guard = Guard(limits, ctime, draw(st.floats(0.01, 4.0)))
    return guard, delta, applied, usable


@given(situations())
def test_what_passes_the_guard_passes_the_machine(
    situation: tuple[Guard, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """For any limits, any answer and any usable points: finite, within limits, held where said."""
    guard, delta, applied, usable = situation
    decision = guard.decide(delta, reading_at(applied), usable)
    guard.limits.check(decision.phi_hw_rad, applied, guard.ctime_ms)
    held = ~usable | ~np.isfinite(delta)
    np.testing.assert_array_equal(decision.held, held)
    np.testing.assert_array_equal(decision.phi_hw_rad[held], applied[held])
    assert decision.write == (not held.all() and decision.excess < Excess.HARD)


@given(situations(), st.integers(0, 2**32 - 1), st.sampled_from([5e-10, 1e-9, 1e-8]))
def test_a_function_at_the_edge_of_what_is_forgiven_stays_within(
    situation: tuple[Guard, np.ndarray, np.ndarray, np.ndarray], seed: int, off_rad: float
) -> None:
    """Also where what is applied is off by rounding, nothing leaves that the machine would refuse."""
    guard, delta, applied, usable = situation
    off = off_rad * np.random.default_rng(seed).uniform(-1.0, 1.0, applied.size)
    decision = guard.decide(delta, reading_at(applied + off), usable)
    if decision.refused:
        assert not decision.write
        np.testing.assert_array_equal(decision.phi_hw_rad, applied + off)
    else:
        guard.limits.check(decision.phi_hw_rad, applied + off, guard.ctime_ms)


@given(situations())
def test_what_no_stage_altered_is_what_was_asked(
    situation: tuple[Guard, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Points without an altering verdict get what the policy asked for."""
    guard, delta, applied, usable = situation
    decision = guard.decide(delta, reading_at(applied), usable)
    free = ~decision.altered
    np.testing.assert_allclose(
        decision.phi_hw_rad[free], decision.proposed_rad[free], rtol=0.0, atol=1e-8
    )


@given(situations(), st.sampled_from([math.nan, math.inf, 1e9]))
def test_a_broken_function_is_never_written(
    situation: tuple[Guard, np.ndarray, np.ndarray, np.ndarray], bad: float
) -> None:
    """If what is applied does not keep the limits, nothing is written, whatever the policy says."""
    guard, delta, applied, usable = situation
    broken = applied.copy()
    broken[-1] = bad
    decision = guard.decide(delta, reading_at(broken), usable)
    assert not decision.write
    assert (decision.verdicts[:, 0] == Verdict.REFUSED).all()
