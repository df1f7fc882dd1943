"""Freeing the room of runs: what can be made again first, the truth only when it is told to."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace.contents import contents_of
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME, looking_at, run_folders, sync_folder
from memrl_ctrl.trace.lock import is_recorded
from memrl_ctrl.trace.own_files import hdf5_files, others, own_files, remove_empty
from memrl_ctrl.trace.report import TraceReport
from memrl_ctrl.trace.untrusted import verify_untrusted

DAY_S = 86_400.0
NEWER, RECORDED, ONLY = "is newer", "is being recorded", " only"
LINKED = "is a symbolic link: prune the folder that it points to"
HARMLESS = (NEWER, RECORDED, ONLY, LINKED)
"""Ends of the reasons to keep a run that has nothing wrong."""


class Drop(StrEnum):
    """What is deleted of a run."""

    HDF5 = "hdf5"
    """The indexed form; `recover` makes it again from the journal."""
    JOURNAL = "journal"
    """The journal; the HDF5 file holds every record of it."""
    RUN = "run"
    """All that belongs to the run, and its folder where nothing else is left in it."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was done with a run, or is to be done."""

    folder: Path
    freed_bytes: int = 0
    """Room of what is deleted."""
    kept: str = ""
    """Why the run is kept; empty where all that was asked for is deleted."""
    left: tuple[str, ...] = ()
    """Names of what stays in the folder of a deleted run: it is not the run's."""

    @property
    def doubtful(self) -> bool:
        """Whether it is kept because something is wrong with it."""
        return bool(self.kept) and not self.kept.endswith(HARMLESS)


def prune(
    root: Path,
    *,
    drop: Drop = Drop.HDF5,
    older_than_days: float = 0.0,
    unverified: bool = False,
    dry_run: bool = False,
) -> Iterator[Pruned]:
    """Delete a part of each run of a folder, and say what was freed.

    A run that is being recorded is never touched. What is deleted has been verified, and so has what
    remains: a run that is not whole is kept, unless `unverified`.

    Args:
        root: folder of the runs, or of one.
        drop: what is deleted.
        older_than_days: runs that were written to since are kept.
        unverified: delete even where the verification finds something lost.
        dry_run: delete nothing, only say what would be.

    Raises:
        TraceError: `root` is no folder.
    """
    newest_s = time.time() - older_than_days * DAY_S if older_than_days else math.inf
    for folder in list(run_folders(root)):
        try:
            with looking_at(folder):
                files = _files(folder, drop)
                left = others(folder, files) if drop is Drop.RUN else ()
                sizes = [path.lstat().st_size for path in files]
                kept = _objection(folder, drop, newest_s, unverified=unverified)
        except TraceError as error:
            kept = f"is not verified: {error}"
        if kept:
            yield Pruned(folder=folder, kept=kept)
        elif dry_run:
            yield Pruned(folder=folder, freed_bytes=sum(sizes), left=left)
        else:
            count, kept = _delete(folder, files, whole=drop is Drop.RUN)
            yield Pruned(folder=folder, freed_bytes=sum(sizes[:count]), kept=kept, left=left)


def _files(folder: Path, drop: Drop) -> list[Path]:
    """Return what is to be deleted, the truth last: what cannot be deleted ends it there.

    Raises:
        OSError: the folder may not be looked into.
    """
    if drop is Drop.HDF5:
        return hdf5_files(folder)
    return [folder / JOURNAL_NAME] if drop is Drop.JOURNAL else own_files(folder)


def _objection(folder: Path, drop: Drop, newest_s: float, *, unverified: bool) -> str:
    """Return why a run has to be kept; empty if nothing is against it."""
    there = [path for path in (folder / JOURNAL_NAME, folder / HDF5_NAME) if path.is_file()]
    if why := _untouchable(folder, there, drop, newest_s):
        return why
    reports: dict[str, TraceReport] = {}
    for path in there:
        try:
            reports[path.name] = verify_untrusted(path)
        except TraceError as error:
            if not (unverified and drop is Drop.RUN):
                return f"is not verified: {error}"
    if drop is not Drop.RUN and (lost := _lost(folder, drop, reports)):
        return lost
    return "" if unverified else _doubt(reports)


def _untouchable(folder: Path, there: list[Path], drop: Drop, newest_s: float) -> str:
    """Return why a run stays, whatever is in its files; empty if nothing is against it."""
    if folder.is_symlink():
        return LINKED
    if max(path.stat().st_mtime for path in there) > newest_s:
        return NEWER
    if is_recorded(folder / JOURNAL_NAME):
        return RECORDED
    return f"has its {there[0].name}{ONLY}" if drop is not Drop.RUN and len(there) < 2 else ""


def _lost(folder: Path, drop: Drop, reports: dict[str, TraceReport]) -> str:
    """Return what would be lost with one file of a run; empty where the other one has it all.

    An HDF5 file says itself which records it has. So a journal goes only where each of them is there as it
    was: what the file tells of losses of the journal is no objection, what is altered in it is.
    """
    kept, gone = (folder / name for name in (JOURNAL_NAME, HDF5_NAME))
    if drop is Drop.JOURNAL:
        kept, gone = gone, kept
    if lost := contents_of(kept).lacks(contents_of(gone)):
        return f"{kept.name} does not hold all that {gone.name} holds: {lost}"
    if drop is Drop.HDF5:
        return ""
    altered = (place for place in reports[HDF5_NAME].damage if place.offset is None)
    return next((f"is not whole: {place.sentence()}" for place in altered), "")


def _doubt(reports: dict[str, TraceReport]) -> str:
    """Return what the verification of a run has against deleting a part of it."""
    broken = [report for report in reports.values() if not report.whole]
    return f"is not whole: {broken[0].damage[0].sentence()}" if broken else ""


def _delete(folder: Path, files: list[Path], *, whole: bool) -> tuple[int, str]:
    """Delete files of a run, and its folder with the last; return how many, and why not all."""
    count = 0
    try:
        for path in files:
            path.unlink()
            count += 1
        parent = folder.resolve().parent
        if whole:
            remove_empty(folder)
        sync_folder(folder if folder.is_dir() else parent)
    except OSError as error:
        return count, f"cannot be deleted: {error.strerror or error}"
    return count, ""
