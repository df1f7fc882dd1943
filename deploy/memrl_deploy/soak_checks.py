"""What a soak asserts of each segment, from its trace and the twin's truth: limits, loss, how faults end.

Limits are held with arithmetic of its own, not with the one that the guard and the machine use.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.limits import TOLERANCE_RAD, PhaseLimits
from memrl_ctrl.trace import TraceReader
from memrl_deploy.endings import (
    GRACE,
    Ending,
    Happening,
    documented,
    hard_cycles,
    leaving_cycles,
)
from memrl_deploy.guard import GuardConfig
from memrl_deploy.guard.health import noisy_points
from memrl_deploy.states import TRANSITIONS, WRITING, Cause, State
from memrl_deploy.strikes import NOT_PLAYED

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SETTLING = 60
"""Cycles after a fault in which the loop has to be closed again: the ladder (26), the operator, two cycles
of agreement and three of blending, with room."""
ON_THE_KNOB = ("setpoint_ignored", "operator")
"""Faults in which the machine plays something else than it took."""


def happenings(
    faults: Iterable[Mapping[str, Any]], first: int, last: int, points: int, *, noisy: bool = True
) -> list[Happening]:
    """Return every fault of a scenario between two cycles, in order.

    Args:
        faults: as `memrl-ctrl scenario show` prints them.
        first: number of the machine's first cycle, which the scenario counts as 1.
        last: number of the last cycle that is asked for.
        points: control points of the machine.
        noisy: whether its profiles have noise.

    Raises:
        UsageError: a fault that happens at random.
    """
    found = []
    for fault in faults:
        if "at_cycle" not in fault:
            raise UsageError(
                f"the fault {fault['fault']} happens at random; a soak judges how each one ended and needs "
                "at_cycle (and every_cycles)"
            )
        every = int(fault.get("every_cycles", 0))
        for begins in fault["at_cycle"]:
            start = first + int(begins) - 1
            starts = range(start, last + 1, every) if every else [start]
            found += [
                Happening.of(fault, one, points, noisy=noisy) for one in starts if one <= last
            ]
    return sorted(found, key=lambda one: one.first)


@dataclass
class Findings:
    """What one segment brought; adds up."""

    cycles: int = 0
    written: int = 0
    outside: int = 0
    """Functions outside the limits: written, or played by the twin."""
    lost: int = 0
    """Acknowledged cycles that the trace lacks, and functions taken that the twin did not play."""
    faults: Counter[str] = field(default_factory=Counter)
    """Faults judged, by `kind: ending`."""
    changes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What should not be, in words."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What the twin says that it played."""

    cycle: IntArray
    """[cycles], rising; a reading that went missing leaves a hole."""
    phi_hw_rad: FloatArray
    """[cycles, points]."""

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Read a truth log; a last line that is cut off is left out.

        Raises:
            FileError: it cannot be read, or holds no cycle.
        """
        try:
            lines = path.read_text().split("\n")[:-1]
            rows = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise FileError(path, f"cannot be read as a truth log: {error}") from error
        if not rows:
            raise FileError(path, "the twin wrote no cycle into its truth log")
        return cls(
            cycle=np.array([row["cycle"] for row in rows], dtype=np.int64),
            phi_hw_rad=np.array([row["phi_hw_rad"] for row in rows], dtype=np.float64),
        )


def breaks_limits(
    function: FloatArray, before: FloatArray, limits: PhaseLimits, ctime_ms: FloatArray | None
) -> NDArray[np.bool_]:
    """Say which functions leave the limits [cycles].

    Args:
        function: [cycles, points], rad.
        before: what was applied in the cycle before [cycles, points], rad; NaN rows are not held against.
        limits: of the machine.
        ctime_ms: control points [points]; None where they are unrelated.
    """
    room = 2.0 * TOLERANCE_RAD
    inside = (function >= limits.min_rad - room) & (function <= limits.max_rad + room)
    bad = ~(inside & np.isfinite(function)).all(axis=1)
    step = np.abs(function - before)
    bad |= (step > limits.step_rad + room).any(axis=1)
    if ctime_ms is not None and ctime_ms.size > 1:
        most = limits.slope_rad_per_ms * np.diff(ctime_ms) * (1.0 + 1e-9) + room * np.diff(ctime_ms)
        bad |= (np.abs(np.diff(function, axis=1)) > most).any(axis=1)
    return np.asarray(bad, dtype=np.bool_)


def check_segment(
    trace: TraceReader,
    truth: Truth,
    faults: Sequence[Mapping[str, Any]],
    decided: Sequence[int],
    acknowledged: Sequence[int],
) -> Findings:
    """Hold a segment's trace against the limits, the twin's truth, the run's own count and the documents.

    Args:
        trace: of the run.
        truth: of the twin.
        faults: of the scenario.
        decided: cycles that the run said it had decided.
        acknowledged: cycles whose function it said the machine took.
    """
    found = Findings(cycles=len(decided), written=len(acknowledged))
    happened = happenings(
        faults,
        int(truth.cycle[0]),
        int(trace.cycles[-1]),
        trace.header.machine.points,
        noisy=bool(noisy_points(trace.record(0).reading.profile, GuardConfig()).all()),
    )
    _limits(found, trace, truth)
    _losses(found, trace, truth, happened, decided=decided, acknowledged=acknowledged)
    _modes(found, trace, happened)
    return found


def _limits(found: Findings, trace: TraceReader, truth: Truth) -> None:
    machine, limits = trace.header.machine, trace.header.limits
    ctime = None if machine.ctime_ms is None else np.asarray(machine.ctime_ms, dtype=np.float64)
    targets = trace.array("target_cycle")
    rows = np.flatnonzero(targets >= 0)
    written, applied = trace.array("written_rad")[rows], trace.array("applied_rad")[rows]
    bad = breaks_limits(written, applied, limits, ctime)
    found.outside += int(bad.sum())
    found.wrong += [
        f"cycle {trace.cycles[row]}: the function that was written leaves the limits"
        for row in rows[bad]
    ]
    before = np.full_like(truth.phi_hw_rad, np.nan)
    follows = np.flatnonzero(np.diff(truth.cycle) == 1) + 1
    before[follows] = truth.phi_hw_rad[follows - 1]
    bad = breaks_limits(truth.phi_hw_rad, before, limits, ctime)
    found.outside += int(bad.sum())
    found.wrong += [
        f"cycle {cycle}: the function that the twin played leaves the limits"
        for cycle in truth.cycle[bad]
    ]


def _losses(
    found: Findings,
    trace: TraceReader,
    truth: Truth,
    happened: Sequence[Happening],
    *,
    decided: Sequence[int],
    acknowledged: Sequence[int],
) -> None:
    missing = np.setdiff1d(np.asarray(decided, dtype=np.int64), trace.cycles)
    targets, state = trace.array("target_cycle"), trace.array("outcomes/state")
    taken = (targets >= 0) & (state == 1)
    unsaid = np.setdiff1d(np.asarray(acknowledged, dtype=np.int64), trace.cycles[taken])
    found.lost += missing.size + unsaid.size
    found.wrong += [f"cycle {cycle}: decided, and not in the trace" for cycle in missing]
    found.wrong += [f"cycle {cycle}: taken, and not so in the trace" for cycle in unsaid]
    knob = [one for one in happened if one.kind in ON_THE_KNOB]
    spoilt = [np.arange(one.first, one.last + 2) for one in knob]
    rows = np.flatnonzero(
        taken
        & np.isin(targets, truth.cycle)
        & ~np.isin(targets, np.concatenate([np.zeros(0, dtype=np.int64), *spoilt]))
    )
    played = truth.phi_hw_rad[np.searchsorted(truth.cycle, targets[rows])]
    other = (np.abs(played - trace.array("written_rad")[rows]) > 2.0 * TOLERANCE_RAD).any(axis=1)
    found.lost += int(other.sum())
    found.wrong += [
        f"cycle {cycle}: the machine took a function and did not play it"
        for cycle in targets[rows][other]
    ]


def _modes(found: Findings, trace: TraceReader, happened: Sequence[Happening]) -> None:
    modes = [_text(mode) for mode in trace.array("mode")]
    writes = trace.array("target_cycle") >= 0
    for row in np.flatnonzero(writes):
        if State(modes[row]) not in WRITING:
            found.wrong.append(f"cycle {trace.cycles[row]}: written in mode {modes[row]}")
    changes = [
        event
        for text in trace.array("events_json")
        for event in json.loads(_text(text) or "[]")
        if event["kind"] == "mode"
    ]
    state = State.SHADOW
    for change in changes:
        words = f"{change['from']} -> {change['to']} ({change['cause']})"
        found.changes[words] += 1
        before, cause = State(change["from"]), Cause(change["cause"])
        if before is not state or TRANSITIONS.get((before, cause)) != change["to"]:
            found.wrong.append(f"cycle {change['cycle']}: {words} from {state.value}")
        state = State(change["to"])
    _endings(found, trace, modes, changes, happened)


def _endings(
    found: Findings,
    trace: TraceReader,
    modes: Sequence[str],
    changes: Sequence[Mapping[str, Any]],
    happened: Sequence[Happening],
) -> None:
    explained: set[int] = set()
    cycles, hard, left = trace.cycles, hard_cycles(trace), leaving_cycles(trace)
    for one in happened:
        during = [n for n, c in enumerate(changes) if one.first <= c["cycle"] <= one.last + GRACE]
        ours = _followed(changes, during)
        explained.update(ours)
        begins = int(np.searchsorted(cycles, one.first))
        settled = int(np.searchsorted(cycles, one.last + SETTLING))
        if begins == 0 or settled >= cycles.size or modes[begins - 1] != State.CLOSED_LOOP.value:
            found.faults[f"{one.kind}: not judged"] += 1
            continue
        causes = {changes[n]["cause"] for n in ours}
        ending = Ending.CLOSED
        if causes & {Cause.LADDER_ENDED.value, Cause.MISSED.value}:
            ending = Ending.HANDED_OVER
        elif causes:
            ending = Ending.RECOVERED
        found.faults[f"{one.kind}: {ending}"] += 1
        where = f"{one.kind} in cycles {one.first} to {one.last}"
        due = documented(one, hard[begins:], left[begins:])
        if ending is not due:
            found.wrong.append(f"{where} ended {ending}; documented is {due}")
        if not any(c["cycle"] > one.last + GRACE for n, c in enumerate(changes) if n not in ours):
            after = modes[settled]
            if after != State.CLOSED_LOOP.value:
                found.wrong.append(f"{where}: {after} {SETTLING} cycles later")
    for n, change in enumerate(changes):
        if _is_trouble(change) and n not in explained:
            found.faults["without a fault: trouble"] += 1
            found.wrong.append(
                f"cycle {change['cycle']}: trouble without a fault: {change['detail']}"
            )


def _followed(changes: Sequence[Mapping[str, Any]], during: Sequence[int]) -> list[int]:
    """Return the changes from the trouble that began during a fault until the loop is closed again."""
    troubles = [n for n in during if _is_trouble(changes[n])]
    if not troubles:
        return []
    ours = []
    for n in range(troubles[0], len(changes)):
        if _is_trouble(changes[n]) and n not in troubles:
            break
        ours.append(n)
        if changes[n]["to"] == State.CLOSED_LOOP.value and n >= troubles[-1]:
            break
    return ours


def _is_trouble(change: Mapping[str, Any]) -> bool:
    """Whether a change left the policy, or the loop, for what a fault does, not for a busy computer."""
    cause = change["cause"]
    missed = cause == Cause.MISSED.value and repr(NOT_PLAYED) in str(change["detail"])
    return bool(cause == Cause.TROUBLE.value or missed)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
