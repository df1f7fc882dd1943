"""Pictures of a validation, as PNG. Needs matplotlib (extra `plot`), imported where it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memrl_backends.blond.validate.comparison import Comparison
from memrl_ctrl.outputs import output_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 110
_MOST = 12
_COLUMNS = 4


def draw(folder: Path, titles: dict[str, str], done: Sequence[Comparison]) -> list[Path]:
    """Draw each check's profiles, and how tracked bunch lengths went; return the files.

    Args:
        folder: where they go; made where it is missing.
        titles: the checks and what stands over them.
        done: the comparisons; of each check the first twelve are drawn, those that failed before.

    Raises:
        FileError: the folder cannot be written.
        ModuleNotFoundError: matplotlib is not installed.
    """
    made = []
    for check, title in titles.items():
        own = [c for c in done if c.check == check]
        if not own:
            continue
        chosen = sorted(own, key=lambda c: c.passed)[:_MOST]
        made.append(_profiles(folder / f"validate-{check}.png", title, chosen))
    tracked = [c for c in done if c.turns.size]
    if tracked:
        made.append(_lengths(folder / "validate-length.png", titles, tracked))
    return made


def _profiles(path: Path, title: str, chosen: Sequence[Comparison]) -> Path:
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(chosen))
    count = -(-len(chosen) // columns)
    figure = Figure(figsize=(2.8 + 3.2 * columns, 1.0 + 2.5 * count), layout="constrained")
    panels = figure.subplots(count, columns, squeeze=False)
    for panel, comparison in zip(panels.flat, chosen, strict=False):
        _one(panel, comparison)
    for panel in list(panels.flat)[len(chosen) :]:
        panel.set_axis_off()
    figure.suptitle(title)
    figure.supxlabel("RF phase, degrees")
    figure.supylabel("line density, 1/rad")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    # Beside the panels: above them it would lie on the title.
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    with output_file(path) as partial:
        figure.savefig(partial, dpi=DPI)
    return path


def _one(panel: Axes, comparison: Comparison) -> None:
    phase = np.degrees(comparison.phase_rad)
    panel.plot(phase, comparison.blond, color="tab:orange", lw=2.2, label="BLonD")
    panel.plot(phase, comparison.kernel, color="black", lw=0.9, label="kernel")
    panel.plot(
        phase,
        10.0 * (comparison.blond - comparison.kernel),
        color="tab:blue",
        lw=0.7,
        label="difference, 10 times",
    )
    c = comparison.condition
    verdict = "" if comparison.passed else "FAILED: "
    panel.set_title(
        f"{verdict}B {c['b_field_t']:.2f} T, Bdot {c['b_dot_t_per_s']:.1f} T/s,\n"
        f"V2/V1 {c['v2_v'] / c['v1_v']:.2f}, $\\phi_2$ {np.degrees(c['phi2_rad']):.0f} deg, "
        f"{c['emittance_evs']:.2f} eV s",
        fontsize="small",
        color="black" if comparison.passed else "tab:red",
    )
    panel.set_xlim(0.0, 360.0)
    panel.tick_params(labelsize="x-small")


def _lengths(path: Path, titles: dict[str, str], tracked: Sequence[Comparison]) -> Path:
    from matplotlib.figure import Figure

    checks = [check for check in titles if any(c.check == check for c in tracked)]
    figure = Figure(figsize=(1.0 + 3.4 * len(checks), 3.6), layout="constrained")
    panels = figure.subplots(1, len(checks), squeeze=False)[0]
    for panel, check in zip(panels, checks, strict=True):
        for comparison in tracked:
            if comparison.check == check:
                colour = "tab:blue" if comparison.passed else "tab:red"
                change = 1e2 * (comparison.length_ratio - 1.0)
                panel.plot(comparison.turns, change, lw=0.9, color=colour)
        for limit in (-1.0, 1.0):
            panel.axhline(limit, color="grey", ls=":", lw=0.8)
        panel.set_title(titles[check], fontsize="small")
        panel.set_xlabel("turn")
    panels[0].set_ylabel("bunch length against the kernel, %")
    with output_file(path) as partial:
        figure.savefig(partial, dpi=DPI)
    return path
