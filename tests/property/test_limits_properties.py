"""What the limits let through is always allowed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memrl_ctrl.limits import PhaseLimits

LIMITS = PhaseLimits(min_rad=-3.0, max_rad=3.0, step_rad=0.5, slope_rad_per_ms=0.05)
POINTS = 12
wishes = arrays(np.float64, POINTS, elements=st.floats(-20.0, 20.0))
gaps = arrays(np.float64, POINTS, elements=st.floats(0.1, 50.0))


@given(wishes, wishes, gaps)
def test_what_restrict_returns_passes_check(first, second, gap):
    """From any allowed function, any wish is brought to one that the check takes."""
    ctime = np.cumsum(gap)
    applied = LIMITS.restrict(first, np.zeros(POINTS), ctime).phi_hw_rad
    allowed = LIMITS.restrict(second, applied, ctime).phi_hw_rad
    LIMITS.check(allowed, applied, ctime)
    assert np.isfinite(allowed).all()


@given(wishes, gaps)
def test_restrict_is_idempotent(wish, gap):
    """Restricting what was restricted changes nothing."""
    ctime = np.cumsum(gap)
    once = LIMITS.restrict(wish, np.zeros(POINTS), ctime).phi_hw_rad
    twice = LIMITS.restrict(once, np.zeros(POINTS), ctime).phi_hw_rad
    assert np.allclose(once, twice, rtol=0.0, atol=1e-12)
