"""The simulation along the cycle: bunches on their way from control point to control point.

Each row is a bunch of its own in a cycle of its own, at its own current control point. Every play takes
all rows to their next point, in one call of the fidelity.

- One bunch has one emittance and one intensity. Where the bucket does not hold it, what it loses is
  lost for the rest of the cycle: at the next point emittance and intensity are what was captured.
- phi_hw at the next point is the program's function plus the correction so far, as a function
  generator with a trim plays it: the correction stays, the function moves on.
- The offset belongs to the cycle: its jitter is drawn once a cycle, and it drifts from cycle to cycle.
- After the last point comes the first of the next cycle, with a bunch as it was injected before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_backends.blond.backend import NO_MATCH, Fidelity, SimulationBackend
from memrl_backends.blond.scenario import Draw, Drawn, Scenario
from memrl_ctrl.angles import wrap
from memrl_ctrl.backend import FloatArray, MachineDescription, Reading, Receipt
from memrl_ctrl.beam import Conditions, bucket_area_evs
from memrl_ctrl.errors import RefusalReason, Refused, UsageError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.program import CycleProgram, MachineFile, ReferencePhases

IntArray = NDArray[np.int64]

LEAST_SHARE = 0.01
"""A bunch is not followed below this share of what was injected: it stays at it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Passages:
    """The control points of some programs, one program after another. Arrays [all points]."""

    conditions: Conditions
    """Conditions at phi_2 = 0; the bunch is not chosen yet."""
    ctime_ms: FloatArray
    """Where in its cycle each point lies, ms."""
    phi_hw_rad: FloatArray
    """The program's own phi_hw, rad."""
    first: IntArray
    """Index of each program's first point [programs]."""
    last: IntArray
    """Index of each program's last point [programs]."""
    area_evs: FloatArray
    """Each program's smallest bucket at phi_2 = 0 [programs], eV s; a filling refers to it."""


def passages(draws: Sequence[tuple[Draw, CycleProgram, FloatArray]]) -> Passages:
    """Put the control points of programs into one table.

    Args:
        draws: for each program what draws its conditions, the program and its control points, ms.

    Raises:
        UsageError: a program with a single control point, or without a bucket at one of them.
    """
    parts, phases, areas = [], [], []
    for draw, program, ctime_ms in draws:
        if ctime_ms.size < 2:
            raise UsageError(
                f"program {program.name!r} has {ctime_ms.size} control point; "
                "a passage along the cycle needs at least 2"
            )
        conditions = draw.program_points(ctime_ms)
        area = bucket_area_evs(conditions)
        if not np.isfinite(area).all():
            where = ctime_ms[~np.isfinite(area)][0]
            raise UsageError(
                f"program {program.name!r} has no bucket at ctime {where:g} ms and phi_2 = 0: "
                "its voltage is too low for its Bdot there"
            )
        parts.append(conditions)
        phases.append(program.at(ctime_ms).phi_hw_rad)
        areas.append(area.min())
    sizes = np.array([ctime_ms.size for _, _, ctime_ms in draws])
    names = ("b_field_t", "b_dot_t_per_s", "v1_v", "v2_v", "gamma_transition")
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in names
    }
    return Passages(
        conditions=Conditions(
            **arrays, phi2_rad=0.0, emittance_evs=1.0, intensity=0.0, machine=parts[0].machine
        ),
        ctime_ms=np.concatenate([ctime_ms for _, _, ctime_ms in draws]),
        phi_hw_rad=np.concatenate(phases),
        first=np.cumsum(sizes) - sizes,
        last=np.cumsum(sizes) - 1,
        area_evs=np.array(areas),
    )


def passage_limits(limits: PhaseLimits, table: Passages) -> PhaseLimits:
    """Return limits whose step keeps the slope limit between any two control points.

    A correction between two points adds to what the program's own function does there. The step is
    the largest that is lawful everywhere: smaller than the machine's where points lie close.

    Raises:
        UsageError: a program's own function leaves no room for corrections.
    """
    inside = np.ones(table.ctime_ms.size - 1, dtype=np.bool_)
    inside[table.last[:-1]] = False
    spacing_ms = np.diff(table.ctime_ms)[inside]
    own = np.abs(np.diff(table.phi_hw_rad))[inside]
    room = limits.slope_rad_per_ms * spacing_ms - own
    if not room.min() > 0.0:
        where = table.ctime_ms[:-1][inside][np.argmin(room)]
        raise UsageError(
            f"the program's phi_hw moves as fast after ctime {where:g} ms as the machine allows "
            f"({np.degrees(limits.slope_rad_per_ms):g} degrees/ms): no correction fits in between"
        )
    return PhaseLimits(
        min_rad=limits.min_rad,
        max_rad=limits.max_rad,
        step_rad=min(limits.step_rad, float(room.min())),
        slope_rad_per_ms=limits.slope_rad_per_ms,
    )


class AlongCycleBackend(SimulationBackend):
    """Bunches along cycles; see this file's head and `memrl_ctrl.backend.AlongCycle`."""

    def __init__(
        self,
        *,
        draw: Draw,
        table: Passages,
        description: MachineDescription,
        seed: int | None,
        threads: int,
        profiles: Fidelity,
    ) -> None:
        if draw.scenario.offset_kinds or draw.scenario.offset_step_rad:
            raise UsageError(
                "offset_kinds and offset_step_deg are for shots, not along a cycle; "
                "give offset_jitter_deg and offset_drift_deg there"
            )
        rows = description.points
        super().__init__(
            draw=draw,
            description=description,
            initial_phi_hw_rad=np.zeros(rows),
            seed=seed,
            threads=threads,
            profiles=profiles,
        )
        self._table = table
        self._program = np.zeros(rows, dtype=np.int64)
        self._at = np.zeros(rows, dtype=np.int64)
        self._jitter = np.zeros(rows)
        # What was injected into each row's cycle.
        self._emittance, self._intensity = np.ones(rows), np.zeros(rows)
        # What each row meets at its next point.
        self._ahead: Drawn | None = None

    @property
    def points_left(self) -> IntArray:
        """Control points that each row's cycle still has ahead [points]."""
        left: IntArray = self._table.last[self._program] - self._at
        return left

    @property
    def row_ctime_ms(self) -> FloatArray:
        """Where in its cycle each row was measured last [points], ms."""
        return self._table.ctime_ms[self._at]

    @property
    def held_rad(self) -> FloatArray:
        """phi_hw [points] at the next control points unless a function is submitted.

        The program's function plus the correction so far, within the limits.
        """
        own = self._table.phi_hw_rad
        limits = self.description.limits
        held = self._setpoint + own[self._next()] - own[self._at]
        return np.clip(held, limits.min_rad, limits.max_rad)

    @property
    def held_goal_error_rad(self) -> FloatArray:
        """Error to the goal [points] that `held_rad` will have at the next control points."""
        if self._ahead is None:
            return np.full(self.description.points, np.nan)
        everything = np.arange(self.description.points)
        offset = self._lasting_offset(everything) + self._jitter_now(everything)
        return wrap(self.held_rad - offset - self._ahead.goal_rad)

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Set phi_hw of the next control points; later ones are not known before."""
        if cycle > self._cycle + 1:
            raise Refused(
                RefusalReason.INVALID,
                f"along the cycle only the next control point can be set ({self._cycle + 1}, not "
                f"{cycle})",
            )
        return super().submit(phi_hw_rad, cycle, deadline_s)

    def _next(self) -> IntArray:
        """Return the index of each row's next point: after the last comes the first."""
        first, last = self._table.first[self._program], self._table.last[self._program]
        return np.where(self._at == last, first, self._at + 1)

    def _draw_rows(self, rows: IntArray) -> Drawn:
        """Inject new bunches into new cycles, in `rows`."""
        table, rng = self._table, self._rng
        program = rng.integers(table.first.size, size=rows.size)
        self._program[rows] = program
        self._at[rows] = table.first[program]
        self._initial[rows] = table.phi_hw_rad[table.first[program]]
        self._emittance[rows], self._intensity[rows] = self._draw.bunches(
            rows.size, rng, lambda: table.area_evs[program]
        )
        self._draw_jitter(rows)
        new = self._meet(self._at, self._emittance, self._intensity, rows)
        return self._put(self._drawn, new, rows)

    def _draw_jitter(self, rows: IntArray) -> None:
        deviation = self._draw.scenario.offset_jitter_rad
        if deviation > 0.0:
            self._jitter[rows] = self._rng.normal(0.0, deviation, rows.size)

    def _meet(
        self, point: IntArray, emittance_evs: FloatArray, intensity: FloatArray, rows: IntArray
    ) -> Drawn:
        """Return what bunches meet at control points, for `rows` of arrays over all rows."""
        chosen = point[rows]
        conditions = self._table.conditions.take(chosen).replace(
            emittance_evs=emittance_evs[rows], intensity=intensity[rows]
        )
        return self._draw.with_reference(
            conditions, self._table.ctime_ms[chosen], threads=self._threads
        )

    def _range_set_for(self, peak: NDArray[np.float32], rows: IntArray) -> FloatArray:
        """Return the peak that the digitiser's range is set for: at each control point its own."""
        return peak.astype(np.float64)

    def _jitter_now(self, rows: IntArray) -> FloatArray:
        """Return what the offset of `rows` is off in their cycle only."""
        return self._jitter[rows]

    def _move_on(self, drawn: Drawn) -> Drawn:
        """Take every row to its next control point, or to the first one of its next cycle."""
        ends = np.flatnonzero(self.points_left == 0)
        self._at = self._next()
        if ends.size:
            deviation = self._draw.scenario.offset_drift_rad
            if deviation > 0.0:
                self._offset[ends] += self._rng.normal(0.0, deviation, ends.size)
            self._draw_jitter(ends)
        return drawn if self._ahead is None else self._ahead

    def _measure(self, drawn: Drawn, rows: IntArray) -> Reading:
        """Measure, then see what is left of each bunch for its next point."""
        reading = super()._measure(drawn, rows)
        met = drawn.conditions
        # Where no matched bunch was found nothing is known of losses: the point is flagged.
        found = (reading.quality & NO_MATCH) == 0
        captured = np.where(found & np.isfinite(self._captured), self._captured, 1.0)
        ends = self.points_left == 0
        emittance = np.maximum(met.emittance_evs * captured, LEAST_SHARE * self._emittance)
        intensity = np.maximum(met.intensity * captured, LEAST_SHARE * self._intensity)
        new = self._meet(
            self._next(),
            np.where(ends, self._emittance, emittance),
            np.where(ends, self._intensity, intensity),
            rows,
        )
        self._ahead = self._put(self._ahead, new, rows)
        return reading


def open_along(
    *,
    machine: MachineFile,
    programs: Sequence[CycleProgram],
    ctime_ms: Sequence[FloatArray],
    scenario: Scenario,
    reference: ReferencePhases | None,
    rows: int,
    n_slices: int,
    fidelity: str,
    seed: int | None,
    threads: int,
    profiles: Fidelity,
) -> AlongCycleBackend:
    """Open the simulation along the cycle; the options are those of `options.open_backend`.

    Args:
        machine: what plays the programs.
        programs: cycles, one or more.
        ctime_ms: the control points of each program, ms.
        scenario: what is hidden.
        reference: the user's own reference phases.
        rows: bunches that are on their way together.
        n_slices: bins of a profile over one turn.
        fidelity: its name.
        seed: of everything that is drawn.
        threads: threads of the kernel.
        profiles: what the fidelity does.

    Raises:
        UsageError: a program along which nothing can be corrected.
    """
    draws = [
        (Draw(machine=machine, program=program, scenario=scenario), program, where)
        for program, where in zip(programs, ctime_ms, strict=True)
    ]
    table = passages(draws)
    names = "+".join(program.name for program in programs)
    return AlongCycleBackend(
        draw=Draw(machine=machine, program=None, scenario=scenario, reference=reference),
        table=table,
        description=MachineDescription(
            name=machine.name,
            program=f"{names} (along the cycle)",
            points=rows,
            n_slices=n_slices,
            limits=passage_limits(machine.phase_limits, table),
            period_s=0.0,
            writable=True,
            backend="blond",
            fidelity=fidelity,
        ),
        seed=seed,
        threads=threads,
        profiles=profiles,
    )
