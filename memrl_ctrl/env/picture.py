"""A picture of an episode: the profile as it is now, and the way here. Needs matplotlib."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memrl_ctrl.env.task import BeamTask

# Two colours that stay apart for colour-blind readers (Okabe and Ito).
NOW, MIRROR = "#0072B2", "#D55E00"
SIZE_INCH, DPI = (6.4, 4.8), 100


class Picture:
    """Draws where an episode is.

    Args:
        task: with one row.
    """

    def __init__(self, task: BeamTask) -> None:
        self._task = task
        self._figure = Figure(figsize=SIZE_INCH, dpi=DPI)
        self._canvas = FigureCanvasAgg(self._figure)
        self._way: list[tuple[float, float, float]] = []

    def begin(self) -> None:
        """Forget the last episode."""
        self._way.clear()

    def note(self) -> None:
        """Take the present step into the way: place, phi_hw and phase error, degrees."""
        task = self._task
        phi_hw = task.reading.applied_rad[task.rows[0]]
        error = task.phase_error_rad()[0]
        self._way.append((float(task.place()[0]), math.degrees(phi_hw), math.degrees(error)))

    def draw(self) -> NDArray[np.uint8]:
        """Return the picture [height, width, 3]."""
        self._figure.clear()
        if self._way:
            self._panels()
        self._canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(self._canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        return np.array(pixels[..., :3])

    def _panels(self) -> None:
        task = self._task
        upper, lower = self._figure.subplots(2, 1, height_ratios=[3, 2])
        # Fixed, since working the layout out would take longer than drawing.
        self._figure.subplots_adjust(left=0.1, right=0.98, top=0.94, bottom=0.1, hspace=0.35)
        profile = task.observation()[0, :-1]
        phase_deg = ((np.arange(profile.size) + 0.5) / profile.size - 0.5) * 360.0
        upper.plot(phase_deg, profile[::-1], color=MIRROR, linewidth=1.0, label="mirrored")
        upper.plot(phase_deg, profile, color=NOW, linewidth=1.6, label="measured")
        upper.set(
            xlim=(-180.0, 180.0),
            xlabel="RF phase from the bunch's mean [degrees]",
            ylabel="line density / its mean",
        )
        upper.legend(loc="upper right", frameon=False)
        way = np.array(self._way)
        place, phi_hw, error = way[-1]
        known = np.isfinite(way[:, 2]).any()
        said = f"phase error {error:+.2f}°" if math.isfinite(error) else "no reference optimum"
        if task.reading.truth is None:
            said = "phase error not known on a machine"
        name, _, unit = task.place_label.partition(" ")
        changed = round(math.degrees(task.applied[0]), 1) + 0.0
        upper.set_title(
            f"{name} {place:.0f}{' ms' if unit else ''}:  {said},  "
            f"φ_hw {phi_hw:.1f}° (changed by {changed:+.1f}°)",
            fontsize="medium",
        )
        lower.plot(way[:, 0], way[:, 2] if known else way[:, 1], ".-", color=NOW)
        lower.set(
            xlabel=task.place_label,
            ylabel="phase error [degrees]" if known else "φ_hw [degrees]",
        )
        if known:
            lower.axhline(0.0, color="#222222", linewidth=0.8)
        for axes in (upper, lower):
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
