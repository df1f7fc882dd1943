"""The digest of a trace's HDF5 file, beside it: what no record holds cannot change unseen either.

Each record in the HDF5 file is held against its hash. Units, descriptions, cells without a meaning and
what HDF5 keeps of its own are in no record. The digest stands in the form of sha256sum, which checks it too.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from memrl_ctrl.errors import FileError, TraceError
from memrl_ctrl.outputs import write_output
from memrl_ctrl.signatures import DIGEST_ENDING


def digest_path(hdf5: Path) -> Path:
    """Return where the digest of an HDF5 file stands."""
    return hdf5.with_name(hdf5.name + DIGEST_ENDING)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_digest(hdf5: Path, digest: str) -> None:
    """Write the digest of an HDF5 file, whole or not at all.

    Raises:
        TraceError: it cannot be written.
    """
    try:
        write_output(digest_path(hdf5), f"{digest}  ".encode() + os.fsencode(hdf5.name) + b"\n")
    except FileError as error:
        raise TraceError(error.path, error.problem) from error


def contradicted(hdf5: Path) -> bool:
    """Whether the digest beside an HDF5 file is that of another one; false where there is none.

    Raises:
        OSError: one of the two cannot be read.
    """
    return digest_path(hdf5).is_file() and not _is_its_own(hdf5)


def confirmed(hdf5: Path) -> bool:
    """Whether the digest beside an HDF5 file is its own; false where there is none.

    Raises:
        OSError: one of the two cannot be read.
    """
    return digest_path(hdf5).is_file() and _is_its_own(hdf5)


def _is_its_own(hdf5: Path) -> bool:
    digest = file_digest(hdf5).encode("ascii")
    with digest_path(hdf5).open("rb") as file:
        return file.read(len(digest)) == digest
