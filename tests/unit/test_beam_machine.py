"""Rings and impedances: formulas against numbers, and what is refused."""

import numpy as np
import pytest

from memrl_ctrl.beam import ConstantZn, ImpedanceTable, Machine, ResistiveWall, Resonator
from memrl_ctrl.errors import BeamError


def test_resonator_has_its_shunt_impedance_at_resonance_and_is_inductive_below():
    """Z(f_r) = R; below resonance the imaginary part is positive, above negative."""
    cavity = Resonator(r_shunt_ohm=50.0, frequency_hz=2.0e6, q=3.0, count=4)
    z = cavity.impedance_ohm(np.array([1.0e6, 2.0e6, 4.0e6]))
    assert z[1] == pytest.approx(200.0)
    assert z[0].imag > 0.0 > z[2].imag
    # By hand: Q (f/fr - fr/f) = 3 (0.5 - 2) = -4.5.
    assert z[0] == pytest.approx(200.0 / (1.0 - 4.5j))


def test_table_is_interpolated_in_real_and_imaginary_part_and_ends_at_zero():
    """Between rows a straight line, below the first row its value, above the last row nothing."""
    table = ImpedanceTable(
        frequency_hz=[1.0e6, 2.0e6, 3.0e6], impedance_ohm=[10 + 4j, 20 - 2j, 30 + 0j], count=2
    )
    z = table.table_at(np.array([0.5e6, 1.5e6, 3.0e6, 3.1e6]))
    np.testing.assert_allclose(z, [20 + 8j, 30 + 2j, 60 + 0j, 0j])


def test_space_charge_with_g_2_is_the_usual_formula():
    """g = 2 is Z/n = -j Z0 / (beta gamma^2)."""
    z = Machine(space_charge_g=2.0).space_charge_z_over_n_ohm(0.52, 1.17)
    assert complex(z) == pytest.approx(-1j * 376.730313668 / (0.52 * 1.17**2))


def test_a_resistive_wall_is_that_of_the_skin_depth():
    """By hand: steel of 7.4e-7 ohm m at 1 MHz has a skin depth of 433 um; with length C the usual
    Z/n = (1 + j) beta Z0 depth / (2 radius) follows, and Z grows with the root of frequency."""
    wall = ResistiveWall(length_m=157.08, radius_m=0.06, resistivity_ohm_m=7.4e-7)
    frequency = np.array([1.0e6, 4.0e6])
    assert wall.skin_depth_m(frequency)[0] == pytest.approx(433e-6, rel=1e-3)
    z = wall.impedance_ohm(frequency)
    assert z[1] == pytest.approx(2.0 * z[0])
    beta = 1.0e6 * 157.08 / 299_792_458.0
    expected = (1 + 1j) * beta * 376.730313668 * 433e-6 / (2 * 0.06)
    assert z[0] == pytest.approx(expected, rel=1e-3)
    assert Machine(impedance=(wall,)).impedance_ohm(1.0e6, 1.0e6) == pytest.approx(z[0])


def test_total_impedance_sums_items_and_z_over_n_grows_with_frequency():
    """Resonators, tables and Z/n add up; Z/n counts harmonics of the revolution."""
    machine = Machine(
        impedance=(
            Resonator(r_shunt_ohm=10.0, frequency_hz=1.0e6, q=1.0),
            ConstantZn(z_over_n_ohm=1 + 2j, count=3),
        )
    )
    z = machine.impedance_ohm(np.array([1.0e6, 5.0e6]), 1.0e6)
    assert z[0] == pytest.approx(13 + 6j)
    assert z[1].imag == pytest.approx(30.0 - 10.0 * 4.8 / (1 + 4.8**2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resonator(r_shunt_ohm=-1.0, frequency_hz=1e6, q=1.0), "r_shunt_ohm is -1.0"),
        (lambda: Resonator(r_shunt_ohm=1.0, frequency_hz=0.0, q=1.0), "frequency_hz is 0.0"),
        (lambda: Resonator(r_shunt_ohm=1.0, frequency_hz=1e6, q=float("nan")), "q is nan"),
        (lambda: ImpedanceTable(frequency_hz=[1, 2, 2], impedance_ohm=[1, 1, 1]), "row 3 does not"),
        (lambda: ImpedanceTable(frequency_hz=[-1, 2], impedance_ohm=[1, 1]), "first frequency"),
        (lambda: ImpedanceTable(frequency_hz=[1, 2], impedance_ohm=[1, np.nan]), "row 2 has a gap"),
        (lambda: ImpedanceTable(frequency_hz=[1, 2], impedance_ohm=[1]), "same length"),
        (lambda: ConstantZn(z_over_n_ohm=-1.0), "real part at least 0"),
        (
            lambda: ResistiveWall(length_m=1.0, radius_m=0.0, resistivity_ohm_m=1e-6),
            "resistive wall: radius_m is 0.0",
        ),
        (lambda: Machine(harmonics=(1, 3)), "second must be twice the first"),
        (lambda: Machine(circumference_m=0.0), "circumference_m is 0.0"),
        (lambda: Machine(gamma_transition=0.9), "gamma_transition is 0.9"),
        (lambda: Machine(space_charge_g=-1.0), "space_charge_g is -1.0"),
        (lambda: Machine(wake_harmonics=7), "an even number"),
        (lambda: Machine(impedance=("cavity",)), "not str"),
    ],
)
def test_a_wrong_ring_is_refused_with_one_sentence(make, message):
    """Each mistake names the quantity, its value and what is allowed."""
    with pytest.raises(BeamError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_single_impedance_needs_no_tuple():
    """One resonator given by itself is the ring's only impedance."""
    cavity = Resonator(r_shunt_ohm=27.0, frequency_hz=1.6e6, q=0.05)
    assert Machine(impedance=cavity).impedance == (cavity,)
