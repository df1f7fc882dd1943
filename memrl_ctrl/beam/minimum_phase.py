"""Whether the phase of a tabulated impedance can belong to its magnitude.

The impedance of passive, causal things (cavities under feedback, gaps, walls) is a minimum-phase
function: its magnitude alone gives its phase. H. W. Bode, Network Analysis and Feedback Amplifier
Design (Van Nostrand, 1945), chapter 14: with u = ln omega,

    phase(u0) = (1/pi) integral of d ln|Z| / du * ln coth(|u - u0| / 2) du,

the Hilbert transform of ln|Z| in another form. A phase that stands far from it belongs to another
magnitude, or one of the two is in another unit or of another sign. Space charge and other negative
inductances are not of minimum phase: a table that they dominate fails the check too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import spence

from memrl_ctrl.beam.machine import Array

THRESHOLD_DEG = 12.0
"""Median distance from minimum phase above which a table is suspect, degrees.

The measured table of one Finemet cell (closed loop, open loop, shorted gap) is at 3.4, 4.6 and 3.4
degrees with the phases that belong to it, at 32 to 68 degrees with others, and at 15 to 105 degrees
where its magnitudes are read as dB. Resonators of Q 0.05 to 100, sampled by 30 rows or more and with
the peak well inside the table, are within 3.5 degrees. A table that ends on the peak of a resonance with Q
of 3 or more is suspect though it is right: what decides its phase lies outside it.
"""
FEWEST_ROWS = 16
FEWEST_DECADES = 0.5
"""Tables with fewer rows or a smaller span of frequency are not judged: too much lies outside them."""
_EVALUATED = 201
_MARGIN = 0.1
"""Share of the logarithmic span at each end that is not compared: the phase there depends on the
magnitude outside the table."""
_MOST_ROWS = 4_000


def minimum_phase_rad(
    frequency_hz: npt.ArrayLike, magnitude: npt.ArrayLike, at_hz: npt.ArrayLike
) -> Array:
    """The phase that belongs to a magnitude, by Bode's relation between gain and phase.

    ln|Z| is taken as straight in ln f between the rows, for which the integral is exact (the
    integral of ln coth(x / 2) is a dilogarithm), and goes on beyond both ends with its mean slope
    over the last twentieth of the span.

    Args:
        frequency_hz: frequencies, Hz, above 0 and increasing (their logarithms too), [rows].
        magnitude: |Z| in any unit of ohm, above 0, [rows].
        at_hz: where the phase is wanted, Hz, [n].

    Returns:
        Phase, rad, [n], in the convention of exp(+j omega t): an inductance has +pi/2.
    """
    u = np.log(np.asarray(frequency_hz, dtype=np.float64))
    gain = np.log(np.asarray(magnitude, dtype=np.float64))
    slope = np.diff(gain) / np.diff(u)
    reach = 0.05 * (u[-1] - u[0])
    first = (np.interp(u[0] + reach, u, gain) - gain[0]) / reach
    last = (gain[-1] - np.interp(u[-1] - reach, u, gain)) / reach
    weight = _weight(u[None, :] - np.log(np.asarray(at_hz, dtype=np.float64))[:, None])
    total = np.diff(weight, axis=1) @ slope
    total += first * (weight[:, 0] + np.pi**2 / 4.0) + last * (np.pi**2 / 4.0 - weight[:, -1])
    return np.asarray(total / np.pi, dtype=np.float64)


def phase_distance_deg(frequency_hz: npt.ArrayLike, impedance: npt.ArrayLike) -> float:
    """Median distance between an impedance's phase and the one that belongs to its magnitude.

    The median is over ln f, without a tenth of the span at each end.

    Args:
        frequency_hz: frequencies, Hz, increasing, [rows]; rows at 0 Hz or with Z = 0 are left out.
        impedance: complex impedance, ohm, [rows].

    Returns:
        Degrees, 0 to 180; NaN where the table has fewer than 16 rows or half a decade.
    """
    frequency = np.asarray(frequency_hz, dtype=np.float64)
    z: npt.NDArray[np.complex128] = np.asarray(impedance, dtype=np.complex128)
    usable = (frequency > 0.0) & (np.abs(z) > 0.0)
    frequency, z = frequency[usable], z[usable]
    if frequency.size > _MOST_ROWS:
        kept = np.unique(np.linspace(0, frequency.size - 1, _MOST_ROWS).astype(np.int64))
        frequency, z = frequency[kept], z[kept]
    # Rows so close that their logarithms are equal say nothing about a slope.
    u, first_of = np.unique(np.log(frequency), return_index=True)
    frequency, z = frequency[first_of], z[first_of]
    if u.size < FEWEST_ROWS or u[-1] - u[0] < FEWEST_DECADES * np.log(10.0):
        return float("nan")
    margin = _MARGIN * (u[-1] - u[0])
    at = np.linspace(u[0] + margin, u[-1] - margin, _EVALUATED)
    # Interpolated as a direction, so that a step from 180 to -180 degrees is none.
    unit = z / np.abs(z)
    found = np.interp(at, u, unit.real) + 1j * np.interp(at, u, unit.imag)
    expected = minimum_phase_rad(frequency, np.abs(z), np.exp(at))
    away = np.angle(found * np.exp(-1j * expected))
    return float(np.degrees(np.median(np.abs(away))))


def _weight(x: Array) -> Array:
    """Integral of ln coth(|t| / 2) from 0 to x: pi^2/4 - Li2(exp(-x)) + Li2(-exp(-x)), odd in x."""
    decay: Any = np.exp(-np.abs(x))
    # scipy's spence(z) is Li2(1 - z).
    positive = np.pi**2 / 4.0 - spence(1.0 - decay) + spence(1.0 + decay)
    return np.asarray(np.sign(x) * positive, dtype=np.float64)
