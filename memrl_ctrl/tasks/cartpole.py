"""`memrl/CartPoleNoVel-v0`: balance a pole while seeing positions only.

The dynamics are those of Barto, Sutton and Anderson 1983 (IEEE Trans. SMC 13, 834) with the constants of
Gymnasium's CartPole-v1; the observation is the cart's position and the pole's angle. Their velocities
must be remembered: no policy without memory can balance for long.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from memrl_ctrl.beam._jit import compiled

ID = "memrl/CartPoleNoVel-v0"
SEEN = (0, 2)
"""Entries of CartPole's state that are seen."""
LONGEST = 500
"""Steps of an episode."""
X_LIMIT = 2.4
ANGLE_LIMIT = 12.0 * 2.0 * math.pi / 360.0
GRAVITY, CART_KG, POLE_KG, HALF_POLE_M, FORCE_N, STEP_S = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
START = 0.05
"""Largest size of a state's entries at the start."""

Floats = NDArray[np.float64]
Seen = NDArray[np.float32]


def _space() -> Box:
    # As in Gymnasium: twice the limits, so that the observation that ends an episode is inside.
    high = np.array([2.0 * X_LIMIT, 2.0 * ANGLE_LIMIT], dtype=np.float32)
    return Box(-high, high)


class CartPoleNoVel(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Gymnasium's CartPole without its velocities, one environment.

    Args:
        render_mode: as for CartPole.
        episode_length: steps after which an episode is cut off.
    """

    def __init__(self, *, render_mode: str | None = None, episode_length: int = LONGEST) -> None:
        inside = gymnasium.wrappers.TimeLimit(CartPoleEnv(render_mode=render_mode), episode_length)
        super().__init__(inside)
        self.observation_space = _space()

    def observation(self, observation: Any) -> Seen:
        """Keep the positions."""
        return np.asarray(observation, dtype=np.float32)[list(SEEN)]


class CartPoleNoVelVector(VectorEnv[Seen, NDArray[np.int64], NDArray[Any]]):
    """The same for many rows in one call.

    Args:
        num_envs: rows.
        render_mode: None; `gymnasium.make` makes the environment that draws pictures.
        episode_length: steps after which an episode is cut off.
        autoreset: false leaves restarting to the caller (`AutoresetMode.DISABLED`).
    """

    rows_of_their_own = True
    """Each row has a seed of its own, and none touches another."""

    metadata: dict[str, Any] = {  # noqa: RUF012 - typed so by the base class
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        *,
        num_envs: int = 1,
        render_mode: str | None = None,
        episode_length: int = LONGEST,
        autoreset: bool = True,
    ) -> None:
        if render_mode is not None:
            raise ValueError("many rows draw no pictures; gymnasium.make makes one that does")
        self.num_envs, self.render_mode = num_envs, None
        self._autoreset, self._longest = autoreset, episode_length
        if not autoreset:
            self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = _space(), Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state, self._steps = np.zeros((num_envs, 4)), np.zeros(num_envs, dtype=np.int64)
        self._rng = np.random.default_rng()

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: of all rows, or a list with one for each.
            options: `reset_mask` [num_envs] restarts some rows only.
        """
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if options and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"], dtype=np.bool_)
        if isinstance(seed, int):
            self._rng = np.random.default_rng(seed)
        self._begin(mask, seed if isinstance(seed, list) else None)
        return self._seen(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Seen, Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Push every cart to the left (0) or right (1)."""
        _move(self._state, np.asarray(actions, dtype=np.int64))
        self._steps += 1
        beyond = np.abs(self._state[:, SEEN]) > (X_LIMIT, ANGLE_LIMIT)
        terminated = np.asarray(beyond.any(axis=1))
        truncated = self._steps >= self._longest
        seen, infos = self._seen(), dict[str, Any]()
        ended = terminated | truncated
        if self._autoreset and ended.any():
            infos = {"final_obs": seen, "_final_obs": ended}
            self._begin(ended, None)
            seen = self._seen()
        return seen, np.ones(self.num_envs), terminated, truncated, infos

    @property
    def state(self) -> Floats:
        """The whole state [num_envs, 4]: position, speed, angle, turning; m, m/s, rad, rad/s."""
        return self._state.copy()

    def _begin(self, mask: NDArray[np.bool_], seeds: list[int | None] | None) -> None:
        self._steps[mask] = 0
        if seeds is None:
            self._state[mask] = self._rng.uniform(-START, START, (int(mask.sum()), 4))
            return
        for row in np.flatnonzero(mask):
            rng = np.random.default_rng(seeds[row])
            self._state[row] = rng.uniform(-START, START, 4)

    def _seen(self) -> Seen:
        return self._state[:, SEEN].astype(np.float32)


@compiled
def _move(state: Any, action: Any) -> None:
    total, moment = CART_KG + POLE_KG, POLE_KG * HALF_POLE_M
    for i in range(state.shape[0]):
        x, speed, angle, turning = state[i, 0], state[i, 1], state[i, 2], state[i, 3]
        force = FORCE_N if action[i] == 1 else -FORCE_N
        sine, cosine = math.sin(angle), math.cos(angle)
        push = (force + moment * turning * turning * sine) / total
        twist = (GRAVITY * sine - cosine * push) / (
            HALF_POLE_M * (4.0 / 3.0 - POLE_KG * cosine * cosine / total)
        )
        state[i, 0] = x + STEP_S * speed
        state[i, 1] = speed + STEP_S * (push - moment * twist * cosine / total)
        state[i, 2] = angle + STEP_S * turning
        state[i, 3] = turning + STEP_S * twist


def register() -> None:
    """Make the task known to Gymnasium; a second call does nothing."""
    if ID not in gymnasium.registry:
        gymnasium.register(
            ID,
            entry_point="memrl_ctrl.tasks.cartpole:CartPoleNoVel",
            vector_entry_point="memrl_ctrl.tasks.cartpole:CartPoleNoVelVector",
        )
