"""A picture of a program. Needs matplotlib (extra `plot`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memrl_ctrl.program.cycle import CycleProgram, ProgramPoints

FloatArray = NDArray[np.float64]

# Two colours that stay apart for colour-blind readers (Okabe and Ito), one for what is alone.
FIRST, SECOND, ALONE = "#0072B2", "#D55E00", "#222222"
SAMPLES = 1061
"""Samples of every curve between injection and extraction."""


def draw(program: CycleProgram, out: Path) -> None:
    """Write the functions of a program, from injection to extraction, as PNG.

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
    _line(axes[3], curve.ctime_ms, np.degrees(curve.synchronous_phase_rad), ALONE)
    _dots(axes[3], points.ctime_ms, np.degrees(points.synchronous_phase_rad), ALONE)
    axes[3].set_ylabel("synchronous phase [degrees]\nasin(C ρ Ḃ / V1)")
    axes[3].set_xlabel("ctime [ms], injection to extraction")
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.set_xlim(low, high)
        axis.spines[["top"]].set_visible(False)
    figure.suptitle(
        f"{program.name} on machine {program.machine.name}: {len(points)} control points (dots)"
    )
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


def _line(axis: Axes, time: FloatArray, value: FloatArray, colour: str) -> None:
    axis.plot(time, value, color=colour, linewidth=1.4)


def _dots(axis: Axes, time: FloatArray, value: FloatArray, colour: str) -> None:
    axis.plot(time, value, ".", color=colour, markersize=6)
