"""Does an agent learn? Training on the probes, and comparing with what is known of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.config import TrainingConfig, resolve
from memrl_ctrl.errors import UnknownNameError
from memrl_ctrl.tasks.probes import PROBES, id_of, known_values
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.evaluation import TorchPolicy, run_episodes
from memrl_ctrl.training.loop import LEARNERS
from memrl_ctrl.training.process import torch_threads
from memrl_ctrl.training.runs import policy_of
from memrl_ctrl.training.stepper import Stepper

Values = NDArray[np.float64]

GAMMA = 0.5
NEAR_RETURN = 0.05
"""How far the mean return may be from the known one. The best policy without memory is 1 away from it in
the probe of memory, 0.25 of it with continuous actions."""
NEAR_VALUE = 0.1
"""How far values may be from the known ones, in the mean."""
EPISODES = 64
"""Episodes that the policy is judged on."""
JUDGED_EVERY = 5
"""Rounds between two judgements."""
LASTING = 2
"""Judgements in a row that must pass: a value on its way elsewhere comes by the right one, too."""

_SMALL = [
    "torch_threads=1",
    "environment.num_envs=32",
    f"agent.gamma={GAMMA}",
    "agent.lr_schedule=constant",
    "agent.normalise_observations=false",
]
CONFIGURATIONS: dict[str, tuple[str, list[str]]] = {
    "ppo-lstm": (
        "ppo-lstm-cartpole-no-vel",
        [
            "steps=40_000", "agent.pre_lstm=[16]", "agent.lstm=[16]", "agent.rollout_steps=24",
            "agent.sequence_length=0", "agent.learning_rate=5e-3", "agent.normalise_rewards=false",
        ],
    ),
    "lstm-td3": (
        "recall",
        [
            "steps=20_000", "environment.options={continuous: true}", "agent.start_steps=640",
            "agent.update_after=640", "agent.update_every=64", "agent.updates_per_round=8",
            "agent.batch_size=64", "agent.polyak=0.98", "agent.actor_lr=2e-3", "agent.critic_lr=2e-3",
            "agent.history_length=3",
        ],
    ),
}  # fmt: skip
"""For each algorithm the shipped configuration that its probing begins with, and what differs."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """How an agent did on a probe."""

    probe: str
    """Name of the probe."""
    passed: bool
    """Whether return and values are as near as they must be."""
    mean_return: float
    """Mean return of its policy."""
    known_return: float
    """That of the best policy."""
    value: float
    """Mean size of the values that it gives."""
    known_value: float
    """Mean size of the known values of the same."""
    value_error: float
    """Mean distance between the two."""
    steps: int
    """Environment steps that it took."""
    seconds: float
    """Time that it took, s."""


def probe_agent(
    algorithm: str, probes: Sequence[str] = (), *, seed: int = 0, changes: Sequence[str] = ()
) -> Iterator[Probed]:
    """Train an agent on probes, each until it passes or its steps are over.

    Args:
        algorithm: `ppo-lstm` or `lstm-td3`.
        probes: names; all of them without any.
        seed: of everything that is drawn.
        changes: `key=value` of the configuration, as for training.

    Raises:
        UnknownNameError: there is no such algorithm or probe.
    """
    if algorithm not in CONFIGURATIONS:
        raise UnknownNameError("algorithm", algorithm, CONFIGURATIONS)
    base, differs = CONFIGURATIONS[algorithm]
    chosen = tuple(probes) or tuple(PROBES)
    names = [f"environment.id={id_of(name)}" for name in chosen]
    for name, environment in zip(chosen, names, strict=True):
        config = resolve(base, [*_SMALL, f"seed={seed}", *differs, environment, *changes])
        yield _probed(name, config)


def _probed(name: str, config: TrainingConfig) -> Probed:
    began, steps, rounds = time.monotonic(), 0, 0
    environment = config.environment
    env = make_environment(environment.id, environment.num_envs, environment.options)
    task = task_of(environment.id, env)
    stepper = Stepper(env, task)
    with torch_threads(config.torch_threads):
        learner = LEARNERS[config.algorithm](config, task, None, "cpu")
        collector = learner.collector(stepper, stepper.reset(config.seed))
        result, passes = None, 0
        while passes < LASTING and (result is None or steps < config.steps):
            learner.agent.refresh_behaviour()
            collected = collector.collect(learner.calls, random=learner.is_random(steps))
            learner.take(collected)
            steps += len(collected) * environment.num_envs
            done = steps / config.steps
            learner.learn(steps, lambda now=done: now)
            rounds += 1
            if steps < config.steps and (rounds % JUDGED_EVERY or learner.agent.updates == 0):
                continue
            given, known = _values(name, learner, collected)
            policy = TorchPolicy(policy_of(learner.agent, task, config, steps))
            played = run_episodes(
                policy,
                environment=environment.id,
                options=environment.options,
                episodes=EPISODES,
                seed=config.evaluation.seed,
            )
            result = _judged(name, float(played.returns.mean()), given, known, steps)
            passes = passes + 1 if result.passed else 0
        stepper.close()
    return Probed(**{**vars(result), "seconds": time.monotonic() - began})


def _judged(name: str, mean_return: float, given: Values, known: Values, steps: int) -> Probed:
    probe = PROBES[name]
    error = float(np.abs(given - known).mean())
    # What a cue earns that nobody can change is 0 in the mean, not in a sample.
    by_action = probe.best_return > 0.0
    near = not by_action or abs(mean_return - probe.best_return) <= NEAR_RETURN
    return Probed(
        probe=name,
        passed=near and error <= NEAR_VALUE,
        mean_return=mean_return,
        known_return=probe.best_return,
        value=float(np.abs(given).mean()),
        known_value=float(np.abs(known).mean()),
        value_error=error,
        steps=steps,
        seconds=0.0,
    )


def _values(name: str, learner: Any, collected: list[Any]) -> tuple[Values, Values]:
    """Return values that the agent gives, and the known ones of the same, of the same length."""
    agent = learner.agent
    if not isinstance(agent, LstmTd3):
        given = np.stack([one.decided.value for one in collected])
        seen = np.stack([one.raw for one in collected])
        return given.ravel().astype(np.float64), known_values(name, seen, GAMMA).ravel()
    with torch.no_grad():
        batch = agent.sample(learner.replay)
        given_q = agent.critic(batch, batch.action).numpy()
    later = known_values(name, batch.next_observation.numpy(), GAMMA)
    ended = batch.terminated.numpy() > 0.5
    known = batch.reward.numpy() + GAMMA * np.where(ended, 0.0, later)
    valid = batch.valid.numpy() > 0.5
    return given_q[valid].astype(np.float64), known[valid].astype(np.float64)
