"""`memrl/CartPoleNoVel-v0`: balance a pole while seeing positions only.

The dynamics are those of Barto, Sutton and Anderson 1983 (IEEE Trans. SMC 13, 834) with the constants of
Gymnasium's CartPole-v1; the observation is the cart's position and the pole's angle. Their velocities
must be remembered: no policy without memory can balance for long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from memrl_ctrl.compiling import compiled
from memrl_ctrl.tasks.rows import Floats, Mask, RowsVector, Seeds

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


class CartPoleNoVelVector(RowsVector):
    """The same for many rows in one call.

    Args:
        num_envs: rows.
        render_mode: None; see `RowsVector`.
        episode_length: steps after which an episode is cut off.
        autoreset: see `RowsVector`.
    """

    observation_meaning: Mapping[str, Any] = MappingProxyType(
        {"entries": ["position of the cart, m", "angle of the pole, rad"]}
    )
    action_names = ("push left", "push right")

    def __init__(
        self,
        *,
        num_envs: int = 1,
        render_mode: str | None = None,
        episode_length: int = LONGEST,
        autoreset: bool = True,
    ) -> None:
        super().__init__(
            num_envs=num_envs,
            observation_space=_space(),
            action_space=Discrete(2),
            render_mode=render_mode,
            autoreset=autoreset,
        )
        self._longest = episode_length
        self._state, self._steps = np.zeros((num_envs, 4)), np.zeros(num_envs, dtype=np.int64)

    @property
    def state(self) -> Floats:
        """The whole state [num_envs, 4]: position, speed, angle, turning; m, m/s, rad, rad/s."""
        return self._state.copy()

    def _begin(self, mask: Mask, seeds: Seeds) -> None:
        self._steps[mask] = 0
        if seeds is None:
            self._state[mask] = self._rng.uniform(-START, START, (int(mask.sum()), 4))
            return
        for row in np.flatnonzero(mask):
            rng = np.random.default_rng(seeds[row])
            self._state[row] = rng.uniform(-START, START, 4)

    def _act(self, actions: NDArray[Any]) -> tuple[Floats, Mask, Mask]:
        """Push every cart to the left (0) or right (1)."""
        _move(self._state, actions.astype(np.int64))
        self._steps += 1
        beyond = np.abs(self._state[:, SEEN]) > (X_LIMIT, ANGLE_LIMIT)
        fallen = np.asarray(beyond.any(axis=1))
        return np.ones(self.num_envs), fallen, self._steps >= self._longest

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
