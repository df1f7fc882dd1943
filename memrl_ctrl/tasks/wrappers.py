"""Gymnasium wrappers that change what a policy sees, for any environment with a Box of one dimension.

    env = PomdpWrapper(gymnasium.make("Pendulum-v1"), "remove_velocity_and_flickering")
    env = WindowObservation(env, length=5)

Randomness comes from the environment's own generator (`np_random`, seeded by `reset`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from memrl_ctrl.errors import UsageError
from memrl_ctrl.tasks.pomdp import Degradation

Vector = NDArray[np.float32]
Rows = NDArray[np.float32]


class PomdpWrapper(
    gymnasium.ObservationWrapper[Vector, Any, Vector],
    RecordConstructorArgs,
):
    """Shows an observation as sensors that fail, or that are not there, would.

    Args:
        env: observation: a Box of one dimension.
        kind: see `Degradation.of`.
        velocity_indices: where the velocities are, for a task that is not known by its name.
        parameters: `flicker_probability`, `noise_sigma`, `missing_probability`.

    Raises:
        UsageError: it cannot be done with this environment.
    """

    def __init__(
        self,
        env: gymnasium.Env[Vector, Any],
        kind: str,
        *,
        velocity_indices: Sequence[int] | None = None,
        **parameters: float,
    ) -> None:
        recorded: dict[str, Any] = {
            "kind": kind,
            "velocity_indices": velocity_indices,
            **parameters,
        }
        RecordConstructorArgs.__init__(self, **recorded)
        gymnasium.ObservationWrapper.__init__(self, env)
        seen = _box(env.observation_space, kind)
        self.degradation = Degradation.of(
            kind,
            size=seen.shape[0],
            task="" if env.spec is None else env.spec.id,
            velocity_indices=velocity_indices,
            **parameters,
        )
        self.observation_space = _space_of(seen, self.degradation)
        self.whole: Vector = np.zeros(seen.shape, dtype=np.float32)
        """The last observation as it was, which nobody who plays sees [n]."""

    def observation(self, observation: Vector) -> Vector:
        """Return what is seen [n_kept]."""
        rows = np.asarray(observation, dtype=np.float32)[None]
        self.whole = rows[0]
        return np.asarray(self.degradation(rows, self.np_random)[0], dtype=np.float32)


class PomdpVectorWrapper(VectorWrapper[Rows, Any, Rows, Any, Any]):
    """`PomdpWrapper` for an environment that plays all its rows in one call.

    Args:
        env: single observation: a Box of one dimension.
        degradation: what is done to the observations.

    Raises:
        UsageError: its rows are environments of their own, with generators of their own.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], degradation: Degradation) -> None:
        if isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            raise UsageError(
                "the rows of this vector environment are environments of their own: put a PomdpWrapper "
                "around each, for example with gymnasium.make_vec(..., wrappers=[...])"
            )
        super().__init__(env)
        self.degradation = degradation
        self._seen: Rows | None = None
        self.single_observation_space = _space_of(
            _box(env.single_observation_space, degradation.kind), degradation
        )
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Rows, dict[str, Any]]:
        """Begin episodes; rows that go on (`options["reset_mask"]`) show what they showed."""
        observation, infos = self.env.reset(seed=seed, options=options)
        seen = self._degraded(observation)
        mask = (options or {}).get("reset_mask")
        if mask is not None and self._seen is not None:
            seen = np.where(np.asarray(mask, dtype=np.bool_)[:, None], seen, self._seen)
        self._seen = seen
        return seen, infos

    def step(self, actions: Any) -> tuple[Rows, Any, Any, Any, dict[str, Any]]:
        """Play one step in every row."""
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        seen = self._degraded(observation)
        if "final_obs" in infos:
            infos = {**infos, "final_obs": self._degraded(infos["final_obs"])}
        self._seen = seen
        return seen, reward, terminated, truncated, infos

    def _degraded(self, observation: Any) -> Rows:
        rows = np.asarray(observation, dtype=np.float32)
        return np.asarray(self.degradation(rows, self.np_random), dtype=np.float32)


class WindowObservation(gymnasium.Wrapper[Vector, Vector, Vector, Vector], RecordConstructorArgs):
    """Shows the last observations and actions beside the present observation, as one vector.

    It gives a policy without memory a window of fixed length: `TD3 with observation window` of Meng et al.
    2021. Order: the oldest observation and the action that followed it first, the present observation last;
    zeros before the beginning of the episode. Actions are scaled to [-1, 1].

    Args:
        env: observation a Box of one dimension, action a Box of one dimension with finite limits.
        length: steps before the present one.

    Raises:
        UsageError: the spaces are others, or the length is no number of steps.
    """

    def __init__(self, env: gymnasium.Env[Vector, Vector], length: int) -> None:
        RecordConstructorArgs.__init__(self, length=length)
        gymnasium.Wrapper.__init__(self, env)
        if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= 10_000:
            raise UsageError(f"window_observation must be 1 to 10000 steps, not {length!r}")
        seen, acts = _box(env.observation_space, "window_observation"), env.action_space
        if not isinstance(acts, Box) or len(acts.shape) != 1 or not acts.is_bounded("both"):
            raise UsageError(f"window_observation needs actions with finite limits, not {acts}")
        self._centre = 0.5 * (acts.low + acts.high)
        self._half_range = 0.5 * (acts.high - acts.low)
        # Before the beginning of an episode the window holds zeros.
        low, high = np.minimum(seen.low, 0.0), np.maximum(seen.high, 0.0)
        ones = np.ones(acts.shape, dtype=np.float32)
        self.observation_space = Box(
            np.concatenate([*[low, -ones] * length, seen.low]).astype(np.float32),
            np.concatenate([*[high, ones] * length, seen.high]).astype(np.float32),
        )
        self._steps: deque[Vector] = deque(maxlen=length)
        self._nothing = np.zeros(seen.shape[0] + acts.shape[0], dtype=np.float32)
        self._present = self._nothing[:0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        """Begin an episode with an empty window."""
        self._present, info = self.env.reset(seed=seed, options=options)
        self._steps.extend([self._nothing] * (self._steps.maxlen or 0))
        return self._window(), info

    def step(self, action: Vector) -> tuple[Vector, Any, bool, bool, dict[str, Any]]:
        """Act, and move the window on."""
        unit = (np.asarray(action, dtype=np.float32) - self._centre) / self._half_range
        self._steps.append(np.concatenate([self._present, np.clip(unit, -1.0, 1.0)]))
        self._present, reward, terminated, truncated, info = self.env.step(action)
        return self._window(), reward, terminated, truncated, info

    def _window(self) -> Vector:
        return np.concatenate([*self._steps, self._present]).astype(np.float32)


def _box(space: gymnasium.Space[Any], what: str) -> Box[Any]:
    """Return a space as a Box of one dimension, or refuse it."""
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise UsageError(
            f"{what!r} needs an observation that is a Box with one dimension, not {space} "
            "(gymnasium.wrappers.FlattenObservation makes one)"
        )
    return space


def _space_of(seen: Box[Any], degradation: Degradation) -> Box[np.float32]:
    """Return the space of what is seen; noise can leave every range, and what fails shows zero."""
    low, high = (
        np.asarray(v, dtype=np.float32)[list(degradation.kept)] for v in (seen.low, seen.high)
    )
    if degradation.adds_noise:
        low, high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
    elif degradation.faults:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    return Box(low, high, dtype=np.float32)
