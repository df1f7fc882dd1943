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
from memrl_ctrl.cli.values import OutputFile, OutputFolder, within
from memrl_ctrl.errors import FileError, TraceError
from memrl_ctrl.outputs import output_file
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.texts import clean
from memrl_ctrl.trace.digest import contradicted, digest_path
from memrl_ctrl.trace.export import Form
from memrl_ctrl.trace.export import export as export_trace
from memrl_ctrl.trace.folder import (
    HDF5_NAME,
    JOURNAL_NAME,
    RECORDS,
    is_there,
    looking_at,
    run_folders,
)
from memrl_ctrl.trace.prune import Drop
from memrl_ctrl.trace.prune import prune as prune_runs
from memrl_ctrl.trace.reader import TraceReader, find_trace, is_hdf5, stale
from memrl_ctrl.trace.recovery import recover as recover_trace
from memrl_ctrl.trace.scan import JournalReader
from memrl_ctrl.trace.scan import Progress as Advance
from memrl_ctrl.trace.signing import installed_signer, key_path, make_key, public_key
from memrl_ctrl.trace.untrusted import verify_untrusted

WHOLE, UNUSABLE, WITH_LOSS = 0, 1, 3
"""Exit codes of `verify`; `recover` ends with `WITH_LOSS` too."""

app = App(
    name="trace",
    help="Look at recorded traces; check, recover, draw, export and prune them.",
)


@app.command
def ls(folder: Path = RECORDS) -> None:
    """List the runs of a folder.

    Parameters
    ----------
    folder
        Folder of the runs, or of one run; what it holds itself is listed too.
    """
    console = Terminal()
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True, overflow="fold")  # a name that is cut can not be typed
    for heading in ("mode", "machine", "program", "cycles", "state"):
        table.add_column(heading)
    for run in run_folders(folder):
        table.add_row(*map(_literal, (_name(run), *_summary(run))))
    if table.row_count:
        console.print(table)
    else:
        console.print(f"no traces in {_shown(folder)}", soft_wrap=True, markup=False)


def _summary(run: Path) -> tuple[str, str, str, str, str]:
    """Return mode, machine, program, cycles and state of a run, without reading its profiles."""
    try:
        path = find_trace(run)
        if path.name == HDF5_NAME:
            with TraceReader(path) as trace:
                report, header = trace.report, trace.header
                ended = "ended" if report.end else "interrupted"
                state = ended if report.whole else f"{ended}, {report.extent()}"
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

    An HDF5 file that is there already is replaced only where nothing of it is lost: one of another run, or
    with cycles that the journal does not give any more, stays as it is.

    Exit code 0 where nothing was lost, 3 where something was, or where nothing was written.

    Parameters
    ----------
    path
        A journal, the folder of a run, or the folder of several: then every run without an
        HDF5 file, or with one whose journal has grown since, is recovered.
    """
    console = Terminal(highlight=False)
    journals = list(_to_recover(path))
    code = WHOLE
    for journal in journals:
        try:
            with _progress(f"recovering {_literal(journal.parent.name)}") as advance:
                recovery = recover_trace(journal, advance)
        except TraceError as error:
            if len(journals) == 1:
                raise
            console.print(f"not recovered: {clean(str(error))}", soft_wrap=True, markup=False)
            code = WITH_LOSS
            continue
        for sentence in recovery.report.sentences():
            console.print(clean(sentence), soft_wrap=True, markup=False)
        if recovery.aside is not None:
            kept = f"it is kept as {_shown(recovery.aside)}"
            said = f"a first look at the {HDF5_NAME} of before came to no end: {kept}"
            console.print(said, soft_wrap=True, markup=False)
        console.print(f"written: {_shown(recovery.hdf5)}", soft_wrap=True, markup=False)
        if not recovery.report.whole:
            code = WITH_LOSS
    if not journals:
        said = f"nothing to recover in {_shown(path)}: every run has its {HDF5_NAME}"
        console.print(said, soft_wrap=True, markup=False)
    return code


def _to_recover(path: Path) -> Iterator[Path]:
    """Iterate over the journals to recover for what the user named."""
    with looking_at(path):
        if not path.is_dir():
            yield path
            return
    runs = [run for run in run_folders(path) if is_there(run / JOURNAL_NAME)]
    if not runs:
        raise TraceError(path, f"holds no run with a {JOURNAL_NAME}")
    for run in runs:
        hdf5, journal = run / HDF5_NAME, run / JOURNAL_NAME
        if runs == [path] or not is_there(hdf5) or stale(hdf5, journal):
            yield journal


@app.command
def verify(trace: Path, *, key: str | None = None) -> int:
    """Check a trace from end to end: every checksum, every hash, every signature, every cycle.

    The file may come from anywhere: it is read by a process of its own, which can write nothing and has
    bounded memory and time.

    Of a folder both files are checked and held against each other.

    Exit code 0: whole; 3: usable, but something is lost, or the other file of the folder is damaged or of
    another run, or with --key not signed; 1: unusable.

    Parameters
    ----------
    trace
        trace.h5, trace.journal, or the folder of a run.
    key
        Public key that must have signed every cycle: 64 hexadecimal digits, or a file that holds them.
    """
    wanted = None if key is None else public_key(key).hex()
    try:
        with _progress("verifying") as advance:
            report = verify_untrusted(trace, advance)
    except TraceError as error:
        errors = Terminal(stderr=True, highlight=False, soft_wrap=True, markup=False)
        errors.print(f"unusable: {clean(str(error))}", style="red")
        return UNUSABLE
    console = Terminal(highlight=False)
    console.print(f"{_shown(report.path)}:", soft_wrap=True, markup=False)
    for sentence in report.sentences():
        console.print(clean(sentence), soft_wrap=True, markup=False)
    if wanted is not None:
        covered = 0 if report.signed is None else report.signed.cycles.get(wanted, 0)
        if covered < report.cycles:
            uncovered = report.cycles - covered
            console.print(f"{uncovered} cycles are not signed by {wanted}", soft_wrap=True)
            return WITH_LOSS
    doubted = report.beside is not None and report.beside.fault
    return WHOLE if report.whole and not doubted else WITH_LOSS


@app.command
def plot(
    trace: Path,
    *,
    out: Annotated[OutputFolder | None, Parameter(name="--out")] = None,
    truth: Path | None = None,
) -> None:
    """Draw profiles, phase function and asymmetry as PNG, with a truth the phase error too.

    Parameters
    ----------
    trace
        trace.h5, trace.journal, or the folder of a run.
    out
        Folder for the pictures; without it `plots` beside the trace.
    truth
        Truth log of a simulated machine (`machine --truth-log`), to compare with.
    """
    from memrl_ctrl.trace.plot import PLOTS_NAME, plot_trace
    from memrl_ctrl.trace.truth import truth_of

    console = Terminal(highlight=False)
    try:
        with _progress("drawing") as advance, TraceReader(trace, advance) as reader:
            tell_loss(reader)
            known = None if truth is None else truth_of(reader, truth)
            made = plot_trace(reader, out or reader.path.parent / PLOTS_NAME, advance, known)
    except ModuleNotFoundError as error:
        raise registry.missing_extra("command 'trace plot'", error) from error
    for path in made:
        console.print(f"written: {_shown(path)}", soft_wrap=True, markup=False)


@app.command
def export(
    trace: Path,
    *,
    to: Form = Form.CSV,
    out: Annotated[OutputFile | None, Parameter(name="--out")] = None,
    profiles: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a trace as CSV, Parquet or MCAP (for Foxglove), for other people's tools.

    Parameters
    ----------
    trace
        trace.h5, trace.journal, or the folder of a run.
    to
        CSV and Parquet have a row a cycle and control point; MCAP has messages in time.
    out
        The file; without it `trace.csv`, `trace.parquet` or `trace.mcap` beside the trace.
    profiles
        With the profiles, which are most of a trace.
    """
    console = Terminal(highlight=False)
    try:
        with _progress("exporting") as advance, TraceReader(trace, advance) as reader:
            tell_loss(reader)
            place = out or reader.path.with_name(f"{reader.path.stem}.{to.value}")
            with output_file(place) as partial:
                rows = export_trace(reader, partial, to, profiles=profiles, progress=advance)
    except ModuleNotFoundError as error:
        raise registry.missing_extra(f"command 'trace export --to {to.value}'", error) from error
    what = "messages" if to is Form.MCAP else "rows"
    console.print(f"written: {_shown(place)} ({rows} {what})", soft_wrap=True, markup=False)


@app.command
def prune(
    folder: Path = RECORDS,
    *,
    drop: Drop = Drop.HDF5,
    older_than: Annotated[float, Parameter(validator=within(0.0, unit="days"))] = 0.0,
    unverified: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Free room: delete of each run what is not needed, once the rest of it is verified.

    A run that is being recorded is never touched, and one that is not whole is kept. Exit code 0; 3 where
    a run was kept for that.

    Parameters
    ----------
    folder
        Folder of the runs, or of one run.
    drop
        `hdf5`: the indexed form, which `trace recover` makes again; `journal`: the journal, whose records
        the HDF5 file holds too; `run`: all files of the run, and its folder where nothing else is in it.
    older_than
        Days; runs that were written to since are kept.
    unverified
        Delete also of runs in which something is lost; a journal only where the HDF5 file has all of it.
    dry_run
        Delete nothing, only say what would be.
    """
    console = Terminal(highlight=False, soft_wrap=True, markup=False)
    freed, code = 0, WHOLE
    for run in prune_runs(
        folder, drop=drop, older_than_days=older_than, unverified=unverified, dry_run=dry_run
    ):
        freed += run.freed_bytes
        if run.kept:
            console.print(f"kept {_name(run.folder)}: {clean(run.kept)}")
            code = WITH_LOSS if run.doubtful else code
        else:
            what = "would free" if dry_run else "freed"
            left = f"; not of the run, and kept: {', '.join(run.left)}" if run.left else ""
            console.print(
                f"{what} {run.freed_bytes / 1e6:.1f} MB of {_name(run.folder)}{clean(left)}"
            )
    console.print(f"{'would be freed' if dry_run else 'freed'}: {freed / 1e6:.1f} MB")
    return code


@app.command
def key(*, make: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Show the public key with which this installation signs its traces.

    Once there is a key, every run signs what it records. The secret stays in the state folder, readable by
    its owner only.

    Parameters
    ----------
    make
        Make a key, where there is none yet.
    """
    console = Terminal(highlight=False, soft_wrap=True, markup=False)
    signer = make_key() if make else installed_signer()
    if signer is None:
        raise FileError(key_path(), "no signing key; `memrl-ctrl trace key --make` makes one")
    console.print(signer.public.hex())
    console.print(f"secret key: {_shown(key_path())}", style="dim")


def tell_loss(reader: TraceReader) -> None:
    """Say on stderr that what is made from a trace lacks something, or comes from an altered file."""
    errors = Terminal(stderr=True, highlight=False, soft_wrap=True, markup=False)
    for problem in filter(None, (reader.report.loss(), _alteration(reader.path))):
        errors.print(f"{_shown(reader.path)}: {clean(problem)}", style="yellow")


def _alteration(path: Path) -> str:
    """Return in one sentence what the digest beside an HDF5 file has against it; empty if nothing."""
    beside = digest_path(path).name
    try:
        if not is_hdf5(path) or not contradicted(path):
            return ""
    except OSError as error:
        return f"{beside} beside it cannot be read: {error.strerror}"
    return (
        f"altered: its digest is not the one in {beside} beside it "
        "(`memrl-ctrl trace verify` says what it can find)"
    )


def _shown(path: Path) -> str:
    return clean(str(path))


def _name(folder: Path) -> str:
    """Return the name of a run's folder, also of the current one, for a terminal."""
    return clean(folder.name or folder.absolute().name)


def _literal(text: str) -> str:
    """Return a text from a file, which may hold anything, for a console that reads markup."""
    from rich.markup import escape

    return escape(clean(text))


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
