"""What was acknowledged: functions that the machine took, kept over a kill of its process.

A file of frames (`memrl_ctrl.frames`), each behind its length (uint32, little-endian). An entry is handed to
the operating system before its receipt is sent: it survives whatever ends the process, though not a loss
of power. What a kill left half written at the end is cut off when the file is opened again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from memrl_backends.zmq.wire import Count, Key, PointName, Text
from memrl_ctrl.backend import FloatArray
from memrl_ctrl.errors import FileError
from memrl_ctrl.frames import FrameError, Message, pack, unpack

REMEMBERED = 256
"""Newest entries that are kept; what was taken before can no longer be asked for by its key."""
LARGEST = 1 << 20
"""A longer file is written anew with the newest entries only, bytes."""
LENGTH = struct.Struct("<I")


class Entry(Message, tag="taken", frozen=True):
    """One acknowledged function; array `applied_rad` [points] float64, rad."""

    client: Text
    """Public key of who sent it, or its name where there are no keys."""
    key: Key
    """Idempotency key, or empty."""
    content: Text
    """Digest of what was asked for (`content_digest`)."""
    cycle: Count
    fence: Count
    machine: Text
    program: Text


_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


def content_digest(phi_hw_rad: FloatArray, cycle: int, points: list[PointName] | None) -> str:
    """Return what tells one asked-for function from another."""
    digest = hashlib.blake2b(phi_hw_rad.tobytes(), digest_size=16)
    digest.update(msgspec.msgpack.encode((cycle, points)))
    return digest.hexdigest()


class Ledger:
    """Remembers the newest acknowledged functions.

    Args:
        path: of the file; None forgets at the end of the process.

    Raises:
        FileError: the file cannot be written, or another machine is using it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor = -1
        self._size = 0
        self._entries: OrderedDict[tuple[str, str], tuple[Entry, FloatArray]] = OrderedDict()
        if path is not None:
            self._open(path)

    @property
    def last(self) -> tuple[Entry, FloatArray] | None:
        """The newest entry and its function, rad."""
        return next(reversed(self._entries.values()), None)

    def find(self, client: str, key: str) -> tuple[Entry, FloatArray] | None:
        """Return what a client had acknowledged under an idempotency key."""
        return self._entries.get((client, key)) if key else None

    def record(self, entry: Entry, applied_rad: FloatArray) -> None:
        """Keep an entry; when this returns it survives a kill.

        Raises:
            FileError: it cannot be written.
        """
        if self._path is not None:
            data = pack(entry, {"applied_rad": applied_rad})
            self._append(LENGTH.pack(len(data)) + data)
        self._remember(entry, applied_rad)
        if self._size > LARGEST:
            self._rewrite()

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _remember(self, entry: Entry, applied_rad: FloatArray) -> None:
        # Without a key nobody can ask for it: only the newest such entry is of use.
        name = entry.key or "\0"
        self._entries.pop((entry.client, name), None)
        self._entries[entry.client, name] = entry, applied_rad
        while len(self._entries) > REMEMBERED:
            self._entries.popitem(last=False)

    def _open(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._descriptor = os.open(path, flags, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = path.read_bytes()
        except BlockingIOError as error:
            self.close()
            raise FileError(path, "another machine is using this: stop it first") from error
        except OSError as error:
            self.close()
            raise FileError(
                path, f"acknowledged functions cannot be kept here: {error.strerror}"
            ) from error
        whole = 0
        for entry, applied_rad, end in _entries(data):
            self._remember(entry, applied_rad)
            whole = end
        if whole < len(data):
            os.ftruncate(self._descriptor, whole)
        self._size = whole

    def _append(self, data: bytes) -> None:
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                raise OSError(0, "the disk is full")
        except OSError as error:
            os.ftruncate(
                self._descriptor, self._size
            )  # nothing half written stands before the next
            raise FileError(str(self._path), f"cannot be written: {error.strerror}") from error
        self._size += len(data)

    def _rewrite(self) -> None:
        """Keep the newest entries only; the old file stays until the new one is whole."""
        path = Path(str(self._path))
        new = path.with_name(path.name + ".new")
        parts = [pack(entry, {"applied_rad": applied}) for entry, applied in self._entries.values()]
        try:
            descriptor = os.open(
                new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        except OSError:
            return  # it stays long, and is tried again after the next entry
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(b"".join(LENGTH.pack(len(part)) + part for part in parts))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(path)
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, sum(LENGTH.size + len(part) for part in parts)


def _entries(data: bytes) -> Iterator[tuple[Entry, FloatArray, int]]:
    """Yield entries and where they end, up to the first that is not whole."""
    place = 0
    while place + LENGTH.size <= len(data):
        (size,) = LENGTH.unpack_from(data, place)
        begin, place = place + LENGTH.size, place + LENGTH.size + size
        try:
            entry, arrays = unpack(data[begin:place], _decoder)
        except FrameError:
            return
        applied = arrays.get("applied_rad")
        if applied is None or applied.dtype != np.float64 or applied.ndim != 1:
            return
        yield entry, applied, place
