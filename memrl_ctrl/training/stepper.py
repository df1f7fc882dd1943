"""Vector environments as training and evaluation see them, whatever their autoreset mode.

Gymnasium's vector environments restart episodes in three ways. `Stepper` turns each into the same
answer: what really followed the action, and what to act on next. It also keeps what is needed to bring
environments back to where they were, so that an interrupted training goes on exactly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.errors import MismatchError

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
ArrayT = TypeVar("ArrayT", bound=NDArray[Any])


@runtime_checkable
class Restorable(Protocol):
    """An environment that can be brought back to where it was."""

    def state(self) -> dict[str, Any]:
        """Return arrays and plain values that its future depends on."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        ...


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

    Where the rows are environments of their own, every episode gets a seed of its own, made from the
    run's seed, its row and its number: an episode is then known from its seed and its actions.

    Args:
        env: any Gymnasium vector environment with Box spaces.
        task: its description.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], task: TaskSpec) -> None:
        self.env, self.task = env, task
        self.mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._restarts = np.zeros(env.num_envs, dtype=np.bool_)
        plain = env.unwrapped
        self._rows_of_their_own = (
            plain
            if isinstance(plain, SyncVectorEnv) and self.mode is AutoresetMode.DISABLED
            else None
        )
        self._seed: int | None = None
        self._episode = np.zeros(env.num_envs, dtype=np.int64)
        # Actions since the oldest episode that is still played began, and where each one began.
        self._played: deque[NDArray[Any]] = deque()
        self._first_played = 0
        self._began = np.zeros(env.num_envs, dtype=np.int64)

    def reset(self, seed: int | None = None) -> Start:
        """Begin episodes in all rows."""
        self._seed = seed
        self._episode[:] = 0
        self._played.clear()
        self._first_played = 0
        self._began[:] = 0
        self._restarts[:] = False
        seeds: Any = seed if self._rows_of_their_own is None else self._seeds()
        observation, infos = self.env.reset(seed=seeds)
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
        self._remember(action)
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
        )

    def state(self) -> dict[str, Any] | None:
        """Return arrays and plain values from which `restore` brings the environments back.

        None where neither the environments can do it themselves nor their episodes are known from
        seeds and actions.
        """
        plain = self.env.unwrapped
        if isinstance(plain, Restorable):
            return {"own": plain.state(), "restarts": self._restarts.copy()}
        if self._rows_of_their_own is None or self._seed is None:
            return None
        return {
            "seed": self._seed,
            "episode": self._episode.copy(),
            "began": self._began - self._first_played,
            "played": np.array(self._played),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring the environments to where they were when `state` was returned.

        Raises:
            MismatchError: the state is of other environments than these.
        """
        plain, rows = self.env.unwrapped, self._rows_of_their_own
        if isinstance(plain, Restorable) and "own" in state:
            plain.restore(state["own"])
            self._restarts[:] = state["restarts"]
            return
        if rows is None or "played" not in state:
            raise MismatchError(
                f"environment {self.task.environment!r} cannot be brought back to where it was"
            )
        self._seed = int(state["seed"])
        self._episode[:], self._began[:] = state["episode"], state["began"]
        self._first_played = 0
        self._played = deque(np.array(state["played"]))
        for row, (env, seed) in enumerate(zip(rows.envs, self._seeds(), strict=True)):
            if self._episode[row]:
                # An environment's first reset may differ from its later ones in the last digits.
                env.reset(seed=seed)
            env.reset(seed=seed)
            for action in state["played"][int(self._began[row]) :]:
                env.step(action[row])

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _begin(self, mask: Mask) -> tuple[Array, Mapping[str, Any]]:
        """Begin episodes in some rows of an environment that leaves it to the caller."""
        self._episode += mask
        self._began[mask] = self._first_played + len(self._played)
        options = {"reset_mask": mask}
        seeds: Any = None if self._rows_of_their_own is None else self._seeds()
        observation, infos = self.env.reset(seed=seeds, options=options)
        while self._first_played < self._began.min():
            self._played.popleft()
            self._first_played += 1
        return self._rows(observation), infos

    def _seeds(self) -> list[int | None]:
        """Return the seed of each row's episode."""
        if self._seed is None:
            return [None] * self.env.num_envs
        words = (
            np.random.SeedSequence([self._seed, row, int(episode)]).generate_state(1)[0]
            for row, episode in enumerate(self._episode)
        )
        return [int(word) & (2**31 - 1) for word in words]

    def _remember(self, action: NDArray[Any]) -> None:
        if self._rows_of_their_own is not None and self._seed is not None:
            self._played.append(np.array(action))

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
