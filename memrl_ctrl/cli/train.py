"""`memrl-ctrl train` and `memrl-ctrl evaluate`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.several import INTERRUPTED, train_several
from memrl_ctrl.cli.values import (
    Count,
    ExistingPath,
    JsonFile,
    OutputFolder,
    Seed,
    Steps,
    options_of,
    real,
)
from memrl_ctrl.config import TrainingConfig, resolve
from memrl_ctrl.errors import MemrlError, UsageError
from memrl_ctrl.outputs import STDOUT, write_json
from memrl_ctrl.progress import report
from memrl_ctrl.registry import extra_for
from memrl_ctrl.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from memrl_ctrl.training import Evaluation, RunResult, Snapshot
    from memrl_ctrl.training.video import Video

WITHOUT_END = 10**12
"""Steps of a run that only its time limits."""
MOST_MINUTES = 60.0 * 24.0 * 365.0
"""Longest training that is taken for meant: a year."""

NAMED = ("program", "machine", "fidelity")
"""Options of the beam that the title of an evaluation names."""

Overrides = Annotated[
    list[str] | None,
    Parameter(name="--set", negative="", help="`key.sub=value`; may be given several times."),
]


def train(
    *configs: str,
    steps: Count | None = None,
    minutes: Annotated[float, real(0.0, MOST_MINUTES, above=True, unit="minutes")] | None = None,
    seed: Seed | None = None,
    seeds: str | None = None,
    jobs: Count = 1,
    out: OutputFolder | None = None,
    set_: Overrides = None,
    program: str | None = None,
    fidelity: str | None = None,
    device: str | None = None,
    resume: ExistingPath | None = None,
    json_: Annotated[JsonFile | None, Parameter(name="--json")] = None,
) -> int:
    """Train an agent; Ctrl-C or SIGTERM ends it with a checkpoint that can be used.

    Parameters
    ----------
    configs
        Name of a shipped configuration, or a YAML file; `psb` without one. Of several, each is
        trained in a process of its own.
    steps
        Environment steps to train for, those of a run to resume included; without `--minutes` this
        alone decides.
    minutes
        Wall time to train for, that of a run to resume included.
    seed
        Of everything that is drawn.
    seeds
        Several runs that differ in their seed: `0:5` for 0 to 4, or `1,4,7`.
    jobs
        Of several runs, how many at a time.
    out
        Run folder, new or empty; default `runs/<name>-<time>`. Of several runs the folder that holds
        theirs: given again, what is done is left alone and what was interrupted goes on.
    program
        Beam: draw conditions from this cycle program instead of the configuration's.
    fidelity
        Beam: fidelity of the simulation.
    device
        torch's name of a device, for example `cuda`.
    resume
        Run folder whose last checkpoint is the start; its steps and minutes count as part of the
        budget.
    json_
        File for the result; `-` is standard output.
    """
    changes: dict[str, Any] = {"seed": seed, "device": device}
    changes = {name: value for name, value in changes.items() if value is not None}
    wanted = []
    for config in configs or ("psb",):
        resolved = _with_budget(resolve(config, set_ or ()), steps, minutes)
        resolved = dataclasses.replace(resolved, **changes)
        wanted.append(_with_beam_options(resolved, program=program, fidelity=fidelity))
    console = Terminal(stderr=True, highlight=False)
    if seeds is not None or len(wanted) > 1:
        if resume is not None or (seeds is not None and seed is not None):
            raise UsageError(
                "of several runs give --seeds instead of --seed, and their --out again instead of "
                "--resume"
            )
        with extra_for("training"):
            # What is missing is said here, instead of in each run's log.
            from memrl_ctrl.training import process  # noqa: F401
        return train_several(console, wanted, seeds, jobs=jobs, out=out, json_path=json_)
    resolved = wanted[0]
    with extra_for("training"):
        from memrl_ctrl.training import train as run

        if resume is not None:
            console.print(
                f"Resuming {escape(str(resume))}; what it has trained counts: {_budget(resolved)} in all",
                soft_wrap=True,
            )
        try:
            with _progress(console) as show:
                result = run(resolved, out=out, progress=show, resume=resume)
        except MemrlError as error:
            for note in getattr(error, "__notes__", ()):
                console.print(escape(note), soft_wrap=True)
            raise
    _report(console, result, resolved)
    if json_ is not None:
        values = {**dataclasses.asdict(result), "folder": str(result.folder)}
        write_json(json_, {**values, "checkpoint": str(result.checkpoint)})
    return INTERRUPTED if result.interrupted else 0


def evaluate(
    policy: Path,
    *,
    episodes: Count | None = None,
    seed: Seed | None = None,
    program: str | None = None,
    fidelity: str | None = None,
    set_: Overrides = None,
    env: str | None = None,
    checkpoint: Steps | None = None,
    render: Path | None = None,
    json_: Annotated[JsonFile | None, Parameter(name="--json")] = None,
) -> None:
    """Judge a policy on held-out episodes; for the beam by phase error and shot.

    Parameters
    ----------
    policy
        Run folder, or ONNX file.
    episodes
        Whole episodes to play; default as the training's configuration says.
    seed
        Of the episodes; default one that training never uses.
    program
        Beam: conditions from this cycle program.
    fidelity
        Beam: fidelity of the simulation.
    set_
        `option=value` of the environment, for example `noise=0.05`, with or without
        `environment.options.` before it; may be given several times. With fidelity `tracking` also
        `macroparticles`, `turns` and `stride`.
    env
        Another environment than it was trained on.
    checkpoint
        Environment steps of the run's checkpoint; default the last.
    render
        Also film as many episodes as `--episodes` says, 2 without it: file for the video, .mp4 or .gif.
    json_
        File for the figures; `-` is standard output, the table then goes to standard error.
    """
    options = options_of(set_) | _beam_options(program, fidelity)
    with extra_for("evaluation"):
        from memrl_ctrl.training import evaluate as run

        video = None
        if render is not None:
            task: dict[str, Any] = {"seed": seed, "environment": env, "options": options}
            video = _film(policy, render, episodes=episodes, checkpoint=checkpoint, **task)
        with work_bar(Terminal(stderr=True), "tracking"):
            result = run(
                policy,
                episodes=episodes,
                seed=seed,
                environment=env,
                options=options,
                checkpoint=checkpoint,
            )
    console = Terminal(highlight=False, stderr=str(json_) == STDOUT)
    show_evaluation(console, result.as_json())
    if video is not None:
        count = "1 episode" if video.episodes == 1 else f"{video.episodes} episodes"
        pictures = f"{count}, {video.frames} pictures, {video.frames / video.fps:.0f} s"
        console.print(f"Video: {escape(str(video.path))} ({pictures})", soft_wrap=True)
    if json_ is not None:
        filmed = {} if video is None else {"video": str(video.path)}
        write_json(json_, {**_with_policy(result, policy), **filmed})


def _film(
    policy: Path, path: Path, *, episodes: int | None, checkpoint: int | None, **task: Any
) -> Video:
    """Film a policy before it is judged: what cannot be filmed is said at once."""
    from memrl_ctrl.training.evaluation import load_any, occasion_of
    from memrl_ctrl.training.video import EPISODES, check_video, film

    check_video(path)
    player = load_any(policy, checkpoint)
    occasion = occasion_of(player, episodes=episodes or EPISODES, **task)
    # Tracking reports its own, slower work.
    quiet = occasion["options"].get("fidelity") == "tracking"
    with work_bar(Terminal(stderr=True), "tracking" if quiet else "filming"):
        return film(player, path, **occasion, progress=None if quiet else report)


def show_evaluation(console: Terminal, figures: dict[str, Any]) -> None:
    """Show the figures of an evaluation as a table."""
    options = figures.get("options", {})
    given = [f"{name} {options[name]}" for name in NAMED if options.get(name) is not None]
    title = ", ".join([figures["environment"], *given, f"{figures['episodes']} held-out episodes"])
    if not figures["shots"]:
        console.print(
            f"{title}: return {figures['return_mean']:.4g} ± {figures['return_std']:.2g}, "
            f"length {figures['length_mean']:.1f}"
        )
        return
    table = Table(title=title)
    for heading in ("after shot", "median (deg)", "95 % (deg)", "within 2 deg"):
        table.add_column(heading, justify="right")
    for row in figures["shots"]:
        table.add_row(
            f"{row['shot']:.0f}",
            f"{row['median_deg']:.2f}",
            f"{row['p95_deg']:.2f}",
            f"{100 * row['share_within_2_deg']:.1f} %",
        )
    console.print(table)
    if figures["without_reference"]:
        console.print(
            f"{figures['without_reference']} conditions without a reference optimum, not counted"
        )


def _with_budget(
    config: TrainingConfig, steps: int | None, minutes: float | None
) -> TrainingConfig:
    """One given budget replaces the configuration's; two given hold both."""
    if steps is None and minutes is None:
        return config
    return dataclasses.replace(
        config, steps=steps if steps is not None else WITHOUT_END, minutes=minutes or 0.0
    )


def _budget(config: TrainingConfig) -> str:
    """Return a configuration's budget in words."""
    words = [] if config.steps == WITHOUT_END else [f"{config.steps:,} steps"]
    return " or ".join([*words, *([f"{config.minutes:g} minutes"] if config.minutes else [])])


def _beam_options(program: str | None, fidelity: str | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if program is not None:
        # A program names its machine.
        options |= {"program": program, "machine": None}
    if fidelity is not None:
        options["fidelity"] = fidelity
    return options


def _with_beam_options(
    config: TrainingConfig, *, program: str | None, fidelity: str | None
) -> TrainingConfig:
    options = _beam_options(program, fidelity)
    if not options:
        return config
    if not config.environment.id.startswith("memrl/Beam"):
        raise UsageError(
            f"--program and --fidelity are for beam tasks; {config.name!r} trains on "
            f"{config.environment.id!r}"
        )
    environment = dataclasses.replace(
        config.environment, options={**config.environment.options, **options}
    )
    return dataclasses.replace(config, environment=environment)


@contextmanager
def _progress(console: Terminal) -> Iterator[Callable[[Snapshot], None]]:
    """A progress bar in a terminal; a plain line every ten seconds elsewhere."""
    if not console.is_terminal:
        last = [-10.0]

        def line(now: Snapshot) -> None:
            if now.seconds - last[0] >= 10.0:
                last[0] = now.seconds
                console.print(f"{100 * now.fraction:3.0f} %  {_words(now)}", soft_wrap=True)

        yield line
        return
    columns: Sequence[Any] = (
        TextColumn("train"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("train", total=1.0, words="")

        def draw(now: Snapshot) -> None:
            bar.update(task, completed=now.fraction, words=escape(_words(now)))

        yield draw


def _words(now: Snapshot) -> str:
    minutes, seconds = divmod(round(now.remaining_s), 60)
    parts = [
        f"{now.steps:,} steps",
        f"{now.steps_per_s:,.0f} steps/s",
        f"{now.figures.get('updates_per_s', 0.0):.0f} updates/s",
        f"{minutes}:{seconds:02d} left",
    ]
    if "return" in now.figures:
        parts.append(f"return {now.figures['return']:.3g}")
    if "phase_error_deg_median" in now.figures:
        parts.append(f"phase error {now.figures['phase_error_deg_median']:.2f} deg")
    return "  ".join(parts)


def _report(console: Terminal, result: RunResult, config: TrainingConfig) -> None:
    """Say what was reached, where it is, and what comes next."""
    how = "Interrupted" if result.interrupted else "Solved" if result.solved else "Trained"
    console.print(
        f"{how} after {result.steps:,} steps and {result.updates:,} updates "
        f"in {result.seconds:.0f} s ({result.steps_per_s:,.0f} steps/s)."
    )
    if result.resumed is not None:
        console.print(
            f"Steps and time are those of both parts; the second went on {escape(result.resumed)}.",
            soft_wrap=True,
        )
    if result.evaluation is not None:
        show_evaluation(console, result.evaluation)
    folder = escape(str(result.folder))
    console.print(f"Run folder:  {folder}", soft_wrap=True)
    console.print(f"Checkpoint:  {escape(str(result.checkpoint))}", soft_wrap=True)
    if config.logging.tensorboard:
        console.print(f"TensorBoard: tensorboard --logdir {folder}/tensorboard", soft_wrap=True)
    console.print(f"Export:      memrl-ctrl export {folder} --out policy.onnx", soft_wrap=True)


def _with_policy(result: Evaluation, policy: Path) -> dict[str, Any]:
    return {"policy": str(policy), **result.as_json()}
