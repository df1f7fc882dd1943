"""What the guard says of a cycle: the stages' verdicts, what may be written, how bad it was."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.trace.records import Verdict


class Stage(IntEnum):
    """The stages, in the order of the verdicts."""

    APPLIED = 0
    FINITE_FRESH = 1
    HEALTH = 2
    DISTRIBUTION = 3
    ACTION = 4
    READBACK = 5
    COHERENCE = 6
    RATE = 7
    DRIFT = 8
    STEP = 9
    VALUE = 10
    SLOPE = 11
    LOOK_AHEAD = 12

    @property
    def label(self) -> str:
        """The name in traces, reports and sentences: `finite-fresh`."""
        return self.name.lower().replace("_", "-")


STAGES = tuple(stage.label for stage in Stage)
"""Names of the stages, in the order of the verdicts."""

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Excess(IntEnum):
    """How far a cycle was beyond what the guard lets through."""

    NONE = 0
    """Nothing was cut or held."""
    SMALL = 1
    """Something was cut or held, and counted; the rest may be written."""
    HARD = 2
    """The agent must not go on: fall back. Nothing of this cycle may be written."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What may be written, and why it is not what was asked for."""

    phi_hw_rad: FloatArray
    """What may be written, or stays where it is [points], rad. NaN only if `applied` is NaN."""
    proposed_rad: FloatArray
    """What the policy asked for, held where it was not asked or gave no number [points], rad."""
    verdicts: NDArray[np.uint8]
    """`Verdict` of each stage [points, stages]."""
    excess: Excess = Excess.NONE
    """Whether something was cut or held, and whether the agent must fall back."""
    hard_stage: str = ""
    """Name of the stage with the hard excess; empty if there is none."""
    reason: str = ""
    """Why the excess is hard, in a sentence for people; empty if it is not."""
    in_distribution: BoolArray
    """Points whose reading is like the training's [points]; all, where the policy's file does not say
    what the training saw (the stage `distribution` is then not run)."""

    @property
    def refused(self) -> bool:
        """Whether the whole function must not be written."""
        return bool((self.verdicts == Verdict.REFUSED).any())

    @property
    def held(self) -> BoolArray:
        """Points that keep what is applied, for want of a reading or an answer [points]."""
        return np.asarray((self.verdicts == Verdict.HELD).any(axis=1))

    @property
    def altered(self) -> BoolArray:
        """Points that go elsewhere than the policy asked [points]."""
        return np.asarray((self.verdicts == Verdict.ALTERED).any(axis=1))

    @property
    def write(self) -> bool:
        """Whether there is anything to write: no refusal, no hard excess, not held at every point."""
        return self.excess < Excess.HARD and not self.refused and not bool(self.held.all())
