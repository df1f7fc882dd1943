"""Many rows of a task in one environment: what is the same for all tasks of that kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from memrl_ctrl.errors import UsageError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Seeds = list[int | None] | None
"""A seed for each row; None where the rows draw from what was drawn before."""


class RowsVector(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """Rows that step together; a task says how they begin, move and what is seen of them.

    Args:
        num_envs: rows.
        observation_space: of one row.
        action_space: of one row.
        render_mode: None; `gymnasium.make` makes the environment that draws pictures.
        autoreset: false leaves restarting to the caller (`AutoresetMode.DISABLED`).

    Raises:
        UsageError: pictures are asked for.
    """

    rows_of_their_own = True
    """Each row has a seed of its own, and none touches another."""

    observation_meaning: Mapping[str, Any] = MappingProxyType({})
    """What the numbers of an observation are, for the manifest of a policy (`ObservationSpec.meaning`)."""

    action_names: tuple[str, ...] = ()
    """Names of the choices, likewise."""

    metadata: dict[str, Any] = {  # noqa: RUF012 - typed so by the base class
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        *,
        num_envs: int,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        render_mode: str | None,
        autoreset: bool,
    ) -> None:
        if render_mode is not None:
            raise UsageError("many rows draw no pictures; gymnasium.make makes one that may")
        self.num_envs, self.render_mode = num_envs, None
        self._autoreset = autoreset
        if not autoreset:
            self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._rng = np.random.default_rng()

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: of the first row, the next ones following; or a list with one for each.
            options: `reset_mask` [num_envs] restarts some rows only.
        """
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if options and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"], dtype=np.bool_)
        seeds: Seeds = None if seed is None or isinstance(seed, int) else list(seed)
        if isinstance(seed, int):
            self._rng = np.random.default_rng(seed)
            seeds = [seed + row for row in range(self.num_envs)]
        self._begin(mask, seeds)
        return self._seen(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], Floats, Mask, Mask, dict[str, Any]]:
        """Act in every row."""
        reward, terminated, truncated = self._act(np.asarray(actions))
        seen, infos = self._seen(), dict[str, Any]()
        ended = terminated | truncated
        if self._autoreset and ended.any():
            infos = {"final_obs": seen, "_final_obs": ended}
            self._begin(ended, None)
            seen = self._seen()
        return seen, reward, terminated, truncated, infos

    @abstractmethod
    def _begin(self, mask: Mask, seeds: Seeds) -> None:
        """Begin episodes in the rows of `mask`."""

    @abstractmethod
    def _act(self, actions: NDArray[Any]) -> tuple[Floats, Mask, Mask]:
        """Act; return rewards, and which episodes ended by the task and by their time limit."""

    @abstractmethod
    def _seen(self) -> NDArray[Any]:
        """Return observations [num_envs, ...], in an array of their own."""
