"""From a reading to the vector that a policy sees."""

import numpy as np
import pytest

from memrl_ctrl.errors import MismatchError
from memrl_ctrl.observation import beam_observation, observation_size


def parabola(n, centre, half_width):
    x = (np.arange(n) - centre + n / 2) % n - n / 2
    return np.maximum(0.0, 1.0 - (x / half_width) ** 2).astype(np.float32)


PHASE = np.array([0.5 * np.pi])


def test_mean_over_the_turn_is_one():
    """The profile part has mean 1 whatever the profile's unit."""
    for scale in (1e-9, 1.0, 1e12):
        profile = (scale * parabola(1000, 300, 200))[None].astype(np.float32)
        out = beam_observation(profile, PHASE, 128)[0]
        assert out[:128].mean() == pytest.approx(1.0, abs=1e-5)


def test_last_element_is_synchronous_phase_over_pi():
    """The synchronous phase follows the profile, in units of pi."""
    out = beam_observation(parabola(256, 100, 50)[None], PHASE, 64)
    assert out.shape == (1, observation_size(64))
    assert out[0, -1] == pytest.approx(0.5)


def test_absolute_phase_is_taken_out():
    """The same bunch at another place on the turn gives the same observation."""
    rows = np.stack([np.roll(parabola(1000, 300, 150), k) for k in (0, 137, 500, 777)])
    out = beam_observation(rows, np.zeros(4), 128)
    assert np.abs(out - out[0]).max() < 2e-4


def test_centre_of_the_turn_is_the_bunch_mean():
    """A symmetric bunch stands symmetrically about the middle of the window."""
    out = beam_observation(parabola(1000, 123.0, 180)[None], np.zeros(1), 128)[0, :128]
    assert np.abs(out - out[::-1]).max() < 0.05


def test_rebinning_conserves_area():
    """Rebinning by an integer factor sums neighbouring bins."""
    fine = parabola(512, 256, 100)
    fine[:256] = 0.5 * fine[:256] + 0.5 * fine[256:][::-1]  # symmetric: the mean is the middle
    fine[256:] = fine[:256][::-1]
    out = beam_observation(fine[None], np.zeros(1), 128)[0, :128]
    expected = fine.reshape(128, 4).sum(axis=1)
    assert np.abs(out - expected / expected.mean()).max() < 1e-4


def test_machine_with_fewer_slices_is_refused():
    """A policy cannot see more slices than the machine measures."""
    with pytest.raises(MismatchError, match=r"policy sees 128 slices a turn .* measures only 64"):
        beam_observation(parabola(64, 32, 10)[None], np.zeros(1), 128)


def test_broken_profiles_give_finite_observations():
    """NaN, infinity and an empty profile give zeros, never NaN."""
    rows = np.zeros((3, 256), dtype=np.float32)
    rows[0, 3] = np.nan
    rows[1, 3] = np.inf
    out = beam_observation(rows, np.array([np.nan, 0.0, 0.0]), 64)
    assert np.array_equal(out, np.zeros_like(out))


def test_asymmetry_keeps_its_direction():
    """A bunch with its tail late in time has its tail late in the observation."""
    profile = np.where(np.arange(512) < 100, 0.0, np.exp(-(np.arange(512) - 100) / 60.0))
    out = beam_observation(profile[None].astype(np.float32), np.zeros(1), 128)[0, :128]
    assert np.argmax(out) < 64
