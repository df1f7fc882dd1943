"""Bytes of arrays in planes, and a digitiser's levels as steps: compiled, for every cycle waits for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.compiling import compiled_exactly
from memrl_ctrl.trace.levels import number_levels

Octets = NDArray[np.uint8]


def split_planes(data: bytes | memoryview, itemsize: int) -> Octets:
    """Return the first byte of each element, then the second of each, and so on [itemsize, elements]."""
    octets = np.frombuffer(data, dtype=np.uint8)
    planes = np.empty((itemsize, octets.size // itemsize), dtype=np.uint8)
    if itemsize == 4:
        _split_words(octets.view("<u4"), planes)
    else:
        planes[:] = octets.reshape(-1, itemsize).T
    return planes


def folded_levels(data: bytes | memoryview, most: int) -> tuple[NDArray[np.uint32], Octets] | None:
    """Return the levels of float32 values, and from element to element the step between them, folded.

    A step d, modulo 2^16, is folded to (d << 1) ^ (d >> 15): small ones of either sign become small numbers.

    Args:
        data: the values' bytes.
        most: most levels that are worth it.

    Returns:
        The levels' bits by rising value [levels], and the folded steps in planes [2, elements]; None if
        there are more levels.
    """
    found = number_levels(np.frombuffer(data, dtype="<u4"), most)
    if found is None:
        return None
    levels, place, codes = found
    planes = np.empty((2, codes.size), dtype=np.uint8)
    _fold(place, codes, planes)
    return levels, planes


@compiled_exactly
def _split_words(words: Any, planes: Any) -> None:
    for i in range(words.size):
        word = words[i]
        planes[0, i] = word & 0xFF
        planes[1, i] = (word >> 8) & 0xFF
        planes[2, i] = (word >> 16) & 0xFF
        planes[3, i] = word >> 24


@compiled_exactly
def _fold(place: Any, codes: Any, planes: Any) -> None:
    before = np.uint16(0)
    for i in range(codes.size):
        here = place[codes[i]]
        step = np.int32(np.int16(here - before))
        folded = np.uint16((step << 1) ^ (step >> 15))
        planes[0, i] = folded & 0xFF
        planes[1, i] = folded >> 8
        before = here
