"""What is said of a cycle while it goes by, and of a run at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import MemrlError
from memrl_ctrl.trace import Verdict
from memrl_deploy.guard import STAGES, Decision
from memrl_deploy.pacing import SECTIONS

FloatArray = NDArray[np.float64]


class Recorded(Protocol):
    """What a run is recorded in."""

    folder: Path
    """Its folder."""

    @property
    def size_bytes(self) -> int:
        """Length of the journal so far."""
        ...


@dataclass(frozen=True, kw_only=True)
class CycleView:
    """One cycle, as shown. Phases [points], rad."""

    mode: str
    cycle: int
    decided: int
    """Cycles decided so far, this one included."""
    recommended_rad: FloatArray
    """What the guard would let through."""
    applied_rad: FloatArray
    """What the machine plays in this cycle."""
    asymmetry: FloatArray
    """Of each point's profile; NaN where there is no bunch."""
    stages: dict[str, int]
    """Points that each guard stage altered, held or refused; stages without any are left out."""
    outcome: str
    """`written`, `recommended`, `held`, or why it was not taken."""
    decision_ms: float
    """From the reading's arrival to the machine's answer."""
    trace: Recorded | None = None
    """Where it is recorded; None where it is not."""
    written_rad: FloatArray | None = None
    """What is to be written [points], rad; None where nothing is. While the policy comes in it is a part of
    the recommended step, in the fallback what the ladder says."""

    @property
    def other_rad(self) -> FloatArray | None:
        """What is to be written where that is not what is recommended [points], rad; else None."""
        written = self.written_rad
        return None if written is None or (written == self.recommended_rad).all() else written


class View(Protocol):
    """Where a run is shown."""

    def cycle(self, view: CycleView) -> None:
        """Show a cycle."""
        ...

    def note(self, text: str) -> None:
        """Show something out of the ordinary."""
        ...

    def close(self) -> None:
        """Show no more."""
        ...


class NoView:
    """Shows nothing."""

    def cycle(self, view: CycleView) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""


def stage_counts(decision: Decision) -> dict[str, int]:
    """Return how many points each stage altered, held or refused; stages without any left out."""
    verdicts = decision.verdicts
    counts = ((verdicts != Verdict.PASSED) & (verdicts != Verdict.NOT_RUN)).sum(axis=0)
    return {name: int(count) for name, count in zip(STAGES, counts, strict=True) if count}


@dataclass(kw_only=True)
class RunSummary:
    """What a run did; filled in while it goes on."""

    mode: str
    machine: str = ""
    cycles: int = 0
    """Cycles decided."""
    written: int = 0
    """Functions that the machine took."""
    held: int = 0
    """Cycles in which nothing was written, for want of readings or answers."""
    missed: Counter[str] = field(default_factory=Counter)
    """What went wrong: refused (by reason), `timeout`, `stale`, `unrecorded`, `receipt`, `not-played`, ..."""
    stages: Counter[str] = field(default_factory=Counter)
    """Points that each guard stage altered, held or refused, over all cycles."""
    changes: list[str] = field(default_factory=list)
    """Transitions from mode to mode, in words."""
    unseen: int = 0
    """Cycles that the machine played and of which no reading came."""
    worse: list[str] = field(default_factory=list)
    """When the beam was found worse than where a person engaged the loop, with what was measured."""
    hunting: list[str] = field(default_factory=list)
    """When points were found to go to and fro, and which."""
    asymmetry: list[float] = field(default_factory=list)
    """Mean |asymmetry| of the first and of the last cycle."""
    times_ns: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((0, len(SECTIONS)), dtype=np.int64)
    )
    """Times of the last cycles by section [cycles, sections], ns."""
    reason: str = ""
    """Why the run ended."""
    not_engaged: str = ""
    """Why a run that may write ended in shadow; empty if it did not."""
    error: MemrlError | None = None
    """What ended it, if it did not end by itself."""
    trace: Path | None = None
    """The HDF5 file, or the run's folder if it could not be made."""
    trace_problem: str = ""
    """What is wrong with the trace's end."""

    def see(self, decision: Decision, asymmetry: FloatArray) -> None:
        """Count a cycle: what was decided, and the asymmetry [points], NaN where there is no bunch."""
        self.cycles += 1
        self.stages.update(stage_counts(decision))
        known = np.abs(asymmetry[np.isfinite(asymmetry)])
        mean = float(known.mean()) if known.size else float("nan")
        self.asymmetry = [*self.asymmetry[:1], mean]

    def decision_ms(self, *percents: float) -> list[float]:
        """Return percentiles of the decision time (all sections but `receive`), ms."""
        if not len(self.times_ns):
            return [float("nan")] * len(percents)
        total = self.times_ns[:, 1:].sum(axis=1) / 1e6
        return [float(value) for value in np.percentile(total, percents)]
