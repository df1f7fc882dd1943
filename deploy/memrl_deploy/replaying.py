"""Replay: the policy runs again over the recorded readings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.trace import CycleRecord, PolicyStep, TraceReader, environment_fingerprint
from memrl_deploy.guard import Guard, GuardConfig, usable_points
from memrl_deploy.inference import Inference

GUARD_KEY = "guard"
"""Key of the guard's settings in a trace's configuration."""


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
    different_functions: int = 0
    """Cycles in which the guard let through another function than recorded."""
    resumed: int = 0
    """Times that the memory was taken from the record because cycles before it are lost."""
    environment: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What differs between the recording machine and this one: (there, here)."""

    @property
    def identical(self) -> bool:
        """Whether every action, and what the guard made of it, is the same to the bit."""
        return self.different == 0 and self.different_functions == 0


def ulp_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many float32 numbers lie between; NaN against NaN of the same bits is 0."""

    def ordered(values: NDArray[np.float32]) -> NDArray[np.int64]:
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(2**31) - bits, bits)

    return np.asarray(np.abs(ordered(a) - ordered(b)), dtype=np.int64)


def replay_trace(trace: TraceReader, policy: OnnxPolicy | None = None) -> ReplayResult:
    """Run a policy over a trace, cycle by cycle, with the memory that it builds up itself.

    Args:
        trace: the recorded run.
        policy: another policy, asked in open loop (its actions do not move the machine); None takes
            the recorded one from the trace.

    Raises:
        TraceError: the trace holds no policy, or no cycles in which one was asked.
        MismatchError: the policy does not fit the recorded machine.
        PolicyError: the recorded policy file is damaged.
    """
    header = trace.header
    if policy is None:
        if header.policy is None:
            raise TraceError(trace.path, "holds no policy file; give it with --policy")
        policy = OnnxPolicy.load(header.policy)
        policy.path = f"{trace.path} (its policy)"
    here = environment_fingerprint()
    result = ReplayResult(
        policy_name=policy.manifest.name,
        own_policy=policy.digest == header.policy_sha256,
        environment={
            key: (header.fingerprint.get(key, "?"), here.get(key, "?"))
            for key in sorted(set(header.fingerprint) | set(here))
            if header.fingerprint.get(key) != here.get(key)
        },
    )
    inference = Inference(policy, header.machine)
    settings = header.configuration.get(GUARD_KEY, {})
    guard = Guard(
        header.limits,
        header.machine.ctime_ms,
        policy.manifest.max_step_rad,
        GuardConfig(**settings) if isinstance(settings, dict) else None,
    )
    before: PolicyStep | None = None
    for record in trace:
        if record.policy is None:
            continue
        lost = bool(trace.damage) and result.own_policy and not _continues(before, record.policy)
        _compare(result, inference, guard, record, resume=lost)
        before = record.policy
    if not result.cycles:
        raise TraceError(trace.path, "no cycle in it asked a policy: there is nothing to replay")
    return result


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
    usable = usable_points(reading)
    seen = inference.observe(reading, usable)
    if resume:
        result.resumed += 1
        inference.policy.memory = dict(recorded.memory_in)
        inference.note_applied(reading.applied_rad, usable)
        step = inference.ask(seen, recorded.previous_applied, usable)
    else:
        step = inference.step(seen, reading.applied_rad, usable)
    result.cycles += 1
    distance = ulp_distance(step.action, recorded.action)[:, 0]
    result.actions += distance.size
    result.different += int((distance > 0).sum())
    if distance.max() > result.largest_ulp:
        point = int(distance.argmax())
        result.largest_ulp = int(distance[point])
        result.where = (record.cycle, point)
    difference = np.abs(step.action.astype(np.float64) - recorded.action.astype(np.float64))
    result.largest_rad = max(result.largest_rad, float(np.nanmax(difference, initial=0.0)))
    decision = guard.decide(step.action[:, 0].astype(np.float64), reading.applied_rad, usable)
    told = record.measures.get("recommended_rad")
    if told is not None and not _same_bits(decision.phi_hw_rad, np.asarray(told)):
        result.different_functions += 1
