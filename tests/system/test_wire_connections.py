"""How many connections and sessions there may be: what is too much is told so, and the others stay served."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from memrl_backends.zmq import MachineServer, doors, open_backend, wire
from memrl_backends.zmq.doors import Doors
from memrl_backends.zmq.keys import load_client, make_folder
from memrl_backends.zmq.wire import Role
from memrl_ctrl.errors import ConnectionFailed
from memrl_ctrl.frames import pack, unpack
from memrl_ctrl.testing import FakeBackend


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
            first = owner.start()
            owner.play(first.applied_rad + 0.01)
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
    watching = Doors(context)
    router = context.socket(zmq.ROUTER)
    watching.watch(router)
    port = router.bind_to_random_port("tcp://127.0.0.1")
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
