"""How bad a cycle was in all: small excess is counted, repeated or hard excess ends in a fallback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.trace.records import Verdict
from memrl_deploy.guard.config import GuardConfig
from memrl_deploy.guard.decision import (
    ACTION,
    APPLIED,
    DISTRIBUTION,
    DRIFT,
    HEALTH,
    RATE,
    READBACK,
    SLOPE,
    STAGES,
    STEP,
    VALUE,
    Excess,
    FloatArray,
)

PERSISTENT = (HEALTH, DISTRIBUTION, ACTION, READBACK, RATE, DRIFT)
"""Stages whose objection is no everyday matter: one that comes again and again is hard."""
SAID = {
    HEALTH: "most pick-ups were dead, saturated or frozen",
    DISTRIBUTION: "most readings were unlike those of the training",
    ACTION: "the policy gave no finite number for a point",
    READBACK: "the hardware did not report what was applied",
    RATE: "the policy asked for more travel than is allowed over a window",
    DRIFT: "the policy asked to go further from where it was engaged than is allowed",
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The judgement on one cycle."""

    excess: Excess
    stage: str = ""
    """Name of the stage with the hard excess."""
    reason: str = ""
    """Why it is hard."""
    repeats: tuple[int, ...]
    """Cycles in a row in which each of `PERSISTENT` objected."""


def judge(
    verdicts: NDArray[np.uint8],
    beyond: FloatArray | None,
    far_rad: FloatArray | None,
    repeats: tuple[int, ...],
    config: GuardConfig,
) -> Judged:
    """Judge one cycle.

    Args:
        verdicts: of the stages [points, stages].
        beyond: size of the answers in units of the policy's largest step [points]; None if not known.
        far_rad: distance of the readback from what is applied [points], rad; None if not known.
        repeats: of the cycle before; empty at the start.
        config: thresholds.
    """
    objected = (verdicts != Verdict.PASSED) & (verdicts != Verdict.NOT_RUN)
    before = repeats or (0,) * len(PERSISTENT)
    counts = tuple(
        n + 1 if _counts(objected[:, stage], stage, config) else 0
        for n, stage in zip(before, PERSISTENT, strict=True)
    )

    def hard(stage: int, reason: str) -> Judged:
        return Judged(excess=Excess.HARD, stage=STAGES[stage], reason=reason, repeats=counts)

    refused = np.flatnonzero((verdicts == Verdict.REFUSED).any(axis=0))
    if refused.size:
        which = "what is applied" if refused[0] == APPLIED else "the nearest function"
        return hard(int(refused[0]), f"{which} does not keep the machine's limits")
    if beyond is not None and (np.isfinite(beyond) & (beyond > config.answer_factor)).any():
        point = int(np.argmax(np.where(np.isfinite(beyond), beyond, 0.0)))
        return hard(
            ACTION,
            f"the policy asked point {point} for {beyond[point]:.3g} times the largest step that it "
            "declares",
        )
    if far_rad is not None and (far_rad > config.readback_hard_rad).any():
        point = int(np.nanargmax(far_rad))
        return hard(
            READBACK,
            f"the readback of point {point} is {np.degrees(far_rad[point]):.1f} degrees from what is "
            "applied",
        )
    for count, stage in zip(counts, PERSISTENT, strict=True):
        if count >= config.repeats:
            return hard(stage, f"{SAID[stage]}, {count} cycles in a row")
    cut = objected[:, [*PERSISTENT, STEP, VALUE, SLOPE]].any()
    return Judged(excess=Excess.SMALL if cut else Excess.NONE, repeats=counts)


def _counts(objected: NDArray[np.bool_], stage: int, config: GuardConfig) -> bool:
    """Whether a cycle counts: of health and likeness a large share of the points, else any point."""
    if stage in (HEALTH, DISTRIBUTION):
        return bool(objected.mean() >= config.wide_share)
    return bool(objected.any())
