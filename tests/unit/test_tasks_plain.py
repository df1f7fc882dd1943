"""Environments of other libraries are trained on as they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Text, Tuple
from numpy.testing import assert_array_equal

from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.tasks.plain import made_plain
from memrl_ctrl.training.environments import make_environment, task_of


class Foreign(gymnasium.Env[Any, Any]):
    """Shows what it is given, and keeps the action."""

    def __init__(self, seen: Space[Any], acts: Space[Any], shown: Any) -> None:
        self.observation_space, self.action_space, self.shown = seen, acts, shown

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.shown, {}

    def step(self, action: Any) -> Any:
        self.taken = action
        return self.shown, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("space", "shown", "vector"),
    [
        (Discrete(3, start=5), 6, [0, 1, 0]),
        (MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (MultiBinary(3), np.array([1, 0, 1]), [1, 0, 1]),
        (Box(0.0, 9.0, ()), np.float32(4), [4]),
        (Box(0.0, 9.0, (2, 2)), np.arange(4.0).reshape(2, 2), [0, 1, 2, 3]),
        (Tuple((Discrete(2), Box(-9.0, 9.0, (2,)))), (1, np.array([-4.0, 8.0])), [0, 1, -4, 8]),
    ],
)
def test_observations_become_vectors(space: Space[Any], shown: Any, vector: list[float]) -> None:
    """Numbers of choices are one-hot, arrays their entries, all within the space that is declared."""
    env = made_plain(Foreign(space, Discrete(2), shown))
    seen, _ = env.reset(seed=0)
    assert_array_equal(seen, np.array(vector, np.float32))
    assert seen.dtype == np.float32
    assert env.observation_space.contains(seen)


def test_what_is_plain_stays() -> None:
    """A vector, a picture and what cannot be flattened have nothing put around them."""
    for space in (
        Box(0.0, 1.0, (3,)),
        Box(0, 255, (4, 4, 3), np.uint8),
        Text(3),
        Dict(a=Discrete(2)),
    ):
        env = Foreign(space, Discrete(2), None)
        assert made_plain(env) is env


def test_choices_are_the_environments_own() -> None:
    """Choices counted from 0 reach an environment that counts from elsewhere, or in bits."""
    inner = Foreign(Box(0.0, 1.0, (1,)), Discrete(3, start=7), np.zeros(1, np.float32))
    env = made_plain(inner)
    assert env.action_space == Discrete(3)
    env.reset(seed=0)
    env.step(2)
    assert inner.taken == 9
    inner = Foreign(Box(0.0, 1.0, (1,)), MultiBinary([2, 2]), np.zeros(1, np.float32))
    env = made_plain(inner)
    assert env.action_space == MultiDiscrete([2, 2, 2, 2])
    env.reset(seed=0)
    env.step(np.array([0, 1, 1, 0]))
    assert_array_equal(inner.taken, [[0, 1], [1, 0]])


def test_a_module_before_the_name_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`MODULE:NAME` registers and makes the environment; what is not there is said in a sentence."""
    (tmp_path / "abroad_suite.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('abroad/Lake-v0', 'gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        env = make_environment("abroad_suite:abroad/Lake-v0", 2, {})
        assert task_of("abroad_suite:abroad/Lake-v0", env).n_observation == 16
        env.close()
        with pytest.raises(UnknownNameError, match="did you mean 'abroad/Lake-v0'"):
            make_environment("abroad_suite:abroad/Lakes-v0", 2, {})
        with pytest.raises(UsageError, match="module 'abroad_suit' is not found"):
            make_environment("abroad_suit:abroad/Lake-v0", 2, {})
    finally:
        gymnasium.registry.pop("abroad/Lake-v0", None)
        sys.modules.pop("abroad_suite", None)
