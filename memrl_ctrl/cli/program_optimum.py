"""`memrl-ctrl program optimum`: the reference phase of a whole cycle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from cyclopts import Parameter
from rich.markup import escape

from memrl_ctrl.cli.values import Count, OutputFile, real, whole
from memrl_ctrl.errors import MissingExtraError, ProgramError, UsageError
from memrl_ctrl.outputs import check_output_file, output_file, write_output
from memrl_ctrl.program import check_ranges, load_program
from memrl_ctrl.program.controls_export import export_program
from memrl_ctrl.program.controls_files import EXAMPLE
from memrl_ctrl.program.reference import COLUMN
from memrl_ctrl.program.table import TIME, format_columns
from memrl_ctrl.terminal import Terminal

if TYPE_CHECKING:
    from memrl_ctrl.program.optimum import CycleOptimum

# The beam model takes half a second to load: it is imported where an optimum is computed.
Criterion = Literal["symmetry", "equal-wells", "bunching-factor"]
FEWEST, MOST = 2, 100_000
PHASE = "phi_hw_deg"
_HOLDS = 0.9995
"""A bucket that captures this share holds the bunch."""


def optimum(
    program: str,
    /,
    *,
    intensity: Annotated[float, real(0.0, 1e16)],
    emittance: Annotated[float | None, real(0.0, above=True, unit="eV s")] = None,
    filling: Annotated[float | None, real(0.0, above=True)] = None,
    criterion: Criterion = "symmetry",
    points: Annotated[int, whole(FEWEST, MOST)] = 200,
    offset_deg: float = 0.0,
    out: OutputFile | None = None,
    plot: OutputFile | None = None,
    reference_out: OutputFile | None = None,
    bridge: Annotated[bool, Parameter(negative="")] = False,
    device: str | None = None,
    ring: int | None = None,
    threads: Count = 1,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Find the phase at which the bunch is best along a whole cycle, as a function to be played.

    The function is unwrapped and of all whole turns nearest to the program's own. Points without an
    optimum are left out and reported with their reason.

    Parameters
    ----------
    program
        Name or file of a program.
    intensity
        Protons in the ring.
    emittance
        Longitudinal emittance, eV s, conserved along the cycle.
    filling
        Emittance as a fraction of the cycle's smallest bucket (at phi_2 = 0, without intensity
        effects); 0.7 where neither is given.
    criterion
        What is best: the symmetric profile, two inner wells of equal depth (V2/V1 above 0.5), or the
        flattest profile.
    points
        Points of the function, from injection to extraction.
    offset_deg
        Hardware offset: phi_hw = phi_2 + offset, degrees; `memrl-ctrl fit` finds it.
    out
        CSV file in the controls system's format, phi_hw at the optimum.
    plot
        PNG file: optimum, phi_hw, asymmetry, captured fraction, and where no optimum exists.
    reference_out
        CSV file of phi_2 (ctime_ms,phi2_deg), to be given as --reference.
    bridge
        Put points where no optimum exists: straight lines between, the nearest value at the ends.
    device
        Device/property#field that plays phi_hw; by default that of the program, or of the PSB.
    ring
        Write for this ring's device.
    threads
        Threads to share the points among.
    force
        Replace the CSV file where it exists.
    """
    if out is not None:
        if out.suffix.lower() != ".csv":
            raise UsageError(f"--out {out}: expected a name that ends in .csv")
        check_output_file(out, replace=force)
    loaded = load_program(program)
    if plot is not None:
        _need_matplotlib()
    from memrl_ctrl.program.optimum import cycle_optimum

    found = cycle_optimum(
        loaded,
        intensity=intensity,
        emittance_evs=emittance,
        filling=filling,
        criterion=criterion,
        points=points,
        offset_rad=math.radians(offset_deg),
        threads=threads,
    )
    console = Terminal(highlight=False, soft_wrap=True)
    _report(console, found, bridge=bridge)
    if plot is not None:
        _draw(found, plot)
        console.print(f"wrote {escape(str(plot))}")
    if reference_out is not None:
        _write_reference(found, reference_out, bridge=bridge)
        console.print(f"wrote {escape(str(reference_out))}")
    if out is not None:
        if not offset_deg:
            console.print(
                "the hardware offset is taken for 0 degrees: load what is written only where it is; "
                "--offset-deg gives it, and memrl-ctrl fit finds it from measured profiles",
                style="yellow",
            )
        notes = _export(found, out, bridge=bridge, device=device, ring=ring, force=force)
        for note in notes:
            console.print(f"  {escape(note)}")
        console.print(f"wrote {escape(str(out))}")


def _report(console: Terminal, found: CycleOptimum, *, bridge: bool) -> None:
    """Say what was found, for which bunch, and where there is nothing."""
    there = found.found
    machine = found.program.machine
    effects = "" if machine.intensity_effects else " (machine without intensity effects)"
    console.print(
        f"{found.program.name} on machine {machine.name}: {found.criterion}, {found.intensity:.4g} "
        f"protons{effects}, emittance {found.emittance_evs:.4g} eV s"
    )
    if there.any():
        phase = np.degrees(found.phi2_rad[there])
        console.print(
            f"optimum at {np.count_nonzero(there)} of {there.size} points: phi_2 from "
            f"{phase.min():.1f} to {phase.max():.1f} degrees"
        )
        best, own = found.at_optimum.bunching_factor, found.at_program.bunching_factor
        console.print(
            f"bunching factor, median: {np.nanmedian(best[there]):.3f} at the optimum, "
            f"{np.nanmedian(own[there]):.3f} at the program's phase if the hardware offset is "
            f"{math.degrees(found.offset_rad):g} degrees"
        )
    else:
        console.print(f"no optimum at any of {there.size} points")
    for first, last, count, reason in found.gaps():
        done = "interpolated" if bridge else "left out"
        where = (
            f"from {first:g} to {last:g} ms, {count} points" if count > 1 else f"at {first:g} ms"
        )
        console.print(f"no optimum {where} {done}: {reason}", style="yellow")
    _report_bunch(console, found)


def _report_bunch(console: Terminal, found: CycleOptimum) -> None:
    """Say where the bunch at the optimum is not the one that was asked for."""
    there, result = found.found, found.at_optimum
    for place, profiles, where in (
        ("at the optimum", result, there),
        ("at the program's phase", found.at_program, np.ones_like(there)),
    ):
        broken = np.count_nonzero(where & ~profiles.converged)
        if broken:
            console.print(
                f"no matched bunch {place} at {broken} of {there.size} points: no bucket, or the well "
                f"breaks apart at {found.intensity:.4g} protons",
                style="yellow",
            )
    spilt = there & result.converged & (result.captured_fraction < _HOLDS)
    if spilt.any():
        first, last = found.ctime_ms[spilt][[0, -1]]
        console.print(
            f"the bucket at the optimum does not hold {found.emittance_evs:.4g} eV s at "
            f"{np.count_nonzero(spilt)} of {there.size} points, between {first:g} and {last:g} ms: it is "
            f"filled to its edge, {result.captured_fraction[spilt].min():.3f} of the bunch at worst",
            style="yellow",
        )


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("program optimum --plot", "matplotlib", "plot") from error


def _draw(found: CycleOptimum, path: Path) -> None:
    from memrl_ctrl.program.optimum_plot import draw

    with output_file(path) as partial:
        draw(found, partial)


def _write_reference(found: CycleOptimum, path: Path, *, bridge: bool) -> None:
    function = found.function(bridge=bridge)
    turns = np.degrees(np.nanmedian(found.phi_hw_rad - found.phi2_rad))
    columns = {TIME: function.ctime_ms, COLUMN: np.round(function.value - turns, 9)}
    write_output(path, format_columns(columns))


def _export(
    found: CycleOptimum,
    out: Path,
    *,
    bridge: bool,
    device: str | None,
    ring: int | None,
    force: bool,
) -> list[str]:
    """Write phi_hw at the optimum in the controls system's format."""
    program = found.as_program(bridge=bridge)
    broken = [check.sentence for check in check_ranges(program) if not check.ok]
    if broken:
        raise ProgramError(out, f"not written, the optimum cannot be played: {broken[0]}")
    notes: list[str] = []
    devices = {PHASE: device} if device else {}
    if not devices and ring is None and PHASE not in program.devices:
        devices = {PHASE: EXAMPLE[PHASE][1]}
        notes.append(f"{program.name} names no device for phi_hw: {devices[PHASE]} stands for it")
    exported = export_program(program, out, devices=devices, ring=ring, force=force)
    return [*notes, *exported.notes]
