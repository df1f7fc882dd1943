"""A picture of a program. Needs matplotlib (extra `plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memrl_ctrl.program.cycle import CycleProgram, ProgramPoints

if TYPE_CHECKING:
    from memrl_ctrl.program.optimum import CycleOptimum

FloatArray = NDArray[np.float64]

# Two colours that stay apart for colour-blind readers (Okabe and Ito), one for what is alone.
FIRST, SECOND, ALONE = "#0072B2", "#D55E00", "#222222"
SAMPLES = 1061
"""Samples of every curve between injection and extraction."""


def draw(program: CycleProgram, out: Path, optimum: CycleOptimum | None = None) -> None:
    """Write the functions of a program, from injection to extraction, as PNG.

    Args:
        program: the program.
        out: the file.
        optimum: drawn beside phi_hw, on an axis of its own: the offset between them is the hardware's.

    Raises:
        OSError: the file cannot be written.
    """
    low, high = program.beam_ms
    curve = program.at(np.linspace(low, high, SAMPLES))
    points = program.at()
    figure = Figure(figsize=(9.0, 9.5), layout="constrained")
    axes: list[Axes] = list(figure.subplots(4, 1, sharex=True))
    _field(axes[0], curve, points)
    _voltages(axes[1], curve, points)
    _line(axes[2], curve.ctime_ms, np.degrees(curve.phi_hw_rad), ALONE)
    _dots(axes[2], points.ctime_ms, np.degrees(points.phi_hw_rad), ALONE)
    axes[2].set_ylabel("phi_hw [degrees]")
    if optimum is not None:
        _optimum(axes[2], optimum)
    _line(axes[3], curve.ctime_ms, np.degrees(curve.synchronous_phase_rad), ALONE)
    _dots(axes[3], points.ctime_ms, np.degrees(points.synchronous_phase_rad), ALONE)
    axes[3].set_ylabel("synchronous phase [degrees]\nasin(C ρ Ḃ / V1)")
    axes[3].set_xlabel("ctime [ms], injection to extraction")
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.set_xlim(low, high)
        axis.spines[["top"]].set_visible(False)
    title = f"{program.name} on machine {program.machine.name}: {len(points)} control points (dots)"
    if optimum is not None:
        none = "; shaded: there is none" if not optimum.found.all() else ""
        title += (
            f"\noptimum of phi_2: {optimum.criterion}, {optimum.intensity:.3g} protons, "
            f"{optimum.emittance_evs:.3g} eV s{none}"
        )
    figure.suptitle(title)
    figure.align_ylabels(axes)
    # Without a suffix matplotlib would add one, and the file would not be where it was asked for.
    figure.savefig(out, dpi=130, format="png")


def _field(axis: Axes, curve: ProgramPoints, points: ProgramPoints) -> None:
    _line(axis, curve.ctime_ms, curve.b_field_t, FIRST)
    _dots(axis, points.ctime_ms, points.b_field_t, FIRST)
    axis.set_ylabel("field B [T]", color=FIRST)
    axis.set_ylim(bottom=0.0)
    other = axis.twinx()
    _line(other, curve.ctime_ms, curve.b_dot_t_per_s, SECOND)
    _dots(other, points.ctime_ms, points.b_dot_t_per_s, SECOND)
    other.set_ylabel("ramp Ḃ [T/s]", color=SECOND)
    other.spines[["top"]].set_visible(False)


def _voltages(axis: Axes, curve: ProgramPoints, points: ProgramPoints) -> None:
    for value, dots, colour, label in (
        (curve.v1_v, points.v1_v, FIRST, "V1"),
        (curve.v2_v, points.v2_v, SECOND, "V2"),
    ):
        _line(axis, curve.ctime_ms, 1e-3 * value, colour)
        _dots(axis, points.ctime_ms, 1e-3 * dots, colour)
        axis.annotate(
            label,
            (float(curve.ctime_ms[SAMPLES // 2]), 1e-3 * float(value[SAMPLES // 2])),
            xytext=(0, 6),
            textcoords="offset points",
            color=colour,
        )
    axis.set_ylabel("voltage [kV]")
    axis.set_ylim(0.0, 1.15e-3 * max(float(curve.v1_v.max()), float(curve.v2_v.max()), 1.0))


def _optimum(axis: Axes, optimum: CycleOptimum) -> None:
    """Draw the optimum of phi_2 on an axis of the same scale: shapes compare, the offset is unknown."""
    phase = np.degrees(optimum.phi2_rad)
    other = axis.twinx()
    _line(other, optimum.ctime_ms, phase, SECOND)
    other.set_ylabel("optimum of phi_2 [degrees]", color=SECOND)
    other.spines[["top"]].set_visible(False)
    half_step = 0.5 * float(optimum.ctime_ms[1] - optimum.ctime_ms[0])
    for first, last, _, _ in optimum.gaps():
        axis.axvspan(first - half_step, last + half_step, color=SECOND, alpha=0.12, linewidth=0.0)
    low, high = axis.get_ylim()
    if not optimum.found.any():
        other.set_yticks([])
        other.annotate(
            "no optimum at any ctime", (0.5, 0.9), xycoords="axes fraction", color=SECOND
        )
        return
    margin = 1.1 * (np.nanmax(phase) - np.nanmin(phase))
    half = 0.5 * max(high - low, float(margin))
    for one, middle in (
        (axis, 0.5 * (low + high)),
        (other, 0.5 * float(np.nanmax(phase) + np.nanmin(phase))),
    ):
        one.set_ylim(middle - half, middle + half)


def _line(axis: Axes, time: FloatArray, value: FloatArray, colour: str) -> None:
    axis.plot(time, value, color=colour, linewidth=1.4)


def _dots(axis: Axes, time: FloatArray, value: FloatArray, colour: str) -> None:
    axis.plot(time, value, ".", color=colour, markersize=6)
