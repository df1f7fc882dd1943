"""How far a point may go: over the last cycles, and from where it was at engage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Reading

FloatArray = NDArray[np.float64]
Bounds = tuple[FloatArray, FloatArray]


def readback_distance(reading: Reading) -> FloatArray:
    """Return how far the hardware's readback is from what is applied [points], rad; NaN if unknown."""
    return np.asarray(np.abs(reading.readback_rad - reading.applied_rad))


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Where the points were; a new one each cycle."""

    start_rad: FloatArray
    """What was applied at engage [points], rad."""
    last_rad: FloatArray
    """What was applied in the cycle before [points], rad."""
    moved_rad: FloatArray
    """Size of the last changes [changes, points], rad; the oldest first."""

    @classmethod
    def begun(cls, applied_rad: FloatArray) -> Budget:
        """Begin where the points are now [points], rad."""
        start = applied_rad.copy()
        return cls(start_rad=start, last_rad=start, moved_rad=np.zeros((0, start.size)))

    def seen(self, applied_rad: FloatArray, cycles: int) -> Budget:
        """Return it after one more cycle, with the changes that count towards the next window.

        Args:
            applied_rad: what is applied now [points], rad.
            cycles: length of the window; the change that is decided now is the last one in it.
        """
        moved = np.concatenate([self.moved_rad, np.abs(applied_rad - self.last_rad)[None]])
        kept = moved[max(0, moved.shape[0] - (cycles - 1)) :]
        return Budget(start_rad=self.start_rad, last_rad=applied_rad.copy(), moved_rad=kept)

    def rate_bounds(self, applied_rad: FloatArray, travel_rad: float) -> Bounds:
        """Return how far down and up each point may go so that its travel stays allowed [points], rad."""
        left = np.maximum(travel_rad - self.moved_rad.sum(axis=0), 0.0)
        return applied_rad - left, applied_rad + left

    def drift_bounds(self, applied_rad: FloatArray, drift_rad: float) -> Bounds:
        """Return how far down and up each point may go from where it began [points], rad.

        A point that somebody else moved further away may stay there, and come back.
        """
        return (
            np.minimum(self.start_rad - drift_rad, applied_rad),
            np.maximum(self.start_rad + drift_rad, applied_rad),
        )
