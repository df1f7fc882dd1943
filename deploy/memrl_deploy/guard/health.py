"""Health of the pick-ups, told from the profiles: dead, saturated, frozen.

A policy that is shown pure noise moves phi_hw by up to its largest step every cycle, so such a point
must hold even where no flag says anything. Noise is estimated from the profile itself: the second
difference of white noise of width sigma is sqrt(6) sigma wide, its mean size sqrt(2/pi) of that, and
that of a bunch over hundreds of slices is far smaller.

A profile with noise never comes again to the bit: one that does is frozen, be it one pick-up's or the whole
reading under a new cycle number, at once or in turn with other old ones. The cycle before is compared slice
by slice; of those before it one number a profile is kept.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Reading
from memrl_deploy.guard.config import GuardConfig

SECOND_DIFFERENCE = math.sqrt(6.0) * math.sqrt(2.0 / math.pi)
"""Mean size of the second difference of white noise, in its standard deviations."""
QUARTILE = 0.3186 * math.sqrt(6.0)
"""First quartile of the second difference's size, in standard deviations: a bunch's edges do not reach it."""
FEWEST_FLAT = 4
"""A flat top has at least so many slices, however few a turn has."""
FEW_SLICES = 8
"""Slices that are compared first, to see whether a profile came again."""

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ProfileArray = NDArray[np.float32]
NumberArray = NDArray[np.uint64]


def usable_points(reading: Reading) -> BoolArray:
    """Which points have a reading [points]: nothing is known against them, all finite."""
    finite = np.isfinite(reading.profile).all(axis=1)
    finite &= np.isfinite(reading.applied_rad) & np.isfinite(reading.synchronous_phase_rad)
    return np.asarray(finite & reading.usable)


def noise(profile: ProfileArray) -> ProfileArray:
    """Estimate the noise per slice [points], in the profile's units, of a profile [points, n_slices]."""
    second = _second_difference(profile)
    return np.asarray(np.abs(second, out=second).mean(axis=1) / SECOND_DIFFERENCE)


def _second_difference(profile: ProfileArray) -> ProfileArray:
    """Return the second difference along the turn [points, n_slices - 2], in two passes."""
    first = profile[:, 1:] - profile[:, :-1]
    return np.asarray(first[:, 1:] - first[:, :-1])


@np.errstate(over="ignore", invalid="ignore")
def unhealthy_points(
    profile: ProfileArray,
    before: ProfileArray | None,
    config: GuardConfig,
    again: BoolArray | None = None,
) -> BoolArray:
    """Which points have a dead, saturated or frozen pick-up [points].

    Args:
        profile: of this cycle [points, n_slices]; of one that is not finite nothing is to be taken from it.
        before: that of the cycle before; None if there was none.
        config: thresholds.
        again: profiles that came before that cycle already [points]; None if nothing is known of these.
    """
    sigma = noise(profile)
    # Numbers so large that their differences overflow give no noise at all: dead as well.
    dead = ~(profile.sum(axis=1) > config.dead_score * sigma * math.sqrt(profile.shape[1]))
    largest = profile.max(axis=1)
    bad = dead | _saturated(profile, largest, config.saturated_share)
    if before is not None and before.shape == profile.shape:
        same = _same_rows(profile, before)
        if again is not None:
            same |= again
        if same.any():
            bad[same] |= noisy_points(profile[same], config)
    return np.asarray(bad)


def came_again(
    profile: ProfileArray, earlier: NumberArray | None, config: GuardConfig
) -> tuple[BoolArray, NumberArray]:
    """Which profiles are those of one of the last readings.

    Args:
        profile: of this cycle [points, n_slices].
        earlier: what this returned for the cycle before; None if there was none.
        config: how many readings.

    Returns:
        [points], and the numbers of the last readings' profiles, this one's last [readings, points].
    """
    numbers = fingerprints(profile)[None]
    if earlier is None or earlier.shape[1:] != numbers.shape[1:]:
        return np.zeros(numbers.size, dtype=np.bool_), numbers
    again = (earlier == numbers).any(axis=0)
    return np.asarray(again), np.concatenate([earlier, numbers])[-config.frozen_readings :]


def fingerprints(profile: ProfileArray) -> NumberArray:
    """Return a number a profile [points]: the same for the same bits, for others once in 2^64 by chance."""
    bits = np.ascontiguousarray(profile, dtype=np.float32).view(np.uint32)
    return np.asarray((bits * _weights(bits.shape[1])).sum(axis=1, dtype=np.uint64))


@cache
def _weights(n_slices: int) -> NumberArray:
    """Return odd numbers of 64 bits [n_slices], the same in every run.

    Odd: no two profiles that differ in one slice have the same sum.
    """
    drawn = np.random.default_rng(1).integers(2**64, size=n_slices, dtype=np.uint64)
    return np.asarray(drawn | np.uint64(1))


def noisy_points(profile: ProfileArray, config: GuardConfig) -> BoolArray:
    """Which profiles [points, n_slices] have noise that tells one shot from the next [points]."""
    quiet = np.quantile(np.abs(_second_difference(profile)), 0.25, axis=1)
    return np.asarray(quiet / QUARTILE >= config.frozen_noise_share * profile.max(axis=1))


def _same_rows(profile: ProfileArray, before: ProfileArray) -> BoolArray:
    """Which profiles are the same, slice by slice [points]; a few slices tell most of them apart."""
    some = max(1, profile.shape[1] // FEW_SLICES)
    same = (profile[:, ::some] == before[:, ::some]).all(axis=1)
    if same.any():
        same[same] = (profile[same] == before[same]).all(axis=1)
    return np.asarray(same)


def _saturated(profile: ProfileArray, largest: NDArray[np.float32], share: float) -> BoolArray:
    """Which profiles stand at exactly their largest value for a share of the turn [points]."""
    run = max(FEWEST_FLAT, math.ceil(share * profile.shape[1]))
    # Of a run that long, two slices in a row of these are part: what they do not show is not there.
    some = profile[:, :: run // 2] == largest[:, None]
    flat = (some[:, 1:] & some[:, :-1]).any(axis=1)
    if flat.any():
        at_top = profile[flat] == largest[flat, None]
        count = np.cumsum(np.pad(at_top, ((0, 0), (1, 0))), axis=1)
        flat[flat] = (count[:, run:] - count[:, :-run] == run).any(axis=1)
    return np.asarray(flat)
