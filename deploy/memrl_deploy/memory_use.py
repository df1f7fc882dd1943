"""How the memory of the loop's process grows: within a run, and from run to run (Linux)."""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EVERY_CYCLES = 100
SETTLING_CYCLES = 2000
"""First cycles of a run, in which its buffers and the allocator's pools are taken: not looked at."""

FloatArray = NDArray[np.float64]


class MemoryUse:
    """Resident memory of this process while it makes run after run.

    Room is taken at the start: growing lists would be taken for the loop's memory.

    Args:
        cycles: of all runs together.
    """

    def __init__(self, cycles: int) -> None:
        self._samples = np.full((cycles // EVERY_CYCLES + 1, 3), 0.0)
        self._taken = 0
        self._before_mb: list[float] = []
        self._cycles = 0

    def begin_run(self) -> None:
        """Give back what is free, as its pages would hide what a run takes, and begin to count its cycles."""
        gc.collect()
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)
        self._before_mb.append(resident_mb())
        self._cycles = 0

    def cycle(self) -> None:
        """Count a cycle of the run."""
        self._cycles += 1
        if self._cycles % EVERY_CYCLES == 0 and self._taken < len(self._samples):
            self._samples[self._taken] = len(self._before_mb), self._cycles, resident_mb()
            self._taken += 1

    def slope_per_100k(self) -> float:
        """Return the growth within the runs, MB in 100,000 cycles; NaN where they are too short to say."""
        return within_runs(self._samples[: self._taken])

    def growth_per_run(self) -> float:
        """Return the growth from run to run, MB, by what is left at their beginnings.

        The first run makes what stays for all; NaN with fewer than three others.
        """
        left = self._before_mb[1:]
        return float(np.polyfit(np.arange(len(left)), left, 1)[0]) if len(left) >= 3 else np.nan


def within_runs(samples: FloatArray) -> float:
    """Return the common slope of several runs, each from where it has settled, MB in 100,000 cycles.

    Args:
        samples: run, cycle of the run and memory in MB [n, 3].

    Returns:
        Least squares with a level for each run; NaN where no run has two samples that count.
    """
    settled = samples[samples[:, 1] > SETTLING_CYCLES]
    over = under = 0.0
    for run in np.unique(settled[:, 0]):
        cycles, megabytes = settled[settled[:, 0] == run, 1:].T
        away = cycles - cycles.mean()
        over += float(away @ (megabytes - megabytes.mean()))
        under += float(away @ away)
    return 1e5 * over / under if under > 0.0 else float("nan")


def resident_mb() -> float:
    """Return this process's resident memory, MB (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
