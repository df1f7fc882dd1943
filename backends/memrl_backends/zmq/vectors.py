"""Test vectors of the protocol: `python -m memrl_backends.zmq.vectors FOLDER` writes them.

Each is `NAME.bin`, one frame, and `NAME.json`, what it says: `message`, `arrays`, or `refused` with why it
must not be read. They are made of fixed values only; the tests hold `docs/protocol/vectors` against them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_backends.zmq import wire
from memrl_backends.zmq.convert import limits_digest
from memrl_ctrl.errors import RefusalReason
from memrl_ctrl.frames import MAGIC, MAJOR, PREFIX, pack

Arrays = dict[str, NDArray[Any]]
SESSION: dict[str, Any] = {"session": 5, "sequence": 2}
FENCED: dict[str, Any] = {**SESSION, "fence": 9}
FUNCTION = {"phi_hw_rad": np.array([0.5, -0.25])}
LIMITS = wire.Limits(min_rad=-4.0, max_rad=4.0, step_rad=1.5, slope_rad_per_ms=0.125)
RATE = wire.Rate(travel_rad=3.0, cycles=20)


def requests() -> Iterator[tuple[str, msgspec.Struct, Arrays]]:
    """Yield name, message and arrays of every request."""
    yield "hello", wire.Hello(sequence=1, oldest=1, newest=1, client="example"), {}
    yield (
        "hello-expecting",
        wire.Hello(
            sequence=1,
            oldest=1,
            newest=1,
            client="example",
            role=wire.Role.OBSERVER,
            machine="psb",
            limits_digest=limits_digest(LIMITS),
        ),
        {},
    )
    yield "lease-request", wire.LeaseRequest(**SESSION), {}
    yield "lease-request-after", wire.LeaseRequest(**SESSION, after=9), {}
    yield "release", wire.Release(**FENCED), {}
    yield "stage", wire.Stage(**FENCED, cycle=13), FUNCTION
    yield "stage-points", wire.Stage(**FENCED, cycle=13, points=[3, "C805"]), FUNCTION
    yield "test", wire.Test(**FENCED), {}
    yield "commit", wire.Commit(**FENCED, deadline_ns=10**9, key="a1"), {}
    yield "rollback", wire.Rollback(**FENCED), {}
    yield "submit", wire.Submit(**FENCED, cycle=13, deadline_ns=10**9), FUNCTION
    yield (
        "submit-key",
        wire.Submit(**FENCED, cycle=13, deadline_ns=10**9, key="a1", points=["C275", "C805"]),
        FUNCTION,
    )
    yield "hold", wire.Hold(**FENCED, cycle=13), {}
    yield "recommend", wire.Recommend(**SESSION, cycle=13), FUNCTION
    yield "arm", wire.Arm(**SESSION), {}
    yield "disarm", wire.Disarm(**SESSION), {}
    yield "take-over", wire.TakeOver(**SESSION), {}
    yield "snapshot-request", wire.SnapshotRequest(**SESSION), {}
    yield "status-request", wire.StatusRequest(**SESSION), {}


def replies() -> Iterator[tuple[str, msgspec.Struct, Arrays]]:
    """Yield name, message and arrays of what a machine says."""
    yield (
        "welcome",
        wire.Welcome(
            sequence=1,
            version=1,
            session=5,
            instance="0123456789abcdef",
            server="memrl-ctrl",
            role=wire.Role.CONTROLLER,
            key_name="controller",
            machine="psb",
            program="psb-2gev",
            backend="blond",
            fidelity="matched",
            points=2,
            point_names=["C275", "C805"],
            n_slices=8,
            limits=LIMITS,
            limits_digest=limits_digest(LIMITS, RATE),
            period_s=1.2,
            readings_port=5751,
            server_clock_ns=10**12,
            lease_s=2.4,
            writable=True,
            mode=wire.Mode.ARMED,
            features=list(wire.FEATURES),
            rate=RATE,
        ),
        {"ctime_ms": np.array([275.0, 805.0])},
    )
    yield (
        "lease-grant",
        wire.LeaseGrant(
            sequence=2, fence=9, expires_ns=10**12, duration_s=2.4, cycle=12, next_cycle=13
        ),
        {},
    )
    yield "done", wire.Done(sequence=2, what="staged"), {}
    yield (
        "receipt",
        wire.ReceiptMessage(sequence=2, cycle=13, fence=9, expires_ns=10**12),
        {"applied_rad": np.array([0.5, -0.25])},
    )
    yield (
        "refusal",
        wire.Refusal(sequence=2, reason=RefusalReason.LATE, detail="cycle 13 has begun"),
        {},
    )
    yield (
        "reading",
        wire.ReadingMessage(sequence=0, stream=12, cycle=12, stamp_ns=10**18),
        _reading(),
    )
    yield (
        "status",
        wire.Status(
            sequence=0,
            stream=12,
            cycle=12,
            next_cycle=13,
            playing=False,
            mode=wire.Mode.MANUAL,
            operator="anna (operator)",
            instance="0123456789abcdef",
            holder="anna (operator)",
            fence=10,
            server_clock_ns=10**12,
        ),
        {},
    )
    yield "recommendation", wire.Recommendation(name="shadow (recommender)", cycle=13), FUNCTION
    yield "goodbye", wire.Goodbye(why="it was stopped"), {}


def _reading() -> Arrays:
    return {
        "profile": np.arange(16, dtype=np.float32).reshape(2, 8) / 16,
        "setpoint_rad": np.array([0.5, 0.25]),
        "applied_rad": np.array([0.5, 0.25]),
        "readback_rad": np.array([0.50390625, 0.24609375]),
        "synchronous_phase_rad": np.array([0.125, 0.0]),
        "quality": np.array([0, 32], dtype=np.uint16),
    }


def refused() -> Iterator[tuple[str, bytes, str]]:
    """Yield name, bytes and reason of what must not be read as a request."""
    whole = pack(wire.Submit(**FENCED, cycle=13, deadline_ns=10**9), FUNCTION)
    yield "refused-magic", b"MRLX" + whole[4:], "the magic is not MRLC"
    yield "refused-version", whole[:4] + b"\2\0" + whole[6:], "another major version"
    yield "refused-checksum", whole[:-1] + b"\x3f", "the checksum does not fit the last byte"
    yield "refused-short", whole[:12], "shorter than the prefix"
    yield "refused-header-size", _frame(whole[16:], 10**6), "the header reaches past the end"
    yield "refused-trailing", _frame(whole[16:] + bytes(8), 98), "bytes after the last array"
    yield "refused-missing-array", pack(wire.Stage(**FENCED, cycle=13)), "phi_hw_rad is missing"
    floats = {"phi_hw_rad": np.zeros(2, dtype=np.float32)}
    yield "refused-array-type", pack(wire.Stage(**FENCED, cycle=13), floats), "phi_hw_rad is <f4"
    yield "refused-type", _header({"type": "no-such-thing"}), "no request has this type"
    yield (
        "refused-negative",
        _header({"type": "hold", **FENCED, "cycle": -1}),
        "integers are not negative",
    )
    yield (
        "refused-critical",
        _header({"type": "hold", **FENCED, "cycle": 13, "ramp": 3}, ["ramp"]),
        "the field ramp must not be ignored, and is not known",
    )


def ignored() -> tuple[str, bytes, dict[str, Any]]:
    """Return a frame with a field that is not known and may be ignored."""
    message = {"type": "hold", **FENCED, "cycle": 13}
    return "unknown-field", _header({**message, "colour": "red"}), message


def _header(message: dict[str, Any], critical: list[str] | None = None) -> bytes:
    header = {"message": message, "arrays": []} | ({"critical": critical} if critical else {})
    encoded = msgspec.msgpack.encode(header)
    return _frame(encoded + bytes(-(16 + len(encoded)) % 8), len(encoded))


def _frame(body: bytes, header_size: int) -> bytes:
    return PREFIX.pack(MAGIC, MAJOR, 0, header_size, google_crc32c.value(body)) + body


def all_vectors() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Return every vector: name to its frame, and to what it says."""
    found: dict[str, tuple[bytes, dict[str, Any]]] = {}
    for who, kinds in (("client", requests()), ("machine", replies())):
        for name, message, arrays in kinds:
            shown = {
                "from": who,
                "message": msgspec.msgpack.decode(msgspec.msgpack.encode(message)),
                "arrays": {key: _shown(array) for key, array in arrays.items()},
            }
            found[name] = pack(message, arrays), shown
    name, data, fields = ignored()
    found[name] = data, {"from": "client", "message": fields, "arrays": {}}
    for name, data, why in refused():
        found[name] = data, {"from": "client", "refused": why}
    return found


def _shown(array: NDArray[Any]) -> dict[str, Any]:
    return {
        "type": array.dtype.str,
        "shape": list(array.shape),
        "values": array.reshape(-1).tolist(),
    }


def write(folder: Path) -> None:
    """Write all vectors into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (data, shown) in all_vectors().items():
        (folder / f"{name}.bin").write_bytes(data)
        text = json.dumps(shown, indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
