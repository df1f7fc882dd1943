"""What a simulated machine hides: which conditions, emittance, intensity and offset it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memrl_backends.blond.hardware import PERFECT, Hardware
from memrl_backends.blond.partial import EVERYTHING, Partial
from memrl_backends.blond.wander import KINDS
from memrl_ctrl.beam import Conditions, filling_to_emittance, least_skewed, reference_optimum
from memrl_ctrl.beam.measurement import WCM, Monitor
from memrl_ctrl.errors import BeamError, UnknownNameError, UsageError
from memrl_ctrl.program import CycleProgram, MachineFile, ReferencePhases
from memrl_ctrl.ranges import Range

FloatArray = NDArray[np.float64]

SEED_FILLING = (0.2, 0.5, 0.75, 1.0, 1.25)
"""The seed work's five filling factors."""
FILLING_PRESETS = {"seed": SEED_FILLING}
MOST_OFFSET_RAD = 20.0 * math.pi
"""Largest offset, and largest drift a shot: ten turns, rad."""
POSSIBLE = {
    "intensity": (0.0, 1e15, "protons"),
    "emittance_evs": (1e-4, 1e3, "eV s"),
    "v1_error": (-0.5, 0.5, "of the programmed voltage"),
    "v2_error": (-0.5, 0.5, "of the programmed voltage"),
}
"""What a ring can hold at all: 1e15 is more than ten times the protons of the most intense ring (J-PARC
RCS, 8.3e13), and bunches of proton rings have 0.01 to 100 eV s. Which of it a program's buckets hold is
the kernel's answer. A voltage that is wrong by more than half would not go unnoticed."""
MOST_SCATTER = 0.3
"""Largest standard deviation of a shot's intensity or emittance: three of it must leave a bunch."""
ATTEMPTS = 20
"""How often conditions without a reference optimum are drawn anew."""
BANK_SEED = 20_260_101
"""Of the distinct conditions that episodes choose among: the same ones in every process of a run."""
FLAT = 0.1
"""Part of the range of dB/dt, from its lower end, in which the field hardly rises: the ends of a cycle."""
MOST_DISTINCT = 1_000_000
"""Conditions that are kept at most: 100 MB."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """The hidden side of a simulation; each range is drawn from uniformly at every start."""

    intensity: Range = (1e11, 1e13)
    """Protons in the ring."""
    emittance_evs: Range | None = None
    """Longitudinal emittance, eV s. With `filling` too, each is used for half of the draws."""
    filling: tuple[float, ...] | None = None
    """Emittance as a fraction of the bucket area at phi_2 = 0 and no intensity: two numbers are a
    range, more are a set."""
    one_bunch: bool = False
    """Whether `filling` is that of the smallest bucket of a program's cycle, so that unrelated points of it
    have bunches as one that goes along the cycle; otherwise of each point's own bucket."""
    offset_rad: float | None = None
    """Hardware offset of phi_hw, rad; None draws it from the whole circle."""
    offset_jitter_rad: float = 0.0
    """Standard deviation of an offset drawn anew in every shot, rad."""
    offset_drift_rad: float = 0.0
    """Standard deviation of the offset's random walk, rad a shot."""
    offset_step_rad: float = 0.0
    """Standard deviation of a step of the offset, rad."""
    offset_step_chance: float = 0.0
    """Chance of such a step in a shot."""
    offset_kinds: tuple[str, ...] = ()
    """Empty for all of these moves at once; otherwise each episode has one of these kinds, in a size
    drawn from 0 to the given one."""
    intensity_scatter: float = 0.0
    """Standard deviation of the intensity from shot to shot, fraction of the drawn one; cut at 3."""
    emittance_scatter: float = 0.0
    """Standard deviation of the emittance from shot to shot, fraction of the drawn one; cut at 3."""
    v1_error: Range = (0.0, 0.0)
    """Relative error of V1 that nobody knows: V1 is the program's times (1 + v1_error)."""
    v2_error: Range = (0.0, 0.0)
    """The same of V2."""
    hardware: Hardware = PERFECT
    """What becomes of phi_hw on its way to the cavity."""
    partial: Partial = EVERYTHING
    """How much of a setpoint takes effect, for unrelated conditions."""
    flat_share: float = 0.0
    """Share of the conditions of a machine's operating range that are where the field hardly rises."""
    monitor: Monitor = WCM
    """What profiles are seen with."""
    require_reference: bool = True
    """Whether unrelated conditions without a reference optimum are drawn anew."""

    def __post_init__(self) -> None:
        """Refuse a scenario that nothing can be drawn from."""
        if self.emittance_evs is None and self.filling is None:
            raise UsageError("a scenario needs emittance_evs or filling")
        if self.offset_rad is not None and not abs(self.offset_rad) <= MOST_OFFSET_RAD:
            raise UsageError(
                f"offset_deg must be within {math.degrees(MOST_OFFSET_RAD):g} degrees, not "
                f"{math.degrees(self.offset_rad):g}"
            )
        for name in self.offset_kinds:
            if name not in KINDS:
                raise UnknownNameError("kind of offset", name, KINDS)
        if not 0.0 <= self.offset_step_chance <= 1.0:
            raise UsageError(f"offset_step_chance must be 0 to 1, not {self.offset_step_chance:g}")
        for name in ("offset_jitter_rad", "offset_drift_rad", "offset_step_rad"):
            value = getattr(self, name)
            if not 0.0 <= value <= MOST_OFFSET_RAD:
                raise UsageError(f"{name} must be at least 0 and finite, not {value:g}")
        if self.filling is not None and not 0.0 < min(self.filling) <= max(self.filling) < math.inf:
            raise UsageError(f"filling must be above 0 and finite, not {min(self.filling):g}")
        for name, (low, high, unit) in POSSIBLE.items():
            given = getattr(self, name)
            if given is not None and not low <= given[0] <= given[1] <= high:
                wrong = given[0] if not low <= given[0] <= high else given[1]
                raise UsageError(f"{name} must be {low:g} to {high:g} {unit}, not {wrong:g}")
        for name in ("intensity_scatter", "emittance_scatter"):
            value = getattr(self, name)
            if not 0.0 <= value <= MOST_SCATTER:
                raise UsageError(
                    f"{name} must be 0 to {MOST_SCATTER:g} of the drawn value, not {value:g}"
                )

    @property
    def scatters(self) -> bool:
        """Whether bunches differ from shot to shot."""
        return self.intensity_scatter > 0.0 or self.emittance_scatter > 0.0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Hidden conditions of some rows; arrays [rows]."""

    conditions: Conditions
    """Conditions of the beam at phi_2 = 0."""
    reference_rad: FloatArray
    """Reference optimum of phi_2; NaN where none exists."""
    goal_rad: FloatArray
    """The reference, and where none exists the phi_2 at which the profile leans least."""
    v1_error: FloatArray | None = None
    """Relative error of V1, which the control system does not know; None for none."""

    def take(self, rows: NDArray[np.int64]) -> Drawn:
        """Return some rows, in their order."""
        return replace(
            self,
            conditions=self.conditions.take(rows),
            reference_rad=self.reference_rad[rows],
            goal_rad=self.goal_rad[rows],
            v1_error=None if self.v1_error is None else self.v1_error[rows],
        )

    @property
    def known_phase_rad(self) -> FloatArray:
        """Synchronous phase as the control system knows it, from the programmed V1, rad."""
        v1_v = self.conditions.v1_v
        if self.v1_error is not None:
            v1_v = v1_v / (1.0 + self.v1_error)
        return np.arcsin(np.clip(self.conditions.energy_gain_ev / v1_v, -1.0, 1.0))


def filling_range(value: str | Sequence[float] | float | None) -> tuple[float, ...] | None:
    """Return filling factors from an option: a preset's name, a number, a range or a set."""
    if value is None:
        return None
    if isinstance(value, str):
        if value not in FILLING_PRESETS:
            raise UnknownNameError("filling preset", value, FILLING_PRESETS)
        return FILLING_PRESETS[value]
    if isinstance(value, int | float):
        return (float(value), float(value))
    return tuple(float(v) for v in value)


class Draw:
    """Draws hidden conditions from programs or from a machine's operating range.

    Args:
        machine: the machine.
        program: its cycle; None draws from the machine's operating range.
        scenario: ranges of what is drawn.
        reference: the user's own reference phases; None finds the optimum.
        distinct: unrelated conditions that are chosen among, the same for the same settings; 0 draws new
            ones each time. A reference takes as long to find as fifteen shots to play.
    """

    def __init__(
        self,
        *,
        machine: MachineFile,
        program: CycleProgram | None,
        scenario: Scenario,
        reference: ReferencePhases | None = None,
        distinct: int = 0,
    ) -> None:
        self.machine = machine
        self.distinct = distinct
        self._bank: Drawn | None = None
        self._bank_ctime_ms: FloatArray | None = None
        self.program = program
        self.scenario = scenario
        self.reference = reference
        self.without_reference = 0
        self.drawn = 0

    def cycle(self, ctime_ms: FloatArray, rng: np.random.Generator) -> Drawn:
        """One bunch along a cycle: the same emittance and intensity at all points."""
        if self.program is None:
            raise UsageError("a cycle needs a program")
        scenario = self.scenario
        at_points, v1_error = self._with_errors(self.program_points(ctime_ms), rng, common=True)
        intensity = rng.uniform(*scenario.intensity)
        if scenario.emittance_evs is not None:
            emittance = rng.uniform(*scenario.emittance_evs)
        else:
            # One bunch has one emittance: the filling is that of the cycle's smallest bucket.
            filling = self._filling(1, rng)[0]
            emittance = float(filling_to_emittance(at_points, filling).min())
        conditions = at_points.replace(emittance_evs=emittance, intensity=intensity)
        return replace(self.with_reference(conditions, ctime_ms), v1_error=v1_error)

    def _with_errors(
        self, conditions: Conditions, rng: np.random.Generator, *, common: bool
    ) -> tuple[Conditions, FloatArray | None]:
        """Return conditions with the voltages that the cavities have, and the error of V1.

        Draws only where there is an error; `common` draws one for all rows.
        """
        spans = (self.scenario.v1_error, self.scenario.v2_error)
        if spans == ((0.0, 0.0), (0.0, 0.0)):
            return conditions, None
        count = len(conditions)
        v1, v2 = (np.broadcast_to(rng.uniform(*s, 1 if common else count), count) for s in spans)
        changed = conditions.replace(
            v1_v=conditions.v1_v * (1.0 + v1), v2_v=conditions.v2_v * (1.0 + v2)
        )
        return changed, np.array(v1)

    def unrelated(self, count: int, rng: np.random.Generator) -> Drawn:
        """Unrelated conditions, one a row.

        Those without a reference optimum (about 10 % of uniformly random ones) are counted in
        `without_reference` and, if the scenario requires a reference, drawn anew.

        Raises:
            BeamError: conditions with a reference are too rare here.
        """
        result = self._unrelated(count, rng)
        for _ in range(ATTEMPTS):
            missing = np.flatnonzero(~np.isfinite(result.reference_rad))
            self.without_reference += missing.size
            if missing.size == 0 or not self.scenario.require_reference:
                return result
            result = merged(result, self._unrelated(missing.size, rng), missing)
        raise BeamError(
            f"{missing.size} of {count} conditions have no reference optimum after {ATTEMPTS} "
            "draws: use a smaller filling, a lower intensity or another program"
        )

    def _unrelated(self, count: int, rng: np.random.Generator) -> Drawn:
        self.drawn += count
        if self.distinct:
            return self._chosen(rng.integers(self.distinct, size=count))
        conditions, ctime_ms, v1_error = self._conditions(count, rng)
        return replace(self.with_reference(conditions, ctime_ms), v1_error=v1_error)

    def _chosen(self, rows: NDArray[np.int64]) -> Drawn:
        """Return rows of the distinct conditions; a reference is found when it is first asked for."""
        if self._bank is None:
            conditions, self._bank_ctime_ms, v1_error = self._conditions(
                self.distinct, np.random.default_rng(BANK_SEED)
            )
            reference, goal = np.full((2, self.distinct), np.nan)
            self._bank = Drawn(
                conditions=conditions, reference_rad=reference, goal_rad=goal, v1_error=v1_error
            )
        bank, ctime_ms = self._bank, self._bank_ctime_ms
        new = np.unique(rows[np.isnan(bank.goal_rad[rows])])
        if new.size:
            found = self.with_reference(
                bank.conditions.take(new), None if ctime_ms is None else ctime_ms[new]
            )
            bank.reference_rad[new], bank.goal_rad[new] = found.reference_rad, found.goal_rad
        return bank.take(rows)

    def _conditions(
        self, count: int, rng: np.random.Generator
    ) -> tuple[Conditions, FloatArray | None, FloatArray | None]:
        """Draw unrelated conditions: with the ctimes of those from a program, and the errors of V1."""
        ctime_ms = None
        if self.program is None:
            base = self._range_points(count, rng)
        else:
            ctime_ms = rng.uniform(*self.program.beam_ms, count)
            base = self.program_points(ctime_ms)
        base, v1_error = self._with_errors(base, rng, common=False)
        emittance, intensity = self.bunches(count, rng, lambda: self._areas_evs(base))
        return base.replace(emittance_evs=emittance, intensity=intensity), ctime_ms, v1_error

    def _areas_evs(self, conditions: Conditions) -> FloatArray:
        """Return the bucket areas [n] that a filling refers to, eV s."""
        if not self.scenario.one_bunch or self.program is None:
            return filling_to_emittance(conditions, 1.0)
        at_points = self.program_points(self.program.control_points_ms)
        return np.full(len(conditions), filling_to_emittance(at_points, 1.0).min())

    def bunches(
        self, count: int, rng: np.random.Generator, area_evs: Callable[[], FloatArray]
    ) -> tuple[FloatArray, FloatArray]:
        """Draw emittance in eV s and intensity of unrelated bunches, each [count].

        Args:
            count: number of bunches.
            rng: what they are drawn with.
            area_evs: returns the bucket areas [count], eV s, that a filling refers to.
        """
        scenario = self.scenario
        intensity = rng.uniform(*scenario.intensity, count)
        absolute = scenario.emittance_evs
        if absolute is None or scenario.filling is None:
            choose = np.full(count, absolute is not None)
        else:
            choose = rng.random(count) < 0.5
        emittance = rng.uniform(*(absolute or (1.0, 1.0)), count)
        if scenario.filling is not None:
            filled = self._filling(count, rng) * area_evs()
            emittance = np.where(choose, emittance, filled)
        return emittance, intensity

    def with_reference(
        self,
        conditions: Conditions,
        ctime_ms: FloatArray | None,
        *,
        threads: int = 1,
    ) -> Drawn:
        """Return conditions with their reference optimum, or the user's own, and their goal."""
        if self.reference is not None and ctime_ms is not None:
            reference = self.reference.at_rad(ctime_ms)
        else:
            found = reference_optimum(conditions, threads=threads)
            reference = np.asarray(found, dtype=np.float64)
        goal = reference.copy()
        missing = np.flatnonzero(np.isnan(reference))
        if missing.size:
            goal[missing] = least_skewed(conditions.take(missing), threads=threads)
        return Drawn(conditions=conditions, reference_rad=reference, goal_rad=goal)

    def _filling(self, count: int, rng: np.random.Generator) -> FloatArray:
        filling = self.scenario.filling or (1.0, 1.0)
        if len(filling) == 2:
            return rng.uniform(filling[0], filling[1], count)
        return rng.choice(np.array(filling), count)

    def program_points(self, ctime_ms: FloatArray) -> Conditions:
        """Return the program's conditions at some ctimes [n], ms; the bunch is not chosen yet."""
        if self.program is None:
            raise UsageError("these conditions come from no program")
        return self.program.at(ctime_ms).conditions(self.machine.ring)

    def _range_points(self, count: int, rng: np.random.Generator) -> Conditions:
        machine, span = self.machine, self.machine.operating_range
        beam_ms = (machine.injection_ctime_ms, machine.extraction_ctime_ms)
        v1 = rng.uniform(*span.v1_v, count)
        b_field = rng.uniform(*span.b_field_t, count)
        b_dot = rng.uniform(*span.b_dot_t_per_s, count)
        if self.scenario.flat_share > 0.0:
            low = span.b_dot_t_per_s[0]
            flat = rng.random(count) < self.scenario.flat_share
            b_dot = np.where(flat, low + FLAT * (b_dot - low), b_dot)
        return Conditions(
            b_field_t=b_field,
            b_dot_t_per_s=b_dot,
            v1_v=v1,
            v2_v=v1 * rng.uniform(*span.v2_over_v1, count),
            gamma_transition=machine.gamma_transition.at(rng.uniform(*beam_ms, count)),
            phi2_rad=0.0,
            emittance_evs=1.0,
            intensity=0.0,
            machine=machine.ring,
        )


def merged(old: Drawn, new: Drawn, rows: NDArray[np.int64]) -> Drawn:
    """Return `old` with the given rows replaced by `new`'s, in order."""

    def put(a: FloatArray, b: FloatArray) -> FloatArray:
        result = np.array(a)
        result[rows] = b
        return result

    before, after = old.conditions, new.conditions
    names = (
        "b_field_t",
        "b_dot_t_per_s",
        "v1_v",
        "v2_v",
        "phi2_rad",
        "emittance_evs",
        "intensity",
        "gamma_transition",
    )
    changes = {name: put(getattr(before, name), getattr(after, name)) for name in names}
    v1_error = old.v1_error
    if v1_error is not None and new.v1_error is not None:
        v1_error = put(v1_error, new.v1_error)
    return replace(
        old,
        conditions=before.replace(**changes),
        reference_rad=put(old.reference_rad, new.reference_rad),
        goal_rad=put(old.goal_rad, new.goal_rad),
        v1_error=v1_error,
    )
