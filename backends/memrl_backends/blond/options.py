"""The options of the simulation, and how they become a backend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memrl_backends.blond.along import open_along
from memrl_backends.blond.backend import FIDELITIES, Fidelity, SimulationBackend
from memrl_backends.blond.hardware import PERFECT, Hardware
from memrl_backends.blond.partial import Partial
from memrl_backends.blond.scenario import MOST_DISTINCT, Draw, Scenario, filling_range
from memrl_backends.blond.tracking import CycleTracking, RowTracking, TrackingOptions
from memrl_ctrl.backend import FloatArray, MachineDescription
from memrl_ctrl.beam.measurement import Monitor, monitor_from
from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.observation import check_slices
from memrl_ctrl.program import (
    CycleProgram,
    ReferencePhases,
    load_machine,
    load_program,
    load_reference,
)
from memrl_ctrl.ranges import Range, as_range

DEFAULT_PROGRAM = "psb-2gev"
TRACKING = "tracking"
MOST_POINTS = 10_000
"""Control points of a cycle; the Booster's function generators are set at about 30."""

Programs = str | Path | CycleProgram | Sequence[str | Path | CycleProgram]
"""A program's name, file or object, or several."""


def open_backend(
    *,
    program: Programs | None = None,
    machine: str | Path | None = None,
    rows: int | None = None,
    points: int | None = None,
    along_cycle: bool = False,
    fidelity: str = "matched",
    n_slices: int = 1000,
    seed: int | None = None,
    intensity: float | Sequence[float] = (1e11, 1e13),
    emittance_evs: float | Sequence[float] | None = None,
    filling: str | float | Sequence[float] | None = None,
    intensity_effects: bool | None = None,
    offset_deg: float | None = None,
    offset_jitter_deg: float = 0.0,
    offset_drift_deg: float = 0.0,
    offset_step_deg: float = 0.0,
    offset_step_chance: float = 0.05,
    offset_kinds: Sequence[str] = (),
    intensity_scatter: float = 0.0,
    emittance_scatter: float = 0.0,
    v1_error: float | Sequence[float] = 0.0,
    v2_error: float | Sequence[float] = 0.0,
    phase_resolution_deg: float = 0.0,
    generator_slope_deg_per_ms: float = math.inf,
    settling_cycles: float | Sequence[float] = 0.0,
    settling_ms: float = 0.0,
    readback_noise_deg: float = 0.0,
    slew_share: float = 0.0,
    slew_deg: float | Sequence[float] = (3.0, 60.0),
    hold_chance: float = 0.0,
    other_chance: float = 0.0,
    other_deg: float | Sequence[float] = 90.0,
    flat_share: float = 0.0,
    one_bunch: bool = False,
    noise: float | Sequence[float] = 0.02,
    monitor: str | Mapping[str, Any] | Monitor = "wcm",
    require_reference: bool = True,
    distinct: int = 0,
    reference: str | Path | None = None,
    threads: int = 1,
    macroparticles: int | None = None,
    stride: int | None = None,
    turns: int | None = None,
    phase_loop: bool | None = None,
) -> SimulationBackend:
    """Open the simulation.

    Args:
        program: cycle program, by name or file; default `psb-2gev` unless `machine` is given.
            Several of one machine with `along_cycle`: each cycle is one of them, at random.
        machine: machine, by name or file: rows are drawn from its operating range, no program.
        rows: number of unrelated conditions; None plays the program's cycle at its control points.
        points: number of control points of the cycle, if not the program's own.
        along_cycle: rows are bunches on their way along the program's cycle (one without `rows`);
            every play takes each to its next control point. See `AlongCycleBackend`.
        fidelity: `matched`, `blond` or `tracking`.
        n_slices: bins of a profile over one turn.
        seed: of everything that is drawn; None takes one from the operating system.
        intensity: protons, a number or a range (low, high).
        emittance_evs: eV s, a number or a range. With `filling` too, half of the rows take each.
        filling: emittance as a fraction of the bucket area: a number, a range (two numbers), a set
            (more), or a preset (`seed`: 0.2, 0.5, 0.75, 1, 1.25). Default 0.5 to 0.9 where neither
            this nor `emittance_evs` is given.
        intensity_effects: space charge and impedance; None does as the machine file says.
        offset_deg: hidden hardware offset; None draws it from the whole circle.
        offset_jitter_deg: standard deviation of an offset that is drawn anew in every shot.
        offset_drift_deg: standard deviation of the offset's random walk a shot.
        offset_step_deg: standard deviation of a step of the offset.
        offset_step_chance: chance of such a step in a shot.
        offset_kinds: without, the offset does all of this at once. With some of `still`, `jitter`,
            `drift`, `steps` each episode draws one of them, in a size from 0 to the given one.
        intensity_scatter: standard deviation of the intensity from shot to shot, fraction of the drawn
            one.
        emittance_scatter: the same of the emittance.
        v1_error: relative error of V1 that nobody knows, number or range.
        v2_error: the same of V2.
        phase_resolution_deg: step of the function generator and of the readback; see `Hardware`, also
            for the next four.
        generator_slope_deg_per_ms: largest slope that the generator plays.
        settling_cycles: time constant of the lag from cycle to cycle, cycles, number or range: each episode
            draws its own.
        settling_ms: time constant of the lag along the cycle, ms; unrelated rows have none.
        readback_noise_deg: standard deviation of the readback's noise.
        slew_share: share of the episodes in which limits cut what is asked for; for unrelated
            conditions, whose setpoints no machine cuts.
        slew_deg: largest change of a shot in those, number or range.
        hold_chance: chance in each shot that a setpoint is not taken; for unrelated conditions.
        other_chance: chance in each shot that another change is played than the one asked for, as an
            operator's; for unrelated conditions.
        other_deg: largest such change, in both directions, drawn evenly up to it; or a range, drawn evenly in
            its logarithm: changes of all sizes.
        flat_share: share of the conditions of a machine's operating range that are where the field hardly
            rises: in the lowest tenth of its derivative's range.
        one_bunch: `filling` is that of the smallest bucket of the program's cycle, as for one bunch that goes
            along it, and not of each condition's own; for unrelated conditions of a program.
        noise: standard deviation of a slice's noise as a fraction of the peak, number or range.
        monitor: what profiles are seen with: `wcm`, `ideal` (noise only), or values of
            `memrl_ctrl.beam.measurement.Monitor` by name, for example `{bits: 8}`.
        require_reference: draw unrelated conditions anew that have no reference optimum; without,
            the goal of training is where the profile leans least.
        distinct: unrelated conditions that episodes choose among, the same for the same settings; 0
            draws new ones for each episode, whose reference takes as long as fifteen shots.
        reference: CSV file (ctime_ms,phi2_deg) whose phases replace the computed reference optimum;
            with a program only.
        threads: threads of the kernel, or of the tracking.
        macroparticles: of the fidelity `tracking`: macroparticles of a bunch; 100,000 unless given.
        stride: of `tracking`, for a cycle: turns tracked up to each control point, the kernel taking
            the bunch on in between; without, every turn is tracked.
        turns: of `tracking`, for unrelated conditions: turns for which each is tracked; three
            synchrotron periods unless given.
        phase_loop: of `tracking`: whether the phase loop is closed; in a cycle it is unless told
            otherwise, for unrelated conditions not.

    Raises:
        UsageError: options that contradict each other or are out of range.
        ProgramError: a program or machine file that is wrong.
    """
    tracking = _tracking_options(
        fidelity,
        macroparticles=macroparticles,
        stride=stride,
        turns=turns,
        phase_loop=phase_loop,
    )
    check_slices(n_slices)
    unrelated = rows is not None and not along_cycle
    _check_distinct(distinct, unrelated=unrelated)
    _check_points(flat_share, one_bunch, unrelated=unrelated, machine=machine)
    if seed is not None and seed < 0:
        raise UsageError(f"seed must be 0 or more, not {seed}")
    if machine is not None and program is not None:
        raise UsageError("give a program or a machine, not both: a program names its machine")
    if machine is not None and rows is None:
        raise UsageError("a machine without a program has no control points: give rows as well")
    _check_along(along_cycle, machine=machine, program=program, reference=reference)
    programs = _programs(program) if machine is None else []
    if rows is not None and points is not None and not along_cycle:
        raise UsageError("points are a cycle's control points; with rows there are none")
    cycle_program = programs[0] if programs else None
    machine_file = load_machine(machine) if machine is not None else programs[0].machine
    if intensity_effects is not None:
        machine_file = replace(machine_file, intensity_effects=intensity_effects)
    if emittance_evs is None and filling is None:
        filling = (0.5, 0.9)
    scenario = Scenario(
        intensity=as_range("intensity", intensity),
        emittance_evs=None if emittance_evs is None else as_range("emittance_evs", emittance_evs),
        filling=filling_range(filling),
        offset_rad=None if offset_deg is None else math.radians(offset_deg),
        offset_jitter_rad=math.radians(offset_jitter_deg),
        offset_drift_rad=math.radians(offset_drift_deg),
        offset_step_rad=math.radians(offset_step_deg),
        offset_step_chance=offset_step_chance,
        offset_kinds=_names("offset_kinds", offset_kinds),
        intensity_scatter=_number("intensity_scatter", intensity_scatter),
        emittance_scatter=_number("emittance_scatter", emittance_scatter),
        v1_error=as_range("v1_error", v1_error),
        v2_error=as_range("v2_error", v2_error),
        hardware=Hardware(
            phase_resolution_deg=phase_resolution_deg,
            generator_slope_deg_per_ms=generator_slope_deg_per_ms,
            settling_cycles=_range_or_number("settling_cycles", settling_cycles),
            settling_ms=settling_ms,
            readback_noise_deg=readback_noise_deg,
        ),
        partial=Partial(
            slew_share=_number("slew_share", slew_share),
            slew_rad=_radians("slew_deg", slew_deg),
            hold_chance=_number("hold_chance", hold_chance),
            other_chance=_number("other_chance", other_chance),
            other_rad=_sizes("other_deg", other_deg),
        ),
        flat_share=flat_share,
        one_bunch=one_bunch,
        monitor=replace(monitor_from(monitor), noise=as_range("noise", noise)),
        require_reference=require_reference,
    )
    _check_reality(
        scenario,
        along_cycle=along_cycle,
        unrelated=unrelated,
        tracked=tracking is not None,
    )
    if along_cycle:
        return open_along(
            machine=machine_file,
            programs=programs,
            ctime_ms=[_control_points(each, points) for each in programs],
            scenario=scenario,
            reference=_reference(reference, cycle_program, None),
            rows=int(rows or 1),
            n_slices=n_slices,
            fidelity=fidelity,
            seed=seed,
            threads=threads,
            profiles=FIDELITIES[fidelity] if tracking is None else RowTracking(tracking),
        )
    if rows is None and cycle_program is not None:
        ctime = _control_points(cycle_program, points)
        count, initial = ctime.size, cycle_program.at(ctime).phi_hw_rad
    else:
        ctime, count = None, int(rows or 1)
        initial = np.zeros(count)
    profiles: Fidelity
    if tracking is None:
        profiles = FIDELITIES[fidelity]
    elif ctime is None or cycle_program is None:
        profiles = RowTracking(tracking)
    else:
        profiles = CycleTracking(cycle_program, machine_file, ctime, tracking)
    return SimulationBackend(
        draw=Draw(
            machine=machine_file,
            program=cycle_program,
            scenario=scenario,
            reference=_reference(reference, cycle_program, ctime),
            distinct=distinct,
        ),
        description=MachineDescription(
            name=machine_file.name,
            program=cycle_program.name if cycle_program else f"{machine_file.name} (any)",
            points=count,
            n_slices=n_slices,
            limits=machine_file.phase_limits,
            period_s=0.0,
            writable=True,
            ctime_ms=ctime,
            backend="blond",
            fidelity=fidelity,
        ),
        initial_phi_hw_rad=np.asarray(initial, dtype=np.float64),
        seed=seed,
        threads=threads,
        profiles=profiles,
    )


def _names(name: str, value: Sequence[str]) -> tuple[str, ...]:
    """Return a list of names; a single one is a list of one."""
    if isinstance(value, str):
        return (value,)
    if not all(isinstance(each, str) for each in value):
        raise UsageError(f"{name} must be a list of names, not {value!r}")
    return tuple(value)


def _number(name: str, value: float) -> float:
    """Return one number; a pair is a range, which these options do not have."""
    low, high = as_range(name, value)
    if low != high:
        raise UsageError(f"{name} is one number, not a range: {value!r}")
    return low


def _range_or_number(name: str, value: float | Sequence[float]) -> float | Range:
    """Return a number as it is given, to be refused where it belongs, or a range."""
    return as_range(name, value) if isinstance(value, Sequence) else value


def _sizes(name: str, value: float | Sequence[float]) -> Range:
    """Return a range of degrees in rad; one number is the largest of a range from 0.

    Raises:
        UsageError: a range that begins at 0: it has no logarithm.
    """
    low, high = _radians(name, value)
    if low == high:
        return 0.0, high
    if low <= 0.0:
        raise UsageError(
            f"{name} as a range is drawn evenly in its logarithm and must begin above 0: {value!r}"
        )
    return low, high


def _radians(name: str, value: float | Sequence[float]) -> Range:
    """Return a number or a range of degrees as a range in rad."""
    low, high = as_range(name, value)
    return math.radians(low), math.radians(high)


def _check_reality(
    scenario: Scenario, *, along_cycle: bool, unrelated: bool, tracked: bool
) -> None:
    """Refuse imperfections where they are not simulated."""
    given = {
        "the low-level RF (phase_resolution_deg to readback_noise_deg)": (
            scenario.hardware != PERFECT
        ),
        "scatter from shot to shot (intensity_scatter, emittance_scatter)": scenario.scatters,
        "errors of the voltages (v1_error, v2_error)": (
            (scenario.v1_error, scenario.v2_error) != ((0.0, 0.0), (0.0, 0.0))
        ),
    }
    asked = [what for what, is_given in given.items() if is_given]
    if along_cycle and asked:
        raise UsageError(f"along_cycle does not simulate {asked[0]}: leave it out")
    if not scenario.partial.everything and not unrelated:
        raise UsageError(
            "slew_share, hold_chance and other_chance are for unrelated conditions: give rows, without "
            "along_cycle"
        )
    if tracked and not unrelated and given["errors of the voltages (v1_error, v2_error)"]:
        raise UsageError(
            "a tracked cycle has the program's voltages: leave out v1_error and v2_error, or use "
            "fidelity 'matched' or 'blond'"
        )


def _tracking_options(fidelity: str, **given: Any) -> TrackingOptions | None:
    """Return the options of the fidelity `tracking`, None for another one.

    Raises:
        UnknownNameError: no such fidelity.
        UsageError: an option of `tracking` given for another fidelity.
        MissingExtraError: BLonD is needed and not installed.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if fidelity in FIDELITIES:
        if chosen:
            raise UsageError(
                f"{next(iter(chosen))} belongs to fidelity 'tracking', not to {fidelity!r}"
            )
        return None
    if fidelity != TRACKING:
        raise UnknownNameError("fidelity", fidelity, [*FIDELITIES, TRACKING])
    from memrl_backends.blond._import import blond

    blond()
    return TrackingOptions(**chosen)


def _check_along(along_cycle: bool, *, machine: object, program: object, reference: object) -> None:
    """Refuse what only makes sense along the cycle elsewhere, and the other way round."""
    several = isinstance(program, Sequence) and not isinstance(program, str) and len(program) > 1
    if along_cycle and machine is not None:
        raise UsageError("along_cycle needs a program: a machine's operating range has no cycle")
    if several and not along_cycle:
        raise UsageError("several programs can be given with along_cycle only")
    if several and reference is not None:
        raise UsageError("reference phases belong to one program: give one program")


def _check_distinct(distinct: int, *, unrelated: bool) -> None:
    if not 0 <= distinct <= MOST_DISTINCT:
        raise UsageError(f"distinct must be 0 to {MOST_DISTINCT:,}, not {distinct:,}")
    if distinct and not unrelated:
        raise UsageError("distinct is for unrelated conditions: give rows, without along_cycle")


def _check_points(flat_share: float, one_bunch: bool, *, unrelated: bool, machine: object) -> None:
    if not 0.0 <= _number("flat_share", flat_share) <= 1.0:
        raise UsageError(f"flat_share must be 0 to 1, not {flat_share:g}")
    if flat_share and machine is None:
        raise UsageError(
            "flat_share is for conditions of a machine's operating range: give a machine"
        )
    if one_bunch and (machine is not None or not unrelated):
        raise UsageError(
            "one_bunch is for unrelated conditions of a program: give rows and a program"
        )


def _programs(
    given: Programs | None,
) -> list[CycleProgram]:
    """Return the programs that an option names, which must be of one machine."""
    if given is None or isinstance(given, str | Path | CycleProgram):
        given = [DEFAULT_PROGRAM if given is None else given]
    if not given:
        raise UsageError("program is an empty list: name at least one")
    programs = [each if isinstance(each, CycleProgram) else load_program(each) for each in given]
    for other in programs[1:]:
        if other.machine.name != programs[0].machine.name:
            raise UsageError(
                f"programs of one batch are played by one machine; {programs[0].name!r} is of "
                f"{programs[0].machine.name!r}, {other.name!r} of {other.machine.name!r}"
            )
    return programs


def _control_points(program: CycleProgram, points: int | None) -> FloatArray:
    """Return the program's control points, or as many as asked for between its first and last."""
    listed = program.control_points_ms
    if points is None or points == listed.size:
        return listed
    if not 1 <= points <= MOST_POINTS:
        raise UsageError(f"points must be 1 to {MOST_POINTS}, not {points}")
    return np.linspace(listed[0], listed[-1], points) if points > 1 else listed[:1]


def _reference(
    path: str | Path | None, program: CycleProgram | None, ctime_ms: FloatArray | None
) -> ReferencePhases | None:
    """Return the user's reference phases, which must cover every ctime that may be asked for."""
    if path is None:
        return None
    if program is None:
        raise UsageError("reference phases are a function of ctime: give a program, not a machine")
    phases = load_reference(path)
    first, last = program.beam_ms if ctime_ms is None else (ctime_ms[0], ctime_ms[-1])
    phases.need(float(first), float(last))
    return phases
