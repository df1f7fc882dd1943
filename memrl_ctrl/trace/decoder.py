"""Makes the values again that `memrl_ctrl.trace.coder` replaced, bit for bit.

The file may come from anywhere: types, shapes, and every number that points into another dataset are checked
before they are used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.trace import datasets
from memrl_ctrl.trace.codec import MEMORY_IN, MEMORY_OUT
from memrl_ctrl.trace.columns import (
    CYCLES,
    LEVELS,
    MAX_LEVELS,
    MEMORY_FROM,
    PROFILE,
    PROFILE_FIRST,
    PROFILE_STEP,
)
from memrl_ctrl.trace.shapes import Columns

BLOCK_CYCLES = 64
"""Cycles whose profiles are made at once, those that are left out between them counted."""
PLAIN = -1
"""In `profile_first` and `memory_from`: the value stands in the file as it is."""


class Decoder:
    """Columns of an HDF5 file some of whose values have to be made.

    Args:
        file: `h5py.File`, a trace.
        columns: its columns, of the types and shapes that they have to have.
        cycles: how many cycles it has.
    """

    def __init__(self, file: Any, columns: Columns, cycles: int) -> None:
        self._file = file
        self._columns = columns
        self._cycles = cycles

    @staticmethod
    def names(stored: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the records' columns, given those of the file's."""
        own = (PROFILE_STEP, PROFILE_FIRST, MEMORY_FROM)
        return tuple(sorted(name for name in stored if not name.startswith(own)))

    def derives(self, path: str) -> bool:
        """Whether a column has values that have to be made."""
        source = self._source(path)
        return bool(source) and source in self._columns

    def column(self, path: str, rows: slice) -> NDArray[Any]:
        """Return some rows of such a column.

        Args:
            path: of the column.
            rows: within the cycles, step positive.

        Raises:
            ValueError: the file contradicts itself.
        """
        wanted = range(self._cycles)[rows]
        return self._profiles(wanted) if path == PROFILE else self._memory(path, wanted)

    @staticmethod
    def _source(path: str) -> str:
        """Return the path of what says where the values of a column stand; empty where nothing does."""
        if path.startswith(CYCLES + MEMORY_IN):
            return MEMORY_FROM + path.removeprefix(CYCLES + MEMORY_IN)
        return PROFILE_FIRST if path == PROFILE else ""

    def _profiles(self, wanted: range) -> NDArray[Any]:
        plain, first, step = map(self._columns.__getitem__, (PROFILE, PROFILE_FIRST, PROFILE_STEP))
        values = np.array(plain[_slice(wanted)])
        count = max(1, BLOCK_CYCLES // wanted.step)
        for begin in range(0, len(wanted), count):
            block = wanted[begin : begin + count]
            places = np.asarray(first[_slice(block)])
            coded = places != PLAIN
            steps = np.asarray(step[_slice(block)])[coded]
            # 32 bits may wrap in a file that was tampered with; what comes out is checked anyway.
            places = places[coded][:, None] + np.cumsum(steps, axis=-1, dtype=np.int32)
            values[begin : begin + len(block)][coded] = self._levels(places, block)
        return values

    def _levels(self, places: NDArray[np.int32], block: range) -> NDArray[np.float32]:
        """Return the levels at some places; cycles that are neighbours have theirs side by side."""
        if not places.size:
            return np.empty(places.shape, dtype=np.float32)
        levels = datasets.found(self._file, LEVELS)
        low, high = int(places.min()), int(places.max())
        if levels.ndim != 1 or levels.dtype != np.dtype("<f4"):
            raise ValueError(f"{LEVELS} is {levels.dtype} {levels.shape}, which does not fit")
        if low < 0 or high >= levels.shape[0] or high - low >= MAX_LEVELS * _span(block):
            raise ValueError("a profile names a level that is not there")
        return np.asarray(levels[low : high + 1])[places - low]

    def _memory(self, path: str, wanted: range) -> NDArray[Any]:
        plain, source = self._columns[path], self._columns[self._source(path)]
        number = np.asarray(source[_slice(wanted)])
        values = np.array(plain[_slice(wanted)])
        used = np.unique(number[number != PLAIN])
        outs = sorted(name for name in self._columns.names if name.startswith(CYCLES + MEMORY_OUT))
        if used.size and (used[0] < 0 or used[-1] >= len(outs)):
            raise ValueError(f"{path} came out of a memory that is not there")
        if number.size and number[0] != PLAIN and wanted[0] == 0:
            raise ValueError(f"{path} of the first cycle came out of a cycle that is not there")
        before = range(wanted.start - 1, wanted.stop - 1, wanted.step)
        skip = int(before.start < 0)
        for which in used:
            out = self._columns[outs[which]]
            if out.dtype != plain.dtype or out.shape != plain.shape:
                raise ValueError(
                    f"{outs[which]} is {out.dtype} {out.shape}, which does not fit {path}"
                )
            here = number[skip:] == which
            values[skip:][here] = np.asarray(out[_slice(before[skip:])])[here]
        return values


def _slice(rows: range) -> slice:
    return slice(rows.start, rows.stop, rows.step) if rows else slice(0, 0)


def _span(rows: range) -> int:
    """Return how many cycles lie from the first to the last one."""
    return rows[-1] - rows[0] + 1
