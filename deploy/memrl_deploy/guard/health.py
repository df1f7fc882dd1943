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

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Reading
from memrl_ctrl.profile_sums import ProfileSums
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


def usable_points(reading: Reading, sums: ProfileSums | None = None) -> BoolArray:
    """Which points have a reading [points]: nothing is known against them, all finite.

    Args:
        reading: a cycle's.
        sums: of its profiles, where they were taken already.
    """
    sums = ProfileSums.of(reading.profile) if sums is None else sums
    finite = sums.finite & np.isfinite(reading.applied_rad)
    finite &= np.isfinite(reading.synchronous_phase_rad)
    return np.asarray(finite & reading.usable)


def noise(sums: ProfileSums) -> FloatArray:
    """Estimate the noise per slice [points], in the profile's units."""
    return np.asarray(sums.bend / SECOND_DIFFERENCE)


@np.errstate(over="ignore", invalid="ignore")
def unhealthy_points(
    profile: ProfileArray,
    before: ProfileArray | None,
    config: GuardConfig,
    again: BoolArray | None = None,
    sums: ProfileSums | None = None,
) -> BoolArray:
    """Which points have a dead, saturated or frozen pick-up [points].

    Args:
        profile: of this cycle [points, n_slices]; of one that is not finite nothing is to be taken from it.
        before: that of the cycle before; None if there was none.
        config: thresholds.
        again: profiles that came before that cycle already [points]; None if nothing is known of these.
        sums: of the profiles, where they were taken already.
    """
    sums = ProfileSums.of(profile) if sums is None else sums
    n_slices = profile.shape[1]
    # Numbers so large that their differences overflow give no noise at all: dead as well.
    dead = ~(sums.total > config.dead_score * noise(sums) * math.sqrt(n_slices))
    bad = dead | (sums.flat >= max(FEWEST_FLAT, math.ceil(config.saturated_share * n_slices)))
    if before is not None and before.shape == profile.shape:
        same = _same_rows(profile, before)
        if again is not None:
            same |= again
        if same.any():
            bad[same] |= noisy_points(profile[same], config)
    return np.asarray(bad)


def came_again(
    numbers: NumberArray, earlier: NumberArray | None, config: GuardConfig
) -> tuple[BoolArray, NumberArray]:
    """Which profiles are those of one of the last readings.

    Args:
        numbers: of the profiles of this cycle [points] (`ProfileSums.number`).
        earlier: what this returned for the cycle before; None if there was none.
        config: how many readings.

    Returns:
        [points], and the numbers of the last readings' profiles, this one's last [readings, points].
    """
    if earlier is None or earlier.shape[1:] != numbers.shape:
        return np.zeros(numbers.size, dtype=np.bool_), numbers[None]
    again = (earlier == numbers).any(axis=0)
    return np.asarray(again), np.concatenate([earlier, numbers[None]])[-config.frozen_readings :]


def noisy_points(profile: ProfileArray, config: GuardConfig) -> BoolArray:
    """Which profiles [points, n_slices] have noise that tells one shot from the next [points]."""
    quiet = np.quantile(np.abs(np.diff(profile, n=2, axis=1)), 0.25, axis=1)
    return np.asarray(quiet / QUARTILE >= config.frozen_noise_share * profile.max(axis=1))


def _same_rows(profile: ProfileArray, before: ProfileArray) -> BoolArray:
    """Which profiles are the same, slice by slice [points]; a few slices tell most of them apart."""
    some = max(1, profile.shape[1] // FEW_SLICES)
    same = (profile[:, ::some] == before[:, ::some]).all(axis=1)
    if same.any():
        same[same] = (profile[same] == before[same]).all(axis=1)
    return np.asarray(same)
