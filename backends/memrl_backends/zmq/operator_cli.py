"""`memrl-ctrl operator arm|release|take-over|status`."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from memrl_backends.zmq import endpoint as endpoints
from memrl_backends.zmq import wire
from memrl_backends.zmq.client import connector
from memrl_backends.zmq.link import Link
from memrl_ctrl.cli.values import SomeSeconds
from memrl_ctrl.errors import ConnectionFailed
from memrl_ctrl.terminal import Terminal

app = cyclopts.App(
    name="memrl-ctrl operator",
    help="Who may write to a machine: arm it for controllers, take over by hand, release it.",
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class At:
    """Where the machine is, and with which key."""

    endpoint: str = endpoints.DEFAULT
    """Of the machine's commands, tcp://HOST:PORT."""
    keys: Path | None = None
    """Folder with the machine's public key and an operator's; the local one, on loopback, unless given."""
    key: str | None = None
    """Name of the key in it, where it is not `operator`."""
    insecure_loopback: Annotated[bool, Parameter(negative=())] = False
    """No keys, as the machine was started."""
    timeout: SomeSeconds = 2.0
    """For connecting and for the reply, s."""


LOCAL = At()


@app.command
def arm(*, at: At = LOCAL) -> None:
    """Let controllers take the lease and write; this ends a take-over."""
    _ask(at, wire.Role.OPERATOR, wire.Arm)


@app.command
def release(*, at: At = LOCAL) -> None:
    """Release the machine: every lease and a take-over end, and nobody writes until it is armed."""
    _ask(at, wire.Role.OPERATOR, wire.Disarm)


@app.command(name="take-over")
def take_over(*, at: At = LOCAL) -> None:
    """Take control away from whoever has it, at once; controllers get none until the machine is armed.

    What was acknowledged before still plays. The machine goes on with the last applied function.
    """
    _ask(at, wire.Role.OPERATOR, wire.TakeOver)


@app.command
def status(*, at: At = LOCAL) -> None:
    """Show who may write, who does, and which cycle the machine is at. Any key will do."""
    role = wire.Role.OPERATOR if at.key else wire.Role.OBSERVER
    _ask(at, role, None)


def _ask(
    at: At, role: wire.Role, kind: type[wire.Arm | wire.Disarm | wire.TakeOver] | None
) -> None:
    with _connected(at, role) as link:
        if kind is not None:
            link.request(kind(session=link.session, sequence=link.next_sequence()))
        reply, _ = link.request(
            wire.StatusRequest(session=link.session, sequence=link.next_sequence())
        )
        if not isinstance(reply, wire.Status):
            raise ConnectionFailed(f"{at.endpoint} answers with {type(reply).__name__}")
        Terminal(highlight=False, soft_wrap=True, markup=False).print(_line(link.welcome, reply))


@contextmanager
def _connected(at: At, role: wire.Role) -> Iterator[Link]:
    connect = connector(
        at.endpoint,
        role,
        keys=at.keys,
        timeout_s=at.timeout,
        insecure_loopback=at.insecure_loopback,
        name=_person(),
        key=at.key,
    )
    link = connect(None)
    try:
        yield link
    finally:
        link.close()


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return f"user {os.getuid()}"


def _line(welcome: wire.Welcome, status: wire.Status) -> str:
    by = f" by {status.operator}" if status.operator else ""
    mode = {
        wire.Mode.OFF: f"released{by}: nobody writes until it is armed" if by else "not armed",
        wire.Mode.ARMED: f"armed{by}",
        wire.Mode.MANUAL: f"taken over{by}: no controller writes until it is armed",
    }[status.mode]
    held = (
        f"{status.holder} has the lease (fencing number {status.fence})"
        if status.holder
        else "nobody has the lease"
    )
    playing = f"playing cycle {status.next_cycle - 1}" if status.playing else "between two cycles"
    return f"{welcome.machine} ({welcome.program}): {mode}; {held}; cycle {status.cycle} read, {playing}"
