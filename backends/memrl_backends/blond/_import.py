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

MOST_ORDERS = 4096
"""Multiples of the lower harmonic's frequency at which BLonD is given the impedance: enough for a
profile of twice as many slices."""


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

    At harmonics (h, 2 h) the h bunches are alike: BLonD is given one of them, with its share of the
    intensity, and a frame of one period of the lower harmonic. What bunches that are alike induce has
    no components but at multiples of h f_rev, which are those of that frame.

    Args:
        conditions: one condition.
        macroparticles: number of macroparticles of the bunch.

    Raises:
        UsageError: more than one condition.
    """

    def __init__(self, conditions: Conditions, macroparticles: int) -> None:
        if len(conditions) != 1:
            raise UsageError(f"BLonD is given one condition at a time, not {len(conditions)}")
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
            harmonics = list(conditions.machine.harmonics)
            self.rf = b.RFStation(self.ring, harmonics, voltages, phases, n_rf=2)
            bunch = conditions.intensity[0] / harmonics[0]
            self.beam = b.Beam(self.ring, macroparticles, bunch)

    def full_ring(self) -> Any:
        """A `FullRingAndRF` of this machine, as matching takes it."""
        b = blond()
        with contained():
            return b.FullRingAndRF([b.RingAndRFTracker(self.rf, self.beam)])

    def profile(self, n_slices: int) -> Any:
        """A `Profile` over one period of the lower harmonic."""
        b = blond()
        period_s = self.ring.t_rev[0] / self.conditions.machine.harmonics[0]
        with contained():
            cut = b.CutOptions(cut_left=0.0, cut_right=period_s, n_slices=n_slices)
            return b.Profile(self.beam, cut)

    def induced_voltage(self, profile: Any) -> Any:
        """A `TotalInducedVoltage` of everything the machine file says, at multiples of h f_rev.

        The same impedances that the kernel takes, with space charge, as one `InputTable`. Its
        rows are the frequencies at which BLonD evaluates it: nothing is interpolated in between.
        """
        b = blond()
        conditions, ring = self.conditions, self.conditions.machine
        revolution = conditions.revolution_frequency_hz[0]
        spacing = ring.harmonics[0] * revolution
        order = np.arange(1, MOST_ORDERS + 1)
        impedance = ring.impedance_ohm(order * spacing, revolution)
        space_charge = ring.space_charge_z_over_n_ohm(conditions.beta[0], conditions.gamma[0])
        impedance = impedance + space_charge * order * ring.harmonics[0]
        frequency = np.concatenate([[0.0], order * spacing])
        with contained():
            table = b.InputTable(
                frequency,
                np.concatenate([[0.0], impedance.real]),
                np.concatenate([[0.0], impedance.imag]),
            )
            wake = b.InducedVoltageFreq(
                self.beam, profile, [table], frequency_resolution=spacing, use_regular_fft=False
            )
            return b.TotalInducedVoltage(self.beam, profile, [wake])
