"""Matched profiles, their optimum and their particles, against what can be worked out."""

import numpy as np
import pytest

from memrl_ctrl.beam import (
    Conditions,
    ConstantZn,
    Machine,
    Resonator,
    bucket_area_evs,
    least_skewed,
    matched_profiles,
    reference_optimum,
    sample_particles,
)
from memrl_ctrl.errors import BeamError, UnknownNameError, UsageError
from memrl_ctrl.metrics import circular_difference

WAKE = Machine(
    space_charge_g=2.0,
    impedance=(Resonator(r_shunt_ohm=15.0, frequency_hz=3.0e6, q=0.6, count=36),),
)


def make(filling=0.5, **changes):
    values = {
        "b_field_t": 0.5,
        "b_dot_t_per_s": 1.5,
        "v1_v": 8.0e3,
        "v2_v": 5.0e3,
        "phi2_rad": -0.4,
        "emittance_evs": 1.0,
        "intensity": 0.0,
        "machine": WAKE,
    }
    conditions = Conditions(**{**values, **changes})
    return conditions.replace(emittance_evs=filling * bucket_area_evs(conditions))


def test_small_bunch_in_one_harmonic_is_a_parabola_of_the_right_length():
    """Near the bottom of one harmonic U is quadratic: lambda a parabola, area 2 pi H0 / sqrt(a V)."""
    conditions = make(filling=0.02, v2_v=0.0, b_dot_t_per_s=0.0)
    profile = matched_profiles(conditions, 4000)
    a = conditions.kinetic_coefficient_per_ev[0]
    omega = 2.0 * np.pi * conditions.rf_frequency_hz[0]
    level = conditions.emittance_evs[0] * omega * np.sqrt(a * 8.0e3) / (2.0 * np.pi)
    half = np.sqrt(2.0 * level / 8.0e3)
    expected = np.maximum(0.0, 1.0 - ((profile.phase_rad - np.pi) / half) ** 2) * 0.75 / half
    assert np.abs(profile.line_density[0] - expected).max() < 0.01 * expected.max()
    # A parabola's rms is half length / sqrt(5).
    assert profile.bunch_length_s[0] == pytest.approx(4.0 * half / np.sqrt(5.0) / omega, rel=0.005)
    assert profile.mean_phase_rad[0] == pytest.approx(np.pi, abs=1e-6)


def test_a_profile_is_a_fixed_point_of_its_own_wake():
    """lambda is max(0, H0 - U) / norm with U from RF and the induced voltage of lambda itself."""
    conditions = make(intensity=9.0e12)
    profile = matched_profiles(conditions, 4000)
    phase, density = profile.phase_rad, profile.line_density[0].astype(float)
    step = phase[1] - phase[0]
    revolution = conditions.revolution_frequency_hz[0]
    order = np.arange(1, 25)
    spectrum = np.exp(-1j * order[:, None] * phase) @ density * step
    current = conditions.intensity[0] * 1.602176634e-19 * revolution * spectrum
    z = WAKE.impedance_ohm(order * revolution, revolution)
    wake = -2.0 * ((z * current) @ np.exp(1j * order[:, None] * phase)).real
    z_n = WAKE.space_charge_z_over_n_ohm(conditions.beta[0], conditions.gamma[0]).imag
    kappa = -z_n * conditions.intensity[0] * 1.602176634e-19 * 2.0 * np.pi * revolution
    voltage = (
        -8.0e3 * np.sin(phase)
        - 5.0e3 * np.sin(2.0 * phase - 0.4)
        - conditions.energy_gain_ev[0]
        + wake
    )
    potential = np.cumsum(voltage) * step + kappa * density
    inside = density > 0.02 * density.max()
    slope, level = np.polyfit(density[inside], potential[inside], 1)
    assert slope < 0.0
    off = density[inside] - (potential[inside] - level) / slope
    assert np.abs(off).max() < 2e-3 * density.max()
    # And its area is the emittance.
    roots = np.sqrt(np.maximum(0.0, level - potential[inside]))
    assert roots.sum() * step * conditions.area_per_root_evs[0] == pytest.approx(
        conditions.emittance_evs[0], rel=0.01
    )


def test_space_charge_and_an_inductance_of_the_opposite_sign_cancel():
    """ConstantZn with plus what space charge has as minus leaves the bare profile."""
    conditions = make(intensity=9.0e12, machine=Machine(space_charge_g=2.0))
    z = conditions.machine.space_charge_z_over_n_ohm(conditions.beta[0], conditions.gamma[0])
    both = Machine(space_charge_g=2.0, impedance=(ConstantZn(z_over_n_ohm=-complex(z)),))
    bare = matched_profiles(conditions, intensity_effects=False)
    cancelled = matched_profiles(conditions.replace(machine=both))
    acting = matched_profiles(conditions)
    np.testing.assert_allclose(cancelled.line_density, bare.line_density, atol=1e-4)
    assert acting.bunch_length_s[0] > 1.02 * bare.bunch_length_s[0]


def test_an_emittance_beyond_the_bucket_fills_it_to_the_edge():
    """captured_fraction is the share that fits; without intensity effects the area over emittance."""
    fits, spills = make(filling=0.99), make(filling=2.0)
    full = matched_profiles(spills)
    assert matched_profiles(fits).captured_fraction[0] == 1.0
    assert full.captured_fraction[0] == pytest.approx(0.5, rel=1e-6)
    assert full.converged[0]
    np.testing.assert_allclose(
        full.line_density, matched_profiles(make(filling=1.0001)).line_density, atol=2e-3
    )


def test_captured_fraction_is_continuous_where_the_bunch_begins_to_spill():
    """Around the emittance that just fits, with intensity effects, nothing jumps."""
    fillings = np.linspace(0.6, 1.1, 400)
    conditions = make(filling=fillings, phi2_rad=np.full(400, -0.4), intensity=9.0e12)
    result = matched_profiles(conditions, 200)
    assert result.captured_fraction.min() < 0.95
    assert (result.captured_fraction == 1.0).any()
    assert np.abs(np.diff(result.captured_fraction)).max() < 0.01
    assert np.abs(np.diff(result.line_density, axis=0)).max() < 0.05 * result.line_density.max()


def test_no_bucket_gives_nan_and_not_zeros():
    """A voltage too low for the Bdot: converged is false, the profile NaN."""
    conditions = Conditions(
        b_field_t=0.5,
        b_dot_t_per_s=[2.0, 2.0],
        v1_v=[8.0e3, 1.5e3],
        v2_v=0.0,
        phi2_rad=0.0,
        emittance_evs=0.5,
        intensity=5.0e12,
        machine=WAKE,
    )
    result = matched_profiles(conditions)
    assert result.converged.tolist() == [True, False]
    assert np.isnan(result.line_density[1]).all()
    assert np.isnan(result.asymmetry[1])
    assert np.isfinite(result.line_density[0]).all()
    assert np.isnan(result.induced_voltage_v[1]).all()


def test_the_wake_takes_energy_so_the_bunch_moves_to_a_later_phase():
    """A resistive impedance decelerates: below transition the bunch sits later, by what it loses."""
    machine = Machine(impedance=(Resonator(r_shunt_ohm=400.0, frequency_hz=1.5e6, q=0.1),))
    conditions = make(intensity=9.0e12, v2_v=0.0, b_dot_t_per_s=0.0, machine=machine)
    result = matched_profiles(conditions)
    step = result.phase_rad[1] - result.phase_rad[0]
    lost = result.induced_voltage_v[0] @ result.line_density[0] * step
    gained = -8.0e3 * np.sin(result.phase_rad) @ result.line_density[0] * step
    assert lost < -100.0
    assert gained == pytest.approx(-lost, rel=0.01)
    assert result.mean_phase_rad[0] > np.pi


def test_threads_and_slices_do_not_change_the_answer():
    """Two threads give what one gives; odd numbers of slices sample the same profile."""
    conditions = make(phi2_rad=np.linspace(-3.0, 3.0, 64), filling=0.4, intensity=5.0e12)
    one, two = matched_profiles(conditions, 200), matched_profiles(conditions, 200, threads=2)
    np.testing.assert_array_equal(one.line_density, two.line_density)
    odd = matched_profiles(conditions, 201)
    fine = matched_profiles(conditions, 4020)
    np.testing.assert_allclose(odd.line_density, fine.line_density[:, 9::20], rtol=0.05, atol=0.01)
    np.testing.assert_array_equal(odd.asymmetry, one.asymmetry)


def test_harmonics_2_and_4_are_the_same_bunch_twice():
    """A ring of twice the length at h = (2, 4) holds two bunches of the h = (1, 2) ring each."""
    conditions = make(intensity=5.0e12, machine=Machine(space_charge_g=2.0))
    ring = Machine(circumference_m=2.0 * 157.08, harmonics=(2, 4), space_charge_g=2.0)
    twice = conditions.replace(
        machine=ring,
        intensity=1.0e13,
        v1_v=2.0 * conditions.v1_v,
        v2_v=2.0 * conditions.v2_v,
    )
    single, double = matched_profiles(conditions), matched_profiles(twice)
    np.testing.assert_allclose(
        double.synchronous_phase_rad, single.synchronous_phase_rad, rtol=1e-12
    )
    np.testing.assert_allclose(double.line_density, single.line_density, atol=1e-5)


def test_a_well_that_breaks_apart_is_flagged_and_said():
    """Beyond what a ring holds less is captured, without a jump; in a strong wake nothing is matched.

    Then `converged` is false, and particles are refused in a sentence that names the intensity.
    """
    intensity = np.array([1e12, 1e13, 2e13, 3e13, 5e13, 7e13, 1e14, 3e14, 1e15])
    weak = matched_profiles(make(intensity=intensity))
    assert weak.converged.all()
    assert (np.diff(weak.captured_fraction) <= 0.0).all()
    held = (weak.captured_fraction * intensity)[4:]
    assert held.max() / held.min() < 1.25

    strong = Machine(impedance=(Resonator(r_shunt_ohm=4000.0, frequency_hz=3.0e6, q=0.6),))
    conditions = make(intensity=intensity, machine=strong)
    assert matched_profiles(conditions).converged.tolist() == [True, True] + 7 * [False]
    with pytest.raises(BeamError, match=r"breaks apart in the wake of 2e\+13 protons.*lower the"):
        sample_particles(conditions.take([2]), 10, np.random.default_rng(0))
    with pytest.raises(
        BeamError, match=r"make no bucket at a gain of .* raise the voltage or lower"
    ):
        sample_particles(
            make().replace(v1_v=100.0, v2_v=0.0, emittance_evs=1.0), 10, np.random.default_rng(0)
        )
    with pytest.raises(BeamError, match="fewer than three points"):
        sample_particles(make(filling=1e-7), 10, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("filling", "length", "peak"), [(0.003, 0.006, 0.005), (0.01, 1e-3, 1e-3), (0.1, 1e-4, 1e-4)]
)
def test_small_bunches_are_measured_to_the_stated_accuracy(filling, length, peak):
    """Length and peak of a bunch of few grid points are those of a quadrature with 200,000."""
    conditions = make(filling=filling, phi2_rad=[-0.4, 0.3, 1.2], v2_v=3.0e3)
    result = matched_profiles(conditions, 16, intensity_effects=False)
    for k in range(3):
        one = conditions.take([k])
        phase = np.linspace(*result.window_rad[k], 200_001)
        potential = (
            one.v1_v * np.cos(phase)
            + 0.5 * one.v2_v * np.cos(2.0 * phase + one.phi2_rad)
            - one.energy_gain_ev * phase
        )
        density = np.maximum(0.0, result.level_vrad[k] - potential)
        step = phase[1] - phase[0]
        weights = density / density.sum()
        mean = weights @ phase
        rms = np.sqrt(weights @ (phase - mean) ** 2)
        omega = 2.0 * np.pi * one.rf_frequency_hz[0]
        assert result.bunch_length_s[k] == pytest.approx(4.0 * rms / omega, rel=length)
        factor = step / (2.0 * np.pi * weights.max())
        assert result.bunching_factor[k] == pytest.approx(factor, rel=peak)
        area = np.sqrt(density).sum() * step * one.area_per_root_evs[0]
        assert area == pytest.approx(one.emittance_evs[0], rel=3.0 * length)


def test_bad_arguments_are_refused():
    """Slices, threads, criterion: one sentence each."""
    with pytest.raises(UsageError, match="n_slices is 8; it must be a whole number, at least 16"):
        matched_profiles(make(), 8)
    with pytest.raises(UsageError, match=r"n_slices is 100\.5"):
        matched_profiles(make(), 100.5)
    with pytest.raises(UsageError, match="conditions are empty"):
        matched_profiles(make(phi2_rad=[]))
    with pytest.raises(UsageError, match=r"count is 10\.5; it must be a whole number"):
        sample_particles(make(), 10.5, np.random.default_rng(0))
    with pytest.raises(UsageError, match="rng is 5; expected a numpy"):
        sample_particles(make(), 10, 5)
    with pytest.raises(UsageError, match="threads is 0"):
        matched_profiles(make(), threads=0)
    with pytest.raises(UnknownNameError, match="did you mean 'symmetry'"):
        reference_optimum(make(), "symetry")
    with pytest.raises(UsageError, match="takes one condition, not 2"):
        sample_particles(make(phi2_rad=[0.0, 1.0]), 10, np.random.default_rng(0))
    with pytest.raises(BeamError, match="no matched bunch"):
        sample_particles(
            make().replace(v1_v=100.0, v2_v=0.0, emittance_evs=1.0), 10, np.random.default_rng(0)
        )


def test_symmetry_optimum_is_a_falling_zero_of_the_asymmetry():
    """At the optimum the profile is symmetric; just below it leans one way, just above the other."""
    conditions = make(b_dot_t_per_s=[0.0, 1.0, 2.0], intensity=[0.0, 4.0e12, 9.0e12], filling=0.5)
    best = reference_optimum(conditions)
    assert np.isfinite(best).all()
    at = [
        matched_profiles(conditions.replace(phi2_rad=best + d)).asymmetry for d in (-0.02, 0, 0.02)
    ]
    assert np.abs(at[1]).max() < 2e-4
    assert (at[0] > 0.0).all()
    assert (at[2] < 0.0).all()
    assert np.abs(best[0]) < 1e-6  # Bdot = 0, no intensity: bunch lengthening at 0


def test_equal_wells_optimum_makes_the_two_minima_equal():
    """At zero intensity the two minima of the RF potential are equally deep, by direct evaluation."""
    conditions = make(b_dot_t_per_s=[0.5, 1.5, 2.5], v2_v=6.0e3)
    best = reference_optimum(conditions, "equal-wells")
    phase = np.linspace(1.0, 7.0, 200_001)
    for k in range(3):
        u = (
            8.0e3 * np.cos(phase)
            + 3.0e3 * np.cos(2.0 * phase + best[k])
            - conditions.energy_gain_ev[k] * phase
        )
        bottoms = u[1:-1][(u[1:-1] < u[:-2]) & (u[1:-1] < u[2:])]
        assert bottoms.size == 2
        assert abs(bottoms[0] - bottoms[1]) < 0.5  # of some 5,000 V rad


def test_bunching_factor_optimum_beats_its_neighbours():
    """No other phi2 on a fine scan has a flatter profile."""
    conditions = make(intensity=5.0e12)
    best = reference_optimum(conditions, "bunching-factor")
    scan = np.linspace(-np.pi, np.pi, 721)
    n = scan.size
    everywhere = matched_profiles(
        conditions.take(np.zeros(n, dtype=int)).replace(phi2_rad=scan), 64
    ).bunching_factor
    there = matched_profiles(conditions.replace(phi2_rad=best), 64).bunching_factor[0]
    assert there >= everywhere.max() - 1e-4


def test_the_least_skewness_goes_on_where_the_reference_ends():
    """Less and less V2 at full intensity: the last reference and the first least skewness are one phase."""
    v2 = np.linspace(3.0e3, 5.0e2, 2_001)
    conditions = make(v2_v=v2, b_dot_t_per_s=0.0, intensity=9.0e12).replace(emittance_evs=1.0)
    best = reference_optimum(conditions)
    last = int(np.flatnonzero(np.isfinite(best))[-1])
    assert 100 < last < 1_900
    assert np.isnan(best[last + 1 :]).all()
    beyond = conditions.take(np.arange(last + 1, last + 41))
    least = least_skewed(beyond)
    assert abs(circular_difference(least[0], best[last])) < np.radians(3.0)
    assert np.abs(np.diff(np.unwrap(least))).max() < np.radians(1.0)
    leans = matched_profiles(beyond.replace(phi2_rad=least)).asymmetry
    assert (np.diff(np.abs(leans)) > 0.0).all()  # further from symmetry with every volt less


def test_nowhere_on_the_circle_does_a_profile_lean_less():
    """No other phi2 on a fine scan has less skewness; without V2 there is no answer."""
    conditions = make(v2_v=[5.0e2, 0.0], b_dot_t_per_s=0.0, intensity=9.0e12)
    conditions = conditions.replace(emittance_evs=1.0)
    least = least_skewed(conditions)
    assert np.isnan(least).tolist() == [False, True]
    scan = np.linspace(-np.pi, np.pi, 721)
    one = conditions.take(np.zeros(scan.size, dtype=int))
    everywhere = np.abs(matched_profiles(one.replace(phi2_rad=scan)).asymmetry)
    there = np.abs(matched_profiles(one.take([0]).replace(phi2_rad=least[:1])).asymmetry)
    assert there[0] <= everywhere.min() + 1e-4
    assert there[0] > 0.01


def test_a_missing_optimum_is_nan_with_its_reason():
    """No V2, too little V2 for two wells, no bucket: NaN and a sentence."""
    conditions = Conditions(
        b_field_t=0.5,
        b_dot_t_per_s=[1.0, 1.0, 3.5, 1.0],
        v1_v=[8.0e3, 8.0e3, 2.0e3, 8.0e3],
        v2_v=[0.0, 3.0e3, 1.5e3, 6.0e3],
        phi2_rad=0.0,
        emittance_evs=0.5,
        intensity=0.0,
    )
    best, reasons = reference_optimum(conditions, "equal-wells", with_reason=True)
    assert np.isnan(best).tolist() == [True, True, True, False]
    assert reasons[0] == "V2 is 0: phi2 has no effect"
    assert "not above 0.5" in reasons[1]
    assert "no bucket at any phi2" in reasons[2]
    assert reasons[3] == ""


def test_particles_have_the_profile_and_the_energies_of_the_distribution():
    """Histogram of dt is the profile to shot noise; rms energy is that of a semicircle per phase."""
    conditions = make(intensity=9.0e12)
    count = 200_000
    dt, energy = sample_particles(conditions, count, np.random.default_rng(3))
    omega = 2.0 * np.pi * conditions.rf_frequency_hz[0]
    half_drift = (
        conditions.slippage_factor[0]
        * energy
        / (
            2.0
            * conditions.revolution_frequency_hz[0]
            * conditions.beta[0] ** 2
            * conditions.energy_ev[0]
        )
    )
    profile = matched_profiles(conditions, 100)
    step = 2.0 * np.pi / 100
    counts = np.histogram((dt - half_drift) * omega, bins=100, range=(0.0, 2.0 * np.pi))[0]
    expected = profile.line_density[0] * step * count
    fair = expected > 100.0
    assert np.sum((counts - expected)[fair] ** 2 / expected[fair]) < 2.0 * fair.sum()
    # <a dE^2 / 2> = <y> / 4 with y = H0 - U = (S - kappa) lambda, over the particles.
    spread = profile.normalisation_vrad2[0] - conditions.space_charge_vrad2[0]
    mean_density = np.sum(profile.line_density[0].astype(float) ** 2) * step
    kinetic = 0.5 * conditions.kinetic_coefficient_per_ev[0] * np.mean(energy**2)
    assert kinetic == pytest.approx(spread * mean_density / 4.0, rel=0.01)
    again = sample_particles(conditions, count, np.random.default_rng(3))
    np.testing.assert_array_equal(dt, again[0])


def test_intensity_moves_the_optimum_by_many_degrees():
    """What a simulation without intensity effects would get wrong."""
    conditions = make(intensity=9.0e12)
    moved = circular_difference(
        reference_optimum(conditions), reference_optimum(conditions, intensity_effects=False)
    )
    assert 5.0 < abs(np.degrees(moved[0])) < 60.0


def test_a_bunch_too_small_for_the_grid_is_said_and_not_guessed():
    """A ten-millionth of the bucket falls between two points of the grid: NaN, not converged."""
    result = matched_profiles(make(filling=1e-7))
    assert not result.converged[0]
    assert np.isnan(result.line_density).all()
