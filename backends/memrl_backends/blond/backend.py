"""The simulation as a backend: a machine in this process, or as many as there are rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memrl_backends.blond.partial import Allowed
from memrl_backends.blond.scenario import Draw, Drawn, merged
from memrl_backends.blond.shots import Shots
from memrl_backends.blond.wander import Sizes, Wander
from memrl_ctrl.backend import (
    BoolArray,
    FloatArray,
    MachineDescription,
    Quality,
    Reading,
    Receipt,
    Truth,
)
from memrl_ctrl.beam import Conditions, matched_profiles, reference_optimum
from memrl_ctrl.beam.measurement import MonitorState
from memrl_ctrl.errors import RefusalReason, Refused, UnknownNameError, UsageError

ProfileArray = NDArray[np.float32]
NO_MATCH = np.uint16(Quality.NO_MATCH)
STALE = np.uint16(Quality.STALE)
ABSENT = np.uint16(Quality.MISSING | Quality.NOT_FINITE)
START_OPTIONS = frozenset({"offset_deg"})


class Matched(NamedTuple):
    """What a fidelity makes of conditions."""

    profile: ProfileArray
    """Line densities [rows, n_slices]."""
    converged: BoolArray
    """Whether a bucket exists and the fixed point was found [rows]."""
    captured: FloatArray
    """Share of emittance and intensity that the bucket holds [rows]."""
    on_the_way: bool = False
    """Whether rows are one bunch on its way, so that what it has lost belongs to the truth."""


Fidelity = Callable[[Conditions, int, int, np.random.Generator], Matched]
"""Takes conditions [rows], n_slices, threads and a source of randomness."""


def matched(
    conditions: Conditions, n_slices: int, threads: int, _rng: np.random.Generator
) -> Matched:
    """Fidelity `matched`: the kernel."""
    result = matched_profiles(conditions, n_slices, threads=threads)
    profile = np.asarray(result.line_density, dtype=np.float32)
    return Matched(profile, result.converged, result.captured_fraction)


def blond_matching(
    conditions: Conditions, n_slices: int, _threads: int, _rng: np.random.Generator
) -> Matched:
    """Fidelity `blond`: BLonD's own matching, iterated until the induced voltage has converged."""
    from memrl_backends.blond.matching import blond_profiles

    result = blond_profiles(conditions, n_slices)
    profile = np.asarray(result.line_density, dtype=np.float32)
    return Matched(profile, result.converged, result.captured_fraction)


FIDELITIES: dict[str, Fidelity] = {"matched": matched, "blond": blond_matching}
"""Those without options of their own; `tracking` is made by `options`."""


class Disturbance(NamedTuple):
    """What is wrong with the RF now, arrays [points]; None for nothing."""

    offset_rad: FloatArray | None = None
    """Added to the hidden offset, rad."""
    v2_factor: FloatArray | None = None
    """What is left of the second harmonic's voltage."""


UNDISTURBED = Disturbance()


def _lasting(_reading: Reading, truth: Truth) -> FloatArray:
    """Return the offsets without jitter that a simulation's reading knows [points], rad."""
    return truth.offset_rad if truth.lasting_offset_rad is None else truth.lasting_offset_rad


LOSS_FELT = 0.01
"""A bunch that has lost more than this on its way has another reference optimum."""
SMALLEST_SHARE = 1e-3
"""The reference of a bunch is not computed for a smaller share of what was injected."""


class SimulationBackend:
    """A simulated machine with a hidden offset; see `options.open_backend`.

    With a program it is one cycle: its rows are the control points, which share one bunch and one
    offset. With `rows` it is a batch of unrelated conditions, each with an offset of its own.
    """

    repeats = True
    """The same seed and the same functions bring the same readings."""

    def __init__(
        self,
        *,
        draw: Draw,
        description: MachineDescription,
        initial_phi_hw_rad: FloatArray,
        seed: int | None,
        threads: int,
        profiles: Fidelity,
    ) -> None:
        self.description = description
        self._draw = draw
        self._profiles = profiles
        self._initial = initial_phi_hw_rad
        self._rng = np.random.default_rng(seed)
        self._threads = threads
        self._cycle = 0
        points = description.points
        self._setpoint = initial_phi_hw_rad.copy()
        # Where the low-level RF has arrived, and what the cavity has of it.
        self._settled = initial_phi_hw_rad.copy()
        self._at_cavity = initial_phi_hw_rad.copy()
        # What of a change the loops still have to come to a cycle later, in each row's episode.
        self._left = np.zeros(points)
        self._shots = None
        if draw.scenario.scatters:
            self._shots = Shots(draw, ctime_ms=description.ctime_ms)
        scenario = draw.scenario
        self._wander = Wander(
            Sizes(
                jitter_rad=scenario.offset_jitter_rad,
                drift_rad=scenario.offset_drift_rad,
                step_rad=scenario.offset_step_rad,
                step_chance=scenario.offset_step_chance,
            ),
            scenario.offset_kinds,
            points=points,
            common=description.ctime_ms is not None,
        )
        self._allowed = None
        if not scenario.partial.everything:
            self._allowed = Allowed(scenario.partial, description.limits, points)
        self._disturbance = UNDISTURBED
        # What was drawn, with the voltages of the last measurement.
        self._met: Drawn | None = None
        self._pending: FloatArray | None = None
        self._pending_cycle = 0
        self._offset = np.zeros(points)
        self._drawn: Drawn | None = None
        self._reading: Reading | None = None
        self._monitor: MonitorState | None = None
        # The peak that the digitiser's range was set for, at the start of each row's episode.
        self._reference_peak = np.full(points, np.nan)
        # The last profile of each row without noise; NaN where its episode has none yet.
        self._clean = np.full((points, description.n_slices), np.nan, dtype=np.float32)
        # Share of each row's bunch that its bucket held when it was measured last.
        self._captured = np.ones(points)
        self._on_the_way = False

    def start(
        self,
        seed: int | None = None,
        mask: BoolArray | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Reading:
        """Draw new hidden conditions, for all rows or those in `mask`, and play one cycle.

        `options` may hold `offset_deg`, the hardware offset for this episode.
        """
        for name in options or {}:
            if name not in START_OPTIONS:
                raise UnknownNameError("start option", name, START_OPTIONS)
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        rows = self._rows_to_begin(mask)
        if rows.size == 0 and self._reading is not None:
            return self._reading
        drawn = self._drawn = self._draw_rows(rows)
        self._offset[rows] = self._new_offset(rows.size, (options or {}).get("offset_deg"))
        self._wander.begin(rows, self._rng)
        if self._allowed is not None:
            self._allowed.begin(rows, self._rng)
        if self._shots is not None:
            self._shots.begin(drawn, rows)
        self._setpoint[rows] = self._initial[rows]
        self._settled[rows] = self._initial[rows]
        self._left[rows] = self._new_lag(rows.size)
        self._drive(rows)
        self._clean[rows] = np.nan
        self._monitor = self._draw_monitor(rows)
        self._reference_peak[rows] = np.nan
        self._pending = None
        self._cycle += 1
        return self._measure(drawn, rows)

    def _draw_rows(self, rows: NDArray[np.int64]) -> Drawn:
        """Return the hidden conditions, those of `rows` drawn anew."""
        if self.description.ctime_ms is not None:
            return self._draw.cycle(self.description.ctime_ms, self._rng)
        return self._put(self._drawn, self._draw.unrelated(rows.size, self._rng), rows)

    def _draw_monitor(self, rows: NDArray[np.int64]) -> MonitorState:
        """Return the instruments, those of `rows` drawn anew. A cycle's points share one."""
        monitor = self._draw.scenario.monitor
        if self.description.ctime_ms is not None:
            return monitor.draw(1, self._rng).take(np.zeros(rows.size, dtype=np.int64))
        new = monitor.draw(rows.size, self._rng)
        if self._monitor is None or rows.size == self.description.points:
            return new
        return self._monitor.merged(new, rows)

    def _put(self, old: Drawn | None, new: Drawn, rows: NDArray[np.int64]) -> Drawn:
        """Return `old` with the given rows replaced by `new`'s."""
        if old is None or rows.size == self.description.points:
            return new
        return merged(old, new, rows)

    def _rows_to_begin(self, mask: BoolArray | None) -> NDArray[np.int64]:
        """Return the rows that `start` begins anew."""
        points = self.description.points
        if mask is None or self._drawn is None:
            return np.arange(points)
        rows = np.flatnonzero(mask)
        if self.description.ctime_ms is not None and 0 < rows.size < points:
            raise UsageError(
                f"the {points} control points of a cycle share one bunch and one offset: begin all "
                f"of them anew, not {rows.size}"
            )
        return rows

    def _new_offset(self, count: int, offset_deg: float | None) -> FloatArray:
        fixed = self._draw.scenario.offset_rad
        if offset_deg is not None:
            fixed = math.radians(offset_deg)
        if fixed is not None:
            return np.full(count, fixed)
        if self.description.ctime_ms is not None:
            return np.full(count, self._rng.uniform(-math.pi, math.pi))
        return self._rng.uniform(-math.pi, math.pi, count)

    def _new_lag(self, count: int) -> FloatArray:
        """Return `Hardware.left` of rows that begin an episode [count]; a cycle's points share one."""
        one = self.description.ctime_ms is not None
        return np.resize(self._draw.scenario.hardware.left(1 if one else count, self._rng), count)

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Set the phase function from `cycle` on; see `memrl_ctrl.backend.BeamBackend.submit`."""
        if self._drawn is None:
            raise Refused(RefusalReason.STALE, "no cycle was played yet: start first")
        if cycle <= self._cycle:
            raise Refused(
                RefusalReason.LATE, f"cycle {cycle} has begun; the next is {self._cycle + 1}"
            )
        if not deadline_s > 0.0:
            raise Refused(RefusalReason.LATE, f"the deadline of {deadline_s} s has passed")
        function = np.array(phi_hw_rad, dtype=np.float64)
        self.description.limits.check(function, self.held_rad, self.description.ctime_ms)
        self._pending, self._pending_cycle = function, cycle
        return Receipt(cycle=cycle, applied_rad=function.copy(), committed_ns=time.monotonic_ns())

    def observe(self, timeout_s: float | None = None) -> Reading:
        """Play the next cycle and return its reading."""
        if self._drawn is None:
            return self.start()
        self._cycle += 1
        setpoint = self.held_rad
        if self._pending is not None and self._cycle >= self._pending_cycle:
            setpoint, self._pending = self._pending, None
        if self._allowed is not None:
            setpoint = self._allowed.taken(setpoint, self.held_rad, self._rng)
        self._setpoint = setpoint
        self._drive(np.arange(self.description.points))
        drawn = self._drawn = self._move_on(self._drawn)
        if self._monitor is not None:
            one = self.description.ctime_ms is not None
            self._monitor = self._draw.scenario.monitor.drifted(
                self._monitor, self._rng, common=one
            )
        return self._measure(drawn, np.arange(self.description.points))

    def disturb(self, *, offset_rad: FloatArray, v2_factor: FloatArray) -> None:
        """Disturb the RF from the next cycle on, until told otherwise.

        Args:
            offset_rad: added to the hidden offset [points], rad.
            v2_factor: what is left of the second harmonic's voltage [points], 0 to 1.

        Raises:
            UsageError: the voltage cannot be disturbed, because the fidelity tracks the program's.
        """
        changes_v2 = bool((v2_factor != 1.0).any())
        if changes_v2 and getattr(self._profiles, "plays_program", False):
            raise UsageError(
                f"fidelity {self.description.fidelity!r} tracks a cycle with the program's voltages: "
                "a trip of the cavity needs fidelity 'matched' or 'blond'"
            )
        self._disturbance = Disturbance(offset_rad.copy(), v2_factor.copy() if changes_v2 else None)

    def _drive(self, rows: NDArray[np.int64]) -> None:
        """Have the low-level RF follow the setpoint for a cycle, in `rows`."""
        hardware = self._draw.scenario.hardware
        settled = hardware.settled(self._setpoint, self._settled, self._left)
        at_cavity = hardware.at_cavity(settled, self.description.ctime_ms)
        self._settled[rows], self._at_cavity[rows] = settled[rows], at_cavity[rows]

    @property
    def held_rad(self) -> FloatArray:
        """phi_hw [points] that plays next unless a function is submitted."""
        return self._setpoint.copy()

    def conditions(self) -> Conditions | None:
        """Return what the last reading's bunches were in [points]; None before the first reading."""
        if self._met is None or self._reading is None or self._reading.truth is None:
            return None
        truth = self._reading.truth
        return self._met.conditions.replace(
            phi2_rad=truth.phi2_rad,
            emittance_evs=truth.emittance_evs,
            intensity=truth.intensity,
        )

    def _move_on(self, drawn: Drawn) -> Drawn:
        """Return the next cycle's conditions. The offset walks on; a cycle's points share it."""
        self._offset = self._offset + self._wander.moved(self._rng)
        return drawn if self._shots is None else self._shots.next(self._rng)

    def _lasting_offset(self, rows: NDArray[np.int64]) -> FloatArray:
        """Return the offset of `rows` in the cycle that is measured, without its jitter."""
        return self._disturbed_offset(self._offset[rows], rows)

    def _jitter_now(self, rows: NDArray[np.int64]) -> FloatArray | float:
        """Return what the offset of `rows` is off in the cycle that is measured only."""
        return self._wander.jitter(rows, self._rng)

    def _disturbed_offset(self, offset: FloatArray, rows: NDArray[np.int64]) -> FloatArray:
        """Return the offset of `rows` with what a disturbance adds."""
        added = self._disturbance.offset_rad
        return offset if added is None else offset + added[rows]

    def _disturbed(self, drawn: Drawn) -> Drawn:
        """Return conditions with the voltage that a disturbance leaves, and their reference.

        The goal of training stays that of the cavity at its full voltage.
        """
        factor = self._disturbance.v2_factor
        if factor is None:
            return drawn
        conditions = drawn.conditions.replace(v2_v=drawn.conditions.v2_v * factor)
        reference = drawn.reference_rad.copy()
        less = np.flatnonzero(factor != 1.0)
        reference[less] = reference_optimum(conditions.take(less), threads=self._threads)
        return replace(drawn, conditions=conditions, reference_rad=reference)

    def _measure(self, drawn: Drawn, rows: NDArray[np.int64]) -> Reading:
        """Make this cycle's reading: new in `rows`, in the others what was read last."""
        everything = rows.size == self.description.points
        drawn = self._met = self._disturbed(drawn)
        # All that is between the function and the beam counts as offset: phi_2 = applied - offset.
        lasting = self._lasting_offset(rows) + (self._setpoint - self._at_cavity)[rows]
        offset = lasting + self._jitter_now(rows)
        phi2 = self._setpoint[rows] - offset
        readback = self._draw.scenario.hardware.read_back(self._at_cavity, self._rng)
        conditions = drawn.conditions if everything else drawn.conditions.take(rows)
        conditions = conditions.replace(phi2_rad=phi2)
        profile, quality = self._seen(*self._profile(conditions, rows), conditions, rows)
        last = None if everything else self._reading

        def whole(new: NDArray[Any], old: Callable[[Reading, Truth], NDArray[Any]]) -> NDArray[Any]:
            if last is None or last.truth is None:
                return new
            full = old(last, last.truth).copy()
            full[rows] = new
            return full

        left = self._left_of(drawn) if self._on_the_way else drawn
        all_conditions = left.conditions
        self._reading = Reading(
            cycle=self._cycle,
            stamp_ns=time.time_ns(),
            received_ns=time.monotonic_ns(),
            profile=whole(profile, lambda was, _: was.profile),
            setpoint_rad=self._setpoint.copy(),
            applied_rad=self._setpoint.copy(),
            readback_rad=whole(readback[rows], lambda was, _: was.readback_rad),
            synchronous_phase_rad=drawn.known_phase_rad,
            quality=whole(quality, lambda was, _: was.quality),
            truth=Truth(
                reference_rad=left.reference_rad.copy(),
                goal_rad=left.goal_rad.copy(),
                offset_rad=whole(offset, lambda _, truth: truth.offset_rad),
                lasting_offset_rad=whole(lasting, _lasting),
                phi2_rad=whole(phi2, lambda _, truth: truth.phi2_rad),
                emittance_evs=np.array(all_conditions.emittance_evs),
                intensity=np.array(all_conditions.intensity),
            ),
        )
        return self._reading

    def _left_of(self, drawn: Drawn) -> Drawn:
        """Return what is left at each control point of the bunch that was injected."""
        share = self._captured
        emittance = drawn.conditions.emittance_evs * np.maximum(share, SMALLEST_SHARE)
        intensity = drawn.conditions.intensity * share
        conditions = drawn.conditions.replace(emittance_evs=emittance, intensity=intensity)
        lossy = np.flatnonzero(share < 1.0 - LOSS_FELT)
        left = replace(drawn, conditions=conditions)
        if not lossy.size:
            return left
        ctime_ms = self.description.ctime_ms
        new = self._draw.with_reference(
            conditions.take(lossy), None if ctime_ms is None else ctime_ms[lossy]
        )
        return merged(left, new, lossy)

    def _profile(
        self, conditions: Conditions, rows: NDArray[np.int64]
    ) -> tuple[ProfileArray, NDArray[np.uint16]]:
        """Return profiles without noise and their flags, for `rows`.

        Where there is no profile at all, the last one of the row stays.
        """
        profile, converged, captured, self._on_the_way = self._profiles(
            conditions, self.description.n_slices, self._threads, self._rng
        )
        self._captured[rows] = captured
        quality = np.zeros(rows.size, dtype=np.uint16)
        if not converged.all():
            quality[~converged] |= NO_MATCH
            absent = np.asarray(~np.isfinite(profile).all(axis=1))
            profile = np.where(absent[:, None], self._clean[rows], profile)
            never = np.asarray(~np.isfinite(profile).all(axis=1))
            quality[absent & ~never] |= STALE
            quality[never] |= ABSENT
        self._clean[rows] = profile
        return profile, quality

    def _seen(
        self,
        density: ProfileArray,
        quality: NDArray[np.uint16],
        conditions: Conditions,
        rows: NDArray[np.int64],
    ) -> tuple[ProfileArray, NDArray[np.uint16]]:
        """Return what the monitor shows of line densities and their flags, for `rows`."""
        if self._monitor is None:
            self._monitor = self._draw_monitor(np.arange(self.description.points))
        profile, flags = self._draw.scenario.monitor.measure(
            density,
            conditions.rf_frequency_hz,
            self._rng,
            state=self._monitor if rows.size == len(self._monitor) else self._monitor.take(rows),
            reference_peak=self._range_set_for(density.max(axis=1), rows),
        )
        return profile, quality | flags

    def _range_set_for(self, peak: ProfileArray, rows: NDArray[np.int64]) -> FloatArray:
        """Return the peak that the digitiser's range of `rows` is set for; theirs is now `peak`.

        It is set at the start of an episode, for a cycle's highest profile.
        """
        if self.description.ctime_ms is not None and np.isfinite(peak).any():
            peak = np.full(rows.size, np.nanmax(peak))
        known = self._reference_peak[rows]
        self._reference_peak[rows] = np.where(np.isfinite(known), known, peak)
        return self._reference_peak[rows]

    def play(self, phi_hw_rad: FloatArray) -> Reading:
        """Submit for the next cycle, then observe that cycle."""
        self.submit(phi_hw_rad, self._cycle + 1, deadline_s=1.0)
        return self.observe()

    def close(self) -> None:
        """Nothing is held, nothing is to be released."""
