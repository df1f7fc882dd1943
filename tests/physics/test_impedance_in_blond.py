"""One description of the impedance drives the kernel and BLonD: what BLonD's own objects are given."""

import numpy as np
import pytest

pytest.importorskip("numba")
blond_import = pytest.importorskip("memrl_backends.blond._import")

from memrl_backends.blond.matching import blond_profiles  # noqa: E402
from memrl_backends.blond.stretch import Stretch  # noqa: E402
from memrl_backends.blond.tracker import Tracker  # noqa: E402
from memrl_ctrl.beam import (  # noqa: E402
    Conditions,
    ConstantZn,
    ImpedanceTable,
    Machine,
    ResistiveWall,
    Resonator,
    matched_profiles,
)
from memrl_ctrl.errors import MissingExtraError  # noqa: E402

TABLE_HZ = np.geomspace(2e5, 8e7, 60)
EVERYTHING = (
    Resonator(r_shunt_ohm=40.0, frequency_hz=4e6, q=1.5, count=13),
    ImpedanceTable(
        frequency_hz=TABLE_HZ,
        impedance_ohm=Resonator(60.0, 1.5e7, 3.0).impedance_ohm(TABLE_HZ),
        count=3,
    ),
    ConstantZn(z_over_n_ohm=0.5 + 4.0j, count=2),
    ResistiveWall(length_m=120.0, radius_m=0.04, resistivity_ohm_m=7.4e-7),
)
PSB = Machine(space_charge_g=2.0, impedance=EVERYTHING)
H2 = Machine(
    circumference_m=163.363,
    bending_radius_m=7.0,
    gamma_transition=5.034,
    space_charge_g=1.5,
    harmonics=(2, 4),
    impedance=EVERYTHING,
)


@pytest.fixture(scope="module", autouse=True)
def _blond():
    try:
        blond_import.blond()
    except MissingExtraError as error:
        pytest.skip(str(error))


def condition(machine, intensity=8e12):
    """A condition of either ring, with a bunch that fits."""
    factor = 1.0 if machine is PSB else 13.0
    return Conditions(
        b_field_t=0.4,
        b_dot_t_per_s=1.5 * (1.0 if machine is PSB else 30.0),
        v1_v=9e3 * factor,
        v2_v=5e3 * factor,
        phi2_rad=-0.5,
        emittance_evs=1.0 if machine is PSB else 0.5,
        intensity=intensity,
        machine=machine,
    )


@pytest.mark.parametrize("machine", [PSB, H2], ids=["h=1,2", "h=2,4"])
def test_blond_is_given_the_rings_impedance_at_every_multiple(machine):
    """BLonD's total impedance at k h f_rev is Machine.impedance_ohm plus space charge, for all kinds
    of impedance together, at every frequency of its Fourier transform."""
    point = condition(machine)
    given = blond_import.BlondMachine(point, 1000)
    profile = given.profile(512)
    (wake,) = given.induced_voltage(profile).induced_voltage_list
    revolution = point.revolution_frequency_hz[0]
    orders = np.arange(1, 257) * machine.harmonics[0]
    np.testing.assert_allclose(wake.freq[1:257], orders * revolution, rtol=1e-9)
    expected = machine.impedance_ohm(orders * revolution, revolution)
    expected = expected + orders * machine.space_charge_z_over_n_ohm(point.beta[0], point.gamma[0])
    found = wake.total_impedance[1:257] * profile.bin_size
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("machine", [PSB, H2], ids=["h=1,2", "h=2,4"])
def test_tracking_is_given_the_rings_impedance(machine):
    """The tracker's BLonD objects hold the same impedance, at each harmonic of its induced voltage."""
    point = condition(machine)
    tracker = Tracker.matched(
        Stretch.constant(point),
        emittance_evs=float(point.emittance_evs[0]),
        intensity=float(point.intensity[0]),
        count=1000,
        rng=np.random.default_rng(1),
    )
    parts = tracker._parts
    revolution = point.revolution_frequency_hz[0]
    orders = np.arange(1, 33) * machine.harmonics[0]
    expected = machine.impedance_ohm(orders * revolution, revolution)
    expected = expected + orders * machine.space_charge_z_over_n_ohm(point.beta[0], point.gamma[0])
    found = parts.wake.total_impedance[1:33] * parts.profile.bin_size
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("machine", [PSB, H2], ids=["h=1,2", "h=2,4"])
def test_blond_and_the_kernel_get_the_same_induced_voltage(machine):
    """For one smooth bunch BLonD's induced voltage is the slope of the kernel's potential, sign included."""
    point = condition(machine)
    slices = 512
    given = blond_import.BlondMachine(point, 100_000)
    profile = given.profile(slices)
    total = given.induced_voltage(profile)
    phase = (np.arange(slices) + 0.5) * (2.0 * np.pi / slices)
    density = (
        1.0 + 0.9 * np.cos(phase - 2.0) + 0.3 * np.cos(2.0 * phase) + 0.1 * np.sin(5.0 * phase)
    )
    density /= 2.0 * np.pi
    profile.n_macroparticles[:] = density * 100_000 * 2.0 * np.pi / slices
    with blond_import.contained():
        total.induced_voltage_sum()
    order = np.arange(1, machine.wake_harmonics + 1)
    waves = np.exp(-1j * order[:, None] * phase)
    spectrum = waves @ density * 2.0 * np.pi / slices
    coefficients = point.wake_per_density_vrad()[0] * spectrum
    wake = 2.0 * ((1j * order * coefficients) @ waves.conj()).real
    slope = 2.0 * ((1j * order * spectrum) @ waves.conj()).real / (2.0 * np.pi)
    kernel = wake + point.space_charge_vrad2[0] * slope
    found = total.induced_voltage[:slices]
    scale = np.abs(kernel).max()
    assert scale > 300.0
    assert np.abs(found - kernel).max() < 0.02 * scale


@pytest.mark.parametrize("intensity", [0.0, 1.5e13])
def test_two_bunches_are_matched_by_blond_as_by_the_kernel(intensity):
    """At harmonics 2 and 4 BLonD's matching of one bunch gives the kernel's profile to 1 % of the peak."""
    machine = Machine(
        circumference_m=163.363,
        bending_radius_m=7.0,
        gamma_transition=5.034,
        space_charge_g=1.5,
        harmonics=(2, 4),
        impedance=(Resonator(r_shunt_ohm=50.0, frequency_hz=5e6, q=1.0, count=3),),
    )
    point = condition(machine, intensity)
    kernel = matched_profiles(point, 256)
    blond = blond_profiles(point, 256)
    assert blond.converged[0]
    peak = kernel.line_density.max()
    assert np.abs(blond.line_density - kernel.line_density).max() < 0.01 * peak
    assert blond.bunch_length_s[0] == pytest.approx(kernel.bunch_length_s[0], rel=3e-3)
