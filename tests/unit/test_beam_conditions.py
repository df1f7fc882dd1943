"""Conditions: kinematics against numbers, broadcasting, and what is refused."""

import numpy as np
import pytest

from memrl_ctrl.beam import Conditions, Machine, bucket_area_evs, filling_to_emittance
from memrl_ctrl.errors import BeamError


def make(**changes):
    values = {
        "b_field_t": 0.5,
        "b_dot_t_per_s": 2.0,
        "v1_v": 8.0e3,
        "v2_v": 5.0e3,
        "phi2_rad": 0.0,
        "emittance_evs": 1.0,
        "intensity": 1.0e12,
    }
    return Conditions(**{**values, **changes})


def test_kinematics_are_those_of_the_psb():
    """At 160 MeV (B 0.2311 T) and 2 GeV (1.1276 T) f_rev is 0.992 and 1.809 MHz."""
    conditions = make(b_field_t=[0.23111, 1.12756], b_dot_t_per_s=0.0)
    kinetic = conditions.energy_ev - 938.27208816e6
    np.testing.assert_allclose(kinetic, [160.0e6, 2.0e9], rtol=1e-3)
    np.testing.assert_allclose(conditions.revolution_frequency_hz, [0.992e6, 1.809e6], rtol=1e-3)


def test_energy_gain_is_circumference_times_radius_times_bdot():
    """157.08 m x 8.239 m x 2 T/s = 2588.4 eV a turn, and the lower harmonic's phase for it."""
    conditions = make()
    assert conditions.energy_gain_ev[0] == pytest.approx(2588.36, rel=1e-4)
    expected = np.pi + np.arcsin(2588.36 / 8.0e3)
    assert conditions.synchronous_phase_rad[0] == pytest.approx(expected, rel=1e-4)
    assert np.isnan(make(v1_v=2.0e3).synchronous_phase_rad[0])


def test_scalars_and_arrays_broadcast_to_one_length():
    """One array makes all fields [n]; rows can be taken and fields replaced."""
    conditions = make(phi2_rad=[0.0, 1.0, 2.0])
    assert len(conditions) == 3
    assert conditions.v1_v.shape == (3,)
    assert conditions.take([2, 0]).phi2_rad.tolist() == [2.0, 0.0]
    assert conditions.take(conditions.phi2_rad > 0.5).phi2_rad.tolist() == [1.0, 2.0]
    assert conditions.replace(phi2_rad=0.5).phi2_rad.tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="read-only"):
        conditions.v1_v[0] = 1.0


def test_gamma_transition_can_differ_between_conditions():
    """A condition's own gamma_transition overrides the machine's; another machine brings its own."""
    assert make().gamma_transition.tolist() == [4.4]
    assert make(gamma_transition=[4.1, 4.2]).gamma_transition.tolist() == [4.1, 4.2]
    other = Machine(gamma_transition=4.0)
    assert make().replace(machine=other).gamma_transition.tolist() == [4.0]
    assert make(gamma_transition=4.1).replace(machine=other).gamma_transition.tolist() == [4.1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b_field_t": 0.0}, "condition 0: b_field_t is 0.0; it must be above 0"),
        ({"v1_v": [8e3, np.nan]}, "condition 1: v1_v is nan"),
        ({"v2_v": -1.0}, "v2_v is -1.0; it must be at least 0"),
        ({"emittance_evs": 0.0}, "emittance_evs is 0.0"),
        ({"intensity": -1.0}, "intensity is -1.0"),
        ({"phi2_rad": np.inf}, "phi2_rad is inf"),
        ({"phi2_rad": "left"}, "phi2_rad must be numbers"),
        ({"phi2_rad": [0, 1], "v1_v": [1, 2, 3]}, "do not broadcast"),
        ({"phi2_rad": [[0.0, 1.0]]}, "one dimension"),
        ({"b_field_t": 2.0}, "at or above transition"),
        ({"machine": "psb"}, "machine is of type str; expected memrl_ctrl.beam.Machine"),
    ],
)
def test_a_wrong_condition_is_refused_with_one_sentence(changes, message):
    """Each mistake names the row, the quantity, its value and what is allowed."""
    with pytest.raises(BeamError, match=message):
        make(**changes)


def test_bucket_area_of_a_single_harmonic_is_the_textbooks():
    """Stationary, one harmonic: 16 sqrt(V / a) / omega in the units used here."""
    conditions = make(b_dot_t_per_s=0.0, v2_v=0.0)
    omega = 2.0 * np.pi * conditions.rf_frequency_hz[0]
    expected = 16.0 / omega * np.sqrt(8.0e3 / conditions.kinetic_coefficient_per_ev[0])
    assert bucket_area_evs(conditions)[0] == pytest.approx(expected, rel=2e-4)


def test_filling_is_a_part_of_the_bare_bucket():
    """filling x bucket area; emittance and intensity do not enter; NaN without a bucket."""
    conditions = make(phi2_rad=[0.0, 1.0])
    area = bucket_area_evs(conditions)
    np.testing.assert_allclose(filling_to_emittance(conditions, [0.5, 1.25]), area * [0.5, 1.25])
    np.testing.assert_array_equal(
        filling_to_emittance(conditions.replace(emittance_evs=0.1, intensity=0.0), 0.5), area * 0.5
    )
    assert np.isnan(filling_to_emittance(make(v1_v=1.0e3, v2_v=0.0), 0.5))
