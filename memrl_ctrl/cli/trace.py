"""`memrl-ctrl trace`: look at what runs have recorded, check it, recover it, draw it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from memrl_ctrl import registry
from memrl_ctrl.cli.values import OutputFolder
from memrl_ctrl.errors import FileError, TraceError
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME, RECORDS, run_folders
from memrl_ctrl.trace.reader import TraceReader, find_trace, stale
from memrl_ctrl.trace.recovery import recover as recover_trace
from memrl_ctrl.trace.recovery import verify as verify_trace
from memrl_ctrl.trace.scan import JournalReader
from memrl_ctrl.trace.scan import Progress as Advance

WHOLE, UNUSABLE, WITH_LOSS = 0, 1, 3
"""Exit codes of `verify`; `recover` ends with `WITH_LOSS` too."""

app = App(name="trace", help="Look at recorded traces, check them, recover them, draw them.")


@app.command
def ls(folder: Path = RECORDS) -> None:
    """List the runs of a folder.

    Parameters
    ----------
    folder
        Folder of the runs, or of one run.
    """
    console = Terminal()
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True, overflow="fold")  # a name that is cut can not be typed
    for heading in ("mode", "machine", "program", "cycles", "state"):
        table.add_column(heading)
    for run in run_folders(folder):
        table.add_row(run.name, *_summary(run))
    if table.row_count:
        console.print(table)
    else:
        console.print(f"no traces in {folder}", soft_wrap=True)


def _summary(run: Path) -> tuple[str, str, str, str, str]:
    """Return mode, machine, program, cycles and state of a run, without reading its profiles."""
    try:
        path = find_trace(run)
        if path.name == HDF5_NAME:
            with TraceReader(path) as trace:
                report, header = trace.report, trace.header
                ended = "ended" if report.end else "interrupted"
                state = ended if report.whole else f"{ended}, {report.lost_bytes} bytes lost"
                cycles = str(report.cycles)
        else:
            with JournalReader(path) as journal:
                header, cycles = journal.header, "?"
                state = "running" if journal.live else "not recovered: memrl-ctrl trace recover"
    except FileError as error:
        return "?", "?", "?", "?", f"unusable: {error}"
    return header.mode, header.machine.name, header.program, cycles, state


@app.command
def show(trace: Path) -> None:
    """Say what a trace holds and where it comes from.

    Parameters
    ----------
    trace
        trace.h5, trace.journal, or the folder of a run.
    """
    console = Terminal(highlight=False)
    with _progress("reading") as advance, TraceReader(trace, advance) as reader:
        header, report, machine = reader.header, reader.report, reader.header.machine
        modes = sorted(set(reader.array("mode"))) if len(reader) else []
        outcomes = reader.array("outcomes/state") if len(reader) else ()
        events = sum(text != "[]" for text in reader.array("events_json")) if len(reader) else 0
        columns = len(reader.names)
    policy = f"{header.policy_name or 'unnamed'}, SHA-256 {header.policy_sha256[:16]}"
    size = "not in the trace" if header.policy is None else f"{len(header.policy)} bytes, inside"
    rows = {
        "file": str(reader.path),
        "run": f"{header.run_id}, started {header.started_utc}",
        "mode": ", ".join(modes) or header.mode,
        "machine": f"{machine.name}, program {machine.program}, backend {machine.backend or '?'}"
        + (f", fidelity {machine.fidelity}" if machine.fidelity else ""),
        "points": f"{machine.points}, {machine.n_slices} slices each, period {machine.period_s} s",
        "policy": f"{policy} ({size})" if header.policy_sha256 else "none",
        "guard": ", ".join(header.guard_stages) or "no stages",
        "setpoints": f"{sum(s == 1 for s in outcomes)} taken, {sum(s == 0 for s in outcomes)} not",
        "events": f"in {events} cycles",
        "columns": str(columns),
        "versions": ", ".join(f"{name} {version}" for name, version in header.versions.items()),
        "processor": header.fingerprint.get("cpu_model", "?"),
        "state": report.sentences()[0],
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in rows.items():
        table.add_row(f"[bold]{name}[/bold]", _literal(text))
    console.print(table)
    for sentence in report.sentences()[1:]:
        console.print(_literal(sentence), soft_wrap=True)


@app.command
def recover(path: Path) -> int:
    """Make the HDF5 file of a journal, whatever state the journal is in. The journal stays.

    Exit code 0 where nothing was lost, 3 where something was.

    Parameters
    ----------
    path
        A journal, the folder of a run, or the folder of several: then every run without an
        HDF5 file, or with one that is older than its journal, is recovered.
    """
    console = Terminal(highlight=False)
    journals = list(_to_recover(path))
    code = WHOLE
    for journal in journals:
        try:
            with _progress(f"recovering {journal.parent.name}") as advance:
                recovery = recover_trace(journal, advance)
        except TraceError as error:
            if len(journals) == 1:
                raise
            console.print(f"{journal}: unusable: {error}", soft_wrap=True, markup=False)
            code = WITH_LOSS
            continue
        for sentence in recovery.report.sentences():
            console.print(sentence, soft_wrap=True, markup=False)
        console.print(f"written: {recovery.hdf5}", soft_wrap=True, markup=False)
        if not recovery.report.whole:
            code = WITH_LOSS
    if not journals:
        console.print(f"nothing to recover in {path}: every run has its {HDF5_NAME}")
    return code


def _to_recover(path: Path) -> Iterator[Path]:
    """Iterate over the journals to recover for what the user named."""
    if not path.is_dir() or (path / JOURNAL_NAME).is_file():
        yield path / JOURNAL_NAME if path.is_dir() else path
        return
    runs = [run for run in run_folders(path) if (run / JOURNAL_NAME).is_file()]
    if not runs:
        raise TraceError(path, f"holds no run with a {JOURNAL_NAME}")
    for run in runs:
        hdf5, journal = run / HDF5_NAME, run / JOURNAL_NAME
        if not hdf5.is_file() or stale(hdf5, journal):
            yield journal


@app.command
def verify(trace: Path) -> int:
    """Check a trace from end to end: every checksum, every hash, every cycle.

    Exit code 0: whole; 3: usable, but something is lost; 1: unusable.

    Parameters
    ----------
    trace
        trace.h5, trace.journal, or the folder of a run.
    """
    try:
        with _progress("verifying") as advance:
            report = verify_trace(trace, advance)
    except TraceError as error:
        errors = Terminal(stderr=True, highlight=False, soft_wrap=True, markup=False)
        errors.print(f"unusable: {error}", style="red")
        return UNUSABLE
    console = Terminal(highlight=False)
    console.print(f"{report.path}:", soft_wrap=True, markup=False)
    for sentence in report.sentences():
        console.print(sentence, soft_wrap=True, markup=False)
    return WHOLE if report.whole else WITH_LOSS


@app.command
def plot(
    trace: Path, *, out: Annotated[OutputFolder | None, Parameter(name="--out")] = None
) -> None:
    """Draw profiles, phase function and asymmetry as PNG.

    Parameters
    ----------
    trace
        trace.h5, trace.journal, or the folder of a run.
    out
        Folder for the pictures; without it `plots` beside the trace.
    """
    from memrl_ctrl.trace.plot import plot_trace

    console = Terminal(highlight=False)
    try:
        with _progress("drawing") as advance, TraceReader(trace, advance) as reader:
            made = plot_trace(reader, out or reader.path.parent / "plots", advance)
    except ModuleNotFoundError as error:
        raise registry.missing_extra("command 'trace plot'", error) from error
    for path in made:
        console.print(f"written: {path}", soft_wrap=True, markup=False)


def _literal(text: str) -> str:
    """Return a text that may hold brackets, for a console that reads markup."""
    from rich.markup import escape

    return escape(text)


@contextmanager
def _progress(words: str) -> Iterator[Advance]:
    """Show a bar on stderr while there is a terminal, and yield what moves it on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    console = Terminal(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
