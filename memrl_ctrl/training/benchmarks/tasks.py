"""The table of benchmark tasks: tasks x what is seen of them x algorithms x seeds.

Each cell is a training run in a folder of its own, `FOLDER/<task>-<version>-<algorithm>-seed<n>`, as
`memrl-ctrl train` leaves it. A finished cell is kept; one that was interrupted goes on where it stood.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from memrl_ctrl.bench.report import publish
from memrl_ctrl.cli.values import Count, OutputFolder
from memrl_ctrl.config import TrainingConfig, resolve, shipped
from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.outputs import STDOUT, output_file, write_json
from memrl_ctrl.tasks import bullet
from memrl_ctrl.tasks.pomdp import PUBLISHED
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.training.curves import Curve, confidence_interval, curves, interquartile_mean
from memrl_ctrl.training.logs import METRICS, read_metrics
from memrl_ctrl.training.several import Job, plan, run_all, seeds_of

SUITES = ("meng2021",)
VERSIONS = ("full", *PUBLISHED, "position_only", "velocity_only")
"""What is seen of a task; `full` is the task itself."""
ALGORITHMS = ("td3", "td3-window", "lstm-td3", "lstm-td3-sequence")
FULL = "full"
LAST = 3
"""Evaluations that a cell's figure is the mean of: the last ones."""
COLUMNS = (
    "task",
    "version",
    "algorithm",
    "seeds",
    "mean",
    "median",
    "IQM",
    "95 % interval",
    "best",
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of the table, with its runs."""

    task: str
    """Robot's name, for example `Hopper`."""
    version: str
    algorithm: str
    jobs: tuple[Job, ...]
    """One run a seed."""

    def finished(self) -> list[Job]:
        """Return the runs that have spent their budget."""
        return [job for job in self.jobs if job.is_done()]

    def row(self) -> dict[str, Any]:
        """Return its line of the table."""
        finished = self.finished()
        scores = [score_of(job.folder) for job in finished]
        row: dict[str, Any] = {
            "task": self.task,
            "version": self.version,
            "algorithm": self.algorithm,
            "seeds": f"{len(finished)} of {len(self.jobs)}",
            "finished_seeds": [job.config.seed for job in finished],
            "returns": [last for last, _ in scores],
        }
        if scores:
            last, best = np.array(scores).T
            row |= statistics_of(last)
            row["best"] = float(np.mean(best))
        return row


def run(
    *,
    json_path: Annotated[Path | None, Parameter(parse=False)] = None,
    suite: Annotated[str, Parameter()] = "meng2021",
    tasks: Annotated[str, Parameter()] = "InvertedPendulum,InvertedDoublePendulum",
    versions: Annotated[str, Parameter()] = "full,remove_velocity",
    algorithms: Annotated[str, Parameter()] = "td3,td3-window,lstm-td3",
    seeds: Annotated[str, Parameter()] = "0:3",
    steps: Count | None = None,
    config: Annotated[str, Parameter()] = "lstm-td3-meng2021",
    out: OutputFolder = Path("runs/bench-tasks"),
    jobs: Count = 1,
    table_only: Annotated[bool, Parameter(negative="")] = False,
) -> dict[str, Any]:
    """Returns of LSTM-TD3 beside TD3 without memory on PyBullet tasks, full and partially observed.

    Parameters
    ----------
    json_path
        File for the JSON, or None.
    suite
        `meng2021`: the tasks, versions and algorithms of Meng, Gorbet and Kulić 2021.
    tasks
        Names with commas, or `all`: HalfCheetah, Ant, Hopper, Walker2D, InvertedPendulum,
        InvertedDoublePendulum, InvertedPendulumSwingup, Reacher.
    versions
        What is seen, names with commas, or `all`: full, the ten published kinds, position_only,
        velocity_only.
    algorithms
        Names with commas, or `all`: td3, td3-window (the last steps as one observation), lstm-td3,
        lstm-td3-sequence.
    seeds
        `0:3` for 0 to 2, or a list like `1,4,7`.
    steps
        Environment steps of each run; default as the configuration says.
    config
        Configuration that all cells share: name or YAML file. Task, version and algorithm replace its own.
    out
        Folder of the runs; what is finished there is kept.
    jobs
        Runs at a time.
    table_only
        Train nothing; show what there is.
    """
    if suite not in SUITES:
        raise UnknownNameError("suite", suite, SUITES)
    cells = cells_of(
        tasks=chosen("task", tasks, bullet.ROBOTS),
        versions=chosen("version", versions, VERSIONS),
        algorithms=chosen("algorithm", algorithms, ALGORITHMS),
        seeds=seeds_of(seeds),
        base=base_of(config, steps),
        out=out,
    )
    console = Terminal(stderr=True, highlight=False)
    # The first seed of every cell comes first: an early table compares everything.
    everything = sorted(
        (job for cell in cells for job in cell.jobs), key=lambda job: job.config.seed
    )
    interrupted = False
    if not table_only:
        bullet.register(cells[0].jobs[0].config.environment.id)
        with _progress(console, everything) as show:
            interrupted = run_all(everything, jobs, show)
    failed = [job for job in everything if job.state == "failed"]
    for job in failed:
        console.print(f"{job.name} failed; what it said: {job.log}", soft_wrap=True)
    rows = [cell.row() for cell in cells]
    picture = draw(cells, out / "learning_curves.png")
    result = publish(
        name="tasks",
        columns=COLUMNS,
        rows=rows,
        figures=_figures(rows),
        json_path=json_path,
        notes=_notes(cells, config, interrupted, picture),
        console=Terminal(stderr=str(json_path) == STDOUT, width=140),
    )
    write_json(out / "table.json", result)
    return result


def chosen(kind: str, text: str, known: Sequence[str]) -> list[str]:
    """Read names with commas, or `all`.

    Raises:
        UnknownNameError: a name that is not known.
    """
    if text == "all":
        return list(known)
    names = [name.strip().removesuffix("BulletEnv-v0") for name in text.split(",") if name.strip()]
    for name in names or [text]:
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return list(dict.fromkeys(names))


def base_of(config: str, steps: int | None) -> TrainingConfig:
    """Return what all cells share: whole checkpoints, evaluations along the way.

    Raises:
        UsageError: it has no evaluations along the way.
    """
    base = resolve(config)
    if steps is not None:
        base = dataclasses.replace(base, steps=steps)
    if not 0 < base.evaluation.every_steps <= base.steps:
        raise UsageError(
            f"evaluation.every_steps of {config!r} is {base.evaluation.every_steps}: the table needs "
            f"evaluations within the {base.steps:,} steps of a run"
        )
    # A run that is killed goes on exactly too.
    logging = dataclasses.replace(
        base.logging, checkpoint_replay="always", checkpoint_keep=1, tensorboard=False
    )
    return dataclasses.replace(base, logging=logging)


def cells_of(
    *,
    tasks: Sequence[str],
    versions: Sequence[str],
    algorithms: Sequence[str],
    seeds: Sequence[int],
    base: TrainingConfig,
    out: Path,
) -> list[Cell]:
    """Return the cells that were asked for, with their runs."""
    return [
        Cell(
            task=task,
            version=version,
            algorithm=algorithm,
            jobs=tuple(plan([config_of(base, task, version, algorithm)], seeds, out)),
        )
        for task in tasks
        for version in versions
        for algorithm in algorithms
    ]


def config_of(base: TrainingConfig, task: str, version: str, algorithm: str) -> TrainingConfig:
    """Return the configuration of a cell."""
    agent = base.lstm_td3
    steps = agent.history_length or 5
    sight: dict[str, Any] = {} if version == FULL else {"pomdp": version}
    if algorithm == "lstm-td3":
        agent = dataclasses.replace(
            agent, memory="window", history_length=steps, sequence_length=0, burn_in=0
        )
    elif algorithm == "lstm-td3-sequence":
        part = agent.sequence_length or 4 * steps
        batch = max(1, agent.batch_size // part) if agent.memory == "window" else agent.batch_size
        agent = dataclasses.replace(
            agent,
            memory="sequence",
            sequence_length=part,
            burn_in=agent.burn_in or steps,
            batch_size=batch,
        )
    else:
        agent = dataclasses.replace(
            agent, memory="window", history_length=0, sequence_length=0, burn_in=0
        )
        if algorithm == "td3-window":
            sight["window_observation"] = steps
    environment = dataclasses.replace(base.environment, id=f"{task}BulletEnv-v0", options=sight)
    return dataclasses.replace(
        base, name=f"{task}-{version}-{algorithm}", environment=environment, agent=agent
    )


def score_of(folder: Path) -> tuple[float, float]:
    """Return a finished run's figures: the mean of its last evaluations, and the best of all."""
    # The last step is judged once more at the end of the run.
    by_step = {
        row["steps"]: row["evaluation_return"]
        for row in read_metrics(folder)
        if "evaluation_return" in row
    }
    returns = list(by_step.values())
    return float(np.mean(returns[-LAST:])), float(np.max(returns))


def statistics_of(values: Floats) -> dict[str, Any]:
    """Return mean, median and interquartile mean over seeds [seeds], with its 95 % bootstrap interval."""
    found: dict[str, Any] = {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "IQM": float(interquartile_mean(values)),
        "interval": None,
        "95 % interval": "",
    }
    if values.size > 1:
        low, high = (float(bound) for bound in _interval(values))
        found |= {"interval": [low, high], "95 % interval": f"{low:.4g} to {high:.4g}"}
    return found


def _interval(values: Floats) -> tuple[Any, Any]:
    if np.ptp(values) == 0.0:  # nothing to resample
        return values[0], values[0]
    return confidence_interval(values)


def draw(cells: Sequence[Cell], path: Path) -> Path | None:
    """Draw held-out returns against steps, a panel for each task and version; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    begun = {
        id(cell): folders
        for cell in cells
        if (folders := [job.folder for job in cell.jobs if _has_evaluations(job.folder)])
    }
    cells = [cell for cell in cells if id(cell) in begun]
    if not cells:
        return None
    tasks, versions = ({getattr(c, what): None for c in cells} for what in ("task", "version"))
    size = (1.0 + 4.0 * len(versions), 0.6 + 2.8 * len(tasks))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(tasks), len(versions), squeeze=False)
    for cell in cells:
        panel = panels[list(tasks).index(cell.task), list(versions).index(cell.version)]
        colour = f"C{ALGORITHMS.index(cell.algorithm)}"
        for curve in curves(begun[id(cell)], "evaluation_return"):
            _draw_curve(panel, curve, cell.algorithm, colour)
        panel.set_title(f"{cell.task}, {cell.version}", fontsize="small")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="x-small")
    figure.supxlabel("environment steps", fontsize="small")
    figure.supylabel("held-out return: interquartile mean, 95 % interval", fontsize="small")
    with output_file(path) as partial:
        figure.savefig(partial, dpi=120)
    return path


def _draw_curve(panel: Any, curve: Curve, algorithm: str, colour: str) -> None:
    count = len(curve.runs)
    panel.plot(curve.x, curve.middle, color=colour, label=f"{algorithm} ({count})")
    if curve.low is not None and curve.high is not None:
        panel.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, lw=0)


def _has_evaluations(folder: Path) -> bool:
    if not (folder / METRICS).is_file():
        return False
    return any("evaluation_return" in row for row in read_metrics(folder))


def _figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the interquartile means by cell."""
    return {
        f"return_{row['task']}_{row['version']}_{row['algorithm']}": row["IQM"]
        for row in rows
        if "IQM" in row
    }


def _notes(
    cells: Sequence[Cell], config: str, interrupted: bool, picture: Path | None
) -> list[str]:
    job = cells[0].jobs[0]
    settings = job.config
    shown = config if config in shipped() else Path(config).name
    notes = [
        f"Configuration {shown}, {settings.steps:,} steps a run. Return of a run: the mean of its last "
        f"{LAST} evaluations of {settings.evaluation.episodes} held-out episodes each, without noise; best: "
        "its largest. IQM: interquartile mean over seeds.",
        f"Runs: {job.folder.parent}",
    ]
    if picture is not None:
        notes.append(f"Learning curves: {picture}")
    if interrupted:
        notes.append("Interrupted; the same command goes on.")
    return notes


@contextmanager
def _progress(console: Terminal, jobs: Sequence[Job]) -> Iterator[Any]:
    """Say what runs and what has ended, a line each time something changes."""
    before: dict[str, str] = {}

    def show(now: Sequence[Job]) -> None:
        for job in now:
            if before.get(job.name) != job.state and job.state != "waiting":
                ended = sum(j.state in ("done", "failed", "interrupted") for j in now)
                console.print(f"[{ended} of {len(now)}] {job.name}: {job.state}", markup=False)
            before[job.name] = job.state

    console.print(f"{len(jobs)} runs, {sum(job.is_done() for job in jobs)} of them done already")
    yield show
