"""HDF5 files that were never finished: the process that wrote them was killed."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path


def leftovers(hdf5: Path) -> list[Path]:
    """Return the unfinished files of an HDF5 file whose process is gone.

    Args:
        hdf5: the file that they were to become; `build_hdf5` writes `.NAME.PID.part`.

    Raises:
        OSError: its folder may not be looked into.
    """
    named = re.compile(rf"\.{re.escape(hdf5.name)}\.([1-9][0-9]{{0,8}})\.part")
    found = ((path, named.fullmatch(path.name)) for path in sorted(hdf5.parent.iterdir()))
    return [
        path
        for path, match in found
        if match and not _lives(int(match[1])) and path.is_file() and not path.is_symlink()
    ]


def clear_leftovers(hdf5: Path) -> None:
    """Delete the unfinished files of an HDF5 file whose process is gone, where that is allowed."""
    with suppress(OSError):
        for path in leftovers(hdf5):
            path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
