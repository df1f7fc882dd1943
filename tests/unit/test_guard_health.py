"""Health of the pick-ups: how much noise there is, and from where on a profile is dead, clipped or frozen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.profile_sums import ProfileSums
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import Verdict
from memrl_deploy.guard import Guard, GuardConfig
from memrl_deploy.guard.decision import Stage
from memrl_deploy.guard.health import (
    came_again,
    noise,
    noisy_points,
    unhealthy_points,
)

CONFIG = GuardConfig()
sums = ProfileSums.of


def bunch(points: int, n_slices: int, sigma: float, seed: int = 1) -> np.ndarray:
    """Return bunches of height 1 over a third of the turn, with white noise [points, n_slices]."""
    place = np.linspace(-1.0, 1.0, n_slices)
    shape = np.maximum(0.0, 1.0 - np.square(place / 0.33))
    white = np.random.default_rng(seed).normal(size=(points, n_slices))
    return np.asarray(shape + sigma * white, dtype=np.float32)


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_the_noise_of_a_slice_is_found(sigma: float) -> None:
    """White noise is measured to a few percent, and a bunch of a thousand slices adds next to nothing."""
    white = np.random.default_rng(0).normal(0.0, sigma, (20, 1000)).astype(np.float32)
    np.testing.assert_allclose(noise(sums(white)).mean(), sigma, rtol=0.02)
    np.testing.assert_allclose(noise(sums(white)), sigma, rtol=0.15)
    np.testing.assert_allclose(noise(sums(bunch(20, 1000, 0.05))).mean(), 0.05, rtol=0.02)


@pytest.mark.parametrize("n_slices", [100, 1000])
def test_dead_is_a_sum_of_eight_times_its_noise(n_slices: int) -> None:
    """A level of 7 times the noise of a mean is dead, one of 9 times is not."""
    white = np.random.default_rng(2).normal(size=(1, n_slices))
    white -= white.mean()
    white /= noise(sums(white.astype(np.float32)))[0]
    for times, dead in ((7.0, True), (9.0, False)):
        profile = (white + times / math.sqrt(n_slices)).astype(np.float32)
        assert unhealthy_points(profile, None, CONFIG)[0] == dead


def test_nothing_above_no_noise_is_dead() -> None:
    """A slope that sums to zero, without any noise: there is no bunch on it."""
    slope = np.arange(-50, 51, dtype=np.float32)[None] / np.float32(64.0)
    assert noise(sums(slope))[0] == 0.0
    assert unhealthy_points(slope, None, CONFIG)[0]


def test_numbers_beyond_all_measure_are_dead() -> None:
    """Finite, and yet their differences are not: no noise can be told, and no bunch."""
    large = np.float32(3e38)
    wild = np.where(np.arange(100) % 2, large, -large)
    spikes = np.where(np.arange(100) % 3, np.float32(0.0), large)
    profile = np.stack([bunch(1, 100, 0.01)[0], wild, spikes])
    np.testing.assert_array_equal(unhealthy_points(profile, None, CONFIG), [False, True, True])


@pytest.mark.parametrize(
    ("n_slices", "run"), [(1000, 30), (300, 9), (301, 10), (64, 4), (32, 4)], ids=str
)
@pytest.mark.parametrize("begin", [0.3, 0.31, 0.5])
def test_clipped_is_a_flat_top_of_three_percent(n_slices: int, run: int, begin: float) -> None:
    """So many slices in a row at exactly the largest value, wherever they begin; four at the least."""
    first = int(begin * n_slices)
    for length, clipped in ((run, True), (run - 1, False), (run + 5, True)):
        profile = bunch(3, n_slices, 0.01)
        profile[1, first : first + length] = 2.0
        found = unhealthy_points(profile, None, CONFIG)
        np.testing.assert_array_equal(found, [False, clipped, False])
    broken = bunch(1, n_slices, 0.01)
    broken[0, first : first + 2 * run - 1] = 2.0
    broken[0, first + run - 1] = 1.9
    assert not unhealthy_points(broken, None, CONFIG)[0]


def test_a_level_over_the_whole_turn_is_clipped() -> None:
    """Nothing but one value, high above zero, is no bunch."""
    assert unhealthy_points(np.ones((1, 100), dtype=np.float32), None, CONFIG)[0]


def test_a_flat_top_at_the_end_of_the_turn_counts() -> None:
    """The last slices, and the first, are slices like all others."""
    for where in (slice(970, 1000), slice(0, 30)):
        profile = bunch(1, 1000, 0.01)
        profile[0, where] = 2.0
        assert unhealthy_points(profile, None, CONFIG)[0]


@pytest.mark.parametrize(("sigma", "frozen"), [(0.004, False), (0.006, True)])
def test_frozen_needs_noise_of_half_a_percent_of_the_peak(sigma: float, frozen: bool) -> None:
    """What comes again without visible noise may be a bunch at rest."""
    before, now = 4.0 * bunch(3, 1000, sigma), 4.0 * bunch(3, 1000, sigma, seed=2)
    now[1] = before[1]
    np.testing.assert_array_equal(unhealthy_points(now, before, CONFIG), [False, frozen, False])


def test_a_profile_that_differs_in_one_slice_is_not_frozen() -> None:
    """Every slice is compared, whichever it is."""
    before, now = bunch(3, 100, 0.02), bunch(3, 100, 0.02, seed=2)
    for point in (0, 2):
        now[point] = before[point]
    for changed in range(100):
        one = now.copy()
        one[2, changed] += 0.01
        np.testing.assert_array_equal(unhealthy_points(one, before, CONFIG), [True, False, False])


def test_a_reading_that_comes_again_whole_is_frozen() -> None:
    """All points alike, or the only one; but nothing where there was another number of slices before."""
    before = bunch(3, 100, 0.02)
    assert unhealthy_points(before, before, CONFIG).all()
    assert unhealthy_points(before[:1], before[:1], CONFIG).all()
    assert not unhealthy_points(before[:, :50], before, CONFIG).any()
    assert not unhealthy_points(before, None, CONFIG).any()


@pytest.mark.parametrize("n_slices", [64, 100, 128, 1000])
def test_a_bunch_at_rest_without_noise_is_not_frozen(n_slices: int) -> None:
    """A simulation without noise repeats itself to the bit where nothing moves, and stays usable."""
    still = bunch(4, n_slices, 0.0)
    assert not unhealthy_points(still, still, CONFIG).any()
    assert not noisy_points(still, CONFIG).any()
    assert noisy_points(bunch(4, n_slices, 0.02), CONFIG).all()


@pytest.mark.parametrize("turn", [2, 11, 200, 201])
def test_old_readings_in_turn_are_frozen(turn: int) -> None:
    """A profile with noise that came in one of the last 200 readings is an old one; one point's alone too."""
    rounds = [bunch(3, 128, 0.02, seed=seed) for seed in range(turn)]
    subject = Guard(PhaseLimits(), None, 1.0)
    first = FakeBackend(points=3, n_slices=128, related=False).start()
    for cycle in range(turn + 12):
        profile = bunch(3, 128, 0.02, seed=1000 + cycle)
        profile[1:] = rounds[cycle % turn][1:]
        reading = replace(first, cycle=cycle, profile=profile)
        assert subject.usable(reading)[0]
        again = cycle >= turn and turn <= CONFIG.frozen_readings
        assert subject.usable(reading)[1:].tolist() == [not again] * 2
        decision = subject.decide(np.zeros(3), reading)
        held = decision.verdicts[:, Stage.HEALTH] == Verdict.HELD
        assert held.tolist() == [False, again, again]


def test_an_old_reading_without_noise_is_a_bunch_that_came_back() -> None:
    """Where a simulation without noise returns to a place, its profile is the same again: nothing is held."""
    subject = Guard(PhaseLimits(), None, 1.0)
    first = FakeBackend(points=3, n_slices=128, related=False).start()
    places = [first.profile, np.roll(first.profile, 3, axis=1)]
    for cycle in range(8):
        reading = replace(first, cycle=cycle, profile=places[cycle % 2])
        assert subject.usable(reading).all()
        subject.decide(np.zeros(3), reading)


def test_a_profile_is_known_again_by_every_slice() -> None:
    """Its number is that of its bits alone: another in one slice, whichever, is another profile."""
    profile = bunch(2, 100, 0.02)
    again, numbers = came_again(sums(profile).number, None, CONFIG)
    assert not again.any()
    assert numbers.shape == (1, 2)
    assert came_again(sums(profile.copy()).number, numbers, CONFIG)[0].all()
    for changed in range(100):
        other = profile.copy()
        other[1, changed] = np.nextafter(other[1, changed], np.float32(9.0))
        np.testing.assert_array_equal(
            came_again(sums(other).number, numbers, CONFIG)[0], [True, False]
        )
    again, numbers = came_again(
        sums(profile[:1]).number, numbers, CONFIG
    )  # another number of points
    assert not again.any()
    assert numbers.shape == (1, 1)


def test_so_many_readings_are_remembered() -> None:
    """The numbers of the last readings, the newest behind; one that is older is forgotten."""
    config, numbers = GuardConfig(frozen_readings=3), None
    for seed in range(5):
        _, numbers = came_again(sums(bunch(2, 64, 0.02, seed)).number, numbers, config)
    assert numbers is not None
    expected = [sums(bunch(2, 64, 0.02, seed)).number for seed in (2, 3, 4)]
    np.testing.assert_array_equal(numbers, expected)
    assert not came_again(sums(bunch(2, 64, 0.02, 1)).number, numbers, config)[0].any()
    assert came_again(sums(bunch(2, 64, 0.02, 2)).number, numbers, config)[0].all()
