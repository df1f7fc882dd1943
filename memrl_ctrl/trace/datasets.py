"""Datasets of an HDF5 file that may come from anywhere: what they claim is checked before it is used."""

from __future__ import annotations

from math import prod
from typing import Any, TypeVar

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.trace.columns import described
from memrl_ctrl.trace.journal import MAX_PAYLOAD_BYTES

DEFLATE_RATIO = 1032
"""Most bytes that one of a deflate stream can become (zlib's technical details: 1032 to 1)."""
CHUNK_BYTES = 1 << 20
"""More than the filled end of a last chunk."""
FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
"""Filters that a trace may have, each once: what their bytes can become is known."""
KINDS = {str: "text", int: "a whole number", float: "a number"}

DAMAGE = (
    MemoryError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    msgspec.MsgspecError,
)
"""What h5py and numpy make of a false file."""

T = TypeVar("T", str, int, float)


def has(file: Any, path: str) -> bool:
    """Whether a file has an object of that path, and has it itself.

    Raises:
        ValueError: a link stands on the way.
    """
    return _reached(file, path) is not None


def found(file: Any, path: str) -> Any:
    """Return a dataset.

    Raises:
        ValueError: there is none of that path, its values lie in another file, or it is packed otherwise
            than a trace's.
    """
    dataset = _reached(file, path)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{path} is missing")
    properties = dataset.id.get_create_plist()
    # A trace from elsewhere must not have a file of its reader's read, and shown as its own. Asked for
    # before anything else: the shape of a virtual dataset is looked up in its sources.
    if properties.get_layout() == h5py.h5d.VIRTUAL or properties.get_external_count():
        raise ValueError(f"{path} lies in another file")
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if len(set(filters)) < len(filters) or not FILTERS.issuperset(filters):
        raise ValueError(f"{path} is packed by filters that a trace does not have: {filters}")
    if dataset.shape is None:
        raise ValueError(f"{path} is missing")
    if prod(dataset.chunks or ()) * dataset.dtype.itemsize > MAX_PAYLOAD_BYTES:
        raise ValueError(f"{path} has chunks of {dataset.chunks}, more than any record has")
    return dataset


def group(file: Any, path: str) -> Any:
    """Return a group.

    Raises:
        ValueError: there is none of that path, or it lies in another file.
    """
    there = _reached(file, path)
    if not isinstance(there, h5py.Group):
        raise ValueError(f"{path} is missing")
    return there


def is_group(file: Any, path: str) -> bool:
    """Whether a file has a group of that path.

    Raises:
        ValueError: a link stands on the way.
    """
    return isinstance(_reached(file, path), h5py.Group)


def attribute(holder: Any, name: str, kind: type[T]) -> T:
    """Return an attribute: a text, a whole number or a number.

    Raises:
        ValueError: it is missing, or something else.
    """
    if name not in holder.attrs:
        raise ValueError(f"attribute {name} is missing")
    held = holder.attrs.get_id(name)
    if held.shape == () and _is_of(held.dtype, kind):
        value = kind(holder.attrs[name])
        if not isinstance(value, str) or _is_utf8(value):
            return value
    raise ValueError(f"attribute {name} is not {KINDS[kind]}")


def text(file: Any, path: str) -> str:
    """Return a dataset that is a single text.

    Raises:
        ValueError: it is missing, or something else.
    """
    dataset = found(file, path)
    if dataset.shape != () or not _is_of(dataset.dtype, str):
        raise ValueError(f"{path} is {dataset.dtype} {dataset.shape}, not a text")
    try:
        return str(dataset.asstr()[()])
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text") from error


def whole(file: Any, path: str, dtype: str, *row: int) -> NDArray[Any]:
    """Return all of a dataset; text as str.

    Args:
        file: `h5py.File`, or a group of it.
        path: of the dataset.
        dtype: its element type; `O` is text.
        row: shape of what its first dimension counts.

    Raises:
        ValueError: it is missing, of another type or shape, or claims more than its bytes can hold.
    """
    dataset = found(file, path)
    is_text = dtype == "O"
    fits = _is_of(dataset.dtype, str) if is_text else dataset.dtype == np.dtype(dtype)
    if not fits or not dataset.ndim or dataset.shape[1:] != row:
        raise ValueError(f"{path} is {dataset.dtype} {dataset.shape}, which does not fit")
    check_claim(path, dataset.nbytes, dataset.id.get_storage_size())
    return np.asarray(dataset.asstr()[:] if is_text else dataset[:])


def check_claim(path: str, claimed: int, stored: int) -> None:
    """Refuse a dataset whose bytes in the file cannot become what it claims.

    Raises:
        ValueError: they cannot.
    """
    if claimed > DEFLATE_RATIO * stored + CHUNK_BYTES:
        raise ValueError(f"{path} claims {claimed} bytes, more than it can hold")


def column(file: Any, path: str, cycles: int) -> Any:
    """Return the dataset of a column.

    Args:
        file: `h5py.File`, a trace.
        path: of the column.
        cycles: how many rows it has to have.

    Raises:
        ValueError: it is missing, or cannot be the column of that name.
    """
    dataset = found(file, path)
    is_text = _is_of(dataset.dtype, str)
    if is_text == bool(described(path).units) or not (is_text or dataset.dtype.kind in "iufb"):
        raise ValueError(f"{path} is {dataset.dtype}, which does not fit")
    if dataset.shape[:1] != (cycles,):
        raise ValueError(f"{path} is {dataset.shape}, which does not fit {cycles} cycles")
    return dataset


def values(dataset: Any, path: str, rows: slice) -> NDArray[Any]:
    """Return some rows of a column; text as str.

    Args:
        dataset: from `column`.
        path: of it.
        rows: which ones, step positive.

    Raises:
        ValueError: a text is no UTF-8.
    """
    if not _is_of(dataset.dtype, str):
        return np.asarray(dataset[rows])
    try:
        return np.asarray(dataset.asstr()[rows])
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text") from error


def _reached(file: Any, path: str) -> Any:
    """Return the object of a path; None where there is none.

    No link is followed: where one leads, to a pipe for example, is looked up as soon as it is opened.

    Raises:
        ValueError: a link stands on the way.
    """
    there = file
    for part in path.split("/"):
        name = part.encode()
        if not isinstance(there, h5py.Group) or not there.id.links.exists(name):
            return None
        kind = there.id.links.get_info(name).type
        if kind == h5py.h5l.TYPE_EXTERNAL:
            raise ValueError(f"{path} lies in another file")
        if kind != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{path} is a link, which no trace has")
        there = there[part]
    return there


def _is_of(dtype: np.dtype[Any], kind: type) -> bool:
    """Whether an element type is that of a text, of whole numbers or of numbers."""
    held = h5py.check_string_dtype(dtype)
    if kind is str:
        return held is not None and held.length is None
    return held is None and dtype.kind in ("iu" if kind is int else "iuf")


def _is_utf8(value: str) -> bool:
    """Whether a text was UTF-8 in the file: h5py makes lone surrogates of other bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
