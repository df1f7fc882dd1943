"""The kernel against BLonD, which shares no code with it."""

import numpy as np
import pytest

pytest.importorskip("numba")
blond_import = pytest.importorskip("memrl_backends.blond._import")

from memrl_ctrl.beam import (  # noqa: E402
    Conditions,
    ImpedanceTable,
    Machine,
    Resonator,
    bucket_area_evs,
    matched_profiles,
    reference_optimum,
)
from memrl_ctrl.errors import MissingExtraError  # noqa: E402

PARTICLES = 200_000
TURNS = 3_000

MACHINE = Machine(
    space_charge_g=2.0,
    impedance=(Resonator(r_shunt_ohm=15.0, frequency_hz=3.0e6, q=0.6, count=36),),
)


@pytest.fixture(scope="module", autouse=True)
def _blond():
    try:
        blond_import.blond()
    except MissingExtraError as error:
        pytest.skip(str(error))


def condition(field, b_dot, v2, filling, *, away_rad=0.0, intensity=0.0, machine=MACHINE):
    """A condition `away_rad` from its optimum, with a filling of the bare bucket."""
    point = Conditions(
        b_field_t=field,
        b_dot_t_per_s=b_dot,
        v1_v=8.0e3,
        v2_v=v2,
        phi2_rad=0.0,
        emittance_evs=1.0,
        intensity=intensity,
        machine=machine,
    )
    best = reference_optimum(point.replace(emittance_evs=0.3 * bucket_area_evs(point)))
    point = point.replace(phi2_rad=best + away_rad)
    return point.replace(emittance_evs=filling * bucket_area_evs(point))


def blond_zero_intensity(point, phase):
    """BLonD's noise-free matched line density at phases of one turn, integral 1."""
    library = blond_import.blond()
    machine = blond_import.BlondMachine(point, 1000)
    ring = machine.full_ring()
    with blond_import.contained():
        time_s, density = library.matched_from_distribution_function(
            machine.beam,
            ring,
            distribution_type="parabolic_line",
            emittance=float(point.emittance_evs[0]),
            seed=1,
        )
    frame = time_s * 2.0 * np.pi * point.rf_frequency_hz[0]
    total = sum(
        np.interp(phase + 2.0 * np.pi * k, frame, density, left=0.0, right=0.0) for k in (-1, 0, 1)
    )
    return total / (total.sum() * (phase[1] - phase[0]))


@pytest.mark.parametrize(
    ("field", "b_dot", "v2", "filling", "away_rad"),
    [
        (0.25, 0.0, 6.0e3, 0.6, 0.0),
        (0.30, 0.0, 0.0001, 0.3, 0.0),
        (0.40, 2.0, 4.0e3, 0.6, 1.0),
        (0.50, 1.0, 6.0e3, 0.9, -1.5),
        (0.70, 3.0, 4.0e3, 0.2, 0.5),
        (0.90, 3.5, 6.0e3, 0.7, 0.0),
        (1.10, -1.0, 3.0e3, 0.5, 2.0),
    ],
)
def test_zero_intensity_profile_is_that_of_blonds_matching(field, b_dot, v2, filling, away_rad):
    """Without intensity effects the profile is BLonD's matched one to 0.5 % of the peak, rms."""
    point = condition(field, b_dot, v2, filling, away_rad=away_rad)
    kernel = matched_profiles(point, 1000, intensity_effects=False)
    reference = blond_zero_intensity(point, kernel.phase_rad)
    difference = kernel.line_density[0] - reference
    assert kernel.converged[0]
    assert np.sqrt(np.mean(difference**2)) <= 0.005 * reference.max()
    # What was measured is fifty times better: keep it so.
    assert np.sqrt(np.mean(difference**2)) <= 0.0005 * reference.max()


def test_induced_voltage_is_that_of_blond_for_the_same_profile():
    """BLonD's induced voltage of the kernel's profile is the kernel's, but for the bunch's ends."""
    table_frequency = np.linspace(0.1e6, 60.0e6, 4000)
    impedance = Resonator(r_shunt_ohm=300.0, frequency_hz=2.0e6, q=0.5).impedance_ohm(
        table_frequency
    )
    machine = Machine(
        space_charge_g=1.5,
        impedance=(
            ImpedanceTable(frequency_hz=table_frequency, impedance_ohm=impedance),
            Resonator(r_shunt_ohm=200.0, frequency_hz=5.0e6, q=1.0),
        ),
    )
    point = condition(0.5, 2.0, 5.0e3, 0.6, intensity=9.0e12, machine=machine)
    kernel = matched_profiles(point, 1000)
    twin = blond_import.BlondMachine(point, 1_000_000)
    profile = twin.profile(1000)
    total = twin.induced_voltage(profile)
    step = kernel.phase_rad[1] - kernel.phase_rad[0]
    profile.n_macroparticles = kernel.line_density[0].astype(np.float64) * step * 1.0e6
    with blond_import.contained():
        total.induced_voltage_sum()
    difference = np.abs(total.induced_voltage - kernel.induced_voltage_v[0])
    largest = np.abs(kernel.induced_voltage_v).max()
    # Space charge jumps at the bunch's ends, where a spectrum of finite width rings.
    assert np.median(difference) < 0.01 * largest
    assert np.quantile(difference, 0.95) < 0.05 * largest


@pytest.mark.parametrize(
    ("field", "b_dot", "v2", "filling", "away_rad"),
    [
        (0.25, 0.0, 6.0e3, 0.6, 0.0),
        (0.40, 2.0, 4.0e3, 0.6, 0.0),
        (0.50, 1.0, 6.0e3, 0.4, 0.5),
        (0.70, 2.5, 4.0e3, 0.8, -0.4),
        (0.95, 3.0, 3.0e3, 0.5, 0.2),
    ],
)
def test_matched_bunch_is_stationary_under_tracking(field, b_dot, v2, filling, away_rad):
    """At 9e12 protons 2e5 tracked particles keep the kernel's profile for 3,000 turns."""
    from memrl_backends.blond.validate.tracking import stationary

    point = condition(field, b_dot, v2, filling, away_rad=away_rad, intensity=9.0e12)
    kernel = matched_profiles(point, 16)
    assert kernel.converged[0]
    assert kernel.captured_fraction[0] == 1.0
    found = stationary(point, lambda part: None, particles=PARTICLES, turns=TURNS, seed=5)
    profile, mean, length, lost = (figure.value for figure in found.figures)
    assert profile <= 1.0
    assert mean <= 0.3
    assert length <= 1.0
    assert lost <= 0.01


def test_without_the_wake_in_the_kernel_the_bunch_is_not_stationary():
    """The comparison would notice a kernel that forgot the wake: such a bunch moves and breathes."""
    point = condition(0.4, 2.0, 4.0e3, 0.6, intensity=9.0e12)
    with_wake = matched_profiles(point, 256)
    without = matched_profiles(point, 256, intensity_effects=False)
    difference = without.line_density - with_wake.line_density
    rms = np.sqrt(np.mean(difference**2))
    assert rms > 0.05 * with_wake.line_density.max()


def test_fidelity_blond_agrees_with_the_kernel_at_full_intensity():
    """BLonD's matching iterated with the induced voltage ends at the kernel's profile."""
    from memrl_backends.blond.matching import blond_profiles

    point = condition(0.5, 1.0, 6.0e3, 0.5, away_rad=0.4, intensity=9.0e12)
    kernel = matched_profiles(point, 500)
    # Not from the kernel's answer: BLonD finds its own way.
    reference = blond_profiles(point, 500, n_points_grid=400, start_from_kernel=False)
    assert reference.converged[0]
    assert reference.iterations[0] > 2
    difference = kernel.line_density - reference.line_density
    peak = kernel.line_density.max()
    assert np.sqrt(np.mean(difference**2)) <= 0.005 * peak
    assert abs(kernel.asymmetry[0] - reference.asymmetry[0]) < 0.005
    assert kernel.bunch_length_s[0] == pytest.approx(reference.bunch_length_s[0], rel=0.005)
    assert kernel.bucket_area_evs[0] == pytest.approx(reference.bucket_area_evs[0], rel=0.01)


def test_importing_blond_leaves_the_warning_filters_alone():
    """Warnings stay errors after BLonD was imported and used."""
    import warnings

    before = list(warnings.filters)
    blond_import.blond()
    blond_zero_intensity(condition(0.4, 1.0, 4.0e3, 0.5), np.linspace(0.01, 6.2, 200))
    assert list(warnings.filters) == before
