"""What a single pass over a reading's profiles tells of each; a loop looks at every cycle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.compiling import compiled_exactly

_NOT_FINITE = np.uint32(0x7F800000)
"""Exponent of a float32 that is infinite or no number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileSums:
    """Sums over each profile; those of one that is not finite mean nothing. All arrays [points]."""

    finite: NDArray[np.bool_]
    total: NDArray[np.float64]
    """Sum over the slices."""
    bend: NDArray[np.float64]
    """Mean size of the second difference, in float32 as the profile is: infinite where it overflows."""
    flat: NDArray[np.int64]
    """Slices in a row, at most, that stand at exactly the profile's largest value."""
    number: NDArray[np.uint64]
    """The same for the same bits, for others once in 2^64 by chance."""

    @classmethod
    def of(cls, profile: NDArray[np.float32]) -> ProfileSums:
        """Return the sums of profiles [points, n_slices], three slices at least."""
        rows = np.ascontiguousarray(profile, dtype=np.float32)
        points, n_slices = rows.shape
        sums = cls(
            finite=np.empty(points, dtype=np.bool_),
            total=np.empty(points),
            bend=np.empty(points),
            flat=np.empty(points, dtype=np.int64),
            number=np.empty(points, dtype=np.uint64),
        )
        _fill(
            rows,
            rows.view(np.uint32),
            _weights(n_slices),
            sums.finite,
            sums.total,
            sums.bend,
            sums.flat,
            sums.number,
        )
        return sums


@cache
def _weights(n_slices: int) -> NDArray[np.uint64]:
    """Return odd numbers of 64 bits [n_slices], the same in every run.

    Odd: no two profiles that differ in one slice have the same sum.
    """
    drawn = np.random.default_rng(1).integers(2**64, size=n_slices, dtype=np.uint64)
    return np.asarray(drawn | np.uint64(1))


@compiled_exactly
def _fill(  # noqa: PLR0917 - numba's own
    rows: Any,
    bits: Any,
    weights: Any,
    finite: Any,
    total: Any,
    bend: Any,
    flat: Any,
    number: Any,
) -> None:
    points, n_slices = rows.shape
    for k in range(points):
        whole, summed, bent, hashed = True, 0.0, 0.0, np.uint64(0)
        highest, run, longest = rows[k, 0], 0, 0
        before, slope = rows[k, 0], np.float32(0.0)
        for i in range(n_slices):
            value = rows[k, i]
            whole &= (bits[k, i] & _NOT_FINITE) != _NOT_FINITE
            hashed += np.uint64(bits[k, i]) * weights[i]
            summed += value
            rise = value - before
            if i > 1:
                bent += abs(rise - slope)
            before, slope = value, rise
            if value > highest:
                highest, run, longest = value, 1, 1
            elif value == highest:
                run += 1
                longest = max(longest, run)
            else:
                run = 0
        finite[k] = whole
        total[k] = summed
        bend[k] = bent / (n_slices - 2)
        flat[k] = longest
        number[k] = hashed
