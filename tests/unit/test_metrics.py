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
from memrl_ctrl.beam.measurement import WCM
from memrl_ctrl.errors import UsageError
from memrl_ctrl.metrics import (
    asymmetry,
    bunch_length_s,
    bunching_factor,
    circular_difference,
    mean_known,
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


QUANTITIES = (
    ("asymmetry", "asymmetry_sigma"),
    ("bunching_factor", "bunching_factor_sigma"),
    ("rms_length_turns", "rms_length_sigma_turns"),
    ("mean_turns", "mean_sigma_turns"),
)


def pulls(seen, model):
    """(measured - true) / sigma of each quantity, [profiles, repetitions]."""
    frequency = np.asarray(model.conditions.rf_frequency_hz)
    true = {
        "asymmetry": model.asymmetry,
        "bunching_factor": model.bunching_factor,
        "rms_length_turns": 0.25 * model.bunch_length_s * frequency,
        "mean_turns": model.mean_phase_rad / (2.0 * np.pi),
    }
    for name, sigma in QUANTITIES:
        away = getattr(seen, name) - true[name][:, None]
        if name == "mean_turns":
            away = (away + 0.5) % 1.0 - 0.5
        yield name, away / getattr(seen, sigma)


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("n_slices", [64, 128, 300, 1000])
def test_metrics_scatter_by_the_stated_uncertainty(n_slices, noise):
    """Pulls have unit width over shapes from flat to lopsided, and less bias than sigma."""
    model = bunches(60, seed=4, away_rad=1.0, n_slices=n_slices)
    rng = np.random.default_rng(5)
    density = model.line_density[:, None, :]
    scale = noise * density.max(axis=2, keepdims=True)
    seen = measure(density + scale * rng.standard_normal((60, 60, n_slices)))
    for name, pull in pulls(seen, model):
        width = pull.std(axis=1)
        assert np.isfinite(pull).all(), name
        assert np.sqrt(np.mean(width**2)) == pytest.approx(1.0, abs=0.12), name
        assert 0.6 < width.min() < width.max() < 1.6, name  # 60 repetitions: 0.09 by chance
        assert abs(np.median(pull)) < 0.5, name
        assert np.quantile(np.abs(pull.mean(axis=1)), 0.9) < 1.0, name


@pytest.mark.parametrize("n_slices", [64, 128, 1000])
def test_metrics_of_a_good_monitors_profiles_scatter_by_the_stated_uncertainty(n_slices):
    """The same behind the default instrument: band limits, baseline, trigger, gain and steps."""
    model = bunches(60, seed=6, away_rad=1.0, n_slices=n_slices)
    rng = np.random.default_rng(7)
    frequency = model.conditions.rf_frequency_hz
    shots = [WCM.measure(model.line_density, frequency, rng) for _ in range(60)]
    assert not any(flags.any() for _, flags in shots)
    seen = measure(np.stack([profile for profile, _ in shots], axis=1))
    for name, pull in pulls(seen, model):
        if name == "mean_turns":
            continue  # the trigger moves it
        width = pull.std(axis=1)
        assert np.sqrt(np.mean(width**2)) == pytest.approx(1.0, abs=0.15), name
        assert abs(np.median(pull)) < 0.6, name


def test_uncertainties_shrink_with_the_noise_and_the_number_of_slices():
    """Proportional to the noise, and to the root of the slices' number where the noise is the same."""
    model = {n: bunches(40, n_slices=n).line_density for n in (128, 512)}
    rng = np.random.default_rng(8)

    def typical(n_slices, noise, name):
        density = model[n_slices]
        scale = noise * density.max(axis=1, keepdims=True)
        seen = measure(density + scale * rng.standard_normal(density.shape))
        return np.median(getattr(seen, name))

    for _, name in QUANTITIES:
        reference = typical(512, 0.02, name)
        assert typical(512, 0.01, name) == pytest.approx(reference / 2.0, rel=0.2), name
        assert typical(128, 0.02, name) == pytest.approx(reference * 2.0, rel=0.3), name


def test_bunch_length_comes_with_its_uncertainty():
    """Four times the rms length, and four times its standard deviation, in seconds."""
    metrics = measure(triangle())
    length, sigma = metrics.bunch_length_s(2.0e6)
    assert length == pytest.approx(2.0e-6 * metrics.rms_length_turns)
    assert sigma == pytest.approx(2.0e-6 * metrics.rms_length_sigma_turns)
    assert bunch_length_s(triangle(), 2.0e6) == length


def test_a_second_bunch_next_to_the_first_belongs_to_it():
    """Two humps above the noise are one profile: the window holds both."""
    phase = (np.arange(256) + 0.5) / 256
    humps = np.maximum(0.0, 1.0 - ((phase - 0.4) / 0.1) ** 2)
    humps += 0.4 * np.maximum(0.0, 1.0 - ((phase - 0.6) / 0.08) ** 2)
    rng = np.random.default_rng(9)
    metrics = measure(humps + 0.01 * rng.standard_normal((50, 256)))
    mean = (humps * phase).sum() / humps.sum()
    np.testing.assert_allclose(metrics.mean_turns, mean, atol=5e-3)
    assert (metrics.window_turns > 0.36).all()


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


@pytest.mark.filterwarnings("error")
def test_the_mean_of_what_is_known_leaves_out_what_is_not() -> None:
    """Infinite counts as unknown; where nothing is known the mean is not, without a warning."""
    values = np.array([[1.0, np.nan, np.inf], [3.0, np.nan, 5.0]])
    np.testing.assert_equal(mean_known(values, axis=0), [2.0, np.nan, 5.0])
    np.testing.assert_equal(mean_known(values), [1.0, 4.0])
    assert np.isnan(mean_known([]))
