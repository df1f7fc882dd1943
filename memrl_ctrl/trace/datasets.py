"""Datasets of an HDF5 file that may come from anywhere: what they claim is checked before it is used."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.trace.columns import described
from memrl_ctrl.trace.journal import MAX_PAYLOAD_BYTES

DEFLATE_RATIO = 1032
"""Most bytes that one of a deflate stream can become (zlib's technical details: 1032 to 1)."""
CHUNK_BYTES = 1 << 20
"""More than the filled end of a last chunk."""


def found(file: Any, path: str) -> Any:
    """Return a dataset.

    Raises:
        ValueError: there is none of that path, or its values lie in another file.
    """
    dataset = file.get(path)
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise ValueError(f"{path} is missing")
    # A trace from elsewhere must not have a file of its reader's read, and shown as its own.
    if dataset.external or dataset.is_virtual or dataset.file.filename != file.file.filename:
        raise ValueError(f"{path} lies in another file")
    return dataset


def group(file: Any, path: str) -> Any:
    """Return a group.

    Raises:
        ValueError: there is none of that path.
    """
    there = file.get(path)
    if not isinstance(there, h5py.Group):
        raise ValueError(f"{path} is missing")
    if there.file.filename != file.file.filename:
        raise ValueError(f"{path} lies in another file")
    return there


def whole(file: Any, path: str, dtype: str, *row: int) -> NDArray[Any]:
    """Return all of a dataset.

    Args:
        file: `h5py.File`, or a group of it.
        path: of the dataset.
        dtype: its element type.
        row: shape of what its first dimension counts.

    Raises:
        ValueError: it is missing, of another type or shape, or claims more than its bytes can hold.
    """
    dataset = found(file, path)
    if dataset.dtype != np.dtype(dtype) or not dataset.ndim or dataset.shape[1:] != row:
        raise ValueError(f"{path} is {dataset.dtype} {dataset.shape}, which does not fit")
    if dataset.nbytes > DEFLATE_RATIO * dataset.id.get_storage_size() + CHUNK_BYTES:
        raise ValueError(f"{path} claims {dataset.nbytes} bytes, more than it can hold")
    return np.asarray(dataset[:])


def column(file: Any, path: str, cycles: int) -> Any:
    """Return the dataset of a column, which is read as str where it is text.

    Args:
        file: `h5py.File`, a trace.
        path: of the column.
        cycles: how many rows it has to have.

    Raises:
        ValueError: it is missing, or cannot be the column of that name.
    """
    dataset = found(file, path)
    text = h5py.check_string_dtype(dataset.dtype) is not None
    if text != _is_text(path, text) or not (text or dataset.dtype.kind in "iuf"):
        raise ValueError(f"{path} is {dataset.dtype}, which does not fit")
    if dataset.shape[:1] != (cycles,):
        raise ValueError(f"{path} is {dataset.shape}, which does not fit {cycles} cycles")
    if dataset.nbytes > MAX_PAYLOAD_BYTES * max(cycles, 1):
        raise ValueError(f"{path} claims {dataset.nbytes} bytes, more than any record has")
    return dataset.asstr() if text else dataset


def _is_text(path: str, otherwise: bool) -> bool:
    """Whether a column is text; `otherwise` for one that this release does not know."""
    try:
        return not described(path).units
    except KeyError:
        return otherwise
