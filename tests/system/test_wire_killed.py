"""A machine that is killed while it is written to, at random instants: nothing acknowledged is lost, and
nothing plays that was not asked for by who may."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from memrl_backends.zmq import wire
from memrl_backends.zmq.client import connector
from memrl_backends.zmq.keys import make_folder
from memrl_backends.zmq.link import Link
from memrl_ctrl.errors import ConnectionFailed, RefusalReason, Refused
from memrl_ctrl.frames import pack, unpack

from .attacked import EVIL
from .authority import ask
from .machine_process import bare, lasting_endpoint

MACHINE = """
import os, signal, sys
from pathlib import Path
from memrl_backends.zmq import MachineServer
from memrl_backends.zmq.ledger import Ledger
from memrl_ctrl.testing import FakeBackend

endpoint, keys, instant = sys.argv[1:]
commits = 0

def here(where):
    return commits == 3 and where == instant

def end():
    os.kill(os.getpid(), signal.SIGKILL)

class Machine(FakeBackend):
    def submit(self, phi_hw_rad, cycle, deadline_s):
        global commits
        receipt = super().submit(phi_hw_rad, cycle, deadline_s)
        print(float(phi_hw_rad[0]), flush=True)
        commits += ready
        if here("taken"):
            end()
        return receipt

class Files(Ledger):
    def record(self, entry, applied_rad):
        super().record(entry, applied_rad)
        if here("recorded"):
            end()

    def _append(self, data):
        if here("half recorded"):
            os.write(self._descriptor, data[: len(data) // 2])
            end()
        super()._append(data)

def on_ready():
    global ready
    ready = True
    print("ready", flush=True)

ready = False
server = MachineServer(
    Machine(points=30, n_slices=16), endpoint=endpoint, period_s=0.02, keys=Path(keys), resume=True,
    on_ready=on_ready,
)
server._state.ledger.__class__ = Files
server.run()
"""
INSTANTS = ("taken", "any", "half recorded", "any", "recorded", "any")
"""Where in the third commit the machine is killed, by itself; or from outside, whenever that is."""


class Life:
    """The machine from one start to the next kill, and the functions that its backend took."""

    def __init__(self, endpoint: str, keys: Path, instant: str) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", MACHINE, endpoint, str(keys), instant],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._popen.stdout is not None
        self.resumed = []
        for line in self._popen.stdout:
            if line == "ready\n":
                break
            self.resumed.append(float(line))

    def killed(self) -> list[float]:
        """Have it killed; return what it took while clients were there."""
        self._popen.kill()
        out, _ = self._popen.communicate()
        # Of a line that the kill cut off nothing is known.
        return [float(line) for line in out.split("\n")[:-1]]


class Writer(threading.Thread):
    """Stages and commits one function after the other, each under a key of its own, until it is cut off."""

    def __init__(self, link: Link, first: int) -> None:
        super().__init__()
        self._link, self._number = link, first
        self.acknowledged: dict[int, Any] = {}
        self.refused: set[int] = set()
        self.in_doubt: int | None = None
        self.begun = threading.Event()
        self.fence = ask(link, wire.LeaseRequest).fence

    def run(self) -> None:
        try:
            while True:
                self._write()
        except ConnectionFailed:
            pass
        finally:
            self._link.close()

    def _write(self) -> None:
        link, fence = self._link, self.fence
        self._number = number = self._number + 1
        cycle = ask(link, wire.StatusRequest).next_cycle
        try:
            function = np.full(30, value_of(number))
            ask(link, wire.Stage, function, fence=fence, cycle=cycle)
            self.in_doubt = number
            commit = {"fence": fence, "deadline_ns": 2**62, "key": f"k{number}"}
            self.acknowledged[number] = ask(link, wire.Commit, **commit)
            self.begun.set()
        except Refused as refused:
            if refused.reason is not RefusalReason.LATE:  # as on a busy computer
                raise
            self.refused.add(number)
        self.in_doubt = None


def value_of(number: int) -> float:
    """Return a function's value, rad: another one for each, within the limits of a step."""
    return 0.2 + 0.01 * (number % 50) + 1e-6 * number


def linked(endpoint: str, keys: Path) -> Link:
    connect = connector(
        endpoint,
        wire.Role.CONTROLLER,
        keys=keys,
        timeout_s=20.0,
        insecure_loopback=False,
        name="writer",
    )
    return connect(None)


def refuse_the_unasked(endpoint: str, keys: Path, before: Writer, stale_session: int) -> None:
    """An observer, and a message from the life before, write nothing."""
    with bare(zmq.DEALER, endpoint, keys) as eve:
        for session in (stale_session, 1):
            submit = wire.Submit(
                session=session, sequence=10**6, fence=before.fence, cycle=5, deadline_ns=2**62
            )
            eve.send(pack(submit, EVIL))
            assert unpack(eve.recv(), wire.replies)[0].reason is RefusalReason.STALE
    link = linked(endpoint, keys)
    with pytest.raises(Refused) as refused:
        ask(link, wire.Submit, EVIL["phi_hw_rad"], fence=before.fence, cycle=5, deadline_ns=2**62)
    assert refused.value.reason is RefusalReason.FENCED
    link.close()


def settled(link: Link, writer: Writer) -> int | None:
    """Check every function of the life before by its key; return the newest that the machine kept."""
    newest = max(writer.acknowledged, default=None)
    for number, receipt in writer.acknowledged.items():
        again = ask(link, wire.Commit, fence=0, deadline_ns=0, key=f"k{number}")
        assert (again.cycle, again.fence) == (receipt.cycle, receipt.fence)
    for number in writer.refused:
        with pytest.raises(Refused):
            ask(link, wire.Commit, fence=0, deadline_ns=0, key=f"k{number}")
    if writer.in_doubt is not None:
        try:
            ask(link, wire.Commit, fence=0, deadline_ns=0, key=f"k{writer.in_doubt}")
        except Refused as refused:
            if refused.reason is not RefusalReason.FENCED:  # it is not known: a lease is wanted
                raise
        else:
            newest = writer.in_doubt
    return newest


@pytest.mark.parametrize(
    "lives", [6, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_a_kill_at_any_instant_of_a_commit_loses_nothing(tmp_path: Path, lives: int) -> None:
    """SIGKILL between staged and acknowledged, again and again: what was acknowledged plays after the
    restart and its receipt is there; of the one in doubt machine, file and receipt say the same; what was
    refused, or was asked for by nobody who may, never plays."""
    rng = random.Random(lives)
    keys = tmp_path / "keys"
    make_folder(keys)
    endpoint = lasting_endpoint()
    writer: Writer | None = None
    newest: int | None = None
    number = cut_off = session = 0
    killed_at = "any"
    for instant in itertools.islice(itertools.cycle(INSTANTS), lives):
        life = Life(endpoint, keys, instant)
        try:
            link = linked(endpoint, keys)
            playing = unpack_reading(link)
            if writer is not None:
                newest = settled(link, writer) or newest
                if (
                    killed_at != "any"
                ):  # there the third commit was in doubt, which one instant decides
                    assert (newest == writer.in_doubt) is (killed_at == "recorded")
                refuse_the_unasked(endpoint, keys, writer, session)
            if newest is not None:
                assert playing == value_of(newest)
                assert set(life.resumed) <= {value_of(newest)}
            before, writer, session = writer, Writer(link, number), link.session
            assert before is None or writer.fence > before.fence
            writer.start()
            assert writer.begun.wait(60)
            if instant == "any":
                time.sleep(rng.uniform(0.0, 0.1))
            else:
                writer.join(60)
        finally:
            taken = life.killed()
        writer.join()
        killed_at = instant
        number = writer._number
        cut_off += writer.in_doubt is not None
        allowed = [*writer.acknowledged, *([] if writer.in_doubt is None else [writer.in_doubt])]
        assert set(taken) <= {value_of(n) for n in allowed}
        assert {value_of(n) for n in writer.acknowledged} <= set(taken)
    assert cut_off > 0, "no kill hit a commit"


def unpack_reading(link: Link) -> float:
    """Return the function that plays, at the first point, rad."""
    reply, arrays = link.request(
        wire.SnapshotRequest(session=link.session, sequence=link.next_sequence())
    )
    assert isinstance(reply, wire.ReadingMessage)
    return float(arrays["applied_rad"][0])
