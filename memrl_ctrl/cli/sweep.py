"""`memrl-ctrl sweep`: which settings train best?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from memrl_ctrl import registry
from memrl_ctrl.cli.several import INTERRUPTED
from memrl_ctrl.cli.sweep_view import standing_shown
from memrl_ctrl.cli.train import MOST_MINUTES
from memrl_ctrl.cli.values import Count, JsonFile, OutputFolder, real
from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.outputs import STDOUT, write_json
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.training.several import seeds_of
from memrl_ctrl.training.sweep.words import shown

if TYPE_CHECKING:
    from memrl_ctrl.training.sweep.report import Report
    from memrl_ctrl.training.sweep.running import End, Standing

FAILED = 1
SHOWN = 5
"""Trials in the table at the end; the report has more."""


def sweep(
    file: str,
    *,
    out: OutputFolder | None = None,
    base: str | None = None,
    trials: Count | None = None,
    steps: Count | None = None,
    seeds: str | None = None,
    minutes: Annotated[float, real(0.0, MOST_MINUTES, above=True, unit="minutes")] | None = None,
    workers: Count = 1,
    devices: str | None = None,
    set_: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            negative="",
            help="`key.sub=value` of the base; may be given several times.",
        ),
    ] = None,
    storage: str | None = None,
    retry_failed: Annotated[bool, Parameter(negative="")] = False,
    report_only: Annotated[bool, Parameter(negative="")] = False,
    json_: Annotated[JsonFile | None, Parameter(name="--json")] = None,
) -> int:
    """Try settings of a training, and say which are best; the same command again goes on.

    Ctrl-C ends it with checkpoints. Finished trials are kept, also when it is killed; what was cut off
    goes on from its last checkpoint.

    Parameters
    ----------
    file
        Name of a shipped sweep, a YAML file (also one of Weights & Biases), or a sweep folder.
    out
        Sweep folder; default `sweeps/<name>`.
    base
        Configuration that trials begin with, instead of the file's.
    trials
        How many in all, those of earlier parts included.
    steps
        Environment steps of each training.
    seeds
        Of each trial, whose figure is their mean: `0:3` for 0 to 2, or `1,4,7`.
    minutes
        Wall time after which the sweep ends, that of earlier parts included.
    workers
        Trainings at a time.
    devices
        CUDA devices that workers are spread over: `0,1`.
    storage
        Address of another data base than the folder's own SQLite, as SQLAlchemy takes it.
    retry_failed
        Try trials again that failed.
    report_only
        Train nothing; write the report of what there is.
    json_
        File for the report's figures; `-` is standard output, tables then go to standard error.
    """
    try:
        from memrl_ctrl.training.sweep.reading import read_sweep
        from memrl_ctrl.training.sweep.report import make_report, write_report
    except ModuleNotFoundError as error:
        raise registry.missing_extra("sweep", error) from error

    console = Terminal(stderr=True, highlight=False)
    what = read_sweep(
        file,
        base=base,
        overrides=set_ or (),
        trials=trials,
        steps=steps,
        seeds=None if seeds is None else seeds_of(seeds),
        minutes=minutes,
    )
    for note in what.notes:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    folder = out or _folder_of(file, what.config.name)
    end: End = "done"
    if report_only:
        if not folder.is_dir():
            raise FileError(folder, "is no sweep folder; give it with --out")
    else:
        try:
            # What is missing is said here, instead of in each trial's log.
            from memrl_ctrl.training import process
            from memrl_ctrl.training.sweep.running import run_sweep
        except ModuleNotFoundError as error:
            raise registry.missing_extra("training", error) from error
        cards = () if devices is None else cuda_devices(devices, process.cuda_count())
        with standing_shown(console) as show:
            standing, end = run_sweep(
                what,
                folder,
                workers=workers,
                devices=cards,
                storage=storage,
                retry_failed=retry_failed,
                progress=show,
            )
        _say_end(console, standing, end, file)
    report = make_report(what, folder, storage=storage)
    written = write_report(report)
    tables = Terminal(highlight=False, stderr=str(json_) == STDOUT)
    _show(tables, report)
    console.print(f"Report:  {escape(str(written[0]))}", soft_wrap=True)
    if report.ranked():
        console.print(
            f"Train:   memrl-ctrl train {escape(str(folder / 'best.yaml'))}", soft_wrap=True
        )
    if json_ is not None:
        write_json(json_, {"folder": str(folder), "end": end, **report.as_json()})
    if end == "interrupted":
        return INTERRUPTED
    return 0 if report.ranked() or end == "time" or report_only else FAILED


def cuda_devices(text: str, count: int) -> tuple[str, ...]:
    """Return what CUDA_VISIBLE_DEVICES has to be for each of some devices.

    Args:
        text: numbers, as this process sees them: `0,1`.
        count: devices that it sees.

    Raises:
        UsageError: they are no numbers, one twice, or there is no such device.
    """
    names = [part.strip() for part in text.split(",")]
    if not all(name.isdigit() for name in names) or len(set(names)) < len(names):
        raise UsageError(f"devices {text!r} cannot be read; give numbers of CUDA devices, like 0,1")
    if count == 0:
        raise UsageError(
            f"devices {text} were given, and torch sees no CUDA device here; leave out --devices"
        )
    for name in names:
        if int(name) >= count:
            there = "0" if count == 1 else f"0 to {count - 1}"
            raise UsageError(f"there is no CUDA device {name}; there is: {there}")
    # Where only some are visible, theirs are the numbers that children have to get.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = visible.split(",") if visible else [str(number) for number in range(count)]
    return tuple(seen[int(name)].strip() for name in names)


def _folder_of(file: str, name: str) -> Path:
    """Return the sweep folder of a file: itself, where it is one."""
    from memrl_ctrl.training.sweep.running import FOLDER

    return Path(file) if Path(file).is_dir() else FOLDER / name


def _say_end(console: Terminal, standing: Standing, end: End, file: str) -> None:
    """Say why it ended, and how to go on where something is left."""
    folder = escape(str(standing.folder))
    done = f"{standing.finished} of {standing.budget} trials are finished"
    if end == "interrupted":
        console.print(f"Interrupted; {done}, and what was cut off has its checkpoints.")
        console.print(
            f"Go on:   the same command again, or memrl-ctrl sweep {folder}", soft_wrap=True
        )
    elif end == "time":
        console.print(f"The time is over; {done}. More --minutes go on.")
    else:
        resumed = f", {standing.resumed} of them went on" if standing.resumed else ""
        console.print(
            f"{standing.complete} trials complete, {standing.pruned} ended early, "
            f"{standing.failed} failed{resumed}."
        )
        if standing.failed:
            console.print(
                f"Again:   memrl-ctrl sweep {escape(file)} --retry-failed", soft_wrap=True
            )


def _show(console: Terminal, report: Report) -> None:
    """Show the best trials and what counts."""
    ranked = report.ranked()
    if not ranked:
        console.print("No trial is complete.")
        return
    names = [one.name for one in report.sweep.parameters]
    table = Table(title=f"Best of {len(ranked)} complete trials")
    # Without the groups a table fits a terminal; where two would be alike they stay.
    short = [one.short for one in report.sweep.parameters]
    short = [one if short.count(one) == 1 else name for one, name in zip(short, names, strict=True)]
    for heading in ("trial", report.sweep.config.goal.words, *short):
        table.add_column(escape(heading), justify="right")
    for trial in ranked[:SHOWN]:
        settings = report.settings(trial)
        row = [str(trial.number), shown(float(trial.value or 0.0))]
        table.add_row(*row, *(escape(shown(settings[name])) for name in names))
    console.print(table)
    if report.importances:
        shares = ", ".join(
            f"{escape(name)} {100 * share:.0f} %" for name, share in report.importances.items()
        )
        console.print(f"Importances: {shares}", soft_wrap=True)
