"""Making the HDF5 file of a run that ended or was interrupted, and checking what there is."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path

import h5py

from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace.contents import Contents, contents_of, hdf5_contents, held_against
from memrl_ctrl.trace.datasets import DAMAGE, attribute
from memrl_ctrl.trace.digest import contradicted, digest_path
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME, looking_at
from memrl_ctrl.trace.hdf5 import build_hdf5
from memrl_ctrl.trace.heads import check_heads
from memrl_ctrl.trace.leftovers import clear_leftovers
from memrl_ctrl.trace.look import unopenable
from memrl_ctrl.trace.reader import TraceReader, find_trace, is_hdf5
from memrl_ctrl.trace.records import SCHEMA_VERSION
from memrl_ctrl.trace.report import Beside, Damage, TraceReport
from memrl_ctrl.trace.scan import JournalReader, Progress
from memrl_ctrl.trace.store import is_trace
from memrl_ctrl.trace.summary import Summary


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """An HDF5 file that was made, and what is in it."""

    hdf5: Path
    report: TraceReport
    aside: Path | None = None
    """Where the HDF5 file of before was put: a first look at it came to no end, so that nobody knows
    whether it holds more."""


def recover(path: str | Path, progress: Progress | None = None) -> Recovery:
    """Make the HDF5 file beside a journal, whatever state it is in; the journal stays.

    An HDF5 file that is there already is replaced where the new one holds all that it holds, or where it
    cannot be read; where that cannot be told it is put aside.

    Args:
        path: the journal, or the folder of its run.
        progress: called with the bytes done and the bytes of the journal.

    Raises:
        TraceError: there is no journal, or nothing in it can be used; or the HDF5 file beside it belongs
            to another run, or holds what the journal does not give (any more), and stays as it is.
    """
    journal = Path(path)
    with looking_at(journal):
        if journal.is_dir():
            journal = journal / JOURNAL_NAME
        if not journal.is_file():
            raise TraceError(journal, "there is no journal to recover")
    if is_hdf5(journal):
        raise TraceError(journal, f"is HDF5 already; recover takes the journal ({JOURNAL_NAME})")
    hdf5 = journal.with_name(HDF5_NAME) if journal.name == JOURNAL_NAME else _beside(journal)
    there, aside = _check_replaces(hdf5), None
    clear_leftovers(hdf5)

    def check(made: Path) -> None:
        nonlocal aside
        if there is There.OPENED:
            _check_holds(made, hdf5, journal)
        elif there is There.UNKNOWN:
            aside = _put_aside(hdf5)

    try:
        report = build_hdf5(journal, hdf5, progress, check)
        return Recovery(hdf5=hdf5, report=report, aside=aside)
    except TraceError as error:
        if error.path != journal or not hdf5.is_file():
            raise
        raise TraceError(
            journal, f"{error.problem}; {hdf5.name} beside it stays as it is"
        ) from error


class There(Enum):
    """What is known of the HDF5 file that a recovery finds."""

    NOTHING = auto()
    """There is none, or it cannot be opened."""
    OPENED = auto()
    """It can be opened: the new one has to hold what it holds."""
    UNKNOWN = auto()
    """Whoever looked at it came to no end."""


def _put_aside(hdf5: Path) -> Path:
    """Rename a file, so that another can take its place; return its new name.

    Raises:
        TraceError: it cannot be renamed.
    """
    names = (hdf5.with_name(f"{hdf5.stem}.aside{k or ''}{hdf5.suffix}") for k in range(1000))
    aside = next((name for name in names if not name.exists()), None)
    try:
        if aside is None:
            raise FileExistsError(errno.EEXIST, "a thousand were put aside before")
        return hdf5.rename(aside)
    except OSError as error:
        raise TraceError(hdf5, f"cannot be put aside: {error.strerror}") from error


def _check_replaces(hdf5: Path) -> There:
    """Refuse to put a trace in the place of a file that is something else.

    What cannot be opened is replaced: that is what a recovery is for.

    Returns:
        What is known of it.

    Raises:
        TraceError: it is HDF5 of somebody else's or of a later release, may not be read, or is no file.
    """
    if not hdf5.exists():
        return There.NOTHING
    if not hdf5.is_file():
        raise TraceError(hdf5, "is no file, and the HDF5 file of the journal would be made there")
    if not os.access(hdf5, os.R_OK):
        raise TraceError(hdf5, "may not be read, and the file of the journal would take its place")
    try:
        if unopenable(hdf5):
            return There.UNKNOWN
    except OSError as error:
        raise TraceError(hdf5, f"cannot be looked at: {error.strerror}") from error
    try:
        with h5py.File(hdf5, "r") as file:
            ours = is_trace(file)
            later = ours and attribute(file, "schema_version", int) > SCHEMA_VERSION
    except DAMAGE:
        return There.NOTHING
    if not ours:
        raise TraceError(
            hdf5,
            "is HDF5, but no trace of memrl-ctrl, and the file of the journal would take its place: move "
            "one of them away",
        )
    if later:
        raise TraceError(
            hdf5,
            f"was written by a later release (this one reads schema versions up to {SCHEMA_VERSION}), and "
            "the file of the journal would take its place: move one of them away",
        )
    return There.OPENED


def _check_holds(made: Path, hdf5: Path, journal: Path) -> None:
    """Refuse to put a recovered file in the place of one that holds more, or another run.

    Raises:
        TraceError: something would be lost.
    """
    try:
        there = contents_of(hdf5)
    except TraceError:  # there is none, or nobody can read it
        return
    if lost := contents_of(made).lacks(there):
        raise TraceError(
            hdf5,
            f"holds {lost}, which {journal.name} beside it does not give: it stays as it is, and nothing "
            f"is written. To make the file of {journal.name} all the same, move {hdf5.name} away first",
        )


def _beside(journal: Path) -> Path:
    return journal.with_name(f"{journal.stem}.h5")


def verify(path: str | Path, progress: Progress | None = None) -> TraceReport:
    """Check a trace from end to end and say what is there and what is lost.

    Of a journal every checksum and every hash is checked. Of an HDF5 file the journal's records are
    made again, byte for byte, and held against the checksums and hashes of the journal, and the file against
    its digest where that stands beside it. Of a folder both
    files are checked and held against each other; the report is on the one that counts.

    Args:
        path: `trace.h5`, `trace.journal`, or the folder that holds them.
        progress: called with the work done and the whole of it, for each file.

    Raises:
        TraceError: it cannot be used at all.
    """
    found = find_trace(path)
    other = _other(Path(path), found)
    if other is None:
        return _verified(found, progress)[0]
    try:
        report, contents = _verified(found, progress)
    except TraceError as error:
        return _instead(found, error, other, progress)
    try:
        beside = held_against(report, contents, *_verified(other, progress))
    except TraceError as error:
        beside = _unusable(other, error)
    return replace(report, beside=beside)


def _other(path: Path, found: Path) -> Path | None:
    """Return the file of a run's folder that does not count; None if there is none, or no folder."""
    with looking_at(path):
        if not path.is_dir():
            return None
        other = path / (JOURNAL_NAME if found.name == HDF5_NAME else HDF5_NAME)
        return other if other.is_file() else None


def _instead(found: Path, error: TraceError, other: Path, progress: Progress | None) -> TraceReport:
    """Return the report on the file beside one that cannot be used.

    Raises:
        TraceError: neither can be used.
    """
    unusable = _unusable(found, error)
    try:
        report, _ = _verified(other, progress)
    except TraceError as another:
        beside = _unusable(other, another)
        raise TraceError(found, f"{error.problem}; {beside.sentence()}") from error
    return replace(report, beside=unusable)


def _elsewhere(hdf5: Path) -> Damage:
    return Damage.of_file(
        f"its bytes are not those whose digest stands in {digest_path(hdf5).name} beside it. All "
        "records are as they were: what differs is in none, such as units, descriptions, or cells "
        "without a meaning. `memrl-ctrl trace recover` makes it anew from the journal"
    )


def _unusable(path: Path, error: TraceError) -> Beside:
    return Beside(name=path.name, text=f"is unusable: {error.problem}", fault=True)


def _verified(found: Path, progress: Progress | None) -> tuple[TraceReport, Contents]:
    """Check one file; return what is in it too.

    Raises:
        TraceError: it cannot be used at all.
    """
    if not is_hdf5(found):
        with JournalReader(found) as journal:
            contents, summary = Contents(run_id=journal.header.run_id), Summary(journal)
            for entry in journal.entries():
                summary.add(entry)
                contents.add(entry)
                if progress is not None:
                    progress(entry.offset + entry.size, journal.size)
            return summary.report(), contents
    with TraceReader(found) as trace:
        check = check_heads(trace, progress)
        told = {place.sequence for place in trace.damage if place.kind == "altered"}
        false = (place for place in check.coverage.false if place.sequence not in told)
        damage = (*trace.damage, *check.damage, *false)
        if len(damage) == len(trace.damage) and contradicted(found):
            damage = (*damage, _elsewhere(found))
        report = replace(trace.report, damage=damage, signed=check.coverage.signed())
        return report, hdf5_contents(trace)
