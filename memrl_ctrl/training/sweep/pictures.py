"""Pictures of a sweep: how it went, which parameters count, and where the good values lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from memrl_ctrl.outputs import output_file
from memrl_ctrl.training.sweep.parameters import Parameter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from memrl_ctrl.training.sweep.report import Report

DPI = 120
PALETTE = "viridis"
FADED = "0.75"
ACROSS = 3
"""Panels beside each other."""
LETTERS = 14
"""Letters of a choice that are shown."""


def draw(report: Report) -> list[Path]:
    """Draw what there is to see; nothing where matplotlib is not installed, or no trial is complete.

    Returns:
        The files, in the sweep folder.

    Raises:
        FileError: one cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return []
    if not report.ranked():
        return []
    pictures: dict[str, Callable[[Figure, Report], None]] = {"history": _history}
    if report.importances:
        pictures["importances"] = _importances
    pictures["slices"] = _slices
    if len(report.sweep.parameters) > 1:
        pictures["parallel"] = _parallel
    paths = []
    for name, fill in pictures.items():
        figure = Figure(layout="constrained")
        fill(figure, report)
        path = report.folder / f"{name}.png"
        with output_file(path) as partial:
            figure.savefig(partial, dpi=DPI)
        paths.append(path)
    return paths


def _values(trials: list[FrozenTrial]) -> list[float]:
    return [float(trial.value or 0.0) for trial in trials]


def _scale(report: Report) -> Normalize:
    from matplotlib.colors import Normalize

    values = _values(report.ranked())
    return Normalize(min(values), max(values))


def _colours(report: Report) -> Callable[[float], Any]:
    from matplotlib import colormaps

    scale, palette = _scale(report), colormaps[PALETTE]
    return lambda value: palette(float(scale(value)))


def _history(figure: Figure, report: Report) -> None:
    """Figure by trial with the best so far, and the evaluations of all trials."""
    from memrl_ctrl.training.sweep.report import value_of

    figure.set_size_inches(10, 4)
    left, right = figure.subplots(1, 2)
    metric = report.sweep.config.goal.metric
    done = [one for one in report.trials if one.state == TrialState.COMPLETE]
    early = [one for one in report.trials if one.state == TrialState.PRUNED]
    numbers, values = [one.number for one in done], _values(done)
    left.plot(numbers, values, "o", label="complete")
    if early:
        left.plot(
            [one.number for one in early],
            [value_of(one) for one in early],
            "x",
            color="0.5",
            label="ended early, last evaluation",
        )
    better = np.maximum if report.sweep.config.goal.direction == "maximize" else np.minimum
    left.step(numbers, better.accumulate(values), where="post", color="C1", label="best so far")
    left.set(xlabel="trial", ylabel=report.sweep.config.goal.words)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend(fontsize="small")
    left.grid(alpha=0.3)
    colour = _colours(report)
    for one in (*early, *done):
        points = sorted(one.intermediate_values.items())
        if points:
            complete = one.state == TrialState.COMPLETE
            shade = colour(float(one.value or 0.0)) if complete else FADED
            style = {"marker": ".", "lw": 1.2 if complete else 0.8}
            right.plot(*zip(*points, strict=True), color=shade, **style)
    right.set(xlabel="environment steps of a trial", ylabel=metric)
    right.set_title("evaluations; grey: ended early", fontsize="medium")
    right.grid(alpha=0.3)


def _importances(figure: Figure, report: Report) -> None:
    """Bars, the most important on top."""
    names, shares = zip(*reversed(report.importances.items()), strict=True)
    figure.set_size_inches(7, 1.2 + 0.35 * len(names))
    axes = figure.subplots()
    bars = axes.barh(names, shares)
    axes.bar_label(bars, [f"{100 * share:.0f} %" for share in shares], padding=3, fontsize="small")
    axes.set(xlabel="importance", xlim=(0.0, 1.12 * max(shares)))


def _places(parameter: Parameter, settings: list[Any]) -> tuple[list[float], list[str]]:
    """Return where settings stand on an axis, and what the axis is labelled with (choices)."""
    if parameter.distribution != "choice":
        return [float(one) for one in settings], []
    labels = [str(value) for value in parameter.values]
    cut = [text if len(text) <= LETTERS else text[: LETTERS - 1] + "…" for text in labels]
    return [float(labels.index(str(one))) for one in settings], cut


def _slices(figure: Figure, report: Report) -> None:
    """The figure over each parameter; late trials are dark."""
    parameters = report.sweep.parameters
    rows = math.ceil(len(parameters) / ACROSS)
    across = min(len(parameters), ACROSS)
    figure.set_size_inches(1.0 + 3.2 * across, 2.9 * rows)
    panels = figure.subplots(rows, across, squeeze=False, sharey=True).ravel()
    done = report.ranked()
    order = [one.number for one in done]
    for axes, one in zip(panels, parameters, strict=False):
        places, labels = _places(one, [report.settings(trial)[one.name] for trial in done])
        dots = axes.scatter(
            places,
            _values(done),
            c=order,
            cmap="YlGnBu",
            vmin=min(order),
            vmax=max(order),
            edgecolors="0.4",
        )
        _label(axes, one, labels)
        axes.grid(alpha=0.3)
    for axes in panels[len(parameters) :]:
        axes.set_visible(False)
    for axes in panels[::across]:
        axes.set_ylabel(report.sweep.config.goal.words)
    figure.colorbar(dots, ax=panels, label="trial")


def _label(axes: Axes, parameter: Parameter, labels: list[str]) -> None:
    axes.set_xlabel(parameter.short)
    if labels:
        axes.set_xticks(range(len(labels)), labels, rotation=30 if len(labels) > 3 else 0)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    elif parameter.log or parameter.distribution == "log-uniform":
        axes.set_xscale("log")


def _parallel(figure: Figure, report: Report) -> None:
    """A line a trial through all parameters; the best are bright and on top."""
    from matplotlib.cm import ScalarMappable

    parameters = report.sweep.parameters
    figure.set_size_inches(2.0 + 1.7 * len(parameters), 4.5)
    axes = figure.subplots()
    done = list(reversed(report.ranked()))
    heights = [_heights(one, report, done) for one in parameters]
    colour = _colours(report)
    for index, trial in enumerate(done):
        line = [column[0][index] for column in heights]
        best = index == len(done) - 1
        axes.plot(line, color=colour(float(trial.value or 0.0)), lw=3.0 if best else 1.2)
    for place, (_, ticks) in enumerate(heights):
        axes.axvline(place, color="0.3", lw=0.8)
        for height, text in ticks:
            behind = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0}
            axes.text(
                place + 0.03,
                height,
                text,
                fontsize="x-small",
                va="center",
                color="0.2",
                bbox=behind,
            )
    names = [one.short for one in parameters]
    axes.set_xticks(range(len(parameters)), names, fontsize="small")
    axes.set_xlim(-0.1, len(parameters) - 0.6)
    axes.set_yticks([])
    mappable = ScalarMappable(_scale(report), PALETTE)
    figure.colorbar(mappable, ax=axes, label=report.sweep.config.goal.words)


def _heights(
    parameter: Parameter, report: Report, trials: list[FrozenTrial]
) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the height, 0 to 1, of each trial's setting on its axis, and the axis' labels."""
    settings = [report.settings(trial)[parameter.name] for trial in trials]
    places, labels = _places(parameter, settings)
    if labels:
        top = max(1, len(labels) - 1)
        return [place / top for place in places], [
            (index / top, text) for index, text in enumerate(labels)
        ]
    low, high = (float(value) for value in parameter.extremes())
    if parameter.log:
        places, low, high = [math.log(one) for one in places], math.log(low), math.log(high)
    ticks = [low + share * (high - low) for share in (0.0, 0.5, 1.0)]
    texts = [f"{math.exp(one) if parameter.log else one:.3g}" for one in ticks]
    return [(place - low) / (high - low) for place in places], list(
        zip((0.0, 0.5, 1.0), texts, strict=True)
    )
