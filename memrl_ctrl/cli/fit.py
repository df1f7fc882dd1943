"""`memrl-ctrl fit`: what offset, emittance and intensity recorded profiles tell of."""

from __future__ import annotations

import json as json_library
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from rich.table import Table

from memrl_ctrl import __version__, registry
from memrl_ctrl.beam import (
    CycleFit,
    ProfileFit,
    fit_cycle,
    fit_profile,
    suggest_delta_rad,
    suggested_sigma_rad,
)
from memrl_ctrl.beam.measurement import monitor_from
from memrl_ctrl.cli._fit_source import Measured, chosen, from_file, from_trace, is_plain
from memrl_ctrl.cli.values import OutputFile
from memrl_ctrl.errors import BeamError, FileError, UsageError
from memrl_ctrl.metrics import circular_difference
from memrl_ctrl.outputs import output_file, write_output
from memrl_ctrl.ranges import named_values
from memrl_ctrl.terminal import Terminal

TABLE_WIDTH = 116
"""Columns that the table needs."""
TOGETHER = 2
"""From so many profiles on, they are also fitted with one offset, emittance and intensity."""

POINT_NUMBERS = (
    "offset_rad",
    "phi2_rad",
    "phi2_sigma_rad",
    "phi_hw_rad",
    "emittance_evs",
    "emittance_sigma_evs",
    "intensity",
    "intensity_sigma",
    "trigger_rad",
    "trigger_sigma_rad",
    "noise",
    "chi2_reduced",
    "p_value",
    "second_phi2_rad",
    "second_chi2_above",
)
"""What JSON says of each profile, by the names of `ProfileFit`."""
TOGETHER_NUMBERS = (
    "offset_rad",
    "offset_sigma_rad",
    "emittance_evs",
    "emittance_sigma_evs",
    "intensity",
    "intensity_sigma",
    "chi2_reduced",
    "p_value",
    "second_offset_rad",
)
"""What JSON says of all profiles together, by the names of `CycleFit`."""


def fit(
    source: Path,
    /,
    *,
    program: str | None = None,
    point: str = "all",
    cycle: int | None = None,
    ctime: float | None = None,
    phi_hw_deg: float | None = None,
    intensity: Annotated[tuple[float, float] | None, Parameter(negative=())] = None,
    emittance: Annotated[tuple[float, float] | None, Parameter(negative=())] = None,
    trigger: Literal["auto", "known", "unknown"] = "auto",
    monitor: Annotated[list[str] | None, Parameter(negative=())] = None,
    truth: Path | None = None,
    json: Annotated[OutputFile | None, Parameter(name="--json")] = None,
    plot: Annotated[OutputFile | None, Parameter(name="--plot")] = None,
    threads: int = 1,
) -> None:
    """Estimate hardware offset, emittance and intensity from measured profiles.

    Each profile is fitted by itself; a cycle's profiles are also fitted together, with one offset,
    emittance and intensity. Numbers are mean and 1-sigma uncertainty. See docs/fit.md.

    Parameters
    ----------
    source
        A trace (trace.h5, trace.journal, the folder of a run), or a plain file: .npy with one
        profile or [n, n_slices], .csv or .txt with one profile a column and one slice a line.
    program
        Cycle program that was played, name or file; by default the trace's.
    point
        Control point, counted from 0, or `all`.
    cycle
        Number of the cycle in a trace; by default its last one.
    ctime
        Where in the cycle a plain file's profile was measured, ms.
    phi_hw_deg
        The knob when a plain file's profile was measured, degrees; by default the program's.
    intensity
        What is known of it: mean and standard deviation, protons.
    emittance
        What is known of it: mean and standard deviation, eV s.
    trigger
        Whether slice 0 begins at RF phase 0; `auto` finds out.
    monitor
        What the profiles were seen with: `wcm` (the default: a good wall-current monitor), `ideal`
        for none, or a value of it, for example bandwidth_mhz=60; may be given several times.
    truth
        Truth log of a simulated machine (`machine --truth-log`), to compare with.
    json
        Also write the results to this file.
    plot
        Also draw profiles, residuals and offsets to this PNG file.
    threads
        Threads of the kernel.
    """
    if is_plain(source):
        _refuse(source, "a plain file has no cycles", cycle=cycle, truth=truth)
        measured = from_file(
            source, program=program, ctime_ms=ctime, phi_hw_deg=phi_hw_deg, point=point
        )
    else:
        _refuse(source, "a trace holds them", ctime=ctime, phi_hw_deg=phi_hw_deg)
        measured = from_trace(source, program=program, cycle=cycle, truth=truth)
    console, measured = _usable(chosen(measured, point))
    single, joint = _fitted(
        measured,
        intensity=intensity,
        emittance_evs=emittance,
        trigger=trigger,
        monitor=monitor_from(named_values("--monitor", monitor) if monitor else None),
        threads=threads,
    )
    _print(console, measured, single, joint)
    if json is not None:
        _write_json(json, measured, single, joint)
        console.print(f"written: {json}", soft_wrap=True, markup=False)
    if plot is not None:
        _draw(plot, measured, single, joint)
        console.print(f"written: {plot}", soft_wrap=True, markup=False)


def _refuse(source: Path, why: str, **options: object) -> None:
    """Refuse options that do not belong to this kind of source."""
    for name, value in options.items():
        if value is not None:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} does not belong to {source}: {why}")


def _usable(measured: Measured) -> tuple[Terminal, Measured]:
    """Return what no flag is against, and where to print; say what is left out."""
    console = Terminal(highlight=False)
    if console.width < TABLE_WIDTH:  # a pipe, or a narrow terminal: numbers are not to be broken
        console = Terminal(highlight=False, width=TABLE_WIDTH)
    for k, flag in enumerate(measured.flags):
        if flag:
            console.print(f"skipped: {_where(measured, k)}: {flag}", soft_wrap=True, markup=False)
    used = np.flatnonzero([not flag for flag in measured.flags])
    if not used.size:
        raise FileError(measured.path, "every profile is flagged; there is nothing to fit")
    return console, measured.take(used)


def _where(measured: Measured, k: int) -> str:
    number = measured.points[k]
    ctime = f"ctime {measured.ctime_ms[k]:.1f} ms"
    return f"point {number}, {ctime}" if number >= 0 else ctime


def _fitted(measured: Measured, **options: Any) -> tuple[ProfileFit, CycleFit | None]:
    """Return each profile's fit, and that of all together where there are several."""
    points = measured.program.at(measured.ctime_ms)
    machine = measured.program.machine
    options["phi_hw_rad"] = measured.phi_hw_rad
    try:
        if measured.profile.shape[0] >= TOGETHER:
            joint = fit_cycle(measured.profile, machine, points, **options)
            return joint.points, joint
        return fit_profile(measured.profile, machine, points, **options), None
    except BeamError as error:
        raise FileError(measured.path, str(error)) from error


def _print(
    console: Terminal, measured: Measured, single: ProfileFit, joint: CycleFit | None
) -> None:
    for k in np.flatnonzero(~single.fitted).tolist():
        reason = single.reason[k]
        console.print(f"skipped: {_where(measured, k)}: {reason}", soft_wrap=True, markup=False)
    head = f"{measured.path}"
    if measured.cycle is not None:
        head += f", cycle {measured.cycle}"
    known = single.trigger_known[single.fitted].all()
    phase = "slice 0 is RF phase 0" if known else "trigger phase unknown"
    console.print(f"{head}, program {measured.program.name}: {phase}", soft_wrap=True, markup=False)
    table = Table(box=None, pad_edge=False)
    true = measured.true_offset_rad
    for name in (
        "point",
        "ctime ms",
        "offset deg",
        "phi_2 deg",
        "emittance eV s",
        "intensity 1e12",
        "chi2",
        *(("true offset", "difference") if true is not None else ()),
    ):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for k in np.flatnonzero(single.fitted).tolist():
        sigma = math.degrees(single.phi2_sigma_rad[k])
        cells = [
            "" if measured.points[k] < 0 else str(measured.points[k]),
            f"{measured.ctime_ms[k]:.1f}",
            f"{math.degrees(single.offset_rad[k]):.2f} ± {sigma:.2f}",
            f"{math.degrees(single.phi2_rad[k]):.2f}",
            f"{single.emittance_evs[k]:.4f} ± {single.emittance_sigma_evs[k]:.4f}",
            _protons(single.intensity[k], single.intensity_sigma[k]),
            f"{single.chi2_reduced[k]:.2f}",
        ]
        if true is not None:
            gap = float(circular_difference(single.offset_rad[k], true[k]))
            cells += [_turn(true[k]), f"{math.degrees(gap):+.2f}"]
        table.add_row(*cells, _verdict(single, k))
    console.print(table)
    if joint is not None:
        for line in _together(joint, true):
            console.print(line, soft_wrap=True, markup=False)


def _protons(mean: float, sigma: float) -> str:
    return "no effect" if math.isnan(mean) else f"{mean / 1e12:.3f} ± {sigma / 1e12:.3f}"


def _turn(angle_rad: float) -> str:
    """An angle on the circle, degrees."""
    return f"{math.degrees(float(circular_difference(angle_rad, 0.0))):.2f}"


def _verdict(single: ProfileFit, k: int) -> str:
    if not np.isfinite(single.second_phi2_rad[k]):
        return str(single.verdict[k])
    other = single.phi_hw_rad[k] - single.second_phi2_rad[k]
    return f"{single.verdict[k]}: or {_turn(other)} (chi2 +{single.second_chi2_above[k]:.1f})"


def _together(joint: CycleFit, true: Any) -> list[str]:
    """Sentences on the fit of all profiles together."""
    offset, sigma = math.degrees(joint.offset_rad), math.degrees(joint.offset_sigma_rad)
    protons = _protons(joint.intensity, joint.intensity_sigma)
    lines = [
        f"together: offset {offset:.2f} ± {sigma:.2f} degrees, emittance {joint.emittance_evs:.4f} "
        f"± {joint.emittance_sigma_evs:.4f} eV s, intensity {protons}"
        + ("" if math.isnan(joint.intensity) else " 1e12")
        + f", chi2 {joint.chi2_reduced:.2f}: {joint.verdict}"
    ]
    if joint.verdict == "poor":
        lines.append(
            "one offset, emittance and intensity do not describe all points: the offset moves along "
            "the cycle, beam is lost, or single profiles are poor"
        )
    if np.isfinite(joint.second_offset_rad):
        lines.append(f"not excluded: offset {math.degrees(joint.second_offset_rad):.2f} degrees")
    if true is not None:
        gap = np.degrees(circular_difference(joint.offset_rad, true))
        lines.append(f"together less true offset: {np.mean(gap):+.3f} degrees on average")
    return lines


def _number(value: Any) -> float | None:
    """A number as JSON has it: NaN is null."""
    return float(value) if np.isfinite(value) else None


def _write_json(path: Path, measured: Measured, single: ProfileFit, joint: CycleFit | None) -> None:
    delta, sigma = suggest_delta_rad(single), suggested_sigma_rad(single)
    rows = []
    for k in range(len(single)):
        row: dict[str, Any] = {
            "point": int(measured.points[k]),
            "ctime_ms": float(measured.ctime_ms[k]),
            **{name: _number(getattr(single, name)[k]) for name in POINT_NUMBERS},
            "suggested_delta_rad": _number(delta[k]),
            "suggested_delta_sigma_rad": _number(sigma[k]),
            "trigger_known": bool(single.trigger_known[k]),
            "verdict": str(single.verdict[k]),
            "reason": str(single.reason[k]),
        }
        if measured.true_offset_rad is not None:
            row["true_offset_rad"] = _number(measured.true_offset_rad[k])
        rows.append(row)
    together: dict[str, Any] | None = None
    if joint is not None:
        together = {name: _number(getattr(joint, name)) for name in TOGETHER_NUMBERS}
        together |= {"verdict": joint.verdict}
    text = json_library.dumps(
        {
            "memrl_ctrl": __version__,
            "source": str(measured.path),
            "cycle": measured.cycle,
            "program": measured.program.name,
            "points": rows,
            "together": together,
        },
        indent=2,
        allow_nan=False,
    )
    write_output(path, text + "\n")


def _draw(path: Path, measured: Measured, single: ProfileFit, joint: CycleFit | None) -> None:
    try:
        from memrl_ctrl.cli._fit_plot import draw
    except ModuleNotFoundError as error:
        raise registry.missing_extra("command 'fit --plot'", error) from error
    what = measured.path.parent.name if measured.cycle is not None else measured.path.name
    cycle = "" if measured.cycle is None else f", cycle {measured.cycle}"
    with output_file(path) as partial:
        draw(
            single,
            measured.ctime_ms,
            partial,
            title=f"{what}{cycle}, program {measured.program.name}",
            cycle=joint,
            true_offset_rad=measured.true_offset_rad,
        )
