"""Where a run's figures go: lines of JSON, TensorBoard, and a picture at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from memrl_ctrl.outputs import output_file, write_output

METRICS = "metrics.jsonl"
CURVE = "learning_curve.png"


class Logger(Protocol):
    """Takes figures while a run goes on."""

    def log(self, steps: int, figures: Mapping[str, float]) -> None:
        """Keep figures of a moment.

        Args:
            steps: environment steps so far.
            figures: name and value; NaN is left out.
        """
        ...

    def close(self) -> None:
        """Write what is pending."""
        ...


class JsonLines:
    """One JSON object a line, in `metrics.jsonl`.

    Args:
        folder: the run folder.
        after: steps that a run to go on with has done; what it logged behind them is dropped.
    """

    def __init__(self, folder: Path, *, after: int = 0) -> None:
        path = folder / METRICS
        if path.exists():
            kept = [row for row in read_metrics(folder) if row["steps"] <= after]
            write_output(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = (folder / METRICS).open("a", encoding="utf-8")

    def log(self, steps: int, figures: Mapping[str, float]) -> None:
        """See `Logger`."""
        finite = {name: float(f"{v:.7g}") for name, v in figures.items() if math.isfinite(v)}
        self._file.write(json.dumps({"steps": steps, **finite}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See `Logger`."""
        self._file.close()


class TensorBoard:
    """Scalars for TensorBoard, in the folder `tensorboard`.

    Args:
        folder: the run folder.
        after: steps that a run to go on with has done; what it logged behind them is not shown.
    """

    def __init__(self, folder: Path, *, after: int = 0) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(
            str(folder / "tensorboard"), purge_step=after + 1 if after else None
        )

    def log(self, steps: int, figures: Mapping[str, float]) -> None:
        """See `Logger`."""
        for name, value in figures.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, steps)

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics; a last line that was cut short is left out."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


PANELS = (
    ("return", "evaluation_return", "return an episode"),
    ("phase_error_deg_median", "evaluation_phase_error_deg_median", "phase error, last shot (deg)"),
)
"""Panels of the learning curve: figure of training, the same on held-out episodes, words."""


def draw_learning_curve(folder: Path) -> Path | None:
    """Draw returns and phase errors against steps; nothing where matplotlib is not installed.

    What held-out episodes gave, without noise in the action, stands as stars beside the training's line.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    rows = read_metrics(folder)
    curves = [
        (_points(rows, trained), _points(rows, judged), label) for trained, judged, label in PANELS
    ]
    shown = [curve for curve in curves if curve[0] or curve[1]]
    if not shown:
        return None
    figure = Figure(figsize=(7, 2.6 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (trained, judged, label) in zip(axes, shown, strict=True):
        if trained:
            marker = "." if len(trained) < 40 else None
            axis.plot(
                *zip(*trained, strict=True), marker=marker, label="training, with exploration"
            )
        if judged:
            axis.plot(*zip(*judged, strict=True), "*", ms=11, color="C1", label="held-out episodes")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if "deg" in label:
            axis.set_yscale("log")
    axes[0].legend(fontsize="small")
    axes[-1].set_xlabel("environment steps")
    path = folder / CURVE
    with output_file(path) as partial:
        figure.savefig(partial, dpi=120)
    return path


def _points(rows: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    return [(row["steps"], row[name]) for row in rows if name in row]
