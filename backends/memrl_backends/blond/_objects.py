"""BLonD's objects for the turn-by-turn tracking, and how they are filled again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_backends.blond._import import blond
from memrl_backends.blond.stretch import Stretch, Turns
from memrl_ctrl.beam import Machine
from memrl_ctrl.beam.machine import SPEED_OF_LIGHT_M_PER_S

FloatArray = NDArray[np.float64]

REFRESH = 256
"""Turns between two refreshes of frame, impedance and losses."""


@dataclass(frozen=True, kw_only=True)
class PhaseLoop:
    """The PSB's phase and radial loop, as BLonD's `BeamFeedback` for `machine="PSB"` has it.

    The phase loop is AC coupled (BLonD's high pass of about 5 ms): it damps oscillations of the
    bunch in phase and leaves the mean phase alone. It starts settled at the phase it finds first.

    The gain matters for the physics: 1/(25 us), as in BLonD's unit test with one harmonic, takes the
    restoring force away from a bunch in two harmonics, and at V2/V1 = 0.8 it drifts off in some ms.
    """

    gain_per_s: float = 330.0
    """Gain, rad/s of RF frequency per rad; 330 is that of a public benchmark of BLonD, a PSB cycle with
    three harmonics. The real loop's gain is not public."""
    period_s: float = 10.0e-6
    """Time between two corrections, s; 10 us in BLonD."""
    radial_gain: tuple[float, float] = (0.0, 0.0)
    """Gains of the radial loop, proportional and integral, rad/s per relative radius; 0 is off.
    The same benchmark has 1e7 and 1e6."""


class Parts:
    """BLonD's objects, `REFRESH` turns long, and how they are filled."""

    def __init__(
        self,
        stretch: Stretch,
        dt_s: FloatArray,
        de_ev: FloatArray,
        intensity: float,
        *,
        wake_slices: int,
        wake_harmonics: int,
        effects: bool,
        loop: PhaseLoop | None,
    ) -> None:
        b = blond()
        self.machine = stretch.machine
        h = self.machine.harmonics[0]
        turns = stretch.turns(0, REFRESH + 1)
        circumference = self.machine.circumference_m
        self.ring = b.Ring(
            circumference,
            turns.gamma_transition[None, :] ** -2.0,
            turns.momentum_ev,
            b.Particle(self.machine.mass_ev, 1.0),
            REFRESH,
        )
        self.rf = b.RFStation(
            self.ring,
            [h, 2 * h],
            [turns.v1_v, turns.v2_v],
            [np.full(REFRESH + 1, np.pi), np.pi + turns.phi2_rad],
            n_rf=2,
        )
        # One bucket of h alike: its share of the intensity, in a frame one period long.
        self.beam = b.Beam(self.ring, dt_s.size, intensity / h)
        self.beam.dt[:], self.beam.dE[:] = dt_s, de_ev
        self.survivors = int(dt_s.size)
        cut = b.CutOptions(cut_left=0.0, cut_right=self.ring.t_rev[0] / h, n_slices=wake_slices)
        self.profile = b.Profile(self.beam, cut)
        total, self.induced_voltage_sum = None, None
        self.wake: Any = None
        if effects:
            source = _RingImpedance(self.machine, wake_harmonics)
            self.source = source
            self.wake = b.InducedVoltageFreq(
                self.beam, self.profile, [source], use_regular_fft=False
            )
            total = b.TotalInducedVoltage(self.beam, self.profile, [self.wake])
            self.induced_voltage_sum = total.induced_voltage_sum
        self.feedback = None if loop is None else _feedback(self, loop)
        self.tracker = b.RingAndRFTracker(
            self.rf,
            self.beam,
            beam_feedback=self.feedback,
            interpolation=True,
            profile=self.profile,
            total_induced_voltage=total,
        )
        self.first = True
        self.frame_phase = 0.0
        """Phase of the RF, moved by the loop, that the frame was placed for, rad."""
        self._left_rad = 0.0

    def wave(self) -> tuple[float, float]:
        """The lower harmonic in the present turn: RF phase = omega dt + phase; rad/s and rad."""
        turn = self.rf.counter[0]
        return float(self.rf.omega_rf[0, turn]), float(self.rf.dphi_rf[0])

    def refresh(self, turns: Turns) -> None:
        """Go on with the next turns [REFRESH + 1], of which the first is the present one."""
        self._write(turns)
        self._find_frame(turns)
        self.count_losses()
        if self.wake is not None:
            ring = self.ring
            self.source.set_energy(
                float(ring.f_rev[0]), float(ring.beta[0, 0]), float(ring.gamma[0, 0])
            )
            self.wake.process()
        if self.feedback is not None:
            self.feedback.begin(first=self.first)
        self.first = False

    def _write(self, turns: Turns) -> None:
        ring, rf = self.ring, self.rf
        energy = np.hypot(turns.momentum_ev, self.machine.mass_ev)
        ring.momentum[0], ring.energy[0] = turns.momentum_ev, energy
        ring.beta[0] = turns.momentum_ev / energy
        ring.gamma[0] = energy / self.machine.mass_ev
        ring.alpha_0[0] = turns.gamma_transition**-2.0
        ring.eta_0[0] = ring.alpha_0[0] - ring.gamma[0] ** -2.0
        ring.t_rev[:] = self.machine.circumference_m / (ring.beta[0] * SPEED_OF_LIGHT_M_PER_S)
        ring.f_rev[:] = 1.0 / ring.t_rev
        # The acceleration kick is a copy of its own in the tracker.
        rf.delta_E[:] = turns.energy_gain_ev[:-1]
        self.tracker.acceleration_kick[:] = -turns.energy_gain_ev[:-1]
        rf.voltage[0], rf.voltage[1] = turns.v1_v, turns.v2_v
        rf.phi_s[:] = np.pi + np.arcsin(np.clip(turns.energy_gain_ev / turns.v1_v, -1.0, 1.0))
        # What the loop did to the present turn is kept, and added to all that follow as it goes.
        frequency, phase = rf.omega_rf[:, -1].copy(), rf.phi_rf[:, -1].copy()
        rf.omega_rf_d[:] = rf.harmonic * (2.0 * np.pi * ring.f_rev)
        rf.omega_rf[:] = rf.omega_rf_d
        rf.phi_rf[0], rf.phi_rf[1] = np.pi, np.pi + turns.phi2_rad
        if not self.first:
            rf.omega_rf[:, 0], rf.phi_rf[:, 0] = frequency, phase
        rf.counter[0] = 0

    def _find_frame(self, turns: Turns) -> None:
        """Put the frame's ends on the barrier of the RF potential that lost particles cross."""
        omega, offset = self.wave()
        middle = float(np.mean(self.beam.dt)) if self.first else self._mean_dt()
        gain, v1, v2 = turns.energy_gain_ev[0], turns.v1_v[0], turns.v2_v[0]
        reach = 1.5 * np.pi if gain >= 0.0 else -1.5 * np.pi
        phase = omega * middle + offset + np.linspace(0.0, reach, 193)
        potential = (
            v1 * np.cos(phase) + 0.5 * v2 * np.cos(2.0 * phase + turns.phi2_rad[0]) - gain * phase
        )
        inner = potential[1:-1]
        tops = 1 + np.flatnonzero((inner > potential[:-2]) & (inner >= potential[2:]))
        if not tops.size:
            tops = np.array([np.argmax(potential)])
        lefts = phase[tops] - 2.0 * np.pi if gain >= 0.0 else phase[tops]
        # Of two barriers (two wells) the one that parts no bunch, then the higher one.
        place = omega * self.beam.dt + offset
        outside = [np.count_nonzero((place < a) | (place > a + 2.0 * np.pi)) for a in lefts]
        self._left_rad = float(lefts[np.lexsort((-potential[tops], outside))[0]])
        self.move_frame()

    def move_frame(self) -> None:
        """Take the frame to where the phase loop has moved the RF."""
        omega, offset = self.wave()
        frame = self.profile
        length = 2.0 * np.pi / omega
        frame.cut_left = (self._left_rad - offset) / omega
        frame.cut_right = frame.cut_left + length
        frame.bin_size = length / frame.n_slices
        frame.edges[:] = frame.cut_left + frame.bin_size * np.arange(frame.n_slices + 1)
        frame.bin_centers[:] = frame.edges[:-1] + 0.5 * frame.bin_size
        self.frame_phase = offset

    def _mean_dt(self) -> float:
        counts = self.profile.n_macroparticles
        if not counts.any():
            return 0.5 * float(self.profile.cut_left + self.profile.cut_right)
        return float(np.average(self.profile.bin_centers, weights=counts))

    def count_losses(self) -> None:
        """Take the particles out that have left the frame."""
        beam, frame = self.beam, self.profile
        inside = (beam.dt >= frame.cut_left) & (beam.dt <= frame.cut_right)
        self.survivors = int(np.count_nonzero(inside))
        if 0 < self.survivors < inside.size:
            beam.id[~inside] = 0
            beam.eliminate_lost_particles()


class _RingImpedance:
    """An impedance source for BLonD: the ring's impedance and space charge, at one energy."""

    def __init__(self, machine: Machine, harmonics: int) -> None:
        self.machine = machine
        self.harmonics = harmonics
        self.impedance: NDArray[np.complex128] = np.zeros(0, dtype=np.complex128)
        self._revolution_hz = self._beta = self._gamma = 1.0

    def set_energy(self, revolution_hz: float, beta: float, gamma: float) -> None:
        """State the beam's energy before the next `imped_calc`."""
        self._revolution_hz, self._beta, self._gamma = revolution_hz, beta, gamma

    def imped_calc(self, frequency_hz: FloatArray) -> None:
        """Evaluate `impedance` [n], ohm; as BLonD calls it, at multiples of the bunch frequency."""
        impedance = np.zeros(frequency_hz.size, dtype=np.complex128)
        acting = slice(1, self.harmonics + 1)
        frequency = frequency_hz[acting]
        per_order = self.machine.space_charge_z_over_n_ohm(self._beta, self._gamma)
        impedance[acting] = self.machine.impedance_ohm(frequency, self._revolution_hz)
        impedance[acting] += per_order * (frequency / self._revolution_hz)
        self.impedance = impedance


def _feedback(parts: Parts, loop: PhaseLoop) -> Any:
    """BLonD's `BeamFeedback` of the PSB, without its per-turn waste, for repeated short stretches."""

    class Feedback(blond().BeamFeedback):  # type: ignore[misc]
        """BLonD's loop; the beam's phase by two sums, and its times of action as they come."""

        def precalculate_time(self, ring: Any) -> None:
            self.since = 0.0  # time since the last correction, s
            self.turns_since = 1  # the first turn is averaged too
            self.on_time = np.zeros(1)

        def beam_phase(self) -> None:
            turn = self.rf_station.counter[0]
            phase = (
                self.rf_station.omega_rf[0, turn] * self.profile.bin_centers
                + self.rf_station.phi_rf[0, turn]
            )
            counts = self.profile.n_macroparticles
            sine, cosine = counts @ np.sin(phase), counts @ np.cos(phase)
            self.phi_beam = (math.atan(sine / cosine) if cosine else 0.0) + math.pi

        def begin(self, *, first: bool) -> None:
            """Lay out the corrections of the turns that are in the arrays now."""
            end = self.since + np.cumsum(self.ring.t_rev[:-1])
            act = np.flatnonzero(np.diff(np.floor(end / loop.period_s), prepend=0.0) > 0)
            # BLonD takes the time since the last correction from the list's last element.
            self.on_time = np.append(act, -self.turns_since)
            self.PL_counter = 0
            self.since = float(end[-1] % loop.period_s)
            self.turns_since = int(len(end) - act[-1]) if act.size else self.turns_since + len(end)
            if first:
                self.profile.track()
                self.beam_phase()
                self.phase_difference()
                self.dphi_av_prev = self.dphi

    configuration = {
        "machine": "PSB",
        "PL_gain": loop.gain_per_s,
        "RL_gain": list(loop.radial_gain),
        "period": loop.period_s,
    }
    return Feedback(parts.ring, parts.rf, parts.profile, configuration)
