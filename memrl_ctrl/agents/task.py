"""What an agent must know of a task: sizes, units and ranges of observation and action."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.policy.manifest import ActionSpec, ObservationSpec

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """Observation and action of a task, as the exported policy sees them.

    Inside an agent an action is a *unit action* in [-1, 1]; `action_low` and `action_high` are what
    -1 and 1 mean outside.
    """

    environment: str
    """Gymnasium's name of the environment."""
    kind: Literal["beam-phase", "task"]
    """`beam-phase`: the action is a change of phi_hw in rad; `task`: the environment's own."""
    n_observation: int
    """Length of the observation vector."""
    action_low: tuple[float, ...]
    """Smallest action [n_action]; rad for `beam-phase`."""
    action_high: tuple[float, ...]
    """Largest action [n_action]; rad for `beam-phase`."""
    n_truth: int = 0
    """Length of the environment's privileged features; 0 where it has none."""
    n_slices: int = 0
    """For `beam-phase`: bins of the profile within the observation."""

    def __post_init__(self) -> None:
        """Refuse a task that no policy could act in."""
        low, high = np.asarray(self.action_low), np.asarray(self.action_high)
        if self.n_observation < 1 or low.size < 1 or low.shape != high.shape:
            raise ValueError("a task needs an observation and matching action limits")
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise ValueError(f"action limits must be finite and increasing, not {low} to {high}")

    @property
    def n_action(self) -> int:
        """Length of the action vector."""
        return len(self.action_low)

    @property
    def centre(self) -> FloatArray:
        """Action in the middle of the range [n_action]."""
        middle = 0.5 * (np.asarray(self.action_low) + np.asarray(self.action_high))
        return np.asarray(middle, dtype=np.float32)

    @property
    def half_range(self) -> FloatArray:
        """Half the width of the range [n_action]."""
        half = 0.5 * (np.asarray(self.action_high) - np.asarray(self.action_low))
        rounded = np.asarray(half, dtype=np.float32)
        # Rounded towards zero: an action of 1 must not go beyond the limit by a rounding error.
        lower = np.nextafter(rounded, np.float32(0.0))
        return np.where(rounded.astype(np.float64) > half, lower, rounded)

    @property
    def max_step_rad(self) -> float:
        """Largest change of phi_hw in one cycle, rad; 0 for other tasks."""
        return self.action_high[0] if self.kind == "beam-phase" else 0.0

    def to_unit(self, applied: FloatArray) -> FloatArray:
        """From applied actions [..., n_action] to unit actions."""
        return (applied - self.centre) / self.half_range

    def to_environment(self, unit: FloatArray) -> FloatArray:
        """From unit actions [..., n_action] to what the environment's `step` takes.

        The beam environment takes unit actions; others take their own range.
        """
        if self.kind == "beam-phase":
            return unit
        return self.centre + self.half_range * unit

    def observation_spec(self) -> ObservationSpec:
        """Return the manifest's part about the observation."""
        return ObservationSpec(kind=self.kind, shape=(self.n_observation,), n_slices=self.n_slices)

    def action_spec(self) -> ActionSpec:
        """Return the manifest's part about the action."""
        return ActionSpec(
            kind="delta-phi-rad" if self.kind == "beam-phase" else "task",
            shape=(self.n_action,),
            low=min(self.action_low),
            high=max(self.action_high),
        )


def beam_task(
    *,
    n_slices: int = 128,
    max_step_rad: float = math.pi / 2,
    n_truth: int = 0,
    environment: str = "memrl/BeamPhase-v0",
) -> TaskSpec:
    """Return the task of `memrl/BeamPhase-v0`.

    Args:
        n_slices: bins of the profile; the synchronous phase / pi follows them.
        max_step_rad: what the action 1 means, rad.
        n_truth: length of the environment's privileged features.
        environment: Gymnasium's name.
    """
    return TaskSpec(
        environment=environment,
        kind="beam-phase",
        n_observation=n_slices + 1,
        action_low=(-max_step_rad,),
        action_high=(max_step_rad,),
        n_truth=n_truth,
        n_slices=n_slices,
    )
