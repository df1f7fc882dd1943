"""Limits of the knob."""

import math

import numpy as np
import pytest

from memrl_ctrl.errors import RefusalReason, Refused
from memrl_ctrl.limits import PhaseLimits

LIMITS = PhaseLimits(min_rad=-3.0, max_rad=3.0, step_rad=1.0, slope_rad_per_ms=0.1)
CTIME = np.array([0.0, 10.0, 20.0])
ZERO = np.zeros(3)


@pytest.mark.parametrize(
    ("function", "applied", "reason"),
    [
        ([0.0, math.nan, 0.0], ZERO, RefusalReason.NOT_FINITE),
        ([0.0, 0.0, math.inf], ZERO, RefusalReason.NOT_FINITE),
        ([3.1, 3.1, 3.1], np.full(3, 3.0), RefusalReason.LIMIT),
        ([1.1, 1.1, 1.1], ZERO, RefusalReason.STEP),
        ([0.0, 0.99, 0.0 - 0.1], np.array([0.0, 0.5, 0.5]), RefusalReason.SLOPE),
        ([0.0, 0.0], ZERO, RefusalReason.UNKNOWN_POINT),
    ],
)
def test_check_refuses_with_the_reason(function, applied, reason):
    """A function that breaks a limit is refused with the reason that names it."""
    with pytest.raises(Refused) as caught:
        LIMITS.check(np.array(function), applied, CTIME)
    assert caught.value.reason is reason


def test_check_names_point_and_what_is_allowed():
    """A refusal says which point, what it asked for and what is allowed."""
    with pytest.raises(Refused, match=r"point 1 would move by 1\.5000 rad .* allowed is 1\.0000"):
        LIMITS.check(np.array([0.0, 1.5, 0.0]), ZERO, CTIME)


def test_check_lets_a_good_function_through():
    """A function within all limits passes, exactly at them too."""
    LIMITS.check(np.array([1.0, 0.0, 1.0]), ZERO, CTIME)


def test_unrelated_rows_have_no_slope():
    """Rows that are no points of one cycle are not compared with each other."""
    LIMITS.check(np.array([1.0, -1.0, 1.0]), ZERO, None)


def test_restrict_leaves_alone_what_is_allowed():
    """What keeps the limits is not altered."""
    wanted = np.array([0.3, -0.2, 0.1])
    result = LIMITS.restrict(wanted, ZERO, CTIME)
    assert np.array_equal(result.phi_hw_rad, wanted)
    assert not result.any.any()


def test_restrict_says_which_limit_altered_which_point():
    """Each alteration is attributed to its limit and point."""
    result = LIMITS.restrict(np.array([2.0, 0.0, 0.0]), ZERO, None)
    assert result.step.tolist() == [True, False, False]
    assert result.phi_hw_rad.tolist() == [1.0, 0.0, 0.0]
    high = np.full(3, 2.9)
    result = LIMITS.restrict(np.array([3.5, 2.9, 2.9]), high, CTIME)
    assert result.value.tolist() == [True, False, False]
    result = LIMITS.restrict(np.array([1.0, -1.0, 1.0]), ZERO, CTIME)
    assert result.slope.all()
    # The slope allows 1 rad between neighbours: the middle moves up by 0.5 and its neighbours down.
    assert result.phi_hw_rad == pytest.approx([0.5, -0.5, 0.5])


def test_limits_that_nothing_can_satisfy_are_refused():
    """Limits are checked when they are made."""
    with pytest.raises(ValueError, match="must be below"):
        PhaseLimits(min_rad=1.0, max_rad=1.0)
    with pytest.raises(ValueError, match="step_rad must be positive"):
        PhaseLimits(step_rad=0.0)
