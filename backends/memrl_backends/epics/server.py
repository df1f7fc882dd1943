"""A machine as an EPICS PV Access device: a backend's cycles as process variables."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from p4p.nt import NTScalar
from p4p.server import Server
from p4p.server.thread import SharedPV

from memrl_backends.epics import DEFAULT_PREFIX, structures
from memrl_backends.zmq.fence import FenceCounter
from memrl_backends.zmq.gate import gate_for
from memrl_backends.zmq.state import make_state_folder
from memrl_ctrl.backend import BeamBackend, FloatArray, Reading
from memrl_ctrl.errors import FileError, MemrlError, RefusalReason, Refused, UsageError
from memrl_ctrl.state import state_folder

DEFAULT_PERIOD_S = 1.2
"""The Booster's cycle."""
IDLE_S = 0.05
"""With period 0 and nobody in control: time between cycles."""
PATIENCE_S = 10.0
"""With period 0: how long a cycle waits for whoever is in control, and how long control lasts."""
LEASE_FLOOR_S = 2.0
"""Shortest control of a machine with a period, s; otherwise two periods."""
DEADLINE_S = 1.0
"""How long a function that is put without a deadline may wait, s."""
FENCE_FILE = "fence-epics"
"""In the folder of states: fencing numbers, for all servers of this kind."""


@dataclass(kw_only=True)
class Holder:
    """Who is in control."""

    session: str = ""
    name: str = ""
    until_s: float = 0.0
    fence: int = 0


class EpicsServer:
    """Serves one backend over PV Access.

    It plays and serves in `run` until `stop` or the given number of cycles. The limits of the
    backend's description, and those of a file of its own, are enforced here, before the backend does.

    Args:
        backend: opened by the caller, who closes it.
        prefix: what the names of the process variables begin with.
        address: interface to bind to; PV Access knows neither keys nor encryption.
        port: TCP port; 0 takes a free one.
        broadcast_port: UDP port on which names are searched; 0 takes a free one (for tests), on
            which nobody finds the machine without knowing it.
        period_s: time between cycles; None takes the backend's, or 1.2 s where that is 0; 0 is as fast
            as whoever is in control writes.
        arm: whether setpoints are taken; None does so on loopback only.
        cycles: stop after so many.
        limits: file of limits of the server's own (`memrl_backends.zmq.gate`), which narrow the backend's.
        state: folder for fencing numbers; None takes that of this installation.
        on_ready: called when clients may come.
        on_cycle: called after each cycle, in the thread of `run`.

    Raises:
        UsageError: an address that is none, a port in use, a period that is none.
        FileError: a file of limits that is absent or wrong; fencing numbers that cannot be kept.
    """

    def __init__(
        self,
        backend: BeamBackend,
        *,
        prefix: str = DEFAULT_PREFIX,
        address: str = "127.0.0.1",
        port: int = 5075,
        broadcast_port: int = 5076,
        period_s: float | None = None,
        arm: bool | None = None,
        cycles: int | None = None,
        limits: Path | None = None,
        state: Path | None = None,
        on_ready: Callable[[], None] | None = None,
        on_cycle: Callable[[Reading], None] | None = None,
    ) -> None:
        self._gate = gate_for(backend.description, limits)
        described = replace(backend.description, limits=self._gate.limits)
        self.description, self.prefix = described, prefix
        self.period_s = described.period_s or DEFAULT_PERIOD_S if period_s is None else period_s
        if not 0.0 <= self.period_s <= 86_400.0:
            raise UsageError(f"a period of {self.period_s:g} s is none: give 0 to 86400 s")
        self.armed = described.writable and (_is_loopback(address) if arm is None else arm)
        self.lease_s = max(LEASE_FLOOR_S, 2.0 * self.period_s) if self.period_s else PATIENCE_S
        self._backend = backend
        self._where = {
            "EPICS_PVAS_INTF_ADDR_LIST": address,
            "EPICS_PVAS_SERVER_PORT": str(port),
            "EPICS_PVAS_BROADCAST_PORT": str(broadcast_port),
            "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        }
        self._cycles, self._on_ready, self._on_cycle = cycles, on_ready, on_cycle
        self._turn = threading.Condition()
        self._stopping = False
        self._fences = _fences_in(state or state_folder())
        self._holder = Holder(fence=self._fences.last)
        self._written_for = -1
        self._last: Reading
        self.commits = self.refused = self.played = 0
        self.port = port
        self.ready = threading.Event()

    def run(self) -> None:
        """Play and serve until stopped.

        Raises:
            MemrlError: the backend failed.
            UsageError: the port is in use.
        """
        self._last = self._backend.start()
        self._gate.played(self._last.applied_rad)
        self.played = 1
        variables = self._open()
        try:
            server = Server(providers=[variables], conf=self._where, useenv=False)
        except RuntimeError as error:
            where = self._where["EPICS_PVAS_INTF_ADDR_LIST"]
            raise UsageError(f"{where} port {self.port} cannot be bound: {error}") from error
        with contextlib.closing(_Stopping(server, variables)):
            self.port = int(server.conf()["EPICS_PVAS_SERVER_PORT"])
            self.ready.set()
            if self._on_ready is not None:
                self._on_ready()
            self._told(self._last)
            self._loop(variables)

    def stop(self) -> None:
        """End `run` after the cycle that is being played; from any thread or signal handler."""
        self._stopping = True

    @property
    def holder(self) -> str:
        """Who is in control, or empty."""
        return self._holder.name if self._in_control() else ""

    # Playing

    def _loop(self, variables: dict[str, SharedPV]) -> None:
        due_s = time.monotonic() + self.period_s
        while not self._stopping and (self._cycles is None or self.played < self._cycles):
            with self._turn:
                if not self._is_due(due_s):
                    self._turn.wait(min(0.1, max(1e-4, self._wait_s(due_s))))
                    continue
                self._last = self._backend.observe()
                self._gate.played(self._last.applied_rad)
                self.played += 1
            ended_s = time.monotonic()
            due_s = due_s + self.period_s if self.period_s else ended_s + IDLE_S
            if self.period_s and ended_s > due_s:
                due_s = ended_s + self.period_s
            self._post(variables, self._last)
            self._told(self._last)

    def _is_due(self, due_s: float) -> bool:
        """Whether the next cycle begins now."""
        if not self.period_s and self._in_control():
            return self._written_for > self._last.cycle
        return time.monotonic() >= due_s

    def _wait_s(self, due_s: float) -> float:
        now_s = time.monotonic()
        if not self.period_s and self._in_control():
            return self._holder.until_s - now_s
        return due_s - now_s

    def _in_control(self) -> bool:
        return bool(self._holder.session) and time.monotonic() < self._holder.until_s

    def _told(self, reading: Reading) -> None:
        if self._on_cycle is not None:
            self._on_cycle(reading)

    # Process variables

    def _open(self) -> dict[str, SharedPV]:
        described = structures.pack_description(
            self.description, writable=self.armed, lease_s=self.lease_s
        )
        array = NTScalar("ad", display=True)
        units = {"display": {"units": "rad"}}
        applied, readback = self._last.applied_rad, self._last.readback_rad
        variables = {
            structures.DESCRIPTION: SharedPV(initial=described),
            structures.READING: SharedPV(initial=structures.pack_reading(self._last)),
            structures.FUNCTION: SharedPV(
                handler=_Puts(self), nt=array, initial={"value": applied, **units}
            ),
            structures.READBACK: SharedPV(nt=array, initial={"value": readback, **units}),
            structures.REQUEST: SharedPV(
                handler=_Requests(self), initial=structures.pack_reply(cycle=0, fence=0)
            ),
        }
        return {f"{self.prefix}{name}": variable for name, variable in variables.items()}

    def _post(self, variables: dict[str, SharedPV], reading: Reading) -> None:
        stamp_s = reading.stamp_ns * 1e-9
        value = structures.pack_reading(reading)
        variables[self.prefix + structures.READING].post(value)
        for name, phases in (
            (structures.FUNCTION, reading.applied_rad),
            (structures.READBACK, reading.readback_rad),
        ):
            variables[self.prefix + name].post(phases, timestamp=stamp_s)

    # What clients ask for, in threads of p4p

    def answer(self, request: dict[str, Any]) -> Any:
        """Do a request and return the reply.

        Raises:
            Refused: typed; nothing was done.
        """
        due_s = time.monotonic() + request["deadline_s"]
        with self._turn:
            try:
                return self._done(request, due_s)
            except Refused:
                self.refused += 1
                raise
            finally:
                self._turn.notify_all()

    def _done(self, request: dict[str, Any], due_s: float) -> Any:
        do, session = request["do"], request["session"]
        holder = self._holder
        if do == structures.RELEASE:
            if holder.session == session:
                holder.until_s = 0.0
            return structures.pack_reply(cycle=self._last.cycle + 1, fence=holder.fence)
        if do not in (structures.ACQUIRE, structures.SUBMIT, structures.HOLD):
            raise Refused(
                RefusalReason.INVALID,
                f"{do!r} is nothing to do; there is: acquire, submit, hold, release",
            )
        if not self.armed:
            raise Refused(RefusalReason.READ_ONLY, "the machine is not armed")
        self._control(session, request["name"])
        following = self._last.cycle + 1
        if do == structures.HOLD:
            self._written_for = max(self._written_for, min(request["cycle"], following))
        elif do == structures.SUBMIT:
            return self._submitted(request["phi_hw_rad"], request["cycle"], due_s)
        # Not that of `holder`: whoever has just been given control has a number of their own.
        return structures.pack_reply(cycle=following, fence=self._holder.fence)

    def _control(self, session: str, name: str) -> None:
        """Give or renew control, unless another session has it."""
        holder = self._holder
        if not session:
            raise Refused(RefusalReason.INVALID, "give a session of your own, any text")
        if holder.session != session:
            if self._in_control():
                left_s = holder.until_s - time.monotonic()
                raise Refused(
                    RefusalReason.FENCED,
                    f"{holder.name or holder.session!r} is in control, for {left_s:.1f} s more unless "
                    "it renews",
                )
            self._holder = holder = Holder(session=session, name=name, fence=self._next_fence())
        holder.until_s = time.monotonic() + self.lease_s

    def _next_fence(self) -> int:
        try:
            return self._fences.next()
        except FileError as error:
            raise Refused(
                RefusalReason.NOT_ARMED, f"nobody can be given control: {error}"
            ) from error

    def _submitted(self, phi_hw_rad: FloatArray, cycle: int, due_s: float) -> Any:
        following = self._last.cycle + 1
        left_s = due_s - time.monotonic()
        if cycle < following:
            raise Refused(RefusalReason.LATE, f"cycle {cycle} has begun; the next is {following}")
        if not left_s > 0.0:
            raise Refused(RefusalReason.LATE, f"the deadline passed {-left_s * 1e3:.1f} ms ago")
        if cycle > following:
            raise Refused(
                RefusalReason.INVALID,
                f"cycle {cycle} is too far ahead; only cycle {following} can be written now",
            )
        self._gate.check(phi_hw_rad, self._last.applied_rad)
        receipt = self._backend.submit(phi_hw_rad, cycle, left_s)
        self._written_for = cycle
        self.commits += 1
        return structures.pack_reply(
            cycle=cycle, fence=self._holder.fence, applied_rad=receipt.applied_rad
        )

    def put(self, phi_hw_rad: FloatArray, session: str) -> None:
        """Set a function for the next cycle, whichever that is (for `pvput` and displays).

        Raises:
            Refused: typed; nothing was done.
        """
        with self._turn:
            cycle = self._last.cycle + 1
            request = {
                "do": structures.SUBMIT, "session": session, "name": session, "cycle": cycle,
                "deadline_s": DEADLINE_S, "phi_hw_rad": phi_hw_rad,
            }  # fmt: skip
            self.answer(request)


class _Requests:
    """Answers REQUEST."""

    def __init__(self, server: EpicsServer) -> None:
        self._server = server

    def rpc(self, _variable: SharedPV, operation: Any) -> None:
        """Answer a request; a refusal is an answer."""
        try:
            reply = self._server.answer(structures.unpack_request(operation.value()))
        except Refused as refused:
            reply = structures.pack_refusal(refused)
        except MemrlError as error:
            operation.done(error=str(error))
            return
        operation.done(reply)


class _Puts:
    """Takes what is put to FUNCTION."""

    def __init__(self, server: EpicsServer) -> None:
        self._server = server

    def put(self, _variable: SharedPV, operation: Any) -> None:
        """Set a function for the next cycle; a refusal is the operation's error."""
        session = f"put by {operation.account()} at {operation.peer().rpartition(':')[0]}"
        try:
            request = structures.unpack_request(
                structures.pack_request(
                    structures.SUBMIT, session=session, phi_hw_rad=operation.value()
                )
            )
            self._server.put(request["phi_hw_rad"], session)
        except MemrlError as error:
            operation.done(error=str(error))
            return
        operation.done()


class _Stopping:
    """Ends a server and lets its clients know."""

    def __init__(self, server: Any, variables: dict[str, SharedPV]) -> None:
        self._server, self._variables = server, variables

    def close(self) -> None:
        """Stop serving."""
        self._server.stop()
        for variable in self._variables.values():
            variable.close(destroy=True)


def _fences_in(folder: Path) -> FenceCounter:
    """Return what gives out fencing numbers that only grow, wherever the clock goes.

    They are not below the present time in ms: earlier versions counted from there.
    """
    make_state_folder(folder)
    return FenceCounter(folder / FENCE_FILE, least=max(1, time.time_ns() // 1_000_000))


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError as error:
        raise UsageError(
            f"--address takes the address of an interface, like 127.0.0.1, not {address!r}"
        ) from error


logging.getLogger("p4p").addHandler(logging.NullHandler())
