"""A vector environment that remembers what it said last, for those who look on."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from numpy.typing import NDArray

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
SUCCESS = "is_success"
"""Info by which many environments say that an episode reached its aim."""


class Watched(VectorWrapper[Any, Any, Any, Any, Any]):
    """Passes everything on, and keeps the last observation, reward and infos of each row's first episode.

    Rows are watched from a reset of all rows to their first end.

    Args:
        env: any vector environment.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        rows = env.num_envs
        self.first: Array = np.zeros((rows, 0), dtype=np.float32)
        """Observations with which the episodes began [rows, n]."""
        self.seen: Array = self.first
        """Last observations [rows, n]."""
        self.reward: Floats = np.zeros(rows)
        """Last rewards [rows]."""
        self.infos: dict[str, Any] = {}
        """Last infos."""
        self.going: Mask = np.ones(rows, dtype=np.bool_)
        """Rows whose first episode goes on."""
        self.terminated: Mask = np.zeros(rows, dtype=np.bool_)
        """Rows whose first episode was ended by the task, not by time."""
        self.successes: Mask | None = None
        """Rows that said `is_success` at their end; None where nobody says so."""

    def singles(self) -> list[Any]:
        """Return the environments of the rows, where each row has one."""
        plain = self.unwrapped
        return list(plain.envs) if isinstance(plain, SyncVectorEnv) else []

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes."""
        # Gymnasium takes the mask out of the options.
        everywhere = not options or "reset_mask" not in options
        observation, infos = self.env.reset(seed=seed, options=options)
        self._keep(observation, infos)
        if everywhere:
            self.first = self.seen
            self.going = np.ones(self.num_envs, dtype=np.bool_)
            self.terminated = np.zeros(self.num_envs, dtype=np.bool_)
            self.successes = None
        return observation, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Play one step in every row."""
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        self._keep(observation, infos)
        self.reward = np.array(reward, dtype=np.float64)
        ends = self.going & (np.asarray(terminated) | np.asarray(truncated))
        self.terminated = np.where(ends, np.asarray(terminated), self.terminated)
        said = infos.get("final_info", infos).get(SUCCESS)
        if said is not None and ends.any():
            before = np.zeros(self.num_envs, np.bool_) if self.successes is None else self.successes
            self.successes = np.where(ends, np.asarray(said, dtype=np.bool_), before)
        self.going = self.going & ~ends
        return observation, reward, terminated, truncated, infos

    def _keep(self, observation: Any, infos: dict[str, Any]) -> None:
        rows = np.array(observation, dtype=np.float32)
        self.seen, self.infos = rows.reshape(len(rows), -1), infos
