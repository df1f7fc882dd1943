"""Finds the levels of a digitiser in an array of floats: exact, by their bits, whatever made them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.compiling import compiled_exactly
from memrl_ctrl.trace.columns import MAX_LEVELS

TABLE_BITS = 14
"""Slots of the hash table, as a power of two: four for each level."""
MULTIPLIER = 2654435761
"""Knuth's multiplicative hash: 2^32 over the golden ratio (The Art of Computer Programming 3, 6.4)."""


def find_levels(
    bits: NDArray[np.uint32], most: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint16]] | None:
    """Return the different values of an array of floats in rising order, and each element's place.

    Nothing is computed with the values: `levels[codes]` gives the same bits again, NaN and -0 included.

    Args:
        bits: float32 values as their bits [n].
        most: most levels that are worth it, at most `MAX_LEVELS`.

    Returns:
        Levels [levels] as bits, by rising value, and codes [n]; None if there are more levels.
    """
    found = number_levels(bits, most)
    if found is None:
        return None
    levels, place, codes = found
    return levels, place[codes]


def number_levels(
    bits: NDArray[np.uint32], most: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint16]] | None:
    """Return levels as `find_levels` does, but each element's place in two steps: `place[codes]`.

    Returns:
        Levels [levels] as bits, by rising value, place [levels] and codes [n]; None if there are more levels.
    """
    codes = np.empty(bits.size, dtype=np.uint16)
    levels = np.empty(MAX_LEVELS, dtype=np.uint32)
    place = np.empty(MAX_LEVELS, dtype=np.uint16)
    count = _collect(bits, min(most, MAX_LEVELS), levels, codes)
    if count < 0:
        return None
    _sort(levels[:count], place)
    return levels[:count], place[:count], codes


@compiled_exactly
def _collect(bits: Any, most: Any, levels: Any, codes: Any) -> Any:
    """Number the values by first appearance; return how many there are, -1 if more than `most`."""
    slots = np.full(1 << TABLE_BITS, -1, dtype=np.int16)
    mask = (1 << TABLE_BITS) - 1
    count = 0
    for i in range(bits.size):
        value = bits[i]
        slot = (
            (np.uint64(value) * np.uint64(MULTIPLIER)) >> np.uint64(32 - TABLE_BITS)
        ) & np.uint64(mask)
        code = slots[slot]
        while code >= 0 and levels[code] != value:
            slot = (slot + np.uint64(1)) & np.uint64(mask)
            code = slots[slot]
        if code < 0:
            if count == most:
                return -1
            levels[count] = value
            slots[slot] = count
            code = count
            count += 1
        codes[i] = code
    return count


@compiled_exactly
def _sort(levels: Any, place: Any) -> None:
    """Put levels into rising order, and note where each went."""
    high = np.uint32(1 << 31)
    # Floats rise with their bits where they are positive, and fall with them where they are negative.
    rising = np.empty(levels.size, dtype=np.uint32)
    for i in range(levels.size):
        rising[i] = ~levels[i] if levels[i] & high else levels[i] | high
    before = levels.copy()
    order = np.argsort(rising)
    for i in range(levels.size):
        levels[i] = before[order[i]]
        place[order[i]] = i
