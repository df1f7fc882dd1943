"""Clients of a machine over loopback: who gets in, who may write, and what the others see."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from memrl_backends.zmq import MachineServer, ZmqBackend, ZmqSource, open_backend, wire
from memrl_backends.zmq.keys import make_folder
from memrl_ctrl.backend import BeamBackend, BeamSource, FloatArray, Reading, Receipt
from memrl_ctrl.errors import (
    ConnectionFailed,
    MemrlError,
    RefusalReason,
    Refused,
    Standstill,
    UsageError,
)
from memrl_ctrl.frames import pack
from memrl_ctrl.registry import open_source
from memrl_ctrl.testing import FakeBackend

from .machine_process import LOOPBACK, bare, controller, served, started


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_folder(tmp_path / "keys")
    return tmp_path / "keys"


class Gated(FakeBackend):
    """Plays a cycle only when it is let; notes whether it was written to meanwhile."""

    def __init__(self) -> None:
        super().__init__(points=30, n_slices=32)
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.disturbed = False

    def observe(self, timeout_s: float | None = None) -> Reading:
        self.inside.set()
        self.go_on.wait(20)
        self.inside.clear()
        return super().observe(timeout_s)

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        self.disturbed |= self.inside.is_set()
        return super().submit(phi_hw_rad, cycle, deadline_s)


def watch(source: BeamSource) -> None:
    """Look until it ends."""
    while True:
        source.observe()


def test_nobody_there_is_named_in_time(keys: Path) -> None:
    """An endpoint where nobody listens is one sentence after the time given."""
    with pytest.raises(
        ConnectionFailed, match=r"nobody answers at tcp://127.0.0.1:9 within 0.3 s; is `memrl-ctrl"
    ):
        open_backend(endpoint="tcp://127.0.0.1:9", keys=keys, timeout_s=0.3)


def test_another_protocol_is_named(keys: Path) -> None:
    """A port where something else listens is told from one where nobody does."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=r"something answers .* right port"):
            open_backend(endpoint=endpoint, keys=keys, timeout_s=0.5)


def test_a_wrong_key_is_named(keys: Path, tmp_path: Path) -> None:
    """A key that is not authorized, another machine's key, and no key are each told apart."""
    make_folder(tmp_path / "other")
    mixed = tmp_path / "mixed"
    shutil.copytree(keys, mixed)
    shutil.copy(tmp_path / "other" / "controller.key", mixed / "controller.key")
    with served(keys) as server:
        endpoint = str(server.endpoint)
        with pytest.raises(ConnectionFailed, match="does not accept this client's key"):
            open_backend(endpoint=endpoint, keys=mixed)
        with pytest.raises(ConnectionFailed, match=r"not the one whose server\.pub"):
            open_backend(endpoint=endpoint, keys=tmp_path / "other")
        with pytest.raises(ConnectionFailed, match="wants keys"):
            open_backend(endpoint=endpoint, insecure_loopback=True)


def test_a_folder_without_the_key_is_named(keys: Path) -> None:
    """Who holds an observer's key only cannot open a backend that writes."""
    (keys / "controller.key").unlink()
    with served(keys) as server:
        with pytest.raises(MemrlError, match=r"controller\.key: no such key, and no other"):
            open_backend(endpoint=str(server.endpoint), keys=keys)
        open_backend(endpoint=str(server.endpoint), keys=keys, read_only=True).close()


def test_a_source_has_nothing_that_writes(keys: Path) -> None:
    """Opened to look only, there is no method that writes, and the connection may not either."""
    with served(keys) as server:
        source = open_source("zmq", endpoint=str(server.endpoint), keys=keys)
        assert type(source) is ZmqSource
        assert isinstance(source, BeamSource)
        assert not isinstance(source, BeamBackend)
        for name in ("submit", "play", "start"):
            assert not hasattr(source, name)
        assert not source.description.writable
        first, second = source.observe(), source.observe()
        assert second.cycle > first.cycle
        # Even its connection in other hands is refused by the machine.
        forged = ZmqBackend(lambda _: source._link)
        with pytest.raises(Refused, match="observer") as refused:
            forged._take_lease()
        assert refused.value.reason is RefusalReason.READ_ONLY
        source.close()


def test_a_second_controller_is_refused_by_name(keys: Path) -> None:
    """Whoever comes second is told who is in control, and comes in once that one has left."""
    with served(keys) as server:
        first = controller(server, keys, "morning shift")
        second = controller(server, keys, "evening shift")
        reading = first.start()
        with pytest.raises(Refused, match="'morning shift \\(controller\\)' is in control"):
            second.start()
        with pytest.raises(Refused, match="morning shift"):
            second.submit(reading.applied_rad, reading.cycle + 1, 1.0)
        first.close()
        second.play(second.start().applied_rad)
        second.close()


def test_a_late_client_is_refused_and_may_go_on(keys: Path) -> None:
    """Whoever slept through its lease is refused as late, and then takes part again."""
    with served(keys, patience_s=0.3) as server:
        backend = controller(server, keys)
        reading = backend.start()
        time.sleep(0.6)
        with pytest.raises(Refused) as refused:
            backend.submit(reading.applied_rad + 0.1, reading.cycle + 1, 1.0)
        assert refused.value.reason is RefusalReason.LATE
        newer = backend.observe()
        assert newer.cycle > reading.cycle + 1
        np.testing.assert_array_equal(newer.applied_rad, reading.applied_rad)
        wanted = newer.applied_rad + 0.1
        while True:  # nobody was in control: the machine may have gone on once more
            try:
                played = backend.play(wanted)
            except Refused:
                backend.observe()
            else:
                break
        np.testing.assert_array_equal(played.applied_rad, wanted)
        backend.close()


def test_a_machine_waits_for_its_controller(keys: Path) -> None:
    """Without a period every cycle is written for: no cycle is missed, whatever the client's pace."""
    with served(keys) as server:
        backend = controller(server, keys)
        reading = backend.start()
        for i in range(20):
            time.sleep(0.005 * (i % 3))
            after = backend.play(reading.applied_rad + 0.01)
            assert after.cycle == reading.cycle + 1
            reading = after
        assert backend.missed == 0
        backend.close()


def test_an_observer_cannot_crowd_out_the_controller(keys: Path) -> None:
    """Whoever may not write takes no place among what waits; the backend is left alone meanwhile."""
    backend = Gated()
    with (
        served(keys, backend=backend, patience_s=30.0) as server,
        bare(zmq.DEALER, server.endpoint, keys) as looker,
    ):
        assert backend.inside.wait(20)  # with nobody in control it begins by itself
        holder = controller(server, keys)
        for sequence in range(1, 200):
            looker.send(
                pack(
                    wire.Submit(session=1, sequence=sequence, fence=0, cycle=3, deadline_ns=0),
                    {"phi_hw_rad": np.zeros(30)},
                )
            )
            assert b"stale" in looker.recv()
        threading.Timer(0.2, backend.go_on.set).start()
        assert holder.submit(np.full(30, 0.1), 3, 20.0).cycle == 3
        assert not backend.disturbed
        holder.close()


def test_a_slow_observer_gets_the_newest(keys: Path) -> None:
    """Who looks away sees the newest cycle next, and knows how many it did not see."""
    with served(keys, idle_s=0.005) as server:
        source = open_backend(endpoint=str(server.endpoint), keys=keys, read_only=True)
        first = source.observe()
        time.sleep(0.5)
        second = source.observe()
        assert second.cycle > first.cycle + 20
        assert source.missed >= second.cycle - first.cycle - 1
        assert sum(hole.readings for hole in source.holes) == source.missed
        assert source.holes[-1].before_cycle == second.cycle
        source.close()


def test_no_cycle_is_a_timeout(keys: Path) -> None:
    """A machine that is there but plays nothing is told from one that is gone."""
    with served(keys, period_s=60.0) as server:
        source = open_backend(endpoint=str(server.endpoint), keys=keys, read_only=True)
        assert source.observe().cycle == 1  # the one it began with
        with pytest.raises(Standstill, match="plays no cycle"):
            source.observe(timeout_s=0.7)
        source.close()


def test_a_failing_backend_tells_its_clients(keys: Path) -> None:
    """When the machine's backend fails, the client hears why."""
    backend = FakeBackend(points=30, n_slices=32)
    server = MachineServer(backend, endpoint=LOOPBACK, period_s=0.0, keys=keys, idle_s=0.01)
    thread, failures = started(server.run)
    source = open_backend(endpoint=str(server.endpoint), keys=keys, read_only=True)
    backend.close()
    with pytest.raises(ConnectionFailed, match="it failed: the fake backend is closed"):
        watch(source)
    thread.join()
    assert len(failures) == 1
    source.close()


def test_not_armed_takes_nothing(keys: Path) -> None:
    """A machine that is not armed gives nobody the lease, and says who can change that."""
    with served(keys, arm=False) as server:
        backend = controller(server, keys)
        with pytest.raises(Refused, match="not armed: an operator arms it") as refused:
            backend.start()
        assert refused.value.reason is RefusalReason.NOT_ARMED
        assert backend.observe().cycle > 0
        backend.close()


def test_what_is_larger_than_a_message_is_refused_by_name(keys: Path) -> None:
    """A machine whose readings nobody could receive does not start; a request that is too large is not sent,
    and the connection lives on."""
    with pytest.raises(UsageError, match=r"300 points x 1000 slices has \d+ bytes.* 864 slices at"):
        MachineServer(FakeBackend(points=300, n_slices=1000), endpoint=LOOPBACK, keys=keys)
    largest = FakeBackend(points=300, n_slices=864)
    with served(keys, backend=largest) as server:
        backend = controller(server, keys)
        reading = backend.start()
        with pytest.raises(
            Refused, match=r"request of \d+ bytes is not sent: a machine takes 1048576"
        ):
            backend.submit(np.zeros(200_000), reading.cycle + 1, 1.0)
        assert backend.play(reading.applied_rad + 0.1).profile.shape == (300, 864)
        backend.close()


def test_without_keys_only_where_it_is_said(keys: Path) -> None:
    """Without encryption both sides must say so; then everything works."""
    with served(keys, insecure_loopback=True) as server:
        with pytest.raises(ConnectionFailed, match="--insecure-loopback"):
            open_backend(endpoint=str(server.endpoint), keys=keys)
        backend = open_backend(endpoint=str(server.endpoint), insecure_loopback=True)
        assert isinstance(backend, ZmqBackend)
        backend.play(backend.start().applied_rad)
        backend.close()


def test_a_truth_log_needs_truth(keys: Path, tmp_path: Path) -> None:
    """A place where it cannot be made is told at once."""
    (tmp_path / "no").touch()
    server = MachineServer(
        FakeBackend(points=2), endpoint=LOOPBACK, keys=keys, truth_log=tmp_path / "no" / "log"
    )
    with pytest.raises(UsageError, match="cannot be written"):
        server.run()
