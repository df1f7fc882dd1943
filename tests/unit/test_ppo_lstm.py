"""PPO-LSTM: its agent on each kind of task, its memory, and the task that it learns first."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch

from memrl_ctrl.agents.ppo_lstm import PpoLstm
from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.config import PpoLstmConfig
from memrl_ctrl.tasks.cartpole import CartPoleNoVelVector


def test_the_vector_task_is_gymnasiums_cartpole() -> None:
    """From the same state the same actions bring the same positions, ends and lengths."""
    vector = CartPoleNoVelVector(num_envs=3, autoreset=False)
    single = [gymnasium.make("CartPole-v1") for _ in range(3)]
    vector.reset(seed=[1, 2, 3])
    for row, env in enumerate(single):
        env.reset(seed=0)
        env.unwrapped.state = tuple(vector._state[row])  # type: ignore[attr-defined]
    rng = np.random.default_rng(4)
    alive = np.ones(3, dtype=bool)
    for _ in range(60):
        action = rng.integers(0, 2, 3)
        seen, _, terminated, _, _ = vector.step(action)
        for row in np.flatnonzero(alive):
            expected, _, over, _, _ = single[row].step(int(action[row]))
            np.testing.assert_allclose(seen[row], expected[[0, 2]], rtol=1e-5, atol=1e-7)
            assert bool(terminated[row]) == over
            alive[row] &= not over
    assert not alive.all()


@pytest.mark.parametrize(
    "task",
    [
        TaskSpec(
            environment="x",
            kind="task",
            n_observation=147,
            choices=(7,),
            observation_shape=(7, 7, 3),
        ),
        TaskSpec(environment="x", kind="task", n_observation=5, choices=(3, 2)),
        beam_task(n_slices=32),
    ],
    ids=["grid", "several choices", "beam"],
)
def test_agents_fit_their_tasks(task: TaskSpec) -> None:
    """Grids pass convolutions, several choices and continuous actions work, and the policy acts as the
    network does without noise."""
    agent = PpoLstm(task, PpoLstmConfig(history_actions=True, actor=(16,), critic=(16,)), seed=1)
    memory, previous = agent.initial_memory(4), np.zeros((4, task.n_action), dtype="f4")
    rng = np.random.default_rng(0)
    policy = agent.policy()
    outside = [torch.zeros(4, *spec.shape) for spec in policy.memory_specs()]
    applied = torch.zeros(4, *task.action_spec().shape)
    for _ in range(5):
        seen = rng.normal(size=(4, task.n_observation)).astype("f4")
        decided, unit, memory = agent.act(seen, previous, memory)
        raw, _, _ = agent.network.step(
            torch.from_numpy(seen), torch.from_numpy(previous), torch.from_numpy(decided.memory),
            torch.zeros(4, 0),
        )  # fmt: skip
        best = agent.network.distribution(raw, None).mode().detach().numpy()
        action, *outside = policy(torch.from_numpy(seen).reshape(4, *task.shape), applied, *outside)
        np.testing.assert_allclose(
            task.unit_of(action.detach().numpy()), best.clip(-1.0, 1.0), atol=1e-5
        )
        previous = unit
        applied = torch.from_numpy(task.seen_as_previous(task.centre + task.half_range * unit))


def test_the_memory_lasts_before_anything_is_learnt() -> None:
    """After 10 steps a fresh LSTM that looks at nothing holds sigmoid(bias) ** 10 of its cell."""
    spec = TaskSpec(environment="a task", kind="task", n_observation=1, choices=(2,))
    kept = {}
    for bias in (0.0, 2.0):
        config = PpoLstmConfig(pre_lstm=(4,), lstm=(8,), forget_bias=bias)
        network = PpoLstm(spec, config, seed=3).network
        torch.nn.init.zeros_(network.trunk.lstm.layers[0].weight_hh_l0)
        state = torch.zeros(1, network.n_state)
        state[:, 8:] = 1.0
        nothing = torch.zeros(1, 1)
        for _ in range(10):
            _, _, state = network.step(nothing, torch.zeros(1, 2), state, nothing[:, :0])
        kept[bias] = float(state[:, 8:].detach().mean())
    assert kept[0.0] == pytest.approx(0.5**10, rel=1e-4)
    assert kept[2.0] == pytest.approx((1.0 / (1.0 + np.exp(-2.0))) ** 10, rel=1e-4)


def test_the_spread_is_scheduled_and_small_actions_are_fine() -> None:
    """The spread goes from the first to the last over the run and is not learnt; a is sign(a) a^2 of what
    was drawn, in acting as in the policy that is exported."""
    config = PpoLstmConfig(
        lstm=(8,), log_std_schedule="linear", initial_log_std=-1.0, final_log_std=-3.0,
        action_map="signed-square",
    )  # fmt: skip
    task = beam_task(n_slices=16)
    agent = PpoLstm(task, config, seed=3)
    agent._schedule(0.5)
    torch.testing.assert_close(agent.network.log_std, torch.full((1,), -2.0))
    assert not agent.network.log_std.requires_grad
    seen = np.random.default_rng(0).normal(size=(6, 17)).astype("f4")
    nothing = np.zeros((6, 1), dtype="f4")
    decided, unit, _ = agent.act(seen, nothing, agent.initial_memory(6))
    drawn = decided.action.clip(-1.0, 1.0)
    np.testing.assert_allclose(unit, np.sign(drawn) * drawn**2, atol=1e-7)
    policy = agent.policy()
    raw, _ = policy.step(torch.from_numpy(seen), torch.zeros(6, 1), *(torch.zeros(6, 8),) * 2)
    action, *_ = policy(torch.from_numpy(seen), torch.zeros(6, 1), *(torch.zeros(6, 8),) * 2)
    bounded = raw.detach().clamp(-1.0, 1.0)
    torch.testing.assert_close(
        action.detach(), bounded.sign() * bounded**2 * np.pi / 2, atol=1e-6, rtol=0
    )
