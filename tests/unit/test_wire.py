"""The messages between a machine and its clients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memrl_backends.zmq import convert, wire
from memrl_ctrl.backend import Quality
from memrl_ctrl.errors import RefusalReason
from memrl_ctrl.frames import FrameError, pack, unpack
from memrl_ctrl.testing import FakeBackend

FENCED = {"session": 7, "sequence": 3, "fence": 9}

REQUESTS = [
    wire.Hello(sequence=1, oldest=1, newest=1, client="me"),
    wire.LeaseRequest(session=7, sequence=2),
    wire.Release(**FENCED),
    wire.Test(**FENCED),
    wire.Commit(**FENCED, deadline_ns=5),
    wire.Rollback(**FENCED),
    wire.Hold(**FENCED, cycle=4),
    wire.SnapshotRequest(session=7, sequence=2),
    wire.StatusRequest(session=7, sequence=2),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda m: type(m).__name__)
def test_requests_come_back_equal(request_: wire.AnyRequest) -> None:
    """Every request without arrays decodes to what was encoded."""
    assert wire.decode_request(pack(request_)) == (request_, {})


@pytest.mark.parametrize(
    "request_",
    [wire.Submit(**FENCED, cycle=4, deadline_ns=5), wire.Stage(**FENCED, cycle=4)],
    ids=lambda m: type(m).__name__,
)
def test_functions_travel_bit_for_bit(request_: wire.Submit | wire.Stage) -> None:
    """A function arrives to the bit; without one, or with one of another form, it is a FrameError."""
    function = np.array([0.1, np.nan, -3.0])
    message, arrays = wire.decode_request(pack(request_, {"phi_hw_rad": function}))
    assert message == request_
    assert arrays["phi_hw_rad"].tobytes() == function.tobytes()
    for wrong in ({}, {"phi_hw_rad": function.astype(np.float32)}, {"phi_hw_rad": function[None]}):
        with pytest.raises(FrameError, match="phi_hw_rad"):
            wire.decode_request(pack(request_, wrong))


def test_a_reading_travels_without_its_truth() -> None:
    """All arrays of a reading arrive to the bit; the truth is not in the bytes."""
    backend = FakeBackend(points=4, n_slices=32, noise=0.1)
    reading = backend.start()
    data = convert.encode_reading(reading, stream=5)
    message, arrays = unpack(data, wire.published)
    assert isinstance(message, wire.ReadingMessage)
    assert set(arrays) == set(convert.READING_ARRAYS)
    again = convert.reading_from(message, arrays, backend.description)
    for name in convert.READING_ARRAYS:
        assert getattr(again, name).tobytes() == getattr(reading, name).tobytes()
    assert (again.cycle, again.stamp_ns, again.truth) == (reading.cycle, reading.stamp_ns, None)
    assert reading.truth is not None
    assert reading.truth.offset_rad.tobytes()[:8] not in data


def test_a_profile_that_is_not_finite_is_flagged() -> None:
    """NaN in a profile is no error, but the point is marked as unusable on arrival."""
    backend = FakeBackend(points=3, n_slices=32)
    reading = backend.start()
    reading.profile[1, 5] = np.nan
    message, arrays = unpack(convert.encode_reading(reading, stream=1), wire.published)
    again = convert.reading_from(message, arrays, backend.description)
    assert again.quality.tolist() == [0, Quality.NOT_FINITE, 0]
    assert again.quality.dtype == np.uint16


def test_a_reading_that_does_not_fit_is_refused() -> None:
    """Another number of points, an absent array or an applied NaN is a FrameError that names it."""
    backend = FakeBackend(points=3, n_slices=32)
    reading = backend.start()
    message, arrays = unpack(convert.encode_reading(reading, stream=1), wire.published)
    other = FakeBackend(points=4, n_slices=32).description
    with pytest.raises(FrameError, match=r"profile.*\(3, 32\), not \(4, 32\)"):
        convert.reading_from(message, arrays, other)
    without = {name: array for name, array in arrays.items() if name != "readback_rad"}
    with pytest.raises(FrameError, match="'readback_rad' is missing"):
        convert.reading_from(message, without, backend.description)
    broken = {**arrays, "applied_rad": np.array([0.0, np.inf, 0.0])}
    with pytest.raises(FrameError, match="applied_rad of cycle 1 is not finite"):
        convert.reading_from(message, broken, backend.description)


def welcome(**changes: object) -> wire.Welcome:
    limits = wire.Limits(min_rad=-4.0, max_rad=4.0, step_rad=1.0, slope_rad_per_ms=0.1)
    fields = {
        "sequence": 1,
        "version": 1,
        "session": 5,
        "server": "test",
        "role": wire.Role.CONTROLLER,
        "key_name": "controller",
        "machine": "psb",
        "program": "p",
        "backend": "blond",
        "fidelity": "matched",
        "points": 2,
        "n_slices": 64,
        "limits": limits,
        "limits_digest": convert.limits_digest(limits),
        "period_s": 1.2,
        "readings_port": 5751,
        "server_clock_ns": 1,
        "lease_s": 2.4,
        "instance": "a",
        "point_names": ["C275", "C805"],
        "writable": True,
        "mode": wire.Mode.ARMED,
        "features": [],
    }
    return wire.Welcome(**{**fields, **changes})


def test_a_welcome_becomes_a_description() -> None:
    """What the machine says of itself arrives whole."""
    ctime_ms = np.array([275.0, 805.0])
    described = convert.description_from(welcome(), {"ctime_ms": ctime_ms}, writable=False)
    assert (described.name, described.points, described.backend) == ("psb", 2, "zmq")
    assert described.limits.slope_rad_per_ms == 0.1
    assert described.ctime_ms is not None
    assert described.ctime_ms.tolist() == [275.0, 805.0]
    assert not described.writable


@pytest.mark.parametrize(
    ("changes", "ctime_ms", "problem"),
    [
        ({"limits_digest": "00"}, [1.0, 2.0], "digest"),
        ({"period_s": float("nan")}, [1.0, 2.0], "period"),
        ({"points": 3}, [1.0, 2.0], "ctime_ms"),
        ({}, [2.0, 1.0], "must be finite and increase"),
        ({"n_slices": 2}, [1.0, 2.0], "n_slices"),
    ],
)
def test_a_welcome_that_contradicts_itself_is_refused(
    changes: dict[str, object], ctime_ms: list[float], problem: str
) -> None:
    """Each contradiction is named."""
    with pytest.raises(FrameError, match=problem):
        convert.description_from(
            welcome(**changes), {"ctime_ms": np.array(ctime_ms)}, writable=False
        )


def test_every_reason_can_be_refused_with() -> None:
    """The wire knows every reason of the core."""
    for reason in RefusalReason:
        message, _ = unpack(pack(wire.Refusal(sequence=1, reason=reason, detail="d")), wire.replies)
        assert message.reason is reason


def test_the_worked_example_of_the_protocol_is_what_is_sent() -> None:
    """The bytes printed in docs/protocol.md are those of the message beside them."""
    text = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    dump = text.split("<!-- example submit -->")[1].split("```")[1].removeprefix("text\n")
    data = b"".join(bytes.fromhex(line[6:54]) for line in dump.strip().splitlines())
    message, arrays = wire.decode_request(data)
    assert message == wire.Submit(session=5, sequence=2, fence=9, cycle=13, deadline_ns=10**9)
    assert arrays["phi_hw_rad"].tolist() == [0.5, -0.25]
    assert pack(message, {"phi_hw_rad": arrays["phi_hw_rad"]}) == data
