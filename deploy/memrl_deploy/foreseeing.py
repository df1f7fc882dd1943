"""The model behind the guard's look-ahead: the kernel, fitted to recent readings in a process of its own.

A fit takes about a second, a decision two thousandths of that. So the fits are made beside the loop, at low
priority, one after the other, each of the newest reading there is; the loop hands over a reading when it has
nothing else to do, and finds the result before a later cycle. Should the process end, the guard's stage
runs until its last fit is too old, and then not at all.

The process is given the name of a program and arrays, over a pipe that only it and the loop hold.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import BoolArray, MachineDescription, Reading
from memrl_ctrl.beam import CycleFit, fit_cycle, matched_profiles
from memrl_ctrl.errors import BeamError, MemrlError, MismatchError
from memrl_ctrl.program import CycleProgram, load_program
from memrl_deploy.asked import check_reaches, with_remedy
from memrl_deploy.companion import end_with_parent
from memrl_deploy.guard import Outlook
from memrl_deploy.guard.outlook import CELL_RAD, KIND, PHASES

FIT_POINTS = 10
"""Points that are fitted, spread over those that can be used: a second of processor time, not three."""
FEWEST_POINTS = 3
"""With fewer nothing is fitted."""
TABLE_SLICES = 64
"""Slices of the profiles whose asymmetry goes into the table."""
OFFSET_SIGMA_RAD = np.radians(3.0)
"""A fit whose offset is less certain is no use."""
EMITTANCE_SIGMA = 0.1
"""Nor is one whose emittance is less certain, as a share of it."""
CHI2_REDUCED = 3.0
"""Nor one that is so far from what is measured: no bunch of this program."""
NICE = 5
"""The process gives way to the loop."""
NAME, FILE = "name", "name-or-file"
"""How the process takes its program."""
OFF = "off"
"""In place of a program: no look-ahead."""
LEAST_CPUS = 2
"""With fewer processors the fits would take the loop's own time."""

ENDED = "ended"
"""In place of a verdict: the process has ended, nothing is fitted any more."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is fitted: some points of a cycle."""

    cycle: int
    points: NDArray[np.int64]
    """Which [chosen]."""
    profile: NDArray[np.float32]
    """[chosen, n_slices]"""
    phi_hw_rad: FloatArray
    """Where the hardware was, rad [chosen]."""

    @classmethod
    def of(cls, reading: Reading, usable: BoolArray) -> Task | None:
        """Choose the points of a reading; None if there are too few."""
        where = np.where(
            np.isfinite(reading.readback_rad), reading.readback_rad, reading.applied_rad
        )
        found = np.flatnonzero(usable & np.isfinite(where))
        if found.size < FEWEST_POINTS:
            return None
        chosen = (
            np.linspace(0, found.size - 1, min(FIT_POINTS, found.size)).round().astype(np.int64)
        )
        points = found[chosen]
        return cls(
            cycle=reading.cycle,
            points=points,
            profile=reading.profile[points],
            phi_hw_rad=where[points],
        )


class Foresight:
    """Has readings fitted beside the loop.

    Args:
        machine: for its control points.
        program: the cycle program that it plays, by name or file; its model is fitted.
        by_name: it is a name, as the machine says it, and opens no file that it names.

    Raises:
        MismatchError: the machine's rows are no points of a cycle, or the program does not reach them.
        ProgramError: the file is wrong.
        UnknownNameError: no program has that name.
    """

    def __init__(self, machine: MachineDescription, program: str, *, by_name: bool = False) -> None:
        if machine.ctime_ms is None:
            raise MismatchError(
                "the guard cannot look ahead: the machine's rows are unrelated conditions, no points of "
                "a cycle"
            )
        check_reaches(load_program(program, by_name=by_name), machine)
        mine, its = Pipe()
        self._pipe = mine
        how = NAME if by_name else FILE
        command = [sys.executable, "-I", "-m", __name__, str(its.fileno()), how, program]
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter and this module
            command,
            pass_fds=(its.fileno(),),
            stdin=subprocess.PIPE,  # nothing is written: its end tells the process that the loop is gone
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        its.close()
        self._send(machine.ctime_ms)
        # Busy with its own start; a large reading would else wait in the pipe, and the loop with it.
        self._busy, self._asked = True, -1
        self.ended = False
        """Whether the process has ended by itself: nothing is fitted any more."""

    def ask(self, reading: Reading, usable: BoolArray) -> None:
        """Have a reading fitted, unless another is in hand."""
        if self._busy or self.ended:
            return
        task = Task.of(reading, usable)
        if task is not None:
            self._busy, self._asked = True, task.cycle
            self._send(task)

    def news(self) -> dict[str, Any] | None:
        """Return the event of a fit that was made since the last call; None if there is none."""
        if not self._busy:
            return None
        try:
            if not self._pipe.poll():
                return None
            event: dict[str, Any] = self._pipe.recv()
        except (EOFError, OSError):
            self._busy, self.ended = False, True
            return {"kind": KIND, "cycle": self._asked, "verdict": ENDED}
        self._busy = False
        return event or None

    def close(self) -> None:
        """End the process, whatever it does: it holds nothing. May be called twice."""
        self._pipe.close()
        self._process.kill()
        self._process.communicate()

    def _send(self, what: object) -> None:
        try:
            self._pipe.send(what)
        except OSError:  # it has ended; that is told by `news`
            self._busy = True


def foresee(task: Task, program: CycleProgram, ctime_ms: FloatArray) -> dict[str, Any]:
    """Fit a reading; return the event that tells of it, with a table if the fit is one to go by.

    Args:
        task: what is fitted.
        program: what the machine plays.
        ctime_ms: all control points [points], ms.
    """
    try:
        fit = fit_cycle(
            task.profile.astype(np.float64),
            program.machine,
            program.at(ctime_ms[task.points]),
            phi_hw_rad=task.phi_hw_rad,
        )
    except BeamError as error:
        return {"kind": KIND, "cycle": task.cycle, "verdict": "not fitted", "detail": str(error)}
    event: dict[str, Any] = {
        "kind": KIND,
        "cycle": task.cycle,
        "verdict": fit.verdict,
        "offset_rad": fit.offset_rad,
        "offset_sigma_rad": fit.offset_sigma_rad,
        "emittance_evs": fit.emittance_evs,
        "emittance_sigma_evs": fit.emittance_sigma_evs,
        "intensity": fit.intensity if np.isfinite(fit.intensity) else None,
        "chi2_reduced": fit.chi2_reduced,
    }
    if not _certain(fit):
        return event
    return event | outlook_of(fit, program, ctime_ms, cycle=task.cycle).event()


def _certain(fit: CycleFit) -> bool:
    """Whether a fit is one to go by."""
    return (
        not fit.doubt(CHI2_REDUCED)
        and fit.offset_sigma_rad <= OFFSET_SIGMA_RAD
        and fit.emittance_sigma_evs <= EMITTANCE_SIGMA * fit.emittance_evs
    )


def outlook_of(
    fit: CycleFit, program: CycleProgram, ctime_ms: FloatArray, *, cycle: int
) -> Outlook:
    """Return what the fitted bunch does at every phase of every point."""
    points = ctime_ms.size
    conditions = program.at(np.tile(ctime_ms, PHASES)).conditions(
        program.machine.ring,
        phi2_rad=np.repeat(CELL_RAD * np.arange(PHASES), points) - fit.offset_rad,
        emittance_evs=fit.emittance_evs,
        intensity=float(np.nan_to_num(fit.intensity)),
    )
    effects = program.machine.intensity_effects
    matched = matched_profiles(conditions, TABLE_SLICES, intensity_effects=effects)
    held = np.where(np.isfinite(matched.captured_fraction), matched.captured_fraction, 0.0)
    return Outlook.made(
        cycle, held.reshape(PHASES, points).T, matched.asymmetry.reshape(PHASES, points).T
    )


def make_foresight(
    machine: MachineDescription, program: str | None, *, pace_s: float
) -> tuple[Foresight | None, str]:
    """Return what the guard looks ahead with, or None, and what is to be said about it.

    Args:
        machine: as it describes itself.
        program: what it plays, by name or file; `off` for no look-ahead, None for the machine's own.
        pace_s: least time between cycles that the run itself keeps, s.

    Raises:
        MemrlError: the program that was named cannot be used.
    """
    if program == OFF:
        return None, "the guard does not look ahead: --look-ahead off"
    if program is None and (machine.ctime_ms is None or not (machine.period_s or pace_s)):
        return None, ""  # unrelated rows, or cycles that no fit keeps up with
    if program is None and (os.cpu_count() or 1) < LEAST_CPUS:
        return (
            None,
            "the guard does not look ahead: fits would take the only processor from the loop",
        )
    try:
        return Foresight(machine, program or machine.program, by_name=program is None), ""
    except MemrlError as error:
        if program is not None:
            raise
        why = with_remedy(error, machine.program)
        return None, f"the guard does not look ahead: {why} (--look-ahead PROGRAM names another)"


def outlook_in(events: Sequence[Mapping[str, Any]], points: int) -> Outlook | None:
    """Return the model that a recorded cycle's events bring; None if they bring none.

    Raises:
        ValueError: it is damaged.
    """
    found = None
    for event in events:
        if event.get("kind") == KIND:
            one = Outlook.of(event, points)
            found = found if one is None else one
    return found


def _work(pipe: Connection, program: CycleProgram) -> None:
    """Fit what comes, until nothing comes any more."""
    ctime_ms = pipe.recv()
    pipe.send({})  # ready
    while True:
        pipe.send(foresee(pipe.recv(), program, ctime_ms))


if __name__ == "__main__":
    os.nice(NICE)
    end_with_parent(lambda: os._exit(0))
    try:
        _work(Connection(int(sys.argv[1])), load_program(sys.argv[3], by_name=sys.argv[2] == NAME))
    except (EOFError, OSError):  # the loop has ended
        sys.exit(0)
