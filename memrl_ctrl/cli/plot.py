"""`memrl-ctrl plot`: learning curves of runs in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from memrl_ctrl.cli.values import JsonFile, OutputFile, Steps
from memrl_ctrl.errors import UsageError
from memrl_ctrl.outputs import STDOUT, write_json
from memrl_ctrl.terminal import Terminal


def plot(
    *runs: Path,
    figure: str = "return",
    x: Literal["steps", "time", "episodes"] = "steps",
    smooth: Steps = 0,
    out: Annotated[OutputFile, Parameter(name=["--out", "-o"])] = Path("curves.png"),
    json_: Annotated[JsonFile | None, Parameter(name="--json")] = None,
) -> None:
    """Draw the learning curves of runs over each other.

    Runs of one configuration that differ in their seed make one curve: their interquartile mean with a
    95 % bootstrap interval.

    Parameters
    ----------
    runs
        Run folders, or folders that hold some.
    figure
        What is drawn: `return`, `evaluation_return`, `phase_error_deg_median`, or any other name in
        the runs' metrics.jsonl.
    x
        Over environment steps, training time or episodes.
    smooth
        Moving average over so many points of each run.
    out
        PNG to write.
    json_
        File for the last point of each curve; `-` is standard output.
    """
    if not runs:
        raise UsageError("plot needs a run: memrl-ctrl plot runs/NAME …")
    from memrl_ctrl.training.curves import curves, draw_curves

    drawn = curves(list(runs), figure, x=x, smooth=smooth)
    draw_curves(drawn, figure, out, x=x)
    console = Terminal(highlight=False, stderr=str(json_) == STDOUT)
    table = Table(title=f"{figure} at the last point that all runs of a curve reach")
    for heading in ("curve", "runs", x, "interquartile mean", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "curve" else "right")
    for curve in drawn:
        last = curve.last()
        interval = last["confidence_interval_95"]
        table.add_row(
            escape(curve.label),
            str(len(curve.runs)),
            f"{last['x']:,.4g}" if x == "time" else f"{last['x']:,.0f}",
            f"{last['interquartile_mean']:.4g}",
            "" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}",
        )
    console.print(table)
    console.print(f"wrote {escape(str(out))}", soft_wrap=True)
    if json_ is not None:
        write_json(json_, {"figure": figure, "x": x, "curves": [curve.last() for curve in drawn]})
