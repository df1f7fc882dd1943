"""Training, acting and the exported policy carry the same memory."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from memrl_ctrl.agents.exportable import untrained_policy
from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.networks import Actor
from memrl_ctrl.agents.replay import Replay
from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.config import LayersConfig, LstmTd3Config
from memrl_ctrl.errors import UsageError
from memrl_ctrl.tasks import recall
from memrl_ctrl.training.collect import Collector
from memrl_ctrl.training.environments import task_of
from memrl_ctrl.training.stepper import Stepper

SMALL = LayersConfig(pre_lstm=(8,), lstm=(8, 6), current=(8,), combination=(8,))
ROWS = 4


def recorded(config: LstmTd3Config, mode: AutoresetMode) -> tuple[LstmTd3, Replay]:
    """Act without noise in episodes of differing lengths, and store what happened."""
    recall.register()
    env = gymnasium.make_vec(
        recall.ID,
        ROWS,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        length=3,
        longest=9,
    )
    task = task_of(recall.ID, env)
    agent = LstmTd3(task, config, seed=2)
    # A policy that moves: with fresh weights the actions would hardly differ.
    with torch.no_grad():
        agent.actor.head.weight.mul_(5.0)
    agent.refresh_behaviour()
    stepper = Stepper(env, task)
    replay = Replay(capacity=80 * ROWS, columns=ROWS, n_observation=3, n_action=1)
    for one in Collector(stepper, stepper.reset(5), agent).collect(150, random=False):
        one.store(replay, truth=False)
    stepper.close()
    return agent, replay


MODES = [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [0, 1, 4, 20])
def test_windows_in_training_are_what_acting_saw(mode: AutoresetMode, length: int) -> None:
    """For every decision, the actor on the replayed window says what it said while acting: also in
    the first steps of episodes, and after the ring has wrapped."""
    config = LstmTd3Config(actor=SMALL, critic=SMALL, history_length=length, exploration_noise=0.0)
    agent, replay = recorded(config, mode)
    batch = replay.sample_windows(500, length, np.random.default_rng(0))
    with torch.no_grad():
        again = torch.tanh(agent.actor(batch))
    torch.testing.assert_close(again, batch.action, atol=1e-5, rtol=0)
    assert float(batch.action.std()) > 0.01


@pytest.mark.parametrize("mode", MODES)
def test_sequences_in_training_are_what_acting_saw(mode: AutoresetMode) -> None:
    """The actor run over whole episodes says at every step what it said while acting."""
    config = LstmTd3Config(actor=SMALL, critic=SMALL, memory="sequence", exploration_noise=0.0)
    agent, replay = recorded(config, mode)
    batch = replay.sample_sequences(60, np.random.default_rng(0))
    with torch.no_grad():
        again = torch.tanh(agent.actor(batch))
    valid = batch.valid > 0
    torch.testing.assert_close(again[valid], batch.action[valid], atol=1e-5, rtol=0)
    assert {3, 9} <= set(batch.valid.sum(0).int().tolist())


def test_the_next_decision_sees_one_step_more() -> None:
    """What the target actor sees after a decision is what the next decision sees before it."""
    config = LstmTd3Config(actor=SMALL, critic=SMALL, memory="sequence", exploration_noise=0.0)
    agent, replay = recorded(config, AutoresetMode.SAME_STEP)
    batch = replay.sample_sequences(40, np.random.default_rng(0))
    with torch.no_grad():
        now, after = agent.actor(batch), agent.actor(batch, after=True)
    follows = batch.valid[1:] > 0
    torch.testing.assert_close(after[:-1][follows], now[1:][follows], atol=1e-6, rtol=0)


@pytest.mark.parametrize("memory", ["window", "sequence"])
@pytest.mark.parametrize("rows", [1, 5])
def test_an_exportable_policy_depends_on_its_own_episode_only(memory: Any, rows: int) -> None:
    """Rows do not mix, a reset forgets everything, and the action is within the range in radians."""
    config = LstmTd3Config(
        memory=memory, action_map="signed-square", normalise_observations=True, history_length=4
    )
    policy = untrained_policy(beam_task(n_slices=64), config, seed=1, gain=30.0)
    rng = np.random.default_rng(0)
    episode = torch.from_numpy(rng.standard_normal((9, 1, 65)).astype("f4"))

    def play(others: int, seed: int) -> list[float]:
        noise = torch.Generator().manual_seed(seed)
        state = policy.initial_memory(1 + others)
        previous = torch.zeros(1 + others, 1)
        actions = []
        for observation in episode:
            extra = torch.randn(others, 65, generator=noise)
            previous, *state = policy.module(torch.cat((observation, extra)), previous, *state)
            actions.append(float(previous[0, 0]))
        return actions

    alone = play(rows - 1, 0)
    assert play(rows - 1, 1) == pytest.approx(alone, abs=1e-5)
    assert max(map(abs, alone)) <= np.pi / 2
    assert np.ptp(alone) > 1e-3
    assert policy.manifest.max_step_rad == pytest.approx(np.pi / 2)
    names = [spec.name_in for spec in policy.manifest.memory]
    assert len(names) == len(set(names)) == (3 if memory == "window" else 2)


def test_a_window_policy_looks_back_no_further_than_its_window() -> None:
    """What lies more than the history's length back changes nothing; what lies within does."""
    config = LstmTd3Config(history_length=3)
    policy = untrained_policy(beam_task(n_slices=64), config, gain=30.0)
    torch.manual_seed(0)
    episode = torch.randn(8, 1, 65)

    def last(changed: int) -> float:
        state, previous = policy.initial_memory(1), torch.zeros(1, 1)
        for t, observation in enumerate(episode):
            seen = observation + (1.0 if t == changed else 0.0)
            action, *state = policy.module(seen, previous, *state)
            previous = torch.full((1, 1), 0.1 * t)
        return float(action)

    plain = last(-1)
    assert last(3) == plain
    assert last(4) != plain
    assert last(7) != plain


def test_previous_applied_reaches_the_memory() -> None:
    """What the machine really took is remembered, not what was asked for."""
    for memory in ("window", "sequence"):
        policy = untrained_policy(beam_task(n_slices=64), LstmTd3Config(memory=memory), gain=30.0)
        observation = torch.ones(1, 65)
        _, *state = policy.module(observation, torch.zeros(1, 1), *policy.initial_memory(1))
        clipped, *_ = policy.module(observation, torch.zeros(1, 1), *state)
        taken, *_ = policy.module(observation, torch.full((1, 1), 1.5), *state)
        assert float(clipped) != float(taken)


def test_actions_of_other_tasks_are_in_their_own_unit() -> None:
    """A range that is not symmetric is reached at both ends, and 0 applied is 0 in that unit."""
    task = TaskSpec(
        environment="none", kind="task", n_observation=2, action_low=(1.0,), action_high=(5.0,)
    )
    np.testing.assert_allclose(task.to_environment(np.array([[-1.0], [1.0]], "f4")), [[1.0], [5.0]])
    np.testing.assert_allclose(task.to_unit(np.array([[5.0], [0.0]], "f4")), [[1.0], [-1.5]])
    policy = untrained_policy(task, seed=0, gain=1e4)
    actions = [
        float(policy.module(torch.randn(1, 2), torch.zeros(1, 1), *policy.initial_memory(1))[0])
        for _ in range(20)
    ]
    assert 1.0 <= min(actions) <= max(actions) <= 5.0


@pytest.mark.parametrize("memory", ["window", "sequence"])
def test_small_actions_show_on_the_logarithmic_scale(memory: Any) -> None:
    """What a memory sees of a quarter of a degree of 90 is a ninth of its range, with its sign."""
    config = LstmTd3Config(memory=memory, history_scale="logarithmic", actor=SMALL, critic=SMALL)
    actor = Actor(beam_task(), config)
    past = actor.memory.past
    seen = past(torch.tensor([[-0.25 / 90.0], [0.0], [1.0]]))
    assert seen[:, 0].tolist() == pytest.approx([-0.25 / 90.0, 0.0, 1.0])
    assert seen[0, 1].item() == pytest.approx(-math.log(2.0) / math.log(361.0))
    assert seen[1:, 1].tolist() == pytest.approx([0.0, 1.0])
    plain = LstmTd3Config(memory=memory, actor=SMALL, critic=SMALL)
    assert Actor(beam_task(), plain).memory.past(seen[:, :1]).shape == (3, 1)


def test_a_scale_of_actions_that_nobody_sees_is_refused() -> None:
    """The scale is one of past actions."""
    with pytest.raises(UsageError, match="needs history_actions: true"):
        LstmTd3Config(history_actions=False, history_scale="logarithmic")
