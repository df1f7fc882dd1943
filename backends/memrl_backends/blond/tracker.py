"""Turn-by-turn tracking of macroparticles with BLonD, through a stretch of a cycle.

    stretch = Stretch.of_program(program, 300.0, 310.0, phi2)     # or Stretch.constant(conditions)
    tracker = Tracker.matched(stretch, emittance_evs=1.0, intensity=9e12, count=100_000, rng=rng)
    tracker.advance(5_000)
    density = tracker.profile(1000, average_turns=10)

One set of BLonD objects (`Ring`, `RFStation`, `Beam`, `Profile`, `InducedVoltageFreq`,
`RingAndRFTracker` with interpolation, `BeamFeedback` of the PSB) is `REFRESH` turns long. Every
`REFRESH` turns its per-turn arrays are written anew in place, the frame of slices is moved to one
period between the tops of the RF potential, particles that have left it are counted as lost, and
the impedance is evaluated at the new multiples of f_rev. In between, the frame's length is off by at
most `REFRESH` times df/f a turn: 2e-4 in the PSB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from memrl_backends.blond._import import contained
from memrl_backends.blond._objects import REFRESH, Parts, PhaseLoop
from memrl_backends.blond.stretch import Stretch
from memrl_ctrl.beam import matched_profiles, sample_particles
from memrl_ctrl.errors import UsageError

__all__ = ["REFRESH", "PhaseLoop", "Stretch", "Tracker"]

FloatArray = NDArray[np.float64]

WAKE_SLICES = 512
"""Slices of the frame in which the voltage is calculated and interpolated."""
SLICES_PER_HARMONIC = 16
"""Slices in a wave of the highest harmonic of the induced voltage. With few, space charge heats the
bunch by aliasing of the macroparticles' shot noise (`docs/physics.md`, Tracking): over a whole cycle 8
would still be felt."""
FRAME_FOLLOWS_RAD = 0.02
"""The frame follows the phase loop when that has moved the RF phase by more than this, rad."""


class Tracker:
    """Macroparticles of one bunch, tracked turn by turn through a stretch.

    Args:
        stretch: what the machine does in each turn.
        dt_s: arrival times [count], s, from phase 0 of the lower harmonic (`sample_particles`).
        de_ev: energies relative to the synchronous particle [count], eV.
        intensity: protons in the ring that these particles stand for.
        wake_slices: slices of the frame for the induced voltage and the kick, even, at least 32.
        wake_harmonics: harmonics of the bunch frequency at which the impedance acts, at most half
            of the slices; default a sixteenth of them.
        intensity_effects: false leaves impedance and space charge out.
        phase_loop: the phase loop, or None for none.
        threads: threads of BLonD's compiled loops.

    Raises:
        MissingExtraError: BLonD is not installed.
        UsageError: arrays that do not fit, or values out of range.
    """

    _compiled = False
    """Whether BLonD's loops have run in this process."""

    def __init__(
        self,
        stretch: Stretch,
        dt_s: FloatArray,
        de_ev: FloatArray,
        intensity: float,
        *,
        wake_slices: int = WAKE_SLICES,
        wake_harmonics: int | None = None,
        intensity_effects: bool = True,
        phase_loop: PhaseLoop | None = None,
        threads: int = 1,
    ) -> None:
        if dt_s.shape != de_ev.shape or dt_s.ndim != 1 or not dt_s.size:
            raise UsageError(f"particles are {dt_s.shape} times and {de_ev.shape} energies")
        if wake_slices < 32 or wake_slices % 2:
            raise UsageError(f"wake_slices is {wake_slices}; it must be even and at least 32")
        harmonics = wake_slices // SLICES_PER_HARMONIC if wake_harmonics is None else wake_harmonics
        if not 1 <= harmonics <= wake_slices // 2:
            raise UsageError(
                f"wake_harmonics is {wake_harmonics}; allowed is 1 to {wake_slices // 2}, half of "
                "wake_slices"
            )
        most = int(getattr(numba.config, "NUMBA_NUM_THREADS"))  # noqa: B009 - numba sets it late
        if not 1 <= threads <= most:
            raise UsageError(f"threads is {threads}; allowed is 1 to {most}")
        self.stretch = stretch
        self.turn = 0
        """Turns done."""
        self.initial_intensity = float(intensity)
        self.captured_fraction = 1.0
        """Share of the intended bunch that its first bucket held (`matched`)."""
        self._count = dt_s.size
        self._threads = threads
        self._harmonic = stretch.machine.harmonics[0]
        effects = intensity_effects and intensity > 0.0
        with contained():
            self._parts = Parts(
                stretch,
                dt_s,
                de_ev,
                intensity,
                wake_slices=wake_slices,
                wake_harmonics=harmonics,
                effects=effects,
                loop=phase_loop,
            )
        self._begin = 0
        self._refresh()

    @classmethod
    def matched(
        cls,
        stretch: Stretch,
        *,
        emittance_evs: float,
        intensity: float,
        count: int,
        rng: np.random.Generator,
        intensity_effects: bool = True,
        **options: Any,
    ) -> Tracker:
        """A bunch matched by the kernel to the stretch's first turn.

        Where the bucket does not hold the emittance, the particles fill it to its edge and stand for
        the captured share of the intensity.

        Args:
            stretch: what the machine does in each turn.
            emittance_evs: area of the bunch, eV s.
            intensity: protons in the ring before capture.
            count: macroparticles.
            rng: source of randomness.
            intensity_effects: false leaves impedance and space charge out.
            **options: further arguments of `Tracker`.

        Raises:
            BeamError: no matched bunch exists at the first turn.
        """
        first = stretch.conditions(0, emittance_evs=emittance_evs, intensity=intensity)
        dt, de = sample_particles(first, count, rng, intensity_effects=intensity_effects)
        kernel = matched_profiles(first, 16, intensity_effects=intensity_effects)
        captured = float(kernel.captured_fraction[0])
        tracker = cls(
            stretch, dt, de, captured * intensity, intensity_effects=intensity_effects, **options
        )
        tracker.captured_fraction = captured
        return tracker

    @property
    def surviving_fraction(self) -> float:
        """Share of the particles that has not left the frame, as of the last count."""
        return float(self._parts.survivors / self._count)

    @property
    def intensity(self) -> float:
        """Protons in the ring, lost ones not counted."""
        return self.initial_intensity * self.surviving_fraction

    @property
    def ctime_ms(self) -> float:
        """ctime of the present turn, ms; that of the stretch's start where it is constant."""
        return float(np.interp(self.turn, self.stretch.turn, self.stretch.ctime_ms))

    @property
    def rf_phase_offset_rad(self) -> float:
        """What the phase loop has added to the phase of the lower harmonic so far, rad."""
        return float(self._parts.rf.dphi_rf[0])

    def particles(self) -> tuple[FloatArray, FloatArray]:
        """Copies of dt [s] and dE [eV] of the particles in the frame, each [survivors].

        dt counts from phase 0 of the lower harmonic as the phase loop has moved it.
        """
        dt, de = self._inside()
        omega, phase = self._parts.wave()
        return dt + phase / omega, de.copy()

    def advance(self, turns: int) -> None:
        """Track some turns.

        Raises:
            UsageError: fewer than 0 turns, or more than the stretch has left.
        """
        if turns < 0:
            raise UsageError(f"turns is {turns}; it must be at least 0")
        self._track(turns, None)
        self._parts.count_losses()

    def _track(self, turns: int, each: Callable[[], None] | None) -> None:
        length = self.stretch.length
        if length is not None and self.turn + turns > length:
            raise UsageError(
                f"{turns} more turns were asked for; the stretch has {length - self.turn} left"
            )
        before = numba.get_num_threads()
        numba.set_num_threads(self._threads)
        try:
            if turns and not Tracker._compiled:
                # numba warns when it compiles; later turns leave the process's output alone.
                with contained():
                    self._turns(1, each)
                Tracker._compiled = True
                turns -= 1
            self._turns(turns, each)
        finally:
            numba.set_num_threads(before)

    def _turns(self, turns: int, each: Callable[[], None] | None) -> None:
        parts = self._parts
        slice_, track = parts.profile.track, parts.tracker.track
        moved = parts.rf.dphi_rf  # by the phase loop, rad
        induce = parts.induced_voltage_sum
        for _ in range(turns):
            if self.turn - self._begin == REFRESH:
                self._begin = self.turn
                self._refresh()
            elif abs(moved[0] - parts.frame_phase) > FRAME_FOLLOWS_RAD:
                parts.move_frame()
            if parts.survivors:
                slice_()
                if induce is not None:
                    induce()
                track()
                if each is not None:
                    each()
            self.turn += 1

    def profile(self, n_slices: int, average_turns: int = 1) -> FloatArray:
        """Line density [n_slices], 1/rad, against RF phase 0 to 2 pi; its integral is 1.

        With `average_turns` above 1 the particles are tracked on through as many turns less one, and
        the profiles averaged. NaN where nothing survives.

        Raises:
            UsageError: fewer than 8 slices or 1 turn, or more turns than the stretch has left.
        """
        if n_slices < 8 or average_turns < 1:
            raise UsageError(
                f"a profile of {n_slices} slices over {average_turns} turns; at least 8 and 1"
            )
        counts = np.zeros(n_slices)

        def add() -> None:
            omega, phase = self._parts.wave()
            place = np.floor((omega * self._inside()[0] + phase) * (n_slices / (2.0 * np.pi)))
            counts[:] += np.bincount(place.astype(np.int64) % n_slices, minlength=n_slices)

        add()
        self._track(average_turns - 1, add)
        if not self._parts.survivors:
            return np.full(n_slices, np.nan)
        return np.asarray(counts * (n_slices / (2.0 * np.pi * counts.sum())))

    def _inside(self) -> tuple[FloatArray, FloatArray]:
        """dt and dE of the particles in the frame."""
        beam, profile = self._parts.beam, self._parts.profile
        inside = (beam.dt >= profile.cut_left) & (beam.dt <= profile.cut_right)
        return beam.dt[inside], beam.dE[inside]

    def _refresh(self) -> None:
        """Write the next turns, the frame, the losses and the impedance into BLonD's objects."""
        self._parts.refresh(self.stretch.turns(self.turn, REFRESH + 1))
