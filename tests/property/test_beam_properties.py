"""What holds for every matched profile, whatever the condition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.beam import (
    Conditions,
    Machine,
    Resonator,
    bucket_area_evs,
    matched_profiles,
    reference_optimum,
    sample_particles,
)
from memrl_ctrl.metrics import circular_difference

WAKE = Machine(
    space_charge_g=1.5,
    impedance=(Resonator(r_shunt_ohm=400.0, frequency_hz=3.0e6, q=0.6),),
)


@st.composite
def conditions(draw, *, most=1.5, intensity=9.0e12, b_dot=3.5):
    """One condition of the PSB's range, the bucket filled from a tenth to `most`."""
    v1 = draw(st.floats(6.0e3, 11.0e3))
    point = Conditions(
        b_field_t=draw(st.floats(0.24, 1.12)),
        b_dot_t_per_s=draw(st.floats(-b_dot, b_dot)),
        v1_v=v1,
        v2_v=v1 * draw(st.floats(0.0, 0.8)),
        phi2_rad=draw(st.floats(-np.pi, np.pi)),
        emittance_evs=1.0,
        intensity=draw(st.floats(0.0, intensity)),
        machine=WAKE,
    )
    filling = draw(st.floats(0.1, most))
    return point.replace(emittance_evs=filling * np.nan_to_num(bucket_area_evs(point), nan=1.0))


@given(conditions(), st.sampled_from([64, 100, 250, 1000]))
@settings(max_examples=150, deadline=None)
def test_profiles_are_normalised_nowhere_negative_and_zero_somewhere(point, n_slices):
    """Integral 1, no negative density, captured fraction in (0, 1]; or NaN and not converged."""
    result = matched_profiles(point, n_slices)
    density = result.line_density[0]
    if np.isnan(density).any():
        assert not result.converged[0]
        return
    assert abs(density.sum() * 2.0 * np.pi / n_slices - 1.0) < 1e-5
    assert density.min() >= 0.0
    assert 0.0 < result.captured_fraction[0] <= 1.0
    assert 0.0 < result.bunching_factor[0] <= 1.0
    assert 0.0 <= result.mean_phase_rad[0] < 2.0 * np.pi


@given(conditions())
@settings(max_examples=80, deadline=None)
def test_the_bucket_holds_what_is_captured(point):
    """Captured emittance is at most the bucket's area, and exactly that where less is captured."""
    result = matched_profiles(point, 64)
    if not result.converged[0]:
        return
    captured = result.captured_fraction[0] * point.emittance_evs[0]
    assert captured <= result.bucket_area_evs[0] * (1.0 + 2e-6)
    if result.captured_fraction[0] < 1.0:
        assert abs(captured / result.bucket_area_evs[0] - 1.0) < 2e-6


@given(conditions(intensity=0.0, b_dot=0.0, most=0.9))
@settings(max_examples=80, deadline=None)
def test_at_bdot_0_the_mirrored_phase_mirrors_the_profile(point):
    """Without acceleration and wake, phi2 and -phi2 are mirror images."""
    one = matched_profiles(point, 200)
    other = matched_profiles(point.replace(phi2_rad=-point.phi2_rad), 200)
    # Two separate wells of equal depth (phi2 near pi, no inner barrier): either may be taken.
    if abs(abs(point.phi2_rad[0]) - np.pi) < 0.05:
        return
    peak = one.line_density.max()
    assert np.abs(one.line_density - other.line_density[:, ::-1]).max() < 2e-3 * peak
    assert abs(one.asymmetry[0] + other.asymmetry[0]) < 1e-3


@given(conditions())
@settings(max_examples=60, deadline=None)
def test_deceleration_is_acceleration_mirrored(point):
    """Without a wake, (Bdot, phi2) and (-Bdot, -phi2) are mirror images."""
    bare = point.replace(intensity=0.0)
    back = bare.replace(b_dot_t_per_s=-bare.b_dot_t_per_s, phi2_rad=-bare.phi2_rad)
    if bare.b_dot_t_per_s[0] == 0.0:
        return
    one, other = matched_profiles(bare, 200), matched_profiles(back, 200)
    np.testing.assert_array_equal(one.converged, other.converged)
    np.testing.assert_allclose(one.line_density, other.line_density[:, ::-1], atol=1e-4)
    np.testing.assert_allclose(one.asymmetry, -other.asymmetry, atol=1e-6)


@given(conditions(), st.integers(-3, 3))
@settings(max_examples=60, deadline=None)
def test_phi2_is_periodic_in_a_turn(point, turns):
    """phi2 + 2 pi k is the same condition."""
    one = matched_profiles(point, 100)
    other = matched_profiles(point.replace(phi2_rad=point.phi2_rad + 2.0 * np.pi * turns), 100)
    np.testing.assert_allclose(one.line_density, other.line_density, rtol=1e-3, atol=1e-4)


@given(st.lists(conditions(), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_batch_gives_what_its_rows_give_alone(points):
    """Neighbours in a batch do not influence each other: bit for bit."""
    fields = (
        "b_field_t",
        "b_dot_t_per_s",
        "v1_v",
        "v2_v",
        "phi2_rad",
        "emittance_evs",
        "intensity",
    )
    batch = Conditions(
        **{name: np.concatenate([getattr(p, name) for p in points]) for name in fields},
        machine=WAKE,
    )
    together = matched_profiles(batch, 64)
    best = reference_optimum(batch)
    for k, point in enumerate(points):
        alone = matched_profiles(point, 64)
        np.testing.assert_array_equal(together.line_density[k], alone.line_density[0])
        np.testing.assert_array_equal(best[k], reference_optimum(point)[0])


@given(conditions(intensity=0.0, most=0.6, b_dot=2.0), st.floats(0.5, 2.0))
@settings(max_examples=60, deadline=None)
def test_scaling_voltages_and_gain_scales_nothing_but_the_area(point, factor):
    """Without a wake, V1, V2 and Bdot times k at emittance times sqrt(k) give the same profile."""
    scaled = point.replace(
        v1_v=point.v1_v * factor,
        v2_v=point.v2_v * factor,
        b_dot_t_per_s=point.b_dot_t_per_s * factor,
        emittance_evs=point.emittance_evs * np.sqrt(factor),
    )
    one, other = matched_profiles(point, 100), matched_profiles(scaled, 100)
    np.testing.assert_allclose(other.line_density, one.line_density, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(other.bucket_area_evs, one.bucket_area_evs * np.sqrt(factor))


@given(conditions(most=0.8, b_dot=2.0))
@settings(max_examples=60, deadline=None)
def test_optimum_lies_in_the_circle_and_has_no_asymmetry(point):
    """Where there is an optimum the matched profile is symmetric; it does not depend on phi2."""
    best = reference_optimum(point)
    if np.isnan(best[0]):
        return
    assert -np.pi < best[0] <= np.pi
    at = matched_profiles(point.replace(phi2_rad=best), 64)
    if at.converged[0]:
        assert abs(at.asymmetry[0]) < 2e-3
    other = reference_optimum(point.replace(phi2_rad=1.0))
    assert abs(circular_difference(best, other)[0]) < 1e-9


@given(conditions(most=0.9, b_dot=2.0), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_particles_lie_inside_the_bunch(point, seed):
    """Sampled particles lie in the bucket's window, and as many above as below the mean energy."""
    result = matched_profiles(point, 64)
    if not result.converged[0]:
        return
    count = 2000
    dt, energy = sample_particles(point, count, np.random.default_rng(seed))
    drift = (
        point.slippage_factor[0]
        / (2.0 * point.revolution_frequency_hz[0] * point.beta[0] ** 2 * point.energy_ev[0])
        * energy
    )
    phase = (dt - drift) * 2.0 * np.pi * point.rf_frequency_hz[0]
    left, right = result.window_rad[0]
    assert phase.min() >= left - 1e-9
    assert phase.max() <= right + 1e-9
    assert abs(np.mean(energy > 0.0) - 0.5) < 6.0 * 0.5 / np.sqrt(count)
