"""Fidelity `tracking`: profiles of macroparticles tracked turn by turn.

Of a cycle (`CycleTracking`) one bunch is matched by the kernel at the first control point and tracked
to the last, with phi_2 as straight lines between the control points, as a function generator plays
it, the phase loop closed. Unrelated conditions (`RowTracking`) are each matched and tracked for some
synchrotron periods at constant conditions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memrl_backends.blond.backend import Matched
from memrl_backends.blond.stretch import Stretch
from memrl_backends.blond.tracker import PhaseLoop, Tracker
from memrl_ctrl.beam import Conditions, matched_profiles
from memrl_ctrl.errors import BeamError, UsageError
from memrl_ctrl.program import CycleProgram, MachineFile, PiecewiseLinear
from memrl_ctrl.progress import report

FloatArray = NDArray[np.float64]

MACROPARTICLES = 100_000
FEWEST, MOST = 100, 100_000_000
AVERAGE_TURNS = 10
"""Turns over which a profile is averaged; it ends at the control point."""
PERIODS = 3.0
"""Synchrotron periods for which unrelated conditions are tracked unless told otherwise."""
REPORT_TURNS = 2_560
"""Turns between two reports of progress."""
BRIDGE_STEPS = 8
"""At how many places between two control points a stride asks the kernel for losses."""
SMALLEST_SHARE = 1e-3
"""A bunch of which less is left is not matched anew."""


@dataclass(frozen=True, kw_only=True)
class TrackingOptions:
    """How the fidelity `tracking` tracks.

    Raises:
        UsageError: a value out of range.
    """

    macroparticles: int = MACROPARTICLES
    """Macroparticles of a bunch."""
    stride: int | None = None
    """Turns tracked up to each control point of a cycle, the rest bridged by the kernel; None tracks
    every turn."""
    turns: int | None = None
    """Turns for which unrelated conditions are tracked; None is `PERIODS` synchrotron periods."""
    phase_loop: bool | None = None
    """Whether the phase loop is closed; None closes it in a cycle and not at constant conditions."""

    def __post_init__(self) -> None:
        """Refuse what cannot be tracked."""
        for name in ("macroparticles", "stride", "turns"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise UsageError(f"{name} must be a whole number, not {value!r}")
        if not FEWEST <= self.macroparticles <= MOST:
            raise UsageError(
                f"macroparticles must be {FEWEST} to {MOST:,}, not {self.macroparticles}"
            )
        for name in ("stride", "turns"):
            value = getattr(self, name)
            if value is not None and value < AVERAGE_TURNS:
                raise UsageError(
                    f"{name} must be at least {AVERAGE_TURNS} turns, over which a profile is "
                    f"averaged, not {value}"
                )


class RowTracking:
    """Unrelated conditions, each tracked at constant conditions."""

    def __init__(self, options: TrackingOptions) -> None:
        if options.stride is not None:
            raise UsageError(
                "stride belongs to a cycle that is played as a whole (machine, deploy); single points are "
                "tracked for `turns` turns each: give turns"
            )
        self.options = options

    def __call__(
        self, conditions: Conditions, n_slices: int, threads: int, rng: np.random.Generator
    ) -> Matched:
        """Track each condition; see `memrl_backends.blond.backend.Fidelity`."""
        profile = np.full((len(conditions), n_slices), np.nan, dtype=np.float32)
        captured = np.full(len(conditions), np.nan)
        turns = [self._turns(conditions, row) for row in range(len(conditions))]
        progress = _Report(sum(turns))
        for row, count in enumerate(turns):
            one = conditions.take([row])
            try:
                tracker = Tracker.matched(
                    Stretch.constant(one),
                    emittance_evs=float(one.emittance_evs[0]),
                    intensity=float(one.intensity[0]),
                    count=self.options.macroparticles,
                    rng=rng,
                    phase_loop=PhaseLoop() if self.options.phase_loop else None,
                    threads=threads,
                )
            except BeamError:
                progress.done(count)  # no bucket here: the row stays NaN and is flagged
                continue
            progress.advance(tracker, count - AVERAGE_TURNS)
            profile[row] = tracker.profile(n_slices, AVERAGE_TURNS)
            progress.done(AVERAGE_TURNS)
            captured[row] = tracker.captured_fraction * tracker.surviving_fraction
        return Matched(profile, np.isfinite(profile[:, 0]), captured)

    def _turns(self, conditions: Conditions, row: int) -> int:
        if self.options.turns is not None:
            return self.options.turns
        # Small amplitudes in the lower harmonic alone: S. Y. Lee, Accelerator Physics, section 3.1.
        tune = math.sqrt(
            conditions.kinetic_coefficient_per_ev[row] * conditions.v1_v[row]
        ) / math.sqrt(2.0 * math.pi)
        return max(AVERAGE_TURNS, math.ceil(PERIODS / tune))


class CycleTracking:
    """One bunch through a cycle, its profiles at the control points.

    Args:
        program: the cycle.
        machine: the machine that plays it, in the place of the program's own.
        ctime_ms: control points [points], ms.
        options: how to track.

    Raises:
        UsageError: options that do not belong to a cycle.
    """

    plays_program = True
    """Whether the voltages are the program's, whatever the conditions say."""

    def __init__(
        self,
        program: CycleProgram,
        machine: MachineFile,
        ctime_ms: FloatArray,
        options: TrackingOptions,
    ) -> None:
        if options.turns is not None:
            raise UsageError("turns belongs to unrelated conditions; in a cycle give stride")
        self.program = replace(program, machine=machine)
        self.ctime_ms = ctime_ms
        self.options = options

    def __call__(
        self, conditions: Conditions, n_slices: int, threads: int, rng: np.random.Generator
    ) -> Matched:
        """Play one cycle; see `memrl_backends.blond.backend.Fidelity`.

        `conditions` are those of the control points, with emittance and intensity as injected.
        """
        points = self.ctime_ms.size
        if points == 1:
            return RowTracking(replace(self.options, stride=None))(
                conditions, n_slices, threads, rng
            )
        phi2 = PiecewiseLinear(ctime_ms=self.ctime_ms, value=conditions.phi2_rad)
        stretch = Stretch.of_program(
            self.program, float(self.ctime_ms[0]), float(self.ctime_ms[-1]), phi2
        )
        places = [stretch.turn_at(ctime) for ctime in self.ctime_ms]
        starts = _starts(places, self.options.stride)
        turns = sum(place - start for start, place in zip(starts, places, strict=True))
        passage = _Passage(
            stretch=stretch,
            options=self.options,
            emittance_evs=float(conditions.emittance_evs[0]),
            intensity=float(conditions.intensity[0]),
            threads=threads,
            rng=rng,
            report=_Report(turns),
        )
        profile = np.full((points, n_slices), np.nan, dtype=np.float32)
        captured = np.full(points, np.nan)
        for point, (start, place) in enumerate(zip(starts, places, strict=True)):
            profile[point] = passage.measure(start, place, n_slices)
            captured[point] = passage.share
        return Matched(profile, np.isfinite(profile[:, 0]), captured, on_the_way=True)


def _starts(places: list[int], stride: int | None) -> list[int]:
    """The turn from which the bunch is tracked to each control point [points].

    Without a stride, or where the points are no further apart, that is the control point before.
    """
    before = [places[0], *places[:-1]]
    if stride is None:
        return before
    return [max(place - stride, last) for place, last in zip(places, before, strict=True)]


class _Passage:
    """A bunch on its way through a cycle."""

    def __init__(
        self,
        *,
        stretch: Stretch,
        options: TrackingOptions,
        emittance_evs: float,
        intensity: float,
        threads: int,
        rng: np.random.Generator,
        report: _Report,
    ) -> None:
        self.share = 1.0
        """Share of the injected bunch that is left, of its intensity as of its emittance."""
        self._stretch = stretch
        self._options = options
        self._injected = (emittance_evs, intensity)
        self._threads = threads
        self._rng = rng
        self._report = report
        self._matched_share = 1.0
        self._tracker: Tracker | None = None
        # Turns of the stretch: where the tracker began, and how far the bunch has come.
        self._begin, self._now = 0, -1

    def measure(self, start: int, place: int, n_slices: int) -> FloatArray:
        """Track from turn `start` to turn `place` and return the profile there [n_slices].

        Where the bunch has not come to `start` by tracking, the kernel takes it there and matches it
        anew. NaN where there is no matched bunch, or nothing is left of it.
        """
        first = self._now < 0
        if first or self._now < start:
            self._tracker = self._matched_at(start)
        if self._tracker is None:
            self._report.done(place - start)
            self._now = max(place, 0)
            return np.full(n_slices, np.nan)
        here = self._begin + self._tracker.turn
        # The average ends at the control point; at the first one, where the beam begins, it begins.
        length = self._stretch.length or 0
        count = min(AVERAGE_TURNS, 1 + (length - here if first else max(0, place - here)))
        self._report.advance(self._tracker, max(0, place - here - count + 1))
        density = self._tracker.profile(n_slices, count)
        self._report.done(count - 1)
        self._now = max(place, self._begin + self._tracker.turn)
        self.share = self._matched_share * self._tracker.surviving_fraction
        return density

    def _matched_at(self, start: int) -> Tracker | None:
        """Match the bunch at turn `start`, less what the kernel says it has lost since `_now`."""
        if self.share < SMALLEST_SHARE:
            return None
        options = self._options
        between = np.unique(np.linspace(max(self._now, 0), start, BRIDGE_STEPS + 1).astype(int))
        emittance, intensity = (self.share * value for value in self._injected)
        bridge = matched_profiles(
            self._stretch.conditions(between, emittance_evs=emittance, intensity=intensity), 16
        )
        held = bridge.captured_fraction[bridge.converged]
        self.share *= float(held.min()) if held.size else 1.0
        loop = options.phase_loop is not False
        try:
            tracker = Tracker.matched(
                self._stretch.after(start),
                emittance_evs=self.share * self._injected[0],
                intensity=self.share * self._injected[1],
                count=options.macroparticles,
                rng=self._rng,
                phase_loop=PhaseLoop() if loop else None,
                threads=self._threads,
            )
        except BeamError:
            return None  # no bucket here: the point stays NaN and is flagged
        self._begin = start
        self._matched_share = self.share * tracker.captured_fraction
        return tracker


class _Report:
    """Tells how far the tracking has come, in turns."""

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self._done = 0

    def done(self, turns: int) -> None:
        """Count turns as done and say so."""
        self._done += turns
        report(min(self._done, self._turns), self._turns)

    def advance(self, tracker: Tracker, turns: int) -> None:
        """Track some turns, and report now and then."""
        while turns > 0:
            piece = min(turns, REPORT_TURNS)
            tracker.advance(piece)
            self.done(piece)
            turns -= piece
