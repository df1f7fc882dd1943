"""Modes of the online loop, as classes that hold no more than the mode may do.

`Shadow` holds a source: there is no object in it that could write. `ClosedLoop` holds a backend.
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


class Shadow:
    """The policy sees everything and writes nothing.

    Args:
        source: must not be able to write; `memrl_ctrl.registry.open_source` gives one.
    """

    name: ClassVar[str] = "shadow"

    def __init__(self, source: BeamSource) -> None:
        self._source = source

    @property
    def description(self) -> MachineDescription:
        """The machine as it describes itself."""
        return self._source.description

    def first(self, timeout_s: float | None) -> Reading:
        """Return the first reading."""
        return self._source.observe(timeout_s)

    def next(self, timeout_s: float | None) -> Reading:
        """Return the next cycle's reading."""
        return self._source.observe(timeout_s)

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

    @property
    def description(self) -> MachineDescription:
        """The machine as it describes itself."""
        return self._backend.description

    def first(self, timeout_s: float | None) -> Reading:
        """Take control and return the first reading; changes nothing on a machine."""
        del timeout_s  # a backend's own
        return self._backend.start()

    def next(self, timeout_s: float | None) -> Reading:
        """Return the next cycle's reading."""
        return self._backend.observe(timeout_s)

    def write(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Set the function from `cycle` on.

        Raises:
            Refused: typed; nothing was applied.
        """
        return self._backend.submit(phi_hw_rad, cycle, deadline_s)

    def close(self) -> None:
        """Let go of the machine; it goes on with what is applied."""
        self._backend.close()


Mode = Shadow | ClosedLoop
