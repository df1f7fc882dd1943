"""How many connections and sessions there may be: what is too much is told so, and the others stay served."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from memrl_backends.zmq import MachineServer, ZmqBackend, doors, open_backend, wire
from memrl_backends.zmq.doors import Doors
from memrl_backends.zmq.keys import load_client, make_folder, write_pair
from memrl_backends.zmq.wire import Role
from memrl_ctrl.backend import BeamSource
from memrl_ctrl.errors import ConnectionFailed, RefusalReason, Refused
from memrl_ctrl.frames import pack, unpack
from memrl_ctrl.testing import FakeBackend

from .authority import until


@pytest.fixture
def served(tmp_path: Path) -> Iterator[MachineServer]:
    make_folder(tmp_path / "keys")
    ready = threading.Event()
    server = MachineServer(
        FakeBackend(points=5, n_slices=32),
        endpoint="tcp://127.0.0.1:0",
        period_s=0.2,
        keys=tmp_path / "keys",
        on_ready=ready.set,
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(20)
    yield server
    server.stop()
    thread.join()


def dealer(
    context: zmq.Context[zmq.Socket[bytes]], server: MachineServer, keys: Path, role: Role
) -> zmq.Socket[bytes]:
    own = load_client(keys, role)
    made = context.socket(zmq.DEALER)
    made.curve_serverkey, made.curve_publickey = own.server, own.public
    made.curve_secretkey = own.secret
    made.rcvtimeo = 20_000
    made.reconnect_ivl = 10_000
    made.connect(str(server.endpoint))
    return made


def greeted(made: zmq.Socket[bytes]) -> int:
    made.send(pack(wire.Hello(sequence=1, oldest=1, newest=1, client="eve")))
    message = unpack(made.recv(), wire.replies)[0]
    assert isinstance(message, wire.Welcome)
    return message.session


def writes(owner: BeamSource) -> None:
    """Have a controller write a function in time, which it may miss on a busy computer."""
    assert isinstance(owner, ZmqBackend)
    for _ in range(20):
        reading = owner.start()
        try:
            played = owner.play(reading.applied_rad + 0.01)
        except Refused as refused:
            if refused.reason is not RefusalReason.LATE:
                raise
        else:
            np.testing.assert_array_equal(played.applied_rad, reading.applied_rad + 0.01)
            return
    pytest.fail("it is too late twenty times in a row")


def _come_until_refused(server: MachineServer, keys: Path) -> None:
    for _ in range(100):
        open_backend(
            endpoint=str(server.endpoint), keys=keys, read_only=True, timeout_s=10.0
        ).close()


def test_a_flood_of_an_observers_connections_keeps_no_controller_out(
    served: MachineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One observer too many is told that there are too many; a controller and an operator come in."""
    monkeypatch.setitem(doors.MOST, Role.OBSERVER, 40)
    keys = tmp_path / "keys"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        # Those that say nothing count too.
        flood = [dealer(context, served, keys, Role.OBSERVER) for _ in range(60)]
        with pytest.raises(ConnectionFailed, match="has as many connections as it takes"):
            _come_until_refused(served, keys)
        assert served._doors.inside(time.monotonic()) <= 40
        with contextlib.closing(
            open_backend(endpoint=str(served.endpoint), keys=keys, timeout_s=10.0)
        ) as owner:
            writes(owner)
        for made in flood:
            made.close(linger=0)
        # Their places are free again.
        for _ in range(100):
            with contextlib.suppress(ConnectionFailed):
                late = open_backend(
                    endpoint=str(served.endpoint), keys=keys, read_only=True, timeout_s=10.0
                )
                late.observe(10.0)
                late.close()
                break
            time.sleep(0.1)
        else:
            pytest.fail("no place became free")
    finally:
        context.destroy(linger=0)


def test_a_session_that_gave_way_is_told_so(served: MachineServer, tmp_path: Path) -> None:
    """The 65th session of a key ends the one silent longest, which hears why on its next request."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        eve = dealer(context, served, tmp_path / "keys", Role.OBSERVER)
        sessions = [greeted(eve) for _ in range(65)]
        refused, known = (
            unpack(_asked(eve, session), wire.replies)[0] for session in (sessions[0], sessions[1])
        )
        assert isinstance(refused, wire.Refusal)
        assert refused.reason == "stale"
        assert "gave way" in refused.detail
        assert "more than 64 sessions" in refused.detail
        assert isinstance(known, wire.Status)
    finally:
        context.destroy(linger=0)


def _asked(made: zmq.Socket[bytes], session: int) -> bytes:
    made.send(pack(wire.StatusRequest(session=session, sequence=2)))
    return made.recv()


def test_who_came_in_and_went_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection counts as long as it is there, and leaves nothing behind."""
    monkeypatch.setattr(doors, "HANDSHAKE_S", 0.0)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    ports: set[int] = set()
    watching = Doors(context, ports)
    router = context.socket(zmq.ROUTER)
    watching.watch(router)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    ports.add(port)
    try:
        for _ in range(3):
            other = context.socket(zmq.DEALER)
            other.connect(f"tcp://127.0.0.1:{port}")
            other.send(b"here")
            router.recv_multipart()
            watching.look()
            assert watching.inside(time.monotonic()) == 1
            other.close(linger=0)
            while watching.inside(time.monotonic()):
                assert watching.sources[0].poll(10_000)
                watching.look()
    finally:
        context.destroy(linger=0)
        watching.close()


# Connections that do not say who they are


def half_open(port: int, count: int, address: str = "127.0.0.1") -> list[socket.socket]:
    """Connections that begin no handshake, from an address of this computer."""
    return [
        socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(address, 0))
        for _ in range(count)
    ]


def ended(probe: socket.socket) -> bool:
    """Whether the other side has ended a connection; what it said of itself is read and dropped."""
    probe.setblocking(False)
    try:
        while probe.recv(1000):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def test_of_silent_connections_so_many_stay(
    served: MachineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of those that say nothing is hung up on for every one too many, long before its time; who
    is served stays, who comes is served, and in the end none is left."""
    monkeypatch.setattr(doors, "MOST_SILENT", 20)
    where: dict[str, Any] = {
        "endpoint": str(served.endpoint),
        "keys": tmp_path / "keys",
        "timeout_s": 10.0,
    }
    with contextlib.ExitStack() as ending:
        owner = ending.enter_context(contextlib.closing(open_backend(**where)))
        writes(owner)
        open_ = half_open(served.endpoint.port, 60) + half_open(served.readings.port, 40)
        for probe in open_:
            ending.callback(probe.close)
        until(lambda: sum(map(ended, open_)) >= 80, "those that are too many are not closed")
        assert served._doors.silent <= 20
        late = ending.enter_context(contextlib.closing(open_backend(read_only=True, **where)))
        late.observe(10.0)
        writes(owner)
        until(lambda: all(map(ended, open_)), "half-open connections stay")
        until(lambda: served._doors.silent == 0, "they are counted still")
        assert late.observe(10.0).cycle > 0


def test_who_says_nothing_is_closed_and_who_speaks_is_not(
    served: MachineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is let in and says neither hello nor what it subscribes to is closed."""
    monkeypatch.setattr(doors, "SILENT_S", 0.5)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        quiet = dealer(context, served, tmp_path / "keys", Role.OBSERVER)
        monitor = quiet.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        with contextlib.closing(
            open_backend(
                endpoint=str(served.endpoint),
                keys=tmp_path / "keys",
                timeout_s=10.0,
                read_only=True,
            )
        ) as speaking:
            assert monitor.poll(20_000)
            for _ in range(5):
                speaking.observe(10.0)
        quiet.disable_monitor()
    finally:
        context.destroy(linger=0)


def test_who_spoke_while_the_machine_paused_is_heard_first(
    served: MachineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hello that waited longer than one may be silent, as the machine paused meanwhile, is answered."""
    monkeypatch.setattr(doors, "SILENT_S", 1.0)
    pausing = threading.Event()

    def pause(_event: object) -> None:  # in the thread that serves
        served._on_cycle = None
        pausing.set()
        time.sleep(2.0)

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        eve = dealer(context, served, tmp_path / "keys", Role.OBSERVER)
        with eve.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        ) as monitor:
            assert monitor.poll(20_000)
            assert parse_monitor_message(monitor.recv_multipart())["event"] == (
                zmq.EVENT_HANDSHAKE_SUCCEEDED
            )
            served._on_cycle = pause
            assert pausing.wait(20)
            assert greeted(eve)
            assert not monitor.poll(100)
        eve.disable_monitor()
    finally:
        context.destroy(linger=0)


def test_one_key_has_so_many_connections(
    served: MachineServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An observer's key takes its own places only: another observer's comes in; places that it leaves are
    its own again."""
    monkeypatch.setattr(doors, "MOST_OF_KEY", 8)
    monkeypatch.setattr(doors, "SILENT_S", 1.0)
    keys = tmp_path / "keys"
    write_pair(keys, "visitor", "observer", keys / "authorized" / "visitor.pub")
    until(lambda: len(served._ring._peers) == 5, "the new key is not seen")  # type: ignore[union-attr]

    def come(key: str) -> None:
        opened = open_backend(
            endpoint=str(served.endpoint), keys=keys, key=key, read_only=True, timeout_s=10.0
        )
        ending.callback(opened.close)
        opened.observe(10.0)

    with contextlib.ExitStack() as ending:
        for _ in range(4):
            come("observer")
        time.sleep(1.2)  # counted by what is there, not by what was let in
        with pytest.raises(ConnectionFailed, match="has as many connections as it takes"):
            come("observer")
        come("visitor")
    with contextlib.ExitStack() as ending:

        def comes_in() -> bool:
            with contextlib.suppress(ConnectionFailed):
                come("observer")
                return True
            return False

        until(comes_in, "no place became free")


def test_a_flood_from_one_address_closes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of silent connections those of the address that has most go first, however old the others are."""
    monkeypatch.setattr(doors, "MOST_SILENT", 5)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    ports: set[int] = set()
    watching = Doors(context, ports)
    router = context.socket(zmq.ROUTER)
    watching.watch(router)
    ports.add(router.bind_to_random_port("tcp://127.0.0.1"))
    open_: list[socket.socket] = []

    def seen(count: int) -> bool:
        watching.look()
        return len(watching._here) >= count

    try:
        (port,) = ports
        open_ += half_open(port, 2, "127.0.0.2")
        until(lambda: seen(2), "connections are not seen")
        open_ += half_open(port, 20, "127.0.0.3")

        def closed() -> int:
            watching.look()
            return sum(map(ended, open_))

        until(lambda: closed() >= 17, "those that are too many are not closed")
        assert [ended(probe) for probe in open_[:2]] == [False, False]
        assert watching.silent == 5
    finally:
        for probe in open_:
            probe.close()
        context.destroy(linger=0)
        watching.close()


def test_what_is_no_connection_of_the_server_is_never_hung_up_on() -> None:
    """A descriptor that is another port's by now, a file, or nothing at all, is let be."""
    hand = doors._Hand({1})
    with contextlib.ExitStack() as ending:
        ending.callback(hand.close)
        listening = ending.enter_context(socket.create_server(("127.0.0.1", 0)))
        other = ending.enter_context(socket.create_connection(listening.getsockname(), timeout=10))
        there = ending.enter_context(listening.accept()[0])
        file = ending.enter_context(Path(__file__).open("rb"))
        for descriptor in (other.fileno(), file.fileno(), 9999):
            hand.hang_up(descriptor)
            assert hand.address_of(descriptor) == ""
        other.sendall(b"still here")
        assert there.recv(100) == b"still here"
        assert file.read(3) == b'"""'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 500_000), 4096),
        ((1024, 2048), 2048),
        ((20_000, 20_000), 20_000),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), resource.RLIM_INFINITY),
        ((1024, resource.RLIM_INFINITY), 4096),
    ],
)
def test_a_server_asks_for_the_descriptors_that_it_may_need(
    before: tuple[int, int], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as it may need, where the system lets it; never fewer than it had."""
    limits = list(before)
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(0, 2), new))
    assert doors.ask_for_descriptors() == after
    assert tuple(limits) == (after, before[1])
