"""Backend `replay`: the recorded readings of a trace, in their order. It writes nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memrl_ctrl.backend import BoolArray, FloatArray, MachineDescription, Reading, Receipt
from memrl_ctrl.errors import (
    MachineError,
    ReadingTimeout,
    RefusalReason,
    Refused,
    UnknownNameError,
    UsageError,
)
from memrl_ctrl.trace import TraceHeader, TraceReader


class ReplayBackend:
    """Serves the readings of a trace, one after another.

    A reading is bit for bit what was recorded, with one exception: `received_ns` is this process's
    own clock, since the recording's means nothing here. The next reading comes as soon as it is
    asked for, whatever the machine's period was.

    Args:
        trace: `trace.h5`, `trace.journal`, or the folder of a run.
        first: index of the first cycle that is served, from 0.

    Raises:
        TraceError: the trace cannot be read.
        UsageError: the trace has no cycle of that index.
    """

    recorded = True
    """An environment takes the next recorded cycle for every action."""

    def __init__(self, trace: str | Path, first: int = 0) -> None:
        self._trace = TraceReader(trace)
        if not 0 <= first < max(len(self._trace), 1):
            self._trace.close()
            raise UsageError(
                f"first={first}: {trace} has {len(self._trace)} cycles; "
                f"allowed is 0 to {max(len(self._trace) - 1, 0)}"
            )
        self._first = self._next = first
        self._closed = False
        self.description: MachineDescription = dataclasses.replace(
            self._trace.header.machine, writable=False, period_s=0.0, backend="replay"
        )

    @property
    def header(self) -> TraceHeader:
        """Where the recording comes from."""
        return self._trace.header

    def start(
        self,
        seed: int | None = None,
        mask: BoolArray | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Reading:
        """Rewind and return the first reading; seed and mask change nothing in a recording.

        Raises:
            UnknownNameError: an option was given; there is none.
        """
        for name in options or {}:
            raise UnknownNameError("option of backend 'replay':", name, ())
        self._next = self._first
        return self.observe()

    def observe(self, timeout_s: float | None = None) -> Reading:
        """Return the next recorded reading, at once.

        Raises:
            ReadingTimeout: the recording is at its end.
            TraceError: the file is damaged at that cycle.
        """
        if self._closed:
            raise MachineError("the recording has been closed")
        count = len(self._trace)
        if self._next >= count:
            raise ReadingTimeout(
                f"the recording {self._trace.path} is at its end: "
                f"all {count - self._first} cycles have been served"
            )
        reading = self._trace.record(self._next).reading
        self._next += 1
        return dataclasses.replace(reading, received_ns=time.monotonic_ns())

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Refuse: what is recorded cannot be changed."""
        raise Refused(RefusalReason.READ_ONLY, "a recording takes no setpoints; use observe")

    def play(self, phi_hw_rad: FloatArray) -> Reading:
        """Refuse: what is recorded cannot be changed."""
        raise Refused(RefusalReason.READ_ONLY, "a recording takes no setpoints; use observe")

    def close(self) -> None:
        """Close the trace; may be called twice."""
        self._closed = True
        self._trace.close()


def open_backend(trace: str | Path, first: int = 0) -> ReplayBackend:
    """Open a recorded trace as a backend that cannot be written to.

    Args:
        trace: `trace.h5`, `trace.journal`, or the folder of a run.
        first: index of the first cycle that is served, from 0.

    Raises:
        TraceError: the trace cannot be read.
        UsageError: the trace has no cycle of that index.
    """
    return ReplayBackend(trace, first)
