"""How bad a cycle was in all: small excess is counted, repeated or hard excess ends in a fallback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.trace.records import Verdict
from memrl_deploy.guard.config import GuardConfig
from memrl_deploy.guard.decision import Excess, FloatArray, Stage

SAID = {
    Stage.HEALTH: "most pick-ups were dead, saturated or frozen",
    Stage.DISTRIBUTION: "most readings were unlike those of the training",
    Stage.ACTION: "the policy gave no finite number for a point",
    Stage.READBACK: "the hardware did not report what was applied",
    Stage.RATE: "the policy asked for more travel than is allowed over a window",
    Stage.DRIFT: "the policy asked to go further from where it was engaged than is allowed",
    Stage.LOOK_AHEAD: "the policy asked for phases at which the beam would be lost",
}
"""Stages whose objection is no everyday matter, and what is said of one that comes again and again: it is
hard."""
PERSISTENT = tuple(SAID)


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
    objected = ((verdicts != Verdict.PASSED) & (verdicts != Verdict.NOT_RUN)).sum(axis=0)
    before = repeats or (0,) * len(PERSISTENT)
    counts = tuple(
        n + 1 if _counts(objected[stage] / len(verdicts), stage, config) else 0
        for n, stage in zip(before, PERSISTENT, strict=True)
    )

    def hard(stage: Stage, reason: str) -> Judged:
        return Judged(excess=Excess.HARD, stage=stage.label, reason=reason, repeats=counts)

    refused = np.flatnonzero((verdicts == Verdict.REFUSED).any(axis=0))
    if refused.size:
        which = "what is applied" if refused[0] == Stage.APPLIED else "the nearest function"
        return hard(Stage(refused[0]), f"{which} does not keep the machine's limits")
    if beyond is not None and (np.isfinite(beyond) & (beyond > config.answer_factor)).any():
        point = int(np.argmax(np.where(np.isfinite(beyond), beyond, 0.0)))
        return hard(
            Stage.ACTION,
            f"the policy asked point {point} for {beyond[point]:.3g} times the largest step that it "
            "declares",
        )
    if far_rad is not None and (far_rad > config.readback_hard_rad).any():
        point = int(np.nanargmax(far_rad))
        return hard(
            Stage.READBACK,
            f"the readback of point {point} is {np.degrees(far_rad[point]):.1f} degrees from what is "
            "applied",
        )
    for count, stage in zip(counts, PERSISTENT, strict=True):
        if count >= config.repeats:
            return hard(stage, f"{SAID[stage]}, {count} cycles in a row")
    cut = objected[[*PERSISTENT, Stage.STEP, Stage.VALUE, Stage.SLOPE]].any()
    return Judged(excess=Excess.SMALL if cut else Excess.NONE, repeats=counts)


def _counts(share: float, stage: int, config: GuardConfig) -> bool:
    """Whether a cycle counts: of health and likeness a large share of the points, else any point."""
    if stage in (Stage.HEALTH, Stage.DISTRIBUTION):
        return share >= config.wide_share
    return share > 0.0
