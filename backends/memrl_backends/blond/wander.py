"""How the hidden offset of phi_hw moves from shot to shot: still, jitter, drift, steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int64]

KINDS = ("still", "jitter", "drift", "steps")
"""What an episode's offset may do."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How far an offset moves; each a standard deviation, rad, a number or an array [rows]."""

    jitter_rad: float
    """Of an offset drawn anew in every shot."""
    drift_rad: float
    """Of the random walk, a shot."""
    step_rad: float
    """Of a step."""
    step_chance: float
    """Chance of a step in a shot."""


class Wander:
    """The moves of the offsets of all rows.

    Without kinds every row has every move in its full size. With kinds each row of an episode has one
    of them, drawn at its start, in a size drawn uniformly from 0 to the full one; nobody is told.

    Args:
        sizes: full sizes.
        kinds: some of `KINDS`; empty for all moves at once.
        points: number of rows.
        common: whether all rows share one offset, as the control points of a cycle do.
    """

    def __init__(self, sizes: Sizes, kinds: tuple[str, ...], *, points: int, common: bool) -> None:
        self._sizes, self._kinds, self._common, self._points = sizes, kinds, common, points
        full = (sizes.jitter_rad, sizes.drift_rad, sizes.step_rad)
        self._jitter, self._drift, self._step = (np.full(points, size) for size in full)

    def begin(self, rows: Rows, rng: np.random.Generator) -> None:
        """Draw the kind and its size of rows that begin an episode."""
        if not self._kinds:
            return
        size = 1 if self._common else rows.size
        number = rng.integers(len(self._kinds), size=size)
        kind = np.array([KINDS.index(name) for name in self._kinds])[number]
        share = rng.random(size)
        sizes = self._sizes
        self._jitter[rows] = np.where(kind == 1, share * sizes.jitter_rad, 0.0)
        self._drift[rows] = np.where(kind == 2, share * sizes.drift_rad, 0.0)
        self._step[rows] = np.where(kind == 3, share * sizes.step_rad, 0.0)

    def moved(self, rng: np.random.Generator) -> FloatArray | float:
        """Return what the offsets of all rows move by until the next shot, to stay, rad."""
        size = 1 if self._common else self._points
        moved: FloatArray | float = 0.0
        if self._drift.any():
            moved = self._drift[:size] * rng.standard_normal(size)
        if self._step.any() and self._sizes.step_chance > 0.0:
            happens = rng.random(size) < self._sizes.step_chance
            moved = moved + happens * self._step[:size] * rng.standard_normal(size)
        return moved

    def jitter(self, rows: Rows, rng: np.random.Generator) -> FloatArray | float:
        """Return what the offsets of `rows` are off in this shot only, rad."""
        if not self._jitter.any():
            return 0.0
        size = 1 if self._common else rows.size
        return self._jitter[rows[:size]] * rng.standard_normal(size)
