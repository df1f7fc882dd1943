"""What is compared, how often, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from memrl_backends.blond.validate import matching, tracking
from memrl_backends.blond.validate.comparison import Comparison
from memrl_backends.blond.validate.conditions import Drawn, draw
from memrl_ctrl.beam import Conditions
from memrl_ctrl.errors import BeamError
from memrl_ctrl.program import CycleProgram, MachineFile

Advance = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is compared."""

    matching: int
    """Conditions of BLonD's matching without intensity effects."""
    matching_wake: int
    """Conditions of BLonD's matching with the induced voltage converged."""
    stationary: int
    """Conditions tracked at each intensity."""
    intensities: tuple[float, ...] = (0.0, 3e12, 9e12)
    """Protons in the ring; the largest is also that of the ramp and of the matching."""
    particles: int
    """Macroparticles of a tracked bunch."""
    turns: int = 3000
    """Turns under constant conditions."""
    ramps: int
    """Stretches of the ramp."""
    ramp_ms: float
    """Length of each, ms."""


FULL = Effort(
    matching=30, matching_wake=10, stationary=16, particles=200_000, ramps=3, ramp_ms=30.0
)
"""The whole comparison, some minutes."""
QUICK = Effort(matching=6, matching_wake=1, stationary=2, particles=100_000, ramps=1, ramp_ms=4.0)
"""A look at everything, under a minute."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One comparison that is still to be made."""

    check: str
    """The check it belongs to, a key of `Plan.titles`."""
    seconds: float
    """About how long it takes, s: the progress bar's measure."""
    run: Callable[[Advance], Comparison]
    """Makes it; calls its argument with the part that is done."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All comparisons of a run."""

    titles: dict[str, str]
    """The checks, in order, and what stands over them in the table."""
    tasks: tuple[Task, ...]
    """The comparisons, in order."""
    notes: tuple[str, ...]
    """One sentence for each thing that was left out."""


def plan(machine: MachineFile, programs: Sequence[CycleProgram], effort: Effort, seed: int) -> Plan:
    """Draw the conditions and lay out the comparisons.

    Args:
        machine: the machine from whose operating range conditions are drawn.
        programs: programs of that machine whose ramp is followed; the stretches are shared among them.
        effort: how much is compared.
        seed: of conditions and macroparticles.

    Raises:
        BeamError: the operating range holds too few bunches.
    """
    most = max(effort.intensities)
    titles = {
        "matching": "BLonD's matching, no intensity effects",
        "matching-wake": f"BLonD's matching, induced voltage converged, {most:.2g} protons",
    }
    tasks, notes = [], []

    def drawn(index: int, count: int, intensity: float, title: str) -> Conditions:
        chosen: Drawn = draw(machine, count, intensity, np.random.default_rng([seed, index]))
        notes.append(f"{title}: {chosen.sentence}.")
        return chosen.conditions

    points = drawn(0, effort.matching, 0.0, "matching")
    tasks += [
        Task(check="matching", seconds=0.7, run=_whole(matching.without_wake, one))
        for one in _each(points)
    ]
    points = drawn(1, effort.matching_wake, most, "matching with induced voltage")
    tasks += [
        Task(check="matching-wake", seconds=7.0, run=_whole(matching.with_wake, one))
        for one in _each(points)
    ]
    cost = 1e-6 + 2.5e-9 * effort.particles  # s a turn and 1
    for k, intensity in enumerate(effort.intensities):
        check = tracking.stationary_check(intensity)
        titles[check] = f"tracked for {effort.turns:,} turns, {intensity:.2g} protons"
        points = drawn(2 + k, effort.stationary, intensity, f"tracking at {intensity:.2g} protons")
        for row, one in enumerate(_each(points)):
            run = partial(
                tracking.stationary,
                one,
                particles=effort.particles,
                turns=effort.turns,
                seed=1000 * seed + 100 * k + row,
            )
            tasks.append(Task(check=check, seconds=cost * effort.turns, run=run))
    if programs and effort.ramps:
        titles["ramp"] = f"at the end of {effort.ramp_ms:g} ms of the ramp, {most:.2g} protons"
        tasks += _ramps(programs, effort, seed, cost, notes)
    else:
        notes.append(
            f"no program of machine {machine.name} is installed: its ramp is not followed."
        )
    return Plan(titles=titles, tasks=tuple(tasks), notes=tuple(notes))


def _ramps(
    programs: Sequence[CycleProgram], effort: Effort, seed: int, cost: float, notes: list[str]
) -> list[Task]:
    tasks: list[Task] = []
    intensity = max(effort.intensities)
    for k, place in enumerate(np.linspace(0.1, 0.7, effort.ramps) if effort.ramps > 1 else [0.2]):
        program = programs[k % len(programs)]
        begin, end = program.beam_ms
        start = round(begin + place * (end - begin), 1)
        try:
            tracking.optimum_function(program, start, start + effort.ramp_ms, intensity)
        except BeamError as error:
            notes.append(f"{error}: not followed.")
            continue
        run = partial(
            tracking.along_ramp,
            program,
            start,
            effort.ramp_ms,
            intensity=intensity,
            particles=effort.particles,
            seed=1000 * seed + 900 + k,
        )
        turns = 1400.0 * effort.ramp_ms
        tasks.append(Task(check="ramp", seconds=cost * turns, run=run))
    return tasks


def _each(points: Conditions) -> list[Conditions]:
    return [points.take([k]) for k in range(len(points))]


def _whole(
    compare: Callable[[Conditions], Comparison], point: Conditions
) -> Callable[[Advance], Comparison]:
    def run(_advance: Advance) -> Comparison:
        return compare(point)

    return run
