"""What the HDF5 file does not store as it stands: a digitiser's profiles, and memory that is there already.

A profile is stored as steps between the digitiser's levels, a policy's memory as the number of the array
that it came out of in the cycle before. Nothing is computed with the values: the same bits come back, those
of NaN and of negative zero too. What neither fits stays as it is. `memrl_ctrl.trace.decoder` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.trace.codec import MEMORY_IN, MEMORY_OUT
from memrl_ctrl.trace.columns import (
    CYCLES,
    MAX_LEVELS,
    MEMORY_FROM,
    PROFILE,
    PROFILE_FIRST,
    PROFILE_STEP,
)

ELEMENTS_PER_LEVEL = 4
"""Fewer elements a level than this, and a table of levels saves nothing."""
SPARE = 1.5
"""A table that two cycles share has at most so many times the levels of the larger one's own: with those of
another gain between them the steps would become longer than the table saves."""
NARROW_SHARE = 0.75
"""Share of the first profiles that has to be codable in steps of one byte; else steps have two."""

Row = dict[str, Any]
Keys = NDArray[np.uint32]


class _Found(NamedTuple):
    """The levels of a cycle's profiles."""

    keys: Keys
    """Rising [levels]."""
    codes: NDArray[np.uint16]
    """Place of each element in `keys` [points * slices]."""


class Coder:
    """Replaces values of rows by what they can be made from again."""

    def __init__(self) -> None:
        self._table: Keys = np.empty(0, dtype=np.uint32)
        """The last table of levels."""
        self._begin = 0
        """Where it begins among the levels of all tables."""
        self._step: type[np.signedinteger[Any]] | None = None
        self._outs: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def replace(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Change the next rows of the file, in their order.

        Args:
            rows: values by column (`memrl_ctrl.trace.columns.cycle_row`).

        Returns:
            What comes behind the levels that there are already [levels].
        """
        for row in rows:
            self._replace_memory(row)
        found = [_levels_of(row[PROFILE]) for row in rows]
        added = []
        for members, table in _runs(found):
            added.append(self._use(table))
            self._replace_profiles([(rows[index], found[index]) for index in members])
        keys = np.concatenate([np.empty(0, dtype=np.uint32), *added])
        return _bits(keys).view(np.float32)

    def _replace_memory(self, row: Row) -> None:
        for path in [path for path in row if path.startswith(CYCLES + MEMORY_IN)]:
            number = self._outs.get(_identity(row[path]))
            if number is not None and row[path].size:
                row[MEMORY_FROM + path.removeprefix(CYCLES + MEMORY_IN)] = np.int8(number)
                del row[path]
        outs = sorted(p for p in row if p.startswith(CYCLES + MEMORY_OUT) and row[p].size)
        self._outs = {_identity(row[path]): number for number, path in enumerate(outs)}

    def _use(self, table: Keys) -> Keys:
        """Go on with the last table if it serves, else with this one; return what is added."""
        last = self._table
        if last.size <= SPARE * table.size and np.isin(table, last, assume_unique=True).all():
            return table[:0]
        self._begin += last.size
        self._table = table
        return table

    def _replace_profiles(self, members: Sequence[tuple[Row, _Found | None]]) -> None:
        places = [
            np.searchsorted(self._table, found.keys)[found.codes].reshape(row[PROFILE].shape)
            for row, found in members
            if found is not None
        ]
        if self._step is None:
            narrow = np.concatenate([_fit(_steps(place), np.int8) for place in places])
            self._step = np.int8 if narrow.mean() >= NARROW_SHARE else np.int16
        for (row, _), place in zip(members, places, strict=True):
            steps = _steps(place)
            fits = _fit(steps, self._step)
            if not fits.any():
                continue
            plain = np.array(row.pop(PROFILE))
            nothing = self._step(-1)
            row[PROFILE_STEP] = np.where(fits[:, None], steps, nothing).astype(self._step)
            row[PROFILE_FIRST] = np.where(fits, place[:, 0] + self._begin, -1).astype(np.int32)
            if not fits.all():
                plain[fits] = np.nan
                row[PROFILE] = plain


def _identity(values: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    return values.dtype.str, values.shape, values.tobytes()


def _levels_of(profile: NDArray[np.float32]) -> _Found | None:
    """Return the levels of a cycle's profiles; None where there are too many to be a digitiser's."""
    from memrl_ctrl.trace.levels import find_levels  # compiled code is loaded when it is needed

    bits = np.ascontiguousarray(profile).view(np.uint32).ravel()
    if not bits.size:
        return None
    found = find_levels(bits, bits.size // ELEMENTS_PER_LEVEL)
    return None if found is None else _Found(_keys(found[0]), found[1])


def _runs(found: Sequence[_Found | None]) -> Iterator[tuple[list[int], Keys]]:
    """Yield the cycles in a row that share a table, with the table; cycles without levels belong to none."""
    members: list[int] = []
    table: Keys = np.empty(0, dtype=np.uint32)
    for index, one in enumerate(found):
        if one is None:
            continue
        union = np.union1d(table, one.keys)
        if members and union.size > min(MAX_LEVELS, SPARE * max(table.size, one.keys.size)):
            yield members, table
            members, union = [], one.keys
        members.append(index)
        table = union
    if members:
        yield members, table


def _steps(place: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the difference of each slice's place to that of the slice before; 0 in the first."""
    return np.diff(place, axis=1, prepend=place[:, :1])


def _fit(steps: NDArray[np.intp], dtype: type[np.signedinteger[Any]]) -> NDArray[np.bool_]:
    """Return of which points all steps fit into a type [points]."""
    limits = np.iinfo(dtype)
    fits: NDArray[np.bool_] = (steps.min(axis=1) >= limits.min) & (steps.max(axis=1) <= limits.max)
    return fits


def _keys(bits: Keys) -> Keys:
    """Return numbers that rise with the values, one for each pattern of bits.

    Floats rise with their bits where they are positive, and fall with them where they are negative.
    """
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _bits(keys: Keys) -> Keys:
    """Return the bits of the values that have these keys."""
    return np.where(keys >> 31, keys & np.uint32((1 << 31) - 1), ~keys)
