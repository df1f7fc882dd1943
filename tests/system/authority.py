"""What the tests of who may write share: a machine that remembers, clients and messages by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memrl_backends.zmq import MachineServer, ZmqBackend, open_backend, wire
from memrl_backends.zmq.client import connector
from memrl_backends.zmq.link import Link
from memrl_ctrl.backend import FloatArray, Reading, Receipt
from memrl_ctrl.errors import Refused
from memrl_ctrl.testing import FakeBackend

LOOPBACK = "tcp://127.0.0.1:0"
WAIT_S = 30.0


class Machine(FakeBackend):
    """Remembers what it took; plays a cycle only when it is let, if it is gated."""

    def __init__(self, *, gated: bool = False) -> None:
        super().__init__(points=30, n_slices=32)
        self.taken: list[float] = []
        self.inside, self.go_on = threading.Event(), threading.Event()
        if not gated:
            self.go_on.set()

    def observe(self, timeout_s: float | None = None) -> Reading:
        self.inside.set()
        self.go_on.wait(WAIT_S)
        self.inside.clear()
        return super().observe(timeout_s)

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        receipt = super().submit(phi_hw_rad, cycle, deadline_s)
        self.taken.append(float(phi_hw_rad[0]))
        return receipt


@contextmanager
def served(keys: Path, machine: Machine | None = None, **options: Any) -> Iterator[MachineServer]:
    server = MachineServer(
        machine or Machine(), **{"endpoint": LOOPBACK, "period_s": 0.0, "keys": keys, **options}
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        if machine is not None:
            machine.go_on.set()
        server.stop()
        thread.join()


def controller(server: MachineServer | str, keys: Path, **options: Any) -> ZmqBackend:
    endpoint = server if isinstance(server, str) else str(server.endpoint)
    opened = open_backend(endpoint=endpoint, keys=keys, timeout_s=10.0, **options)
    assert isinstance(opened, ZmqBackend)
    return opened


@contextmanager
def linked(server: MachineServer, keys: Path, role: wire.Role) -> Iterator[Link]:
    connect = connector(
        str(server.endpoint),
        role,
        keys=keys,
        timeout_s=10.0,
        insecure_loopback=False,
        name="by hand",
    )
    link = connect(None)
    try:
        yield link
    finally:
        link.close()


def ask(link: Link, kind: type[Any], function: FloatArray | None = None, **more: Any) -> Any:
    arrays = None if function is None else {"phi_hw_rad": function}
    message = kind(session=link.session, sequence=link.next_sequence(), **more)
    return link.request(message, arrays)[0]


def until(condition: Callable[[], bool], what: str) -> None:
    ends_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < ends_s, what
        time.sleep(0.01)


def reason_of(call: Callable[[], Any]) -> str:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value.reason.value
