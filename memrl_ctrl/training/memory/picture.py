"""Pictures of an episode and of the probes. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memrl_ctrl.outputs import output_file
from memrl_ctrl.training.memory.episode import Episode
from memrl_ctrl.training.memory.panels import (
    COLOURS,
    QUIET,
    STYLE,
    draw_actions,
    draw_path,
    draw_secret,
    draw_state,
    draw_value,
    legend,
    time_axis,
)
from memrl_ctrl.training.memory.probe import Probe
from memrl_ctrl.training.memory.recording import Moments
from memrl_ctrl.training.memory.space import Space

Floats = NDArray[np.float64]
DPI = 120
MOST_SECRETS = 2
"""Secrets that are drawn over time."""
SHEET = (6, 4)
"""Pictures of a contact sheet: columns and rows at most."""
MOST_POINTS = 4_000
LOWEST_SCORE = -0.1
"""Scores below are not worse than useless in a way that matters: axes end here."""


def draw_episode(
    path: Path,
    episode: Episode,
    space: Space,
    *,
    probes: Sequence[Probe],
    title: str,
    cloud: Floats,
) -> None:
    """Draw state, components, actions, value and secrets of an episode.

    Args:
        path: PNG.
        episode: which.
        space: order of units and components.
        probes: what is read of the memory.
        title: above it.
        cloud: states of other episodes in the plane of the components [samples, 2].

    Raises:
        FileError: it cannot be written.
    """
    shown = list(probes)[:MOST_SECRETS]
    with rc_context(STYLE):
        figure = Figure(figsize=(13.0, 9.6), dpi=DPI, layout="constrained")
        figure.suptitle(f"{title}: {episode.end_words}", x=0.01, ha="left", fontsize=11.0)
        lower = 2 + len(shown)
        grid = figure.add_gridspec(
            2, 2, height_ratios=(1.0, 0.36 * lower + 0.1), width_ratios=(1.0, 1.25)
        )
        heat = figure.add_subplot(grid[0, :])
        image = draw_state(heat, episode, space)
        heat.set_title("LSTM state over time; units that vary alike are neighbours")
        time_axis(heat, episode, labelled=True)
        bar = figure.colorbar(image, ax=heat, pad=0.01, fraction=0.02)
        bar.set_label("share of the size at the left")
        way = figure.add_subplot(grid[1, 0])
        points = draw_path(way, episode, space, cloud)
        figure.colorbar(points, ax=way, pad=0.01, fraction=0.04, label="step")
        right = grid[1, 1].subgridspec(lower, 1)
        axes = [figure.add_subplot(right[at]) for at in range(lower)]
        draw_actions(axes[0], episode)
        draw_value(axes[1], episode)
        for at, probe in enumerate(shown):
            draw_secret(axes[2 + at], episode, probe)
        for one in axes:
            time_axis(one, episode, labelled=one is axes[-1])
        with output_file(path) as partial:
            figure.savefig(partial)


def draw_sheet(path: Path, episode: Episode, title: str) -> None:
    """Draw a contact sheet: the world, and below it what the agent saw, at evenly chosen steps.

    Raises:
        FileError: it cannot be written.
    """
    pictures = episode.worlds or episode.agents
    chosen = np.unique(np.linspace(0, len(pictures) - 1, SHEET[0] * SHEET[1]).round().astype(int))
    rows = -(-len(chosen) // SHEET[0])
    columns = -(-len(chosen) // rows)
    both = bool(episode.worlds and episode.agents)
    height, width = pictures[0].shape[:2]
    tall = height / width + (0.62 if both else 0.0)
    with rc_context(STYLE):
        figure = Figure(
            figsize=(2.1 * columns, 2.1 * rows * (tall + 0.13) + 0.4), dpi=DPI, layout="constrained"
        )
        figure.suptitle(f"{title}: {episode.end_words}", x=0.01, ha="left", fontsize=10.0)
        grid = figure.add_gridspec(rows, columns)
        for place, at in enumerate(chosen):
            cell = grid[place // columns, place % columns]
            parts = cell.subgridspec(
                2 if both else 1, 1, height_ratios=(height / width, 0.55)[: 1 + both]
            )
            step = min(int(at) * episode.stride, episode.steps)
            top = figure.add_subplot(parts[0])
            top.imshow(pictures[at])
            top.set_title("end" if at == len(pictures) - 1 else f"step {step}", fontsize=8.0)
            top.set_axis_off()
            if both:
                below = figure.add_subplot(parts[1])
                below.imshow(episode.agents[at])
                below.set_axis_off()
        with output_file(path) as partial:
            figure.savefig(partial)


def draw_probes(
    path: Path, probes: Sequence[Probe], moments: Moments, space: Space, title: str
) -> None:
    """Draw how well each secret is read against the time since it was seen, and where it lies in the plane.

    Args:
        path: PNG.
        probes: one at least.
        moments: many decisions.
        space: of the components.
        title: above it.

    Raises:
        FileError: it cannot be written.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11.5, 3.4 * len(probes) + 0.4), dpi=DPI, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.0)
        axes = figure.subplots(len(probes), 2, squeeze=False, width_ratios=(1.4, 1.0))
        for (left, right), probe in zip(axes, probes, strict=True):
            _draw_scores(left, probe)
            _draw_plane(figure, right, probe, moments, space)
        with output_file(path) as partial:
            figure.savefig(partial)


def _draw_scores(axes: Axes, probe: Probe) -> None:
    lags = np.array([np.sqrt((row.first + 1) * (row.last + 1)) - 1 for row in probe.by_lag])
    lines = (
        ("memory", "memory", COLOURS[0], "o-"),
        ("observation", "present observation alone", COLOURS[1], "s-"),
        ("chance", "chance", QUIET, "--"),
    )
    for name, words, colour, kind in lines:
        scores = np.maximum([getattr(row, name) for row in probe.by_lag], LOWEST_SCORE)
        axes.plot(lags, scores, kind, color=colour, label=words, markersize=4.5)
        if probe.before is not None:
            score = max(getattr(probe.before, name), LOWEST_SCORE)
            axes.plot([-1.0], [score], kind[0].replace("-", "_"), color=colour, markersize=5.5)
    far = max((row.last for row in probe.by_lag), default=0)
    if far > 40:
        axes.set_xscale("symlog", linthresh=4.0)
    axes.xaxis.set_major_formatter(lambda lag, _: f"{lag:g}" if lag >= 0.0 else "")
    if probe.before is not None:
        axes.axvline(-0.5, color=QUIET, linewidth=0.6, linestyle=":")
        axes.text(-0.93, 0.02, "never seen", rotation=90, fontsize=7.5, color=QUIET,
                  transform=axes.get_xaxis_transform(), ha="left", va="bottom")  # fmt: skip
    low = 0.0 if probe.secret.kind == "class" else LOWEST_SCORE
    axes.set(ylim=(low - 0.02, 1.04), ylabel=probe.score_words, xlabel=probe.secret.since)
    axes.grid(alpha=0.3)
    axes.set_title(probe.secret.name)
    legend(axes)


def _draw_plane(figure: Figure, axes: Axes, probe: Probe, moments: Moments, space: Space) -> None:
    secret = probe.secret
    hidden, lag = moments.hidden[:, probe.column], moments.lag[:, probe.column]
    chosen = np.flatnonzero(np.isfinite(hidden) & (lag >= 0))
    chosen = chosen[:: -(-len(chosen) // MOST_POINTS)]
    places, values = space.plane(moments.state[chosen]), hidden[chosen]
    if secret.kind == "class":
        for at, name in enumerate(secret.classes):
            axes.plot(*places[values == at].T, ".", color=COLOURS[at], label=name, markersize=3.0)
        legend(axes)
    else:
        angle = secret.kind == "angle"
        points = axes.scatter(
            places[:, 0],
            places[:, 1],
            c=np.degrees(values) if angle else values,
            cmap="twilight" if angle else "viridis",
            s=4.0,
            linewidths=0.0,
        )
        figure.colorbar(points, ax=axes, pad=0.01, label="deg" if angle else secret.unit)
    axes.set(xlabel="component 1", ylabel="component 2")
    axes.set_title("state of the actor, coloured by it")
