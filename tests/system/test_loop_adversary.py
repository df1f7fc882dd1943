"""The online loop over ZeroMQ on a machine that breaks the protocol: what is on the wire is altered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from memrl_backends.zmq import MachineServer, commands, open_backend, wire
from memrl_backends.zmq.convert import READING_ARRAYS, EncodedReading
from memrl_backends.zmq.keys import make_folder
from memrl_backends.zmq.link import News
from memrl_ctrl.errors import (
    ConnectionFailed,
    MismatchError,
    ReadingTimeout,
    RefusalReason,
    Refused,
    Standstill,
)
from memrl_ctrl.frames import pack, unpack
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader, verify
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Disengaged, Runtime

from .machine_process import controller, served

N = 64


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adversary") / "keys"
    make_folder(folder)
    return folder


@pytest.fixture
def alter_readings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what makes every server of this process alter its readings from a cycle on."""

    def begin(after: int, alter: Callable[[dict[str, Any]], None]) -> None:
        def message(self: EncodedReading, *, stream: int, sequence: int = 0) -> bytes:
            reading = self.reading
            sent: dict[str, Any] = {
                name: np.array(getattr(reading, name)) for name in READING_ARRAYS
            }
            sent["cycle"] = reading.cycle
            if reading.cycle > after:
                alter(sent)
            cycle = sent.pop("cycle")
            head = wire.ReadingMessage(
                sequence=sequence, stream=stream, cycle=cycle, stamp_ns=reading.stamp_ns
            )
            return pack(head, sent)

        monkeypatch.setattr(EncodedReading, "message", message)

    return begin


@contextmanager
def running(server: MachineServer) -> Iterator[None]:
    """Run a server in a thread."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield
    finally:
        server.stop()
        thread.join()


def shrink(sent: dict[str, Any]) -> None:
    for name in READING_ARRAYS:
        sent[name] = sent[name][:20].copy()


def test_a_machine_that_changes_within_the_run_ends_it_over_the_wire(
    keys: Path, tmp_path: Path, alter_readings: Callable[..., None]
) -> None:
    """Another number of points: one sentence, exit code 5, the trace whole, the last function stays."""
    fake = FakeBackend(points=30, n_slices=N, offset_rad=0.6)
    with served(keys, backend=fake) as server:
        policy = OnnxPolicy.load(proportional_policy(n_slices=N, gain_rad=1.5))
        runtime = Runtime(
            ClosedLoop(controller(server, keys)), policy, records=tmp_path, cycles=200
        )
        alter_readings(fake._cycle + 30, shrink)
        summary = runtime.run()
    assert isinstance(summary.error, ConnectionFailed)
    assert summary.error.exit_code == 5
    assert "array 'profile' has shape (20, 64), not (30, 64)" in str(summary.error)
    assert summary.trace is not None
    assert verify(summary.trace).whole
    with TraceReader(summary.trace) as trace:
        last = trace.record(-1)
    assert last.reading.profile.shape == (30, N)
    if last.written_rad is not None:
        np.testing.assert_array_equal(fake.observe().applied_rad, last.written_rad)


def test_a_machine_whose_cycles_stand_still_does_not_keep_the_client_for_ever(
    keys: Path, alter_readings: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number stays and the machine says that it plays: that is no long cycle, and the wait ends."""
    monkeypatch.setattr("memrl_backends.zmq.client.READING_FLOOR_S", 1.5)
    always_playing(monkeypatch)
    with served(keys) as server:
        source = open_backend(endpoint=str(server.endpoint), keys=keys, read_only=True)
        seen = source.observe().cycle
        alter_readings(0, lambda sent: sent.update(cycle=min(seen, sent["cycle"])))
        with pytest.raises(
            ReadingTimeout, match=r"but its newest reading is of cycle .*: its numbers go back or"
        ) as raised:
            source.observe()
        assert not isinstance(raised.value, Standstill)  # it plays, and shadow must not wait
        source.close()


def always_playing(monkeypatch: pytest.MonkeyPatch) -> None:
    status = commands.CommandDesk.status

    def playing(self: commands.CommandDesk, now_ns: int, sequence: int = 0) -> wire.Status:
        return msgspec.structs.replace(status(self, now_ns, sequence), playing=True)

    monkeypatch.setattr(commands.CommandDesk, "status", playing)


@pytest.mark.parametrize(
    "number",
    [lambda cycle: cycle % 4, lambda cycle: cycle + (2**31 if cycle == 12 else 0)],
    ids=["wraps", "one number is far too high"],
)
def test_a_machine_whose_cycle_numbers_go_back_ends_the_run(
    number: Callable[[int], int], keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it plays, in readings and status: three times no reading, and the sentence says why."""
    monkeypatch.setattr("memrl_backends.zmq.client.READING_FLOOR_S", 0.8)
    always_playing(monkeypatch)
    fake = FakeBackend(points=8, n_slices=N, offset_rad=0.4)
    fake._alter = lambda r: replace(r, cycle=r.cycle if r.cycle < 12 else number(r.cycle))
    with served(keys, backend=fake) as server:
        policy = OnnxPolicy.load(proportional_policy(n_slices=N, gain_rad=1.5))
        runtime = Runtime(ClosedLoop(controller(server, keys)), policy, records=tmp_path, cycles=99)
        summary = runtime.run()
    assert isinstance(summary.error, Disengaged)
    assert summary.missed["timeout"] == 3
    assert "3 times 'timeout' in a row: no reading from" in str(summary.error)
    assert "the machine is there, but its newest reading is of cycle" in str(summary.error)
    assert "its numbers go back or stand still" in str(summary.error)


def test_readings_that_come_twice_or_late_are_no_numbers_that_go_back(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers in the stream say that they are old: a cycle that takes long is still waited for."""
    monkeypatch.setattr("memrl_backends.zmq.client.READING_FLOOR_S", 0.8)
    always_playing(monkeypatch)
    with served(keys) as server:
        source = open_backend(endpoint=str(server.endpoint), keys=keys, read_only=True)
        first = source.observe()
        link, ends_s = source.link, time.monotonic() + 2.5
        news = link.news
        old = wire.ReadingMessage(sequence=0, stream=1, cycle=first.cycle, stamp_ns=1)

        def long_cycle(wait_s: float) -> News | None:
            heard = news(wait_s)
            if time.monotonic() > ends_s or heard is None:
                return heard
            status = heard.status and msgspec.structs.replace(
                heard.status, cycle=source._cycle, stream=source._stream or 0
            )
            return News([(old, first)], status)

        monkeypatch.setattr(link, "news", long_cycle)
        assert source.observe().cycle > first.cycle
        assert time.monotonic() > ends_s
        source.close()


def altered_receipts(
    monkeypatch: pytest.MonkeyPatch, alter: Callable[[Any, dict[str, Any]], bytes]
) -> None:
    make = commands.CommandDesk._receipt

    def receipt(self: commands.CommandDesk, *given: Any) -> bytes:
        message, arrays = unpack(make(self, *given), wire.replies)
        return alter(message, arrays)

    monkeypatch.setattr(commands.CommandDesk, "_receipt", receipt)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda m, a: pack(m, {"applied_rad": a["applied_rad"][:3].copy()}), r"has shape \(3,\)"),
        (lambda m, a: pack(m), "'applied_rad' is missing"),
        (lambda m, a: pack(wire.Done(sequence=m.sequence, what="staged")), "of kind Done"),
    ],
)
def test_what_is_no_receipt_is_a_sentence(
    alter: Callable[[Any, dict[str, Any]], bytes],
    words: str,
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A receipt without its function, or another message in its place, is told; nothing else is raised."""
    altered_receipts(monkeypatch, alter)
    with served(keys) as server:
        backend = controller(server, keys)
        reading = backend.start()
        with pytest.raises(ConnectionFailed, match=words):
            backend.submit(reading.applied_rad, reading.cycle + 1, 1.0)
        backend.close()


def test_a_receipt_for_a_far_cycle_does_not_keep_the_machine_waiting(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client goes on saying for which cycles it writes nothing, whatever a receipt said."""
    altered_receipts(monkeypatch, lambda m, a: pack(msgspec.structs.replace(m, cycle=2**62), a))
    with served(keys) as server:
        backend = controller(server, keys)
        reading = backend.start()
        assert backend.submit(reading.applied_rad, reading.cycle + 1, 1.0).cycle == 2**62
        for _ in range(3):
            backend.observe(5.0)
        backend.close()


def test_a_lease_that_the_machine_ended_is_nobodys(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends, and the sentence says what is known: the lease ended, and nobody has control now."""
    made: list[commands.CommandDesk] = []
    make = commands.CommandDesk._receipt

    def receipt(self: commands.CommandDesk, *given: Any) -> bytes:
        made.append(self)
        answer = make(self, *given)
        if len(made) == 5:
            self._authority.release()
        return answer

    monkeypatch.setattr(commands.CommandDesk, "_receipt", receipt)
    with served(keys, backend=FakeBackend(points=8, n_slices=N, offset_rad=0.4)) as server:
        policy = OnnxPolicy.load(proportional_policy(n_slices=N, gain_rad=1.5))
        runtime = Runtime(ClosedLoop(controller(server, keys)), policy, records=tmp_path, cycles=20)
        summary = runtime.run()
    assert isinstance(summary.error, Disengaged)
    said = str(summary.error)
    assert "not in control any more (the lease with fencing number " in said
    assert "has expired; nobody is in control now)" in said
    assert "taken over" not in said


def test_what_a_refusal_says_does_not_act_on_the_terminal(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escape sequences of a machine are shown, not obeyed."""
    with served(keys) as server:
        backend = controller(server, keys)
        reading = backend.start()
        detail = "\x1b[2Jall is well"
        said = Refused(RefusalReason.LIMIT, detail)
        monkeypatch.setattr(
            commands.CommandDesk, "_lay_down", lambda *_: (_ for _ in ()).throw(said)
        )
        with pytest.raises(Refused) as refused:
            backend.submit(reading.applied_rad, reading.cycle + 1, 1.0)
        assert refused.value.detail == "\\x1b[2Jall is well"
        backend.close()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"points": 20}, r"another points \(20, not 30 as before\)"),
        ({"n_slices": 64}, r"another n_slices \(64, not 32 as before\)"),
    ],
)
def test_a_machine_that_comes_back_with_other_points_is_another_one(
    other: dict[str, int], words: str, keys: Path
) -> None:
    """Name and limits are the same: the client that connects again still notices, and says what is new."""
    with served(keys) as server:
        backend = controller(server, keys)
        backend.start()
        at = str(server.endpoint)
    with pytest.raises(ConnectionFailed):
        backend.observe()
    options = {"points": 30, "n_slices": 32, **other}
    second = MachineServer(FakeBackend(**options), endpoint=at, period_s=0.0, keys=keys)  # type: ignore[arg-type]
    with running(second), pytest.raises(MismatchError, match=words):
        backend.start()
    backend.close()


WELCOMES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"lease_s": float("nan")}, "a lease of nan s is none"),
    ({"lease_s": 1e300}, "a lease of .* s is none"),
    ({"period_s": 1e300}, "a period of .* s is none"),
    ({"readings_port": 70_000}, "no port has the number 70000"),
    ({"points": 10**9, "point_names": []}, "has .* bytes, and a message"),
    ({"machine": "\x1b[2J"}, "a name in it cannot be shown"),
    ({"period_s": float("nan")}, "a period of nan s is none"),
)


@pytest.mark.parametrize(("fields", "words"), WELCOMES)
def test_a_welcome_that_cannot_be_is_refused(
    fields: dict[str, Any], words: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a machine says of itself is held against what can be, before anything is made of it."""
    hello = commands.CommandDesk._hello

    def welcome(self: commands.CommandDesk, *given: Any) -> bytes:
        message, arrays = unpack(hello(self, *given), wire.replies)
        return pack(
            msgspec.structs.replace(message, **fields), {} if "points" in fields else arrays
        )

    monkeypatch.setattr(commands.CommandDesk, "_hello", welcome)
    with served(keys) as server, pytest.raises(ConnectionFailed, match=words):
        controller(server, keys)
