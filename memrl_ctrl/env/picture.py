"""A picture of an episode: profile, potential well, and the way here. Needs matplotlib.

The axes are drawn once; a frame draws what has changed upon them, and only where something leaves its
axes are they drawn anew, with wider limits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memrl_ctrl.env.task import BeamTask
from memrl_ctrl.env.well import KnowsConditions, potential_well

# Colours that stay apart for colour-blind readers (Okabe and Ito).
NOW, MIRROR, FILLED, QUIET = "#0072B2", "#D55E00", "#56B4E9", "#666666"
SIZE_INCH, DPI = (6.4, 4.8), 100
STYLE: Any = {"font.size": 8.0, "axes.titlesize": 8.0, "legend.fontsize": 7.5, "axes.labelpad": 2.0}
LEGEND: dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 1.0),
    "ncols": 3,
    "frameon": False,
    "borderaxespad": 0.1,
    "borderpad": 0.1,
    "handlelength": 1.3,
    "handletextpad": 0.4,
    "columnspacing": 0.8,
}
"""Legends stand above their axes, where they hide nothing."""
ERROR_TICKS_DEG = (-100, -10, -1, 0, 1, 10, 100)
FIRST_SHOTS = 10.0
"""The way's axis holds that many shots at least."""
FIRST_MS = 140.0
"""Along the cycle it holds that much ctime at least, ms."""


class Picture:
    """Draws where an episode is.

    Upper left the measured profile and its mirror image; below, where a simulation knows it, the
    potential well with the level up to which it is filled; at the right the phase error and phi_hw on
    the way here, with the phi_hw of the reference optimum. What is not known on a machine is left out.

    Args:
        task: with one row.
    """

    def __init__(self, task: BeamTask) -> None:
        self._task = task
        self._figure = Figure(figsize=SIZE_INCH, dpi=DPI)
        self._canvas = FigureCanvasAgg(self._figure)
        self._way: list[tuple[float, float, float]] = []
        self._axes: dict[str, Axes] = {}
        self._artists: dict[str, Any] = {}
        # Axes whose limits are of what they show.
        self._held: set[str] = set()
        self._background: Any = None

    def begin(self) -> None:
        """Forget the last episode."""
        self._way.clear()
        self._axes.clear()

    def note(self) -> None:
        """Take the present step into the way: place, phi_hw and phase error, degrees."""
        task = self._task
        phi_hw = task.reading.applied_rad[task.rows[0]]
        error = task.phase_error_rad()[0]
        self._way.append((float(task.place()[0]), math.degrees(phi_hw), math.degrees(error)))

    def draw(self) -> NDArray[np.uint8]:
        """Return the picture [height, width, 3]."""
        if self._way:
            if not self._axes:
                with rc_context(STYLE):
                    self._lay_out()
            self._fill()
            if self._background is None:
                self._canvas.draw()  # type: ignore[no-untyped-call]
                self._background = self._canvas.copy_from_bbox(self._figure.bbox)  # type: ignore[no-untyped-call]
            self._canvas.restore_region(self._background)  # type: ignore[no-untyped-call]
            for artist in self._artists.values():
                self._figure.draw_artist(artist)
        else:
            self._figure.clear()
            self._canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(self._canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        return np.array(pixels[..., :3])

    # --- once an episode ----------------------------------------------------------------------------

    def _lay_out(self) -> None:
        """Make axes and what is drawn in them."""
        task = self._task
        known = task.reading.truth is not None
        backend = task.backend
        well = isinstance(backend, KnowsConditions) and backend.conditions() is not None
        self._figure.clear()
        self._artists.clear()
        self._held.clear()
        self._background = None
        grid = self._figure.add_gridspec(
            2, 2, left=0.075, right=0.985, top=0.895, bottom=0.085, wspace=0.2, hspace=0.32
        )
        self._axes["profile"] = self._figure.add_subplot(grid[0, 0] if well else grid[:, 0])
        if well:
            self._axes["well"] = self._figure.add_subplot(grid[1, 0])
        if known:
            self._axes["error"] = self._figure.add_subplot(grid[0, 1])
        self._axes["phi_hw"] = self._figure.add_subplot(grid[1, 1] if known else grid[:, 1])
        for axes in self._axes.values():
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=2.0, pad=2.0)
        self._bunch_axes()
        self._way_axes()
        self._keep("title", self._figure.text(0.075, 0.958, "", fontsize=9.5))

    def _keep(self, name: str, artist: Artist) -> None:
        """Remember what changes from frame to frame."""
        artist.set_animated(True)
        self._artists[name] = artist

    def _bunch_axes(self) -> None:
        profile, well = self._axes["profile"], self._axes.get("well")
        (mirror,) = profile.plot([], [], color=MIRROR, linewidth=1.0, label="mirrored")
        (now,) = profile.plot([], [], color=NOW, linewidth=1.5, label="measured")
        self._keep("mirror", mirror)
        self._keep("now", now)
        profile.set(xlim=(-180.0, 180.0), xticks=range(-180, 181, 60))
        profile.set_title("density / its mean", loc="left")
        profile.legend(**LEGEND)
        words = "RF phase from the bunch's mean [degrees]"
        if well is None:
            profile.set_xlabel(words)
            return
        (filled,) = well.fill([0.0], [0.0], color=FILLED, alpha=0.6, linewidth=0)
        (bare,) = well.plot([], [], "--", color=QUIET, linewidth=1.0, label="RF alone")
        (total,) = well.plot([], [], color=NOW, linewidth=1.5, label="RF + induced")
        for name, artist in {"filled": filled, "rf": bare, "total": total}.items():
            self._keep(name, artist)
        well.set(xlim=(-180.0, 180.0), xticks=range(-180, 181, 60), xlabel=words)
        well.set_title("potential [kV rad]", loc="left")
        well.legend(**LEGEND)

    def _way_axes(self) -> None:
        label = self._task.place_label
        start = self._way[0][0]
        span = (
            FIRST_MS if "ms" in label else float(getattr(self._task, "episode_length", FIRST_SHOTS))
        )
        phi_hw, error = self._axes["phi_hw"], self._axes.get("error")
        phi_hw.set(xlim=(start - 0.02 * span, start + 1.02 * span), xlabel=label)
        phi_hw.set_title("φ_hw [degrees]", loc="left")
        (way,) = phi_hw.plot([], [], ".-", color=NOW, linewidth=1.2, markersize=4, label="applied")
        if error is not None:
            (best,) = phi_hw.plot(
                [], [], "_--", color=MIRROR, linewidth=1.2, label="at the optimum"
            )
            self._keep("best", best)
            phi_hw.legend(**LEGEND)
            error.set_yscale("symlog", linthresh=1.0, linscale=0.6)
            error.set(xlim=phi_hw.get_xlim(), ylim=(-180.0, 180.0), yticks=ERROR_TICKS_DEG)
            error.set_yticklabels([str(tick) for tick in ERROR_TICKS_DEG])
            error.minorticks_off()
            error.set_title("phase error [degrees]", loc="left")
            error.axhline(0.0, color="#222222", linewidth=0.8)
            (line,) = error.plot([], [], ".-", color=NOW, linewidth=1.2, markersize=4)
            self._keep("error", line)
        self._keep("way", way)

    # --- every frame --------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Put the present step into what is drawn."""
        profile = self._task.observation()[0, :-1]
        phase_deg = ((np.arange(profile.size) + 0.5) / profile.size - 0.5) * 360.0
        self._artists["now"].set_data(phase_deg, profile)
        self._artists["mirror"].set_data(phase_deg, profile[::-1])
        self._hold("profile", y=(0.0, 1.1 * float(profile.max())))
        if "well" in self._axes:
            self._fill_well()
        way = np.array(self._way)
        place, phi_hw, error = way.T
        self._artists["way"].set_data(place, phi_hw)
        shown = phi_hw
        if "error" in self._axes:
            # Where the error passes half a turn it goes on at the other side: no line between.
            turns = np.flatnonzero(np.abs(np.diff(error)) > 180.0) + 1
            for line, values in (("error", error), ("best", phi_hw - error)):
                broken = np.insert(values, turns, math.nan)
                self._artists[line].set_data(np.insert(place, turns, math.nan), broken)
            shown = np.concatenate((phi_hw, (phi_hw - error)[np.isfinite(error)]))
        room = 0.05 * max(float(np.ptp(shown)), 10.0)
        self._hold("phi_hw", x=float(place[-1]), y=(shown.min() - room, shown.max() + room))
        if (
            "error" in self._axes
            and self._axes["error"].get_xlim() != self._axes["phi_hw"].get_xlim()
        ):
            self._axes["error"].set_xlim(self._axes["phi_hw"].get_xlim())
        self._artists["title"].set_text(self._title())

    def _fill_well(self) -> None:
        task = self._task
        conditions = (
            task.backend.conditions() if isinstance(task.backend, KnowsConditions) else None
        )
        well = None if conditions is None else potential_well(conditions.take(task.rows))
        if well is None:
            for name in ("total", "rf"):
                self._artists[name].set_data([], [])
            self._artists["filled"].set_xy(np.zeros((1, 2)))
            return
        self._artists["total"].set_data(well.phase_deg, well.total_kvrad)
        self._artists["rf"].set_data(well.phase_deg, well.rf_kvrad)
        floor = np.where(well.filled, well.total_kvrad, well.level_kvrad)
        edge = np.column_stack((well.phase_deg, floor))
        level = np.array([[180.0, well.level_kvrad], [-180.0, well.level_kvrad]])
        self._artists["filled"].set_xy(np.concatenate((edge, level)))
        top, low = float(well.total_kvrad.max()), float(well.rf_kvrad.min())
        self._hold("well", y=(min(low, -0.08 * top), 1.05 * top))

    def _hold(
        self, name: str, *, x: float | None = None, y: tuple[float, float] | None = None
    ) -> None:
        """Widen the limits of axes so that they hold a place and a range; never narrow them."""
        axes = self._axes[name]
        left, right = axes.get_xlim()
        if x is not None and x > right:
            axes.set_xlim(left, left + 2.0 * max(x - left, right - left))
            self._background = None
        low, high = axes.get_ylim()
        if y is None:
            return
        if name not in self._held:
            self._held.add(name)
            wanted = y
        else:
            # Wider than needed, so that the next frame may fit too.
            room = 0.3 * (max(high, y[1]) - min(low, y[0]))
            wanted = (
                low if y[0] >= low else y[0] - room,
                high if y[1] <= high else y[1] + room,
            )
        if wanted != (low, high):
            axes.set_ylim(*wanted)
            self._background = None

    def _title(self) -> str:
        task = self._task
        place, phi_hw, error = self._way[-1]
        said = f"phase error {error:+.2f}°" if math.isfinite(error) else "no reference optimum"
        if task.reading.truth is None:
            said = "phase error not known on a machine"
        name, _, unit = task.place_label.partition(" ")
        changed = round(math.degrees(task.applied[0]), 1) + 0.0
        return (
            f"{name} {place:.0f}{' ms' if unit else ''}:  {said},  "
            f"φ_hw {phi_hw:.1f}° (changed by {changed:+.1f}°)"
        )
