"""How a run comes out of each fault of a scenario: the table of docs/safety.md, held against what happened.

For most faults the scenario alone says how they end. Of some it does not: whether a burst of noise is a
sick pick-up depends on the bunch under it. There the stages' recorded verdicts say whether the cycle was
one with hard excess, and from that the ending follows, by arithmetic that is not the guard's own. Whether a
machine that ignores functions, or is turned by hand, contradicts what it acknowledged depends on what it was
asked for: there the recorded receipts and readings say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import MemrlError, TraceError
from memrl_ctrl.policy.manifest import decode_manifest
from memrl_ctrl.trace import TraceReader, Verdict
from memrl_deploy.fallback import FallbackConfig
from memrl_deploy.guard import GuardConfig
from memrl_deploy.receiving import PLAYED_RAD
from memrl_deploy.strikes import STRIKES

BoolArray = NDArray[np.bool_]

_GUARD, _LADDER = GuardConfig(), FallbackConfig()
LONG = _GUARD.repeats
"""A sick reading in so many cycles in a row makes small excess a hard one."""
LONGEST_HOLD = LONG + _LADDER.hold_cycles - 1 - _LADDER.recover_cycles
"""A sick reading that is back after so many cycles recovers while the ladder holds: its last cycles of
holding, the first of which is that of the trouble, have to be healthy."""
GRACE = LONG + 1
"""Trouble that begins so many cycles after a fault is still by it."""
WIDE = ("health", "distribution")
"""Stages that count where they hold a large share of the points."""
ANY = ("action", "readback", "rate", "drift", "look-ahead")
"""Stages that count where they object at one point."""


class Ending(StrEnum):
    """How a run comes out of a fault."""

    CLOSED = "closed loop"
    """The loop was never left."""
    RECOVERED = "recovered"
    """Fallback held, then shadow, transition, and the closed loop again, by itself."""
    HANDED_OVER = "handed over"
    """Manual, until the operator engages again: the ladder came to its end, or readings contradicted what the
    machine had acknowledged."""


class Known(StrEnum):
    """What the loop knows of a fault."""

    HELD = "held"
    """No reading, or one that says itself that it is none: its points hold, however long."""
    FOLLOWED = "followed"
    """A change of the machine that is seen for what it is."""
    SICK = "sick"
    """A reading that the health stage knows for sick."""
    SEEN = "seen"
    """It depends on the reading whether a stage objects."""
    TURNED = "turned"
    """It depends on the readings whether they show another function than was acknowledged."""


FROZEN = "frozen_profile"
KNOWN: dict[str, Known] = {
    "missing_reading": Known.HELD,
    "late_reading": Known.HELD,
    "nan_profile": Known.HELD,
    "offset_jump": Known.FOLLOWED,
    "operator": Known.TURNED,
    "setpoint_ignored": Known.TURNED,
    "dead_pickup": Known.SICK,
    "flipped_polarity": Known.SICK,
    FROZEN: Known.SICK,
    "noise_burst": Known.SEEN,
    "cavity_trip": Known.SEEN,
}
"""Every fault of a scenario, of profiles with noise."""


@dataclass(frozen=True, kw_only=True)
class Happening:
    """One fault, once: its cycles as the machine numbers them."""

    kind: str
    first: int
    cycles: int
    share: float = 1.0
    """Of the control points, those that it concerns."""
    flagged: bool = False
    """Whether the reading says itself that it is none."""
    noisy: bool = True
    """Whether the machine's profiles have noise: without it a frozen one may be that of a bunch at rest."""

    @property
    def last(self) -> int:
        """Its last cycle."""
        return self.first + self.cycles - 1

    @classmethod
    def of(
        cls, fault: Mapping[str, Any], first: int, points: int, *, noisy: bool = True
    ) -> Happening:
        """Make it from a fault as `memrl-ctrl scenario show` prints it.

        Args:
            fault: its plain values.
            first: its first cycle.
            points: control points of the machine.
            noisy: whether its profiles have noise.
        """
        cycles = int(fault.get("for_cycles", 1))
        if fault["fault"] == "cavity_trip":
            cycles += int(fault.get("recovery_cycles", 3))
        concerned = fault.get("points")
        return cls(
            kind=str(fault["fault"]),
            first=first,
            cycles=cycles,
            share=1.0 if concerned is None else len(concerned) / points,
            flagged=bool(fault.get("flagged", False)),
            noisy=noisy,
        )

    @property
    def known(self) -> Known:
        """What the loop knows of it."""
        if self.flagged:
            return Known.HELD
        if self.kind == FROZEN and not self.noisy:
            return Known.SEEN
        return KNOWN[self.kind]


def documented(
    one: Happening, hard: BoolArray | None = None, left: BoolArray | None = None
) -> Ending:
    """Return how a fault has to end, by the table in docs/safety.md.

    Args:
        one: the fault.
        hard: whether each recorded cycle from its first on was one with hard excess [cycles]; needed where it
            depends on the reading.
        left: whether each recorded cycle from its first on is one that leaves the loop, for what is played
            is not what was acknowledged [cycles]; needed where that may be.

    Raises:
        ValueError: it depends on the reading, and nothing is known of that.
    """
    if one.known in (Known.HELD, Known.FOLLOWED):
        return Ending.CLOSED
    if one.known is Known.SICK:
        if one.share < _GUARD.wide_share or one.cycles < LONG:
            return Ending.CLOSED
        return Ending.RECOVERED if one.cycles <= LONGEST_HOLD else Ending.HANDED_OVER
    if one.known is Known.TURNED:
        if one.cycles < STRIKES:
            return Ending.CLOSED
        if left is None:
            raise ValueError(f"how {one.kind} ends depends on what the readings say is played")
        return Ending.HANDED_OVER if left[: one.cycles + 1].any() else Ending.CLOSED
    if hard is None:
        raise ValueError(f"how {one.kind} ends depends on the readings")
    return descent(hard, one.cycles + GRACE)


def descent(hard: BoolArray, begins_within: int) -> Ending:
    """Return where the ladder leads, from which cycles had hard excess [cycles]."""
    troubles = np.flatnonzero(hard[:begins_within])
    if not troubles.size:
        return Ending.CLOSED
    held = hard[troubles[0] : troubles[0] + _LADDER.hold_cycles]
    healthy = 0
    for trouble in held.tolist():
        healthy = 0 if trouble else healthy + 1
        if healthy >= _LADDER.recover_cycles:
            return Ending.RECOVERED
    return Ending.HANDED_OVER


def hard_cycles(trace: TraceReader) -> BoolArray:
    """Return in which recorded cycles the excess was hard, from the stages' verdicts [cycles]."""
    verdicts = trace.array("verdicts")
    stages = trace.header.guard_stages
    objected = (verdicts != Verdict.PASSED) & (verdicts != Verdict.NOT_RUN)
    share = objected.mean(axis=1)
    hard = (verdicts == Verdict.REFUSED).any(axis=(1, 2))
    for name in stages:
        if name in WIDE + ANY:
            of_stage = share[:, stages.index(name)]
            counts = of_stage >= _GUARD.wide_share if name in WIDE else of_stage > 0.0
            hard |= run_lengths(counts) >= LONG
    far = np.abs(trace.array("readback_rad") - trace.array("applied_rad"))
    hard |= (np.minimum(far, np.abs(2.0 * np.pi - far)) > _GUARD.readback_hard_rad).any(axis=1)
    shown = ~objected[:, :, [stages.index("finite-fresh"), stages.index("health")]].any(axis=2)
    asked = np.abs(trace.array("action")[:, :, 0])
    try:
        step_rad = decode_manifest(trace.header.manifest_json).max_step_rad
    except (ValueError, MemrlError) as error:
        raise TraceError(trace.path, f"damaged: the policy's manifest: {error}") from error
    largest = _GUARD.answer_factor * step_rad
    hard |= (shown & (asked > largest)).any(axis=1)
    return np.asarray(hard, dtype=np.bool_)


def leaving_cycles(trace: TraceReader) -> BoolArray:
    """Return in which recorded cycles the third reading in a row contradicts what was acknowledged [cycles].

    Readings of cycles for which nothing was taken say nothing, and break no row.
    """
    cycles = trace.cycles
    leaving = np.zeros(cycles.size, dtype=np.bool_)
    taken = trace.array("outcomes/state") == 1
    if not taken.any():  # there are no receipts' columns either
        return leaving
    before = np.flatnonzero(taken[:-1] & (trace.array("outcomes/receipt_cycle")[:-1] <= cycles[1:]))
    rows = before + 1
    acknowledged = trace.array("outcomes/receipt_applied_rad")[before]
    other = (np.abs(trace.array("applied_rad")[rows] - acknowledged) > PLAYED_RAD).any(axis=1)
    leaving[rows] = run_lengths(other) >= STRIKES
    return leaving


def run_lengths(counts: BoolArray) -> NDArray[np.int64]:
    """For each cycle: how many in a row, this one included, count [cycles]."""
    index = np.arange(1, counts.size + 1)
    last_not = np.maximum.accumulate(np.where(counts, 0, index))
    return np.asarray(np.where(counts, index - last_not, 0), dtype=np.int64)
