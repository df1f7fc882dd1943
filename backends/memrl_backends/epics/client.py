"""The backend `epics`: a machine that is a PV Access device."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from p4p.client.thread import Cancelled, Context, Disconnected, RemoteError

from memrl_backends.epics import structures
from memrl_ctrl.backend import BoolArray, FloatArray, MachineDescription, Reading, Receipt
from memrl_ctrl.errors import (
    ConnectionFailed,
    ReadingTimeout,
    RefusalReason,
    Refused,
    Standstill,
    UnknownNameError,
    UsageError,
)

CONNECT_S = 5.0
"""How long a machine may take to be found and to answer."""
PERIODS = 3.0
"""How many periods a reading may take unless told otherwise."""


class EpicsSource:
    """Looks at a machine; has no means to write.

    Raises:
        ConnectionFailed: nobody answers to these names.
    """

    def __init__(self, prefix: str, address: str | None, *, read_only: bool = True) -> None:
        self._prefix = prefix
        self._where = f"{prefix}* at {address}" if address else f"{prefix}*"
        self._context = Context("pva", conf=_conf(address), useenv=address is None, nt=False)
        self._news = threading.Condition()
        self._newest: Any = None
        self._gone = ""
        self._closed = False
        self._cycle = -1
        self.missed = 0
        """Cycles that were not seen, so far."""
        try:
            value = self._asked(lambda: self._context.get(
                prefix + structures.DESCRIPTION, timeout=CONNECT_S
            ))  # fmt: skip
            self.description: MachineDescription = structures.unpack_description(
                value, read_only=read_only
            )
            self._monitor = self._context.monitor(
                prefix + structures.READING, self._took, notify_disconnect=True
            )
        except BaseException:
            self._context.close()
            raise

    def observe(self, timeout_s: float | None = None) -> Reading:
        """Return the newest cycle that was not seen yet, or wait for the next.

        Raises:
            Standstill: the machine is there, and plays no cycle.
            ReadingTimeout: nothing new came in time.
            ConnectionFailed: the machine is gone, or sends what is no reading.
        """
        if timeout_s is None:
            timeout_s = max(CONNECT_S, PERIODS * self.description.period_s)
        due_s = time.monotonic() + timeout_s
        with self._news:
            while True:
                if self._gone:
                    raise ConnectionFailed(self._gone)
                if self._newest is not None and self._newest["cycle"] > self._cycle:
                    value = self._newest
                    break
                left_s = due_s - time.monotonic()
                if left_s <= 0.0:
                    newest = self._cycle if self._newest is None else self._newest["cycle"]
                    # Where the numbers went back it plays, and nothing of it can be used.
                    raise (Standstill if newest == self._cycle else ReadingTimeout)(
                        f"{self._where} plays no cycle after {self._cycle} within {timeout_s:g} s"
                    )
                self._news.wait(left_s)
        return self._seen(structures.unpack_reading(value, self.description))

    def close(self) -> None:
        """Let go of the machine; may be called twice."""
        self._closed = True
        self._gone = self._gone or "this client is closed"
        self._monitor.close()
        self._context.close()

    def _took(self, value: Any) -> None:
        """Keep what the monitor brings, in a thread of p4p."""
        with self._news:
            if isinstance(value, Disconnected | Cancelled):
                if self._newest is not None:
                    self._gone = f"{self._where} has gone: the connection broke"
            elif isinstance(value, RemoteError):
                self._gone = f"{self._where}: {value}"
            else:
                self._newest = value
                if not self._closed:
                    self._gone = ""  # it is there again
            self._news.notify_all()

    def _seen(self, reading: Reading) -> Reading:
        if self._cycle >= 0:
            self.missed += max(0, reading.cycle - self._cycle - 1)
        self._cycle = reading.cycle
        return reading

    def _asked(self, ask: Any) -> Any:
        """Return what is asked for, as errors of this project."""
        if self._gone:
            raise ConnectionFailed(self._gone)
        try:
            return ask()
        except TimeoutError as error:
            raise ConnectionFailed(
                f"nobody answers as {self._where}: is `memrl-ctrl machine-epics` running, with this "
                "prefix and address?"
            ) from error
        except (RemoteError, Disconnected, Cancelled) as error:
            raise ConnectionFailed(f"{self._where}: {error}") from error


class EpicsBackend(EpicsSource):
    """Looks at a machine and writes its function, while it is in control."""

    def __init__(self, prefix: str, address: str | None, name: str) -> None:
        super().__init__(prefix, address, read_only=False)
        self._session = secrets.token_hex(8)
        self._name = name
        self._fence = 0
        self._written_for = -1

    def start(
        self,
        seed: int | None = None,
        mask: BoolArray | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Reading:
        """Take control, change nothing, and return the newest reading.

        `seed` and `mask` mean nothing to a machine; there are no options.

        Raises:
            Refused: another client is in control (it is named), or the machine is not armed.
            ConnectionFailed: the machine is gone.
        """
        del seed, mask
        for name in options or {}:
            raise UnknownNameError("start option of backend 'epics':", name, ())
        self._refuse_read_only()
        following = self._request(structures.ACQUIRE)["cycle"]
        value = self._asked(
            lambda: self._context.get(self._prefix + structures.READING, timeout=CONNECT_S)
        )
        reading = structures.unpack_reading(value, self.description)
        if reading.cycle < following - 1 or reading.cycle < self._cycle:
            self._cycle = max(self._cycle, following - 2)
            return super().observe()
        return self._seen(reading)

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Set the phase function of the next cycle, whole or not at all.

        The deadline counts from when the request arrives: PV Access has no common clock.

        Raises:
            Refused: typed; nothing was applied.
            ConnectionFailed: the machine is gone.
        """
        self._refuse_read_only()
        if not deadline_s > 0.0:
            raise Refused(RefusalReason.LATE, f"the deadline of {deadline_s} s has passed")
        reply = self._request(
            structures.SUBMIT,
            cycle=cycle,
            deadline_s=deadline_s,
            phi_hw_rad=np.array(phi_hw_rad, dtype=np.float64),
        )
        self._written_for = reply["cycle"]
        return Receipt(
            cycle=int(reply["cycle"]),
            applied_rad=np.array(reply["applied_rad"]),
            committed_ns=time.monotonic_ns(),
            fence=self._fence,
        )

    def observe(self, timeout_s: float | None = None) -> Reading:
        """See `EpicsSource.observe`; whoever is in control and has not written says so: it holds."""
        if self._fence and self._written_for <= self._cycle:
            try:
                self._request(structures.HOLD, cycle=self._cycle + 1)
            except Refused:  # control is lost: looking needs none
                self._fence = 0
        return super().observe(timeout_s)

    def play(self, phi_hw_rad: FloatArray) -> Reading:
        """Submit for the cycle after the last reading's, then observe that cycle."""
        if self._cycle < 0:
            self.start()
        self.submit(phi_hw_rad, self._cycle + 1, max(CONNECT_S, self.description.period_s))
        return self.observe()

    def close(self) -> None:
        """Give control back and let go of the machine; may be called twice."""
        if self._fence:
            self._fence = 0
            with contextlib.suppress(ConnectionFailed, Refused):
                self._request(structures.RELEASE)
        super().close()

    def _refuse_read_only(self) -> None:
        if not self.description.writable:
            raise Refused(RefusalReason.READ_ONLY, f"{self._where} is not armed")

    def _request(self, do: str, **fields: Any) -> dict[str, Any]:
        value = structures.pack_request(do, session=self._session, name=self._name, **fields)
        wait_s = CONNECT_S + fields.get("deadline_s", 0.0) + self.description.period_s
        answer = self._asked(lambda: self._context.rpc(
            self._prefix + structures.REQUEST, value, timeout=wait_s
        ))  # fmt: skip
        reply = structures.unpack_reply(answer)
        if do != structures.RELEASE:
            self._fence = int(reply["fence"])
        return reply


def _conf(address: str | None) -> dict[str, str]:
    if address is None:
        return {}
    host, _, port = address.rpartition(":") if ":" in address else (address, "", "5075")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"address takes HOST or HOST:PORT, not {address!r}")
    return {
        "EPICS_PVA_NAME_SERVERS": f"{host}:{port}",
        "EPICS_PVA_ADDR_LIST": "",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
    }
