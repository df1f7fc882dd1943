"""A picture of the optimum along a cycle. Needs matplotlib (extra `plot`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memrl_ctrl.program.optimum import CycleOptimum
from memrl_ctrl.program.plot import ALONE, FIRST, SECOND

GAP = "#999999"
"""Where no optimum exists."""


def draw(optimum: CycleOptimum, out: Path) -> None:
    """Write the optimum, the program's phase and both profiles' figures as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(9.0, 9.5), layout="constrained")
    axes: list[Axes] = list(figure.subplots(4, 1, sharex=True))
    time, found = optimum.ctime_ms, optimum.found
    own = optimum.program.phi_hw_deg.at(time)

    axes[0].plot(time, np.degrees(optimum.phi2_rad), color=SECOND, linewidth=1.4)
    axes[0].set_ylabel("optimum of phi_2 [degrees]")

    offset = np.degrees(optimum.offset_rad)
    phi_hw = np.degrees(optimum.phi_hw_rad) if found.any() else np.full(time.shape, np.nan)
    axes[1].plot(time, own, color=FIRST, linewidth=1.4, label="the program's")
    label = f"at the optimum (offset {offset:g}°)"
    axes[1].plot(time, phi_hw, color=SECOND, linewidth=1.4, label=label)
    axes[1].set_ylabel("phi_hw [degrees]")

    for result, where, colour, label in (
        (optimum.at_program, np.ones_like(found), FIRST, "at the program's phase"),
        (optimum.at_optimum, found, SECOND, "at the optimum"),
    ):
        usable = where & result.converged
        for axis, values in (
            (axes[2], result.asymmetry),
            (axes[3], result.captured_fraction),
        ):
            axis.plot(
                time, np.where(usable, values, np.nan), color=colour, linewidth=1.4, label=label
            )
    axes[2].set_ylabel("asymmetry (skewness)")
    axes[2].axhline(0.0, color=ALONE, linewidth=0.6)
    axes[3].set_ylabel("captured fraction")
    axes[3].set_ylim(0.0, 1.05)
    axes[3].set_xlabel("ctime [ms], injection to extraction")

    step = 0.5 * (time[1] - time[0])
    for number, (first, last, _, _) in enumerate(optimum.gaps()):
        for axis in axes:
            axis.axvspan(
                first - step,
                last + step,
                color=GAP,
                alpha=0.3,
                linewidth=0.0,
                label="no optimum" if number == 0 and axis is axes[1] else None,
            )
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.set_xlim(time[0], time[-1])
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1:3]:
        axis.legend(fontsize="small", frameon=False)
    figure.suptitle(
        f"{optimum.program.name} on machine {optimum.program.machine.name}: {optimum.criterion}, "
        f"{optimum.intensity:.3g} protons, {optimum.emittance_evs:.3g} eV s"
    )
    figure.align_ylabels(axes)
    # Without a suffix matplotlib would add one, and the file would not be where it was asked for.
    figure.savefig(out, dpi=130, format="png")
