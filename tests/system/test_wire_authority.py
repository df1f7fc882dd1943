"""Who may write, with real processes: frozen clients, operators who take over, recommenders."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_backends.zmq import wire
from memrl_backends.zmq.keys import make_folder
from memrl_ctrl.cli import main
from memrl_ctrl.errors import RefusalReason, Refused

from .authority import WAIT_S, Machine, ask, controller, linked, reason_of, served, until

FROZEN = """
import sys
import numpy as np
from memrl_backends.zmq import open_backend
from memrl_ctrl.errors import Refused

backend = open_backend(endpoint=sys.argv[1], keys=sys.argv[2], name="frozen", timeout_s=20.0)
reading = backend.start()
print("holds", flush=True)
sys.stdin.readline()
# As if it had been stopped between looking at its lease and sending.
backend._lease_until_ns = 2**62
try:
    backend.submit(np.full(30, 0.2), reading.cycle + int(sys.argv[3]), 60.0)
except Refused as refused:
    print("refused", refused.reason.value, flush=True)
else:
    print("taken", flush=True)
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    make_folder(tmp_path / "keys")
    return tmp_path / "keys"


# Frozen clients


@pytest.mark.parametrize("taken_by_another", [True, False])
def test_a_frozen_client_writes_nothing_when_it_wakes(keys: Path, taken_by_another: bool) -> None:
    """SIGSTOP costs the lease, whether somebody else takes it or not; the late write is refused."""
    machine = Machine()
    with served(keys, machine, period_s=0.5) as server:
        frozen = subprocess.Popen(
            [sys.executable, "-c", FROZEN, str(server.endpoint), str(keys), "1000000"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert frozen.stdout is not None
            assert frozen.stdin is not None
            assert frozen.stdout.readline() == "holds\n"
            os.kill(frozen.pid, signal.SIGSTOP)
            time.sleep(1.5)  # a lease lasts 1 s
            if taken_by_another:
                other = controller(server, keys, name="other")
                other.start()
            os.kill(frozen.pid, signal.SIGCONT)
            frozen.stdin.write("go\n")
            frozen.stdin.flush()
            assert frozen.stdout.readline() == "refused fenced\n"
            if taken_by_another:
                other.play(other.observe().applied_rad + 0.1)
                other.close()
            assert 0.2 not in machine.taken
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
            frozen.kill()
            frozen.communicate()


def test_a_holder_stops_by_itself_before_its_lease_expires(keys: Path) -> None:
    """A client that slept does not send under the old number; it asks again, and nothing was between."""
    machine = Machine()
    with served(keys, machine, patience_s=0.3) as server:
        backend = controller(server, keys)
        backend.start()
        before = backend._fence
        time.sleep(0.5)
        assert not backend._has_lease()
        newest = backend.snapshot()
        receipt = None
        while receipt is None:  # with nobody in control the machine goes on by itself
            try:
                receipt = backend.submit(newest.applied_rad + 0.1, newest.cycle + 1, 5.0)
            except Refused:
                newest = backend.snapshot()
        assert receipt.fence > before
        backend.close()


# Operators


def test_an_operator_takes_over_during_a_cycle(keys: Path) -> None:
    """While a cycle is played and the controller's commit waits for its end, control is gone at once."""
    machine = Machine(gated=True)
    with served(keys, machine, patience_s=60.0) as server:
        assert machine.inside.wait(WAIT_S)
        backend = controller(server, keys)
        outcome: list[str] = []
        backend._take_lease()
        waits = threading.Thread(
            target=lambda: outcome.append(
                reason_of(lambda: backend.submit(np.full(30, 0.2), 3, 60.0))
            )
        )
        waits.start()
        with linked(server, keys, wire.Role.OPERATOR) as operator:
            time.sleep(0.2)
            assert not outcome
            grant = ask(operator, wire.TakeOver)
            assert isinstance(grant, wire.LeaseGrant)
            waits.join(WAIT_S)
            assert outcome == ["fenced"]
            assert machine.inside.is_set()  # the cycle is still being played
            machine.go_on.set()
            machine.inside.clear()
            until(lambda: ask(operator, wire.StatusRequest).cycle >= 2, "the cycle ends")
            status = ask(operator, wire.StatusRequest)
            assert (status.mode, status.operator) == (wire.Mode.MANUAL, "by hand (operator)")
            ask(operator, wire.Submit, np.full(30, 0.3), fence=grant.fence,
                cycle=status.next_cycle, deadline_ns=2**62)  # fmt: skip
        assert machine.taken == [0.3]
        backend.close()


def test_control_does_not_come_back_by_itself(keys: Path) -> None:
    """After a take-over a controller is refused until it starts again, and that needs arming."""
    machine = Machine()
    with served(keys, machine) as server, linked(server, keys, wire.Role.OPERATOR) as operator:
        backend = controller(server, keys)
        reading = backend.start()
        taken_over = ask(operator, wire.TakeOver)
        ask(operator, wire.Release, fence=taken_over.fence)

        def write() -> None:
            newest = backend.snapshot()
            backend.submit(newest.applied_rad + 0.1, newest.cycle + 1, 5.0)

        assert reason_of(write) == RefusalReason.FENCED
        assert reason_of(write) == RefusalReason.FENCED
        with pytest.raises(Refused, match=r"operator 'by hand \(operator\)' has taken over"):
            backend.start()
        ask(operator, wire.Arm)
        assert reason_of(write) == RefusalReason.FENCED  # armed again, but not asked for anew
        assert machine.taken == []
        backend.play(backend.start().applied_rad + 0.1)
        assert len(machine.taken) == 1
        assert reading.cycle > 0
        backend.close()


def test_disarming_ends_control_and_arming_leaves_it(keys: Path) -> None:
    """`release` ends a lease at once; `arm` on an armed machine takes nothing from its controller."""
    with served(keys) as server, linked(server, keys, wire.Role.OPERATOR) as operator:
        backend = controller(server, keys)
        reading = backend.play(backend.start().applied_rad + 0.1)
        ask(operator, wire.Arm)
        reading = backend.play(reading.applied_rad + 0.1)
        ask(operator, wire.Disarm)
        assert reason_of(lambda: backend.submit(reading.applied_rad, reading.cycle + 1, 5.0)) in {
            RefusalReason.FENCED,
            RefusalReason.NOT_ARMED,
        }
        with pytest.raises(Refused, match="memrl-ctrl operator arm"):
            backend.start()
        backend.close()


@pytest.mark.parametrize("kind", [wire.Arm, wire.Disarm, wire.TakeOver])
def test_nobody_else_operates(keys: Path, kind: type[Any]) -> None:
    """A controller, a recommender and an observer are refused, typed, and nothing changes."""
    with served(keys, arm=False) as server:
        for role in (wire.Role.CONTROLLER, wire.Role.RECOMMENDER, wire.Role.OBSERVER):
            with linked(server, keys, role) as link:
                assert reason_of(lambda link=link: ask(link, kind)) == RefusalReason.READ_ONLY
                assert ask(link, wire.StatusRequest).mode is wire.Mode.OFF


def test_an_operator_comes_through_a_flood(keys: Path) -> None:
    """Clients that send without end do not keep an operator from taking over."""
    stop = threading.Event()
    with served(keys) as server:

        def flood() -> None:
            with linked(server, keys, wire.Role.OBSERVER) as link:
                while not stop.is_set():
                    link._dealer.send(b"x" * 1000)
                    while link._dealer.poll(0):
                        link._dealer.recv()

        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            with linked(server, keys, wire.Role.OPERATOR) as operator:
                assert isinstance(ask(operator, wire.TakeOver), wire.LeaseGrant)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_the_command_says_who_has_control(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`memrl-ctrl operator` acts and says how things are; without a key for it, it says so."""
    with served(keys) as server:
        at = ["--endpoint", str(server.endpoint), "--keys", str(keys), "--timeout", "10"]
        said = {}
        for command in ("status", "release", "arm", "take-over"):
            assert main(["operator", command, *at]) == 0
            said[command] = capsys.readouterr().out
        assert "armed; nobody has the lease" in said["status"]
        assert "nobody writes until it is armed" in said["release"]
        assert ": armed by " in said["arm"]
        assert re.search(
            r"taken over by .* has the lease \(fencing number \d+\)", said["take-over"]
        )
        (keys / "operator.key").unlink()
        assert main(["operator", "arm", *at]) == 3
        assert "no such key, and no other" in capsys.readouterr().err


# Recommenders


def test_a_recommendation_is_seen_and_never_plays(keys: Path) -> None:
    """Who recommends is heard by subscribers of the topic; the machine takes nothing of it."""
    machine = Machine()
    with (
        served(keys, machine, period_s=0.5) as server,
        linked(server, keys, wire.Role.RECOMMENDER) as link,
    ):
        link._subscriber.subscribe(wire.TOPIC_RECOMMENDATION)
        seen: list[Any] = []
        link._subscriber.rcvtimeo = 10_000

        def recommend() -> int:
            cycle = int(ask(link, wire.StatusRequest).next_cycle)
            ask(link, wire.Recommend, np.full(30, 0.7), cycle=cycle)
            return cycle

        until(lambda: bool(link._subscriber.poll(0)) or True, "the subscription arrives")
        time.sleep(0.3)
        cycle = recommend()
        while not seen:
            topic, data = link._subscriber.recv_multipart()
            if topic == wire.TOPIC_RECOMMENDATION:
                seen.append(link._decode_published([topic, data]))
        ((message, arrays),) = seen
        assert (message.name, message.cycle) == ("by hand (recommender)", cycle)
        assert arrays["phi_hw_rad"].tolist() == [0.7] * 30
        assert machine.taken == []
        again = lambda: ask(link, wire.Recommend, np.full(30, 0.7), cycle=cycle)  # noqa: E731
        assert reason_of(again) in {RefusalReason.INVALID, RefusalReason.LATE}
        assert reason_of(lambda: ask(link, wire.LeaseRequest)) == RefusalReason.READ_ONLY
