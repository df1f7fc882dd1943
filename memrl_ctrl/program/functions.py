"""Piecewise-linear functions of ctime, as function generators play them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Beyond = Literal["refuse", "hold"]

FIT_POINTS = 41
"""Equidistant samples of a function in the window of a slope's fit."""
_U = np.linspace(-1.0, 1.0, FIT_POINTS)
_FIT = np.linalg.pinv(np.stack([np.ones_like(_U), _U, _U**2], axis=1))
"""Least-squares coefficients of 1, u, u^2 from samples at `_U` [3, FIT_POINTS]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PiecewiseLinear:
    """A function of ctime given by breakpoints, straight in between.

    Raises:
        ValueError: fewer than 2 breakpoints, values that are not finite, times that do not increase.
    """

    ctime_ms: FloatArray
    """Breakpoints [n], ms, increasing."""
    value: FloatArray
    """Values at the breakpoints [n]; the unit is that of whoever holds the function."""
    beyond: Beyond = "refuse"
    """Outside its breakpoints: `refuse` to answer, or `hold` the first and the last value as a
    function generator does."""

    def __post_init__(self) -> None:
        time, value = (np.array(a, dtype=np.float64) for a in (self.ctime_ms, self.value))
        if time.ndim != 1 or time.shape != value.shape or time.size < 2:
            raise ValueError(
                f"a function needs at least 2 breakpoints, as many times as values, not "
                f"{time.shape} times and {value.shape} values"
            )
        if not (np.isfinite(time).all() and np.isfinite(value).all()):
            raise ValueError("a function's breakpoints must be finite")
        if not (np.diff(time) > 0).all():
            raise ValueError("a function's times must increase")
        if self.beyond not in ("refuse", "hold"):
            raise ValueError(f"beyond is {self.beyond!r}; allowed: refuse, hold")
        time.setflags(write=False)
        value.setflags(write=False)
        object.__setattr__(self, "ctime_ms", time)
        object.__setattr__(self, "value", value)

    def __eq__(self, other: object) -> bool:
        """Whether the breakpoints are the same, bit for bit."""
        if not isinstance(other, PiecewiseLinear):
            return NotImplemented
        return (
            np.array_equal(self.ctime_ms, other.ctime_ms)
            and np.array_equal(self.value, other.value)
            and self.beyond == other.beyond
        )

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def start_ms(self) -> float:
        """First ctime at which it has a value, ms; minus infinity where it holds."""
        return -np.inf if self.beyond == "hold" else float(self.ctime_ms[0])

    @cached_property
    def end_ms(self) -> float:
        """Last ctime at which it has a value, ms; infinity where it holds."""
        return np.inf if self.beyond == "hold" else float(self.ctime_ms[-1])

    def at(self, ctime_ms: Any) -> FloatArray:
        """Return the value at any ctime, same shape.

        Raises:
            ValueError: a ctime outside the breakpoints of a function that does not hold.
        """
        time = np.asarray(ctime_ms, dtype=np.float64)
        self._refuse_outside(time)
        return np.asarray(np.interp(time, self.ctime_ms, self.value), dtype=np.float64)

    def slope_per_s(self, ctime_ms: Any, window_ms: float) -> FloatArray:
        """Return the smoothed time derivative [n], unit of the value per second.

        A parabola is fitted by least squares to the function over a window (41 equidistant samples,
        centred on the ctime; cut where the function ends, so that it becomes one-sided there), and
        its slope at the ctime is returned. In the middle this is the derivative of Savitzky and
        Golay, Anal. Chem. 36 (1964) 1627, for second order, made independent of the sampling: the
        noise and the steps of a measured field's resolution average out, a slope that changes
        linearly is kept exactly.

        Args:
            ctime_ms: where [n], ms.
            window_ms: full width of the window, ms, above 0.

        Raises:
            ValueError: a ctime outside the breakpoints of a function that does not hold.
        """
        time = np.atleast_1d(np.asarray(ctime_ms, dtype=np.float64))
        if not window_ms > 0:
            raise ValueError(f"window_ms must be above 0, not {window_ms}")
        self._refuse_outside(time)
        low = np.maximum(time - 0.5 * window_ms, self.start_ms)
        high = np.minimum(time + 0.5 * window_ms, self.end_ms)
        centre, half = 0.5 * (low + high), 0.5 * (high - low)
        samples = np.interp(centre[:, None] + half[:, None] * _U, self.ctime_ms, self.value)
        # Relative to the middle sample, so that a large field does not cost digits.
        relative = samples - samples[:, FIT_POINTS // 2, None]
        coefficients = relative @ _FIT.T
        u = (time - centre) / half
        return np.asarray(
            1e3 * (coefficients[:, 1] + 2.0 * coefficients[:, 2] * u) / half, dtype=np.float64
        )

    def breakpoints_within(self, low_ms: float, high_ms: float) -> FloatArray:
        """Return both ends and the breakpoints between them, ms: a linear function's extremes lie there."""
        inside = self.ctime_ms[(self.ctime_ms > low_ms) & (self.ctime_ms < high_ms)]
        return np.concatenate([[low_ms], inside, [high_ms]])

    def _refuse_outside(self, time: FloatArray) -> None:
        if time.size and not (time.min() >= self.start_ms and time.max() <= self.end_ms):
            worst = time.min() if not time.min() >= self.start_ms else time.max()
            raise ValueError(
                f"ctime {worst:g} ms is outside the function's {self.start_ms:g} to {self.end_ms:g} ms"
            )


def negated(function: PiecewiseLinear) -> PiecewiseLinear:
    """Return the function of the other sign; no value becomes a negative zero."""
    value = np.where(function.value == 0.0, 0.0, -function.value)
    return PiecewiseLinear(ctime_ms=function.ctime_ms, value=value, beyond=function.beyond)
