"""The server: publishes a backend's cycles and takes functions from whoever holds the lease."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq

from memrl_backends.zmq import endpoint as endpoints
from memrl_backends.zmq import wire
from memrl_backends.zmq.commands import CommandDesk, Machine, refusal
from memrl_backends.zmq.convert import check_fits
from memrl_backends.zmq.doors import Doors, ask_for_descriptors
from memrl_backends.zmq.events import CycleEvent, Summary
from memrl_backends.zmq.gate import gate_for
from memrl_backends.zmq.keyring import ring_for
from memrl_backends.zmq.keys import Peer
from memrl_backends.zmq.lease import Authority
from memrl_backends.zmq.player import Pacer, Player, TruthLog
from memrl_backends.zmq.ports import Ports, not_bound
from memrl_backends.zmq.publisher import Publisher
from memrl_backends.zmq.state import State
from memrl_backends.zmq.wire import Mode, Role
from memrl_backends.zmq.zap import DOMAIN, INSECURE, ZapHandler
from memrl_ctrl import __version__
from memrl_ctrl.backend import BeamBackend, Reading
from memrl_ctrl.errors import RefusalReason, Refused, UsageError
from memrl_ctrl.frames import MAX_BYTES, FrameError, pack
from memrl_ctrl.state import state_folder

__all__ = ["IDLE_S", "CycleEvent", "MachineServer", "Summary"]

DEFAULT_PERIOD_S = 1.2
"""The Booster's cycle."""
IDLE_S = 0.05
"""With period 0 and nobody in control: time between cycles."""
PATIENCE_S = 10.0
"""With period 0: how long a cycle waits for the holder of the lease, and how long the lease lasts."""
LEASE_FLOOR_S = 1.0
"""Shortest lease of a machine with a period, s."""
HEARTBEAT_S = 0.5
"""Time between two statuses, and between two looks at who may come in, s."""
TICK_S = 0.1
"""Longest sleep of the loop: how soon it notices a signal."""
MAX_WAITING = 64
"""Requests that may wait for the end of a cycle, and that are answered in one go."""
BEHIND, AHEAD = 4, 16
"""Messages that may wait for the server, and for a client that does not read, on one connection; libzmq
counts in halves, so that it may keep half as many."""
SLACK_BYTES = 64 << 10
"""What a message that is too large may be larger by and is still refused by name; CURVE's 33 bytes a message
are in it."""
THREADS = 2
"""Of libzmq: one for commands, one for readings, so that many subscribers delay no controller."""
NOBLOCK, NOBLOCK_MORE, POLLIN = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE), int(zmq.POLLIN)
"""As numbers: an operation on flags runs Python code."""

Waiting = tuple[bytes, Peer, wire.AnyRequest, wire.Arrays]


class MachineServer:
    """Serves one backend on two ports: commands, and readings one port higher.

    It takes its ports when it is made, so that one in use is known at once; it listens when the first
    cycle has been played (a simulation may have to be compiled first), and serves until `stop` is
    called or `cycles` have been played. The server enforces the limits of the backend's description,
    and its own, before the backend does.

    Args:
        backend: opened by the caller, who closes it.
        endpoint: of the commands; port 0 takes two free ports.
        period_s: time between cycles; None takes the backend's, or 1.2 s where that is 0; 0 is
            as fast as the holder of the lease writes.
        keys: folder of keys; None makes and uses the local folder on loopback.
        insecure_loopback: no encryption and no keys; everybody on this computer may write.
        truth_log: file for what only the simulation knows.
        cycles: stop after so many.
        arm: whether controllers may write from the start; None lets them on loopback only.
        limits: file of limits of the server's own (`gate`).
        state: folder for fencing numbers and acknowledged functions; None takes that of the keys.
        resume: go back to the function that was acknowledged last, before anybody is let in.
        idle_s: see `IDLE_S`.
        patience_s: see `PATIENCE_S`.
        low_priority: see `Player`.
        on_ready: called when the first cycle has been played and clients may come.
        on_cycle: called after each cycle, in the thread of `run`.
        on_note: called with a sentence about what whoever runs the server should know.

    Raises:
        UsageError: not on loopback and no keys; a truth log without truth; a port in use; a time
            that is not finite, negative, or longer than a day; readings larger than a message may be.
        FileError: a file of keys, limits or state that is absent or wrong.
    """

    def __init__(
        self,
        backend: BeamBackend,
        *,
        endpoint: str = endpoints.DEFAULT,
        period_s: float | None = None,
        keys: Path | None = None,
        insecure_loopback: bool = False,
        truth_log: Path | None = None,
        cycles: int | None = None,
        arm: bool | None = None,
        limits: Path | None = None,
        state: Path | None = None,
        resume: bool = False,
        idle_s: float = IDLE_S,
        patience_s: float = PATIENCE_S,
        low_priority: bool = False,
        on_ready: Callable[[], None] | None = None,
        on_cycle: Callable[[CycleEvent], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        asked = endpoints.parse(endpoint)
        self._ring = ring_for(asked, keys, insecure_loopback=insecure_loopback, note=on_note)
        check_fits(backend.description)
        self._backend = backend
        self._gate = gate_for(backend.description, limits)
        self.description = replace(backend.description, limits=self._gate.limits)
        own_s = self.description.period_s or DEFAULT_PERIOD_S
        self.period_s = own_s if period_s is None else period_s
        _check_time("period", self.period_s)
        _check_time("idle", idle_s)
        _check_time("patience", patience_s)
        if patience_s == 0:
            raise UsageError("a patience of 0 s is none: nobody could hold the lease")
        self._cycles, self._idle_s, self._patience_s = cycles, idle_s, patience_s
        self.armed = self.description.writable and (asked.loopback if arm is None else arm)
        self._truth_log, self._resume = truth_log, resume
        self._low_priority = low_priority
        self._on_ready, self._on_cycle = on_ready, on_cycle
        self._stopping = False
        self._waiting: deque[Waiting] = deque()
        self._ports = Ports(asked)
        try:
            self._state = State(state or keys or state_folder(), asked.port)
        except BaseException:
            self._ports.release()
            raise
        self.endpoint, self.readings = self._ports.commands, self._ports.readings
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(THREADS)
        self._doors = Doors(self._context, {self.endpoint.port, self.readings.port})

    # Set-up

    def _bind(self) -> None:
        """Open both sockets; commands last, so that who reaches them finds everything in place."""
        known = None if self._ring is None else self._may_come_in
        ask_for_descriptors()
        self._zap = ZapHandler(self._context, known, self._has_room)
        try:
            self._publisher = Publisher(self._socket, self.readings, self._doors.spoke)
            self._router = self._socket(zmq.ROUTER)
            self._router.rcvhwm, self._router.sndhwm = BEHIND, AHEAD
            self._router.router_mandatory = True  # a full queue is told, see `_reply`
            self._router.bind(str(self.endpoint))
        except zmq.ZMQError as error:
            raise not_bound(self.endpoint, error) from error
        self._ports.release()

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.linger = 200
        made.ipv6 = self.endpoint.ipv6
        made.affinity = 2 if kind == zmq.XPUB else 1
        made.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES + SLACK_BYTES)
        made.setsockopt(zmq.HANDSHAKE_IVL, 2000)
        made.zap_domain = DOMAIN
        if self._ring is not None:
            made.curve_server = True
            made.curve_secretkey = self._ring.secret
            made.curve_publickey = self._ring.public
        self._doors.watch(made)
        return made

    def _has_room(self, user: str) -> bool:
        peer = None if self._ring is None else self._ring.find(user)
        return self._doors.let_in(peer.role if peer else Role.OPERATOR, peer.key if peer else "")

    def _may_come_in(self, user: str) -> bool:
        return (
            self._ring is not None
            and self._ring.find(user) is not None
            and self._publisher.may_come_in(user, time.monotonic())
        )

    # Running

    def run(self) -> Summary:
        """Play and serve until stopped; closes the sockets, not the backend.

        Raises:
            MemrlError: the backend failed; clients have been told.
        """
        began = time.monotonic()
        why = "it was stopped"
        with contextlib.ExitStack() as ending:
            ending.callback(self.close)
            truth = TruthLog(self._truth_log) if self._truth_log else None
            if truth is not None:
                ending.callback(truth.close)
            player = Player(
                self._backend, self._wake_write, self._gate, low_priority=self._low_priority
            )
            ending.callback(player.close)
            if self._resume:
                self._go_back(player)
            desk = self._make_desk(player)
            self._bind()
            if self._on_ready is not None:
                self._on_ready()
            try:
                self._publish(desk, player.last, truth)
                self._loop(player, desk, truth)
                if self._all_played(player):
                    why = f"it has played its {player.played} cycles"
            except BaseException as error:
                why = f"it failed: {error}"
                raise
            finally:
                player.close()
                self._say_goodbye(why)
        return Summary(
            cycles=player.played,
            commits=desk.commits,
            refused=desk.refused,
            refused_keys=self._zap.refused,
            seconds=time.monotonic() - began,
        )

    def stop(self) -> None:
        """End `run` soon; may be called from a signal handler or another thread."""
        self._stopping = True

    def _go_back(self, player: Player) -> None:
        """Have the function play that was acknowledged last.

        Raises:
            UsageError: it was that of another machine.
            Refused: it cannot be reached.
        """
        last = self._state.ledger.last
        if last is None:
            return
        entry, applied_rad = last
        described = self.description
        was = f"{entry.machine}, {entry.program}, {applied_rad.size} points"
        now = f"{described.name}, {described.program}, {described.points} points"
        if was != now:
            raise UsageError(
                f"what was acknowledged last is of another machine ({was}; this one is {now}): "
                "leave out --resume"
            )
        player.go_to(applied_rad)

    def _make_desk(self, player: Player) -> CommandDesk:
        duration_s = max(2 * self.period_s, LEASE_FLOOR_S) if self.period_s else self._patience_s
        self._authority = Authority(
            duration_s=duration_s,
            fences=self._state.fences,
            mode=Mode.ARMED if self.armed else Mode.OFF,
        )
        machine = Machine(
            description=self.description,
            period_s=self.period_s,
            readings_port=self.readings.port,
            server=f"memrl-ctrl {__version__}",
            instance=secrets.token_hex(8),
        )
        return CommandDesk(machine, player, self._authority, self._state.ledger)

    def _loop(self, player: Player, desk: CommandDesk, truth: TruthLog | None) -> None:
        poller, reopened = self._poller(), self._publisher.reopened
        pacer = Pacer(period_s=self.period_s, idle_s=self._idle_s, now_s=time.monotonic())
        heartbeat_s = 0.0
        while not self._stopping and not (self._all_played(player) and not player.playing):
            now_s = time.monotonic()
            if reading := player.finished():
                pacer.ended(now_s)
                self._publish(desk, reading, truth)
                self._answer_waiting(desk)
                continue
            wait_s = self._begin_if_due(player, pacer, now_s)
            if now_s >= heartbeat_s:
                heartbeat_s = now_s + HEARTBEAT_S
                self._look_at_keys(desk)
                self._publish_status(desk)
            if reopened != self._publisher.reopened:
                poller, reopened = self._poller(), self._publisher.reopened
            ready: dict[Any, int] = dict(poller.poll(math.ceil(wait_s * 1e3)))
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            if self._zap.socket in ready:
                self._zap.answer()
            if self._publisher.socket in ready and self._publisher.take_in(now_s):
                self._publish_status(desk)
            if self._router in ready:
                self._serve(desk)
            self._doors.look(ready)  # last: who said something in a long pause is heard first

    def _poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        own = (self._router, self._publisher.socket, self._zap.socket, self._wake_read)
        for source in (*own, *self._doors.sources):
            poller.register(source, zmq.POLLIN)
        return poller

    def _all_played(self, player: Player) -> bool:
        return self._cycles is not None and player.played >= self._cycles

    def _begin_if_due(self, player: Player, pacer: Pacer, now_s: float) -> float:
        """Begin the next cycle when its time has come; return how long the loop may sleep, s."""
        if player.playing:
            return TICK_S
        due_in_s = pacer.due_in_s(
            now_s,
            leased=self._authority.current(time.monotonic_ns()) is not None,
            written=player.committed_for >= player.next_cycle,
        )
        if due_in_s is None:
            return TICK_S
        if due_in_s > 0:
            return min(due_in_s, TICK_S)
        pacer.begun(now_s)
        player.begin()
        return TICK_S

    def _look_at_keys(self, desk: CommandDesk) -> None:
        """Have who may come in no longer lose all that it had, its subscriptions too."""
        gone = self._ring.refresh() if self._ring is not None else []
        for peer in gone:
            desk.forget(peer)
        if gone:
            left = [waiting for waiting in self._waiting if waiting[1] not in gone]
            self._waiting = deque(left)
            self._publisher.reopen()

    # Serving

    def _serve(self, desk: CommandDesk) -> None:
        """Answer what has arrived; not for ever, so that a flood cannot stop the cycles."""
        router = self._router
        for _ in range(MAX_WAITING):
            try:
                identity = router.recv(NOBLOCK)
            except zmq.Again:
                break
            frames: list[zmq.Frame] = []
            while not frames or frames[-1].more:
                frames.append(router.recv(NOBLOCK, copy=False))
            self._doors.heard(frames[0])
            self._serve_one(desk, identity, frames)
            # Asked for, as an exception costs more; `EVENTS` also takes in what clients have read.
            if not router.getsockopt(zmq.EVENTS) & POLLIN:  # type: ignore[operator]
                break
        for topic, message in desk.outgoing:
            self._publisher.send(topic, message)
        desk.outgoing.clear()

    def _serve_one(self, desk: CommandDesk, identity: bytes, frames: list[zmq.Frame]) -> None:
        try:
            if len(frames) != 1:
                raise FrameError(f"{len(frames)} parts; a message is one")
            peer = self._peer(frames[0])
            request, arrays = wire.decode_request(frames[0].buffer)
            if isinstance(request, wire.Hello):
                self._doors.spoke(frames[0], peer.key)
        except FrameError as error:
            self._reply(identity, refusal(0, Refused(RefusalReason.INVALID, str(error))))
            return
        except Refused as refused:
            self._reply(identity, refusal(0, refused))
            return
        if not desk.must_wait(request):
            self._answer(desk, identity, peer, request, arrays)
            if isinstance(request, wire.TakeOver | wire.Disarm):
                self._answer_waiting(desk)  # who waits has lost the lease, and hears it now
            return
        room = len(self._waiting) < MAX_WAITING
        if reply := desk.admit(identity, peer, request, time.monotonic_ns(), room=room):
            self._reply(identity, reply)
        else:
            self._waiting.append((identity, peer, request, arrays))

    def _answer_waiting(self, desk: CommandDesk) -> None:
        for _ in range(len(self._waiting)):
            self._answer(desk, *self._waiting.popleft())

    def _answer(
        self,
        desk: CommandDesk,
        identity: bytes,
        peer: Peer,
        request: wire.AnyRequest,
        arrays: wire.Arrays,
    ) -> None:
        self._reply(identity, desk.answer(identity, peer, request, arrays, time.monotonic_ns()))

    def _peer(self, frame: zmq.Frame) -> Peer:
        """Return who sent a frame: by the key of the connection, never by what the frame says."""
        if self._ring is None:
            return Peer(INSECURE, Role.OPERATOR)
        peer = self._ring.find(str(frame.get("User-Id")))
        if peer is None:
            raise Refused(RefusalReason.READ_ONLY, "this connection's key may come in no longer")
        return peer

    def _reply(self, identity: bytes, reply: bytes) -> None:
        """Send a reply; a client that is gone, or that does not read its replies, loses them.

        libzmq looks only now and then at what a client has taken off its queue: a queue that seems full
        is looked at again (`EVENTS` does that) before a reply is given up.
        """
        for _ in range(2):
            try:
                self._router.send(identity, NOBLOCK_MORE)
                self._router.send(reply, NOBLOCK)
            except zmq.Again:
                self._router.getsockopt(zmq.EVENTS)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                return
            else:
                return

    def _publish(self, desk: CommandDesk, reading: Reading, truth: TruthLog | None) -> None:
        if truth is not None:
            truth.write(reading)
        desk.stream += 1
        self._publisher.send(wire.TOPIC_READING, desk.newest().message(stream=desk.stream))
        if self._on_cycle is not None:
            held = self._authority.current(time.monotonic_ns())
            self._on_cycle(
                CycleEvent(
                    reading=reading, holder=held.holder if held else "", commits=desk.commits
                )
            )

    def _publish_status(self, desk: CommandDesk) -> None:
        self._publisher.send(wire.TOPIC_STATUS, pack(desk.status(time.monotonic_ns())))

    # Ending

    def _say_goodbye(self, why: str) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self._publisher.send(wire.TOPIC_STATUS, pack(wire.Goodbye(why=wire.fitting(why))))

    def close(self) -> None:
        """Close the sockets; `run` does so itself. May be called twice."""
        if self._context.closed:
            return
        self._ports.release()
        self._state.close()
        self._context.destroy()
        self._doors.close()
        for descriptor in (self._wake_read, self._wake_write):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _check_time(name: str, value_s: float) -> None:
    if not 0 <= value_s <= wire.LONGEST_S:  # NaN neither
        raise UsageError(
            f"a {name} of {value_s:g} s is none: give a time from 0 to {wire.LONGEST_S:g} s (a day)"
        )
