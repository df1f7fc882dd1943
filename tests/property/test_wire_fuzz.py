"""A fuzzer over the decoder and the desk: mutated messages by the thousand, by the million where slow."""

from __future__ import annotations

import os
import random
import resource
import struct
from collections.abc import Iterator

import google_crc32c
import numpy as np
import pytest

from memrl_backends.zmq import vectors, wire
from memrl_backends.zmq.commands import CommandDesk, Machine
from memrl_backends.zmq.fence import FenceCounter
from memrl_backends.zmq.keys import Peer
from memrl_backends.zmq.lease import Authority
from memrl_backends.zmq.player import Player
from memrl_backends.zmq.wire import Mode, Role
from memrl_ctrl.errors import RefusalReason
from memrl_ctrl.frames import MAGIC, MAJOR, FrameError, unpack
from memrl_ctrl.testing import FakeBackend

COUNTS = [20_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
GROWTH_MIB = 40.0
EDGES = [b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\xcf" + b"\xff" * 8, b"\xc1", b"\xdf\xff"]


class Mutator:
    """Makes messages that are wrong somewhere, most of them behind a right checksum."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._seeds = [data for data, _ in vectors.all_vectors().values()]

    def __call__(self) -> bytes:
        rng = self._rng
        data = bytearray(rng.choice(self._seeds))
        if rng.random() < 0.05:  # two messages spliced
            other = rng.choice(self._seeds)
            data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]
        for _ in range(rng.randrange(1, 5)):
            place = rng.randrange(len(data)) if data else 0
            kind = rng.randrange(5)
            if kind == 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            elif kind == 1:
                data[place:place] = rng.randbytes(rng.randrange(9))
            elif kind == 2:
                del data[place : place + rng.randrange(9)]
            elif kind == 3:
                edge = rng.choice(EDGES)
                data[place : place + len(edge)] = edge
            else:
                data[8:12] = struct.pack("<I", rng.choice([0, 1, 98, len(data), 2**32 - 1]))
        if rng.random() < 0.9 and len(data) >= 16:
            data[:6] = MAGIC + struct.pack("<H", MAJOR)
            data[12:16] = struct.pack("<I", google_crc32c.value(bytes(data[16:])))
        return bytes(data)


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture
def desk() -> Iterator[tuple[CommandDesk, FakeBackend]]:
    read, write = os.pipe()
    backend = FakeBackend(points=2, n_slices=16)
    player = Player(backend, write)
    machine = Machine(
        description=backend.description, period_s=0.0, readings_port=1, server="", instance=""
    )
    authority = Authority(duration_s=1e6, fences=FenceCounter(None), mode=Mode.ARMED)
    made = CommandDesk(machine, player, authority)
    # Somebody holds the lease all the time.
    hello = wire.Hello(sequence=0, oldest=1, newest=1, client="holder")
    holder = Peer("holder", Role.CONTROLLER, "h")
    session = unpack(made.answer(b"h", holder, hello, {}, 1), wire.replies)[0].session
    made.answer(b"h", holder, wire.LeaseRequest(session=session, sequence=1), {}, 1)
    yield made, backend
    player.close()
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("count", COUNTS)
def test_no_mutated_message_breaks_the_decoder_or_writes(
    desk: tuple[CommandDesk, FakeBackend], count: int
) -> None:
    """Each is read or refused with `FrameError`, by every decoder; what is read as a request is answered,
    by a role that may not write nothing is written, and memory does not grow."""
    made, backend = desk
    mutate = Mutator(count)
    eve = Peer("eve", Role.RECOMMENDER, "e")
    answered = read = 0
    before_mib = memory_mib()
    for _ in range(count):
        data = mutate()
        for decoder in (wire.replies, wire.published):
            try:
                unpack(data, decoder)
            except FrameError:
                continue
        try:
            request, arrays = wire.decode_request(data)
        except FrameError:
            continue
        read += 1
        reply, _ = unpack(made.answer(b"e", eve, request, arrays, 2), wire.replies)
        answered += 1
        assert reply.sequence == request.sequence
        made.outgoing.clear()
    assert answered == read > count // 100  # the fuzzer gets through to what it is to test
    assert made.commits == 0
    assert np.array_equal(backend.observe().applied_rad, np.zeros(2))
    assert memory_mib() - before_mib < GROWTH_MIB


def test_sessions_that_are_guessed_open_nothing(desk: tuple[CommandDesk, FakeBackend]) -> None:
    """Of a hundred thousand guessed sessions none is anybody's."""
    made, _ = desk
    eve = Peer("eve", Role.CONTROLLER, "e")
    rng = random.Random(3)
    for sequence in range(1, 100_000):
        request = wire.StatusRequest(session=rng.getrandbits(62), sequence=sequence)
        reply, _ = unpack(made.answer(b"e", eve, request, {}, 2), wire.replies)
        assert reply.reason is RefusalReason.STALE
