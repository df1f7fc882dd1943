"""What the tests of a machine and its clients share: a process, a server in a thread, a client."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from memrl_backends.zmq import MachineServer, ZmqBackend, open_backend, wire
from memrl_backends.zmq.keys import load_client
from memrl_ctrl.backend import BeamBackend
from memrl_ctrl.errors import MemrlError
from memrl_ctrl.testing import FakeBackend

LOOPBACK = "tcp://127.0.0.1:0"
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def lasting_endpoint() -> str:
    """Return an endpoint that stays free while a machine is killed and started again at it.

    Its two ports lie below those that the system gives to whoever asks for any: between two lives of a
    machine another test's connection would take one of those.
    """
    given_out = int(PORT_RANGE.read_text().split()[0]) if PORT_RANGE.exists() else 32_768
    for _ in range(100):
        port = random.SystemRandom().randrange(10_000, given_out - 1)
        with socket.socket() as commands, socket.socket() as readings:
            try:
                commands.bind(("127.0.0.1", port))
                readings.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return f"tcp://127.0.0.1:{port}"
    raise AssertionError("no two neighbouring free ports on 127.0.0.1")


class Process:
    """`memrl-ctrl machine` with its keys in a folder of the test's."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.keys = folder, folder / "keys"
        environment = {**os.environ, "MEMRL_CTRL_STATE": str(folder), "PYTHONUNBUFFERED": "1"}
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "memrl_ctrl", "machine", "--seed", "5",
             *([] if "--slices" in options else ["--slices", "64"]), *options],
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


def started(run: Callable[[], object]) -> tuple[threading.Thread, list[MemrlError]]:
    """Run a server in a thread; return it, and the list of what it fails with."""
    failures: list[MemrlError] = []

    def noting() -> None:
        try:
            run()
        except MemrlError as error:
            failures.append(error)

    thread = threading.Thread(target=noting)
    thread.start()
    return thread, failures


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
