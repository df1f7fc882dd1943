"""A journal record's payload in less space, and back to the same bytes.

The plain payload is a frame (`memrl_ctrl.frames`): its front (prefix, frame header, padding), then its
arrays. Packed it is a prefix, a Zstandard frame (RFC 8878), and bytes that cannot be compressed. The
Zstandard frame holds this stream:

```
the front, as it is
a byte for each array: how it is stored
the arrays, one after the other, without padding
```

Ways of storing an array:

- `PLAIN`: its bytes.
- `PLANES`: the first byte of each element, then the second of each, and so on.
- `LEVELS`: of float32. Number of different values, as `<u4`; their bits by rising value, as `<u4` in
  planes; then for each element the difference d of its place in that list to the one before it (of the
  first to 0), as `<i2` modulo 2^16, written as the `<u2` (d << 1) ^ (d >> 15), in planes.
- `SPLIT`: as in planes, but only the last plane (sign and exponent) is in the stream; the others are
  noise and stand behind the Zstandard frame.
- `EARLIER`: one byte, the number of an array in the cycle record whose sequence the prefix names; the
  bytes are that array's. A policy's memory goes in as it came out in the cycle before.

The prefix, little-endian: length of the plain payload `u4`, CRC32C that the plain record has `u4`,
length of the Zstandard frame `u4`, 0 `u4`, and the sequence of the earlier record `u8` (0: none).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import google_crc32c
import msgspec
import numpy as np
import zstandard

from memrl_ctrl.frames import DTYPES, MAX_ARRAYS, PREFIX, FrameError

HEAD = struct.Struct("<IIIIQ")
MEMORY_IN, MEMORY_OUT = "memory_in/", "memory_out/"
WORTH_PACKING_BYTES = 1024
"""A shorter payload stays as it is."""
LEVELS_FROM = 4096
"""Elements from which on an array is searched for a digitiser's levels."""
ELEMENTS_PER_LEVEL = 4
"""Fewer elements a level than this, and a list of levels saves nothing."""
BLOCK_FROM_BYTES = 512
"""A part of the stream from this length on has Zstandard blocks, and so statistics, of its own."""
SAMPLE_BYTES, NOISE_VALUES = 256, 128
"""A plane is taken for noise if so many different values are in a sample of it; of 256 bytes drawn at
random, 162 are different on average."""
LEVEL = 1
"""Zstandard's level; higher ones gain 1 % and cost the loop's time."""
KNOWN_BYTES = 1 << 13
"""A longer list of arrays is no cycle's, and is not remembered."""
MAX_WINDOW_BYTES = 1 << 23
"""Largest window of a Zstandard frame that is decoded; level 1 uses 0.5 MB."""


Part = bytes | memoryview


class Way(IntEnum):
    """How an array is stored."""

    PLAIN = 0
    PLANES = 1
    LEVELS = 2
    EARLIER = 3
    SPLIT = 4


class Spec(NamedTuple):
    """An array of a plain payload."""

    name: str
    dtype: np.dtype[Any]
    elements: int
    offset: int
    """Where it begins in the payload."""

    @property
    def size(self) -> int:
        """Bytes without padding."""
        return self.elements * self.dtype.itemsize


class Earlier(NamedTuple):
    """A cycle record whose arrays may stand for those of a later one."""

    sequence: int
    memory: Mapping[bytes, int]
    """The memories that came out in it: their bytes, and which of its arrays they are."""

    @classmethod
    def of(cls, sequence: int, payload: bytes) -> Earlier:
        """Make it from a record's plain payload."""
        memory = {
            payload[spec.offset : spec.offset + spec.size]: index
            for index, spec in enumerate(_layout(payload)[1])
            if spec.name.startswith(MEMORY_OUT)
        }
        return cls(sequence, memory)


class _Header(msgspec.Struct):
    message: msgspec.Raw
    arrays: msgspec.Raw


_header_decoder = msgspec.msgpack.Decoder(_Header)
_arrays_decoder = msgspec.msgpack.Decoder(list[tuple[str, str, list[int]]])


def packed(payload: bytes, crc: int, earlier: Earlier | None = None) -> bytes | None:
    """Return a payload in its packed form; None where that is not shorter.

    Args:
        payload: plain, as `memrl_ctrl.trace.codec.encode` makes it.
        crc: CRC32C in the head of the plain record.
        earlier: the cycle record before it in the journal.
    """
    if len(payload) < WORTH_PACKING_BYTES:
        return None
    front, specs = _layout(payload)
    found = {} if earlier is None else earlier.memory
    ways, refers = bytearray(), 0
    parts: list[Part] = [b""]
    noise: list[Part] = []
    whole = memoryview(payload)
    for spec in specs:
        data = whole[spec.offset : spec.offset + spec.size]
        same = found.get(bytes(data)) if spec.name.startswith(MEMORY_IN) else None
        if same is not None and earlier is not None:
            ways.append(Way.EARLIER)
            parts.append(bytes((same,)))
            refers = earlier.sequence
            continue
        way, pieces, rest = _stored(spec, data)
        ways.append(way)
        parts += pieces
        noise.append(rest)
    parts[0] = payload[:front] + bytes(ways)
    body = _compressed(parts)
    result = b"".join([HEAD.pack(len(payload), crc, len(body), 0, refers), body, *noise])
    return result if len(result) < len(payload) else None


def warm_up() -> None:
    """Do once what is compiled or loaded at its first use, so that no cycle has to wait for it."""
    bits = np.frombuffer(bytes(4 * LEVELS_FROM), dtype="<u4")
    _compressed(_stored(Spec("", np.dtype(np.float32), LEVELS_FROM, 0), bits.tobytes())[1])


class Packed(NamedTuple):
    """A packed payload, its prefix read."""

    length: int
    crc: int
    earlier: int
    """Sequence of the record that it takes arrays from; 0 for none."""
    body: bytes
    noise: bytes


def parsed(data: bytes, max_bytes: int) -> Packed:
    """Read a packed payload's prefix.

    Raises:
        FrameError: it is too short, or would be too long unpacked.
    """
    if len(data) < HEAD.size:
        raise FrameError(f"packed payload of {len(data)} bytes is shorter than its prefix")
    length, crc, body, spare, earlier = HEAD.unpack_from(data)
    if length > max_bytes:
        raise FrameError(f"packed payload of {length} bytes; at most {max_bytes}")
    if spare or body > len(data) - HEAD.size:
        raise FrameError("the prefix of the packed payload contradicts it")
    return Packed(
        length, crc, earlier, data[HEAD.size : HEAD.size + body], data[HEAD.size + body :]
    )


def unpacked(packed: Packed, earlier: bytes | None, *, lost: bool = False) -> bytes:
    """Return the plain payload.

    Args:
        packed: from `parsed`.
        earlier: plain payload of the record that it takes arrays from; None if there is none.
        lost: that record is lost: its arrays become NaN (floats) or 0, so that the rest is kept.

    Raises:
        FrameError: the bytes are no packed payload; nothing else is ever raised, whatever the bytes.
    """
    stream = _decompressed(packed)
    front, specs = _layout(stream)
    if sum(_padded(spec.size) for spec in specs) + front != packed.length:
        raise FrameError(f"the packed arrays do not fill the {packed.length} bytes announced")
    ways = stream[front : front + len(specs)]
    if len(ways) < len(specs):
        raise FrameError("the packed stream ends before its arrays")
    before = _layout(earlier)[1] if earlier is not None else []
    taker, noise = _Taker(stream, front + len(specs)), _Taker(packed.noise, 0)
    pieces = [stream[:front]]
    for spec, way in zip(specs, ways, strict=True):
        if way == Way.EARLIER:
            data = _taken(spec, taker.take(1)[0], before, earlier, lost=lost)
        else:
            data = _restored(spec, way, taker, noise)
        pieces.append(data.ljust(_padded(spec.size), b"\0"))
    if taker.left or noise.left:
        raise FrameError(f"{taker.left + noise.left} bytes follow the last packed array")
    payload = b"".join(pieces)
    return _checked_anew(payload) if lost else payload


def _checked_anew(payload: bytes) -> bytes:
    """Return a frame with the checksum that its content has."""
    magic, major, minor, size, _ = PREFIX.unpack_from(payload)
    crc = int(google_crc32c.value(payload[PREFIX.size :]))
    return PREFIX.pack(magic, major, minor, size, crc) + payload[PREFIX.size :]


def _layout(payload: bytes) -> tuple[int, tuple[Spec, ...]]:
    """Return the length of a frame's front, and its arrays."""
    if len(payload) < PREFIX.size:
        raise FrameError("the packed stream is shorter than a frame's prefix")
    size = PREFIX.unpack_from(payload)[3]
    front = _padded(PREFIX.size + size)
    try:
        header = _header_decoder.decode(payload[PREFIX.size : PREFIX.size + size])
        arrays = bytes(header.arrays)
        specs = _known_specs if len(arrays) <= KNOWN_BYTES else _specs
        return front, specs(arrays, front)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"header: {error}") from error


def _specs(arrays: bytes, front: int) -> tuple[Spec, ...]:
    """Return the arrays that a frame's header names, the first of them at `front`."""
    named = _arrays_decoder.decode(arrays)
    if len(named) > MAX_ARRAYS:
        raise FrameError(f"{len(named)} arrays; at most {MAX_ARRAYS} are accepted")
    specs, offset = [], front
    for name, dtype_name, shape in named:
        if dtype_name not in DTYPES or any(n < 0 for n in shape):
            raise FrameError(f"array {name!r} is {dtype_name} {shape}")
        spec = Spec(name, DTYPES[dtype_name], prod(shape), offset)
        specs.append(spec)
        offset += _padded(spec.size)
    return tuple(specs)


_known_specs = lru_cache(maxsize=8)(_specs)
"""A run's cycles name the same arrays, cycle after cycle."""


def _padded(size: int) -> int:
    return (size + 7) & ~7


def _stored(spec: Spec, data: bytes | memoryview) -> tuple[Way, list[Part], Part]:
    """Return how an array is stored, its parts of the stream, and what stands behind it."""
    itemsize = spec.dtype.itemsize
    if itemsize == 1 or spec.size < BLOCK_FROM_BYTES:
        return Way.PLAIN, [data], b""
    from memrl_ctrl.trace.planes import folded_levels, split_planes

    if spec.dtype == np.float32 and spec.elements >= LEVELS_FROM:
        found = folded_levels(data, spec.elements // ELEMENTS_PER_LEVEL)
        if found is not None:
            levels, steps = found
            listed = struct.pack("<I", levels.size) + split_planes(levels.tobytes(), 4).tobytes()
            return Way.LEVELS, [listed, steps[0].data, steps[1].data], b""
    planes = split_planes(data, itemsize)
    sample = planes[-2, :SAMPLE_BYTES].tobytes()
    if spec.dtype.kind == "f" and len(set(sample)) >= NOISE_VALUES:
        return Way.SPLIT, [planes[-1].data], planes[:-1].data
    return Way.PLANES, [plane.data for plane in planes], b""


def _whole(planes: bytes, itemsize: int) -> bytes:
    """Return elements from their planes."""
    return np.frombuffer(planes, dtype=np.uint8).reshape(itemsize, -1).T.tobytes()


class _Kept(threading.local):
    """A compressor for each thread: its tables are taken and cleared once, not in every cycle."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=LEVEL)


_kept = _Kept()


def _compressed(parts: Sequence[Part]) -> bytes:
    """Compress a stream; each long part gets statistics of its own."""
    total = sum(len(part) for part in parts)
    squeeze = _kept.compressor.compressobj(size=total)
    done: list[bytes] = []
    for part in parts:
        done.append(squeeze.compress(part))
        if len(part) >= BLOCK_FROM_BYTES:
            done.append(squeeze.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    done.append(squeeze.flush())
    return b"".join(done)


def _decompressed(packed: Packed) -> bytes:
    """Return the stream; its length cannot be much larger than what it unpacks to."""
    most = 2 * packed.length + 4 * (1 << 16)
    try:
        size = zstandard.get_frame_parameters(packed.body).content_size
        if not 0 <= size <= most:
            raise FrameError(f"the packed stream has {size} bytes; at most {most}")
        unpack = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        return unpack.decompress(packed.body, max_output_size=most, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FrameError(f"cannot be decompressed: {error}") from error


class _Taker:
    """Takes bytes off a stream."""

    def __init__(self, stream: bytes, position: int) -> None:
        self._stream = stream
        self._position = position

    @property
    def left(self) -> int:
        return len(self._stream) - self._position

    def take(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            FrameError: there are not so many left.
        """
        if size > self.left:
            raise FrameError("the packed stream ends within an array")
        start, self._position = self._position, self._position + size
        return self._stream[start : self._position]


def _restored(spec: Spec, way: int, taker: _Taker, noise: _Taker) -> bytes:
    if way == Way.PLAIN:
        return taker.take(spec.size)
    if way == Way.PLANES:
        return _whole(taker.take(spec.size), spec.dtype.itemsize)
    if way == Way.SPLIT:
        high = taker.take(spec.elements)
        return _whole(noise.take(spec.size - spec.elements) + high, spec.dtype.itemsize)
    if way == Way.LEVELS and spec.dtype == np.float32:
        count = int.from_bytes(taker.take(4), "little")
        levels = np.frombuffer(_whole(taker.take(4 * count), 4), dtype="<u4")
        folded = np.frombuffer(_whole(taker.take(2 * spec.elements), 2), dtype="<u2")
        steps = (folded >> 1) ^ (0 - (folded & np.uint16(1)))
        codes = np.cumsum(steps, dtype=np.uint16)
        if codes.size and (not count or int(codes.max()) >= count):
            raise FrameError(f"array {spec.name!r} names a level that is not there")
        return levels[codes].tobytes()
    raise FrameError(f"array {spec.name!r} ({spec.dtype}) is stored in an unknown way: {way}")


def _taken(
    spec: Spec, index: int, before: Sequence[Spec], payload: bytes | None, *, lost: bool
) -> bytes:
    """Return the bytes of an array of an earlier record."""
    if lost:
        return np.full(spec.elements, np.nan if spec.dtype.kind == "f" else 0, spec.dtype).tobytes()
    if payload is None or index >= len(before) or before[index].size != spec.size:
        raise FrameError(f"array {spec.name!r} stands in an earlier record that is not there")
    source = before[index]
    return payload[source.offset : source.offset + source.size]
