"""`memrl/Recall-v0`: a probe that no policy without memory can pass.

The first observation shows a number in [-1, 1]; every later one hides it. The reward of a step is
minus the squared distance of the action to the number. Without memory the best is to answer 0 once the
number is hidden: minus a third a step in the mean.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

ID = "memrl/Recall-v0"
Vector = NDArray[np.float32]


class RecallEnv(gymnasium.Env[Vector, Vector]):
    """Remember a number.

    Observation: the number (0 once it is hidden), 1 while it is shown, and the step / 10.
    Action: the number, in [-1, 1].

    Args:
        length: steps of an episode.
        longest: largest number of steps, where episodes are to differ in length; 0: all the same.
        terminates: end episodes by termination instead of truncation.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - typed so by the base class

    def __init__(self, *, length: int = 6, longest: int = 0, terminates: bool = False) -> None:
        self.observation_space = Box(
            np.array([-1.0, 0.0, 0.0], dtype=np.float32),
            np.array([1.0, 1.0, np.inf], dtype=np.float32),
        )
        self.action_space = Box(-1.0, 1.0, (1,), dtype=np.float32)
        self._shortest, self._longest = length, max(length, longest)
        self._terminates = terminates
        self._number = 0.0
        self._step = self._length = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        """Draw a number and show it."""
        super().reset(seed=seed)
        self._number = float(self.np_random.uniform(-1.0, 1.0))
        self._length = int(self.np_random.integers(self._shortest, self._longest + 1))
        self._step = 0
        return np.array([self._number, 1.0, 0.0], dtype=np.float32), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        """Compare the action with the number."""
        reward = -((float(action[0]) - self._number) ** 2)
        self._step += 1
        over = self._step >= self._length
        observation = np.array([0.0, 0.0, self._step / 10.0], dtype=np.float32)
        return observation, reward, over and self._terminates, over and not self._terminates, {}


def register() -> None:
    """Make the task known to Gymnasium; a second call does nothing."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, entry_point="memrl_ctrl.tasks.recall:RecallEnv")
