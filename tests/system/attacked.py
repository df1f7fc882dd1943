"""What the tests of an attacked machine share: the machine as a process of its own, and bare clients."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from memrl_backends.zmq import ZmqBackend, open_backend, wire
from memrl_backends.zmq.keys import load_client, make_folder, write_pair
from memrl_backends.zmq.wire import Role
from memrl_ctrl.errors import ConnectionFailed, RefusalReason, Refused
from memrl_ctrl.frames import pack, unpack

GROWTH_MIB = 60.0
"""What a machine may grow by under attack; buffers of its connections are bounded by this."""
OWNER = "owner"
"""Name of the rightful controller's key."""

MACHINE = """
import sys
from pathlib import Path
from memrl_backends.zmq import MachineServer
from memrl_ctrl.testing import FakeBackend

class Machine(FakeBackend):
    def submit(self, phi_hw_rad, cycle, deadline_s):
        receipt = super().submit(phi_hw_rad, cycle, deadline_s)
        print("took", phi_hw_rad[0], flush=True)
        return receipt

server = MachineServer(
    Machine(points=30, n_slices=64), endpoint=f"tcp://127.0.0.1:0", period_s=0.2,
    keys=Path(sys.argv[1]), on_ready=lambda: print("ready", server.endpoint, flush=True),
)
server.run()
"""


class Attacked:
    """A machine, and what it took."""

    def __init__(self, keys: Path) -> None:
        self.keys = keys
        make_folder(keys)
        # A key of its own: what an attacker's sessions push out are the attacker's.
        write_pair(keys, OWNER, Role.CONTROLLER, keys / "authorized" / f"{OWNER}.pub")
        self._popen = subprocess.Popen(
            [sys.executable, "-c", MACHINE, str(keys)], stdout=subprocess.PIPE, text=True
        )
        assert self._popen.stdout is not None
        self.endpoint = self._popen.stdout.readline().split()[1]
        self.port = int(self.endpoint.rpartition(":")[2])
        self.taken: list[float] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.owner = self.own_client()
        self.readings = self.owner.link.welcome.readings_port
        for _ in range(5):
            self.works()
        self.written = 0.0
        self.before_mib = self.memory_mib()

    def own_client(self) -> ZmqBackend:
        """Connect as the machine's rightful controller."""
        opened = open_backend(
            endpoint=self.endpoint, keys=self.keys, key=OWNER, timeout_s=10.0, name=OWNER
        )
        assert isinstance(opened, ZmqBackend)
        return opened

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.taken.append(float(line.split()[1]))

    def memory_mib(self, field: str = "VmRSS") -> float:
        """Return what it holds, or (`VmHWM`) the most that it ever held."""
        status = Path(f"/proc/{self._popen.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self._popen.pid}/fd"))

    def works(self) -> None:
        """It still plays cycles, and its rightful controller can write."""
        owner = self.owner
        if not owner._has_lease():
            owner.start()
        before = owner.observe(20.0)
        for _ in range(20):
            wanted = before.applied_rad + (0.001 if before.applied_rad[0] < 1.0 else -0.5)
            try:
                after = owner.play(wanted)
            except Refused as refused:
                if refused.reason is not RefusalReason.LATE:
                    raise
                before = owner.observe(20.0)
                continue
            np.testing.assert_array_equal(after.applied_rad, wanted)
            return
        raise AssertionError("its controller is too late twenty times in a row")

    def unharmed(self, *, growth_mib: float = GROWTH_MIB) -> None:
        """It was not written to by anybody else, works, and has not grown."""
        assert self._popen.poll() is None
        count = len(self.taken)
        self.works()
        assert len(self.taken) >= count
        assert 0.777 not in self.taken
        grown = self.memory_mib() - self.before_mib
        assert grown < growth_mib, f"grew by {grown:.0f} MiB"

    def end(self) -> None:
        with contextlib.suppress(ConnectionFailed):
            self.owner.close()
        self._popen.kill()
        self._popen.wait()
        self._reader.join()
        assert self._popen.stdout is not None
        self._popen.stdout.close()


@contextmanager
def bare(
    attacked: Attacked,
    kind: int,
    role: Role = Role.OBSERVER,
    keys: Path | None = None,
    **options: Any,
) -> Iterator[zmq.Socket[bytes]]:
    own = load_client(keys or attacked.keys, role)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = context.socket(kind)
    made.curve_serverkey, made.curve_publickey = own.server, own.public
    made.curve_secretkey = own.secret
    made.rcvtimeo = made.sndtimeo = 20_000
    for name, value in options.items():
        setattr(made, name, value)
    port = attacked.readings if kind in {zmq.SUB, zmq.XSUB} else attacked.port
    made.connect(f"tcp://127.0.0.1:{port}")
    try:
        yield made
    finally:
        context.destroy(linger=0)


def hello(socket_: zmq.Socket[bytes], **more: Any) -> wire.Welcome:
    socket_.send(pack(wire.Hello(sequence=1, oldest=1, newest=1, client="eve", **more)))
    message = unpack(socket_.recv(), wire.replies)[0]
    assert isinstance(message, wire.Welcome)
    return message


EVIL = {"phi_hw_rad": np.full(30, 0.777)}


@contextmanager
def under_attack(keys: Path) -> Iterator[Attacked]:
    machine = Attacked(keys)
    try:
        yield machine
    finally:
        machine.end()
