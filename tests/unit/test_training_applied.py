"""What counts as applied is what the environment says it applied, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from memrl_ctrl.agents.exportable import untrained_policy
from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.replay import Replay
from memrl_ctrl.config import LayersConfig, LstmTd3Config
from memrl_ctrl.training.collect import Collector
from memrl_ctrl.training.environments import task_of
from memrl_ctrl.training.evaluation import TorchPolicy, run_episodes
from memrl_ctrl.training.stepper import Stepper

ID = "memrl-test/Halving-v0"
LENGTHS = np.array([2, 3, 5])
"""Steps of the episodes of each row."""
SMALL = LayersConfig(pre_lstm=(4,), lstm=(4,), current=(4,), combination=(4,))


class Halving(VectorEnv[Any, Any, Any]):
    """Applies half of the action; shows (row, episode, step); the reward of step k is 10^k.

    The action's range is not symmetric, so that nothing applied is no zero of the policy.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 3) -> None:
        self.num_envs = num_envs
        self.single_observation_space = Box(-100.0, 100.0, (3,), dtype=np.float32)
        self.single_action_space = Box(-2.0, 4.0, (1,), dtype=np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.count = np.zeros((num_envs, 2), dtype=np.int64)

    def seen(self) -> NDArray[np.float32]:
        return np.column_stack((np.arange(self.num_envs), self.count)).astype(np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.count[:] = 0
        return self.seen(), {"applied": np.zeros((self.num_envs, 1), dtype=np.float32)}

    def step(self, actions: Any) -> Any:
        applied = np.asarray(actions, dtype=np.float32) / 2
        reward = 10.0 ** self.count[:, 1]
        self.count[:, 1] += 1
        ended = self.count[:, 1] == LENGTHS
        final, final_info = self.seen(), {"applied": applied.copy()}
        self.count[ended] += (1, 0)
        self.count[ended, 1] = 0
        # In the rows that began anew nothing has been applied yet.
        infos: dict[str, Any] = {"applied": np.where(ended[:, None], 0.0, applied)}
        if ended.any():
            infos |= {"final_obs": final, "final_info": final_info}
        return self.seen(), reward, ended, np.zeros_like(ended), infos


def test_the_replay_remembers_what_was_applied() -> None:
    """Each row's previous action is half of the one asked for a row before, also behind an episode's
    end; an episode begins with nothing applied."""
    env = Halving()
    task = task_of("halving", env)
    settings = LstmTd3Config(actor=SMALL, critic=SMALL, action_map="signed-square")
    agent = LstmTd3(task, settings, seed=1)
    stepper = Stepper(env, task)
    collector = Collector(stepper, stepper.reset(0), agent)
    replay = Replay(capacity=300, columns=3, n_observation=3, n_action=1)
    for one in collector.collect(40, random=True):
        one.store(replay, truth=False)
    at_rest = -1.0 / 3.0  # the action 0 in [-2, 4], in units of [-1, 1]
    ends = 0
    for row in range(3):
        written = int(replay.written[row])
        step = replay.observation[row, :written, 2]
        np.testing.assert_array_equal(step, np.arange(written) % (LENGTHS[row] + 1))
        np.testing.assert_array_equal(replay.tail[row, :written], step == LENGTHS[row])
        squashed = replay.action[row, :written, 0]
        asked = 1.0 + 3.0 * np.sign(squashed) * squashed**2
        applied = (asked / 2.0 - 1.0) / 3.0
        expected = np.where(step == 0, at_rest, np.roll(applied, 1))
        np.testing.assert_allclose(replay.previous[row, :written, 0], expected, atol=1e-6)
        ends += int(replay.tail[row].sum())
    assert ends == 40 // 2 + 40 // 3 + 40 // 5


class Recording(TorchPolicy):
    """Keeps what it was told to be applied, and what it asked for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.told: list[NDArray[np.float32]] = []
        self.asked: list[NDArray[np.float32]] = []

    def act(
        self, observation: NDArray[np.float32], previous_applied: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        self.told.append(previous_applied.copy())
        self.asked.append(super().act(observation, previous_applied))
        return self.asked[-1]


@pytest.fixture
def registered() -> Iterator[None]:
    def make(**options: Any) -> Halving:
        return Halving(**options)

    gymnasium.register(ID, vector_entry_point=make)
    yield
    del gymnasium.registry[ID]


def test_evaluation_counts_an_episode_to_its_end(registered: None) -> None:
    """Returns and lengths by hand: 1 + 10, 1 + 10 + 100, 1 + ... + 10000, and nothing of the episodes
    behind; the policy is told what was applied, at first nothing."""
    task = task_of(ID, Halving())
    policy = Recording(untrained_policy(task, gain=5.0))
    result = run_episodes(policy, environment=ID, episodes=3)
    assert result.returns.tolist() == [11.0, 111.0, 11111.0]
    assert result.lengths.tolist() == [2, 3, 5]
    assert (policy.told[0] == 0.0).all()
    told, asked = np.stack(policy.told)[..., 0], np.stack(policy.asked)[..., 0]
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(told[1:length, row], asked[: length - 1, row] / 2, atol=1e-6)
    assert np.abs(asked).max() > 0.1
