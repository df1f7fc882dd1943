"""Learning curves of several runs: interquartile means with confidence intervals, and a picture.

Runs of one configuration that differ in their seed make one curve. The interquartile mean (the mean of
the middle half of the runs) with bootstrap intervals is what Agarwal et al. 2021 (arXiv 2108.13264)
recommend for few runs. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import stats

from memrl_ctrl.errors import FileError, MissingExtraError, UnknownNameError
from memrl_ctrl.outputs import output_file
from memrl_ctrl.training.logs import METRICS, read_metrics

Floats = NDArray[np.float64]
Axis = Literal["steps", "time", "episodes"]

AXES: dict[str, tuple[str, float, str]] = {
    "steps": ("steps", 1.0, "environment steps"),
    "time": ("seconds", 1.0 / 60.0, "training time (minutes)"),
    "episodes": ("episodes", 1.0, "episodes"),
}
"""For each axis: the figure of a run, its factor, and words."""
WORDS = {
    "return": "return an episode (training)",
    "evaluation_return": "return an episode (held-out)",
    "phase_error_deg_median": "phase error of the last shot, median (deg)",
    "evaluation_phase_error_deg_median": "held-out phase error, median (deg)",
    "evaluation_phase_error_deg_p95": "held-out phase error, 95 % (deg)",
}
POINTS = 200
CONFIDENCE = 0.95
RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One configuration's curve over its runs; arrays [points]."""

    label: str
    """Name of the configuration, or of the run."""
    runs: tuple[Path, ...]
    """Run folders behind it."""
    x: Floats
    """Places, in the axis' unit."""
    runs_y: Floats
    """The figure of each run [runs, points]; NaN outside of what the run covers."""
    middle: Floats
    """Interquartile mean of the runs."""
    low: Floats | None
    """Lower bound of its 95 % confidence interval; None for a single run."""
    high: Floats | None
    """Upper bound."""

    def last(self) -> dict[str, Any]:
        """Return the last point as plain values, for JSON."""
        interval = None
        if self.low is not None and self.high is not None:
            interval = [float(self.low[-1]), float(self.high[-1])]
        return {
            "label": self.label,
            "runs": [str(run) for run in self.runs],
            "x": float(self.x[-1]),
            "interquartile_mean": float(self.middle[-1]),
            "confidence_interval_95": interval,
            "of_each_run": [float(value) for value in self.runs_y[:, -1]],
        }


def interquartile_mean(values: Floats, axis: int = 0) -> Any:
    """Mean of the middle half of values along an axis."""
    return stats.trim_mean(values, 0.25, axis=axis)


def confidence_interval(values: Floats, *, seed: int = 0) -> tuple[Floats, Floats]:
    """Bootstrap interval (95 %, percentile) of the interquartile mean over runs.

    Args:
        values: [runs, ...], two runs at least.
        seed: of the resampling.
    """
    result = stats.bootstrap(
        (values,),
        interquartile_mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        axis=0,
        random_state=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return np.asarray(low), np.asarray(high)


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run folders among some folders and directly in them.

    Raises:
        FileError: a folder is no run and holds none.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.exists():
            raise FileError(folder, "does not exist; expected a run folder, or a folder of runs")
        inside = [folder] if (folder / METRICS).is_file() else sorted(folder.glob(f"*/{METRICS}"))
        if not inside:
            raise FileError(folder, "is no run folder and holds none; `memrl-ctrl train` makes one")
        found += [place if place.is_dir() else place.parent for place in inside]
    return list(dict.fromkeys(found))


def curves(
    folders: Sequence[Path], figure: str = "return", *, x: str = "steps", smooth: int = 0
) -> list[Curve]:
    """Return the curves of runs, those of one configuration together.

    Args:
        folders: run folders, or folders of them.
        figure: what is drawn, a name in the runs' metrics.
        x: `steps`, `time` or `episodes`.
        smooth: moving average over so many of a run's points; 0: none.

    Raises:
        UnknownNameError: no run has that figure, or there is no such axis.
        FileError: a folder holds no run.
    """
    if x not in AXES:
        raise UnknownNameError("axis", x, AXES)
    groups: dict[str, list[tuple[Path, Floats]]] = {}
    known: set[str] = set()
    runs = find_runs(folders)
    labels = _labels(runs)
    for run, label in zip(runs, labels, strict=True):
        rows = read_metrics(run)
        known |= {name for row in rows for name in row}
        series = _series(rows, figure, x, smooth)
        if series.size:
            groups.setdefault(label, []).append((run, series))
    if not groups:
        raise UnknownNameError("figure", figure, sorted(known - {"steps", "seconds"}))
    return [_curve(label, group) for label, group in groups.items()]


def _series(rows: list[dict[str, float]], figure: str, x: str, smooth: int) -> Floats:
    """Return a run's points [2, points]."""
    name, factor, _ = AXES[x]
    points = [(factor * row[name], row[figure]) for row in rows if figure in row and name in row]
    if not points:
        return np.empty((2, 0))
    series = np.array(points, dtype=np.float64).T
    if smooth > 1:
        # At the ends the average is over as many as there are.
        window = np.ones(min(smooth, series.shape[1]))
        count = np.convolve(np.ones(series.shape[1]), window, mode="same")
        series[1] = np.convolve(series[1], window, mode="same") / count
    return series


def _curve(label: str, group: list[tuple[Path, Floats]]) -> Curve:
    starts, ends = zip(*((s[0, 0], s[0, -1]) for _, s in group), strict=True)
    if len(group) == 1:
        x = group[0][1][0]
    else:
        # Where all runs are, so that the mean is always over the same ones.
        x = np.linspace(max(starts), min(ends), POINTS)
        if min(ends) <= max(starts):
            x = np.array([min(ends)])
    runs_y = np.stack([np.interp(x, series[0], series[1]) for _, series in group])
    low = high = None
    if len(group) > 1:
        low, high = confidence_interval(runs_y)
    return Curve(
        label=label,
        runs=tuple(run for run, _ in group),
        x=x,
        runs_y=runs_y,
        middle=np.asarray(interquartile_mean(runs_y)),
        low=low,
        high=high,
    )


def _labels(runs: Sequence[Path]) -> list[str]:
    """Name each run after its configuration; runs of one name but other settings after their folder."""
    settings: dict[str, list[Any]] = {}
    named = []
    for run in runs:
        try:
            config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            config = None
        config = config if isinstance(config, dict) else {}
        config.pop("seed", None)
        name = str(config.get("name", run.name))
        named.append((name, config))
        if config not in settings.setdefault(name, []):
            settings[name].append(config)
    return [
        name if len(settings[name]) == 1 else f"{name} ({run.parent.name}/{run.name})"
        for (name, _), run in zip(named, runs, strict=True)
    ]


def draw_curves(drawn: Sequence[Curve], figure: str, path: Path, *, x: str = "steps") -> None:
    """Draw curves with their confidence intervals into a picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
        FileError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("plot", "matplotlib", "plot") from error
    picture = Figure(figsize=(8, 5), layout="constrained")
    axis = picture.subplots()
    for number, curve in enumerate(drawn):
        colour, count = f"C{number % 10}", len(curve.runs)
        label = curve.label if count == 1 else f"{curve.label} ({count} runs)"
        marker = "." if curve.x.size < 40 else None
        axis.plot(curve.x, curve.middle, color=colour, marker=marker, label=label)
        if curve.low is not None and curve.high is not None:
            axis.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, lw=0)
    axis.set_xlabel(AXES[x][2])
    axis.set_ylabel(WORDS.get(figure, figure.replace("_", " ")))
    if figure.endswith(("deg_median", "deg_p95")):
        axis.set_yscale("log")
    if any(len(curve.runs) > 1 for curve in drawn):
        axis.set_title(
            "interquartile mean over runs, 95 % bootstrap interval", fontsize="small", loc="left"
        )
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    with output_file(path) as partial:
        picture.savefig(partial, dpi=120)
