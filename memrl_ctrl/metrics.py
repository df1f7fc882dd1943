# ruff: noqa: PLR0912, PLR0915, PLR0917 - the compiled function is one pass over a profile
"""Metrics of measured profiles, and differences of phases.

All metrics come from one pass, `measure`, which takes profiles as a monitor gives them: in
arbitrary units, with a baseline, noise, and the bunch anywhere on the turn.

1. The noise per slice comes from fourth differences, in which the bunch itself cancels.
2. The circular mean finds the bunch; the turn is cut opposite to it.
3. A running mean over 1/64 of a turn, from the cut inwards, finds the bunch's two ends where it
   rises above the baseline by four times its own noise.
4. The baseline is the mean outside; first guess: the running mean's minimum, plus what noise takes
   off it.
5. Moments are those of the profile less baseline between the ends.

For a noiseless profile all of it (but a few parts in a thousand of the peak) counts, and the results
are those of the beam model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memrl_ctrl.beam._jit import compiled
from memrl_ctrl.errors import UsageError

Array = npt.NDArray[np.float64]

MIN_SLICES = 16
_MEAN, _SIGMA, _SKEWNESS, _BUNCHING, _BASELINE, _NOISE, _PEAK, _LEFT, _RIGHT = range(9)
_COLUMNS = 9
# Mean absolute value of (1, -4, 6, -4, 1) applied to normal noise, in units of its sigma.
_FOURTH_DIFFERENCE = math.sqrt(70.0) * math.sqrt(2.0 / math.pi)
_CUT_SIGMAS = 4.0
_MINIMUM_SIGMAS = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileMetrics:
    """Metrics of profiles; NaN where a profile is not finite or shows no bunch.

    All arrays have the profiles' leading dimensions.
    """

    asymmetry: Array
    """Skewness about the profile's own mean, phase increasing with time."""
    bunching_factor: Array
    """Mean over peak of the line density, over one turn."""
    rms_length_turns: Array
    """Rms length, turns of the lower harmonic."""
    mean_turns: Array
    """Mean position from the start of the first slice, turns, in [0, 1)."""
    baseline: Array
    """Baseline, units of the profile."""
    noise: Array
    """Rms noise of a slice, units of the profile."""
    peak: Array
    """Peak above the baseline, from a parabola through the top, units of the profile."""
    window_turns: Array
    """Length of the part that was taken for the bunch, turns."""


def measure(profile: npt.ArrayLike) -> ProfileMetrics:
    """All metrics of profiles [..., n_slices] over one turn, phase increasing with time.

    Raises:
        UsageError: fewer than 16 slices.
    """
    values = np.asarray(profile)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim == 0 or values.shape[-1] < MIN_SLICES:
        raise UsageError(
            f"a profile has {MIN_SLICES} slices at least; this has shape {values.shape}"
        )
    leading, n_slices = values.shape[:-1], values.shape[-1]
    rows = np.ascontiguousarray(values.reshape(-1, n_slices))
    result = np.empty((rows.shape[0], _COLUMNS))
    phase = (np.arange(n_slices) + 0.5) * (2.0 * np.pi / n_slices)
    _measure_rows(rows, np.cos(phase), np.sin(phase), result)
    columns = result.T.reshape(_COLUMNS, *leading)
    return ProfileMetrics(
        asymmetry=columns[_SKEWNESS],
        bunching_factor=columns[_BUNCHING],
        rms_length_turns=columns[_SIGMA],
        mean_turns=columns[_MEAN],
        baseline=columns[_BASELINE],
        noise=columns[_NOISE],
        peak=columns[_PEAK],
        window_turns=columns[_RIGHT] - columns[_LEFT],
    )


def asymmetry(profile: npt.ArrayLike) -> Array:
    """Skewness of profiles [..., n_slices] about their own mean, phase increasing with time."""
    return measure(profile).asymmetry


def bunching_factor(profile: npt.ArrayLike) -> Array:
    """Mean over peak of profiles [..., n_slices] over one turn."""
    return measure(profile).bunching_factor


def bunch_length_s(profile: npt.ArrayLike, frequency_hz: npt.ArrayLike) -> Array:
    """Four times the rms length of profiles [..., n_slices], s.

    Args:
        profile: profiles over one turn.
        frequency_hz: frequency of that turn (the lower harmonic's), Hz, broadcast to [...].
    """
    result: Array = 4.0 * measure(profile).rms_length_turns / np.asarray(frequency_hz)
    return result


def circular_difference(a_rad: npt.ArrayLike, b_rad: npt.ArrayLike) -> Array:
    """a - b on the circle, rad, in (-pi, pi]."""
    difference = np.asarray(a_rad, dtype=np.float64) - np.asarray(b_rad, dtype=np.float64)
    result: Array = np.pi - np.mod(np.pi - difference, 2.0 * np.pi)
    return result


def phase_error_deg(phi2_rad: npt.ArrayLike, optimum_rad: npt.ArrayLike) -> Array:
    """Circular distance of phi2 from the reference optimum, degrees, in [0, 180]."""
    return np.degrees(np.abs(circular_difference(phi2_rad, optimum_rad)))


@compiled
def _measure_rows(rows: Any, cosine: Any, sine: Any, result: Any) -> None:
    slices = rows.shape[1]
    values = np.empty(slices)
    smooth = np.empty(slices)
    for k in range(rows.shape[0]):
        _measure_one(rows[k], cosine, sine, values, smooth, result[k])


@compiled
def _measure_one(
    profile: Any, cosine: Any, sine: Any, values: Any, smooth: Any, result: Any
) -> None:
    slices = profile.shape[0]
    result[:] = np.nan
    x, y, total = 0.0, 0.0, 0.0
    for i in range(slices):
        x += profile[i] * cosine[i]
        y += profile[i] * sine[i]
        total += profile[i]
    if not math.isfinite(total) or not math.isfinite(x) or (x == 0.0 and y == 0.0):
        return
    centre = math.atan2(y, x) * slices / (2.0 * math.pi)
    # The bunch is moved to the middle, so that the turn's ends lie opposite to it.
    shift = (math.floor(centre) - slices // 2) % slices
    for i in range(slices - shift):
        values[i] = profile[i + shift]
    for i in range(slices - shift, slices):
        values[i] = profile[i + shift - slices]

    noise = 0.0
    for i in range(2, slices - 2):
        noise += abs(
            values[i - 2]
            - 4.0 * values[i - 1]
            + 6.0 * values[i]
            - 4.0 * values[i + 1]
            + values[i + 2]
        )
    noise /= _FOURTH_DIFFERENCE * (slices - 4)

    half = max(1, slices // 128) if slices >= 96 else 0
    width = 2 * half + 1
    running = 0.0
    for i in range(-half, half + 1):
        running += values[i]  # negative indices wrap, as the turn does
    lowest, highest, top = np.inf, -np.inf, 0
    for i in range(slices):
        smooth[i] = running / width
        lowest = min(lowest, smooth[i])
        if smooth[i] > highest:
            highest, top = smooth[i], i
        ahead = i + half + 1
        running += values[ahead if ahead < slices else ahead - slices] - values[i - half]
    own = noise / math.sqrt(width)
    baseline = lowest + _MINIMUM_SIGMAS * own
    left, right = 0, slices - 1
    for _ in range(2):
        threshold = baseline + _CUT_SIGMAS * own
        left, right = 0, slices - 1
        # A bunch is still there one window on; a peak of noise is not.
        while left < top - width and min(smooth[left], smooth[left + width]) <= threshold:
            left += 1
        while right > top + width and min(smooth[right], smooth[right - width]) <= threshold:
            right -= 1
        # The running mean rises half a window before the profile does.
        outside, count = 0.0, 0
        for i in range(left - half):
            outside += values[i]
            count += 1
        for i in range(right + half + 1, slices):
            outside += values[i]
            count += 1
        if count >= max(2, slices // 32):
            baseline = outside / count
    if right - left < 2 or not highest > baseline:
        return

    area, first = 0.0, 0.0
    for i in range(left, right + 1):
        v = values[i] - baseline
        area += v
        first += v * i
    if not area > 0.0:
        return
    mean = first / area
    second, third = 0.0, 0.0
    for i in range(left, right + 1):
        d = i - mean
        v = (values[i] - baseline) * d * d
        second += v
        third += v * d
    second /= area
    third /= area
    if not second > 0.0:
        return
    peak = _top(values, top, half) - baseline
    result[_MEAN] = ((mean + 0.5 + shift) / slices) % 1.0
    result[_SIGMA] = math.sqrt(second) / slices
    result[_SKEWNESS] = third / (second * math.sqrt(second))
    result[_BUNCHING] = area / slices / peak
    result[_BASELINE] = baseline
    result[_NOISE] = noise
    result[_PEAK] = peak
    result[_LEFT] = left / slices
    result[_RIGHT] = (right + 1) / slices


@compiled
def _top(values: Any, top: int, half: int) -> Any:
    """Highest value of the least-squares parabola through the points around `top`."""
    slices = values.shape[0]
    reach = max(2, half)
    if top < reach or top >= slices - reach:
        return values[top]
    s0, s1, s2, m2, m4 = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(-reach, reach + 1):
        v = values[top + j]
        s0 += v
        s1 += v * j
        s2 += v * j * j
        m2 += j * j
        m4 += j**4
    count = 2 * reach + 1
    curvature = (count * s2 - m2 * s0) / (count * m4 - m2 * m2)
    slope = s1 / m2
    level = (s0 - curvature * m2) / count
    if curvature >= 0.0:
        return level
    place = min(max(-0.5 * slope / curvature, -float(reach)), float(reach))
    return level + slope * place + curvature * place * place
