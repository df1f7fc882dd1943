"""The one place where BLonD is imported.

BLonD warns at import when its compiled library is absent (numba does as well), resets the global
warning filters, and prints while it works: all of it is kept from the rest of the process.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from memrl_ctrl.beam import Conditions
from memrl_ctrl.errors import MissingExtraError, UsageError


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Run BLonD without its prints and warnings, and restore the warning filters it changes."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=1)
def blond() -> SimpleNamespace:
    """BLonD's classes and functions that this project uses, by their names.

    Raises:
        MissingExtraError: BLonD is not installed.
    """
    try:
        with contained():
            from blond.beam.beam import Beam, Particle, Proton
            from blond.beam.distributions import matched_from_distribution_function
            from blond.beam.profile import CutOptions, Profile
            from blond.impedances.impedance import InducedVoltageFreq, TotalInducedVoltage
            from blond.impedances.impedance_sources import InputTable
            from blond.input_parameters.rf_parameters import RFStation
            from blond.input_parameters.ring import Ring
            from blond.llrf.beam_feedback import BeamFeedback
            from blond.trackers.tracker import FullRingAndRF, RingAndRFTracker
    except ImportError as error:
        raise MissingExtraError("BLonD's matching and tracking", "BLonD", "blond") from error
    return SimpleNamespace(
        Beam=Beam,
        BeamFeedback=BeamFeedback,
        CutOptions=CutOptions,
        FullRingAndRF=FullRingAndRF,
        InducedVoltageFreq=InducedVoltageFreq,
        InputTable=InputTable,
        Particle=Particle,
        Profile=Profile,
        Proton=Proton,
        RFStation=RFStation,
        Ring=Ring,
        RingAndRFTracker=RingAndRFTracker,
        TotalInducedVoltage=TotalInducedVoltage,
        matched_from_distribution_function=matched_from_distribution_function,
    )


class BlondMachine:
    """BLonD's ring, RF station and beam for one condition, two turns long.

    Args:
        conditions: one condition, of a machine with harmonics (1, 2).
        macroparticles: number of macroparticles of the beam.

    Raises:
        UsageError: more than one condition, or other harmonics.
    """

    def __init__(self, conditions: Conditions, macroparticles: int) -> None:
        if len(conditions) != 1 or conditions.machine.harmonics != (1, 2):
            raise UsageError("BLonD is given one condition at a time, with harmonics (1, 2)")
        b = blond()
        self.conditions = conditions
        energy = conditions.energy_ev[0] + np.arange(2) * conditions.energy_gain_ev[0]
        momentum = np.sqrt(energy**2 - conditions.machine.mass_ev**2)
        transition = conditions.gamma_transition[0]
        with contained():
            self.ring = b.Ring(
                conditions.machine.circumference_m, 1.0 / transition**2, momentum, b.Proton()
            )
            phases = [np.pi, np.pi + conditions.phi2_rad[0]]
            voltages = [conditions.v1_v[0], conditions.v2_v[0]]
            self.rf = b.RFStation(self.ring, [1, 2], voltages, phases, n_rf=2)
            self.beam = b.Beam(self.ring, macroparticles, conditions.intensity[0])

    def full_ring(self) -> Any:
        """A `FullRingAndRF` of this machine, as matching takes it."""
        b = blond()
        with contained():
            return b.FullRingAndRF([b.RingAndRFTracker(self.rf, self.beam)])

    def profile(self, n_slices: int) -> Any:
        """A `Profile` over one turn."""
        b = blond()
        with contained():
            cut = b.CutOptions(cut_left=0.0, cut_right=self.ring.t_rev[0], n_slices=n_slices)
            return b.Profile(self.beam, cut)

    def induced_voltage(self, profile: Any) -> Any:
        """A `TotalInducedVoltage`: impedance and space charge, sampled at multiples of f_rev.

        Harmonics above an eighth of the slices are left out (`docs/physics.md`, Tracking noise).
        """
        b = blond()
        revolution = self.conditions.revolution_frequency_hz[0]
        order = np.arange(1, profile.n_slices // 8 + 1)
        ring = self.conditions.machine
        impedance = ring.impedance_ohm(order * revolution, revolution)
        space_charge = ring.space_charge_z_over_n_ohm(
            self.conditions.beta[0], self.conditions.gamma[0]
        )
        impedance = impedance + space_charge * order
        # The row of zeros half a harmonic further ends the table: BLonD's is 0 beyond its last row.
        frequency = np.concatenate([[0.0], order, [order[-1] + 0.5]]) * revolution
        with contained():
            table = b.InputTable(
                frequency,
                np.concatenate([[0.0], impedance.real, [0.0]]),
                np.concatenate([[0.0], impedance.imag, [0.0]]),
            )
            wake = b.InducedVoltageFreq(
                self.beam, profile, [table], frequency_resolution=revolution, use_regular_fft=False
            )
            return b.TotalInducedVoltage(self.beam, profile, [wake])
