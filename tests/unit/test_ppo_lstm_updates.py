"""PPO-LSTM: what an update sees is what acting saw; its losses, limits and schedules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from memrl_ctrl.agents.ppo_lstm import PpoLstm
from memrl_ctrl.agents.rollout import Rollout, advantages, sequences
from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.config import PpoLstmConfig, resolve
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.on_policy import OnPolicy
from memrl_ctrl.training.stepper import Stepper


def collected(overrides: list[str], calls: int = 30) -> tuple[OnPolicy, Rollout]:
    config = resolve("ppo-lstm-cartpole-no-vel", ["environment.num_envs=4", *overrides])
    env = make_environment(config.environment.id, 4, {"episode_length": 11})
    task = task_of(config.environment.id, env)
    learner = OnPolicy(config, task, None, "cpu")
    stepper = Stepper(env, task)
    collector = learner.collector(stepper, stepper.reset(3))
    learner.take(collector.collect(calls, random=False))
    env.close()
    assert learner._pending is not None
    return learner, learner._pending


@pytest.mark.parametrize(
    "more", [[], ["agent.shared=false", "agent.history_actions=true"], ["agent.lstm=[5,6]"]]
)
def test_learning_sees_what_acting_saw(more: list[str]) -> None:
    """Over whole sequences the network gives the probabilities and values that it gave step by step,
    also behind ends of episodes and from the middle of one: the ratio begins at 1."""
    learner, round_ = collected(["agent.sequence_length=4", *more])
    assert round_.ended.any()
    cut = sequences(round_.ended, round_.valid, 4)
    agent = learner.agent
    names = ("observation", "previous", "truth", "action", "log_prob", "value")
    parts = {name: getattr(round_, name) for name in names}
    batch = agent._batch(parts, round_, cut, np.arange(len(cut)))
    with torch.no_grad():
        raw, value = agent.network(
            batch["observation"], batch["previous"], batch["memory"], batch["truth"]
        )
    there = batch["valid"] > 0
    log_prob = agent.network.distribution(raw, None).log_prob(batch["action"])
    torch.testing.assert_close(log_prob[there], batch["log_prob"][there], atol=2e-6, rtol=0)
    torch.testing.assert_close(value[there], batch["value"][there], atol=2e-6, rtol=0)


def test_what_acted_at_random_is_learnt_from_with_its_probability() -> None:
    """With random moves in the policy the ratio of the first update is 1 too."""
    learner, round_ = collected(["agent.random_epsilon=0.4", "agent.random_in_policy=true"])
    network = learner.agent.network
    cut = sequences(round_.ended, round_.valid, 16)
    parts = {
        n: getattr(round_, n) for n in ("observation", "previous", "truth", "action", "log_prob")
    }
    batch = learner.agent._batch(parts, round_, cut, np.arange(len(cut)))
    with torch.no_grad():
        raw, _ = network(batch["observation"], batch["previous"], batch["memory"], batch["truth"])
        log_prob = network.distribution(raw, None).log_prob(batch["action"])
    there = batch["valid"] > 0
    torch.testing.assert_close(log_prob[there], batch["log_prob"][there], atol=2e-6, rtol=0)
    assert float(batch["log_prob"][there].exp().max()) < 0.81  # 0.6 + 0.4 / 2


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_clip_range_is_scheduled(schedule: str) -> None:
    """Constant, or linearly to 0: the share of ratios that is clipped grows as the range shrinks."""
    learner, round_ = collected([f"agent.clip_schedule={schedule}", "agent.epochs=1"])
    agent = learner.agent
    with torch.no_grad():
        agent.network.actor[-1].bias += torch.tensor([0.0, 0.35])
    cut = sequences(round_.ended, round_.valid, 16)
    names = ("observation", "previous", "truth", "action", "log_prob", "value")
    parts = {name: getattr(round_, name) for name in names}
    parts["advantage"], parts["target"] = advantages(round_, 0.99, 0.95)
    batch = agent._batch(parts, round_, cut, np.arange(len(cut)))
    for group in agent.optimiser.param_groups:
        group["lr"] = 0.0
    early, late = (float(agent._update(batch, at)["clipped"]) for at in (0.0, 0.9))
    assert early < late if schedule == "linear" else early == late


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_learning_rate_is_scheduled(schedule: str) -> None:
    """Half way between 1 and lr_final 0.2 with a linear and a cosine schedule: 0.6; at the end 0.2."""
    config = PpoLstmConfig(lr_schedule=schedule, lr_final=0.2, learning_rate=0.1)  # type: ignore[arg-type]
    agent = PpoLstm(beam_task(n_slices=16), config)
    rates = []
    for progress in (0.0, 0.5, 1.0):
        agent._schedule(progress)
        rates.append(agent.optimiser.param_groups[0]["lr"])
    middle, last = (0.1, 0.1) if schedule == "constant" else (0.06, 0.02)
    np.testing.assert_allclose(rates, [0.1, middle, last])


def test_a_time_limit_is_bootstrapped_with_the_value_of_what_followed() -> None:
    """Where an episode is cut off the value of its last observation is kept, seen with the memory and the
    action that led there; where the task ends, and elsewhere, 0."""
    learner, round_ = collected([], calls=60)
    cut = round_.ended & ~round_.terminated
    assert cut.any()
    assert (round_.ended & round_.terminated).any()
    np.testing.assert_array_equal(round_.bootstrap != 0.0, cut)
    time, row = (int(place[0]) for place in np.nonzero(cut))
    env = make_environment("memrl/CartPoleNoVel-v0", 4, {"episode_length": 11})
    stepper = Stepper(env, learner.agent.task)
    stepper.reset(3)
    step = None
    for t in range(time + 1):
        step = stepper.step(round_.action[t])
    env.close()
    assert step is not None
    agent = learner.agent
    seen, before = round_.observation[time, row], round_.memory[time, row]
    # The collector's normaliser had no statistics yet.
    _, _, after = agent.behaviour.step(
        torch.from_numpy(seen[None]),
        torch.zeros(1, 2),
        torch.from_numpy(before[None]),
        torch.zeros(1, 0),
    )
    expected = agent.value(
        step.followed[row : row + 1], round_.action[time, row][None], (after.detach(),), None
    )
    np.testing.assert_allclose(round_.bootstrap[time, row], expected[0], atol=1e-6)


def test_a_round_ends_where_the_policy_has_moved_too_far() -> None:
    """With a target-KL that any update exceeds there is one update in a round, without one all."""
    for target, updates in ((1e-12, 1), (0.0, 12)):
        learner, round_ = collected([f"agent.target_kl={target}"])
        agent = learner.agent
        agent.learn(round_)
        before = agent.updates
        agent.learn(round_)
        assert agent.updates - before == updates
    # Nothing has moved in the very first update: the second is the first to see that.


def test_the_value_loss_by_hand() -> None:
    """V was 0, is 1 now and should be 0.5: without a limit 0.5 (1 - 0.5)^2 = 0.125; where it counts 0.2 from
    where it was, max((1 - 0.5)^2, (0.2 - 0.5)^2) / 2 = 0.125 too, and for a target of 2
    max(1, (0.2 - 2)^2) / 2 = 1.62."""
    for clip, target, expected in ((0.0, 0.5, 0.125), (0.2, 0.5, 0.125), (0.2, 2.0, 1.62)):
        task = TaskSpec(environment="x", kind="task", n_observation=2, choices=(2,))
        agent = PpoLstm(task, PpoLstmConfig(lstm=(), pre_lstm=(), clip_value=clip))
        with torch.no_grad():
            agent.network.critic[-1].weight.zero_()
            agent.network.critic[-1].bias.fill_(1.0)
        batch = {
            "observation": torch.zeros(3, 1, 2), "previous": torch.zeros(3, 1, 2),
            "memory": torch.zeros(1, 0), "truth": torch.zeros(3, 1, 0),
            "action": torch.eye(2)[[0, 1, 0]][:, None], "log_prob": torch.full((3, 1), -0.6931472),
            "value": torch.zeros(3, 1), "advantage": torch.tensor([[1.0], [-1.0], [0.0]]),
            "target": torch.full((3, 1), target), "valid": torch.tensor([[1.0], [1.0], [0.0]]),
        }  # fmt: skip
        np.testing.assert_allclose(
            float(agent._update(batch, 0.0)["value_loss"]), expected, rtol=1e-6
        )
