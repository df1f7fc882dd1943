"""Modes of the online loop, as classes that hold no more than the mode may do.

`Shadow` and `Manual` hold a source: there is no object in them that could write. `ClosedLoop`,
`Transition` and `Fallback` hold a backend. Which follows which: `memrl_deploy.states`.
"""

from __future__ import annotations

from typing import ClassVar

from memrl_ctrl.backend import (
    BeamBackend,
    BeamSource,
    FloatArray,
    MachineDescription,
    Reading,
    Receipt,
)
from memrl_ctrl.errors import RefusalReason, Refused
from memrl_deploy.fallback import Ladder
from memrl_deploy.receiving import check_reading, check_receipt


class Shadow:
    """The policy sees everything and writes nothing.

    Args:
        source: must not be able to write; `memrl_ctrl.registry.open_source` gives one.
    """

    name: ClassVar[str] = "shadow"

    def __init__(self, source: BeamSource) -> None:
        self._source = source
        self._machine = source.description

    @property
    def description(self) -> MachineDescription:
        """The machine as it described itself when the run began."""
        return self._machine

    def first(self, timeout_s: float | None) -> Reading:
        """Return the first reading.

        Raises:
            BrokenContract: it is not what the description promises.
        """
        return check_reading(self._source.observe(timeout_s), self._machine)

    def next(self, timeout_s: float | None) -> Reading:
        """Return the next cycle's reading; raises as `first`."""
        return check_reading(self._source.observe(timeout_s), self._machine)

    def close(self) -> None:
        """Let go of the machine."""
        self._source.close()


class ClosedLoop:
    """What the guard lets through is written for the next cycle.

    Args:
        backend: a machine or a simulation that can be written to.

    Raises:
        Refused: the machine cannot be written to.
    """

    name: ClassVar[str] = "closed-loop"

    def __init__(self, backend: BeamBackend) -> None:
        if not backend.description.writable:
            raise Refused(
                RefusalReason.READ_ONLY,
                f"the machine {backend.description.name!r} takes no setpoints; "
                "`memrl-ctrl shadow` needs none",
            )
        self._backend = backend
        self._machine = backend.description

    @property
    def description(self) -> MachineDescription:
        """The machine as it described itself when the run began."""
        return self._machine

    def first(self, timeout_s: float | None) -> Reading:
        """Take control and return the first reading; changes nothing on a machine.

        Raises:
            BrokenContract: it is not what the description promises.
        """
        del timeout_s  # a backend's own
        return check_reading(self._backend.start(), self._machine)

    def next(self, timeout_s: float | None) -> Reading:
        """Return the next cycle's reading; raises as `first`."""
        return check_reading(self._backend.observe(timeout_s), self._machine)

    def write(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> tuple[Receipt, str]:
        """Set the function from `cycle` on; return the receipt, and what it says the machine took instead.

        Raises:
            Refused: typed; nothing was applied.
            BrokenContract: what came back is no receipt.
        """
        receipt = self._backend.submit(phi_hw_rad, cycle, deadline_s)
        return receipt, check_receipt(receipt, phi_hw_rad, cycle, self._machine)

    @property
    def backend(self) -> BeamBackend:
        """What is written to."""
        return self._backend

    def close(self) -> None:
        """Let go of the machine; it goes on with what is applied."""
        self._backend.close()


class Manual(Shadow):
    """The operator has the machine; the run sees and records on, without anything that could write."""

    name: ClassVar[str] = "manual"


class Transition(ClosedLoop):
    """The policy comes in: a growing part of each step is written."""

    name: ClassVar[str] = "transition"

    def __init__(self, backend: BeamBackend, blend_cycles: int) -> None:
        super().__init__(backend)
        self._blend_cycles = blend_cycles
        self.taken = 0
        """Functions that the machine took."""

    @property
    def factor(self) -> float:
        """The part of the step that is written next; 0 first, which proves lease and arming."""
        return self.taken / self._blend_cycles if self._blend_cycles else 1.0

    @property
    def blended(self) -> bool:
        """Whether the machine took every function of the transition, at least one."""
        return self.taken >= max(1, self._blend_cycles)


class Fallback(ClosedLoop):
    """The policy is not followed: the ladder says what is written."""

    name: ClassVar[str] = "fallback"

    def __init__(self, backend: BeamBackend, ladder: Ladder) -> None:
        super().__init__(backend)
        self.ladder = ladder


Mode = Shadow | ClosedLoop
"""`Manual` is a `Shadow`; `Transition` and `Fallback` are `ClosedLoop`s."""
