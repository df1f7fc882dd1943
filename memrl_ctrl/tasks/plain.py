"""Environments of other libraries as agents take them: numbers in a vector, choices counted from 0.

| what an environment has | what an agent sees |
|---|---|
| `Discrete`, `MultiDiscrete` observation | a vector with a 1 for each number (one-hot) |
| `MultiBinary`, a `Box` of no or two dimensions | its entries as a vector |
| `Tuple` of those | one behind the other |
| a `Box` of one dimension, or of three (a picture) | the same |
| `Discrete` actions that begin elsewhere | choices from 0 |
| `MultiBinary` actions | that many choices of two |

A `Dict`, text, graphs and sequences of any length stay what they are: nobody but the user knows what
of them is to be seen.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray


def made_plain(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Put around an environment what its spaces need; nothing where they are plain already."""
    if _is_flat_enough(env.observation_space):
        env = FlatObservation(env)
    acts = env.action_space
    if (isinstance(acts, Discrete) and acts.start != 0) or isinstance(acts, MultiBinary):
        env = ChoicesFromZero(env)
    return env


class FlatObservation(
    gymnasium.ObservationWrapper[NDArray[np.float32], Any, Any], RecordConstructorArgs
):
    """Shows an observation as a vector of float32 [n]; numbers of choices as one-hot vectors.

    Args:
        env: observation: see the table above.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._seen: Space[Any] = env.observation_space
        size = flatdim(self._seen)
        low, high = (np.zeros(size, np.float32), np.ones(size, np.float32))
        if isinstance(self._seen, Box):
            low = self._seen.low.astype(np.float32).reshape(size)
            high = self._seen.high.astype(np.float32).reshape(size)
        elif isinstance(self._seen, Tuple):
            low, high = np.full(size, -np.inf, np.float32), np.full(size, np.inf, np.float32)
        self.observation_space = Box(low, high, dtype=np.float32)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """Return the observation as a vector [n]."""
        return np.asarray(flatten(self._seen, observation), dtype=np.float32)


class ChoicesFromZero(gymnasium.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Takes choices that are counted from 0, and tells the environment its own.

    Args:
        env: actions: `Discrete`, or `MultiBinary` of one dimension or more.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._acts: Space[Any] = env.action_space
        if isinstance(self._acts, Discrete):
            self.action_space = Discrete(int(self._acts.n))
        else:
            self.action_space = MultiDiscrete(np.full(flatdim(self._acts), 2))

    def action(self, action: Any) -> Any:
        """Return the environment's own action."""
        if isinstance(self._acts, Discrete):
            return self._acts.start + action
        return np.asarray(action, dtype=np.int8).reshape(self._acts.shape or ())


def _is_flat_enough(space: Space[Any]) -> bool:
    """Whether an observation is to be made a vector, and can be."""
    if isinstance(space, Box):
        return len(space.shape) in {0, 2}
    return _can_flatten(space)


def _can_flatten(space: Space[Any]) -> bool:
    if isinstance(space, Tuple):
        return all(_can_flatten(part) for part in space.spaces)
    return isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary)
