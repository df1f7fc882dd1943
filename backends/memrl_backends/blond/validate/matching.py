"""The kernel against BLonD's own matching, without and with the induced voltage."""

from __future__ import annotations

import numpy as np

from memrl_backends.blond.matching import blond_profiles
from memrl_backends.blond.validate.comparison import Comparison, Figure, FloatArray, distance
from memrl_backends.blond.validate.conditions import as_numbers, in_words
from memrl_ctrl.beam import Conditions, MatchedProfiles, matched_profiles

SLICES = 1000
RMS_PERCENT, LARGEST_PERCENT = 0.1, 1.0
"""Tolerances without intensity effects: rms and largest difference, % of the peak. BLonD's grid has
500 points over its frame; the profile's ends are off by about one of them."""
WAKE_RMS_PERCENT, WAKE_LENGTH_PERCENT, WAKE_MEAN_PERCENT = 0.5, 0.5, 0.1
"""Tolerances with intensity effects: rms difference in % of the peak, bunch length in %, mean position
in % of a turn. BLonD's iteration ends at changes of 0.5 % of the peak."""


def without_wake(point: Conditions) -> Comparison:
    """Profiles without intensity effects: BLonD's matching on its grid of phase space, 1 iteration."""
    kernel = matched_profiles(point, SLICES, intensity_effects=False)
    other = blond_profiles(point, SLICES, intensity_effects=False)
    ours, theirs = _densities(kernel, other)
    apart = distance(theirs[None, :], ours)
    figures = (
        Figure(
            name="profile, rms, % of peak", value=1e2 * float(apart.rms[0]), tolerance=RMS_PERCENT
        ),
        Figure(
            name="profile, largest, % of peak",
            value=1e2 * float(apart.largest[0]),
            tolerance=LARGEST_PERCENT,
        ),
    )
    return _comparison("matching", point, kernel, theirs, figures)


def with_wake(point: Conditions) -> Comparison:
    """Profiles with intensity effects: BLonD's matching iterated with the induced voltage.

    It begins without a wake, not with the kernel's answer.
    """
    kernel = matched_profiles(point, SLICES)
    other = blond_profiles(point, SLICES, start_from_kernel=False)
    ours, theirs = _densities(kernel, other)
    if not other.converged[0]:
        theirs = np.full_like(theirs, np.nan)
    apart = distance(theirs[None, :], ours)
    figures = (
        Figure(
            name="profile, rms, % of peak",
            value=1e2 * float(apart.rms[0]),
            tolerance=WAKE_RMS_PERCENT,
        ),
        Figure(
            name="mean position, % of a turn",
            value=1e2 * float(apart.mean_turns[0]),
            tolerance=WAKE_MEAN_PERCENT,
        ),
        Figure(
            name="bunch length, %",
            value=1e2 * abs(float(apart.length_ratio[0]) - 1.0),
            tolerance=WAKE_LENGTH_PERCENT,
        ),
    )
    return _comparison("matching-wake", point, kernel, theirs, figures)


def _densities(kernel: MatchedProfiles, other: MatchedProfiles) -> tuple[FloatArray, FloatArray]:
    return kernel.line_density[0].astype(np.float64), other.line_density[0].astype(np.float64)


def _comparison(
    check: str,
    point: Conditions,
    kernel: MatchedProfiles,
    theirs: FloatArray,
    figures: tuple[Figure, ...],
) -> Comparison:
    return Comparison(
        check=check,
        what=in_words(point),
        condition=as_numbers(point),
        figures=figures,
        phase_rad=kernel.phase_rad,
        kernel=kernel.line_density[0].astype(np.float64),
        blond=theirs,
    )
