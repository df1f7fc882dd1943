"""Limits of the knob phi_hw: value, step from cycle to cycle, slope along the cycle.

`PhaseLimits.check` refuses and `PhaseLimits.restrict` alters. The machine (and the twin) checks; the
runtime's guard restricts first, so that what it sends passes the check.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import RefusalReason, Refused

FloatArray = NDArray[np.float64]

TOLERANCE_RAD = 1e-9
"""Rounding that a check forgives, rad."""


@dataclass(frozen=True, kw_only=True)
class PhaseLimits:
    """What the hardware, or the one responsible for it, allows phi_hw to do."""

    min_rad: float = -4.0 * math.pi
    """Smallest value, rad."""
    max_rad: float = 4.0 * math.pi
    """Largest value, rad."""
    step_rad: float = math.pi / 2.0
    """Largest change of one point from one cycle to the next, rad."""
    slope_rad_per_ms: float = math.radians(5.0)
    """Largest change along the cycle, rad per ms."""

    def __post_init__(self) -> None:
        """Refuse limits that nothing can satisfy."""
        if not self.min_rad < self.max_rad:
            raise ValueError(f"min_rad {self.min_rad} must be below max_rad {self.max_rad}")
        for name in ("step_rad", "slope_rad_per_ms"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
        if math.isinf(self.slope_rad_per_ms):  # times no distance it would be no number
            raise ValueError(
                "slope_rad_per_ms must be finite: give a large one where there is none"
            )

    def check(
        self,
        phi_hw_rad: FloatArray,
        applied_rad: FloatArray,
        ctime_ms: FloatArray | None,
    ) -> None:
        """Refuse a function that breaks a limit.

        Args:
            phi_hw_rad: what is asked for [points], rad.
            applied_rad: what is applied now [points], rad.
            ctime_ms: control points [points]; None where the rows are unrelated (no slope check).

        Raises:
            Refused: with the reason, the first offending point and what is allowed.
        """
        if phi_hw_rad.shape != applied_rad.shape:
            raise Refused(
                RefusalReason.UNKNOWN_POINT,
                f"{phi_hw_rad.shape[0]} values for {applied_rad.shape[0]} control points",
            )
        bad = np.flatnonzero(~np.isfinite(phi_hw_rad))
        if bad.size:
            raise Refused(RefusalReason.NOT_FINITE, f"point {bad[0]} is {phi_hw_rad[bad[0]]}")
        outside = (phi_hw_rad < self.min_rad - TOLERANCE_RAD) | (
            phi_hw_rad > self.max_rad + TOLERANCE_RAD
        )
        if outside.any():
            i = int(np.argmax(outside))
            raise Refused(
                RefusalReason.LIMIT,
                f"point {i} asks for {phi_hw_rad[i]:.4f} rad; "
                f"allowed is {self.min_rad:.4f} to {self.max_rad:.4f} rad",
            )
        step = np.abs(phi_hw_rad - applied_rad)
        if step.max(initial=0.0) > self.step_rad + TOLERANCE_RAD:
            i = int(np.argmax(step))
            raise Refused(
                RefusalReason.STEP,
                f"point {i} would move by {step[i]:.4f} rad in one cycle; "
                f"allowed is {self.step_rad:.4f} rad",
            )
        if ctime_ms is not None and ctime_ms.size > 1:
            slope = np.abs(np.diff(phi_hw_rad)) / np.diff(ctime_ms)
            if slope.max() > self.slope_rad_per_ms * (1 + 1e-9) + TOLERANCE_RAD:
                i = int(np.argmax(slope))
                raise Refused(
                    RefusalReason.SLOPE,
                    f"between points {i} and {i + 1} the slope is {slope[i]:.4f} rad/ms; "
                    f"allowed is {self.slope_rad_per_ms:.4f} rad/ms",
                )

    def restrict(
        self,
        phi_hw_rad: FloatArray,
        applied_rad: FloatArray,
        ctime_ms: FloatArray | None,
    ) -> Restricted:
        """Bring a function within the limits, moving no point further than necessary.

        Steps and values are clipped point by point. The slope is met by the middle between the
        largest function below and the smallest function above that keep it: the projection that
        moves the worst point least (McShane and Whitney's extensions). It keeps steps and values,
        provided that what is applied now keeps them and the slope.

        Args:
            phi_hw_rad: what is wanted [points], rad, finite.
            applied_rad: what is applied now [points], rad, within the limits.
            ctime_ms: control points [points]; None where the rows are unrelated (no slope).
        """
        stepped = np.clip(phi_hw_rad, applied_rad - self.step_rad, applied_rad + self.step_rad)
        valued = np.clip(stepped, self.min_rad, self.max_rad)
        sloped = valued
        if ctime_ms is not None and ctime_ms.size > 1:
            reach = self.slope_rad_per_ms * np.abs(ctime_ms[:, None] - ctime_ms[None, :])
            highest = np.min(valued[None, :] + reach, axis=1)
            lowest = np.max(valued[None, :] - reach, axis=1)
            sloped = 0.5 * (highest + lowest)
        return Restricted(
            phi_hw_rad=sloped,
            step=np.abs(stepped - phi_hw_rad) > TOLERANCE_RAD,
            value=np.abs(valued - stepped) > TOLERANCE_RAD,
            slope=np.abs(sloped - valued) > TOLERANCE_RAD,
        )


@dataclass(frozen=True, kw_only=True)
class RateLimit:
    """How far a point may travel over a window of cycles."""

    travel_rad: float
    """Largest sum of a point's changes, forth and back added up, rad."""
    cycles: int
    """Number of cycles in a row that it is summed over."""


@dataclass(frozen=True, kw_only=True)
class Restricted:
    """A function within the limits, and which limit altered which point."""

    phi_hw_rad: FloatArray
    """What may be applied [points], rad."""
    step: NDArray[np.bool_]
    """Points that the step limit altered [points]."""
    value: NDArray[np.bool_]
    """Points that the value limit altered [points]."""
    slope: NDArray[np.bool_]
    """Points that the slope limit altered [points]."""

    @property
    def any(self) -> NDArray[np.bool_]:
        """Points that any limit altered [points]."""
        return np.asarray(self.step | self.value | self.slope)
