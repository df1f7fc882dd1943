# ruff: noqa: PLR0917 - compiled code: arrays handed in place
# mypy: disable-error-code="no-untyped-def"
"""Short Fourier sums over one turn, compiled.

At a few dozen harmonics, direct sums that use the symmetries of sine and cosine are quicker than an
FFT, and any number of points will do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from memrl_ctrl.compiling import compiled


def tables(points: int, harmonics: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """cos(n phi_i) and sin(n phi_i) at bin centres: [2, harmonics, points or points / 4].

    A quarter of a turn is enough where 4 divides the number of points.
    """
    count = points // 4 if points % 4 == 0 else points
    phase = (np.arange(count) + 0.5) * (2.0 * np.pi / points)
    order = np.arange(1, harmonics + 1)[:, None]
    return np.stack([np.cos(order * phase), np.sin(order * phase)])


@compiled
def synthesise(coefficients, harmonics, table, tilt, scratch, out):
    """Write sum_n C_n cos(n phi) + S_n sin(n phi) - tilt phi to `out`, a turn of 4 q points.

    `coefficients` holds C_1.. in its first half and S_1.. from index `harmonics`. The symmetries of
    sine and cosine about the quarters of a turn save three quarters of the work.
    """
    cos_table, sin_table = table[0], table[1]
    q = cos_table.shape[1]
    cos_even, cos_odd = scratch[0, :q], scratch[0, q : 2 * q]
    sin_even, sin_odd = scratch[1, :q], scratch[1, q : 2 * q]
    for i in range(q):
        cos_odd[i] = coefficients[0] * cos_table[0, i]
        sin_odd[i] = coefficients[harmonics] * sin_table[0, i]
        cos_even[i] = coefficients[1] * cos_table[1, i]
        sin_even[i] = coefficients[harmonics + 1] * sin_table[1, i]
    for n in range(2, harmonics - 1, 2):
        c_odd, s_odd = coefficients[n], coefficients[harmonics + n]
        c_even, s_even = coefficients[n + 1], coefficients[harmonics + n + 1]
        for i in range(q):
            cos_odd[i] += c_odd * cos_table[n, i]
            sin_odd[i] += s_odd * sin_table[n, i]
            cos_even[i] += c_even * cos_table[n + 1, i]
            sin_even[i] += s_even * sin_table[n + 1, i]
    step = 0.5 * math.pi / q
    half = 2 * q
    last = 4 * q - 1
    for i in range(q):
        phase = (i + 0.5) * step
        a = cos_even[i] + cos_odd[i]
        b = sin_even[i] + sin_odd[i]
        out[i] = a + b - tilt * phase
        out[last - i] = a - b - tilt * (2.0 * math.pi - phase)
        a = cos_even[i] - cos_odd[i]
        b = sin_even[i] - sin_odd[i]
        out[half + i] = a + b - tilt * (math.pi + phase)
        out[half - 1 - i] = a - b - tilt * (math.pi - phase)


@compiled
def analyse(density, harmonics, table, scratch, out):
    """Write sum_i density_i cos(n phi_i), then the same with sine, to `out` [2 harmonics]."""
    cos_table, sin_table = table[0], table[1]
    q = cos_table.shape[1]
    cos_even, cos_odd = scratch[0, :q], scratch[0, q : 2 * q]
    sin_even, sin_odd = scratch[1, :q], scratch[1, q : 2 * q]
    for i in range(q):
        first, second = density[i], density[2 * q - 1 - i]
        third, fourth = density[2 * q + i], density[4 * q - 1 - i]
        cos_even[i] = first + fourth + second + third
        cos_odd[i] = first + fourth - second - third
        sin_even[i] = first - fourth + third - second
        sin_odd[i] = first - fourth - third + second
    for n in range(0, harmonics - 1, 2):
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for i in range(q):
            a += cos_odd[i] * cos_table[n, i]
            b += sin_odd[i] * sin_table[n, i]
            c += cos_even[i] * cos_table[n + 1, i]
            d += sin_even[i] * sin_table[n + 1, i]
        out[n], out[harmonics + n] = a, b
        out[n + 1], out[harmonics + n + 1] = c, d


@compiled
def synthesise_any(coefficients, harmonics, table, tilt, out):
    """As `synthesise`, for any number of points."""
    points = out.shape[0]
    step = 2.0 * math.pi / points
    for i in range(points):
        out[i] = -tilt * (i + 0.5) * step
    for n in range(harmonics):
        c, s = coefficients[n], coefficients[harmonics + n]
        for i in range(points):
            out[i] += c * table[0, n, i] + s * table[1, n, i]
