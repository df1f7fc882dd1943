"""Freeing the room of runs: what can be made again first, the truth only when it is told to."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace.contents import contents_of
from memrl_ctrl.trace.digest import digest_path
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME, looking_at, run_folders, sync_folder
from memrl_ctrl.trace.report import TraceReport
from memrl_ctrl.trace.untrusted import verify_untrusted

DAY_S = 86_400.0
NEWER, RECORDED, ONLY = "is newer", "is being recorded", " only"
HARMLESS = (NEWER, RECORDED, ONLY)
"""Ends of the reasons to keep a run that has nothing wrong."""


class Drop(StrEnum):
    """What is deleted of a run."""

    HDF5 = "hdf5"
    """The indexed form; `recover` makes it again from the journal."""
    JOURNAL = "journal"
    """The journal; the HDF5 file holds every record of it."""
    RUN = "run"
    """The run's whole folder."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was done with a run, or is to be done."""

    folder: Path
    freed_bytes: int = 0
    """Room of what is deleted; 0 where the run is kept."""
    kept: str = ""
    """Why nothing is deleted; empty where something is."""

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
        TraceError: `root` is no folder, or something cannot be deleted.
    """
    newest_s = time.time() - older_than_days * DAY_S if older_than_days else math.inf
    for folder in list(run_folders(root)):
        try:
            with looking_at(folder):
                files = _files(folder, drop)
                size = sum(path.stat().st_size for path in files)
                kept = _objection(folder, drop, newest_s, unverified=unverified)
        except TraceError as error:
            kept = f"is not verified: {error}"
        if kept:
            yield Pruned(folder=folder, kept=kept)
            continue
        if not dry_run:
            _delete(folder, files, whole=drop is Drop.RUN)
        yield Pruned(folder=folder, freed_bytes=size)


def _files(folder: Path, drop: Drop) -> list[Path]:
    names = {Drop.HDF5: HDF5_NAME, Drop.JOURNAL: JOURNAL_NAME}
    if drop in names:
        path = folder / names[drop]
        return [each for each in (path, digest_path(path)) if each.is_file()]
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _objection(folder: Path, drop: Drop, newest_s: float, *, unverified: bool) -> str:
    """Return why a run has to be kept; empty if nothing is against it."""
    there = [path for path in (folder / JOURNAL_NAME, folder / HDF5_NAME) if path.is_file()]
    if max(path.stat().st_mtime for path in there) > newest_s:
        return NEWER
    if drop is not Drop.RUN and len(there) < 2:
        return f"has its {there[0].name}{ONLY}"
    reports: dict[str, TraceReport] = {}
    for path in there:
        try:
            reports[path.name] = verify_untrusted(path)
        except TraceError as error:
            if not (unverified and drop is Drop.RUN):
                return f"is not verified: {error}"
    if any(report.live for report in reports.values()):
        return RECORDED
    if drop is not Drop.RUN:
        kept, gone = (folder / name for name in (JOURNAL_NAME, HDF5_NAME))
        if drop is Drop.JOURNAL:
            kept, gone = gone, kept
        if lost := contents_of(kept).lacks(contents_of(gone)):
            return f"{kept.name} does not hold all that {gone.name} holds: {lost}"
    return "" if unverified else _doubt(reports)


def _doubt(reports: dict[str, TraceReport]) -> str:
    """Return what the verification of a run has against deleting a part of it."""
    broken = [report for report in reports.values() if not report.whole]
    return f"is not whole: {broken[0].damage[0].sentence()}" if broken else ""


def _delete(folder: Path, files: list[Path], *, whole: bool) -> None:
    try:
        if whole:
            shutil.rmtree(folder)
            sync_folder(folder.parent)
            return
        for path in files:
            path.unlink()
        sync_folder(folder)
    except OSError as error:
        raise TraceError(folder, f"cannot be pruned: {error.strerror}") from error
