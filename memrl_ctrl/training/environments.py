"""Vector environments as training and evaluation see them, whatever their autoreset mode.

Gymnasium's vector environments restart episodes in three ways. `Stepper` turns each into the same
answer: what really followed the action, and what to act on next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.errors import MemrlError, MismatchError, UnknownNameError, UsageError
from memrl_ctrl.tasks import recall

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
ArrayT = TypeVar("ArrayT", bound=NDArray[Any])


def make_environment(
    name: str, num_envs: int, options: Mapping[str, Any]
) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment: the task's own vector version where it has one.

    Args:
        name: Gymnasium's name.
        num_envs: environments that step together.
        options: the environment's keyword arguments.

    Raises:
        UnknownNameError: no environment of that name.
        UsageError: it cannot be made with these options.
    """
    recall.register()
    if name not in gymnasium.registry:
        raise UnknownNameError("environment", name, gymnasium.registry)
    kwargs = dict(options)
    own = gymnasium.registry[name].vector_entry_point is not None
    try:
        if own:
            return gymnasium.make_vec(
                name, num_envs, vectorization_mode="vector_entry_point", **kwargs
            )
        same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
        return gymnasium.make_vec(
            name, num_envs, vectorization_mode="sync", vector_kwargs=same_step, **kwargs
        )
    except MemrlError:
        raise
    except TypeError as error:
        raise UsageError(f"environment {name!r} cannot be made so: {error}") from error


def task_of(name: str, env: VectorEnv[Any, Any, Any]) -> TaskSpec:
    """Describe an environment as a policy sees it.

    Raises:
        UsageError: its spaces are not vectors of finite range.
    """
    seen, acts = env.single_observation_space, env.single_action_space
    if not isinstance(seen, Box) or len(seen.shape) != 1:
        raise UsageError(
            f"environment {name!r} has observation space {seen}; needed is a Box with one dimension "
            "(gymnasium.wrappers.FlattenObservation makes one)"
        )
    if not isinstance(acts, Box) or len(acts.shape) != 1 or not acts.is_bounded("both"):
        raise UsageError(
            f"environment {name!r} has action space {acts}; "
            "needed is a Box with one dimension and finite limits"
        )
    max_step_rad = getattr(env, "max_step_rad", None)
    if max_step_rad is not None:
        return beam_task(
            n_slices=seen.shape[0] - 1,
            max_step_rad=float(max_step_rad),
            environment=name,
        )
    return TaskSpec(
        environment=name,
        kind="task",
        n_observation=seen.shape[0],
        action_low=tuple(float(v) for v in acts.low),
        action_high=tuple(float(v) for v in acts.high),
    )


@dataclass(frozen=True, kw_only=True)
class Start:
    """The beginning of episodes in all rows."""

    observation: Array
    """[rows, n_observation]."""
    truth: Array | None
    """Privileged features [rows, n_truth]; None where the environment has none."""
    phase_error_rad: NDArray[np.float64] | None
    """[rows], NaN where there is no reference; None where the environment has none."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one call of the environments brought; arrays [rows, ...]."""

    valid: Mask
    """Rows that acted; false where the environment used the call to restart."""
    reward: Array
    """What the action earned."""
    terminated: Mask
    """Whether the task ended: nothing follows."""
    ended: Mask
    """Whether the episode ended, by the task or by its time limit."""
    applied: Array
    """What was really applied [rows, n_action], in the task's unit (rad for the beam)."""
    followed: Array
    """Observation that followed the action, the final one at an end [rows, n_observation]."""
    followed_truth: Array | None
    """Privileged features that belong to it."""
    phase_error_rad: NDArray[np.float64] | None
    """Phase error after the action."""
    started: Mask
    """Rows in which a new episode begins with `observation`."""
    observation: Array
    """What to act on next [rows, n_observation]."""
    truth: Array | None
    """Privileged features that belong to it."""


class Stepper:
    """Steps a vector environment with unit actions, and sorts out its restarts.

    Args:
        env: any Gymnasium vector environment with Box spaces.
        task: its description.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], task: TaskSpec) -> None:
        self.env, self.task = env, task
        self.mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._restarts = np.zeros(env.num_envs, dtype=np.bool_)

    def reset(self, seed: int | None = None) -> Start:
        """Begin episodes in all rows."""
        observation, infos = self.env.reset(seed=seed)
        self._restarts[:] = False
        return Start(
            observation=self._rows(observation),
            truth=_feature(infos, "privileged"),
            phase_error_rad=_error(infos),
        )

    def step(self, unit: Array) -> Step:
        """Act once in all rows.

        Args:
            unit: unit actions [rows, n_action].

        Raises:
            MismatchError: a reward or observation is not finite.
        """
        action = self.task.to_environment(unit)
        observation, reward, terminated, truncated, infos = self.env.step(action)
        observation = self._rows(observation)
        terminated = np.asarray(terminated, dtype=np.bool_)
        valid = ~self._restarts
        ended = (terminated | np.asarray(truncated, dtype=np.bool_)) & valid
        old, started, followed, present = infos, self._restarts.copy(), observation, infos
        if self.mode is AutoresetMode.SAME_STEP and ended.any():
            followed = observation.copy()
            followed[ended] = _stacked(infos["final_obs"], ended)
            old, started = infos.get("final_info", {}), ended
        elif self.mode is AutoresetMode.DISABLED and ended.any():
            observation, present = self.env.reset(options={"reset_mask": ended})
            observation, started = self._rows(observation), ended
        if self.mode is AutoresetMode.NEXT_STEP:
            self._restarts = ended
        if not (np.isfinite(reward).all() and np.isfinite(followed).all()):
            raise MismatchError(
                f"environment {self.task.environment!r} gave a reward or an observation that is not "
                "finite; nothing can be learnt from it"
            )
        applied = _merged(_feature(infos, "applied"), _feature(old, "applied"), ended)
        return Step(
            valid=valid,
            reward=np.asarray(reward, dtype=np.float32),
            terminated=terminated & valid,
            ended=ended,
            applied=self._default_applied(unit) if applied is None else applied,
            followed=followed,
            followed_truth=_merged(
                _feature(infos, "privileged"), _feature(old, "privileged"), ended
            ),
            phase_error_rad=_merged(_error(infos), _error(old), ended),
            started=started,
            observation=observation,
            truth=_feature(present, "privileged"),
        )

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _default_applied(self, unit: Array) -> Array:
        """Where the environment does not say what it applied, it applied the action."""
        return np.asarray(self.task.centre + self.task.half_range * unit, dtype=np.float32)

    def _rows(self, observation: Any) -> Array:
        return np.array(observation, dtype=np.float32)


def _feature(infos: Mapping[str, Any], name: str) -> Array | None:
    """Return an info [rows, n] as float32; None where it is absent."""
    if name not in infos:
        return None
    array = np.asarray(infos[name], dtype=np.float32)
    return array.reshape(array.shape[0], -1)


def _error(infos: Mapping[str, Any]) -> NDArray[np.float64] | None:
    if "phase_error_rad" not in infos:
        return None
    return np.array(infos["phase_error_rad"], dtype=np.float64)


def _merged(now: ArrayT | None, old: ArrayT | None, ended: Mask) -> ArrayT | None:
    """Return infos of the episodes that acted: at an end those of the old one."""
    if now is None or old is None or not ended.any() or now is old:
        return now if now is not None else old
    result = now.copy()
    result[ended] = old[ended]
    return result


def _stacked(final: Any, ended: Mask) -> Array:
    """Return the final observations of the rows that ended; Gymnasium may give them as objects."""
    if isinstance(final, np.ndarray) and final.dtype != object:
        return np.asarray(final[ended], dtype=np.float32)
    return np.stack([np.asarray(final[i], dtype=np.float32) for i in np.flatnonzero(ended)])
