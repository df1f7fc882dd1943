# ruff: noqa: PLR0912, PLR0915, PLR0917 - the compiled function is one pass over a profile
"""Metrics of measured profiles, and differences of phases.

All metrics come from one pass, `measure`, which takes profiles as a monitor gives them: in
arbitrary units, with a baseline, noise, and the bunch anywhere on the turn.

1. The noise per slice comes from fourth differences, in which the bunch itself cancels but for its
   edges, which are left out.
2. The circular mean finds the bunch; the turn is cut opposite to it.
3. A running mean over 1/64 of a turn, from the cut inwards, finds where the bunch rises above the
   baseline by four times the mean's own noise. From the slope there follows where it ends.
4. The baseline is the mean outside; first guess: the running mean's minimum, plus what noise takes
   off it.
5. Moments are those of the profile less baseline between the ends; the peak is the top of a parabola
   through a seventh of the bunch.

For a noiseless profile all of it (but a few parts in a thousand of the peak) counts, and the results
are those of the beam model.

Every metric comes with one standard deviation, propagated to first order from the noise of a slice
(white; one that a filter has smoothed is underestimated) and from the baseline's. With the area A,
d = (phi - mean) / rms and the skewness S, a slice's excess v changes

    mean by rms d v / A,   rms by rms (d^2 - 1) v / 2 A,   S by (d^3 - 3 d - 3 S d^2 / 2 + S / 2) v / A

(variations of the standardised moments, for example M. Kendall, A. Stuart, The Advanced Theory of
Statistics 1, chapter 10); the baseline changes all slices at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from memrl_ctrl.angles import wrap
from memrl_ctrl.compiling import compiled
from memrl_ctrl.errors import UsageError

Array = npt.NDArray[np.float64]

MIN_SLICES = 16
_MEAN, _SIGMA, _SKEWNESS, _BUNCHING, _BASELINE, _NOISE, _PEAK, _LEFT, _RIGHT = range(9)
_OF_MEAN, _OF_SIGMA, _OF_SKEWNESS, _OF_BUNCHING = range(9, 13)
_COLUMNS = 13
# Mean absolute value of (1, -4, 6, -4, 1) applied to normal noise, in units of its sigma.
_FOURTH_DIFFERENCE = math.sqrt(70.0) * math.sqrt(2.0 / math.pi)
_FEW_SLICES = 300
_TRIMMED_AT = 3.0
# By what the mean absolute value of normal noise shrinks where it is cut at so many times itself.
_TRIMMED_LOSS = math.erf(_TRIMMED_AT / math.sqrt(math.pi)) / (
    1.0 - math.exp(-(_TRIMMED_AT**2) / math.pi)
)
_CUT_SIGMAS = 4.0
_MINIMUM_SIGMAS = 2.0
_TOP_SHARE = 14
"""The parabola at the top reaches so small a part of the bunch to either side."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileMetrics:
    """Metrics of profiles; NaN where a profile is not finite or shows no bunch.

    All arrays have the profiles' leading dimensions.
    """

    asymmetry: Array
    """Skewness about the profile's own mean, phase increasing with time."""
    asymmetry_sigma: Array
    """One standard deviation of it from noise and baseline, as all that are called sigma."""
    bunching_factor: Array
    """Mean over peak of the line density, over one turn."""
    bunching_factor_sigma: Array
    """Its standard deviation."""
    rms_length_turns: Array
    """Rms length, turns of the lower harmonic."""
    rms_length_sigma_turns: Array
    """Its standard deviation, turns."""
    mean_turns: Array
    """Mean position from the start of the first slice, turns, in [0, 1)."""
    mean_sigma_turns: Array
    """Its standard deviation, turns."""
    baseline: Array
    """Baseline, units of the profile."""
    noise: Array
    """Rms noise of a slice, units of the profile."""
    peak: Array
    """Peak above the baseline, from a parabola through the top, units of the profile."""
    window_turns: Array
    """Length of the part that was taken for the bunch, turns."""

    def bunch_length_s(self, frequency_hz: npt.ArrayLike) -> tuple[Array, Array]:
        """Four times the rms length and its standard deviation, s.

        Args:
            frequency_hz: frequency of the turn (the lower harmonic's), Hz, broadcast to [...].
        """
        scale = 4.0 / np.asarray(frequency_hz, dtype=np.float64)
        return scale * self.rms_length_turns, scale * self.rms_length_sigma_turns


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
    _measure_rows(rows, *_turn(n_slices), result)
    columns = result.T.reshape(_COLUMNS, *leading)
    return ProfileMetrics(
        asymmetry=columns[_SKEWNESS],
        asymmetry_sigma=columns[_OF_SKEWNESS],
        bunching_factor=columns[_BUNCHING],
        bunching_factor_sigma=columns[_OF_BUNCHING],
        rms_length_turns=columns[_SIGMA],
        rms_length_sigma_turns=columns[_OF_SIGMA],
        mean_turns=columns[_MEAN],
        mean_sigma_turns=columns[_OF_MEAN],
        baseline=columns[_BASELINE],
        noise=columns[_NOISE],
        peak=columns[_PEAK],
        window_turns=columns[_RIGHT] - columns[_LEFT],
    )


@lru_cache(maxsize=16)
def _turn(n_slices: int) -> tuple[Array, Array]:
    """Return cosine and sine of the middle of each slice; nobody writes into them."""
    phase = (np.arange(n_slices) + 0.5) * (2.0 * np.pi / n_slices)
    return np.cos(phase), np.sin(phase)


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
    return measure(profile).bunch_length_s(frequency_hz)[0]


def circular_difference(a_rad: npt.ArrayLike, b_rad: npt.ArrayLike) -> Array:
    """a - b on the circle, rad, in (-pi, pi]."""
    return wrap(np.asarray(a_rad, dtype=np.float64) - np.asarray(b_rad, dtype=np.float64))


def phase_error_deg(phi2_rad: npt.ArrayLike, optimum_rad: npt.ArrayLike) -> Array:
    """Circular distance of phi2 from the reference optimum, degrees, in [0, 180]."""
    return np.degrees(np.abs(circular_difference(phi2_rad, optimum_rad)))


def mean_known(values: npt.ArrayLike, axis: int = -1) -> Array:
    """Mean along an axis of the finite values; NaN where there is none, without a warning."""
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    number = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


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

    noise = _noise(values, smooth)

    half = max(1, slices // 128) if slices >= 48 else 0
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
    of_baseline = own
    least = max(2, slices // 32)
    left, right = 0, slices - 1
    for _ in range(2):
        left, right = _ends(smooth, top, width, baseline, _CUT_SIGMAS * own)
        # What is left of the turn is shared where the extrapolated ends leave too little.
        spare = least - (slices - (right - left + 1)) + 2 * half
        if spare > 0:
            left = min(left + (spare + 1) // 2, top)
            right = max(right - (spare + 1) // 2, top)
        # The running mean rises half a window before the profile does.
        outside, count = 0.0, 0
        for i in range(left - half):
            outside += values[i]
            count += 1
        for i in range(right + half + 1, slices):
            outside += values[i]
            count += 1
        if count >= least:
            baseline = outside / count
            of_baseline = noise / math.sqrt(count)
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
    rms = math.sqrt(second)
    skewness = third / (second * rms)
    level, of_level = _top(values, left, right)
    peak = level - baseline
    if not peak > 0.0:
        return
    result[_MEAN] = ((mean + 0.5 + shift) / slices) % 1.0
    result[_SIGMA] = rms / slices
    result[_SKEWNESS] = skewness
    result[_BUNCHING] = area / slices / peak
    result[_BASELINE] = baseline
    result[_NOISE] = noise
    result[_PEAK] = peak
    result[_LEFT] = left / slices
    result[_RIGHT] = (right + 1) / slices
    middle = 0.5 * (left + right) - mean
    _uncertainties(result, right - left + 1, middle, rms, area, of_level, of_baseline)


@compiled
def _uncertainties(
    result: Any, count: Any, middle: Any, rms: Any, area: Any, of_level: Any, of_baseline: Any
) -> None:
    """Put in the standard deviations of what is in `result`.

    count: slices of the bunch, whose middle lies `middle` slices behind its mean. of_level: variance
    of the top in units of a slice's. of_baseline: standard deviation of the baseline.
    """
    noise, peak, skewness = result[_NOISE], result[_PEAK], result[_SKEWNESS]
    n = float(count)
    off = middle / rms
    q = 1.0 / (rms * rms)
    # Sums of powers of d over the ends, from those about the middle: no further pass.
    p2 = n * (n * n - 1.0) / 12.0 * q
    p4 = p2 * (3.0 * n * n - 7.0) / 20.0 * q
    p6 = p2 * (3.0 * n**4 - 18.0 * n * n + 31.0) / 112.0 * q * q
    d1 = n * off
    d2 = n * off**2 + p2
    d3 = n * off**3 + 3.0 * off * p2
    d4 = n * off**4 + 6.0 * off**2 * p2 + p4
    d5 = n * off**5 + 10.0 * off**3 * p2 + 5.0 * off * p4
    d6 = n * off**6 + 15.0 * off**4 * p2 + 15.0 * off**2 * p4 + p6
    slice2, base2 = (noise / area) ** 2, (of_baseline / area) ** 2
    result[_OF_MEAN] = result[_SIGMA] * math.sqrt(slice2 * d2 + base2 * d1**2)
    spread = slice2 * (d4 - 2.0 * d2 + n) + base2 * (d2 - n) ** 2
    result[_OF_SIGMA] = 0.5 * result[_SIGMA] * math.sqrt(spread)
    a, c = -1.5 * skewness, 0.5 * skewness
    # g = d^3 + a d^2 - 3 d + c
    total = d3 + a * d2 - 3.0 * d1 + c * n
    squares = (
        d6
        + 2.0 * a * d5
        + (a * a - 6.0) * d4
        + (2.0 * c - 6.0 * a) * d3
        + (9.0 + 2.0 * a * c) * d2
        - 6.0 * c * d1
        + c * c * n
    )
    result[_OF_SKEWNESS] = math.sqrt(slice2 * squares + base2 * total**2)
    # Area and top share slices; the top's weights have the sum 1.
    own2 = (n / area**2 - 2.0 / (area * peak) + of_level / peak**2) * noise**2
    both = (1.0 / peak - n / area) * of_baseline
    result[_OF_BUNCHING] = result[_BUNCHING] * math.sqrt(max(own2, 0.0) + both**2)


@compiled
def _noise(values: Any, scratch: Any) -> Any:
    """Standard deviation of a slice's noise.

    Where slices are few, the differences that hold an edge of the bunch weigh: those above three
    times the mean of the rest are left out.
    """
    count = values.shape[0] - 4
    mean = 0.0
    for i in range(count):
        scratch[i] = abs(
            values[i]
            - 4.0 * values[i + 1]
            + 6.0 * values[i + 2]
            - 4.0 * values[i + 3]
            + values[i + 4]
        )
        mean += scratch[i]
    mean /= count
    for _ in range(2 if count < _FEW_SLICES else 0):
        limit, total, kept = _TRIMMED_AT * mean, 0.0, 0
        for i in range(count):
            if scratch[i] <= limit:
                total += scratch[i]
                kept += 1
        if kept == 0:
            break
        mean = _TRIMMED_LOSS * total / kept
    return mean / _FOURTH_DIFFERENCE


@compiled
def _ends(smooth: Any, top: Any, width: Any, baseline: Any, rise: Any) -> Any:
    """First and last slice of the bunch, from its running mean."""
    slices = smooth.shape[0]
    threshold = baseline + rise
    left, right = 0, slices - 1
    # A bunch is still there one window on; a peak of noise is not.
    while left < top - width and min(smooth[left], smooth[left + width]) <= threshold:
        left += 1
    while right > top + width and min(smooth[right], smooth[right - width]) <= threshold:
        right -= 1
    # From the threshold down it goes on at the slope with which it came; twice that far for safety.
    second = baseline + min(3.0 * rise, 0.5 * (smooth[top] - baseline))
    inner = left
    while inner < top and smooth[inner] <= second:
        inner += 1
    reach = inner - left
    inner = right
    while inner > top and smooth[inner] <= second:
        inner -= 1
    return max(left - reach, 0), min(right + right - inner, slices - 1)


@compiled
def _top(values: Any, left: Any, right: Any) -> Any:
    """Top of a least-squares parabola, and its variance in units of a slice's.

    The parabola lies where its middle is highest on average over its reach.
    """
    reach = max(2, (right - left) // _TOP_SHARE)
    count = 2 * reach + 1
    left, right = max(left, 0), min(right, values.shape[0] - 1)
    if right - left < count:
        top = left
        for i in range(left, right + 1):
            if values[i] > values[top]:
                top = i
        return values[top], 1.0
    running = 0.0
    for i in range(left, left + count):
        running += values[i]
    highest, top = running, left + reach
    for i in range(left + count, right + 1):
        running += values[i] - values[i - count]
        if running > highest:
            highest, top = running, i - reach
    s0, s1, s2, m4 = 0.0, 0.0, 0.0, 0.0
    m2 = reach * (reach + 1.0) * (2.0 * reach + 1.0) / 3.0
    for j in range(-reach, reach + 1):
        v = values[top + j]
        s0 += v
        s1 += v * j
        s2 += v * j * j
        m4 += float(j) ** 4
    curvature = (count * s2 - m2 * s0) / (count * m4 - m2 * m2)
    slope = s1 / m2
    level = (s0 - curvature * m2) / count
    place = 0.0
    if curvature < 0.0:
        place = min(max(-0.5 * slope / curvature, -float(reach)), float(reach))
    # Level and curvature are correlated; the slope is not.
    determinant = count * m4 - m2 * m2
    x = place * place
    variance = (m4 - 2.0 * m2 * x + count * x * x) / determinant + x / m2
    return level + slope * place + curvature * x, variance
