"""Phases that belong to a magnitude, and those that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memrl_ctrl.beam import ResistiveWall, Resonator, minimum_phase_rad, phase_distance_deg
from memrl_ctrl.beam.minimum_phase import THRESHOLD_DEG

FINEMET = Path(__file__).parents[3] / "shared" / "data" / "finemet" / "finemet_impedance.txt"


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0])
def test_a_power_of_frequency_has_its_constant_phase(power: float) -> None:
    """|Z| ~ f^k has the phase k times 90 degrees everywhere: capacitance, resistance, wall, inductance."""
    frequency = np.geomspace(1e4, 1e8, 37)
    phase = minimum_phase_rad(frequency, frequency**power, frequency)
    assert phase == pytest.approx(power * np.pi / 2.0, abs=1e-12)


def test_a_resonators_phase_follows_from_its_magnitude() -> None:
    """Far inside a dense table Bode's relation gives the resonator's phase to a degree."""
    frequency = np.geomspace(1e3, 1e9, 1200)
    z = Resonator(r_shunt_ohm=80.0, frequency_hz=1e6, q=4.0).impedance_ohm(frequency)
    at = np.geomspace(1e5, 1e7, 50)
    expected = np.interp(np.log(at), np.log(frequency), np.angle(z))
    found = minimum_phase_rad(frequency, np.abs(z), at)
    assert np.degrees(np.abs(found - expected)).max() < 1.0


@given(
    q=st.floats(0.05, 100.0),
    resonance=st.floats(0.25, 0.75),
    rows=st.integers(30, 300),
    scale=st.floats(1e-3, 1e6),
)
def test_resonators_are_not_suspect_and_their_conjugates_are(
    q: float, resonance: float, rows: int, scale: float
) -> None:
    """A resonator sampled around its peak is far below the threshold, whatever Q, grid and size."""
    frequency = np.geomspace(1e5, 1e8, rows)
    peak = 10.0 ** (5.0 + 3.0 * resonance)
    z = Resonator(r_shunt_ohm=scale, frequency_hz=peak, q=q).impedance_ohm(frequency)
    assert phase_distance_deg(frequency, z) < 0.6 * THRESHOLD_DEG
    if q > 1.0:
        assert phase_distance_deg(frequency, np.conj(z)) > 2.0 * THRESHOLD_DEG


def test_a_wall_and_a_sum_with_noise_are_not_suspect() -> None:
    """A resistive wall is exactly of minimum phase; two resonators with 5 % noise are near it."""
    frequency = np.geomspace(1e5, 1e8, 200)
    wall = ResistiveWall(length_m=150.0, radius_m=0.05, resistivity_ohm_m=7.4e-7)
    assert phase_distance_deg(frequency, wall.impedance_ohm(frequency)) < 1e-9
    z = Resonator(50.0, 1e6, 3.0).impedance_ohm(frequency)
    z = z + Resonator(200.0, 5e6, 10.0).impedance_ohm(frequency)
    rng = np.random.default_rng(1)
    noise = rng.normal(0.0, 0.05, (2, frequency.size))
    assert phase_distance_deg(frequency, z * np.exp(noise[0] + 1j * noise[1])) < 0.6 * THRESHOLD_DEG


def test_too_little_is_not_judged() -> None:
    """Few rows, or a narrow span, decide nothing."""
    assert np.isnan(phase_distance_deg(np.geomspace(1e5, 1e7, 10), np.ones(10)))
    assert np.isnan(phase_distance_deg(np.linspace(1e6, 2e6, 100), np.ones(100)))


@pytest.mark.skipif(not FINEMET.is_file(), reason="the measured table (../shared/data) is not here")
def test_measured_columns_are_told_apart() -> None:
    """Each of the three measured magnitudes has one phase column below 5 degrees; all others, and
    all readings as dB, are above 15 degrees: the threshold of 12 lies between."""
    rows = [line.split("\t") for line in FINEMET.read_text().splitlines()[1:] if line.strip()]
    table = np.array(rows, dtype=np.float64)
    frequency = table[:, 0]
    for magnitude, own in ((2, 3), (4, 5), (6, 7)):
        for phase in (3, 5, 7):
            turn = np.exp(1j * np.radians(table[:, phase]))
            distance = phase_distance_deg(frequency, table[:, magnitude] * turn)
            as_db = phase_distance_deg(frequency, 10.0 ** (table[:, magnitude] / 20.0) * turn)
            assert as_db > 15.0
            if phase == own:
                assert distance < 5.0
            else:
                assert distance > 30.0
