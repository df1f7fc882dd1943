"""`memrl-ctrl machine-epics`: a backend in a process of its own, as an EPICS PV Access device."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from memrl_backends.epics import DEFAULT_PREFIX
from memrl_backends.twin.scenario import load_scenario
from memrl_ctrl.backend import Reading
from memrl_ctrl.cli.values import Count, OutputFolder, Seconds, Seed
from memrl_ctrl.errors import UsageError
from memrl_ctrl.registry import missing_extra, open_backend
from memrl_ctrl.terminal import Terminal

if TYPE_CHECKING:
    from memrl_backends.epics.server import EpicsServer

LINE_EVERY_S = 1.0
"""At most one line in this time, s."""
TCP_PORT = 5075
"""PV Access's own port."""


def machine_epics(
    *,
    scenario: str | None = None,
    program: str | None = None,
    backend: str = "blond",
    seed: Seed | None = None,
    slices: Count | None = None,
    points: Count | None = None,
    period: Seconds | None = None,
    cycles: Count | None = None,
    prefix: str = DEFAULT_PREFIX,
    address: str = "127.0.0.1",
    port: int = TCP_PORT,
    arm: Annotated[bool | None, Parameter(negative="--no-arm")] = None,
    limits: Path | None = None,
    state: OutputFolder | None = None,
    quiet: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Publish a machine over EPICS PV Access, for laboratories that speak EPICS (extra `epics`).

    PV Access knows neither keys nor encryption: whoever reaches the address may write where the
    machine is armed. docs/epics.md says what else differs from `memrl-ctrl machine`.

    Parameters
    ----------
    scenario
        What is imperfect about the machine and what goes wrong when: name (`memrl-ctrl scenario
        list`) or file. Options that are given as well win over it.
    program
        Cycle program, by name or file (`memrl-ctrl program list`); `psb-2gev` unless given.
    backend
        What plays the cycles: `blond`, or another installed backend.
    seed
        Of everything that is drawn; without, every start is another machine.
    slices
        Bins of a profile over one turn.
    points
        Control points in the cycle, if not the program's own.
    period
        Time between cycles, s; the Booster's 1.2 unless given. 0: the next cycle begins as soon as
        whoever is in control has written for it.
    cycles
        Stop after so many cycles; without, it runs until stopped.
    prefix
        What the names of the process variables begin with.
    address
        Address of the interface to bind to.
    port
        TCP port; 0 takes a free one, on which clients find the machine by address only.
    arm
        Whether setpoints are taken; on loopback they are unless `--no-arm`, elsewhere not unless
        `--arm`.
    limits
        File of limits of the machine's own (value, step, slope, travel over a window), as that of
        `memrl-ctrl machine`; they narrow the backend's and are enforced whatever a client does.
    state
        Folder for the fencing numbers; unless given, that of this installation.
    quiet
        Say only when it is ready, and at the end what was played.
    """
    try:
        from memrl_backends.epics.server import EpicsServer
    except ModuleNotFoundError as error:
        raise missing_extra("machine-epics", error) from error
    if not 0 <= port < 65536:
        raise UsageError(f"--port must be 0 to 65535, not {port}")
    options = {"program": program, "seed": seed, "n_slices": slices, "points": points}
    given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
    if scenario is not None:
        read = load_scenario(scenario)
        period = read.period_s if period is None else period
        given |= {"scenario": read, "backend": backend, "period_s": period}
        backend = "twin"
    console = Terminal(highlight=False, soft_wrap=True)
    said_s = [0.0]

    def show(reading: Reading) -> None:
        if not quiet and time.monotonic() - said_s[0] >= LINE_EVERY_S:
            said_s[0] = time.monotonic()
            console.print(_line(reading, server), markup=False)

    opened = open_backend(backend, **given)
    try:
        server = EpicsServer(
            opened,
            prefix=prefix,
            address=address,
            port=port,
            broadcast_port=0 if port == 0 else port + 1,
            period_s=period,
            arm=arm,
            cycles=cycles,
            limits=limits,
            state=state,
            on_ready=lambda: console.print(_ready_line(server, address), markup=False),
            on_cycle=show,
        )
        console.on_gone = server.stop
        with _ended_by_signals(server):
            server.run()
    finally:
        opened.close()
    console.print(
        f"{server.description.name} stopped: played {server.played} cycles, took {server.commits} "
        f"functions, refused {server.refused} requests",
        markup=False,
    )
    return 0


def _ready_line(server: EpicsServer, address: str) -> str:
    described = server.description
    pace = f"every {server.period_s:g} s" if server.period_s else "as fast as asked"
    armed = "takes setpoints" if server.armed else "takes no setpoints (--arm)"
    return (
        f"{described.name} ready as {server.prefix}* at {address}:{server.port}: program "
        f"{described.program}, {described.points} points x {described.n_slices} slices, a cycle "
        f"{pace}, {armed}, no keys"
    )


def _line(reading: Reading, server: EpicsServer) -> str:
    applied = np.degrees(reading.applied_rad)
    return (
        f"cycle {reading.cycle}: {int(np.count_nonzero(reading.usable))}/{reading.usable.size} "
        f"profiles good, phi_hw {applied.min():.1f} to {applied.max():.1f} deg, {server.commits} written, "
        f"{'by ' + server.holder if server.holder else 'free'}"
    )


@contextmanager
def _ended_by_signals(server: EpicsServer) -> Iterator[None]:
    """Have Ctrl-C and a request to end stop the machine after its cycle."""
    earlier = {
        number: signal.signal(number, lambda *_: server.stop())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
