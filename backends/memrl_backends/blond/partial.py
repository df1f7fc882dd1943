"""What of a setpoint takes effect, for training: a machine's limits let through less than was asked for.

Online a function is cut by the limit of its slope, by the guard or by the machine, or not taken at all,
and the points of a cycle hold each other. Unrelated rows have no neighbours: here each row draws what
it is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import UsageError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.ranges import Range

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Partial:
    """How much of what is asked for takes effect; the default is all of it.

    Raises:
        UsageError: a value out of its range, by name.
    """

    slew_share: float = 0.0
    """Share of the episodes in which the phase moves by no more than so much in a shot."""
    slew_rad: Range = (0.0, 0.0)
    """By how much then: drawn for each episode, evenly in the logarithm, rad."""
    hold_chance: float = 0.0
    """Chance, each shot of each row, that nothing is taken."""
    other_chance: float = 0.0
    """Chance, each shot of each row, that something else is played: an operator's change, or the way round
    the circle that the guard chose for all points together."""
    other_rad: Range = (0.0, 0.5 * math.pi)
    """Size of such a change, in both directions: drawn evenly from 0 to the second number, or evenly in the
    logarithm where the first is above 0, rad."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("slew_share", "hold_chance", "other_chance"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"{name} must be 0 to 1, not {value:g}")
        low, high = self.other_rad
        if not 0.0 <= low <= high <= math.pi:
            raise UsageError(f"other_deg must be 0 to 180 degrees, not {_degrees(self.other_rad)}")
        low, high = self.slew_rad
        if not (0.0 < low <= high <= math.pi or self.slew_share == 0.0):
            raise UsageError(
                f"slew_deg must be above 0 and at most 180 degrees, not {_degrees(self.slew_rad)}"
            )

    @property
    def everything(self) -> bool:
        """Whether all that is asked for takes effect."""
        return self.slew_share == self.hold_chance == self.other_chance == 0.0


EVERYTHING = Partial()
"""All that is asked for takes effect."""


class Allowed:
    """What each row is allowed in its episode.

    Args:
        partial: how much.
        limits: of the machine, which others keep too.
        points: number of rows.
    """

    def __init__(self, partial: Partial, limits: PhaseLimits, points: int) -> None:
        self._partial, self._limits = partial, limits
        self._slew = np.full(points, math.inf)

    def begin(self, rows: Rows, rng: np.random.Generator) -> None:
        """Draw what rows that begin an episode are allowed."""
        if self._partial.slew_share > 0.0:
            drawn = _even_in_logarithm(self._partial.slew_rad, rows.size, rng)
            limited = rng.random(rows.size) < self._partial.slew_share
            self._slew[rows] = np.where(limited, drawn, math.inf)

    def taken(
        self, asked_rad: FloatArray, held_rad: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """Return what takes effect of a function [rows], rad, where `held_rad` [rows] is applied."""
        moved = np.clip(asked_rad - held_rad, -self._slew, self._slew)
        if self._partial.hold_chance > 0.0:
            moved = np.where(rng.random(moved.size) < self._partial.hold_chance, 0.0, moved)
        if self._partial.other_chance > 0.0:
            other = held_rad + self._others(moved.size, rng)
            other = np.clip(other, self._limits.min_rad, self._limits.max_rad) - held_rad
            moved = np.where(rng.random(moved.size) < self._partial.other_chance, other, moved)
        return np.asarray(held_rad + moved)

    def _others(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Draw changes [count] that others make, rad."""
        low, high = self._partial.other_rad
        if low == 0.0:
            return rng.uniform(-high, high, count)
        size = _even_in_logarithm((low, high), count, rng)
        return np.where(rng.random(count) < 0.5, -size, size)


def _even_in_logarithm(span: Range, count: int, rng: np.random.Generator) -> FloatArray:
    return np.exp(rng.uniform(math.log(span[0]), math.log(span[1]), count))


def _degrees(span: Range) -> str:
    return " to ".join(f"{math.degrees(end):g}" for end in span)
