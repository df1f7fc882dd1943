"""The machine as a process of its own, and its clients, over loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq

from memrl_backends.zmq import MachineServer, ZmqBackend, ZmqSource, client, open_backend, wire
from memrl_backends.zmq.keys import load_client, make_folder
from memrl_ctrl.backend import BeamBackend, BeamSource, FloatArray, Reading, Receipt
from memrl_ctrl.cli import main
from memrl_ctrl.errors import (
    ConnectionFailed,
    MachineError,
    MemrlError,
    ReadingTimeout,
    RefusalReason,
    Refused,
    UsageError,
)
from memrl_ctrl.frames import pack
from memrl_ctrl.registry import open_source
from memrl_ctrl.testing import FakeBackend

LOOPBACK = "tcp://127.0.0.1:0"


class Process:
    """`memrl-ctrl machine` with its keys in a folder of the test's."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.keys = folder, folder / "keys"
        environment = {**os.environ, "MEMRL_CTRL_STATE": str(folder), "PYTHONUNBUFFERED": "1"}
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "memrl_ctrl", "machine", "--slices", "64", "--seed", "5",
             *options],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._popen.pid

    def ready(self) -> str:
        """Wait for the ready line and return the endpoint in it."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        found = re.search(r"ready at (tcp://\S+):", line)
        assert found, line + "".join(self.end(signal.SIGKILL)[1:])
        return found[1]

    def end(self, number: signal.Signals | None) -> tuple[int, str, str]:
        """Send a signal, if any; return exit code, output and errors."""
        if number is not None and self._popen.poll() is None:
            self._popen.send_signal(number)
        out, err = self._popen.communicate(timeout=60)
        return self._popen.returncode, out, err

    def leave(self) -> str:
        """Close our end of its output; return exit code and errors once it has ended."""
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._popen.stdout.close()
        errors = self._popen.stderr.read()
        return f"{self._popen.wait(timeout=60)}: {errors}"


@contextmanager
def process(folder: Path, *options: str) -> Iterator[Process]:
    started = Process(folder, "--endpoint", LOOPBACK, *options)
    try:
        yield started
    finally:
        started.end(signal.SIGKILL)


@contextmanager
def served(
    keys: Path, *, backend: BeamBackend | None = None, period_s: float = 0.0, **options: object
) -> Iterator[MachineServer]:
    """Serve a fake machine in a thread."""
    server = MachineServer(
        FakeBackend(points=30, n_slices=32) if backend is None else backend,
        endpoint=LOOPBACK,
        period_s=period_s,
        keys=keys,
        **options,  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_folder(tmp_path / "keys")
    return tmp_path / "keys"


def controller(server: MachineServer, keys: Path, name: str = "test") -> ZmqBackend:
    opened = open_backend(endpoint=str(server.endpoint), keys=keys, name=name)
    assert isinstance(opened, ZmqBackend)
    return opened


@contextmanager
def bare(kind: int, endpoint: object, keys: Path) -> Iterator[zmq.Socket[bytes]]:
    """A socket of somebody who holds an observer's key and sends what they like."""
    own = load_client(keys, wire.Role.OBSERVER)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = context.socket(kind)
    made.curve_serverkey, made.curve_publickey = own.server, own.public
    made.curve_secretkey = own.secret
    made.rcvtimeo = 20_000
    made.connect(str(endpoint))
    try:
        yield made
    finally:
        context.destroy(linger=0)


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


def test_a_machine_is_driven_and_stopped(tmp_path: Path) -> None:
    """The short command makes its keys, takes setpoints, writes the truth aside, and ends cleanly."""
    truth = tmp_path / "truth.jsonl"
    with process(tmp_path, "--period", "0", "--truth-log", str(truth)) as machine:
        endpoint = machine.ready()
        backend = open_backend(endpoint=endpoint, keys=machine.keys)
        assert isinstance(backend, BeamBackend)
        reading = backend.start()
        assert reading.truth is None
        wanted = reading.applied_rad + 0.1
        after = backend.play(wanted)
        assert after.cycle == reading.cycle + 1
        np.testing.assert_array_equal(after.applied_rad, wanted)
        code, out, _ = machine.end(signal.SIGTERM)
        assert code == 0
        assert re.search(r"psb stopped: played \d+ cycles .* took 1 functions", out)
        with pytest.raises(ConnectionFailed, match=r"has ended: it was stopped"):
            backend.observe()
        backend.close()
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert [line["cycle"] for line in lines] == list(range(1, len(lines) + 1))
    played = lines[after.cycle - 1]
    assert played["phi_hw_rad"] == wanted.tolist()
    assert len(played["phase_error_rad"]) == 30
    turn = np.array(played["phi2_rad"]) + played["offset_rad"] - np.array(played["phi_hw_rad"])
    np.testing.assert_allclose(np.cos(turn), 1.0)


def test_a_machine_that_is_killed_is_noticed(tmp_path: Path) -> None:
    """SIGKILL in the middle of a run is one sentence at the client, from every call."""
    with process(tmp_path, "--period", "0") as machine:
        backend = open_backend(endpoint=machine.ready(), keys=machine.keys)
        assert isinstance(backend, ZmqBackend)
        reading = backend.start()
        machine.end(signal.SIGKILL)
        with pytest.raises(ConnectionFailed, match="has gone: the connection broke"):
            backend.play(reading.applied_rad)
        with pytest.raises(ConnectionFailed, match="has gone"):
            backend.observe()
        backend.close()


def test_a_machine_that_is_frozen_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that keeps its connection but says nothing is gone after some time."""
    monkeypatch.setattr(client, "SILENCE_S", 1.0)
    with process(tmp_path, "--period", "30") as machine:
        source = open_backend(endpoint=machine.ready(), keys=machine.keys, read_only=True)
        os.kill(machine.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionFailed, match=r"nothing was heard .* for 1\.\d s"):
                source.observe()
        finally:
            os.kill(machine.pid, signal.SIGCONT)
        source.close()


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    """A second machine on the same port says so and ends with exit code 2, playing nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = Process(tmp_path, "--endpoint", endpoint).end(None)
    assert code == 2
    assert out == ""
    assert err.startswith(f"memrl-ctrl: {endpoint} is in use: stop what runs there")
    assert len(err.strip().splitlines()) == 1


def test_a_count_of_cycles_ends_the_machine(tmp_path: Path) -> None:
    """`--cycles` plays exactly so many and ends by itself."""
    code, out, _ = Process(
        tmp_path, "--endpoint", LOOPBACK, "--cycles", "3", "--period", "0", "--quiet"
    ).end(None)
    assert code == 0
    assert "played 3 cycles" in out


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
        with pytest.raises(ReadingTimeout, match="plays no cycle"):
            source.observe(timeout_s=0.7)
        source.close()


def test_a_failing_backend_tells_its_clients(keys: Path) -> None:
    """When the machine's backend fails, the client hears why."""
    backend = FakeBackend(points=30, n_slices=32)
    server = MachineServer(backend, endpoint=LOOPBACK, period_s=0.0, keys=keys, idle_s=0.01)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except MemrlError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
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


def _observe(source: BeamSource, count: int) -> None:
    for _ in range(count):
        source.observe(20.0)


def test_the_machine_ends_cleanly_when_its_reader_has_gone(tmp_path: Path) -> None:
    """`memrl-ctrl machine | head -1`: exit code 0, no message, and clients are told goodbye."""
    with process(tmp_path, "--period", "0.2") as machine:
        source = open_source("zmq", endpoint=machine.ready(), keys=machine.keys)
        try:
            source.observe(20.0)
            assert machine.leave() == "0: "
            with pytest.raises(MachineError, match="ended: it was stopped"):
                _observe(source, 10)
        finally:
            source.close()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_ends_the_machine_unless_nohup_said_otherwise(
    tmp_path: Path, ignored: bool
) -> None:
    """SIGHUP ends it as Ctrl-C does; where it was ignored from the start it stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with process(tmp_path, "--period", "0.2") as machine:
            machine.ready()
            os.kill(machine.pid, signal.SIGHUP)
            time.sleep(0.5)
            code, out, errors = machine.end(signal.SIGINT if ignored else None)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (code, errors) == (0, "")
    assert "stopped: played" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cycles", "-1"], "--cycles must be at least 1, not -1"),
        (["--cycles", "0"], "--cycles must be at least 1, not 0"),
        (["--cycles", "1.5"], "1.5 is no integer"),
        (["--offset-deg", "nan"], "--offset-deg must be a number of degrees or 'random'"),
        (["--offset-deg", "much"], "--offset-deg must be a number of degrees or 'random'"),
        (["--period", "-1"], "--period must be between 0 and 86400 s"),
        (["--idle", "nan"], "--idle must be between 0 and 86400 s"),
        (["--seed", "-1"], "--seed must be between 0"),
        (["--intensity", "1e20"], "intensity must be 0 to 1e+15 protons"),
        (["--truth-log", "/proc/new/x"], "/proc/new/x: cannot be written"),
    ],
)
def test_a_machine_that_cannot_be_meant_is_one_sentence(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which option, what is allowed, what was given; nothing is bound and nothing played."""
    assert main(["machine", "--endpoint", LOOPBACK, *options]) in (2, 3)
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_the_truth_log_gets_its_folders(tmp_path: Path) -> None:
    """A truth log in a folder that does not exist yet is made with it."""
    truth = tmp_path / "new" / "truth.jsonl"
    with process(tmp_path, "--period", "0", "--cycles", "2", "--truth-log", str(truth)) as machine:
        assert machine.end(None)[0] == 0
    assert len(truth.read_text().splitlines()) == 2
