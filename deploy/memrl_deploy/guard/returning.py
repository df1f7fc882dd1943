"""The way back by a turn: a goal beyond the range of values stands once more a whole turn inside it.

A policy knows the circle, not the range. At the range's end it asks for more, is cut, and asks again:
without help the point stays there, up to half a turn wrong. The same phase stands a turn back. Going
there takes several cycles, and until less than half a turn is left the policy answers in the other
direction. So the guard remembers where to, until the policy's own answer leads there.

Points of one cycle form a smooth function and go back together; unrelated rows go each for itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.limits import PhaseLimits

TURN = 2.0 * math.pi
MARGIN_RAD = math.radians(3.0)
"""A wish that is so little beyond the range is cut, rad: the error is small and the way back is not."""
LED_RAD = math.radians(150.0)
"""From this distance to the place a turn back on, the policy's own answer leads there, rad."""
NEARER_RAD = 1e-6
"""Least way that counts as coming nearer, rad."""
PATIENCE = 3
"""So many cycles in a row without coming nearer (somebody else decides, the point holds, or a held
neighbour is in the way) end the way back."""

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Bounds = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, kw_only=True)
class Returning:
    """What is remembered from cycle to cycle; a new one each time. All arrays [points]."""

    aim_rad: FloatArray
    """Where the point goes back to, rad; NaN where it does not."""
    last_rad: FloatArray
    """What was applied in the cycle before, rad."""
    idle: NDArray[np.int64]
    """Cycles in a row in which the point came no nearer."""

    @classmethod
    def nowhere(cls, points: int) -> Returning:
        """No point goes back."""
        return cls(
            aim_rad=np.full(points, np.nan),
            last_rad=np.full(points, np.nan),
            idle=np.zeros(points, dtype=np.int64),
        )

    @property
    def going(self) -> BoolArray:
        """Points that go back [points]."""
        return np.isfinite(self.aim_rad)

    def seen(self, applied_rad: FloatArray) -> Returning:
        """Return what is left to do, now that a new cycle was seen.

        A point ends its way where the policy leads on, where it was moved away from its aim or past it, or
        where it does not come nearer, be it that it holds: an aim must not outlive what it was made for.
        """
        if not self.going.any():
            return replace(Returning.nowhere(applied_rad.size), last_rad=applied_rad.copy())
        way, way_before = self.aim_rad - applied_rad, self.aim_rad - self.last_rad
        left, before = np.abs(way), np.abs(way_before)
        idle = np.where(left < before - NEARER_RAD, 0, self.idle + 1)
        elsewhere = (left > before + NEARER_RAD) | (np.signbit(way) != np.signbit(way_before))
        ends = elsewhere | (left <= LED_RAD) | (idle > PATIENCE)
        aim = np.where(ends, np.nan, self.aim_rad)
        idle = np.where(np.isfinite(aim), idle, 0)
        return Returning(aim_rad=aim, last_rad=applied_rad.copy(), idle=idle)

    def begun(
        self, wanted_rad: FloatArray, limits: PhaseLimits, drift: Bounds, *, together: bool
    ) -> Returning:
        """Return it with the points that begin to go back.

        Args:
            wanted_rad: where the points want to go [points], rad.
            limits: the range.
            drift: how far down and up each point may go from where it was engaged [points], rad.
            together: whether they form one function; then all go or none, and only if all fit.
        """
        above = wanted_rad > limits.max_rad + MARGIN_RAD
        below = wanted_rad < limits.min_rad - MARGIN_RAD
        if not (above | below).any():
            return self
        staying = ~self.going
        turns = np.where(staying, 1.0 * above - below, 0.0)
        if together:  # where the most want to
            turns = np.where(staying, np.sign(turns.sum()), 0.0)
        aim = wanted_rad - TURN * turns
        low, high = np.maximum(limits.min_rad, drift[0]), np.minimum(limits.max_rad, drift[1])
        fits = (aim >= low) & (aim <= high)
        if together and not fits[staying].all():
            return self
        aim = np.where(fits & (turns != 0.0), aim, self.aim_rad)
        return replace(self, aim_rad=aim)
