"""`memrl-ctrl machine`: a backend in a process of its own, behind the machine interface."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from rich.status import Status
from rich.text import Text

from memrl_backends.twin.scenario import load_scenario
from memrl_backends.zmq import endpoint as endpoints
from memrl_backends.zmq.keys import local_folder
from memrl_backends.zmq.server import DEFAULT_PERIOD_S, IDLE_S, CycleEvent, MachineServer
from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.values import Count, OutputFile, OutputFolder, Seconds, Seed
from memrl_ctrl.errors import UsageError
from memrl_ctrl.ranges import named_values
from memrl_ctrl.registry import open_backend
from memrl_ctrl.terminal import Terminal

LINE_EVERY_S = 1.0
"""Where there is no terminal, at most one line in this time, s."""
RANDOM = "random"
SIMULATION = "blond"
PSB = "psb"
"""Scenario of the Booster's cavity without faults."""


def machine(
    *,
    scenario: str | None = None,
    cavity: Literal["psb", "ideal"] | None = None,
    program: str | None = None,
    backend: str = SIMULATION,
    fidelity: str | None = None,
    macroparticles: Count | None = None,
    stride: Count | None = None,
    endpoint: str = endpoints.DEFAULT,
    period: Seconds | None = None,
    cycles: Count | None = None,
    offset_deg: str = RANDOM,
    seed: Seed | None = None,
    noise: float | None = None,
    monitor: Annotated[list[str] | None, Parameter(negative=())] = None,
    intensity: float | None = None,
    emittance_evs: float | None = None,
    slices: Count | None = None,
    points: Count | None = None,
    reference: Path | None = None,
    truth_log: OutputFile | None = None,
    keys: Path | None = None,
    arm: Annotated[bool | None, Parameter(negative="--no-arm")] = None,
    insecure_loopback: Annotated[bool, Parameter(negative=())] = False,
    limits: Path | None = None,
    state: OutputFolder | None = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
    idle: Seconds | None = None,
    low_priority: Annotated[bool, Parameter(negative=())] = False,
    quiet: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Publish a machine over ZeroMQ, here a simulated one with an offset that it does not tell.

    With backend `blond`, which it has unless told, it is the Booster's second-harmonic cavity with its
    imperfections (`--cavity ideal`: without). On loopback it makes its keys by itself and takes
    setpoints, so that `memrl-ctrl deploy` and `memrl-ctrl shadow` find it without any set-up. It plays
    until Ctrl-C and keeps the last applied function whatever becomes of its clients. A closed terminal
    ends it as Ctrl-C does, and so does the end of what reads its output (`| head`): start it with
    `nohup`, or with its output in a file, where it is to go on.

    Parameters
    ----------
    scenario
        What is imperfect about the machine and what goes wrong when: name (`memrl-ctrl scenario
        list`) or file (docs/scenarios.md). Options that are given as well win over it.
    cavity
        Without a scenario: `psb`, the Booster's second-harmonic cavity on a good day (that of scenario
        `psb`: when a reading comes, resolution and slope of the function generator, settling, a
        drifting offset, errors of the voltages, scatter from shot to shot; no faults), or `ideal`,
        which does at once and exactly what it is told. Backend `blond` has `psb` unless its fidelity is
        `tracking`, which simulates none of these; every other backend is what it is.
    program
        Cycle program, by name or file (`memrl-ctrl program list`); `psb-2gev` unless given.
    backend
        What plays the cycles: `blond`, or another installed backend.
    fidelity
        Of the simulation: `matched` (the default), `blond` or `tracking`.
    macroparticles
        Of fidelity `tracking`: macroparticles of the bunch; 100,000 unless given.
    stride
        Of fidelity `tracking`: turns tracked up to each control point, the model taking the bunch on
        in between; without, every turn of the cycle is tracked, which takes minutes.
    endpoint
        Where commands are taken; readings are published one port higher.
    period
        Time between cycles, s; the Booster's 1.2 unless given. 0: the next cycle begins as soon as
        the controller has written for it.
    cycles
        Stop after so many cycles; without, it runs until stopped.
    offset_deg
        Hidden hardware offset, degrees, or `random`: drawn from the whole circle.
    seed
        Of everything that is drawn; without, every start is another machine.
    noise
        Noise of a slice as a fraction of the profile's peak; 0.02 unless given.
    monitor
        What profiles are seen with: `wcm` (the default: a good wall-current monitor), `ideal` (noise
        only), or a value of it, for example `bandwidth_mhz=60`, `bits=8` or `gain=[0.8, 1.2]`; may be
        given several times. Values are listed in docs/physics.md, Measurement.
    intensity
        Protons in the ring; drawn unless given.
    emittance_evs
        Longitudinal emittance, eV s; drawn unless given.
    slices
        Bins of a profile over one turn; 1000 unless given.
    points
        Control points in the cycle, if not the program's own.
    reference
        CSV file (ctime_ms,phi2_deg) of your own reference phases, for the truth log.
    truth_log
        File for what only the simulation knows, one JSON line a cycle: for scoring afterwards.
    keys
        Folder of keys; needed off loopback, made by itself on loopback.
    arm
        Whether setpoints are taken; on loopback they are unless `--no-arm`, elsewhere not unless
        `--arm`.
    insecure_loopback
        No encryption and no keys: everybody on this computer may write.
    limits
        File of limits of the machine's own (value, step, slope, travel over a window), which narrow
        those of the backend and are enforced whatever a client does (docs/protocol.md).
    state
        Folder for what is kept over a restart: fencing numbers, acknowledged functions. That of the
        keys unless given.
    resume
        Begin with the function that was acknowledged last at this port, before anybody is let in.
    idle
        With period 0 and nobody in control: time between cycles, s; 0.05 unless given, and 0 with
        `--scenario` and `--cycles`: a scenario is then played through as fast as it goes.
    low_priority
        The simulation takes only what nobody else wants of the cores (Linux), so that a loop on the same
        computer waits for no core as it would not for a machine of its own. On a busy computer the
        cycles then take long.
    quiet
        Say only when it is ready, and at the end what was played.
    """
    options: dict[str, Any] = {
        "program": program,
        "fidelity": fidelity,
        "macroparticles": macroparticles,
        "stride": stride,
        "offset_deg": _offset(offset_deg),
        "seed": seed,
        "noise": noise,
        "monitor": named_values("--monitor", monitor) if monitor else None,
        "intensity": intensity,
        "emittance_evs": emittance_evs,
        "n_slices": slices,
        "points": points,
        "reference": reference,
    }
    console = Terminal(highlight=False, soft_wrap=True)
    scenario_of_cavity = _scenario(scenario, cavity, backend, fidelity)
    if scenario_of_cavity is not None:
        read = load_scenario(scenario_of_cavity)
        period = read.period_s if period is None else period
        options |= {"scenario": read, "backend": backend}
        options["period_s"] = DEFAULT_PERIOD_S if period is None else period
        backend = "twin"
    if idle is None:
        idle = 0.0 if scenario is not None and cycles is not None else IDLE_S
    opened = open_backend(backend, **{k: v for k, v in options.items() if v is not None})
    try:
        view = _View(console, quiet=quiet)
        signals = _Signals()

        def ready() -> None:
            signals.stop_with(server.stop)
            console.on_gone = server.stop
            view.ready(_ready_line(server, keys, insecure=insecure_loopback))

        server = MachineServer(
            opened,
            endpoint=endpoint,
            period_s=period,
            keys=keys,
            insecure_loopback=insecure_loopback,
            truth_log=truth_log,
            cycles=cycles,
            arm=arm,
            limits=limits,
            state=state,
            resume=resume,
            idle_s=idle,
            low_priority=low_priority,
            on_ready=ready,
            on_cycle=view.cycle,
            on_note=view.note,
        )
        with signals, view, work_bar(console, "tracking the cycle", quiet=quiet):
            summary = server.run()
    finally:
        opened.close()
    console.print(f"{opened.description.name} stopped: {summary}", markup=False)
    if truth_log is not None:
        console.print(f"truth: {truth_log}", markup=False)
    return 0


def _scenario(
    scenario: str | None, cavity: str | None, backend: str, fidelity: str | None
) -> str | None:
    """Return the scenario that is played, None for a backend as it is.

    Raises:
        UsageError: a cavity beside a scenario, or one that is not simulated.
    """
    if scenario is not None:
        if cavity is not None:
            raise UsageError(
                f"--scenario {scenario} says what cavity it is: leave out --cavity {cavity}"
            )
        return scenario
    simulated = backend == SIMULATION and fidelity != "tracking"
    if cavity == PSB and not simulated:
        what = f"backend {backend!r}" if backend != SIMULATION else "fidelity 'tracking'"
        raise UsageError(
            f"--cavity {PSB} is not simulated by {what}: leave it out, or take --backend {SIMULATION} "
            "with another fidelity"
        )
    return PSB if simulated and cavity != "ideal" else None


def _offset(text: str) -> float | None:
    if text == RANDOM:
        return None
    try:
        degrees = float(text)
    except ValueError:
        degrees = math.nan
    if not math.isfinite(degrees):
        raise UsageError(f"--offset-deg must be a number of degrees or {RANDOM!r}, not {text!r}")
    return degrees


def _ready_line(server: MachineServer, keys: Path | None, *, insecure: bool) -> str:
    described = server.description
    pace = f"every {server.period_s:g} s" if server.period_s else "as fast as asked"
    way = "without keys" if insecure else f"keys in {keys or local_folder()}"
    armed = (
        "takes setpoints" if server.armed else "takes none until armed (memrl-ctrl operator arm)"
    )
    return (
        f"{described.name} ready at {server.endpoint}: program {described.program}, "
        f"{described.points} points x {described.n_slices} slices, {described.backend} "
        f"{described.fidelity}, a cycle {pace}, {armed}, {way}"
    )


class _View:
    """One line about the newest cycle: in place on a terminal, now and then elsewhere."""

    def __init__(self, console: Terminal, *, quiet: bool) -> None:
        self._console = console
        self._quiet = quiet
        self._status: Status | None = None
        self._said_s = 0.0

    def __enter__(self) -> _View:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def ready(self, line: str) -> None:
        """Say where the machine is, once clients may come."""
        self._console.print(line, markup=False)
        if self._console.is_terminal and not self._quiet:
            self._status = self._console.status("waiting for the next cycle", spinner="dots")
            self._status.start()

    def note(self, text: str) -> None:
        """Say what whoever runs the machine should know."""
        self._console.print(f"note: {text}", markup=False)

    def cycle(self, event: CycleEvent) -> None:
        """Show a cycle that was played."""
        if self._quiet:
            return
        if self._status is not None:
            self._status.update(Text(_line(event)))
        elif time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._said_s = time.monotonic()
            self._console.print(_line(event), markup=False)


def _line(event: CycleEvent) -> str:
    reading = event.reading
    usable = int(np.count_nonzero(reading.usable))
    applied = np.degrees(reading.applied_rad)
    return (
        f"cycle {reading.cycle}: {usable}/{reading.usable.size} profiles good, phi_hw "
        f"{applied.min():.1f} to {applied.max():.1f} deg, {event.commits} written, "
        f"{'by ' + event.holder if event.holder else 'free'}"
    )


class _Signals:
    """Has the ending signals stop a running machine cleanly; before it runs they just end it.

    SIGHUP stays ignored where `nohup` did that; SIGINT does not, which shells ignore in the background.
    """

    def __init__(self) -> None:
        self._earlier: dict[signal.Signals, Any] = {}

    def stop_with(self, stop: Callable[[], None]) -> None:
        """From now on, call this instead."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            stop()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._earlier[number] = signal.signal(number, handle)

    def __enter__(self) -> _Signals:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
