"""Where a run's figures go: lines of JSON, TensorBoard, and a picture at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

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
    """One JSON object a line, in `metrics.jsonl`."""

    def __init__(self, folder: Path) -> None:
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
    """Scalars for TensorBoard, in the folder `tensorboard`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

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


def draw_learning_curve(folder: Path) -> Path | None:
    """Draw returns and phase errors against steps; nothing where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    rows = read_metrics(folder)
    names = ("return", "phase_error_deg_median", "evaluation_phase_error_deg_median")
    labels = ("return an episode", "phase error, last shot (deg)", "the same, held out (deg)")
    shown = [
        (n, label) for n, label in zip(names, labels, strict=True) if any(n in r for r in rows)
    ]
    if not shown:
        return None
    figure = Figure(figsize=(7, 2.6 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, label) in zip(axes, shown, strict=True):
        points = [(row["steps"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if "deg" in name:
            axis.set_yscale("log")
    axes[-1].set_xlabel("environment steps")
    path = folder / CURVE
    figure.savefig(path, dpi=120)
    return path
