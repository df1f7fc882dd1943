"""The server: publishes a backend's cycles and takes functions from whoever holds the lease."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from memrl_backends.zmq import endpoint as endpoints
from memrl_backends.zmq import wire
from memrl_backends.zmq.commands import CommandDesk, Machine, refusal
from memrl_backends.zmq.endpoint import Endpoint
from memrl_backends.zmq.keys import Peer, ServerKeys, load_server, local_folder, make_folder
from memrl_backends.zmq.lease import LeaseDesk
from memrl_backends.zmq.player import Pacer, Player, TruthLog
from memrl_backends.zmq.zap import DOMAIN, INSECURE, ZapHandler
from memrl_ctrl import __version__
from memrl_ctrl.backend import BeamBackend, Reading
from memrl_ctrl.errors import RefusalReason, Refused, UsageError
from memrl_ctrl.frames import MAX_BYTES, FrameError, pack

DEFAULT_PERIOD_S = 1.2
"""The Booster's cycle."""
IDLE_S = 0.05
"""With period 0 and nobody in control: time between cycles."""
PATIENCE_S = 10.0
"""With period 0: how long a cycle waits for the holder of the lease, and how long the lease lasts."""
LEASE_FLOOR_S = 2.0
"""Shortest lease of a machine with a period, s."""
PUBLISHED_AHEAD = 8
"""Messages that wait for a slow subscriber; later ones are not sent to it."""
HEARTBEAT_S = 0.5
LONGEST_S = 86_400.0
"""Longest period or waiting time, s."""
TICK_S = 0.1
"""Longest sleep of the loop: how soon it notices a signal."""
MAX_WAITING = 64
"""Requests that may wait for the end of a cycle."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a server did."""

    cycles: int
    """Cycles that were played, the first one included."""
    commits: int
    """Functions that were taken."""
    refused: int
    """Requests that were refused."""
    refused_keys: int
    """Connections with a key that is not authorized."""
    seconds: float

    def __str__(self) -> str:
        text = (
            f"played {self.cycles} cycles in {self.seconds:.1f} s, took {self.commits} functions, "
            f"refused {self.refused} requests"
        )
        return text + (f" and {self.refused_keys} unknown keys" if self.refused_keys else "")


@dataclass(frozen=True, kw_only=True)
class CycleEvent:
    """What `on_cycle` is told."""

    reading: Reading
    holder: str
    """Who holds the lease, or empty."""
    commits: int
    """Functions that were taken so far."""


class MachineServer:
    """Serves one backend on two ports: commands, and readings one port higher.

    It takes its ports when it is made, so that one in use is known at once; it listens when the first
    cycle has been played (a simulation may have to be compiled first), and serves until `stop` is
    called or `cycles` have been played. The server enforces the limits of the backend's description
    itself, before the backend does.

    Args:
        backend: opened by the caller, who closes it.
        endpoint: of the commands; port 0 takes two free ports.
        period_s: time between cycles; None takes the backend's, or 1.2 s where that is 0; 0 is
            as fast as the holder of the lease writes.
        keys: folder of keys, or the keys; None makes and uses the local folder on loopback.
        insecure_loopback: no encryption and no keys; everybody on this computer may write.
        truth_log: file for what only the simulation knows.
        cycles: stop after so many.
        arm: whether setpoints are taken; None does so on loopback only.
        idle_s: see `IDLE_S`.
        patience_s: see `PATIENCE_S`.
        on_ready: called when the first cycle has been played and clients may come.
        on_cycle: called after each cycle, in the thread of `run`.

    Raises:
        UsageError: not on loopback and no keys; a truth log without truth; a port in use; a time
            that is not finite, negative, or longer than a day.
        FileError: a key file that is absent or wrong.
    """

    def __init__(
        self,
        backend: BeamBackend,
        *,
        endpoint: str = endpoints.DEFAULT,
        period_s: float | None = None,
        keys: ServerKeys | Path | None = None,
        insecure_loopback: bool = False,
        truth_log: Path | None = None,
        cycles: int | None = None,
        arm: bool | None = None,
        idle_s: float = IDLE_S,
        patience_s: float = PATIENCE_S,
        on_ready: Callable[[], None] | None = None,
        on_cycle: Callable[[CycleEvent], None] | None = None,
    ) -> None:
        asked = endpoints.parse(endpoint)
        self._keys = _keys_for(asked, keys, insecure_loopback=insecure_loopback)
        self._backend = backend
        self.description = described = backend.description
        self.period_s = described.period_s or DEFAULT_PERIOD_S if period_s is None else period_s
        _check_time("period", self.period_s)
        _check_time("idle", idle_s)
        _check_time("patience", patience_s)
        if patience_s == 0:
            raise UsageError("a patience of 0 s is none: nobody could hold the lease")
        self._cycles, self._idle_s, self._patience_s = cycles, idle_s, patience_s
        self.armed = described.writable and (asked.loopback if arm is None else arm)
        self._truth_log = truth_log
        self._on_ready, self._on_cycle = on_ready, on_cycle
        self._stopping = False
        self._waiting: deque[tuple[bytes, Peer, wire.AnyRequest, wire.Arrays]] = deque()
        self._reserved: list[socket.socket] = []
        try:
            self.endpoint = self._reserve(asked)
            readings_port = self.endpoint.port + 1 if asked.port else 0
            self.readings = self._reserve(asked.at(readings_port))
        except BaseException:
            self._release_ports()
            raise
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    # Set-up

    def _reserve(self, at: Endpoint) -> Endpoint:
        """Take a port without listening, so that nobody is let in before the machine plays."""
        family = socket.AF_INET6 if at.ipv6 else socket.AF_INET
        reserved = socket.socket(family, socket.SOCK_STREAM)
        self._reserved.append(reserved)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reserved.bind(("" if at.host == "*" else at.host.strip("[]"), at.port))
        except (OSError, OverflowError) as error:
            raise _not_bound(at, error) from error
        return at.at(reserved.getsockname()[1])

    def _bind(self) -> None:
        """Open both sockets; commands last, so that who reaches them finds everything in place."""
        known = None if self._keys is None else self._keys.authorized.__contains__
        self._zap = ZapHandler(self._context, known)
        self._publisher = self._socket(zmq.XPUB)
        self._publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._publisher.set_hwm(PUBLISHED_AHEAD)
        self._router = self._socket(zmq.ROUTER)
        for bound, at in ((self._publisher, self.readings), (self._router, self.endpoint)):
            try:
                bound.bind(str(at))
            except zmq.ZMQError as error:
                raise _not_bound(at, error) from error
        self._release_ports()

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.linger = 200
        made.ipv6 = self.endpoint.ipv6
        made.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        made.setsockopt(zmq.HANDSHAKE_IVL, 2000)
        made.zap_domain = DOMAIN
        if self._keys is not None:
            made.curve_server = True
            made.curve_secretkey = self._keys.secret
            made.curve_publickey = self._keys.public
        return made

    def _release_ports(self) -> None:
        for reserved in self._reserved:
            reserved.close()
        self._reserved.clear()

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
            player = Player(self._backend, self._wake_write)
            ending.callback(player.close)
            desk = self._make_desk(player)
            self._bind()
            if self._on_ready is not None:
                self._on_ready()
            try:
                self._publish(desk, player.last, truth)
                self._loop(player, desk, truth)
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

    def _make_desk(self, player: Player) -> CommandDesk:
        duration_s = max(2 * self.period_s, LEASE_FLOOR_S) if self.period_s else self._patience_s
        # Grows across restarts as long as the clock does not go back.
        lease = LeaseDesk(duration_s=duration_s, first_fence=time.time_ns() // 1_000_000)
        self._lease = lease
        machine = Machine(
            description=self.description,
            period_s=self.period_s,
            readings_port=self.readings.port,
            server=f"memrl-ctrl {__version__}",
            armed=self.armed,
        )
        return CommandDesk(machine, player, lease)

    def _loop(self, player: Player, desk: CommandDesk, truth: TruthLog | None) -> None:
        poller = zmq.Poller()
        for source in (self._router, self._publisher, self._zap.socket, self._wake_read):
            poller.register(source, zmq.POLLIN)
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
                self._publish_status(desk)
            ready: dict[Any, int] = dict(poller.poll(math.ceil(wait_s * 1e3)))
            if self._wake_read in ready:
                os.read(self._wake_read, 4096)
            if self._zap.socket in ready:
                self._zap.answer()
            if self._publisher in ready and self._subscribed():
                self._publish_status(desk)
            if self._router in ready:
                self._serve(desk)

    def _all_played(self, player: Player) -> bool:
        return self._cycles is not None and player.played >= self._cycles

    def _begin_if_due(self, player: Player, pacer: Pacer, now_s: float) -> float:
        """Begin the next cycle when its time has come; return how long the loop may sleep, s."""
        if player.playing:
            return TICK_S
        due_in_s = pacer.due_in_s(
            now_s,
            leased=self._lease.current(time.monotonic_ns()) is not None,
            written=player.committed_for >= player.next_cycle,
        )
        if due_in_s is None:
            return TICK_S
        if due_in_s > 0:
            return min(due_in_s, TICK_S)
        pacer.begun(now_s)
        player.begin()
        return TICK_S

    # Serving

    def _serve(self, desk: CommandDesk) -> None:
        """Answer what has arrived; not for ever, so that a flood cannot stop the cycles."""
        for _ in range(MAX_WAITING):
            try:
                identity, *frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._serve_one(desk, identity.bytes, frames)

    def _serve_one(self, desk: CommandDesk, identity: bytes, frames: list[zmq.Frame]) -> None:
        try:
            if len(frames) != 1:
                raise FrameError(f"{len(frames)} parts; a message is one")
            peer = self._peer(frames[0])
            request, arrays = wire.decode_request(frames[0].buffer)
        except FrameError as error:
            self._reply(identity, refusal(0, Refused(RefusalReason.INVALID, str(error))))
            return
        if not desk.must_wait(request):
            self._answer(desk, identity, peer, request, arrays)
            return
        room = len(self._waiting) < MAX_WAITING
        if reply := desk.admit(identity, request, time.monotonic_ns(), room=room):
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
        user = str(frame.get("User-Id"))
        if self._keys is None:
            return Peer(INSECURE, wire.Role.CONTROLLER)
        peer = self._keys.authorized.get(user)
        if peer is None:
            raise FrameError("this connection's key is not authorized")
        return peer

    def _reply(self, identity: bytes, reply: bytes) -> None:
        with contextlib.suppress(zmq.Again):  # a client that does not read its replies loses them
            self._router.send_multipart([identity, reply], zmq.NOBLOCK)

    def _publish(self, desk: CommandDesk, reading: Reading, truth: TruthLog | None) -> None:
        if truth is not None:
            truth.write(reading)
        desk.stream += 1
        self._publisher.send_multipart(
            [wire.TOPIC_READING, wire.encode_reading(reading, stream=desk.stream)]
        )
        if self._on_cycle is not None:
            held = self._lease.current(time.monotonic_ns())
            self._on_cycle(
                CycleEvent(
                    reading=reading, holder=held.holder if held else "", commits=desk.commits
                )
            )

    def _publish_status(self, desk: CommandDesk) -> None:
        self._publisher.send_multipart([wire.TOPIC_STATUS, pack(desk.status(time.monotonic_ns()))])

    def _subscribed(self) -> bool:
        """Take in subscriptions, not for ever (as `_serve`); return whether there was a new one."""
        new = False
        with contextlib.suppress(zmq.Again):
            for _ in range(MAX_WAITING):
                new |= self._publisher.recv(zmq.NOBLOCK)[:1] == b"\x01"
        return new

    # Ending

    def _say_goodbye(self, why: str) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self._publisher.send_multipart(
                [wire.TOPIC_STATUS, pack(wire.Goodbye(why=wire.fitting(why)))]
            )

    def close(self) -> None:
        """Close the sockets; `run` does so itself. May be called twice."""
        if self._context.closed:
            return
        self._release_ports()
        self._context.destroy()
        for descriptor in (self._wake_read, self._wake_write):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _keys_for(
    asked: Endpoint, keys: ServerKeys | Path | None, *, insecure_loopback: bool
) -> ServerKeys | None:
    if insecure_loopback:
        if not asked.loopback:
            raise UsageError(f"{asked} is not on loopback: --insecure-loopback does not go there")
        return None
    if isinstance(keys, ServerKeys):
        return keys
    if keys is None:
        if not asked.loopback:
            raise UsageError(
                f"{asked} can be reached from outside: give the keys that may come in "
                "(--keys FOLDER), or bind to 127.0.0.1"
            )
        keys = local_folder()
        make_folder(keys)
    return load_server(keys)


def _check_time(name: str, value_s: float) -> None:
    if not 0 <= value_s <= LONGEST_S:  # NaN neither
        raise UsageError(
            f"a {name} of {value_s:g} s is none: give a time from 0 to {LONGEST_S:g} s (a day)"
        )


def _not_bound(at: Endpoint, error: Exception) -> UsageError:
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        return UsageError(
            f"{at} is in use: stop what runs there, or choose another --endpoint "
            "(it takes this port and the next)"
        )
    return UsageError(f"{at} cannot be bound: {error}")
