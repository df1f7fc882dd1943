"""`memrl-ctrl validate`: the kernel compared with BLonD, as a table with verdicts."""

from __future__ import annotations

import importlib.util
import time
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from memrl_backends.blond._import import blond
from memrl_backends.blond.validate import pictures, report
from memrl_backends.blond.validate.comparison import Comparison
from memrl_backends.blond.validate.plan import FULL, QUICK, Plan, plan
from memrl_ctrl.cli.values import JsonFile, OutputFolder, Seed
from memrl_ctrl.errors import MemrlError, MissingExtraError
from memrl_ctrl.outputs import STDOUT, write_json
from memrl_ctrl.program import CycleProgram, MachineFile, load_machine, load_program
from memrl_ctrl.program.library import available_programs
from memrl_ctrl.terminal import Terminal

PASSED, FAILED, INTERRUPTED = 0, 1, 130
"""Exit codes."""


def validate(
    *,
    quick: Annotated[bool, Parameter(negative=())] = False,
    json: JsonFile | None = None,
    out: OutputFolder | None = None,
    machine: str = "psb",
    seed: Seed = 1,
) -> int:
    """Compare the beam model with BLonD: matching, tracking, and a stretch of the ramp.

    Conditions are drawn from the machine's operating range; another seed draws others. Each row of the
    table has the tolerance it is judged by. Exit code 0 where all are kept, 1 where one is not. Ctrl-C
    ends it; what was compared until then is printed and written. Needs BLonD (extra `blond`).

    Parameters
    ----------
    quick
        A few conditions of each kind, in under a minute, instead of some minutes.
    json
        Also write versions, machine, table and every comparison to this file.
    out
        Also draw profiles and bunch lengths into this folder, as PNG.
    machine
        The machine: a name (`memrl-ctrl program list`) or the path of its file.
    seed
        Seed of conditions and macroparticles.
    """
    blond()  # says at once, in one sentence, where BLonD is not installed
    if out is not None and importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("drawing pictures (--out)", "matplotlib", "plot")
    ring = load_machine(machine)
    effort = QUICK if quick else FULL
    work = plan(ring, _programs(ring), effort, seed)
    begin = time.monotonic()
    done: list[Comparison] = []
    stopped = _run(work, done)
    console = Terminal(stderr=json is not None and str(json) == STDOUT, highlight=False)
    rows = report.rows(work.titles, done)
    seconds = time.monotonic() - begin
    title = f"the beam model against BLonD: machine {ring.name}, seed {seed}"
    if rows:
        report.print_table(console, rows, title)
    sentences = report.failures(done)
    for sentence in (*sentences, *work.notes):
        console.print(sentence, markup=False, soft_wrap=True)
    if json is not None:
        found = report.as_json(
            ring=ring.name,
            seed=seed,
            quick=quick,
            planned=len(work.tasks),
            seconds=seconds,
            table_rows=rows,
            done=done,
            notes=work.notes,
        )
        write_json(json, found)
        if str(json) != STDOUT:
            console.print(f"written: {json}", markup=False, soft_wrap=True)
    if out is not None:
        for path in pictures.draw(out, work.titles, done):
            console.print(f"written: {path}", markup=False, soft_wrap=True)
    return _verdict(
        console,
        stopped=stopped,
        done=len(done),
        planned=len(work.tasks),
        failed=len(sentences),
        seconds=seconds,
    )


def _verdict(
    console: Terminal, *, stopped: bool, done: int, planned: int, failed: int, seconds: float
) -> int:
    """Print the last sentence, and return the exit code."""
    if stopped:
        console.print(
            f"interrupted after {done} of {planned} comparisons, {failed} of them outside a "
            "tolerance; the table holds what was done"
        )
        return INTERRUPTED
    if failed:
        console.print(f"FAILED: {failed} of {done} comparisons are outside a tolerance")
        return FAILED
    console.print(f"passed: all {done} comparisons, in {seconds:.0f} s")
    return PASSED


def _programs(ring: MachineFile) -> list[CycleProgram]:
    """The programs of a machine that can be found by name; one that cannot be read hides no other."""
    found = []
    for name in sorted(available_programs()):
        try:
            program = load_program(name)
        except MemrlError:
            continue  # `memrl-ctrl program check` says what is wrong with it
        if program.machine.name == ring.name:
            found.append(program)
    return found


def _run(work: Plan, done: list[Comparison]) -> bool:
    """Make the comparisons into `done`; return whether it was interrupted."""
    console = Terminal(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        total = sum(task.seconds for task in work.tasks)
        shown, before = bar.add_task("", total=total), 0.0
        try:
            for task in work.tasks:
                bar.update(shown, description=work.titles[task.check])

                def advance(part: float, at: float = before, size: float = task.seconds) -> None:
                    bar.update(shown, completed=at + part * size)

                done.append(task.run(advance))
                before += task.seconds
                bar.update(shown, completed=before)
        except KeyboardInterrupt:
            return True
    return False
