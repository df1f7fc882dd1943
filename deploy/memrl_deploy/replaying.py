"""Replay: the policy runs again over the recorded readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError, UsageError
from memrl_ctrl.trace import CycleRecord, PolicyStep, TraceReader, environment_fingerprint
from memrl_ctrl.trace.codec import MEMORY_IN, MEMORY_OUT
from memrl_deploy.asked import asked_again, inform
from memrl_deploy.classical import ClassicalReplay
from memrl_deploy.foreseeing import outlook_in
from memrl_deploy.guard import Guard, GuardConfig
from memrl_deploy.inference import Asked, Inference
from memrl_deploy.states import control_in

WORST_CYCLES = 10
"""Rows of the table of differences."""
ULP_CLASSES = (1, 4, 16, 256)
"""Upper bounds of the classes in which differences are counted, in units in the last place."""
GUARD_KEY = "guard"
"""Key of the guard's settings in a trace's configuration."""
EARLIER_SETTINGS = {"frozen_readings": 1}
"""Settings that earlier releases did not have, as they behaved: of a trace that has others and not these."""


@dataclass(frozen=True, kw_only=True)
class CycleDifference:
    """A cycle whose actions are not the same bits."""

    cycle: int
    points: int
    """Actions that differ."""
    largest_ulp: int
    largest_rad: float
    point: int
    """Where the largest difference is."""


@dataclass(kw_only=True)
class ReplayResult:
    """What a replay found. Differences count for the trace's own policy only."""

    policy_name: str
    own_policy: bool
    """Whether it is the policy that was recorded; another one is asked in open loop."""
    cycles: int = 0
    """Cycles in which the policy was asked."""
    actions: int = 0
    """Actions compared: cycles times points."""
    different: int = 0
    """Actions that are not the same bits."""
    largest_ulp: int = 0
    """Largest difference, in units in the last place of a float32."""
    largest_rad: float = 0.0
    """Largest difference, rad."""
    where: tuple[int, int] | None = None
    """Cycle and point of the largest difference."""
    worst: list[CycleDifference] = field(default_factory=list)
    """The cycles with the largest differences, the worst first."""
    ulp_counts: dict[str, int] = field(default_factory=dict)
    """Actions by class of their difference: `0`, `1`, `2 to 4`, ..., `more than 256` ULP."""
    different_functions: int = 0
    """Cycles in which the guard let through another function than recorded."""
    different_arrays: dict[str, int] = field(default_factory=dict)
    """What else went into the own policy or came out of it, and is not the same bits: name to cycles."""
    fallback_cycles: int = 0
    """Cycles that the fallback's classical controller led; a replay with another policy counts none."""
    different_fallback: int = 0
    """Those of them in which it leads elsewhere than recorded."""
    unknown_fallback: int = 0
    """Those of them whose controller is not installed here, or tuned otherwise."""
    resumed: int = 0
    """Times that the memory was taken from the record: where the replay begins later, and behind lost
    cycles."""
    skipped: int = 0
    """Cycles that could not be compared, because the memory before them is lost."""
    environment: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What differs between the recording machine and this one: (there, here)."""

    @property
    def identical(self) -> bool:
        """Whether all that went in and came out, and what the guard made of it, is the same to the bit."""
        return not (
            self.different
            or self.different_arrays
            or self.different_functions
            or self.different_fallback
        )


def ulp_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many float32 numbers lie between; NaN against NaN of the same bits is 0."""

    def ordered(values: NDArray[np.float32]) -> NDArray[np.int64]:
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(2**31) - bits, bits)

    return np.asarray(np.abs(ordered(a) - ordered(b)), dtype=np.int64)


def replay_trace(
    trace: TraceReader, policy: Asked | None = None, *, from_cycle: int | None = None
) -> ReplayResult:
    """Run a policy over a trace, cycle by cycle, with the memory that it builds up itself.

    Args:
        trace: the recorded run.
        policy: another policy, asked in open loop (its actions do not move the machine); None takes
            the recorded one from the trace.
        from_cycle: number of the first cycle that is replayed, with the memory that stands in it; None
            is the first of all.

    Raises:
        TraceError: the trace holds no policy, no cycles in which one was asked, or not that cycle.
        MismatchError: the policy does not fit the recorded machine.
        UsageError: another policy is to begin in the middle: its memory there is not recorded.
        PolicyError: the recorded policy file is damaged.
    """
    header = trace.header
    policy = recorded_policy(trace) if policy is None else policy
    own = policy.digest == header.policy_sha256
    if from_cycle is not None and not own:
        raise UsageError(
            f"{policy.path} is not the policy that was recorded: its memory at cycle {from_cycle} is "
            "not in the trace; leave out --from-cycle"
        )
    here = environment_fingerprint()
    result = ReplayResult(
        policy_name=policy.manifest.name,
        own_policy=own,
        environment={
            key: (header.fingerprint.get(key, "?"), here.get(key, "?"))
            for key in sorted(set(header.fingerprint) | set(here))
            if header.fingerprint.get(key) != here.get(key)
        },
    )
    inform(policy, header.machine)
    inference = Inference(policy, header.machine)
    guard = recorded_guard(trace, policy)
    begin = 0 if from_cycle is None else cycle_index(trace, from_cycle)
    before: PolicyStep | None = None
    classical = ClassicalReplay(header)
    for index, record in enumerate(trace):
        if record.policy is None:
            continue
        if own:
            classical.see(record, counted=index >= begin)
        if index < begin:
            _warm(trace, guard, record)
            continue
        _note_outlook(trace, guard, record)
        lost = own and before is None and index > 0 and from_cycle is not None
        lost |= own and bool(trace.damage) and not _continues(before, record.policy)
        guard.note_control(control_in(record.events, record.cycle, late=True))
        _compare(result, inference, guard, record, resume=lost)
        guard.note_control(control_in(record.events, record.cycle), record.reading.applied_rad)
        before = record.policy
    result.fallback_cycles, result.different_fallback, result.unknown_fallback = (
        classical.cycles,
        classical.different,
        classical.unknown,
    )
    if not result.cycles:
        raise TraceError(trace.path, "no cycle in it asked a policy: there is nothing to replay")
    return result


def recorded_policy(trace: TraceReader) -> Asked:
    """Return the policy or controller that a trace carries.

    Raises:
        TraceError: it carries none.
        PolicyError: it is damaged, or the controller is not here as it was.
    """
    if trace.header.policy is None:
        raise TraceError(trace.path, "holds no policy file; give it with --policy")
    return asked_again(trace.header.policy, f"{trace.path} (its policy)")


def recorded_guard(trace: TraceReader, policy: Asked) -> Guard:
    """Return a guard with the limits and the settings of the recorded run.

    Raises:
        TraceError: the settings are none that a guard of this release has.
    """
    header = trace.header
    settings = header.configuration.get(GUARD_KEY, {})
    if isinstance(settings, dict) and settings:
        settings = EARLIER_SETTINGS | settings
        known = {setting.name for setting in fields(GuardConfig)}
        if unknown := sorted(set(settings) - known):
            raise TraceError(
                trace.path,
                f"the guard's settings in it do not fit: this release has no {', '.join(unknown)}",
            )
    try:
        config = GuardConfig(**settings) if isinstance(settings, dict) else None
    except (TypeError, ValueError) as error:
        raise TraceError(trace.path, f"the guard's settings in it do not fit: {error}") from error
    return Guard(
        header.limits,
        header.machine.ctime_ms,
        policy.manifest.max_step_rad,
        config,
        policy.manifest.statistics,
    )


def cycle_index(trace: TraceReader, cycle: int) -> int:
    """Return the place of a cycle in a trace.

    Raises:
        TraceError: it is not there; says which are.
    """
    found = np.flatnonzero(trace.cycles == cycle)
    if not found.size:
        before, behind = trace.cycles[trace.cycles < cycle], trace.cycles[trace.cycles > cycle]
        if before.size and behind.size:
            lost = any(
                place.after_cycle == before[-1] and place.kind != "memory" for place in trace.damage
            )
            what = f"cycle {cycle} is lost" if lost else f"has no cycle {cycle}"
            raise TraceError(trace.path, f"{what}: it goes on from {before[-1]} to {behind[0]}")
        have = f"{trace.cycles[0]} to {trace.cycles[-1]}" if len(trace) else "none"
        raise TraceError(trace.path, f"has no cycle {cycle}; it holds {have}")
    return int(found[0])


def _warm(trace: TraceReader, guard: Guard, record: CycleRecord) -> None:
    """Show the guard a cycle that is not replayed: it remembers some of it."""
    if record.policy is not None:
        _note_outlook(trace, guard, record)
        delta = record.policy.action[:, 0].astype(np.float64)
        guard.note_control(control_in(record.events, record.cycle, late=True))
        guard.decide(delta, record.reading)
        guard.note_control(control_in(record.events, record.cycle), record.reading.applied_rad)


def _note_outlook(trace: TraceReader, guard: Guard, record: CycleRecord) -> None:
    """Give the guard the fit that came in this cycle.

    Raises:
        TraceError: it is damaged.
    """
    try:
        outlook = outlook_in(record.events, record.reading.applied_rad.size)
    except ValueError as error:
        raise TraceError(trace.path, f"cycle {record.cycle}: {error}") from error
    if outlook is not None:
        guard.note_outlook(outlook)


def _continues(before: PolicyStep | None, now: PolicyStep) -> bool:
    """Whether the memory that went in is the one that came out before."""
    if before is None:
        return False
    return all(
        _same_bits(going, coming)
        for going, coming in zip(before.memory_out.values(), now.memory_in.values(), strict=True)
    )


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@np.errstate(over="ignore", invalid="ignore")  # as in the loop
def _compare(
    result: ReplayResult,
    inference: Inference,
    guard: Guard,
    record: CycleRecord,
    *,
    resume: bool,
) -> None:
    recorded, reading = record.policy, record.reading
    if recorded is None:
        raise ValueError("the policy was not asked in this cycle")
    usable = guard.usable(reading)
    seen = inference.observe(reading, usable)
    if resume:
        result.resumed += 1
        inference.note_applied(reading.applied_rad, usable)
        if not _whole(recorded.memory_in):
            _go_on_behind(inference.policy, recorded)
            result.skipped += 1
            return
        inference.policy.memory = dict(recorded.memory_in)
        step = inference.ask(seen, recorded.previous_applied, usable)
    else:
        step = inference.step(seen, reading.applied_rad, usable)
    result.cycles += 1
    _note_difference(result, record.cycle, step, recorded)
    if result.own_policy:
        _note_arrays(result, step, recorded)
    decision = guard.decide(step.action[:, 0].astype(np.float64), reading, usable)
    told = record.measures.get("recommended_rad")
    if told is not None and not _same_bits(decision.phi_hw_rad, np.asarray(told)):
        result.different_functions += 1


def _note_arrays(result: ReplayResult, step: PolicyStep, recorded: PolicyStep) -> None:
    """Compare what went into the policy, and its memory afterwards, bit for bit."""
    again, held = _arrays(step), _arrays(recorded)
    for name in sorted({*again, *held}):
        if name not in again or name not in held or not _same_bits(again[name], held[name]):
            result.different_arrays[name] = result.different_arrays.get(name, 0) + 1


def _arrays(step: PolicyStep) -> dict[str, NDArray[Any]]:
    """Return the arrays of a call by the names of their columns, without the action."""
    return {
        "observation": step.observation,
        "previous_applied": step.previous_applied,
        **{MEMORY_IN + name: array for name, array in step.memory_in.items()},
        **{MEMORY_OUT + name: array for name, array in step.memory_out.items()},
    }


def _note_difference(
    result: ReplayResult, cycle: int, step: PolicyStep, recorded: PolicyStep
) -> None:
    """Compare a cycle's actions, bit for bit, and keep the worst."""
    distance = ulp_distance(step.action, recorded.action)[:, 0]
    different = int((distance > 0).sum())
    result.actions += distance.size
    result.different += different
    for ulp in distance.tolist():
        name = _ulp_class(ulp)
        result.ulp_counts[name] = result.ulp_counts.get(name, 0) + 1
    difference = np.abs(step.action.astype(np.float64) - recorded.action.astype(np.float64))
    largest_rad = float(np.nanmax(difference, initial=0.0))
    result.largest_rad = max(result.largest_rad, largest_rad)
    if not different:
        return
    point = int(distance.argmax())
    found = CycleDifference(
        cycle=cycle,
        points=different,
        largest_ulp=int(distance[point]),
        largest_rad=largest_rad,
        point=point,
    )
    worst = sorted([*result.worst, found], key=lambda one: -one.largest_ulp)
    result.worst = worst[:WORST_CYCLES]
    result.largest_ulp = worst[0].largest_ulp
    result.where = (worst[0].cycle, worst[0].point)


def _ulp_class(ulp: int) -> str:
    low = 0
    for high in ULP_CLASSES:
        if ulp == 0 or ulp <= high:
            return "0" if ulp == 0 else (f"{high}" if high == low + 1 else f"{low + 1} to {high}")
        low = high
    return f"more than {low}"


def _whole(memory: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a memory is there: one that was lost with the cycle before is NaN throughout."""
    return all(not np.isnan(array).all() for array in memory.values() if array.dtype.kind == "f")


def _go_on_behind(policy: Asked, recorded: PolicyStep) -> None:
    """Give a policy the memory that came out of a cycle."""
    policy.memory = {
        spec.name_in: recorded.memory_out[spec.name_out] for spec in policy.manifest.memory
    }
