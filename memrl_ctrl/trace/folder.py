"""Where traces lie: `records/<UTC stamp>-<mode>/trace.journal`, and `trace.h5` made from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from memrl_ctrl.errors import TraceError

RECORDS = Path("records")
"""Folder of all runs where no other is given, in the current folder."""
JOURNAL_NAME = "trace.journal"
HDF5_NAME = "trace.h5"


def new_run_folder(root: str | Path, mode: str) -> Path:
    """Make and return a new folder for a run, `<root>/<UTC stamp>-<mode>`.

    Args:
        root: folder of all runs; made where it is missing.
        mode: the run's mode, part of the name.

    Raises:
        TraceError: it cannot be made.
    """
    root = Path(root)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        root.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            folder = root / (f"{stamp}-{mode}" if attempt == 1 else f"{stamp}-{mode}-{attempt}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            sync_folder(root)
            return folder
    except OSError as error:
        raise TraceError(root, f"no run folder can be made here: {error.strerror}") from error
    raise TraceError(root, f"holds a thousand runs of the second {stamp} already")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: the file system refuses.
    """
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def run_folders(root: Path) -> Iterator[Path]:
    """Iterate over the folders that hold a trace: `root` itself, and its subfolders by name.

    Raises:
        TraceError: `root` is no folder.
    """
    with looking_at(root):
        if not root.is_dir():
            raise TraceError(root, "is no folder; give the folder of the runs, or of one run")
        inside = sorted(root.iterdir())
    if _holds_trace(root):
        yield root
    yield from (folder for folder in inside if _holds_trace(folder))


@contextmanager
def looking_at(path: Path) -> Iterator[None]:
    """Turn what the operating system has against looking at a path into a sentence.

    Raises:
        TraceError: a folder on the way may not be looked into, for example.
    """
    try:
        yield
    except OSError as error:
        raise TraceError(path, f"cannot be looked at: {error.strerror}") from error


def is_there(path: Path) -> bool:
    """Whether there is a file; one that may not be looked at counts, and whoever reads it says why not."""
    try:
        return path.is_file()
    except OSError:
        return True


def _holds_trace(folder: Path) -> bool:
    return is_there(folder / JOURNAL_NAME) or is_there(folder / HDF5_NAME)
