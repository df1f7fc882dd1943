"""Keys on a running machine: taken away, and what they are worth in a client's hands."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from memrl_backends.zmq import ZmqSource, keyring, open_backend, wire
from memrl_backends.zmq.keys import make_folder
from memrl_ctrl.errors import ConnectionFailed, RefusalReason

from .authority import Machine, ask, controller, linked, reason_of, served


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_folder(tmp_path / "keys")
    return tmp_path / "keys"


def test_a_key_that_is_revoked_loses_everything(keys: Path, tmp_path: Path) -> None:
    """On a running machine its lease, its session and its readings end; others hardly notice."""
    keyring.new_key(tmp_path / "alice", "alice", wire.Role.CONTROLLER)
    (tmp_path / "alice" / "server.pub").write_bytes((keys / "server.pub").read_bytes())
    machine = Machine()
    with served(keys, machine, patience_s=60.0) as server:
        public = tmp_path / "alice" / "alice.pub"
        with pytest.raises(ConnectionFailed, match="does not accept this client's key"):
            controller(server, tmp_path / "alice")
        keyring.authorize(keys, public, wire.Role.CONTROLLER, None)
        time.sleep(1.2)
        alice = controller(server, tmp_path / "alice", name="alice")
        watcher = open_backend(endpoint=str(server.endpoint), keys=keys, read_only=True)
        alice.play(alice.start().applied_rad + 0.1)
        keyring.revoke(keys, "alice")
        time.sleep(1.2)
        taken = len(machine.taken)
        newest = alice._cycle
        assert reason_of(lambda: alice.submit(np.zeros(30), newest + 1, 5.0)) == "read-only"
        assert len(machine.taken) == taken
        first, second = watcher.observe(), watcher.observe()  # nobody holds the lease any more
        assert second.cycle > first.cycle
        assert not _published_to(alice)
        with pytest.raises(ConnectionFailed, match="does not accept this client's key"):
            controller(server, tmp_path / "alice")
        bob = controller(server, keys, name="bob")
        bob.start()
        for one in (alice, bob, watcher):
            one.close()


def _published_to(source: ZmqSource) -> bool:
    """Whether anything still comes on its subscription."""
    while source.link._subscriber.poll(0):  # what had come before
        source.link._subscriber.recv_multipart()
    return bool(source.link._subscriber.poll(1500))


def test_a_key_may_do_what_the_server_says(keys: Path, tmp_path: Path) -> None:
    """The role in a client's own file means nothing: the server's file decides."""
    keyring.new_key(tmp_path / "eve", "eve", wire.Role.OPERATOR)
    (tmp_path / "eve" / "server.pub").write_bytes((keys / "server.pub").read_bytes())
    keyring.authorize(keys, tmp_path / "eve" / "eve.pub", wire.Role.OBSERVER, None)
    with served(keys) as server, linked(server, tmp_path / "eve", wire.Role.OPERATOR) as link:
        assert link.welcome.role is wire.Role.OBSERVER
        for kind in (wire.LeaseRequest, wire.TakeOver, wire.Arm):
            assert reason_of(lambda kind=kind: ask(link, kind)) == RefusalReason.READ_ONLY
