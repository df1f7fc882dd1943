"""One pass over a reading's profiles, against numpy's passes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from memrl_ctrl.profile_sums import ProfileSums

Profiles = NDArray[np.float32]


def white(points: int, n_slices: int, seed: int = 1) -> Profiles:
    """Return noise of width 1 about 3 [points, n_slices]."""
    drawn = np.random.default_rng(seed).normal(3.0, 1.0, (points, n_slices))
    return np.asarray(drawn, dtype=np.float32)


def longest_at_the_top(profile: NDArray[np.float32]) -> int:
    """Count it slice by slice."""
    longest = run = 0
    for value in profile:
        run = run + 1 if value == profile.max() else 0
        longest = max(longest, run)
    return longest


@pytest.mark.parametrize("n_slices", [3, 64, 301, 1000])
def test_the_sums_are_numpys(n_slices: int) -> None:
    """Sum, mean second difference and flat top; a digitiser's levels and profiles in a larger array alike."""
    fine = white(5, n_slices)
    for profile in (fine, np.round(fine), white(10, n_slices)[::2], white(n_slices, 5).T):
        sums = ProfileSums.of(profile)
        bend = np.abs(np.diff(profile, n=2, axis=1)).mean(axis=1)
        assert sums.finite.all()
        np.testing.assert_allclose(sums.total, profile.sum(axis=1, dtype=np.float64), rtol=1e-12)
        np.testing.assert_allclose(sums.bend, bend, rtol=1e-5)
        np.testing.assert_array_equal(sums.flat, [longest_at_the_top(row) for row in profile])


@pytest.mark.parametrize("where", [slice(0, 7), slice(40, 47), slice(57, 64)], ids=str)
def test_the_longest_flat_top_counts(where: slice) -> None:
    """Of several the longest, wherever it stands; one below the largest value is none."""
    profile = white(3, 64)
    profile[:2, where] = profile[:2, 20:24] = 9.0
    profile[1, 30] = 9.5
    assert ProfileSums.of(profile).flat.tolist() == [7, 1, 1]
    level = ProfileSums.of(np.full((1, 64), -2.0, dtype=np.float32))
    assert (level.flat[0], level.bend[0]) == (64, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 31, 63])
def test_what_is_not_finite_is_found(value: float, place: int) -> None:
    """In whichever slice, and in no other profile."""
    profile = white(3, 64)
    profile[1, place] = value
    assert ProfileSums.of(profile).finite.tolist() == [True, False, True]


def test_differences_overflow_as_floats_of_32_bits_do() -> None:
    """Finite numbers whose second difference is none: the profile's own precision counts."""
    spikes = np.where(np.arange(64) % 3, np.float32(0.0), np.float32(3e38))[None]
    sums = ProfileSums.of(spikes)
    assert sums.finite.all()
    assert sums.bend[0] == np.inf


def test_every_bit_of_a_slice_counts() -> None:
    """The weights are odd: no difference in one slice is lost, that of its highest bit alone neither."""
    one = np.zeros((1, 64), dtype=np.float32)
    for place in range(64):
        unit = one.copy()
        unit.view(np.uint32)[0, place] = 1
        assert ProfileSums.of(unit).number[0] % 2 == 1


def test_a_number_is_the_weighted_sum_of_the_bits() -> None:
    """Modulo 2^64, with the same weights in every run: a recorded cycle has the same number when replayed."""
    drawn = np.random.default_rng(1).integers(2**64, size=100, dtype=np.uint64)
    weights = [int(w) | 1 for w in drawn]
    profile = white(2, 100)
    expected = [
        sum(int(b) * w for b, w in zip(row, weights, strict=True)) % 2**64
        for row in profile.view(np.uint32)
    ]
    assert ProfileSums.of(profile).number.tolist() == expected


def test_a_reading_that_cannot_be_written_to_is_taken() -> None:
    """Readings come as read-only views of a frame."""
    profile = white(2, 64)
    expected = ProfileSums.of(profile).total
    profile.flags.writeable = False
    np.testing.assert_array_equal(ProfileSums.of(profile).total, expected)
