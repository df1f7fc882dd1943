"""Where the time of a cycle goes: one object, named sections."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

SECTIONS = (
    "receive",
    "decode",
    "observe",
    "infer",
    "guard",
    "measure",
    "record",
    "write",
    "answer",
)
"""In the order in which a cycle goes through them. `receive` is waiting for the machine; the others
are the decision. `write` ends when the commit is sent; `answer` is waiting for the machine's word on it."""
RECORD_BEFORE = "record_before"
"""In a cycle's record: what recording the cycle before took, where no outcome says it (nothing written)."""
_INDEX = {name: index for index, name in enumerate(SECTIONS)}


class Pacing:
    """Clocks the sections of each cycle, and keeps the last cycles' times for the summary.

    `begin` starts a cycle; each `lap` gives the time since the one before to a section.

    Args:
        kept: cycles to keep for percentiles; older ones are forgotten.
    """

    def __init__(self, kept: int = 10_000) -> None:
        # Filled, not zeros: its pages are taken now, and the process does not grow while it runs.
        self._history = np.full((kept, len(SECTIONS)), 0, dtype=np.int64)
        self._now = np.zeros(len(SECTIONS), dtype=np.int64)
        self._last_ns = time.monotonic_ns()
        self.cycles = 0

    def begin(self) -> None:
        """Start a cycle."""
        self._now[:] = 0
        self._last_ns = time.monotonic_ns()

    def lap(self, section: str) -> None:
        """Give the time since the last call to a section."""
        now = time.monotonic_ns()
        self._now[_INDEX[section]] += now - self._last_ns
        self._last_ns = now

    def skip(self) -> None:
        """Give the time since the last call to no section."""
        self._last_ns = time.monotonic_ns()

    def split(self, at_ns: int, before: str, after: str) -> None:
        """Give the time until `at_ns` (monotonic clock) to one section and the rest to another."""
        now = time.monotonic_ns()
        middle = min(max(at_ns, self._last_ns), now)
        self._now[_INDEX[before]] += middle - self._last_ns
        self._now[_INDEX[after]] += now - middle
        self._last_ns = now

    def end(self) -> None:
        """Keep the cycle's times."""
        self._history[self.cycles % len(self._history)] = self._now
        self.cycles += 1

    def timings_ns(self, *sections: str) -> dict[str, int]:
        """Return this cycle's times by section, ns; those named, or all that took any."""
        names = sections or tuple(name for name in SECTIONS if self._now[_INDEX[name]])
        return {name: int(self._now[_INDEX[name]]) for name in names}

    @property
    def decision_ns(self) -> int:
        """From the reading's arrival until now, this cycle, ns."""
        return int(self._now[1:].sum())

    def history_ns(self) -> NDArray[np.int64]:
        """Return the kept cycles' times [cycles, sections], ns."""
        return self._history[: min(self.cycles, len(self._history))].copy()
