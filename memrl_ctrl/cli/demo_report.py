"""What the demo measures: score with the truth, table and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from memrl_ctrl.outputs import output_file
from memrl_ctrl.policy.runner import OnnxPolicy
from memrl_ctrl.trace import TraceReader
from memrl_ctrl.trace.plot import draw_error, draw_waterfall, next_to
from memrl_ctrl.trace.truth import truth_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

SETTLED_CYCLES = 10
"""The phase error afterwards is that of the last so many cycles."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """What came out, and what the pictures are drawn from."""

    error_deg: FloatArray
    """Absolute phase error [cycles, points], degrees; NaN where there is no reference."""
    reference_hw_deg: FloatArray
    """The phase function that would have been right in the last cycle [points], degrees."""
    ctime_ms: FloatArray
    """Control points [points]."""
    applied_deg: FloatArray
    """phi_hw that was applied [cycles, points], degrees."""
    profile: NDArray[np.float32]
    """Measured profiles [cycles, points, n_slices]."""
    learning: list[dict[str, Any]]
    """Rows of the training's metrics."""
    train_seconds: float
    """Wall time of acting and learning, s, as the training measured it."""
    steps_per_s: float
    """Environment steps a second, training included."""
    evaluation: list[dict[str, float]]
    """Phase error by shot on the training's held-out episodes."""
    parity_max_abs_diff: float
    """Largest difference between torch and onnxruntime, as exported."""
    replay_identical: bool
    """Whether the replay repeated every action bit for bit."""

    @property
    def before(self) -> FloatArray:
        """Errors in the first cycle, before the policy wrote anything."""
        return np.asarray(self.error_deg[0], dtype=np.float64)

    @property
    def after(self) -> FloatArray:
        """Errors in the last cycles."""
        return self.error_deg[-SETTLED_CYCLES:]

    @property
    def shrink(self) -> float:
        """Factor by which the median error shrank."""
        return float(np.nanmedian(self.before) / np.nanmedian(self.after))

    def as_json(self) -> dict[str, Any]:
        """Return the figures for `report.json`."""
        return {
            "phase_error_deg": {
                "before": _quantiles(self.before),
                "after": _quantiles(self.after),
            },
            "train_seconds": self.train_seconds,
            "train_steps_per_s": self.steps_per_s,
            "parity_max_abs_diff": self.parity_max_abs_diff,
            "cycles": int(self.error_deg.shape[0]),
            "points": int(self.error_deg.shape[1]),
            "points_without_reference": int(np.isnan(self.error_deg[-1]).sum()),
            "settled_cycles": SETTLED_CYCLES,
            "replay_identical": self.replay_identical,
            "evaluation_shots": self.evaluation,
        }


def _quantiles(error_deg: FloatArray) -> dict[str, float]:
    return {
        "median": float(np.nanmedian(error_deg)),
        "p95": float(np.nanpercentile(error_deg, 95)),
    }


def score(
    *,
    run: Path,
    policy: Path,
    truth: Path,
    trace: Path,
    replay_identical: bool,
) -> Score:
    """Put the recorded cycles beside what the machine process alone knew of them."""
    reader = TraceReader(trace)
    known = truth_of(reader, truth)
    applied = np.degrees(reader.array("applied_rad"))
    learning = _lines(run / "metrics.jsonl")
    ctime = reader.header.machine.ctime_ms
    training = json.loads((run / "result.json").read_text())
    parity = OnnxPolicy.load(policy).manifest.parity_max_abs_diff
    return Score(
        error_deg=np.abs(np.degrees(known.phase_error_rad)),
        reference_hw_deg=np.degrees(known.reference_hw_rad[-1]),
        ctime_ms=np.arange(applied.shape[1], dtype=np.float64) if ctime is None else ctime,
        applied_deg=applied,
        profile=reader.array("profile"),
        learning=learning,
        train_seconds=training["seconds"],
        steps_per_s=training["steps_per_s"],
        evaluation=(training["evaluation"] or {}).get("shots", []),
        parity_max_abs_diff=float("nan") if parity is None else parity,
        replay_identical=replay_identical,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def show(result: Score, console: Console, files: Sequence[Path]) -> None:
    """Print the table."""
    table = Table(title="The machine's phase error, with the truth that only its process knew")
    table.add_column("")
    table.add_column("median", justify="right")
    table.add_column("95th percentile", justify="right")
    for title, values in (("before", result.before), ("after", result.after)):
        figures = _quantiles(values)
        table.add_row(title, f"{figures['median']:.2f}°", f"{figures['p95']:.2f}°")
    console.print(table)
    facts = Table(show_header=False)
    facts.add_row("training", f"{result.train_seconds:.0f} s, {result.steps_per_s:,.0f} steps/s")
    facts.add_row("torch against ONNX", f"largest difference {result.parity_max_abs_diff:.1e}")
    cycles, points = result.error_deg.shape
    without = int(np.isnan(result.error_deg[-1]).sum())
    facts.add_row("cycles", f"{cycles}, each of {points} control points")
    if without:
        facts.add_row("not scored", f"{without} points that have no reference optimum")
    facts.add_row("replay", "identical" if result.replay_identical else "DIFFERENT")
    console.print(facts)
    for path in files:
        console.print(f"  {path}", highlight=False)


def draw(result: Score, out: Path) -> list[Path]:
    """Draw the pictures and return their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    made = []
    for name, painter, size in (
        ("learning_curve", _learning_curve, (7.0, 4.0)),
        ("phase_function", _phase_function, (7.0, 4.0)),
        ("phase_error", _phase_error, (7.0, 4.0)),
    ):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        painter(result, axes)
        made.append(out / f"{name}.png")
        _save(figure, made[-1])
        plt.close(figure)
    figure, pair = plt.subplots(1, 2, figsize=(9.0, 6.0), sharey=True, layout="constrained")
    for axes, cycle, title in ((pair[0], 0, "before"), (pair[1], -1, "after")):
        profiles = np.asarray(result.profile[cycle], dtype=np.float64)
        draw_waterfall(axes, result.ctime_ms, profiles, profiles.max())
        axes.set_title(f"Profiles through the cycle, {title}")
    pair[0].set_ylabel("ctime [ms]")
    made.append(out / "profiles.png")
    _save(figure, made[-1])
    plt.close(figure)
    return made


def _save(figure: Figure, path: Path) -> None:
    with output_file(path) as partial:
        figure.savefig(partial, dpi=120)


def _learning_curve(result: Score, axes: Axes) -> None:
    rows = [row for row in result.learning if row.get("phase_error_deg_median") is not None]
    seconds = [row["seconds"] for row in rows]
    axes.semilogy(seconds, [row["phase_error_deg_median"] for row in rows], label="median")
    axes.semilogy(seconds, [row["phase_error_deg_p95"] for row in rows], label="95th percentile")
    if result.evaluation and seconds:
        last = result.evaluation[-1]
        for key, colour in (("median_deg", "C0"), ("p95_deg", "C1")):
            axes.plot(seconds[-1], last[key], "*", ms=12, color=colour)
        axes.plot([], [], "k*", ms=8, label="held-out episodes, without noise in the action")
    axes.set_xlabel("training time [s]")
    axes.set_ylabel("phase error after the last shot [degrees]")
    axes.set_title("Learning curve (training episodes, with exploration noise)")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()


def _phase_function(result: Score, axes: Axes) -> None:
    reference = next_to(result.reference_hw_deg, result.applied_deg[-1])
    axes.plot(result.ctime_ms, result.applied_deg[0], "o--", ms=3, label="before")
    axes.plot(result.ctime_ms, reference, "k-", lw=3, alpha=0.4, label="reference")
    axes.plot(result.ctime_ms, result.applied_deg[-1], "o-", ms=3, label="after")
    axes.set_xlabel("ctime [ms]")
    axes.set_ylabel("phi_hw [degrees]")
    axes.margins(y=0.1)
    axes.set_title("Phase function of the second harmonic")
    axes.grid(True, alpha=0.3)
    axes.legend()


def _phase_error(result: Score, axes: Axes) -> None:
    draw_error(axes, result.error_deg)
    axes.set_title("Phase error on the machine")
