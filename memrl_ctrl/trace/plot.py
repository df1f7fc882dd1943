"""Pictures of a trace, as PNG. Needs matplotlib (extra `plot`), imported where it draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.metrics import asymmetry, measure
from memrl_ctrl.outputs import check_output_folder, output_file
from memrl_ctrl.trace.reader import TraceReader
from memrl_ctrl.trace.scan import Progress
from memrl_ctrl.trace.truth import Truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLOCK_CYCLES = 64
"""Cycles whose profiles are in memory at once."""
HEIGHT_POINTS = 3.0
"""Height of the tallest profile of a waterfall, in distances of control points."""
DPI = 120
PLOTS_NAME = "plots"
"""Folder of the pictures, beside the trace, where no other is given."""
PICTURES = PROFILES, PHASE_FUNCTION, ASYMMETRY, PHASE_ERROR = (
    "profiles.png",
    "phase_function.png",
    "asymmetry.png",
    "phase_error.png",
)
SMALLEST_DEG = 0.01
"""Phase error that the logarithmic colours begin with, degrees."""

FloatArray = NDArray[np.float64]
Painter = Callable[[TraceReader, "Figure"], None]


def plot_trace(
    trace: TraceReader,
    folder: str | Path,
    progress: Progress | None = None,
    truth: Truth | None = None,
) -> list[Path]:
    """Draw profiles, phase function and asymmetry of a trace, and return the files.

    Args:
        trace: the trace, with one cycle at least.
        folder: where the PNG files go; made where it is missing.
        progress: called with the cycles done and their number.
        truth: what the simulated machine knew: then the phase function is drawn beside the one that
            would have been right, and the phase error gets a picture of its own.

    Raises:
        TraceError: the trace has no cycle.
        FileError: the folder cannot be written.
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    if not len(trace):
        raise TraceError(trace.path, "has no cycle; there is nothing to draw")
    folder = check_output_folder(folder)
    made = []
    pictures: list[tuple[str, tuple[float, float], Painter]] = [
        (PROFILES, (9.0, 6.0), _profiles),
        (PHASE_FUNCTION, (7.5, 4.2), partial(_phase_function, truth=truth)),
        (ASYMMETRY, (8.0, 5.0), partial(_asymmetry, progress=progress)),
    ]
    if truth is not None:
        pictures.append((PHASE_ERROR, (8.0, 6.5), partial(_phase_error, truth=truth)))
    for name, size, painter in pictures:
        figure = Figure(figsize=size, layout="constrained")
        painter(trace, figure)
        with output_file(folder / name) as place:
            figure.savefig(place, dpi=DPI)
        made.append(folder / name)
    return made


def _positions(trace: TraceReader) -> tuple[NDArray[np.float64], str]:
    """Return where the control points stand on an axis, and that axis' name."""
    machine = trace.header.machine
    if machine.ctime_ms is None:
        return np.arange(machine.points, dtype=np.float64), "row"
    return np.asarray(machine.ctime_ms, dtype=np.float64), "ctime [ms]"


def _profiles(trace: TraceReader, figure: Figure) -> None:
    """Waterfall of the profiles through the first and the last cycle."""
    left, right = figure.subplots(1, 2, sharey=True)
    positions, label = _positions(trace)
    peak = 0.0
    cycles = [trace.array("profile", index).astype(np.float64) for index in (0, len(trace) - 1)]
    for profiles in cycles:
        finite = profiles[np.isfinite(profiles)]
        peak = max(peak, float(finite.max(initial=0.0)))
    for axes, profiles, index in ((left, cycles[0], 0), (right, cycles[1], len(trace) - 1)):
        draw_waterfall(axes, positions, profiles, peak or 1.0)
        axes.set_title(f"Profiles, cycle {trace.cycles[index]}")
    left.set_ylabel(label)


def draw_waterfall(
    axes: Axes, positions: NDArray[np.float64], profiles: NDArray[np.float64], peak: float
) -> None:
    """Draw profiles [points, n_slices] one behind the other; `peak` is the height of the tallest."""
    n_slices = profiles.shape[1]
    phase_deg = 360.0 * (np.arange(n_slices) + 0.5) / n_slices
    spacing = float(np.median(np.diff(positions))) if positions.size > 1 else 1.0
    height = HEIGHT_POINTS * spacing / peak
    for row, base in enumerate(positions):
        line = base + height * profiles[row]
        axes.fill_between(phase_deg, base, line, color="white", zorder=-row)
        axes.plot(phase_deg, line, lw=0.7, color="C0", zorder=-row)
    axes.set_xlabel("RF phase [degrees]")
    axes.set_xlim(0.0, 360.0)


def next_to(reference_deg: FloatArray, applied_deg: FloatArray) -> FloatArray:
    """Return a phase function [points] by whole turns next to another one, degrees; NaN stays NaN."""
    return reference_deg + 360.0 * np.round((applied_deg - reference_deg) / 360.0)


def draw_error(axes: Axes, error_deg: FloatArray) -> None:
    """Draw median and 95th percentile over the points of the error's size [cycles, points], degrees."""
    shots = np.arange(error_deg.shape[0])
    axes.semilogy(shots, np.nanmedian(error_deg, axis=1), label="median over the points")
    axes.semilogy(shots, np.nanpercentile(error_deg, 95, axis=1), label="95th percentile")
    axes.set_xlabel("cycle")
    axes.set_ylabel("phase error [degrees]")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()


def _phase_function(trace: TraceReader, figure: Figure, truth: Truth | None) -> None:
    """phi_hw along the cycle: applied at first and at last, and what was proposed last."""
    axes = figure.subplots()
    positions, label = _positions(trace)
    last = len(trace) - 1
    if truth is not None:
        right = np.degrees(truth.reference_hw_rad[last])
        near = next_to(right, np.degrees(trace.array("applied_rad", last)))
        axes.plot(positions, near, "k-", lw=3, alpha=0.4, label="right in the last cycle (truth)")
    for index, style in ((0, "o--"), (last, "o-")):
        applied = np.degrees(trace.array("applied_rad", index))
        axes.plot(positions, applied, style, ms=3, label=f"applied, cycle {trace.cycles[index]}")
    proposed = np.degrees(trace.array("proposed_rad", last))
    axes.plot(
        positions, proposed, "x", ms=4, color="k", label=f"wanted, cycle {trace.cycles[last]}"
    )
    axes.set_xlabel(label)
    axes.set_ylabel("phi_hw [degrees]")
    axes.set_title(f"Phase function of the second harmonic ({trace.header.mode})")
    axes.grid(True, alpha=0.3)
    axes.legend()


def _phase_error(trace: TraceReader, figure: Figure, truth: Truth) -> None:
    """Size of the phase error by shot, and by shot and control point."""
    error = np.abs(np.degrees(truth.phase_error_rad))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, 1.3))
    draw_error(top, error)
    top.set_title("Phase error, as the simulated machine knew it")
    top.set_xlabel("")
    positions, label = _positions(trace)
    image = bottom.imshow(
        np.maximum(error, SMALLEST_DEG).T,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="viridis",
        norm="log",
        extent=(-0.5, error.shape[0] - 0.5, -0.5, error.shape[1] - 0.5),
    )
    ticks = np.unique(np.linspace(0, positions.size - 1, min(positions.size, 8)).astype(int))
    bottom.set_yticks(ticks, [f"{positions[i]:.0f}" for i in ticks])
    bottom.set_xlabel(f"shot (first is cycle {trace.cycles[0]})")
    bottom.set_ylabel(label)
    figure.colorbar(image, ax=bottom, label="phase error [degrees]")


def _asymmetry(trace: TraceReader, figure: Figure, progress: Progress | None) -> None:
    """Heat map of the measured asymmetry, shot by shot; beside it the last cycle's, with its error."""
    count = len(trace)
    values = np.empty((trace.header.machine.points, count))
    for start in range(0, count, BLOCK_CYCLES):
        end = min(start + BLOCK_CYCLES, count)
        values[:, start:end] = asymmetry(trace.array("profile", slice(start, end))).T
        if progress is not None:
            progress(end, count)
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(2.5, 1.0))
    positions, label = _positions(trace)
    finite = np.abs(values[np.isfinite(values)])
    reach = float(np.percentile(finite, 98)) if finite.size else 1.0
    image = axes.imshow(
        values,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="RdBu_r",
        vmin=-(reach or 1.0),
        vmax=reach or 1.0,
        extent=(-0.5, count - 0.5, -0.5, values.shape[0] - 0.5),
    )
    ticks = np.unique(np.linspace(0, positions.size - 1, min(positions.size, 8)).astype(int))
    axes.set_yticks(ticks, [f"{positions[i]:.0f}" for i in ticks])
    axes.set_xlabel(f"shot (first is cycle {trace.cycles[0]})")
    axes.set_ylabel(label)
    axes.set_title("Measured asymmetry; white is symmetric")
    figure.colorbar(image, ax=axes, label="asymmetry (skewness)")
    last = measure(trace.array("profile", count - 1))
    place = np.arange(values.shape[0])
    side.errorbar(last.asymmetry, place, xerr=last.asymmetry_sigma, fmt="o", ms=3, lw=1.0)
    side.axvline(0.0, color="k", lw=0.5)
    side.grid(True, axis="x", alpha=0.3)
    side.locator_params(axis="x", nbins=3)
    side.set_xlabel("asymmetry ± sigma")
    side.set_title(f"Cycle {trace.cycles[-1]}")
