"""Whatever bytes arrive, the messages are read or refused with FrameError, and the desk answers."""

from __future__ import annotations

import os
import struct
from typing import Any

import google_crc32c
import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_backends.zmq import wire
from memrl_backends.zmq.commands import CommandDesk, Machine
from memrl_backends.zmq.fence import FenceCounter
from memrl_backends.zmq.keys import Peer
from memrl_backends.zmq.lease import Authority
from memrl_backends.zmq.player import Player
from memrl_ctrl.frames import MAGIC, MAJOR, FrameError, pack, unpack
from memrl_ctrl.testing import FakeBackend

TAGS = [
    "hello", "lease-request", "release", "stage", "test", "commit", "rollback", "submit", "hold",
    "snapshot-request", "status-request", "recommend", "arm", "disarm", "take-over",
    "welcome", "receipt", "reading", "nonsense",
]  # fmt: skip
FIELDS = [
    "session", "sequence", "fence", "cycle", "deadline_ns", "oldest", "newest", "client",
    "role", "points", "key", "after", "stream", "stamp_ns",
]  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=5)
)
MESSAGES = st.builds(
    lambda tag, fields: {"type": tag, **fields},
    st.sampled_from(TAGS),
    st.dictionaries(st.sampled_from(FIELDS), st.one_of(SCALARS, st.integers(0, 10))),
)
DECODERS = (wire.requests, wire.replies, wire.published)


def frame(body: bytes, header_size: int) -> bytes:
    """Return bytes with a right prefix and checksum, whatever follows it."""
    crc = int(google_crc32c.value(body))
    return struct.pack("<4sHHII", MAGIC, MAJOR, 0, header_size, crc) + body


def read(data: bytes) -> None:
    """Decode with every decoder; only `FrameError` may come out."""
    for decoder in DECODERS:
        try:
            unpack(data, decoder)
        except FrameError:
            continue
    try:
        wire.decode_request(data)
    except FrameError:
        return


@given(st.binary(max_size=300))
def test_junk_is_a_frame_error(data: bytes) -> None:
    """Bytes that nobody made a message of raise FrameError and nothing else."""
    read(data)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_junk_behind_a_right_checksum_is_a_frame_error(body: bytes, header_size: int) -> None:
    """A right checksum does not open the door to what follows it."""
    read(frame(body, header_size))


@given(MESSAGES, st.lists(st.tuples(st.text(max_size=5), st.sampled_from(["<f8", "<f4", "O"]),
       st.lists(st.integers(-2, 2**40), max_size=5)), max_size=3), st.binary(max_size=64))  # fmt: skip
def test_any_header_is_read_or_refused(
    message: dict[str, Any], arrays: list[tuple[str, str, list[int]]], tail: bytes
) -> None:
    """Fields of any type and size, and arrays of any claim, are read or refused."""
    header = msgspec.msgpack.encode({"message": message, "arrays": arrays})
    padding = -(16 + len(header)) % 8
    read(frame(header + b"\0" * padding + tail, len(header)))


@given(st.data())
def test_one_changed_byte_is_found(data: st.DataObject) -> None:
    """No damaged message is taken for a whole one (byte 6 and 7, the minor version, aside)."""
    whole = pack(
        wire.Submit(session=1, sequence=2, fence=3, cycle=4, deadline_ns=5),
        {"phi_hw_rad": np.array([0.1, 0.2])},
    )
    place = data.draw(st.integers(0, len(whole) - 1).filter(lambda i: i not in (6, 7)))
    change = data.draw(st.integers(1, 255))
    damaged = bytearray(whole)
    damaged[place] ^= change
    try:
        got = wire.decode_request(bytes(damaged))
    except FrameError:
        return
    raise AssertionError(f"byte {place} changed by {change} went unnoticed: {got}")


NUMBERS = st.one_of(st.integers(0, 5), st.integers(0, 30), st.integers(0, 2**63 - 1))
FUNCTIONS = st.lists(st.one_of(st.floats(-2.0, 2.0), st.floats()), min_size=0, max_size=6).map(
    lambda values: np.array(values, dtype=np.float64)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(TAGS[:15]), NUMBERS, NUMBERS, FUNCTIONS), max_size=12))
def test_no_sequence_of_requests_breaks_a_limit(
    asked: list[tuple[str, int, int, np.ndarray]],
) -> None:
    """Whatever is asked in whatever order gets one reply, and what is applied keeps the limits."""
    reading, writing = os.pipe()
    backend = FakeBackend(points=4, n_slices=16)
    player = Player(backend, writing)
    machine = Machine(
        description=backend.description, period_s=0.0, readings_port=1, server="", instance=""
    )
    authority = Authority(duration_s=1.0, fences=FenceCounter(None), mode=wire.Mode.ARMED)
    desk = CommandDesk(machine, player, authority)
    peer = Peer("operator", wire.Role.OPERATOR)
    session = 0
    try:
        for sequence, (tag, cycle, fence, function) in enumerate(asked, start=1):
            fields = {"type": tag, "session": session, "sequence": sequence, "fence": fence,
                      "cycle": cycle, "deadline_ns": 10**9, "oldest": 1, "newest": 1,
                      "client": "me"}  # fmt: skip
            request = wire.requests.decode(msgspec.msgpack.encode(fields))
            reply, _ = unpack(
                desk.answer(b"me", peer, request, {"phi_hw_rad": function}, sequence), wire.replies
            )
            session = reply.session if isinstance(reply, wire.Welcome) else session
            before = player.last.applied_rad
            player.begin()
            while player.finished() is None:
                os.read(reading, 1)
            backend.description.limits.check(
                player.last.applied_rad, before, backend.description.ctime_ms
            )
    finally:
        player.close()
        os.close(reading)
        os.close(writing)
