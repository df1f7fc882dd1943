"""Lease, mode, faults and restarts in any order: nobody writes who may not, nothing acknowledged is lost."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memrl_backends.zmq import wire
from memrl_backends.zmq.commands import CommandDesk, Machine
from memrl_backends.zmq.keys import Peer
from memrl_backends.zmq.lease import Authority
from memrl_backends.zmq.player import Player
from memrl_backends.zmq.state import State
from memrl_backends.zmq.wire import Mode, Role
from memrl_ctrl.frames import unpack
from memrl_ctrl.testing import FakeBackend

POINTS = 3
LEASE_NS = 2 * 10**9
CLIENTS = {
    "ann": Role.CONTROLLER,
    "bob": Role.CONTROLLER,
    "eve": Role.OBSERVER,
    "rec": Role.RECOMMENDER,
    "ops": Role.OPERATOR,
}
NAMES = st.sampled_from(["ann", "ann", "bob", "bob", "ops", "eve", "rec"])
FUNCTIONS = st.sampled_from(
    [
        *([value] * POINTS for value in (0.0, 0.25, 0.5, -0.5, 1.0)),
        [0.1, 0.2, 0.3],
        [0.0, 0.5, 0.0],
        [100.0, 0.0, 0.0],
        [0.0, float("nan"), 0.0],
    ]
)


class Client:
    """What one client remembers."""

    def __init__(self) -> None:
        self.session = 0
        self.sequence = 0
        self.fence = 0


class Authorities(RuleBasedStateMachine):
    """The desk, and beside it a plain model of who holds the lease and what must play."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wire-"))
        self.clients = {name: Client() for name in CLIENTS}
        self.now_ns = 10**9
        self.seen_fences: list[int] = []
        self.acknowledged: dict[tuple[str, str], tuple[int, list[float]]] = {}
        self.state: State | None = None
        self.last_acknowledged: list[float] | None = None
        self._start()
        for name in CLIENTS:
            self.hello(name=name)

    def _start(self) -> None:
        self.read, self.write = os.pipe()
        self.state = State(self.folder, 1)
        self.backend = FakeBackend(points=POINTS, n_slices=16)
        self.player = Player(self.backend, self.write)
        self.authority = Authority(
            duration_s=LEASE_NS * 1e-9, fences=self.state.fences, mode=Mode.ARMED
        )
        machine = Machine(
            description=self.backend.description,
            period_s=0.0,
            readings_port=1,
            server="",
            instance="",
        )
        self.desk = CommandDesk(machine, self.player, self.authority, self.state.ledger)
        self.mode = Mode.ARMED
        self.holder, self.fence, self.expires_ns = "", 0, 0
        self.plays = self.player.last.applied_rad.tolist()

    def _end(self) -> None:
        self.player.close()
        os.close(self.read)
        os.close(self.write)
        if self.state is not None:
            self.state.close()

    def teardown(self) -> None:
        self._end()
        shutil.rmtree(self.folder)

    def ask(self, name: str, kind: type[Any], arrays: Any = None, **fields: Any) -> Any:
        client = self.clients[name]
        client.sequence += 1
        message = kind(session=client.session, sequence=client.sequence, **fields)
        peer = Peer(name, CLIENTS[name], f"key of {name}")
        reply = self.desk.answer(name.encode(), peer, message, arrays or {}, self.now_ns)
        return unpack(reply, wire.replies)[0]

    @property
    def held_by(self) -> str:
        return self.holder if self.now_ns < self.expires_ns else ""

    # What clients do

    @rule(name=NAMES)
    def hello(self, name: str) -> None:
        peer = Peer(name, CLIENTS[name], f"key of {name}")
        message = wire.Hello(sequence=0, oldest=1, newest=1, client=name)
        reply = self.desk.answer(name.encode(), peer, message, {}, self.now_ns)
        self.clients[name].session = unpack(reply, wire.replies)[0].session
        self.clients[name].sequence = 0
        if self.held_by == name:
            self.holder = f"{name}, in an earlier session"

    @rule(name=NAMES, after=st.booleans())
    def lease(self, name: str, after: bool) -> None:
        client = self.clients[name]
        reply = self.ask(name, wire.LeaseRequest, after=client.fence if after else 0)
        if isinstance(reply, wire.Refusal):
            return
        assert CLIENTS[name].may(Role.CONTROLLER)
        assert self.mode is Mode.ARMED or (self.mode is Mode.MANUAL and name == "ops")
        assert self.held_by in {"", name}, f"{name} got it from {self.held_by}"
        if self.held_by == name:
            assert reply.fence == self.fence
        else:
            if after and client.fence:
                assert client.fence == self.seen_fences[-1], "somebody was in control since"
            self._granted(name, reply.fence)
        self.expires_ns = reply.expires_ns

    def _granted(self, name: str, fence: int) -> None:
        assert all(fence > earlier for earlier in self.seen_fences)
        self.seen_fences.append(fence)
        self.holder = name
        self.fence = self.clients[name].fence = fence

    @rule(
        name=NAMES,
        values=FUNCTIONS,
        guess=st.sampled_from([0, 0, 0, 0, 1, -1]),
        cycle=st.sampled_from([1, 1, 1, 0, 2]),
        late=st.sampled_from([False, False, False, True]),
        key=st.sampled_from(["", "a", "b"]),
        staged=st.booleans(),
    )
    def write_function(
        self,
        *,
        name: str,
        values: list[float],
        guess: int,
        cycle: int,
        late: bool,
        key: str,
        staged: bool,
    ) -> None:
        client = self.clients[name]
        fence = max(0, client.fence + guess)
        function = {"phi_hw_rad": np.array(values)}
        target = self.player.last.cycle + cycle
        deadline_ns = self.now_ns - 1 if late else self.now_ns + 10**9
        known = self.acknowledged.get((name, key)) if key else None
        allowed = self.held_by == name and fence == self.fence
        if staged:
            self.ask(name, wire.Stage, function, fence=fence, cycle=target)
            reply = self.ask(name, wire.Commit, fence=fence, deadline_ns=deadline_ns, key=key)
        else:
            reply = self.ask(name, wire.Submit, function, fence=fence, cycle=target,
                             deadline_ns=deadline_ns, key=key)  # fmt: skip
        if allowed:
            self.expires_ns = self.now_ns + LEASE_NS
        if isinstance(reply, wire.Refusal):
            return
        if known is not None:  # the receipt of then, whoever is in control; nothing is done
            assert reply.cycle == known[0]
            return
        assert allowed, f"{name} wrote under {fence}; {self.held_by} holds {self.fence}"
        assert not late
        assert cycle == 1
        assert np.isfinite(values).all()
        self.plays = self.last_acknowledged = values
        if key:
            self.acknowledged[name, key] = (reply.cycle, values)

    @rule(
        name=st.sampled_from(["ann", "bob"]),
        values=FUNCTIONS,
        guess=st.sampled_from([0, 0, 0, 1, -1]),
    )
    def take_control_and_write(self, name: str, values: list[float], guess: int) -> None:
        self.lease(name=name, after=False)
        self.write_function(
            name=name, values=values, guess=guess, cycle=1, late=False, key="", staged=False
        )

    @rule(name=NAMES)
    def release(self, name: str) -> None:
        reply = self.ask(name, wire.Release, fence=self.clients[name].fence)
        if isinstance(reply, wire.Done):
            assert self.held_by == name
            self.holder = ""

    # What operators do

    @rule(name=NAMES, kind=st.sampled_from([wire.Arm, wire.Disarm, wire.TakeOver]))
    def operate(self, name: str, kind: type[Any]) -> None:
        reply = self.ask(name, kind)
        if isinstance(reply, wire.Refusal):
            # An operator is never refused, but where it has no session.
            assert name != "ops" or reply.reason == "stale"
            return
        assert name == "ops"
        if kind is wire.TakeOver:
            self.mode = Mode.MANUAL
            self._granted("ops", reply.fence)
            self.expires_ns = reply.expires_ns
        elif kind is wire.Disarm or self.mode is not Mode.ARMED:
            self.mode = Mode.ARMED if kind is wire.Arm else Mode.OFF
            self.holder = ""
            self.seen_fences.append(self.authority._fences.last)

    @rule(name=st.sampled_from(["ann", "bob"]))
    def revoke(self, name: str) -> None:
        self.desk.forget(Peer(name, CLIENTS[name], f"key of {name}"))
        if self.holder.startswith(name):
            self.holder = ""
            self.seen_fences.append(self.authority._fences.last)

    # What happens

    @rule(part=st.sampled_from([0.2, 0.9, 1.1]))
    def time_passes(self, part: float) -> None:
        self.now_ns += int(part * LEASE_NS)

    @rule()
    def cycle(self) -> None:
        self.player.begin()
        while self.player.finished() is None:
            os.read(self.read, 1)
        assert self.player.last.applied_rad.tolist() == self.plays

    @precondition(lambda self: self.last_acknowledged is not None)
    @rule()
    def killed_and_started_again(self) -> None:
        os.close(self.state.ledger._descriptor)  # nothing is said or flushed
        self.state.ledger._descriptor = -1
        self._end()
        self._start()
        last = self.state.ledger.last
        assert last is not None
        assert last[1].tolist() == self.last_acknowledged
        self.player.go_to(last[1])
        self.plays = self.player.last.applied_rad.tolist()
        np.testing.assert_allclose(self.plays, self.last_acknowledged, atol=1e-9)
        for name in CLIENTS:
            self.hello(name=name)

    @invariant()
    def at_most_one_holds(self) -> None:
        held = self.authority.current(self.now_ns)
        assert (held is not None) == bool(self.held_by)
        assert self.authority.mode is self.mode
        if held is not None:
            assert held.fence == self.fence


TestAuthorities = Authorities.TestCase
TestAuthorities.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
