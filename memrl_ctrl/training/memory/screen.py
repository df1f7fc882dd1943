"""Frames of the film: world, agent's view, LSTM state now and over time, actions, value, side by side.

Everything that stays is drawn once an episode; a frame draws pictures, the state now, and what covers the
time to come. Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from memrl_ctrl.training.memory.episode import Episode
from memrl_ctrl.training.memory.panels import (
    COLOURS,
    STATE_COLOURS,
    STYLE,
    draw_actions,
    draw_secret,
    draw_state,
    draw_value,
    time_axis,
)
from memrl_ctrl.training.memory.probe import Probe
from memrl_ctrl.training.memory.space import Space
from memrl_ctrl.training.video import Frame

SIZE_INCH, DPI = (12.8, 7.2), 100
MOST_BARS = 24
"""Entries of an observation that are drawn as bars; more are a curve."""
UNITS_DOWN = 8
"""Units of a block that stand below each other in the state now."""


class Screen:
    """Draws the frames of an episode.

    Args:
        episode: which.
        space: order of the units.
        probes: what is read of the memory; the first is shown.
        title: above it.
    """

    def __init__(self, episode: Episode, space: Space, probes: Sequence[Probe], title: str) -> None:
        self._episode, self._space, self._title = episode, space, title
        self._figure = Figure(figsize=SIZE_INCH, dpi=DPI)
        self._canvas = FigureCanvasAgg(self._figure)
        self._moving: list[Artist] = []
        self._covers: list[tuple[Rectangle, Any]] = []
        self._now: list[Any] = []
        self._world: Any = None
        self._agent: Any = None
        self._bars: Any = None
        self._curve: Any = None
        self._state = space.drawn(episode.moments.state)
        with rc_context(STYLE):
            self._lay_out(probes[:1])
        self._canvas.draw()  # type: ignore[no-untyped-call]
        self._background = self._canvas.copy_from_bbox(self._figure.bbox)  # type: ignore[no-untyped-call]

    def frames(self) -> Iterator[Frame]:
        """Yield a picture of every kept step, the end the last."""
        last = max(len(self._episode.worlds), len(self._episode.agents))
        count = last or -(-self._episode.steps // self._episode.stride) + 1
        for at in range(count):
            yield self._frame(
                at, min(at * self._episode.stride, self._episode.steps), at == count - 1
            )

    def _frame(self, at: int, step: int, over: bool) -> Frame:
        episode = self._episode
        if over:
            step = episode.steps
        decision = min(step, episode.steps - 1)
        if self._world is not None:
            self._world.set_data(episode.worlds[at])
        if self._agent is not None:
            self._agent.set_data(episode.agents[at])
        elif self._bars is not None:
            for bar, height in zip(self._bars, episode.moments.observation[decision], strict=True):
                bar.set_height(height)
        elif self._curve is not None:
            self._curve.set_ydata(episode.moments.observation[decision])
        for image, part in zip(self._now, self._state, strict=True):
            image.set_data(_piled(part[:, decision]))
        for cover, line in self._covers:
            cover.set_x(decision + 0.5)
            line.set_xdata([decision, decision])
        earned = float(episode.moments.reward[:step].sum())
        words = f"the end, {episode.end_words}" if over else f"step {step}, return {earned:.4g}"
        self._text.set_text(f"{self._title}: {words}")
        self._canvas.restore_region(self._background)  # type: ignore[no-untyped-call]
        for artist in self._moving:
            self._figure.draw_artist(artist)
        pixels = np.asarray(self._canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        return np.array(pixels[..., :3])

    # --- once an episode ------------------------------------------------------------------------------

    def _keep(self, artist: Any) -> Any:
        """Remember what changes from frame to frame."""
        artist.set_animated(True)
        self._moving.append(artist)
        return artist

    def _lay_out(self, probes: Sequence[Probe]) -> None:
        episode, figure = self._episode, self._figure
        self._text = self._keep(figure.text(0.012, 0.966, "", fontsize=11.0))
        left = figure.add_gridspec(
            2,
            1,
            left=0.04,
            right=0.33,
            top=0.91,
            bottom=0.07,
            hspace=0.2,
            height_ratios=(1.25, 1.0),
        )
        if episode.worlds:
            self._world = self._picture(figure.add_subplot(left[0]), episode.worlds[0], "world")
        view = figure.add_subplot(left[1] if episode.worlds else left[:])
        if episode.agents:
            self._agent = self._picture(view, episode.agents[0], "what the agent sees")
        else:
            self._observation(view)
        rows = 4 + len(probes)
        right = figure.add_gridspec(
            rows, 1, left=0.41, right=0.985, top=0.91, bottom=0.07, hspace=0.42,
            height_ratios=(0.62, 2.0, 1.0, 1.0, *(1.0 for _ in probes)),
        )  # fmt: skip
        self._state_now(right[0])
        over_time = [figure.add_subplot(right[at]) for at in range(1, rows)]
        draw_state(over_time[0], episode, self._space)
        over_time[0].set_title("LSTM state over time")
        draw_actions(over_time[1], episode)
        draw_value(over_time[2], episode)
        for axes, probe in zip(over_time[3:], probes, strict=True):
            draw_secret(axes, episode, probe)
        for axes in over_time:
            time_axis(axes, episode, labelled=axes is over_time[-1])
            self._cover(axes)

    def _picture(self, axes: Axes, first: Frame, title: str) -> Any:
        image = axes.imshow(first)
        axes.set_title(title)
        axes.set_axis_off()
        return self._keep(image)

    def _observation(self, axes: Axes) -> None:
        """Draw an observation that is a vector: bars, or a curve where it is long."""
        seen = self._episode.moments.observation
        low, high = min(float(seen.min()), 0.0), max(float(seen.max()), 0.0)
        room = 0.05 * max(high - low, 1e-6)
        axes.set(ylim=(low - room, high + room), title="what the agent sees", xlabel="entry")
        if seen.shape[1] <= MOST_BARS:
            self._bars = axes.bar(np.arange(seen.shape[1]), seen[0], color=COLOURS[0])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            for bar in self._bars:
                self._keep(bar)
        else:
            axes.set_xlim(-0.5, seen.shape[1] - 0.5)
            self._curve = self._keep(axes.plot(seen[0], color=COLOURS[0])[0])

    def _state_now(self, place: Any) -> None:
        parts = self._state
        widths = [_piled(part[:, 0]).shape[1] for part in parts]
        grid = place.subgridspec(1, len(parts), width_ratios=widths, wspace=0.08)
        for at, (part, block) in enumerate(zip(parts, self._space.blocks, strict=True)):
            axes = self._figure.add_subplot(grid[at])
            image = axes.imshow(
                _piled(part[:, 0]), cmap=STATE_COLOURS, vmin=-1.0, vmax=1.0, aspect="auto"
            )
            axes.set_axis_off()
            axes.set_title(f"{'state now: ' if at == 0 else ''}{block.name}")
            self._now.append(self._keep(image))

    def _cover(self, axes: Axes) -> None:
        """Cover what is to come, on one of the axes over time."""
        low, high = axes.get_ylim()
        cover = Rectangle(
            (0.0, min(low, high)),
            self._episode.steps,
            abs(high - low),
            facecolor="white",
            alpha=0.72,
            linewidth=0.0,
            zorder=9,
        )
        axes.add_patch(cover)
        axes.set_ylim(low, high)
        line = axes.axvline(0.0, color="black", linewidth=0.9, zorder=10)
        self._covers.append((self._keep(cover), self._keep(line)))


def _piled(units: Any) -> Any:
    """Return units [n] as a picture of a few lines, filled up with nothing."""
    down = min(UNITS_DOWN, len(units))
    across = -(-len(units) // down)
    filled = np.full(down * across, np.nan)
    filled[: len(units)] = units
    return filled.reshape(across, down).T
