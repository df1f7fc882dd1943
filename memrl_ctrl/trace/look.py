"""A first look at an HDF5 file of unknown origin, by a process that may use little.

A file that one look does not survive, or that keeps it for ever, is not opened in the process that asks.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace.child import ask, limit
from memrl_ctrl.trace.contents import contents_of
from memrl_ctrl.trace.digest import confirmed

SEEN = b"seen"


def unopenable(hdf5: Path) -> str:
    """Return why an HDF5 file must not be opened here; empty where it may be.

    One that the digest beside it confirms was made here, and is not looked at. What the look finds wrong
    without coming to harm is no reason: opening it says the same.

    Raises:
        OSError: it cannot be read, or the process that would look cannot be started.
    """
    if confirmed(hdf5):
        return ""
    seen, ended = ask(__name__, hdf5, hdf5.stat().st_size, _heard)
    return "" if seen else f"a first look at it {ended}"


def _heard(lines: Iterator[bytes]) -> bool | None:
    return SEEN in lines or None


def _look(hdf5: Path) -> None:
    """Read what a recovery reads of a file that it would replace."""
    with contextlib.suppress(TraceError):
        contents_of(hdf5)
    sys.stdout.buffer.write(SEEN + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    limit(int(sys.argv[2]))
    _look(Path(sys.argv[1]))
