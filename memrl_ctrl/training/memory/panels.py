"""Parts of the pictures: state, actions, value, secrets, each over the steps of an episode.

Needs matplotlib.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from memrl_ctrl.training.memory.episode import Episode
from memrl_ctrl.training.memory.probe import Probe
from memrl_ctrl.training.memory.space import Space

Floats = NDArray[np.float64]

# Colours that stay apart for colour-blind readers (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
QUIET, SEEN = "#888888", "#FFF2B3"
STATE_COLOURS = "RdBu_r"
STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.0,
    "legend.borderaxespad": 0.0,
}
MOST_LEGEND = 8
MANY_STEPS = 60
"""Of longer episodes single steps are not marked."""


def time_axis(axes: Axes, episode: Episode, *, labelled: bool) -> None:
    """Let an axis run over the steps of an episode."""
    axes.set_xlim(-0.5, episode.steps - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if labelled:
        axes.set_xlabel("step")
    else:
        axes.tick_params(labelbottom=False)


def legend(axes: Axes) -> None:
    """Put a legend above an axis, at the right, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[:MOST_LEGEND],
        labels[:MOST_LEGEND],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.01),
        ncols=MOST_LEGEND,
    )


def draw_state(axes: Axes, episode: Episode, space: Space) -> Any:
    """Draw all units over time, blocks below each other; return the image."""
    parts = space.drawn(episode.moments.state)
    units = sum(len(part) for part in parts)
    image = axes.imshow(
        np.concatenate(parts),
        aspect="auto",
        cmap=STATE_COLOURS,
        vmin=-1.0,
        vmax=1.0,
        interpolation="nearest",
        extent=(-0.5, episode.steps - 0.5, units, 0.0),
    )
    ends = np.cumsum([0, *(len(part) for part in parts)])
    for edge in ends[1:-1]:
        axes.axhline(edge, color="white", linewidth=2.0)
    labels = [
        f"{block.name}\n±{size:.2g}" for block, size in zip(space.blocks, space.scale, strict=True)
    ]
    axes.set_yticks(0.5 * (ends[1:] + ends[:-1]), labels)
    axes.tick_params(axis="y", length=0.0)
    axes.spines[["left", "bottom"]].set_visible(False)
    return image


def draw_actions(axes: Axes, episode: Episode) -> None:
    """Draw the probabilities of choices, or the action with its spread."""
    m, steps = episode.moments, episode.moments.step
    if m.probabilities is not None:
        for at, word in enumerate(episode.words):
            share = m.probabilities[:, at]
            axes.plot(steps, share, color=COLOURS[at % len(COLOURS)], label=word, **_marks(episode))
        axes.set(ylim=(-0.04, 1.04))
        axes.set_title("probability of actions")
    else:
        for at in range(episode.acted.shape[1]):
            colour, values = COLOURS[at % len(COLOURS)], episode.acted[:, at]
            word = episode.words[at] if at < len(episode.words) else f"action {at + 1}"
            axes.plot(steps, values, color=colour, label=word, **_marks(episode))
            if episode.spread is not None:
                width = episode.spread[at]
                axes.fill_between(
                    steps, values - width, values + width, color=colour, alpha=0.2, linewidth=0.0
                )
        spread = " ± its spread while it learns" if episode.spread is not None else ""
        axes.set_title(f"action{spread}")
    legend(axes)


def draw_value(axes: Axes, episode: Episode) -> None:
    """Draw the value, and the rewards as bars."""
    m, steps = episode.moments, episode.moments.step
    axes.bar(steps, m.reward, width=1.0, color=QUIET, alpha=0.45, label="reward")
    title = "reward"
    if m.value is not None:
        axes.plot(steps, m.value, color=COLOURS[0], label=episode.value_words, **_marks(episode))
        title = f"{episode.value_words}, and reward"
        legend(axes)
    axes.set_title(title)


def draw_secret(axes: Axes, episode: Episode, probe: Probe) -> None:
    """Draw a secret, and what a probe reads of it in the memory; in sight it stands on yellow."""
    m, steps, secret = episode.moments, episode.moments.step, probe.secret
    hidden, lag = m.hidden[:, probe.column], m.lag[:, probe.column]
    said = probe.decode(m.state)
    if secret.shown is not None:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], lag == 0, [0]])))
        for first, behind in edges.reshape(-1, 2):
            axes.axvspan(first - 0.5, behind - 0.5, color=SEEN, linewidth=0.0, zorder=0)
        axes.fill_between([], [], color=SEEN, label="in sight")
    if secret.kind == "class":
        for at, name in enumerate(secret.classes):
            axes.plot(steps, said[:, at], color=COLOURS[at], label=name, **_marks(episode))
        known = hidden[np.isfinite(hidden)]
        # A word of the user's own label may be new.
        names = dict(enumerate(secret.classes))
        truth = names.get(int(known[-1]), "unknown") if known.size else "unknown"
        axes.set(ylim=(-0.04, 1.04))
        axes.set_title(f"memory says: {secret.name} (it is: {truth})")
    else:
        turn = np.degrees if secret.kind == "angle" else np.asarray
        unit = "deg" if secret.kind == "angle" else secret.unit
        marks: dict[str, Any] = (
            {"linestyle": "none", "marker": "."} if secret.kind == "angle" else {}
        )
        axes.plot(
            steps, turn(hidden), color="black", label="truth", **(marks or {"linewidth": 1.0})
        )
        axes.plot(
            steps,
            turn(said[:, 0]),
            color=COLOURS[1],
            label="memory says",
            **(marks or {"linewidth": 1.2}),
        )
        if secret.kind == "angle":
            axes.set(ylim=(-190.0, 190.0), yticks=(-180, -90, 0, 90, 180))
        else:
            low, high = probe.span
            room = 0.08 * (high - low)
            axes.set(ylim=(low - room, high + room))
        axes.set_title(f"{secret.name} ({unit})" if unit else secret.name)
    legend(axes)


def draw_path(axes: Axes, episode: Episode, space: Space, cloud: Floats | None) -> Any:
    """Draw the state's way in the plane of the two leading components; return what is coloured by time.

    Args:
        axes: where.
        episode: whose.
        space: of the components.
        cloud: states of other episodes in that plane [samples, 2].
    """
    way = space.plane(episode.moments.state)
    if cloud is not None:
        axes.plot(*cloud.T, ".", color="#D8D8D8", markersize=3.0, zorder=0, label="others")
    short = episode.steps <= MANY_STEPS
    axes.plot(*way.T, color=QUIET, linewidth=0.9 if short else 0.25, zorder=1)
    points = axes.scatter(
        way[:, 0],
        way[:, 1],
        c=episode.moments.step,
        cmap="viridis",
        s=22.0 if short else 9.0,
        zorder=2,
        linewidths=0.0,
    )
    for at, marker, word in ((0, "o", "start"), (-1, "s", "end")):
        axes.scatter(
            way[at, 0], way[at, 1], marker=marker, s=80.0, facecolors="none", edgecolors="black",
            linewidths=1.6, zorder=3, label=word,
        )  # fmt: skip
    first, second = (100.0 * share for share in space.explained)
    axes.set_xlabel(f"component 1 ({first:.0f} % of the variance)")
    axes.set_ylabel(f"component 2 ({second:.0f} %)")
    axes.set_title("state of the actor, two leading components")
    legend(axes)
    return points


def _marks(episode: Episode) -> dict[str, Any]:
    """Lines of short episodes show their steps."""
    if episode.steps <= MANY_STEPS:
        return {"marker": ".", "markersize": 5.0, "linewidth": 1.2}
    return {"linewidth": 1.0}
