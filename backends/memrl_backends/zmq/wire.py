"""The messages between a machine and its clients; `docs/protocol.md` describes them for others.

Every message is one frame (`memrl_ctrl.frames`): a tagged struct and named arrays. Requests go from
DEALER to ROUTER and get exactly one reply with the same `sequence`; `ReadingMessage`, `Status` and
`Goodbye` are published behind a topic. Clock values are the server's monotonic clock, in ns.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import FloatArray, MachineDescription, Quality, Reading
from memrl_ctrl.errors import RefusalReason
from memrl_ctrl.frames import FrameError, Message, pack, unpack
from memrl_ctrl.limits import PhaseLimits

VERSION = 1
"""Version of this set of messages."""
TOPIC_READING, TOPIC_STATUS = b"reading", b"status"
FEATURES = ("submit", "transaction", "hold", "snapshot")
"""What this server can do beyond saying hello."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
MAX_TEXT = 400
"""Longest text, characters; a message with a longer one is refused by whoever reads it."""
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Arrays = dict[str, NDArray[Any]]
Step = Literal["staged", "tested", "rolled-back", "released", "held"]


class Role(StrEnum):
    """What the owner of a key may do."""

    OBSERVER = "observer"
    """Look."""
    CONTROLLER = "controller"
    """Look, hold the lease, write."""


class Hello(Message, tag="hello", frozen=True):
    """First request of a client."""

    sequence: Count
    oldest: Count
    """Oldest version of the messages that the client speaks."""
    newest: Count
    """Newest version of the messages that the client speaks."""
    client: Text
    """Name for people; shown to a second controller."""
    observe_only: bool = False
    """Gives up the right to write for this session."""


class Request(Message, frozen=True):
    """Base of every later request."""

    session: Count
    """From `Welcome`."""
    sequence: Count
    """Grows by at least one with every request of a session; the same one again gets the same reply."""


class LeaseRequest(Request, tag="lease-request", frozen=True):
    """Ask for the lease, or renew it."""


class Fenced(Request, frozen=True):
    """Base of the requests that only the holder of the lease may make; each renews it."""

    fence: Count
    """Fencing number of the lease."""


class Release(Fenced, tag="release", frozen=True):
    """Give the lease back."""


class Stage(Fenced, tag="stage", frozen=True):
    """Lay a function down for a cycle; array `phi_hw_rad` [points] float64, rad. Nothing plays yet."""

    cycle: Count


class Test(Fenced, tag="test", frozen=True):
    """Check what is staged against every limit; nothing plays yet."""

    __test__ = False  # pytest: not a test class


class Commit(Fenced, tag="commit", frozen=True):
    """Check again and apply what is staged, at all points or at none."""

    deadline_ns: Count
    """Server clock after which it must not be taken any more."""


class Rollback(Fenced, tag="rollback", frozen=True):
    """Forget what is staged."""


class Submit(Fenced, tag="submit", frozen=True):
    """Stage, test and commit in one message; array `phi_hw_rad` [points] float64, rad."""

    cycle: Count
    deadline_ns: Count


class Hold(Fenced, tag="hold", frozen=True):
    """Nothing will be written for this cycle: the machine need not wait for it."""

    cycle: Count


class SnapshotRequest(Request, tag="snapshot-request", frozen=True):
    """Ask for the newest reading."""


class StatusRequest(Request, tag="status-request", frozen=True):
    """Ask how the machine is."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """`memrl_ctrl.limits.PhaseLimits` on the wire."""

    min_rad: float
    max_rad: float
    step_rad: float
    slope_rad_per_ms: float


class Welcome(Message, tag="welcome", frozen=True):
    """Reply to `Hello`; array `ctime_ms` [points] float64 where the rows are a cycle's points."""

    sequence: Count
    version: Count
    session: Count
    server: Text
    """Software and its version."""
    role: Role
    key_name: Text
    """Name under which the server knows the client's key."""
    machine: Text
    program: Text
    backend: Text
    fidelity: Text
    points: Count
    n_slices: Count
    limits: Limits
    limits_digest: Text
    """See `limits_digest`."""
    period_s: float
    """0 where a cycle begins as soon as the holder of the lease has written for it."""
    readings_port: Count
    server_clock_ns: Count
    lease_s: float
    armed: bool
    features: list[Text]


class LeaseGrant(Message, tag="lease-grant", frozen=True):
    """Reply to `LeaseRequest`."""

    sequence: Count
    fence: Count
    expires_ns: Count
    duration_s: float
    cycle: Count
    """Newest cycle that was read."""
    next_cycle: Count
    """First cycle that can still be written."""


class Done(Message, tag="done", frozen=True):
    """Reply to what has nothing more to tell."""

    sequence: Count
    what: Step


class ReceiptMessage(Message, tag="receipt", frozen=True):
    """Reply to `Commit` and `Submit`; array `applied_rad` [points] float64, rad."""

    sequence: Count
    cycle: Count
    fence: Count
    expires_ns: Count
    """When the lease, renewed by this, expires."""


class Refusal(Message, tag="refusal", frozen=True):
    """Reply to a request that was not granted; nothing of it was done."""

    sequence: Count
    """0 where the request could not be read."""
    reason: RefusalReason
    detail: Text


class ReadingMessage(Message, tag="reading", frozen=True):
    """One cycle; arrays as `memrl_ctrl.backend.Reading`, without the truth."""

    sequence: Count
    """Of the request it replies to; 0 where it is published."""
    stream: Count
    """Grows by one with every published reading."""
    cycle: Count
    stamp_ns: Count
    """When the cycle was played, ns since 1970 (UTC)."""


class Status(Message, tag="status", frozen=True):
    """Published twice a second and to every new subscriber; reply to `StatusRequest`."""

    sequence: Count
    """Of the request it replies to; 0 where it is published."""
    stream: Count
    """Of the newest published reading."""
    cycle: Count
    next_cycle: Count
    playing: bool
    """Whether a cycle is being played now."""
    armed: bool
    holder: Text
    """Name of the client that holds the lease, or empty."""
    fence: Count
    server_clock_ns: Count


class Goodbye(Message, tag="goodbye", frozen=True):
    """Published on the topic `status` when the machine stops."""

    why: Text


AnyRequest = (
    Hello
    | LeaseRequest
    | Release
    | Stage
    | Test
    | Commit
    | Rollback
    | Submit
    | Hold
    | SnapshotRequest
    | StatusRequest
)
AnyReply = Welcome | LeaseGrant | Done | ReceiptMessage | Refusal | ReadingMessage | Status
AnyPublished = ReadingMessage | Status | Goodbye

requests: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
replies: msgspec.msgpack.Decoder[AnyReply] = msgspec.msgpack.Decoder(AnyReply)
published: msgspec.msgpack.Decoder[AnyPublished] = msgspec.msgpack.Decoder(AnyPublished)

READING_ARRAYS: dict[str, str] = {
    "profile": "<f4",
    "setpoint_rad": "<f8",
    "applied_rad": "<f8",
    "readback_rad": "<f8",
    "synchronous_phase_rad": "<f8",
    "quality": "<u2",
}
"""Arrays of a reading and their element types; `profile` is [points, n_slices], the others [points]."""


def fitting(text: str) -> str:
    """Return a text, cut to what a message may carry; whoever encodes one does not check it."""
    return text[:MAX_TEXT]


def decode_request(data: bytes | memoryview) -> tuple[AnyRequest, Arrays]:
    """Decode what a client sent; raises `FrameError` and nothing else."""
    message, arrays = unpack(data, requests)
    if isinstance(message, Stage | Submit):
        check_array(arrays, "phi_hw_rad", "<f8", None)
    return message, arrays


def check_array(
    arrays: Mapping[str, NDArray[Any]], name: str, dtype: str, shape: tuple[int, ...] | None
) -> NDArray[Any]:
    """Return an array after checking its type and shape (None: any one-dimensional).

    Raises:
        FrameError: it is absent or another one than promised.
    """
    if name not in arrays:
        raise FrameError(f"array {name!r} is missing; there is: {sorted(arrays)}")
    array = arrays[name]
    if array.dtype.str != dtype:
        raise FrameError(f"array {name!r} has type {array.dtype.str}, not {dtype}")
    if (array.ndim != 1) if shape is None else (array.shape != shape):
        raise FrameError(f"array {name!r} has shape {array.shape}, not {shape or '[points]'}")
    return array


def limits_digest(limits: Limits) -> str:
    """Return SHA-256, hexadecimal, over the four limits as little-endian float64 in their order."""
    values = np.array(msgspec.structs.astuple(limits), dtype="<f8")
    return hashlib.sha256(values.tobytes()).hexdigest()


def limits_on_wire(limits: PhaseLimits) -> Limits:
    """Return the limits as they are sent."""
    return Limits(
        min_rad=limits.min_rad,
        max_rad=limits.max_rad,
        step_rad=limits.step_rad,
        slope_rad_per_ms=limits.slope_rad_per_ms,
    )


def description_from(
    welcome: Welcome, arrays: Mapping[str, NDArray[Any]], *, writable: bool
) -> MachineDescription:
    """Make the description out of a welcome.

    Raises:
        FrameError: it contradicts itself.
    """
    if limits_digest(welcome.limits) != welcome.limits_digest:
        raise FrameError("the digest of the limits does not fit the limits")
    if not (math.isfinite(welcome.period_s) and welcome.period_s >= 0):
        raise FrameError(f"a period of {welcome.period_s} s is none")
    ctime_ms: FloatArray | None = None
    if "ctime_ms" in arrays:
        ctime_ms = check_array(arrays, "ctime_ms", "<f8", (welcome.points,))
    try:
        return MachineDescription(
            name=welcome.machine,
            program=welcome.program,
            points=welcome.points,
            n_slices=welcome.n_slices,
            limits=PhaseLimits(**msgspec.structs.asdict(welcome.limits)),
            period_s=welcome.period_s,
            writable=writable,
            ctime_ms=ctime_ms,
            backend="zmq",
            fidelity=welcome.fidelity,
        )
    except ValueError as error:
        raise FrameError(f"the machine's description: {error}") from error


def encode_reading(reading: Reading, *, stream: int, sequence: int = 0) -> bytes:
    """Encode a reading; its truth stays here."""
    message = ReadingMessage(
        sequence=sequence, stream=stream, cycle=reading.cycle, stamp_ns=reading.stamp_ns
    )
    return pack(message, {name: getattr(reading, name) for name in READING_ARRAYS})


def reading_from(
    message: ReadingMessage, arrays: Mapping[str, NDArray[Any]], description: MachineDescription
) -> Reading:
    """Make a reading out of a message, flagging profiles that are not finite.

    Raises:
        FrameError: an array is absent, of another type or shape, or what is applied is not finite.
    """
    points = description.points
    shapes = dict.fromkeys(READING_ARRAYS, (points,)) | {"profile": (points, description.n_slices)}
    checked: Arrays = {
        name: check_array(arrays, name, dtype, shapes[name])
        for name, dtype in READING_ARRAYS.items()
    }
    for name in ("setpoint_rad", "applied_rad"):
        if not np.isfinite(checked[name]).all():
            raise FrameError(f"{name} of cycle {message.cycle} is not finite")
    # One sum finds NaN and infinity quicker than a test of every slice.
    sums = checked["profile"].sum(axis=1)
    if not np.isfinite(sums).all():
        bad = ~np.isfinite(checked["profile"]).all(axis=1)
        checked["quality"] = checked["quality"] | np.where(bad, np.uint16(Quality.NOT_FINITE), 0)
        checked["quality"] = checked["quality"].astype(np.uint16)
    return Reading(
        cycle=message.cycle,
        stamp_ns=message.stamp_ns,
        received_ns=time.monotonic_ns(),
        profile=checked["profile"],
        setpoint_rad=checked["setpoint_rad"],
        applied_rad=checked["applied_rad"],
        readback_rad=checked["readback_rad"],
        synchronous_phase_rad=checked["synchronous_phase_rad"],
        quality=checked["quality"],
    )
