"""The digest of a trace's HDF5 file, beside it: what no record holds cannot change unseen either.

Each record in the HDF5 file is held against its hash. Units, descriptions, cells without a meaning and
what HDF5 keeps of its own are in no record. The digest stands in the form of sha256sum, which checks it too.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

SUFFIX = ".sha256"


def digest_path(hdf5: Path) -> Path:
    """Return where the digest of an HDF5 file stands."""
    return hdf5.with_name(hdf5.name + SUFFIX)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_digest(hdf5: Path, digest: str) -> None:
    """Write the digest of an HDF5 file, whole or not at all, and durable.

    Raises:
        OSError: it cannot be written.
    """
    path = digest_path(hdf5)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("w", encoding="ascii") as file:
            file.write(f"{digest}  {hdf5.name}\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def contradicted(hdf5: Path) -> bool:
    """Whether the digest beside an HDF5 file is that of another one; false where there is none.

    Raises:
        OSError: one of the two cannot be read.
    """
    path = digest_path(hdf5)
    if not path.is_file():
        return False
    digest = file_digest(hdf5).encode("ascii")
    with path.open("rb") as file:
        return file.read(len(digest)) != digest
