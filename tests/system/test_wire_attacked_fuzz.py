"""A live machine that gets damaged messages without end: all are answered, none plays, memory stays."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import msgspec
import pytest
import zmq

from memrl_backends.zmq import vectors, wire
from memrl_backends.zmq.wire import Role
from memrl_ctrl.frames import MAGIC, MAJOR, pack, unpack

from .attacked import EVIL, Attacked, bare, hello, under_attack

SETTLED_MIB = 16.0
"""What a machine may grow by from one quarter of the attack to the end, when its buffers have been made."""


@pytest.fixture
def attacked(tmp_path: Path) -> Iterator[Attacked]:
    with under_attack(tmp_path / "keys") as machine:
        yield machine


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Return a frame of one of the vectors with something wrong, mostly behind a right checksum."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            data[place:place] = rng.randbytes(rng.randrange(9))
        elif kind == 2:
            del data[place : place + rng.randrange(9)]
        else:
            data[place : place + 8] = rng.choice([b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7])
        if not data:
            data = bytearray(b"\0")
    if rng.random() < 0.9 and len(data) >= 16:
        data[:6] = MAGIC + struct.pack("<H", MAJOR)
        data[12:16] = struct.pack("<I", google_crc32c.value(bytes(data[16:])))
    return bytes(data)


def live_seeds(session: int) -> list[bytes]:
    """Return the vectors of every request but those that ask for the lease, with a session that is known."""
    seeds = []
    for name, (data, shown) in vectors.all_vectors().items():
        if shown["from"] == "client" and "refused" not in shown and name not in {
            "take-over", "lease-request", "lease-request-after"
        }:  # fmt: skip
            message, arrays = wire.decode_request(data)
            if isinstance(message, wire.Request):
                message = msgspec.structs.replace(message, session=session)
            seeds.append(pack(message, dict.fromkeys(arrays, EVIL["phi_hw_rad"])))
    return seeds


@pytest.mark.parametrize(
    "count", [4000, pytest.param(200_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.parametrize("role", [Role.OBSERVER, Role.CONTROLLER])
def test_a_fuzzed_machine_stays_up(attacked: Attacked, role: Role, count: int) -> None:
    """Damaged messages with a right checksum, with a live session in them: every one is answered, none
    plays, its rightful controller goes on in between, and memory stays."""
    rng = random.Random(1)
    refused = done = 0
    mib: list[float] = []
    with bare(attacked, zmq.DEALER, role, sndhwm=10_000, rcvhwm=10_000) as eve:
        seeds = live_seeds(hello(eve).session)
        for _quarter in range(4):
            for _ in range(count // 20):
                for _ in range(5):  # fewer than 8 replies outstanding: none may be lost
                    eve.send(mutated(rng, seeds))
                for _ in range(5):
                    reply, _ = unpack(eve.recv(), wire.replies)
                    refused += isinstance(reply, wire.Refusal)
                    done += not isinstance(reply, wire.Refusal)
            attacked.works()
            mib.append(attacked.memory_mib())
    assert refused + done == count
    assert done > count // 1000  # the fuzzer gets through to what it is to test
    attacked.unharmed()
    assert attacked.memory_mib() - mib[0] < SETTLED_MIB, mib
