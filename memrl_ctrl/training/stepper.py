"""Vector environments as training and evaluation see them, whatever their autoreset mode.

Gymnasium's vector environments restart episodes in three ways. `Stepper` turns each into the same
answer: what really followed the action, and what to act on next. It also keeps what is needed to bring
environments back to where they were, so that an interrupted training goes on exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.errors import MismatchError
from memrl_ctrl.training.past import past_of

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
ArrayT = TypeVar("ArrayT", bound=NDArray[Any])


@dataclass(frozen=True, kw_only=True)
class Start:
    """The beginning of episodes in all rows."""

    observation: Array
    """[rows, n_observation]."""
    truth: Array | None
    """Privileged features [rows, n_truth]; None where the environment has none."""
    phase_error_rad: NDArray[np.float64] | None
    """[rows], NaN where there is no reference; None where the environment has none."""
    allowed: Array | None
    """1 where a choice may be made [rows, n_action] (the info `action_mask`); None for all."""


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
    allowed: Array | None
    """1 where a choice may be made there; None for all."""


class Stepper:
    """Steps a vector environment with unit actions, and sorts out its restarts.

    Where it begins the episodes itself, each beginning gets a seed of its own: an episode is then known
    from its seed and its actions (see `memrl_ctrl.training.past`).

    Args:
        env: any Gymnasium vector environment with Box spaces.
        task: its description.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], task: TaskSpec) -> None:
        self.env, self.task = env, task
        self.mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._restarts = np.zeros(env.num_envs, dtype=np.bool_)
        self._past = past_of(env) if self.mode is AutoresetMode.DISABLED else None

    def reset(self, seed: int | None = None) -> Start:
        """Begin episodes in all rows."""
        self._restarts[:] = False
        seeds: Any = seed if self._past is None else self._past.begin(seed)
        observation, infos = self.env.reset(seed=seeds)
        return Start(
            observation=self._rows(observation),
            truth=_feature(infos, "privileged"),
            phase_error_rad=_error(infos),
            allowed=_feature(infos, "action_mask"),
        )

    def step(self, unit: Array) -> Step:
        """Act once in all rows.

        Args:
            unit: unit actions [rows, n_action].

        Raises:
            MismatchError: a reward or observation is not finite.
        """
        action = self.task.to_environment(unit)
        if self._past is not None:
            self._past.note(action)
        observation, reward, terminated, truncated, infos = self.env.step(action)
        observation = self._rows(observation)
        terminated = np.asarray(terminated, dtype=np.bool_)
        valid = ~self._restarts
        ended = (terminated | np.asarray(truncated, dtype=np.bool_)) & valid
        old: Mapping[str, Any] = infos
        present: Mapping[str, Any] = infos
        started, followed = self._restarts.copy(), observation
        if self.mode is AutoresetMode.SAME_STEP and ended.any():
            followed = observation.copy()
            followed[ended] = _stacked(infos["final_obs"], ended)
            old, started = infos.get("final_info", {}), ended
        elif self.mode is AutoresetMode.DISABLED and ended.any():
            observation, present = self._begin(ended)
            started = ended
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
            allowed=_feature(present, "action_mask"),
        )

    def state(self) -> dict[str, Any] | None:
        """Return arrays and plain values from which `restore` brings the environments back.

        None where their episodes are not known from seeds and actions.
        """
        return None if self._past is None else self._past.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring the environments to where they were when `state` was returned.

        Raises:
            MismatchError: the state is of other environments than these.
        """
        if self._past is None:
            raise MismatchError(
                f"environment {self.task.environment!r} cannot be brought back to where it was"
            )
        self._past.restore(state)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _begin(self, mask: Mask) -> tuple[Array, Mapping[str, Any]]:
        """Begin episodes in some rows of an environment that leaves it to the caller."""
        seeds: Any = None if self._past is None else self._past.begin_again(mask)
        observation, infos = self.env.reset(seed=seeds, options={"reset_mask": mask.copy()})
        return self._rows(observation), infos

    def _default_applied(self, unit: Array) -> Array:
        """Where the environment does not say what it applied, it applied the action."""
        return np.asarray(self.task.centre + self.task.half_range * unit, dtype=np.float32)

    def _rows(self, observation: Any) -> Array:
        rows = np.array(observation, dtype=np.float32)
        return rows.reshape(rows.shape[0], -1)


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
        return np.asarray(final[ended], dtype=np.float32).reshape(int(ended.sum()), -1)
    rows = [np.asarray(final[i], dtype=np.float32).ravel() for i in np.flatnonzero(ended)]
    return np.stack(rows)
