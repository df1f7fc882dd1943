"""LSTM-TD3 does what the paper says, and none of the mistakes that such code tends to make."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from memrl_ctrl.agents.batch import Batch
from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.networks import taken
from memrl_ctrl.agents.recurrent import Normaliser
from memrl_ctrl.agents.replay import Replay
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import LayersConfig, LstmTd3Config

SMALL = LayersConfig(pre_lstm=(8,), lstm=(8,), current=(8,), combination=(8,))
TASK = TaskSpec(
    environment="none",
    kind="task",
    n_observation=3,
    action_low=(-2.0,),
    action_high=(2.0,),
    n_truth=2,
)


def settings(**changes: Any) -> LstmTd3Config:
    defaults: dict[str, Any] = {"actor": SMALL, "critic": SMALL, "batch_size": 16}
    return LstmTd3Config(**{**defaults, **changes})


def filled(rng: np.random.Generator, steps: int = 40, columns: int = 3) -> Replay:
    replay = Replay(capacity=columns * 64, columns=columns, n_observation=3, n_action=1, n_truth=2)
    everyone = np.ones(columns, dtype=bool)
    for t in range(steps):
        seen = {
            "observation": rng.standard_normal((columns, 3)).astype("f4"),
            "previous": rng.uniform(-1, 1, (columns, 1)).astype("f4"),
            "truth": rng.standard_normal((columns, 2)).astype("f4"),
        }
        if t % 8 == 7:
            replay.close(everyone, **seen)
            continue
        replay.add(
            everyone,
            **seen,
            action=rng.uniform(-1, 1, (columns, 1)).astype("f4"),
            reward=rng.standard_normal(columns).astype("f4"),
            terminated=rng.random(columns) < 0.2,
        )
    return replay


VARIANTS = {
    "window": settings(),
    "memoryless": settings(history_length=0),
    "sequence": settings(memory="sequence"),
    "sequence-shared": settings(memory="sequence", actor=replace(SMALL, current=())),
    "stacked": settings(actor=replace(SMALL, lstm=(8, 4), post_lstm=(5,))),
    "truth": settings(
        memory="sequence",
        critic_memory=False,
        critic_sees_truth=True,
        critic_sees_observation=False,
        action_map="signed-square",
        gamma=0.0,
    ),
    "every option": settings(
        normalise_observations=True,
        actor_average=0.9,
        pre_tanh_penalty=1.0,
        gradient_clip=1.0,
        lr_schedule="cosine",
        optimiser="foreach",
        critic_sees_truth=True,
        history_actions=False,
        double_critic=False,
        target_smoothing=False,
    ),
}


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_learns_from_a_batch(config: LstmTd3Config) -> None:
    """Actor and critics move, and every figure is finite."""
    agent = LstmTd3(TASK, config, seed=1)
    replay = filled(np.random.default_rng(0))
    actor, critics = weights(agent.actor), weights(agent.critics)
    seen: dict[str, torch.Tensor] = {}
    for _ in range(4):
        seen |= agent.update(replay, progress=0.5)
    assert not same(actor, weights(agent.actor))
    assert not same(critics, weights(agent.critics))
    assert all(torch.isfinite(value) for value in seen.values())


@pytest.mark.parametrize("name", ["window", "sequence", "truth"])
def test_critics_are_frozen_while_the_actor_learns(name: str) -> None:
    """The actor's loss neither moves a critic nor leaves a gradient in it."""
    agent = LstmTd3(TASK, VARIANTS[name])
    batch = agent.sample(filled(np.random.default_rng(0)))
    agent.critic_optimiser.zero_grad(set_to_none=True)
    before = weights(agent.critics)
    agent.update_actor(batch)
    assert same(before, weights(agent.critics))
    assert all(p.grad is None for p in agent.critics.parameters())
    assert all(p.requires_grad for p in agent.critics.parameters())
    assert len(agent.critic_parameters) == len(list(agent.critics.parameters()))


def test_the_actors_gradient_is_that_of_the_critic_at_its_action() -> None:
    """The value that the actor climbs is the first critic's of the batch with the actor's action."""
    agent = LstmTd3(TASK, settings())
    batch = agent.sample(filled(np.random.default_rng(0)))
    expected = -agent.critic(batch, torch.tanh(agent.actor(batch))).mean().detach()
    assert float(agent.update_actor(batch)["actor_loss"]) == pytest.approx(
        float(expected), rel=1e-5
    )


class Fixed(nn.Module):
    """A network that answers one number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.actions: list[torch.Tensor] = []

    def forward(self, batch: Batch, action: Any = None, *, after: bool) -> torch.Tensor:
        assert after
        if action is None:
            return torch.full((*batch.reward.shape, 1), self.value)
        self.actions.append(action)
        return torch.full_like(batch.reward, self.value)


def test_target_by_hand_terminated_is_not_truncated() -> None:
    """y = r + gamma min(Q1', Q2') at a time limit, and y = r where the task ended."""
    agent = LstmTd3(TASK, settings(gamma=0.5))
    agent.target_actor = Fixed(10.0)
    agent.target_critics = nn.ModuleList([Fixed(4.0), Fixed(6.0)])
    batch = agent.sample(filled(np.random.default_rng(0)))
    ended = torch.zeros(16)
    ended[:8] = 1.0
    batch = replace(batch, reward=torch.ones(16), terminated=ended)
    assert agent.target(batch).tolist() == [1.0] * 8 + [1.0 + 0.5 * 4.0] * 8


def test_target_smoothing_is_clipped_twice() -> None:
    """The smoothing noise stays within its limit, and the action within [-1, 1]."""
    config = settings(target_noise=5.0, noise_clip=0.25)
    agent = LstmTd3(TASK, config)
    batch = agent.sample(filled(np.random.default_rng(0)))
    for pre_tanh, low, high in ((0.0, -0.25, 0.25), (10.0, 0.75, 1.0)):
        critic = Fixed(0.0)
        agent.target_actor, agent.target_critics = Fixed(pre_tanh), nn.ModuleList([critic])
        agent.target(batch)
        (action,) = critic.actions
        assert low - 1e-6 <= float(action.min()) < float(action.max()) <= high + 1e-6


def test_actor_and_targets_wait_for_the_policy_delay() -> None:
    """With a delay of 3 they move at the third update only; a delayed start holds the actor longer, but not
    the target critics, which the critics learn from meanwhile."""
    replay = filled(np.random.default_rng(0))
    for start, moved_at in ((0, [3, 6]), (3, [6])):
        agent = LstmTd3(TASK, settings(policy_delay=3, actor_start_updates=start))
        moved = []
        for update in range(1, 7):
            actor, targets = weights(agent.actor), weights(agent.target_critics)
            agent.update(replay)
            if not same(actor, weights(agent.actor)):
                moved.append(update)
            assert same(targets, weights(agent.target_critics)) == (update % 3 != 0)
        assert moved == moved_at


def test_targets_follow_slowly_and_get_no_gradient() -> None:
    """target <- polyak target + (1 - polyak) online, by hand."""
    agent = LstmTd3(TASK, settings(polyak=0.75))
    with torch.no_grad():
        for p in agent.actor.parameters():
            p.add_(1.0)
    before = weights(agent.target_actor)
    agent.update_targets()
    for old, new, online in zip(
        before, weights(agent.target_actor), weights(agent.actor), strict=True
    ):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * online)
    assert not any(p.requires_grad for p in agent.target_actor.parameters())


def test_the_actor_never_sees_the_truth() -> None:
    """Privileged features change the critics' values and nothing of the actor's."""
    agent = LstmTd3(TASK, settings(critic_sees_truth=True))
    batch = agent.sample(filled(np.random.default_rng(0)))
    other = replace(batch, truth=batch.truth + 1.0, next_truth=batch.next_truth + 1.0)
    assert torch.equal(agent.actor(batch), agent.actor(other))
    assert not torch.equal(agent.critic(batch, batch.action), agent.critic(other, batch.action))


def test_the_penalty_acts_beyond_the_limit_only() -> None:
    """Outputs before tanh within the limit are free; beyond it they are pulled back."""
    replay = filled(np.random.default_rng(0))
    losses = []
    for bias, weight in ((1.0, 0.0), (1.0, 5.0), (4.0, 0.0), (4.0, 5.0)):
        agent = LstmTd3(TASK, settings(pre_tanh_penalty=weight, pre_tanh_limit=2.0))
        nn.init.zeros_(agent.actor.head.weight)
        nn.init.constant_(agent.actor.head.bias, bias)
        losses.append(float(agent.update_actor(agent.sample(replay))["actor_loss"]))
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[3] - losses[2] == pytest.approx(5.0 * (4.0 - 2.0) ** 2, rel=1e-4)


def test_the_policy_is_the_averaged_actor() -> None:
    """What is evaluated and exported is the average; what explores is the actor itself."""
    agent = LstmTd3(TASK, settings(actor_average=0.9))
    replay = filled(np.random.default_rng(0))
    for _ in range(6):
        agent.update(replay)
    agent.refresh_behaviour()
    assert same(weights(agent.policy().actor), weights(agent.averaged_actor))
    assert not same(weights(agent.averaged_actor), weights(agent.actor))
    assert same(weights(agent.behaviour.actor), weights(agent.actor))


def test_learning_rates_follow_half_a_cosine() -> None:
    """At the start, the middle and the end of a run: all, half, and the final share."""
    agent = LstmTd3(TASK, settings(lr_schedule="cosine", lr_final=0.2, actor_lr=1e-2))
    replay = filled(np.random.default_rng(0))
    rates = []
    for progress in (0.0, 0.5, 1.0, 1.5):
        agent.update(replay, progress=progress)
        rates.append(agent.actor_optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 0.6e-2, 0.2e-2, 0.2e-2])


def test_a_seed_reproduces_and_leaves_the_global_generator_alone() -> None:
    """Two agents of a seed learn and act the same; torch's own generator is not touched."""
    before = torch.get_rng_state()
    results = []
    for seed in (3, 3, 4):
        agent = LstmTd3(TASK, settings(), seed=seed)
        replay = filled(np.random.default_rng(0))
        for _ in range(3):
            agent.update(replay)
        squashed, _, _ = agent.act(
            np.ones((2, 3), dtype="f4"), np.zeros((2, 1), dtype="f4"), agent.initial_memory(2)
        )
        results.append([*weights(agent.actor), torch.from_numpy(squashed)])
    assert same(results[0], results[1])
    assert not same(results[0], results[2])
    assert torch.equal(before, torch.get_rng_state())


def test_state_and_restore_go_on_alike() -> None:
    """An agent restored from its state takes the same next step."""
    config = VARIANTS["every option"]
    replay = filled(np.random.default_rng(0))
    agent = LstmTd3(TASK, config, seed=1)
    agent.observe(np.random.default_rng(1).standard_normal((5, 3)).astype("f4"))
    agent.update(replay)
    other = LstmTd3(TASK, config, seed=9)
    other.restore(copy.deepcopy(agent.state()))
    for one in (agent, other):
        for _ in range(3):
            one.update(replay)
    assert same(weights(agent.actor), weights(other.actor))
    assert same(weights(agent.averaged_actor), weights(other.averaged_actor))


def test_the_normaliser_keeps_mean_and_variance() -> None:
    """Updates with batches of any size give the statistics of all observations together."""
    rng = np.random.default_rng(0)
    data = rng.normal(3.0, 2.0, (100, 4)).astype("f4")
    normaliser = Normaliser(4)
    for part in np.split(data, [1, 10, 50]):
        normaliser.update(torch.from_numpy(part))
    np.testing.assert_allclose(normaliser.mean.numpy(), data.mean(0), rtol=1e-5)
    np.testing.assert_allclose(normaliser.variance.numpy(), data.var(0), rtol=1e-4)
    assert float(normaliser(torch.full((1, 4), 1e6)).max()) == Normaliser.LIMIT


@pytest.mark.parametrize(("share", "noisy"), [(1.0, 8), (0.25, 2), (0.3, 3), (0.0, 0)])
def test_a_share_of_the_environments_explores(share: float, noisy: int) -> None:
    """The others act as the policy says; random acting at the start is everybody's."""
    agent = LstmTd3(TASK, settings(exploration_share=share, exploration_noise=0.3), seed=1)
    quiet = LstmTd3(TASK, settings(exploration_noise=0.0), seed=1)
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((8, 3)).astype("f4")
    before = np.zeros((8, 1), dtype="f4")
    decided, _, _ = agent.act(seen, before, agent.initial_memory(8))
    intended, _, _ = quiet.act(seen, before, quiet.initial_memory(8))
    differs = (decided != intended).ravel()
    assert differs.tolist() == [i < noisy for i in range(8)]
    random, _, _ = agent.act(seen, before, agent.initial_memory(8), random=True)
    assert (random != intended).all()


def test_hands_are_still_within_the_dead_band() -> None:
    """Small actions become none, in acting and in the exported policy, with and without a map."""
    config = settings(action_map="signed-square", dead_band=0.01)
    squashed = torch.tensor([[0.09], [-0.09], [0.11], [-0.11], [0.0]])
    assert taken(squashed, config).ravel().tolist() == pytest.approx([0, 0, 0.0121, -0.0121, 0])
    agent = LstmTd3(TASK, config)
    action = agent.policy().from_squashed(squashed)
    assert action.ravel().tolist() == pytest.approx([0, 0, 0.0242, -0.0242, 0])
    seen = np.zeros((64, 3), dtype="f4")
    before = np.zeros((64, 1), dtype="f4")
    quiet = LstmTd3(TASK, settings(dead_band=1.0, exploration_noise=0.3))
    _, unit, _ = quiet.act(seen, before, quiet.initial_memory(64))
    assert (unit == 0.0).sum() > 0
    assert ((unit == 0.0) | (np.abs(unit) == 1.0)).all()
