"""Choices that may not be made, together with memory: while training, judged and exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from memrl_ctrl.config import resolve
from memrl_ctrl.policy.runner import OnnxPolicy
from memrl_ctrl.training import evaluate, load_policy, train
from memrl_deploy.exporter import export_policy

ID = "memrl/Test-Masked-v0"


class Masked(gymnasium.Env[Any, Any]):
    """Shows which of two choices pays, then asks: it pays 1, but in every second episode only the other one
    and a third may be made, of which the other one pays 0.5. A choice that may not be made is an error."""

    def __init__(self, *, several: bool = False) -> None:
        self.observation_space = Box(-1.0, 1.0, (2,), dtype=np.float32)
        self.several = several
        self.action_space = MultiDiscrete([3, 2]) if several else Discrete(3)
        self.episode = -1

    def _info(self) -> dict[str, Any]:
        mask = np.ones(3, dtype=np.int8)
        if self.time == 1 and self.episode % 2:
            mask[self.paying] = 0
        return {"action_mask": np.append(mask, [1, 1]) if self.several else mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        self.paying = int(self.np_random.integers(2))
        return np.array([2.0 * self.paying - 1.0, 0.0], dtype=np.float32), self._info()

    def step(self, action: Any) -> Any:
        choice = int(action[0] if self.several else action)
        if not self._info()["action_mask"][choice]:
            raise ValueError("a choice that may not be made")
        if self.time == 0:
            self.time = 1
            return np.array([0.0, 1.0], dtype=np.float32), 0.0, False, False, self._info()
        reward = 1.0 if choice == self.paying else 0.5 if choice == 1 - self.paying else 0.0
        return np.zeros(2, dtype=np.float32), reward, True, False, self._info()


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register(ID, entry_point=Masked)
    yield
    del gymnasium.registry[ID]


@pytest.mark.parametrize("several", [False, True], ids=["one choice", "two choices"])
def test_masks_and_memory_work_together(several: bool, tmp_path: Path) -> None:
    """What is remembered decides, among what may be chosen; held-out episodes and the exported file obey
    the mask too: nothing that may not be chosen is, and the return is near 0.75, the best there is."""
    config = resolve("ppo-lstm-cartpole-no-vel", [
        "steps=16000", f"environment.id={ID}", "environment.num_envs=16", "agent.gamma=0.9",
        f"environment.options={{several: {str(several).lower()}}}", "logging.tensorboard=false",
        "evaluation.episodes=32", "evaluation.stop_at_return=null", "evaluation.every_steps=0",
        "agent.learning_rate=4e-3", "agent.lstm=[32]", "agent.rollout_steps=32", "agent.actor_average=0",
    ])  # fmt: skip
    result = train(config, out=tmp_path / "run")
    assert result.evaluation is not None
    assert result.evaluation["return_mean"] > 0.7
    file = tmp_path / "x.onnx"
    export_policy(load_policy(result.folder), file, plan=((3, 40),))
    assert evaluate(file).returns.mean() == result.evaluation["return_mean"]
    policy = OnnxPolicy.load(file)
    assert policy.manifest.action.allowed_name == "allowed"
    policy.reset(2)
    shape = (2, *policy.manifest.action.shape)
    seen, nothing = np.array([[1.0, 0.0]] * 2, "f4"), np.zeros(shape, "f4")
    policy.act(seen, nothing)
    mask = np.ones((2, 5 if several else 3), "f4")
    mask[1, 1] = 0.0
    policy.allow(mask)
    chosen = policy.act(np.array([[0.0, 1.0]] * 2, "f4"), np.ones(shape, "f4"))
    assert chosen[0, 0] == 1
    assert chosen[1, 0] != 1
