"""Several trainings at once, as `memrl-ctrl train` shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from memrl_ctrl.config import TrainingConfig
from memrl_ctrl.outputs import write_json
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.training.several import Job, plan, run_all, seeds_of

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, by the shell's convention (128 + SIGINT)."""


def train_several(
    console: Terminal,
    configs: list[TrainingConfig],
    seeds: str | None,
    *,
    jobs: int,
    out: Path | None,
    json_path: Path | None,
) -> int:
    """Train several runs, show how they stand, and compare how they ended.

    Args:
        console: where to say so.
        configs: resolved configurations.
        seeds: as on the command line; None takes the configurations' own.
        jobs: runs at a time.
        out: folder for the run folders.
        json_path: file for the results.

    Returns:
        Exit code.
    """
    folder = out or Path("runs") / f"several-{time.strftime('%Y%m%dT%H%M%S')}"
    numbers = [configs[0].seed] if seeds is None else seeds_of(seeds)
    runs = plan(configs, numbers, folder)
    with _standing(console) as show:
        interrupted = run_all(runs, jobs, show)
    table = Table(title=f"{len(runs)} runs in {folder}")
    for heading in ("run", "how", "steps", "steps/s", "held-out"):
        table.add_column(heading, justify="left" if heading in {"run", "how"} else "right")
    for run in runs:
        result = run.result() or {}
        table.add_row(
            escape(run.name),
            run.state,
            f"{result['steps']:,}" if result else "",
            f"{result['steps_per_s']:,.0f}" if result else "",
            _held_out(result.get("evaluation")),
        )
    console.print(table)
    for run in runs:
        if run.state == "failed":
            console.print(f"{escape(run.name)} failed; why is in {escape(str(run.log))}")
    console.print(f"Compare: memrl-ctrl plot {escape(str(folder))}", soft_wrap=True)
    if json_path is not None:
        values = [
            {"run": str(run.folder), "state": run.state, "result": run.result()} for run in runs
        ]
        write_json(json_path, {"runs": values})
    if interrupted:
        return INTERRUPTED
    return 1 if any(run.state == "failed" for run in runs) else 0


def _held_out(evaluation: dict[str, Any] | None) -> str:
    """Return the figure of an evaluation that counts, in words."""
    if evaluation is None:
        return ""
    if evaluation["shots"]:
        last = evaluation["shots"][-1]
        return f"{last['median_deg']:.2f} / {last['p95_deg']:.2f} deg"
    return f"return {evaluation['return_mean']:.4g}"


@contextmanager
def _standing(console: Terminal) -> Iterator[Callable[[Sequence[Job]], None]]:
    """A bar for each run in a terminal; a plain line twice a minute elsewhere."""
    if not console.is_terminal:
        said = [time.monotonic()]

        def line(runs: Sequence[Job]) -> None:
            if time.monotonic() - said[0] >= 30.0:
                said[0] = time.monotonic()
                going = ", ".join(
                    f"{run.name} {100 * run.fraction():.0f} %"
                    for run in runs
                    if run.state == "running"
                )
                done = sum(run.state == "done" for run in runs)
                console.print(f"{done} of {len(runs)} done; {escape(going)}", soft_wrap=True)

        yield line
        return
    columns: Sequence[Any] = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: list[TaskID] = []

        def draw(runs: Sequence[Job]) -> None:
            if not tasks:
                tasks.extend(
                    bars.add_task(escape(run.name), total=1.0, state="", start=False)
                    for run in runs
                )
            for task, run in zip(tasks, runs, strict=True):
                if run.state != "waiting":
                    bars.start_task(task)
                bars.update(task, completed=run.fraction(), state=run.state)

        yield draw
