"""Metrics of measured profiles, against profiles whose metrics are known."""

import numpy as np
import pytest

from memrl_ctrl.beam import (
    Conditions,
    Machine,
    Resonator,
    bucket_area_evs,
    matched_profiles,
    reference_optimum,
)
from memrl_ctrl.errors import UsageError
from memrl_ctrl.metrics import (
    asymmetry,
    bunch_length_s,
    bunching_factor,
    circular_difference,
    measure,
    phase_error_deg,
)

WAKE = Machine(
    space_charge_g=2.0,
    impedance=(Resonator(r_shunt_ohm=15.0, frequency_hz=3.0e6, q=0.6, count=36),),
)


def bunches(count=200, seed=1, away_rad=0.5, n_slices=1000):
    """Matched profiles at most `away_rad` from their optimum."""
    rng = np.random.default_rng(seed)
    conditions = Conditions(
        b_field_t=rng.uniform(0.3, 1.0, count),
        b_dot_t_per_s=rng.uniform(0.0, 2.0, count),
        v1_v=8.0e3,
        v2_v=rng.uniform(3.0e3, 6.0e3, count),
        phi2_rad=0.0,
        emittance_evs=1.0,
        intensity=rng.uniform(0.0, 8.0e12, count),
        machine=WAKE,
    )
    conditions = conditions.replace(emittance_evs=0.5 * bucket_area_evs(conditions))
    best = reference_optimum(conditions)
    conditions = conditions.replace(phi2_rad=best + rng.uniform(-away_rad, away_rad, count))
    return matched_profiles(conditions, n_slices)


def triangle(n_slices=400, base=100, start=50):
    """A profile that rises in one step and falls linearly over `base` slices."""
    profile = np.zeros(n_slices)
    profile[start : start + base] = np.arange(base, 0, -1)
    return profile


def test_a_right_triangle_has_the_skewness_and_length_of_the_textbook():
    """Skewness 2 sqrt(2) / 5 (tail to later times: positive), rms base / sqrt(18), mean / peak."""
    metrics = measure(triangle())
    assert metrics.asymmetry == pytest.approx(2.0 * np.sqrt(2.0) / 5.0, abs=0.01)
    assert metrics.rms_length_turns == pytest.approx(100.0 / 400.0 / np.sqrt(18.0), rel=0.01)
    assert metrics.mean_turns == pytest.approx((50.0 + 100.0 / 3.0) / 400.0, abs=0.002)
    assert asymmetry(triangle()[::-1]) == pytest.approx(-2.0 * np.sqrt(2.0) / 5.0, abs=0.01)
    assert bunch_length_s(triangle(), 1.0e6) == pytest.approx(
        4.0e-6 * 100.0 / 400.0 / np.sqrt(18.0), rel=0.01
    )


def test_noiseless_profiles_give_the_kernels_own_metrics():
    """Asymmetry, bunching factor, length and mean of the model, from its profiles."""
    model = bunches()
    metrics = measure(model.line_density)
    assert np.abs(metrics.asymmetry - model.asymmetry).max() < 2e-3
    np.testing.assert_allclose(metrics.bunching_factor, model.bunching_factor, rtol=2e-3)
    length = bunch_length_s(model.line_density, model.conditions.rf_frequency_hz)
    np.testing.assert_allclose(length, model.bunch_length_s, rtol=2e-3)
    off = circular_difference(2.0 * np.pi * metrics.mean_turns, model.mean_phase_rad)
    assert np.abs(off).max() < 1e-3


@pytest.mark.parametrize("n_slices", [64, 128, 1000])
def test_place_on_the_turn_scale_and_baseline_do_not_matter(n_slices):
    """Rolled by any number of slices, scaled, on a pedestal: the same asymmetry and length."""
    model = bunches(40, n_slices=n_slices)
    before = measure(model.line_density)
    rng = np.random.default_rng(2)
    for shift in rng.integers(0, n_slices, 8):
        after = measure(5.0e9 * np.roll(model.line_density, shift, axis=1) + 3.0e9)
        np.testing.assert_allclose(after.asymmetry, before.asymmetry, atol=2e-3)
        np.testing.assert_allclose(after.rms_length_turns, before.rms_length_turns, rtol=2e-3)
        np.testing.assert_allclose(after.bunching_factor, before.bunching_factor, rtol=2e-3)


@pytest.mark.parametrize(("n_slices", "noise", "worst"), [(128, 0.02, 0.05), (1000, 0.05, 0.05)])
def test_noise_spreads_the_metrics_but_does_not_bias_them(n_slices, noise, worst):
    """With noise on every slice the asymmetry stays within a few hundredths and is unbiased."""
    model = bunches(400, n_slices=n_slices)
    rng = np.random.default_rng(3)
    peak = model.line_density.max(axis=1, keepdims=True)
    noisy = model.line_density + noise * peak * rng.standard_normal(model.line_density.shape)
    metrics = measure(noisy)
    error = metrics.asymmetry - model.asymmetry
    assert np.quantile(np.abs(error), 0.95) < worst
    assert abs(np.median(error)) < 0.2 * worst
    bias = np.median(metrics.bunching_factor / model.bunching_factor) - 1.0
    assert abs(bias) < 0.02
    assert np.median(metrics.noise / peak[:, 0]) == pytest.approx(noise, rel=0.05)


def test_leading_dimensions_stay():
    """[..., n_slices] gives [...]; one profile gives a number."""
    profiles = np.stack([triangle(), triangle(base=60)])
    assert measure(profiles[None]).asymmetry.shape == (1, 2)
    assert np.ndim(asymmetry(profiles[0])) == 0
    assert bunching_factor(profiles.astype(np.float32)).dtype == np.float64


def test_a_profile_without_a_bunch_is_nan():
    """Zeros, NaN, a constant: NaN, no exception and no number."""
    flat = np.stack([np.zeros(128), np.full(128, np.nan), np.full(128, 7.0)])
    metrics = measure(flat)
    assert np.isnan(metrics.asymmetry).all()
    assert np.isnan(metrics.bunching_factor).all()


def test_too_few_slices_are_refused():
    """Fewer than 16 slices show no shape."""
    with pytest.raises(UsageError, match="16 slices at least"):
        measure(np.ones(8))


def test_differences_are_taken_on_the_circle():
    """179 and -179 degrees are 2 degrees apart; half a turn is plus pi."""
    assert circular_difference(np.radians(179.0), np.radians(-179.0)) == pytest.approx(
        np.radians(-2.0)
    )
    assert circular_difference(0.0, np.pi) == pytest.approx(np.pi)
    assert phase_error_deg(np.radians(-179.0), np.radians(179.0)) == pytest.approx(2.0)
    assert np.isnan(phase_error_deg(0.0, np.nan))
