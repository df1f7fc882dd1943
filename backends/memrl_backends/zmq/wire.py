"""The messages between a machine and its clients; `docs/protocol.md` describes them for others.

Every message is one frame (`memrl_ctrl.frames`): a tagged struct and named arrays. Requests go from
DEALER to ROUTER and get exactly one reply with the same `sequence`; `ReadingMessage`, `Status` and
`Goodbye` are published behind a topic. Clock values are the server's monotonic clock, in ns.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from numpy.typing import NDArray

from memrl_ctrl.errors import RefusalReason
from memrl_ctrl.frames import DTYPES, FrameError, Message, unpack

VERSION = 1
"""Version of this set of messages."""
TOPIC_READING, TOPIC_STATUS, TOPIC_RECOMMENDATION = b"reading", b"status", b"recommendation"
FEATURES = (
    "submit", "transaction", "hold", "snapshot", "points", "keys", "recommend", "operator",
)  # fmt: skip
"""What this server can do beyond saying hello."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
LONGEST_S = 86_400.0
"""Longest period, lease and waiting time, s: a day; beyond all measure a time has no ns."""
MAX_TEXT = 400
"""Longest text, characters; a message with a longer one is refused by whoever reads it."""
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
MAX_KEY = 64
"""Longest idempotency key, characters."""
Key = Annotated[str, msgspec.Meta(max_length=MAX_KEY)]
PointName = Count | Text
"""A control point: its index from 0 on, or its name."""
Arrays = dict[str, NDArray[Any]]
Step = Literal["staged", "tested", "rolled-back", "released", "held", "recommended"]


class Role(StrEnum):
    """What the owner of a key may do; each may also do what those before it may."""

    OBSERVER = "observer"
    """Look."""
    RECOMMENDER = "recommender"
    """Publish what it would write; nothing of it plays."""
    CONTROLLER = "controller"
    """Hold the lease, write."""
    OPERATOR = "operator"
    """Arm, disarm, take over."""

    @property
    def rank(self) -> int:
        """Place in the order above, from 0."""
        return list(Role).index(self)

    def may(self, needed: Role) -> bool:
        """Whether this role may do what another one is needed for."""
        return self.rank >= needed.rank


class Mode(StrEnum):
    """Who may write to a machine."""

    OFF = "off"
    """Nobody: it is not armed."""
    ARMED = "armed"
    """A controller that gets the lease."""
    MANUAL = "manual"
    """Operators only: one has taken over."""


class Hello(Message, tag="hello", frozen=True, omit_defaults=True):
    """First request of a client."""

    sequence: Count
    oldest: Count
    """Oldest version of the messages that the client speaks."""
    newest: Count
    """Newest version of the messages that the client speaks."""
    client: Text
    """Name for people; shown to a second controller."""
    role: Role | None = None
    """As what, for this session; never more than the key allows."""
    machine: Text = ""
    """The machine that is expected; another one refuses."""
    limits_digest: Text = ""
    """The limits that are expected; a machine with others refuses."""


class Request(Message, frozen=True):
    """Base of every later request."""

    session: Count
    """From `Welcome`."""
    sequence: Count
    """Grows by at least one with every request of a session; the same one again gets the same reply."""


class LeaseRequest(Request, tag="lease-request", frozen=True, omit_defaults=True):
    """Ask for the lease, or renew it."""

    after: Count = 0
    """Fencing number of the client's own earlier lease: granted only if nobody, no operator either, was
    in control since. 0 asks anew."""


class Fenced(Request, frozen=True):
    """Base of the requests that only the holder of the lease may make; each renews it."""

    fence: Count
    """Fencing number of the lease."""


class Release(Fenced, tag="release", frozen=True):
    """Give the lease back."""


class Stage(Fenced, tag="stage", frozen=True, omit_defaults=True):
    """Lay a function down for a cycle; array `phi_hw_rad` [points] float64, rad. Nothing plays yet."""

    cycle: Count
    points: list[PointName] | None = None
    """Which points the values are for; the others stay. All points, where it is left out."""


class Test(Fenced, tag="test", frozen=True):
    """Check what is staged against every limit; nothing plays yet."""

    __test__ = False  # pytest: not a test class


class Commit(Fenced, tag="commit", frozen=True, omit_defaults=True):
    """Check again and apply what is staged, at all points or at none."""

    deadline_ns: Count
    """Server clock after which it must not be taken any more."""
    key: Key = ""
    """Idempotency key: a commit under a key of the same client that was taken gets the same receipt,
    also from a later session, and is done once."""


class Rollback(Fenced, tag="rollback", frozen=True):
    """Forget what is staged."""


class Submit(Fenced, tag="submit", frozen=True, omit_defaults=True):
    """Stage, test and commit in one message; array `phi_hw_rad` [points] float64, rad."""

    cycle: Count
    deadline_ns: Count
    key: Key = ""
    points: list[PointName] | None = None


class Hold(Fenced, tag="hold", frozen=True):
    """Nothing will be written for this cycle: the machine need not wait for it."""

    cycle: Count


class Recommend(Request, tag="recommend", frozen=True):
    """Publish what one would write; array `phi_hw_rad` [points] float64, rad. It never plays."""

    cycle: Count


class Arm(Request, tag="arm", frozen=True):
    """Let controllers have the lease; ends a take-over. Only an operator may."""


class Disarm(Request, tag="disarm", frozen=True):
    """Let nobody write, from now on; ends every lease and a take-over. Only an operator may."""


class TakeOver(Request, tag="take-over", frozen=True):
    """Take the lease, whoever has it; no controller gets it until `arm`. Only an operator may."""


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


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """How far a point may travel, forth and back added up, in a number of cycles in a row."""

    travel_rad: float
    cycles: Count


class Welcome(Message, tag="welcome", frozen=True, omit_defaults=True):
    """Reply to `Hello`; array `ctime_ms` [points] float64 where the rows are a cycle's points."""

    sequence: Count
    version: Count
    session: Count
    instance: Text
    """Another one after every start of the server."""
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
    point_names: list[Text]
    """[points], unlike each other."""
    n_slices: Count
    limits: Limits
    limits_digest: Text
    """See `convert.limits_digest`."""
    period_s: float
    """0 where a cycle begins as soon as the holder of the lease has written for it."""
    readings_port: Count
    server_clock_ns: Count
    lease_s: float
    writable: bool
    """Whether this machine takes setpoints at all."""
    mode: Mode
    features: list[Text]
    rate: Rate | None = None
    """None where the server has no such limit."""


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
    mode: Mode
    operator: Text
    """Name of the operator who set the mode, or empty."""
    instance: Text
    """See `Welcome`."""
    holder: Text
    """Name of the client that holds the lease, or empty."""
    fence: Count
    server_clock_ns: Count


class Recommendation(Message, tag="recommendation", frozen=True):
    """Published: what a client would write; array `phi_hw_rad` [points] float64, rad."""

    name: Text
    """Who recommends it."""
    cycle: Count


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
    | Recommend
    | Arm
    | Disarm
    | TakeOver
    | SnapshotRequest
    | StatusRequest
)
AnyReply = Welcome | LeaseGrant | Done | ReceiptMessage | Refusal | ReadingMessage | Status
AnyPublished = ReadingMessage | Status | Recommendation | Goodbye

requests: msgspec.msgpack.Decoder[AnyRequest] = msgspec.msgpack.Decoder(AnyRequest)
replies: msgspec.msgpack.Decoder[AnyReply] = msgspec.msgpack.Decoder(AnyReply)
published: msgspec.msgpack.Decoder[AnyPublished] = msgspec.msgpack.Decoder(AnyPublished)


def fitting(text: str) -> str:
    """Return a text, cut to what a message may carry; whoever encodes one does not check it."""
    return text[:MAX_TEXT]


def decode_request(data: bytes | memoryview) -> tuple[AnyRequest, Arrays]:
    """Decode what a client sent; raises `FrameError` and nothing else."""
    message, arrays = unpack(data, requests)
    if isinstance(message, Stage | Submit | Recommend):
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
    if array.dtype != DTYPES[dtype]:
        raise FrameError(f"array {name!r} has type {array.dtype.str}, not {dtype}")
    if (array.ndim != 1) if shape is None else (array.shape != shape):
        raise FrameError(f"array {name!r} has shape {array.shape}, not {shape or '[points]'}")
    return array
