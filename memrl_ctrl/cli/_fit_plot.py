"""The picture of a fit. Needs matplotlib (extra `plot`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from memrl_ctrl.beam import CycleFit, ProfileFit

FloatArray = NDArray[np.float64]

# Okabe and Ito: apart for colour-blind readers.
MEASURED, FITTED, TRUE = "#999999", "#D55E00", "#0072B2"
SHOWN = 6
"""Profiles that are drawn, at most, spread over the cycle."""
DPI = 120


def draw(
    fit: ProfileFit,
    ctime_ms: FloatArray,
    out: Path,
    *,
    title: str,
    cycle: CycleFit | None = None,
    true_offset_rad: FloatArray | None = None,
) -> None:
    """Write measured and fitted profiles with residuals, and the offset over ctime, as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    rows = np.flatnonzero(fit.fitted)
    shown = rows[np.unique(np.linspace(0, rows.size - 1, min(rows.size, SHOWN)).astype(int))]
    columns = min(3, shown.size)
    lines = -(-shown.size // columns)
    with_offset = rows.size > 1
    figure = Figure(
        figsize=(max(3.6 * columns + 0.6, 6.4), 2.9 * lines + (3.2 if with_offset else 0.4)),
        layout="constrained",
    )
    heights = [2.9 * lines, 3.2] if with_offset else [1.0]
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    upper = parts[0, 0]
    axes = upper.subplots(
        2 * lines, columns, sharex=True, squeeze=False, height_ratios=[3.0, 1.0] * lines
    )
    for place in range(lines * columns):
        line, column = divmod(place, columns)
        pair = axes[2 * line, column], axes[2 * line + 1, column]
        if place >= shown.size:
            for one in pair:
                one.set_visible(False)
            continue
        _profile(*pair, fit, int(shown[place]), float(ctime_ms[shown[place]]))
        if column == 0:
            pair[0].set_ylabel("profile [peak]")
            pair[1].set_ylabel("rest [σ]")
        if place + columns >= shown.size:
            pair[1].set_xlabel("RF phase [degrees]")
            pair[1].tick_params(labelbottom=True)
    if with_offset:
        _offset(parts[1, 0].subplots(), fit, ctime_ms, cycle=cycle, true_offset_rad=true_offset_rad)
    figure.suptitle(title, fontsize=11)
    figure.savefig(out, dpi=DPI)


def _profile(above: Axes, below: Axes, fit: ProfileFit, row: int, ctime_ms: float) -> None:
    n_slices = fit.profile.shape[1]
    phase = 360.0 * (np.arange(n_slices) + 0.5) / n_slices
    base = fit.baseline[row]
    peak = float((fit.model[row] - base).max())
    above.plot(
        phase, (fit.profile[row] - base) / peak, ".", ms=1.5, color=MEASURED, label="measured"
    )
    above.plot(phase, (fit.model[row] - base) / peak, color=FITTED, lw=1.3, label="fitted")
    sigma = np.degrees(fit.phi2_sigma_rad[row])
    above.set_title(
        f"ctime {ctime_ms:.0f} ms: φ2 = {np.degrees(fit.phi2_rad[row]):.1f} ± {sigma:.1f}°, "
        f"χ² {fit.chi2_reduced[row]:.2f}, {fit.verdict[row]}",
        fontsize=8,
    )
    above.legend(fontsize=7, markerscale=4, loc="upper right")
    below.plot(
        phase, (fit.profile[row] - fit.model[row]) / fit.noise[row], ".", ms=1.5, color=MEASURED
    )
    below.axhline(0.0, color=FITTED, lw=1.0)
    below.set_ylim(-5.0, 5.0)
    below.set_xlim(0.0, 360.0)
    below.set_xticks([0, 90, 180, 270, 360])


def _offset(
    axes: Axes,
    fit: ProfileFit,
    ctime_ms: FloatArray,
    *,
    cycle: CycleFit | None,
    true_offset_rad: FloatArray | None,
) -> None:
    rows = np.flatnonzero(fit.fitted)
    centre = cycle.offset_rad if cycle is not None else float(fit.offset_rad[rows[0]])

    def about(offset_rad: FloatArray) -> FloatArray:
        """Degrees, on the turn around the centre."""
        turned = np.mod(offset_rad - centre + np.pi, 2.0 * np.pi) - np.pi
        return np.asarray(np.degrees(centre + turned))

    axes.errorbar(
        ctime_ms[rows],
        about(fit.offset_rad[rows]),
        np.degrees(fit.phi2_sigma_rad[rows]),
        fmt="o",
        ms=3.5,
        lw=1.0,
        capsize=2,
        color=FITTED,
        label="each point, 1 σ",
    )
    if cycle is not None:
        middle, sigma = np.degrees(cycle.offset_rad), np.degrees(cycle.offset_sigma_rad)
        axes.axhline(
            middle, color="#222222", lw=1.0, label=f"all points: {middle:.2f} ± {sigma:.2f}°"
        )
    if true_offset_rad is not None:
        axes.plot(ctime_ms, about(true_offset_rad), "--", color=TRUE, lw=1.4, label="true")
    axes.set_xlabel("ctime [ms]")
    axes.set_ylabel("offset [degrees]")
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
