"""The classical rung of the fallback: a registered controller in place of the policy, and its replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import MachineDescription, Reading
from memrl_ctrl.controllers import Driven, drive
from memrl_ctrl.errors import MemrlError, MismatchError
from memrl_ctrl.trace import CycleRecord, PolicyStep, TraceHeader
from memrl_deploy.asked import inform
from memrl_deploy.fallback import DOUBTS, FallbackConfig, Rung, classical_function, shown_points
from memrl_deploy.guard.decision import Stage
from memrl_deploy.guard.health import usable_points
from memrl_deploy.inference import Inference

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

DEFAULT_CONTROLLER = "asymmetry-pi"
"""Controller of the rung unless another is named."""
FALLBACK_KEY = "fallback"
"""Key of the fallback's settings in a trace's configuration."""
DOUBTS_KEY = "doubts"
"""Key, in these settings, of the stages whose held points the controller is not shown."""


class ClassicalController:
    """A controller that is asked for all points; each descent begins with its memory at zero.

    Args:
        driven: the controller.
        machine: what it is to drive.

    Raises:
        MismatchError: the machine measures fewer slices than the controller sees, or the controller
            works with a model and the machine's program is not known here.
    """

    def __init__(self, driven: Driven, machine: MachineDescription) -> None:
        inform(driven, machine)
        self._driven, self._machine = driven, machine
        self._inference = Inference(driven, machine)
        self._last: PolicyStep | None = None

    @property
    def name(self) -> str:
        """Of the controller."""
        return self._driven.controller.name

    @property
    def digest(self) -> str:
        """SHA-256 of name and settings, hexadecimal."""
        return self._driven.digest

    def begin(self) -> None:
        """Forget everything: a descent begins."""
        self._driven.reset(self._machine.points)
        self._inference.forget()
        self._last = None

    def propose(self, reading: Reading, shown: BoolArray) -> FloatArray:
        """Return the change that it wants [points], rad; 0 at points without a usable reading.

        Args:
            reading: the cycle's.
            shown: points whose reading the guard does not doubt [points].
        """
        usable = usable_points(reading) & shown
        seen = self._inference.observe(reading, usable)
        self._last = self._inference.step(seen, reading.applied_rad, usable)
        return np.where(usable, self._last.action[:, 0].astype(np.float64), 0.0)

    def undo(self) -> None:
        """Forget the last `propose`: its cycle is not in the record."""
        if self._last is not None:
            self._inference.undo(self._last)
            self._last = None


def make_classical(
    name: str | None, machine: MachineDescription
) -> tuple[ClassicalController | None, str]:
    """Return the controller of the rung, and what is to be said where there is none.

    Args:
        name: of a registered controller; None takes the default, where it fits the machine.
        machine: what it is to drive.

    Raises:
        UnknownNameError: no controller of that name is registered.
        MismatchError: the one that was named does not fit the machine.
    """
    try:
        return ClassicalController(drive(name or DEFAULT_CONTROLLER), machine), ""
    except MismatchError as error:
        if name is not None:
            raise
        return None, f"the fallback goes without a classical controller: {error}"


def described(config: FallbackConfig, classical: ClassicalController | None) -> dict[str, Any]:
    """Return the fallback's settings as they stand in a trace's configuration."""
    return {
        "first": config.first.value,
        "hold_cycles": config.hold_cycles,
        "recover_cycles": config.recover_cycles,
        "recoveries": config.recoveries,
        "recoveries_within": config.recoveries_within,
        "stuck_cycles": config.stuck_cycles,
        DOUBTS_KEY: list(DOUBTS),
        "classical_cycles": config.classical_cycles,
        "restore_cycles": config.restore_cycles,
        "tolerance_rad": config.tolerance_rad,
        "readback_rad": config.readback_rad,
        "controller": None if classical is None else classical.name,
        "controller_sha256": None if classical is None else classical.digest,
    }


class ClassicalReplay:
    """Asks the recorded controller again in the cycles in which it led.

    Args:
        header: of the trace.
    """

    def __init__(self, header: TraceHeader) -> None:
        self._limits, self._ctime_ms = header.limits, header.machine.ctime_ms
        self._controller, self._stages = _recorded(header), header.guard_stages
        self._doubts = _doubts(header)
        self._descending = False
        self.cycles = 0
        """Cycles in which the controller led."""
        self.unknown = 0
        """Those of them in which it could not be asked again: not installed, or tuned otherwise."""
        self.different = 0
        """Those of them in which it leads to another function than recorded."""

    def see(self, record: CycleRecord, *, counted: bool = True) -> None:
        """Go on by a recorded cycle; one that is not counted only warms the memory."""
        rungs = [event.get("rung") for event in record.events if event.get("kind") == "fallback"]
        began, self._descending = bool(rungs) and not self._descending, bool(rungs)
        controller = self._controller
        if began and controller is not None:
            controller.begin()
        if Rung.CLASSICAL.value not in rungs:
            return
        self.cycles += int(counted)
        if controller is None:
            self.unknown += int(counted)
            return
        shown = shown_points(record.verdicts, self._stages, self._doubts)
        again = classical_function(controller, record.reading, shown, self._limits, self._ctime_ms)
        recorded = record.written_rad
        if again is None or recorded is None:
            same = again is None and recorded is None
        else:
            same = again.tobytes() == np.asarray(recorded, dtype=np.float64).tobytes()
        self.different += int(counted and not same)


def _recorded(header: TraceHeader) -> ClassicalController | None:
    """Return the controller of a recorded run, None where it cannot be had as it was."""
    settings: Any = header.configuration.get(FALLBACK_KEY)
    name = settings.get("controller") if isinstance(settings, Mapping) else None
    if not isinstance(name, str) or not isinstance(settings, Mapping):
        return None
    try:
        controller = ClassicalController(drive(name), header.machine)
    except MemrlError:  # unknown here, or an extra is missing: said as `unknown`
        return None
    return controller if controller.digest == settings.get("controller_sha256") else None


def _doubts(header: TraceHeader) -> tuple[str, ...]:
    """Return the stages whose held points a recorded run's controller was not shown."""
    settings: Any = header.configuration.get(FALLBACK_KEY)
    found = settings.get(DOUBTS_KEY) if isinstance(settings, Mapping) else None
    if not isinstance(found, list):  # a release that looked at the pick-ups' health alone
        return (Stage.HEALTH.label,)
    return tuple(map(str, found))
