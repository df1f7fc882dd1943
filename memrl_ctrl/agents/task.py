"""What an agent must know of a task: sizes, units and ranges of observation and action."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.policy.manifest import ActionSpec, ObservationSpec

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """Observation and action of a task, as the exported policy sees them.

    Inside an agent an action is a *unit action*: for continuous tasks in [-1, 1], where `action_low`
    and `action_high` are what -1 and 1 mean outside; for tasks with `choices` a vector with a 1 for
    each choice that is made.
    """

    environment: str
    """Gymnasium's name of the environment."""
    kind: Literal["beam-phase", "task"]
    """`beam-phase`: the action is a change of phi_hw in rad; `task`: the environment's own."""
    n_observation: int
    """Length of the observation vector."""
    action_low: tuple[float, ...] = ()
    """Smallest action [n_action]; rad for `beam-phase`."""
    action_high: tuple[float, ...] = ()
    """Largest action [n_action]; rad for `beam-phase`."""
    choices: tuple[int, ...] = ()
    """For discrete actions: how many choices each of them has."""
    observation_shape: tuple[int, ...] = ()
    """Shape of the observation where it is no vector, for example (7, 7, 3); agents see it flat."""
    single_choice: bool = True
    """Whether the environment takes a single choice as a number instead of a vector of one."""
    n_truth: int = 0
    """Length of the environment's privileged features; 0 where it has none."""
    n_slices: int = 0
    """For `beam-phase`: bins of the profile within the observation."""
    masked: bool = False
    """Whether the environment says which choices may be made (the info `action_mask`)."""
    meaning: dict[str, Any] = field(default_factory=dict, compare=False)
    """What the observation's numbers are, where the environment says it (its `observation_meaning`)."""
    action_names: tuple[str, ...] = field(default=(), compare=False)
    """Names of the choices, where the environment says them (its `action_names`)."""

    def __post_init__(self) -> None:
        """Refuse a task that no policy could act in."""
        shape = self.observation_shape
        if shape and math.prod(shape) != self.n_observation:
            raise ValueError(f"an observation of shape {shape} has no {self.n_observation} values")
        if self.choices:
            if (
                min(self.choices) < 1
                or self.action_low
                or self.action_high
                or self.n_observation < 1
            ):
                raise ValueError(f"choices must be positive and without limits, not {self.choices}")
            return
        low, high = np.asarray(self.action_low), np.asarray(self.action_high)
        if self.n_observation < 1 or low.size < 1 or low.shape != high.shape:
            raise ValueError("a task needs an observation and matching action limits")
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise ValueError(f"action limits must be finite and increasing, not {low} to {high}")

    @property
    def n_action(self) -> int:
        """Length of the unit action."""
        return sum(self.choices) or len(self.action_low)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the observation."""
        return self.observation_shape or (self.n_observation,)

    @property
    def centre(self) -> FloatArray:
        """Action in the middle of the range [n_action]; 0 for choices."""
        if self.choices:
            return np.zeros(self.n_action, dtype=np.float32)
        middle = 0.5 * (np.asarray(self.action_low) + np.asarray(self.action_high))
        return np.asarray(middle, dtype=np.float32)

    @property
    def half_range(self) -> FloatArray:
        """Half the width of the range [n_action]; 1 for choices."""
        if self.choices:
            return np.ones(self.n_action, dtype=np.float32)
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

    def unit_of(self, action: NDArray[Any]) -> FloatArray:
        """From a policy's actions [rows, ...] to unit actions [rows, n_action], within the range."""
        if not self.choices:
            unit: FloatArray = np.clip(self.to_unit(action.astype(np.float32)), -1.0, 1.0)
            return unit
        parts = [
            np.arange(count) == action[:, number : number + 1]
            for number, count in enumerate(self.choices)
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def seen_as_previous(self, applied: FloatArray) -> FloatArray:
        """From what was applied [rows, n_action] to what a policy is told of it.

        For choices 1 + the choice that was made [rows, choices], so that 0 is nothing.
        """
        if not self.choices:
            return applied
        ends = np.cumsum(self.choices)
        parts = np.split(applied, ends[:-1], axis=-1)
        chosen = [np.where(part.any(axis=-1), 1 + part.argmax(axis=-1), 0) for part in parts]
        return np.stack(chosen, axis=-1).astype(np.float32)

    def to_environment(self, unit: FloatArray) -> NDArray[Any]:
        """From unit actions [rows, n_action] to what the environment's `step` takes.

        The beam environment takes unit actions; others take their own range; choices are numbers
        from 0, [rows] or for several [rows, choices].
        """
        if self.kind == "beam-phase":
            return unit
        if self.choices:
            ends = np.cumsum(self.choices)
            parts = np.split(unit, ends[:-1], axis=-1)
            chosen = np.stack([part.argmax(axis=-1) for part in parts], axis=-1)
            return chosen[..., 0] if self.single_choice else chosen
        return self.centre + self.half_range * unit

    def observation_spec(self) -> ObservationSpec:
        """Return the manifest's part about the observation."""
        return ObservationSpec(
            kind=self.kind, shape=self.shape, n_slices=self.n_slices, meaning=self.meaning
        )

    def action_spec(self) -> ActionSpec:
        """Return the manifest's part about the action."""
        if self.choices:
            return ActionSpec(
                kind="task",
                shape=(len(self.choices),),
                low=0.0,
                high=float(max(self.choices) - 1),
                choices=self.choices,
                names=tuple(self.action_names),
                single=self.single_choice,
                allowed_name="allowed" if self.masked else "",
            )
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
