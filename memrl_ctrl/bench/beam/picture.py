"""Phase error against shot, one panel a condition, as PNG. Needs matplotlib, imported where it draws."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memrl_ctrl.bench.beam.figures import curves
from memrl_ctrl.bench.beam.play import CUT, Played
from memrl_ctrl.outputs import write_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933", "#882255",
    "#6699CC",
)  # fmt: skip
"""Colours that stay apart for colour-blind readers (Okabe and Ito; P. Tol)."""
PANEL_INCH, COLUMNS, DPI = (3.2, 2.4), 4, 110
LIMITS_DEG = (0.05, 200.0)


def draw(
    cells: Mapping[str, Sequence[tuple[str, Played]]], path: Path, *, title: str = ""
) -> Path | None:
    """Draw median (line) and 95th percentile (dashed) of the phase error after each shot.

    A policy whose memory is cut has the colour that it has with it, and a dotted line.

    Args:
        cells: by condition: name of each contestant, and what it played.
        path: PNG to write.
        title: above all panels.

    Returns:
        The path, or None where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    columns = min(COLUMNS, len(cells))
    rows = math.ceil(len(cells) / columns)
    size = (PANEL_INCH[0] * columns + 0.3, PANEL_INCH[1] * rows + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=False, sharey=True).ravel()
    names = list(dict.fromkeys(_whole(name) for cell in cells.values() for name, _ in cell))
    for panel, (condition, players) in zip(panels, cells.items(), strict=False):
        _panel(panel, condition, players, names)
    for panel in panels[max(len(cells) - columns, 0) : len(cells)]:
        panel.set_xlabel("shot", fontsize="small")
    for panel in panels[len(cells) :]:
        panel.set_visible(False)
    handles = {
        line.get_label(): line
        for panel in panels
        for line in panel.get_lines()
        if not str(line.get_label()).startswith("_")
    }
    figure.legend(
        list(handles.values()), [str(name) for name in handles],
        loc="outside lower center", ncols=min(5, max(len(handles), 1)), frameon=False, fontsize="small",
    )  # fmt: skip
    figure.supylabel("phase error [deg]: median, and 95 % (dashed)", fontsize="small")
    if title:
        figure.suptitle(title, fontsize="medium")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    return write_output(path, picture.getvalue())


def _whole(name: str) -> str:
    """Return the name of a policy, be its memory cut or not."""
    return name.removesuffix(CUT)


def _panel(
    panel: Axes, condition: str, players: Sequence[tuple[str, Played]], names: Sequence[str]
) -> None:
    for name, played in players:
        found = curves(played)
        colour = COLOURS[names.index(_whole(name)) % len(COLOURS)]
        style = "-" if name == _whole(name) else ":"
        shots = range(len(found["median_deg"]))
        panel.plot(shots, found["median_deg"], color=colour, label=name, linewidth=1.3, ls=style)
        panel.plot(shots, found["p95_deg"], color=colour, linestyle="--", linewidth=0.7, alpha=0.8)
    panel.set_yscale("log")
    panel.set_ylim(*LIMITS_DEG)
    panel.set_title(condition, fontsize="small")
    panel.grid(True, which="major", linewidth=0.3)
    panel.tick_params(labelsize="x-small")
