"""Whether a run is being recorded: as long as it lives it has an exclusive lock on its journal."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def hold(file: int) -> None:
    """Lock the journal of a run that begins; a file system without locks does no harm."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(file: int) -> bool:
    """Whether a run holds a journal that is open here, whatever stands in it."""
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def is_recorded(journal: Path) -> bool:
    """Whether a run holds a journal, whatever stands in it; false where there is none.

    Raises:
        OSError: it may not be looked at.
    """
    if not journal.is_file():
        return False
    file = os.open(journal, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return is_held(file)
    finally:
        os.close(file)
