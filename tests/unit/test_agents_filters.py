"""The memory that averages: fading-memory filters over what each observation says, and their mixture."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import memrl_ctrl  # noqa: F401 - registers the environments
from memrl_ctrl.agents.exportable import untrained_policy
from memrl_ctrl.agents.filters import (
    FIRST_WEIGHT,
    FREEDOM,
    LOG_MIDDLE,
    LOG_RANGE,
    SPREAD_DEG,
    FilterMemory,
    fine,
    log_spread,
    mixed,
    surprise,
    wrap,
)
from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.networks import FilterActor
from memrl_ctrl.agents.replay import Replay
from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.config import LayersConfig, LstmTd3Config
from memrl_ctrl.errors import UsageError
from memrl_ctrl.training.collect import Collector
from memrl_ctrl.training.environments import task_of
from memrl_ctrl.training.figures import memory_units
from memrl_ctrl.training.stepper import Stepper

KEEPS = (0.0, 0.5, 0.9, 1.0)
SMALL = LayersConfig(pre_lstm=(16,), lstm=(8,), current=(), combination=(8,))
SETTINGS: dict[str, Any] = {
    "memory": "sequence",
    "filters": KEEPS,
    "history_scale": "logarithmic",
    "estimate_weight": 1.0,
    "critic_sees_truth": True,
    "actor": SMALL,
    "critic": SMALL,
}


def plain_memory() -> FilterMemory:
    """A memory whose observation is the vector that it says, all of them trusted alike."""
    layers = LayersConfig(pre_lstm=(), lstm=(4,), current=(), combination=())
    memory = FilterMemory(2, layers, keeps=KEEPS, half_range_rad=1.0)
    with torch.no_grad():
        memory.says.weight.copy_(torch.eye(2))
        memory.says.bias.zero_()
    return memory


def read(memory: FilterMemory, said: np.ndarray, applied: np.ndarray) -> tuple[Any, Any]:
    """Return logarithmic weights and averages [time, n] for what observations say and what was applied."""
    angle = torch.from_numpy(said.astype("f4"))[:, None]
    seen = torch.stack((torch.cos(angle), torch.sin(angle)), dim=-1)
    with torch.no_grad():
        out, _, _ = memory(seen, torch.from_numpy(applied.astype("f4"))[:, None, None])
    _, weights, averages, *_ = memory.parts(out)
    return weights[:, 0, :-1].numpy(), averages[:, 0, :-1].numpy()  # the last is the LSTM's


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), steps=st.integers(1, 20))
def test_each_filter_is_the_fading_mean_of_what_is_still_wanted(seed: int, steps: int) -> None:
    """Of every earlier observation, less what was applied since, with weights keep^age, on the circle."""
    rng = np.random.default_rng(seed)
    applied = rng.uniform(-0.9, 0.9, steps)
    applied[0] = 0.0
    said = rng.uniform(-math.pi, math.pi) - np.cumsum(applied) + rng.normal(0.0, 0.02, steps)
    _, averages = read(plain_memory(), said, applied)
    for t in range(steps):
        still = [said[s] - applied[s + 1 : t + 1].sum() for s in range(t + 1)]
        for k, keep in enumerate(KEEPS):
            share = np.array([keep ** (t - s) for s in range(t + 1)])
            expected = np.angle((share * np.exp(1j * np.array(still))).sum())
            assert abs(np.angle(np.exp(1j * (averages[t, k] - expected)))) < 1e-4


@pytest.mark.parametrize("first", [3, 25])
def test_what_contradicts_the_past_ends_it(first: int) -> None:
    """Behind a step of 40 degrees every filter averages what came since, however much it remembers."""
    rng = np.random.default_rng(8)
    said = np.radians(rng.normal(0.0, 0.5, first + 6))
    said[first:] += math.radians(40.0)
    _, averages = read(plain_memory(), said, np.zeros(first + 6))
    assert np.abs(np.degrees(averages[first - 1])).max() < 1.5
    for t in range(first, first + 6):
        assert np.abs(np.degrees(averages[t]) - 40.0).max() < 1.5
    mean = np.degrees(said[first:].mean())
    assert abs(math.degrees(averages[-1, -1]) - mean) < 0.05  # the one that keeps all


def test_a_sequence_at_once_is_the_same_as_step_by_step() -> None:
    """Training sees whole sequences, acting one step: both come to the same numbers and the same memory."""
    torch.manual_seed(0)
    memory = FilterMemory(9, SMALL, keeps=KEEPS, half_range_rad=1.5)
    seen, applied = torch.randn(12, 5, 9), 0.6 * torch.rand(12, 5, 1) - 0.3
    with torch.no_grad():
        at_once, _, last = memory(seen, applied)
        state, steps = None, []
        for t in range(12):
            one, _, state = memory(seen[t : t + 1], applied[t : t + 1], state)
            steps.append(one)
    torch.testing.assert_close(torch.cat(steps), at_once, atol=1e-4, rtol=1e-4)
    assert state is not None
    for ours, theirs, name in zip(state, last, memory.carried, strict=True):
        torch.testing.assert_close(
            ours, theirs, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert ours.shape == (5, memory.carried[name])


@pytest.mark.parametrize(
    ("jitter_deg", "drift_deg", "best"), [(1.0, 0.0, 3), (0.3, 0.0, 3), (0.1, 3.0, 0)]
)
def test_the_filter_that_foresees_best_weighs_most(
    jitter_deg: float, drift_deg: float, best: int
) -> None:
    """A target that jitters about its place: the one that keeps all; that runs away: the one that forgets."""
    rng = np.random.default_rng(3)
    steps = 40
    said = np.radians(20.0 + jitter_deg * rng.normal(size=steps) + drift_deg * np.arange(steps))
    weights, _ = read(plain_memory(), said, np.zeros(steps))
    assert int(weights[-1].argmax()) == best
    np.testing.assert_allclose(weights[0], 0.0, atol=1e-6)  # nothing was foreseen yet


@pytest.mark.parametrize(("recalled_rad", "doubted"), [(0.0, True), (0.3, False)])
@pytest.mark.parametrize("parts", [1, 3])
def test_what_observations_contradict_for_long_weighs_less(
    recalled_rad: float, doubted: bool, parts: int
) -> None:
    """An LSTM that says the phase is right while every observation says it is 0.3 rad off is believed less
    from shot to shot, in whatever pieces they come; one that says the same as they keeps its weight."""
    memory = plain_memory()
    with torch.no_grad():
        memory.recalls.weight.zero_()
        memory.recalls.bias.copy_(torch.tensor([math.cos(recalled_rad), math.sin(recalled_rad)]))
        # A spread of 10 degrees: each observation alone is no contradiction.
        weight = 2.0 * math.log(SPREAD_DEG / 10.0)
        memory.trusts.bias.fill_(LOG_RANGE * math.atanh(weight / LOG_RANGE))
        seen = torch.tensor([math.cos(0.3), math.sin(0.3)]).expand(30, 1, 2)
        weights, state = [], None
        for piece in torch.tensor_split(seen, parts):
            out, _, state = memory(piece, torch.zeros(len(piece), 1, 1), state)
            weights.append(memory.parts(out)[1][:, 0, -1])
    last = torch.cat(weights).numpy()
    assert last[0] == pytest.approx(FIRST_WEIGHT)
    if doubted:
        assert last[2] > FIRST_WEIGHT - 3.0
        assert last[-1] < FIRST_WEIGHT - 10.0
        assert (np.diff(last) < 1e-3).all()
    else:
        assert last == pytest.approx(FIRST_WEIGHT, abs=1e-3)


def test_averaging_needs_no_training() -> None:
    """With weights as they begin, the mixture is far nearer to a still target than one observation."""
    rng = np.random.default_rng(5)
    memory, off = plain_memory(), []
    for _ in range(40):
        said = np.radians(rng.normal(0.0, 1.0, 30))
        weights, averages = read(memory, said, np.zeros(30))
        chosen = mixed(torch.from_numpy(weights), torch.from_numpy(averages))
        off.append(math.degrees(float(chosen[-1, 0])))
    assert np.std(off) < 0.4


def test_angles_have_no_jump_at_the_cut() -> None:
    """What lies a rounding apart on both sides of pi gives the same: a graph may round otherwise."""
    near = torch.tensor([math.pi - 1e-5, -math.pi + 1e-5])
    assert float(fine(near).abs().max()) < 1e-3
    assert float(fine(torch.tensor(math.radians(90.0)))) > 0.8
    assert float(wrap(torch.tensor(3.5 * math.pi))) == pytest.approx(-0.5 * math.pi, abs=1e-5)
    opposite = mixed(torch.zeros(2), near)
    assert abs(float(opposite)) == pytest.approx(math.pi, abs=1e-4)


def test_a_policy_with_filters_carries_them_by_name() -> None:
    """The manifest names every array; their widths are those of the bank; actions keep to the range."""
    config = LstmTd3Config(**SETTINGS)
    policy = untrained_policy(beam_task(n_slices=64), config, seed=1)
    widths = {spec.name_in: spec.shape for spec in policy.manifest.memory}
    assert widths["filter_misses_in"] == (len(KEEPS) + 1,)
    assert widths["filter_recalled_in"] == (1,)
    assert widths["filter_said_in"] == (2,)
    action, *state = policy.module(torch.randn(7, 65), torch.zeros(7, 1), *policy.initial_memory(7))
    assert float(action.abs().max()) <= math.pi / 2
    assert len(state) == len(widths) == 8


def beam_agent(**settings: Any) -> tuple[LstmTd3, Replay, Collector]:
    """Play some episodes of the beam and keep them."""
    env = gymnasium.make_vec(
        "memrl/BeamPhase-v0",
        4,
        vectorization_mode="vector_entry_point",
        vector_kwargs={},
        program="psb-2gev",
        n_slices=32,
        episode_length=6,
    )
    task = task_of("memrl/BeamPhase-v0", env)
    config = LstmTd3Config(**{**SETTINGS, "exploration_noise": 0.0, **settings})
    stepper = Stepper(env, task)
    row = stepper.reset(5)
    agent = LstmTd3(task_with_truth(task, row.truth), config, seed=2)
    replay = Replay(
        capacity=400,
        columns=4,
        n_observation=task.n_observation,
        n_action=1,
        n_truth=agent.task.n_truth,
    )
    collector = Collector(stepper, row, agent)
    for one in collector.collect(48, random=False):
        one.store(replay, truth=True)
    stepper.close()
    return agent, replay, collector


def task_with_truth(task: TaskSpec, truth: np.ndarray | None) -> TaskSpec:
    """The task with the length of its privileged features."""
    import dataclasses

    assert truth is not None
    return dataclasses.replace(task, n_truth=truth.shape[1])


def test_training_sees_the_memory_that_acted() -> None:
    """The actor run over whole episodes says at every step what it said while acting."""
    agent, replay, _ = beam_agent(batch_size=16)
    batch = agent.sample(replay)
    with torch.no_grad():
        again = torch.tanh(agent.actor(batch))
    known = batch.valid > 0
    torch.testing.assert_close(again[known], batch.action[known], atol=2e-4, rtol=0)


def test_the_lstm_is_mixed_as_one_filter_more_and_nothing_else_of_it() -> None:
    """With all weight on the last of what is mixed the action is the LSTM's estimate; the head sees the bank
    only, whatever encoder and LSTM say beside it."""
    agent, replay, _ = beam_agent(batch_size=16)
    actor = agent.actor
    assert isinstance(actor, FilterActor)
    batch = agent.sample(replay)
    with torch.no_grad():
        memory, features = actor.memory.recall(batch, after=False)
        before = actor.decide(memory, features)
        torch.testing.assert_close(actor.decide(memory, features + 1.0), before)
        actor.head.bias[-1] = 60.0
        unit = torch.tanh(actor.decide(memory, features))
    *_, estimates, _ = actor.memory.parts(memory)
    wanted = (estimates[..., 1:] / actor.memory.half_range_rad).clamp(-0.9999, 0.9999)
    assert not torch.allclose(torch.tanh(before), unit)
    torch.testing.assert_close(unit, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("which", [0, 1])
def test_the_actor_learns_from_the_error_of_each_estimate(which: int) -> None:
    """What an observation alone says comes nearer to the truth, and so does what the LSTM makes of all of
    them."""
    agent, replay, _ = beam_agent(batch_size=32, actor_lr=3e-3, policy_delay=1, gamma=0.0)
    actor = agent.actor
    assert isinstance(actor, FilterActor)
    batch = agent.sample(replay)

    def wrong() -> float:
        with torch.no_grad():
            memory, _ = actor.memory.recall(batch, after=False)
            *_, estimates, _ = actor.memory.parts(memory)
            error = wrap(estimates[..., which] + math.pi * batch.truth[..., 0])
            return float(error.abs()[batch.valid > 0].mean())

    before = wrong()
    for _ in range(60):
        agent.update(replay)
    assert wrong() < 0.8 * before


def test_the_reward_teaches_the_weights_and_nothing_of_what_they_weigh() -> None:
    """Up the critic goes only the head; encoder, LSTM and estimates learn from their own errors."""
    agent, replay, _ = beam_agent(batch_size=16)
    actor = agent.actor
    assert isinstance(actor, FilterActor)
    memory, features = actor.memory.recall(agent.sample(replay), after=False)
    actor.decide(memory, features).sum().backward()
    head = actor.head.weight.grad
    assert head is not None
    assert float(head.abs().max()) > 0.0
    for layer in (actor.memory.says, actor.memory.recalls):
        assert layer.weight.grad is None or not layer.weight.grad.any()


def test_an_estimate_that_does_not_know_goes_between() -> None:
    """Where the error may as well be none as 20 degrees, the one wanted is neither: a policy that believed in
    none would never move, and never learn that it is wrong."""
    agent, _, _ = beam_agent()
    actor = agent.actor
    assert isinstance(actor, FilterActor)
    said = torch.linspace(-5.0, 25.0, 121)
    memory = torch.zeros(2, len(said), actor.memory.n_memory)
    memory[..., -4:-2] = torch.deg2rad(said)[:, None]
    memory[..., -2:] = LOG_MIDDLE + 2.0 * math.log(SPREAD_DEG / 10.0)  # a spread of 10 degrees
    truth = torch.zeros(2, len(said), agent.task.n_truth)
    truth[1, :, 0] = -math.radians(20.0) / math.pi
    best = float(said[actor.estimate_error(memory, truth).mean(dim=0).argmin()])
    assert 6.0 < best < 14.0


@pytest.mark.parametrize("spread_deg", [0.3, 2.0, 15.0])
def test_errors_are_least_surprising_for_the_spread_that_they_have(spread_deg: float) -> None:
    """The weight that makes them so is the inverse square of the spread, in the scale of the weights."""
    rng = np.random.default_rng(2)
    error = torch.from_numpy(np.radians(spread_deg * rng.standard_t(FREEDOM, 200_000)))
    weights = torch.linspace(LOG_MIDDLE - LOG_RANGE, LOG_MIDDLE + LOG_RANGE, 241)
    means = [float((surprise(error, weight) + log_spread(weight)).mean()) for weight in weights]
    found = float(weights[int(np.argmin(means))])
    assert found == pytest.approx(LOG_MIDDLE + 2.0 * math.log(SPREAD_DEG / spread_deg), abs=0.06)


def test_an_observation_says_how_far_it_is_to_be_trusted() -> None:
    """Of two kinds of observations, one ten times as wrong as the other, training tells the weights apart."""
    torch.manual_seed(4)
    layers = LayersConfig(pre_lstm=(16,), lstm=(4,), current=(), combination=())
    memory = FilterMemory(3, layers, keeps=KEEPS, half_range_rad=1.0)
    optimiser = torch.optim.Adam(memory.parameters(), 1e-2)

    def seen(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        poor = (torch.rand(1, count, 1) < 0.5).float()
        goal = 2.0 * torch.rand(1, count, 1) - 1.0
        shown = goal + torch.randn_like(goal) * torch.deg2rad(1.0 + 9.0 * poor)
        return torch.cat((torch.cos(shown), torch.sin(shown), poor), dim=-1), goal, poor

    for _ in range(400):
        observation, goal, poor = seen(256)
        out, _, _ = memory(observation, torch.zeros(1, 256, 1))
        *_, estimates, trusted = memory.parts(out)
        error = wrap(estimates[..., :1] - goal)
        weight = trusted[..., :1]
        loss = error.abs().mean() + (surprise(error.detach(), weight) + log_spread(weight)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        observation, goal, poor = seen(2000)
        weight = memory.parts(memory(observation, torch.zeros(1, 2000, 1))[0])[4][..., 0]
    apart = float(weight[poor[..., 0] == 0.0].mean() - weight[poor[..., 0] == 1.0].mean())
    assert apart == pytest.approx(2.0 * math.log(10.0), abs=1.5)


def test_figures_of_the_memory_are_those_of_the_lstm() -> None:
    """What is logged of h and c has nothing of the filters' sums in it."""
    agent, _, collector = beam_agent()
    units = memory_units(agent, collector)
    assert units["memory_h"].size == units["memory_c"].size == 4 * SMALL.lstm[0]
    assert float(np.abs(units["memory_h"]).max()) < 1.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"filters": (0.5, 1.2)}, "from 0 to 1"),
        ({"memory": "window"}, "memory: sequence"),
        ({"sequence_length": 5}, "whole episodes"),
        ({"history_scale": "linear"}, "history_scale: logarithmic"),
        ({"action_map": "signed-square"}, "action_map: linear"),
        ({"actor": LayersConfig()}, "actor.current"),
        ({"critic_sees_truth": False}, "critic_sees_truth: true"),
        ({"estimate_weight": 0.0}, "estimate_weight above 0"),
        ({"filters": ()}, "estimate_weight is for filters"),
    ],
)
def test_what_does_not_fit_filters_is_refused(wrong: dict[str, Any], said: str) -> None:
    """One sentence with the setting that is to be changed."""
    with pytest.raises(UsageError, match=said):
        LstmTd3Config(**{**SETTINGS, **wrong})


def test_filters_are_for_the_beam() -> None:
    """A task whose actions are no turns of a phase is refused by name."""
    task = TaskSpec(
        environment="Hopper", kind="task", n_observation=3, action_low=(-1.0,), action_high=(1.0,)
    )
    with pytest.raises(UsageError, match=r"filters are for memrl/BeamPhase-v0 .* not for 'Hopper'"):
        LstmTd3(task, LstmTd3Config(**SETTINGS))
