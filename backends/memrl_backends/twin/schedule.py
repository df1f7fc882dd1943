"""When faults happen: the same for the same seed, whatever the backend and the client do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memrl_backends.twin.faults import Fault

IntArray = NDArray[np.int64]

_STREAM = 0x74_77_69_6E
"""Keeps the numbers that faults draw apart from those that the backend draws from the same seed."""


class Schedule:
    """Counts the cycles of each row and says how old each fault is there.

    Args:
        faults: in the order in which they happen.
        rows: control points.
        common: whether the rows share their faults, as the control points of a cycle do; each fault
            still concerns its own `points`.
        seed: of what happens at random.
    """

    def __init__(self, faults: Sequence[Fault], *, rows: int, common: bool, seed: int) -> None:
        self._faults = faults
        self._common = common
        self._seed = seed
        self._tick = 0
        self._count = np.zeros(rows, dtype=np.int64)
        self._where = [fault.rows(rows) for fault in faults]
        self._random_age = [np.full(rows, -1, dtype=np.int64) for _ in faults]

    def restart(self, rows: IntArray, seed: int | None) -> None:
        """Begin anew before the first cycle, in `rows`; with a seed everything drawn comes again."""
        if seed is not None:
            self._seed, self._tick = seed, 0
        self._count[rows] = 0
        for age in self._random_age:
            age[rows] = -1

    def generator(self, index: int) -> np.random.Generator:
        """Return the source of randomness of what a fault does in this cycle."""
        return np.random.default_rng((_STREAM, self._seed, index, self._tick))

    def advance(self, rows: IntArray, cycles: int = 1) -> None:
        """Go on by so many cycles, in `rows`."""
        self._tick += 1
        self._count[rows] += cycles
        for index, fault in enumerate(self._faults):
            if fault.probability > 0.0:
                self._draw(index, fault, rows)

    def catch_up(self, cycles: int) -> None:
        """Count cycles that nobody saw; what is random is not drawn for them."""
        self._count += cycles

    def _draw(self, index: int, fault: Fault, rows: IntArray) -> None:
        age = self._random_age[index]
        here = age[rows]
        there = here >= 0
        here[there] += 1
        if fault.span is not None:
            here[here >= fault.span] = -1
        # Drawn for all rows, so that what one row gets does not depend on which others go on.
        rng = np.random.default_rng((_STREAM, self._seed, index, self._tick, 1))
        drawn = rng.random(1 if self._common else age.size)
        begins = np.broadcast_to(drawn < fault.probability, age.shape)[rows]
        here[(here < 0) & begins] = 0
        age[rows] = here

    def age(self, index: int) -> IntArray:
        """Return for how many cycles a fault has been there [rows]: 0 in its first, -1 where not."""
        fault = self._faults[index]
        if fault.probability > 0.0:
            age = self._random_age[index]
        else:
            age = np.full(self._count.size, -1, dtype=np.int64)
            for begins in sorted(fault.at_cycle):
                since = self._count - begins
                if fault.every_cycles:
                    since = np.where(since >= 0, since % fault.every_cycles, since)
                age = np.where((since >= 0) & ((age < 0) | (since < age)), since, age)
            if fault.span is not None:
                age = np.where(age < fault.span, age, -1)
        return np.where(self._where[index], age, -1)
