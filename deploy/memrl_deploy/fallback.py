"""The fallback ladder: hold, a classical controller, the snapshot taken at engage, the operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Reading
from memrl_ctrl.errors import Refused
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.trace.records import Verdict
from memrl_deploy.guard.decision import Stage

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

DOUBTS = tuple(
    stage.label for stage in (Stage.FINITE_FRESH, Stage.HEALTH, Stage.DISTRIBUTION, Stage.READBACK)
)
"""The guard's stages that doubt a reading, or that the hardware does what is asked: a controller that moves a
point by such a reading would move it by nothing that is known."""


class Rung(StrEnum):
    """A rung of the ladder, in the order in which they are tried."""

    HOLD = "hold"
    CLASSICAL = "classical"
    RESTORE = "restore"


class Classical(Protocol):
    """A controller without a policy."""

    def begin(self) -> None:
        """Forget everything: a descent begins."""
        ...

    def undo(self) -> None:
        """Forget the last `propose`: its cycle is not in the record."""
        ...

    def propose(self, reading: Reading, shown: BoolArray) -> FloatArray:
        """Return the change that it wants [points], rad; NaN where it has no answer.

        Args:
            reading: the cycle's.
            shown: points whose reading the guard does not doubt [points]; only they are shown, and move.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class FallbackConfig:
    """Where the ladder begins and how long each rung lasts."""

    first: Rung = Rung.HOLD
    """The rung on which it begins."""
    hold_cycles: int = 5
    """Cycles of holding."""
    recover_cycles: int = 2
    """So many cycles without trouble in a row, while holding, go back to shadow."""
    recoveries: int = 3
    """So many times in `recoveries_within` cycles: a further descent goes on down the ladder."""
    recoveries_within: int = 200
    """Cycles: four minutes of the Booster."""
    stuck_cycles: int = 20
    """Trouble for so many cycles in a row, in shadow behind a fallback, leads to the fallback again."""
    classical_cycles: int = 10
    """Cycles of the classical controller; left out where there is none."""
    restore_cycles: int = 20
    """Most cycles in which the snapshot has to be restored."""
    tolerance_rad: float = math.radians(0.1)
    """What is applied has to be as near to the snapshot, rad: the machine's own word, which has no noise."""
    readback_rad: float = math.radians(0.3)
    """What is read back has to be as near to what was read back when the snapshot was taken, rad, at every
    point in one cycle. Noise of 0.05 degrees in both readings differs by less at 30 points in 999 cycles of
    1,000 (4.2 standard deviations of a difference), and a tenth of what a beam would notice is still seen."""

    def __post_init__(self) -> None:
        """Refuse rungs without cycles."""
        if min(self.hold_cycles, self.classical_cycles, self.restore_cycles) < 1:
            raise ValueError("every rung of the fallback needs 1 cycle or more")
        if self.recoveries < 0 or min(self.recoveries_within, self.stuck_cycles) < 1:
            raise ValueError(
                "recoveries must be 0 or more, their cycles and stuck_cycles 1 or more"
            )
        if not 1 <= self.recover_cycles < self.hold_cycles:
            raise ValueError(
                "recover_cycles must be 1 or more and fewer than hold_cycles (the first cycle of holding "
                f"is one with trouble), not {self.recover_cycles} of {self.hold_cycles}"
            )
        for name in ("tolerance_rad", "readback_rad"):
            if not 0.0 < getattr(self, name) < math.pi:
                raise ValueError(f"{name} must be between 0 and pi")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the machine played when a person's engagement took control, and what its hardware reported."""

    cycle: int
    applied_rad: FloatArray
    """[points], rad."""
    readback_rad: FloatArray
    """[points], rad. A readback need not stand at what is applied: on a slope along the cycle it lags, by the
    same every time."""

    @classmethod
    def of(cls, reading: Reading) -> Snapshot:
        """Take it from a cycle."""
        return cls(
            cycle=reading.cycle,
            applied_rad=reading.applied_rad.copy(),
            readback_rad=reading.readback_rad.copy(),
        )


class Ladder:
    """One descent, from the trouble to the operator.

    Args:
        snapshot: taken at engage.
        limits: that every function has to keep.
        ctime_ms: control points [points].
        config: see there.
        classical: None leaves its rung out.
        recovers: whether holding without trouble ends it. Not where that was tried before: holding itself
            ends some kinds of trouble, and the next engagement begins them again.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        limits: PhaseLimits,
        ctime_ms: FloatArray | None,
        config: FallbackConfig,
        classical: Classical | None = None,
        *,
        recovers: bool = True,
    ) -> None:
        self._snapshot = snapshot
        self._limits, self._ctime_ms = limits, ctime_ms
        self._config, self._classical = config, classical
        cycles = {
            Rung.HOLD: config.hold_cycles,
            Rung.CLASSICAL: config.classical_cycles if classical is not None else 0,
            # One more, in which the readback of the last function is looked at.
            Rung.RESTORE: config.restore_cycles + 1,
        }
        rungs: Sequence[Rung] = list(Rung)[list(Rung).index(config.first) :]
        if classical is not None:
            classical.begin()
        self._plan = [rung for rung in rungs for _ in range(cycles[rung])]
        self._recovers = recovers
        self._quiet = 0
        self.last = self._plan[0].value
        """Name of the rung of the cycle that was last gone through."""
        self.ended = ""
        """How it ended, in words; empty while it goes on."""
        self.recovered = False
        """Whether the trouble was over while the last function was held."""

    @property
    def rung(self) -> Rung | None:
        """The rung of the next cycle; None at the end."""
        return self._plan[0] if self._plan else None

    def next(self, reading: Reading, *, trouble: str, shown: BoolArray) -> FloatArray | None:
        """Go on by a cycle; return what is to be written [points], rad, None for nothing.

        Args:
            reading: the cycle's.
            trouble: why the policy must not be followed; empty if it might be.
            shown: points whose reading the guard does not doubt [points].
        """
        rung = self.rung
        self.last = rung.value if rung is not None else self.last
        if rung is Rung.HOLD:
            self._quiet = 0 if trouble else self._quiet + 1
            self.recovered = self._recovers and self._quiet >= self._config.recover_cycles
        if rung is Rung.RESTORE and self._restored(reading):
            self.ended = "the snapshot taken at engage is restored, verified by readback"
            return None
        if len(self._plan) <= 1 and not self.recovered:
            self.ended = "the snapshot taken at engage could not be verified by readback"
            return None
        self._plan.pop(0)
        if rung is Rung.RESTORE:
            return towards(
                self._snapshot.applied_rad, reading.applied_rad, self._limits, self._ctime_ms
            )
        if rung is Rung.CLASSICAL and self._classical is not None:
            return classical_function(self._classical, reading, shown, self._limits, self._ctime_ms)
        return None

    def undo(self) -> None:
        """Tell that the cycle that was gone through last is not in the record."""
        if self.last == Rung.CLASSICAL.value and self._classical is not None:
            self._classical.undo()

    def _restored(self, reading: Reading) -> bool:
        """Whether the snapshot is both applied and read back.

        Each for itself: a readback that stands still may stand at the snapshot while something else is
        applied. A readback is held against that of then, and where the hardware had not settled then,
        against what was applied. What is not a number compares as false: it verifies nothing.
        """
        snapshot, config = self._snapshot, self._config
        applied = np.abs(reading.applied_rad - snapshot.applied_rad) <= config.tolerance_rad
        as_then = np.abs(reading.readback_rad - snapshot.readback_rad) <= config.readback_rad
        settled = np.abs(reading.readback_rad - snapshot.applied_rad) <= config.readback_rad
        return bool((applied & (as_then | settled)).all())


def shown_points(
    verdicts: NDArray[np.uint8], stages: Sequence[str], doubts: Sequence[str] = DOUBTS
) -> BoolArray:
    """Return the points whose reading the guard does not doubt [points].

    Args:
        verdicts: of the guard's stages [points, stages].
        stages: their names.
        doubts: those that doubt a reading.
    """
    judged = [stages.index(name) for name in doubts if name in stages]
    return np.asarray((verdicts[:, judged] != Verdict.HELD).all(axis=1))


def classical_function(
    classical: Classical,
    reading: Reading,
    shown: BoolArray,
    limits: PhaseLimits,
    ctime_ms: FloatArray | None,
) -> FloatArray | None:
    """Return what a controller leads to within the limits [points], rad; None: nothing may be written."""
    change = np.nan_to_num(classical.propose(reading, shown), nan=0.0, posinf=0.0, neginf=0.0)
    return towards(reading.applied_rad + change, reading.applied_rad, limits, ctime_ms)


def towards(
    wanted: FloatArray, applied: FloatArray, limits: PhaseLimits, ctime_ms: FloatArray | None
) -> FloatArray | None:
    """Return the step towards a function that keeps all limits [points], rad; None: there is none."""
    if not np.isfinite(applied).all():
        return None
    try:
        limits.check(applied, applied, ctime_ms)
        step = limits.restrict(wanted, applied, ctime_ms).phi_hw_rad
        limits.check(step, applied, ctime_ms)
    except Refused:
        return None
    return step
