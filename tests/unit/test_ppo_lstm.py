"""PPO-LSTM: advantages by hand, sequences that stay in their episodes, and what learns what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.agents.distributions import Choices, Gaussian
from memrl_ctrl.agents.ppo_lstm import PpoLstm
from memrl_ctrl.agents.rollout import RewardScale, Rollout, advantages, places, sequences
from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.config import ConfigError, PpoLstmConfig, resolve
from memrl_ctrl.tasks.cartpole import CartPoleNoVelVector
from memrl_ctrl.training import evaluate, train
from memrl_ctrl.training.collect import Ends
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.on_policy import OnPolicy
from memrl_ctrl.training.stepper import Stepper


def rollout(reward: list[float], value: list[float], **more: Any) -> Rollout:
    steps = len(reward)
    column = {
        "terminated": [False] * steps, "ended": [False] * steps, "valid": [True] * steps,
        "bootstrap": [0.0] * steps, "following": 0.0, **more,
    }  # fmt: skip
    nothing = np.zeros((steps, 1, 0), dtype="f4")

    def one(name: str, kind: str) -> Any:
        return np.array(column[name], dtype=kind)[:, None]

    return Rollout(
        observation=nothing, previous=nothing, memory=nothing, truth=nothing, action=nothing,
        allowed=None, log_prob=np.zeros((steps, 1), dtype="f4"),
        value=np.array(value, dtype="f4")[:, None], reward=np.array(reward, dtype="f4")[:, None],
        terminated=one("terminated", "?"), ended=one("ended", "?"), valid=one("valid", "?"),
        bootstrap=one("bootstrap", "f4"), following=np.array([column["following"]], dtype="f4"),
    )  # fmt: skip


def test_advantages_by_hand() -> None:
    """With gamma 0.5 and lambda 0.5: delta_2 = 3 + 0.5*4 - 2 = 3, delta_1 = 2 + 0.5*2 - 1 = 2,
    delta_0 = 1 + 0.5*1 - 0 = 1.5; A_2 = 3, A_1 = 2 + 0.25*3 = 2.75, A_0 = 1.5 + 0.25*2.75 = 2.1875."""
    advantage, target = advantages(
        rollout([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], following=4.0), 0.5, 0.5
    )
    np.testing.assert_allclose(advantage[:, 0], [2.1875, 2.75, 3.0])
    np.testing.assert_allclose(target[:, 0], [2.1875, 3.75, 5.0])


def test_a_time_limit_is_not_an_end() -> None:
    """Where the task ends nothing follows: A = r - V. Where time ends the value of what would have
    followed counts: A = r + gamma V' - V. Nothing of the next episode counts in either."""
    ended = {"ended": [False, True, False], "following": 100.0}
    over, _ = advantages(
        rollout([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], terminated=[False, True, False], **ended),
        0.5,
        0.5,
    )
    np.testing.assert_allclose(over[1:, 0], [1.0, 51.0])
    np.testing.assert_allclose(over[0, 0], 1.0 + 0.5 * 1.0 - 0.0 + 0.25 * 1.0)
    cut, _ = advantages(
        rollout([1.0, 2.0, 3.0], [0.0, 1.0, 2.0], bootstrap=[0.0, 10.0, 0.0], **ended), 0.5, 0.5
    )
    np.testing.assert_allclose(cut[1, 0], 2.0 + 0.5 * 10.0 - 1.0)
    np.testing.assert_allclose(cut[2, 0], 51.0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 9), st.integers(0, 10_000))
def test_sequences_cover_every_step_once(steps: int, rows: int, longest: int, seed: int) -> None:
    """Every step is in exactly one sequence; none crosses an episode's end, holds what is no step, or is
    too long; each but the last of an episode's or row's stretch has the full length."""
    rng = np.random.default_rng(seed)
    ended, valid = rng.random((steps, rows)) < 0.15, rng.random((steps, rows)) < 0.95
    cut = sequences(ended, valid, longest)
    count = np.zeros((steps, rows), dtype=int)
    for row, start, length in zip(cut.row, cut.start, cut.length, strict=True):
        part = slice(start, start + length)
        count[part, row] += 1
        assert not ended[part, row][:-1].any()
        assert valid[part, row].all()
        assert not longest or length <= longest
        last = start + length - 1
        goes_on = last + 1 < steps and not ended[last, row] and valid[last + 1, row]
        assert not goes_on or length == longest
    np.testing.assert_array_equal(count, valid)
    if len(cut):
        pick = rng.permutation(len(cut))[:3]
        time, row, there = places(cut, pick, int(cut.length[pick].max()))
        np.testing.assert_array_equal(there.sum(axis=0), cut.length[pick])
        np.testing.assert_array_equal(time[0], cut.start[pick])
        np.testing.assert_array_equal(row, cut.row[pick])


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


def test_a_masked_choice_is_never_made() -> None:
    """What may not be chosen has probability 0, and the others share it all."""
    logits = torch.randn(500, 5)
    allowed = (torch.rand(500, 5) < 0.5).float()
    allowed[:, 2] = 1.0
    policy = Choices(logits, (5,), allowed)
    action = policy.sample(torch.Generator().manual_seed(0))
    assert (action.sum(dim=-1) == 1).all()
    assert ((action * (1 - allowed)).sum(dim=-1) == 0).all()
    each = torch.eye(5).expand(500, 5, 5)
    total = sum(policy.log_prob(each[:, k]).exp() for k in range(5))
    torch.testing.assert_close(total, torch.ones(500))


def test_choices_are_drawn_as_probable_as_they_are() -> None:
    """Of several choices each is drawn with its probability; entropy and log probability add up."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 1.0]]).expand(40_000, 5)
    policy = Choices(logits, (3, 2))
    action = policy.sample(torch.Generator().manual_seed(1))
    expected = torch.cat((logits[0, :3].softmax(-1), logits[0, 3:].softmax(-1)))
    torch.testing.assert_close(action.mean(dim=0), expected, atol=0.01, rtol=0)
    entropy = -(expected[:3] * expected[:3].log()).sum() - (expected[3:] * expected[3:].log()).sum()
    torch.testing.assert_close(policy.entropy()[0], entropy)
    torch.testing.assert_close(-policy.log_prob(action).mean(), entropy, atol=0.02, rtol=0)


def test_normal_actions_have_their_density() -> None:
    """Log probability and entropy are torch's."""
    mean, log_std = torch.randn(7, 3), torch.randn(3)
    policy, known = Gaussian(mean, log_std), torch.distributions.Normal(mean, log_std.exp())
    action = policy.sample(torch.Generator().manual_seed(2))
    torch.testing.assert_close(policy.log_prob(action), known.log_prob(action).sum(-1))
    torch.testing.assert_close(policy.entropy(), known.entropy().sum(-1))


def test_rewards_are_scaled_by_the_deviation_of_returns() -> None:
    """After many steps the discounted return of what is given has deviation 1; the state comes back."""
    rng = np.random.default_rng(0)
    scale = RewardScale(8, 0.9)
    none, every = np.zeros((64, 8), dtype=bool), np.ones((64, 8), dtype=bool)
    for _ in range(30):
        scale.scale(rng.normal(0.0, 5.0, (64, 8)).astype("f4"), none, every)
    none, every = np.zeros((900, 8), dtype=bool), np.ones((900, 8), dtype=bool)
    scaled = scale.scale(rng.normal(0.0, 5.0, (900, 8)).astype("f4"), none, every)
    returns = np.zeros(8)
    seen = []
    for t in range(900):
        returns = 0.9 * returns + scaled[t]
        seen.append(returns.copy())
    assert abs(np.std(seen[100:]) - 1.0) < 0.08
    none, every = none[:64], every[:64]
    other = RewardScale(8, 0.9)
    other.restore(scale.state())
    reward = rng.normal(size=(64, 8)).astype("f4")
    np.testing.assert_array_equal(
        scale.scale(reward, none, every), other.scale(reward, none, every)
    )


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


@pytest.mark.parametrize("overlap", ["true", "false"])
def test_a_resumed_run_is_exact(overlap: str, tmp_path: Path) -> None:
    """Interrupted between rounds and resumed, the run ends with the same weights to the bit."""
    small = [
        "environment.num_envs=4", "environment.options={episode_length: 13}", "agent.rollout_steps=16",
        "agent.pre_lstm=[8]", "agent.lstm=[8]", "logging.tensorboard=false", "logging.every_s=0",
        "evaluation.episodes=2", f"overlap={overlap}", "logging.checkpoint_replay=always",
        "agent.lr_schedule=constant",
    ]  # fmt: skip
    from memrl_ctrl.training import checkpoint

    def run(steps: int, out: str, **more: Any) -> dict[str, Any]:
        config = resolve("ppo-lstm-cartpole-no-vel", [*small, f"steps={steps}"])
        content = checkpoint.load(train(config, out=tmp_path / out, **more).checkpoint)
        return dict(content)

    whole = run(640, "whole")
    run(320, "first")
    second = run(640, "second", resume=tmp_path / "first")
    for name, value in whole["agent"]["network"].items():
        assert torch.equal(value, second["agent"]["network"][name]), name
    assert whole["agent"]["rng"] == second["agent"]["rng"]


def test_it_learns_cartpole_without_velocity(tmp_path: Path) -> None:
    """In a minute's fraction episodes become several times longer than by chance."""
    quick = ["steps=120000", "agent.lr_schedule=constant", "logging.tensorboard=false"]
    config = resolve("ppo-lstm-cartpole-no-vel", quick)
    result = train(config, out=tmp_path / "run")
    assert result.evaluation is not None
    assert result.evaluation["return_mean"] > 100.0


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


def test_random_moves_can_belong_to_the_policy() -> None:
    """Mixed in, each choice has (1 - eps) p + eps / n, n those allowed; what is not allowed has none and
    gives no gradient that is not a number; several choices are mixed each for itself."""
    logits = torch.randn(50, 5, requires_grad=True)
    allowed = torch.ones(50, 5)
    allowed[:, 1] = 0.0
    policy = Choices(logits, (3, 2), allowed, random=0.3)
    p = torch.cat(
        [part.softmax(-1) for part in logits.masked_fill(allowed == 0, -1e9).split((3, 2), -1)], -1
    )
    expected = 0.7 * p + 0.3 * torch.tensor([0.5, 0.0, 0.5, 0.5, 0.5])
    eye = torch.eye(5)
    for first, second in ((0, 3), (2, 4)):
        action = (eye[first] + eye[second]).expand(50, 5)
        wanted = expected[:, first] * expected[:, second]
        torch.testing.assert_close(policy.log_prob(action).exp(), wanted)
    (policy.entropy().sum() + policy.log_prob(policy.mode()).sum()).backward()
    assert bool(torch.isfinite(logits.grad).all())  # type: ignore[arg-type]
    drawn = Choices(logits.detach(), (3, 2), allowed, random=0.3).sample(
        torch.Generator().manual_seed(0)
    )
    assert not drawn[:, 1].any()


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


SHORT = [
    "environment.num_envs=4", "agent.rollout_steps=16", "agent.lstm=[8]", "agent.actor=[]",
    "agent.critic=[]", "logging.every_s=0", "evaluation.episodes=2",
]  # fmt: skip


def test_a_run_ends_where_its_goal_is_reached(tmp_path: Path) -> None:
    """The first evaluation that reaches the return ends the run, and says so; without evaluations on the
    way it is refused."""
    base = [*SHORT, "logging.tensorboard=false", "steps=2000", "evaluation.every_steps=200"]
    config = resolve("ppo-lstm-cartpole-no-vel", [*base, "evaluation.stop_at_return=1"])
    result = train(config, out=tmp_path / "run")
    assert result.solved
    assert 200 <= result.steps < 300
    assert result.evaluation is not None
    assert result.evaluation["steps"] == result.steps
    other = resolve(
        "ppo-lstm-cartpole-no-vel", [*base, "steps=300", "evaluation.stop_at_return=501"]
    )
    assert not train(other, out=tmp_path / "other").solved
    with pytest.raises(ConfigError, match="stop_at_return needs evaluations on the way"):
        resolve("ppo-lstm-cartpole-no-vel", ["evaluation.every_steps=0"])


def test_a_run_is_judged_on_another_environment(tmp_path: Path) -> None:
    """`evaluation.environment` is what held-out episodes are of, while training and in `evaluate`."""
    config = resolve(
        "ppo-lstm-cartpole-no-vel",
        [
            *SHORT,
            "steps=128",
            "logging.tensorboard=false",
            "evaluation.environment=memrl/Probe-Other-v0",
        ],
    )
    gymnasium.register(
        "memrl/Probe-Other-v0", entry_point="memrl_ctrl.tasks.cartpole:CartPoleNoVel",
        kwargs={"episode_length": 3},
    )  # fmt: skip
    try:
        result = train(config, out=tmp_path / "run")
        judged = evaluate(tmp_path / "run")
        trained_on = evaluate(tmp_path / "run", environment="memrl/CartPoleNoVel-v0")
    finally:
        del gymnasium.registry["memrl/Probe-Other-v0"]
    assert result.evaluation is not None
    assert result.evaluation["environment"] == judged.environment == "memrl/Probe-Other-v0"
    assert judged.lengths.max() == 3
    assert trained_on.lengths.max() > 3


def test_a_model_is_watched(tmp_path: Path) -> None:
    """Weights and gradients are among the histograms; the moving average of returns among the figures."""
    from memrl_ctrl.training.figures import model_arrays
    from memrl_ctrl.training.logs import grouped, read_metrics

    watched: dict[str, Any] = {}

    class Spy:
        def log(self, steps: int, figures: Any) -> None: ...
        def histograms(self, steps: int, values: Any) -> None:
            watched.update(values)

        def close(self) -> None: ...

    from memrl_ctrl.training import loop

    config = resolve("ppo-lstm-cartpole-no-vel", [
        *SHORT, "steps=256", "logging.tensorboard=false", "logging.watch_model=true",
        "logging.histograms_every_s=1e-9", "torch_deterministic=true", "logging.return_decay=0.5",
        "environment.options={episode_length: 7}",
    ])  # fmt: skip
    make = loop.make_loggers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_loggers", lambda *a, **k: [*make(*a, **k), Spy()])
        train(config, out=tmp_path / "run")
    assert {"weights_network.trunk.lstm.layers.0.weight_hh_l0",
            "gradients_network.trunk.lstm.layers.0.weight_hh_l0"} <= set(watched)  # fmt: skip
    assert grouped("weights_network.actor.0.bias") == "weights/network.actor.0.bias"
    averages = [row["return_ema"] for row in read_metrics(tmp_path / "run") if "return_ema" in row]
    assert averages[-1] == 7.0
    assert not torch.are_deterministic_algorithms_enabled()
    assert not model_arrays(object())


def test_the_moving_average_of_returns_by_hand() -> None:
    """Decay 0.5: 2; then 0.5*2 + 0.5*4 = 3; the state comes back."""
    from types import SimpleNamespace

    ends = Ends(2, 0.5)
    yes, no = np.array([True, True]), np.array([True, False])
    for reward, ended in (([1.0, 3.0], yes), ([4.0, 9.0], no)):
        ends.note(SimpleNamespace(  # type: ignore[arg-type]
            ended=ended, valid=yes, reward=np.array(reward), phase_error_rad=None
        ))  # fmt: skip
    assert ends.figures()["return_ema"] == 3.0
    other = Ends(2, 0.5)
    other.restore(ends.state())
    assert other.figures()["return_ema"] == 3.0


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


def test_statistics_of_rewards_and_observations_go_on(tmp_path: Path) -> None:
    """A run that ended and is given more steps goes on with the scales of its rewards and observations."""
    from memrl_ctrl.training import checkpoint

    def counts(path: Path) -> tuple[float, float]:
        agent = checkpoint.load(path)["agent"]
        return float(agent["rewards"][0]), float(agent["normaliser"]["count"])

    base = [*SHORT, "logging.tensorboard=false", "evaluation.every_steps=0", "overlap=false",
            "evaluation.stop_at_return=null"]  # fmt: skip
    name = "ppo-lstm-cartpole-no-vel"
    first = train(resolve(name, [*base, "steps=256"]), out=tmp_path / "first")
    assert counts(first.checkpoint) == (256.0, 256.0)
    more = resolve(name, [*base, "steps=512"])
    second = train(more, out=tmp_path / "second", resume=tmp_path / "first")
    assert counts(second.checkpoint) == (512.0, 512.0)


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
