"""Frames: typed headers and raw arrays in one buffer, the form of wire messages and journal records.

Layout, all numbers little-endian:

```
offset  size  what
0       4     magic "MRLC"
4       2     major version (another one is refused)
6       2     minor version (ignored)
8       4     length of the header, bytes
12      4     CRC32C of everything from offset 16 to the end
16      ...   header: msgpack map {"message": {"type": ..., ...}, "arrays": [[name, dtype, shape], ...]},
              and, where there are any, "critical": [names of fields of the message]
...     ...   zero padding to a multiple of 8, then the arrays in the header's order, each C-contiguous,
              little-endian, padded to a multiple of 8
```

Nothing is ever unpickled; what does not fit the declared types is refused with `FrameError`. A field that is
not known is ignored, unless `critical` names it: then the frame is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import msgspec
import numpy as np
from numpy.typing import NDArray

MAGIC = b"MRLC"
MAJOR, MINOR = 1, 0
PREFIX = struct.Struct("<4sHHII")
MAX_BYTES = 1 << 20
"""Largest frame that is accepted unless said otherwise, bytes."""
SMALL = 4096
"""A frame of at most so many bytes is copied before it is read."""
MAX_ARRAYS = 64
MAX_DIMENSIONS = 4
DTYPES = {
    name: np.dtype(name)
    for name in ("<f4", "<f8", "<i4", "<i8", "<u2", "<u4", "<u8", "|u1", "|i1", "|b1")
}
"""The element types that a frame may carry."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class FrameError(ValueError):
    """Bytes that are no frame, or a frame that does not say what it should."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of every message; a subclass names itself with `tag=`."""


class _Header(msgspec.Struct, omit_defaults=True):
    message: msgspec.Raw
    arrays: list[tuple[str, str, list[int]]]
    critical: list[str] = []


_header_decoder = msgspec.msgpack.Decoder(_Header)
_encoder = msgspec.msgpack.Encoder()
PADDING = [b"\0" * size for size in range(8)]


def _padded(size: int) -> int:
    return (size + 7) & ~7


class PackedArrays:
    """Arrays in the form in which frames hold them, for several messages with the same arrays.

    Args:
        arrays: name to array; any layout and byte order, stored C-contiguous and little-endian.

    Raises:
        FrameError: an array has an element type that frames do not carry.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.specs: list[tuple[str, str, list[int]]] = []
        contents: list[Any] = []
        for name, array in arrays.items():
            own = _NAMES.get(array.dtype)
            flat = array
            if own is None:
                little = array.dtype.newbyteorder("<")
                own = _NAMES.get(little)
                if own is None:
                    raise FrameError(
                        f"array {name!r} has dtype {array.dtype}; allowed: {sorted(DTYPES)}"
                    )
                flat = array.astype(little)
            if not flat.flags.c_contiguous:
                flat = np.ascontiguousarray(flat)
            self.specs.append((name, own, list(array.shape)))
            contents += [flat, PADDING[-flat.nbytes % 8]]
        # numpy arrays are buffers: joined without a copy of their own
        self.data = b"".join(contents)


NO_ARRAYS = PackedArrays({})


def pack(
    message: msgspec.Struct,
    arrays: Mapping[str, NDArray[Any]] | PackedArrays | None = None,
    *,
    critical: Sequence[str] = (),
) -> bytes:
    """Encode a message and its arrays as one frame.

    Args:
        message: a tagged struct, usually a `Message`.
        arrays: name to array, or what was made of that before.
        critical: fields of the message that whoever does not know them must not ignore.

    Raises:
        FrameError: an array has an element type that frames do not carry.
    """
    if not isinstance(arrays, PackedArrays):
        arrays = PackedArrays(arrays) if arrays else NO_ARRAYS
    packed = arrays
    header = _encoder.encode(
        _Header(msgspec.Raw(_encoder.encode(message)), packed.specs, list(critical))
    )
    padded = header + PADDING[-(PREFIX.size + len(header)) % 8]
    crc = google_crc32c.value(padded)
    if packed.data:
        crc = google_crc32c.extend(crc, packed.data)
    return b"".join((PREFIX.pack(MAGIC, MAJOR, MINOR, len(header), crc), padded, packed.data))


def unpack(
    data: bytes | memoryview,
    decoder: msgspec.msgpack.Decoder[Any],
    *,
    max_bytes: int = MAX_BYTES,
) -> tuple[Any, dict[str, NDArray[Any]]]:
    """Decode a frame.

    Args:
        data: the whole frame; it must not change while the arrays are in use.
        decoder: typed for the union of messages that are expected here.
        max_bytes: a larger frame is refused unread.

    Returns:
        The message, and its arrays by name (read-only views of `data`, or of a copy of it).

    Raises:
        FrameError: with what is wrong; nothing else is ever raised, whatever the bytes.
    """
    size = len(data)
    if size > max_bytes:
        raise FrameError(f"frame of {size} bytes; at most {max_bytes} are accepted")
    if size < PREFIX.size:
        raise FrameError(f"frame of {size} bytes is shorter than its prefix of {PREFIX.size}")
    magic, major, _minor, header_size, crc = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise FrameError(f"magic {bytes(magic)!r} is not {MAGIC!r}")
    if major != MAJOR:
        raise FrameError(f"frame version {major}; this side speaks {MAJOR}")
    whole: NDArray[np.uint8] | None = None
    if size <= SMALL:  # numpy's calls would cost more than all the rest
        data = bytes(data)
        actual = google_crc32c.value(data[PREFIX.size :])
    else:
        whole = _viewed(data)
        actual = google_crc32c.value(whole[PREFIX.size :])
    if actual != crc:
        raise FrameError("checksum does not match: the frame was damaged")
    if header_size > size - PREFIX.size:
        raise FrameError(f"header of {header_size} bytes in a body of {size - PREFIX.size}")
    try:
        header = _header_decoder.decode(data[PREFIX.size : PREFIX.size + header_size])
        message = decoder.decode(header.message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"header: {error}") from error
    for name in header.critical:
        if name not in message.__struct_encode_fields__:
            raise FrameError(
                f"field {name!r} of {type(message).__name__} must not be ignored, "
                "and is not known here: the other side is newer"
            )
    position = _padded(PREFIX.size + header_size)
    if not header.arrays and position == size:
        return message, {}
    return message, _arrays(header, _viewed(data) if whole is None else whole, position)


def _viewed(data: bytes | memoryview) -> NDArray[np.uint8]:
    whole = np.frombuffer(data, dtype=np.uint8)
    whole.flags.writeable = False
    return whole


def _arrays(header: _Header, whole: NDArray[np.uint8], position: int) -> dict[str, NDArray[Any]]:
    if len(header.arrays) > MAX_ARRAYS:
        raise FrameError(f"{len(header.arrays)} arrays; at most {MAX_ARRAYS} are accepted")
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype_name, shape in header.arrays:
        if dtype_name not in DTYPES:
            raise FrameError(f"array {name!r} has dtype {dtype_name!r}; allowed: {sorted(DTYPES)}")
        if name in arrays:
            raise FrameError(f"array {name!r} stands twice")
        # A length beyond the body is wrong even beside a length of 0, and numpy would not take it.
        if len(shape) > MAX_DIMENSIONS or not all(0 <= n <= whole.size for n in shape):
            raise FrameError(f"array {name!r} has shape {shape}")
        dtype = DTYPES[dtype_name]
        count = math.prod(shape)
        size = count * dtype.itemsize
        if position + size > whole.size:
            raise FrameError(f"array {name!r} of {size} bytes reaches past the end of the frame")
        flat = whole[position : position + size].view(dtype)
        arrays[name] = flat.reshape(shape)
        position += _padded(size)
    if position != whole.size:
        raise FrameError(f"{whole.size - position} bytes follow the last array")
    return arrays
