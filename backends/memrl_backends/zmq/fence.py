"""Fencing numbers that only grow, also when the server is killed and started again.

Numbers are taken from the file in blocks, durably, before the first of a block is given out: giving one
out then touches no disk. What a killed server had left of its block is never given out.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from memrl_ctrl.errors import FileError

BLOCK = 1 << 16
SPARE = 1 << 10
"""So many of a block are kept for operators, in case no new block can be had (a full disk)."""
LARGEST = 2**62
FILE_NAME = "fence"


class FenceCounter:
    """Gives out fencing numbers.

    Args:
        path: of the file, which several servers may share; None counts from 1 and forgets.
        least: the first number is not below this, whatever the file holds.

    Raises:
        FileError: the file holds something else, or cannot be written.
    """

    def __init__(self, path: Path | None, least: int = 1) -> None:
        self._path = path
        self._next, self._end = (1, LARGEST) if path is None else reserve(path, least)

    @property
    def last(self) -> int:
        """The number given out last, or one below the first."""
        return self._next - 1

    def next(self, *, spare: bool = False) -> int:
        """Return a number above every one before.

        Args:
            spare: also out of what is kept for operators.

        Raises:
            FileError: no more can be had durably.
        """
        if self._end - self._next <= SPARE and self._path is not None:
            try:
                self._next, self._end = reserve(self._path)
            except FileError:
                if not spare or self._next >= self._end:
                    raise
        number, self._next = self._next, self._next + 1
        return number


def reserve(path: Path, least: int = 1) -> tuple[int, int]:
    """Take a block of numbers for this process, durably; return its first and the one after its last.

    Args:
        path: of the file.
        least: the block does not begin below this.

    Raises:
        FileError: the file holds something else, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FileError(path, f"fencing numbers cannot be kept here: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        text = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
        if text and not (text.isdecimal() and 0 < int(text) < LARGEST - BLOCK):
            raise FileError(
                path, f"{text!r} is no fencing number; a file that is removed begins again from 1"
            )
        first = max(int(text) if text else 1, least)
        # One short write inside a block of the disk: it is there whole, or not at all.
        os.pwrite(descriptor, f"{first + BLOCK:020d}\n".encode(), 0)
        os.fsync(descriptor)
    except OSError as error:
        raise FileError(path, f"fencing numbers cannot be kept here: {error.strerror}") from error
    finally:
        os.close(descriptor)
    _sync_folder(path.parent)
    return first, first + BLOCK


def _sync_folder(folder: Path) -> None:
    """Make a new file's name durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
