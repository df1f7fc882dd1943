"""An interrupted run that is resumed ends with the numbers of one that was not interrupted."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memrl_ctrl.config import TrainingConfig, resolve
from memrl_ctrl.errors import MismatchError
from memrl_ctrl.tasks import recall
from memrl_ctrl.training import checkpoint, train
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.loop import RunResult
from memrl_ctrl.training.resume import EXACTLY
from memrl_ctrl.training.stepper import Stepper

QUICK = [
    "steps=600",
    "environment.num_envs=3",
    "environment.options={length: 5, longest: 9, terminates: true}",
    "agent.batch_size=8",
    "agent.start_steps=60",
    "agent.update_after=90",
    "agent.update_every=12",
    "agent.updates_per_round=2",
    "agent.actor.lstm=[8]",
    "agent.critic.lstm=[8]",
    "replay.capacity=360",
    "logging.tensorboard=false",
    "logging.every_s=0",
    "logging.checkpoint_replay=always",
    "evaluation.episodes=2",
]
VARIANTS = {
    "window": [],
    "window with priorities": ["replay.prioritised=true", "agent.normalise_observations=true"],
    "one buffer an environment": ["replay.prioritised=true", "replay.layout=separate"],
    "episodes": ["agent.memory=sequence", "agent.actor_average=0.9"],
    "episodes with priorities": ["agent.memory=sequence", "replay.prioritised=true"],
    "parts": ["agent.memory=sequence", "agent.sequence_length=3", "agent.burn_in=2"],
    "parts with priorities": [
        "agent.memory=sequence", "agent.sequence_length=3", "agent.burn_in=2",
        "replay.prioritised=true", "agent.lr_schedule=cosine",
    ],
    "overlap": ["overlap=true", "agent.normalise_observations=true"],
}  # fmt: skip


def config(*overrides: str) -> TrainingConfig:
    return resolve("recall", [*QUICK, *overrides])


def content_of(run: RunResult) -> dict[str, Any]:
    content = checkpoint.load(run.checkpoint)
    content.pop("seconds")
    return content


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("at", [40, 333])
def test_a_resumed_run_ends_with_the_same_numbers(variant: str, at: int, tmp_path: Path) -> None:
    """Weights, optimisers, generators, replay, priorities, environments, memory and statistics are the
    same to the bit, wherever the interrupt came."""
    wanted = config(*VARIANTS[variant])
    whole = train(wanted, out=tmp_path / "whole")

    sent: list[int] = []

    def interrupt(now: Any) -> None:
        if now.steps >= at and not sent:
            sent.append(now.steps)
            os.kill(os.getpid(), signal.SIGINT)

    first = train(wanted, out=tmp_path / "first", progress=interrupt)
    assert first.interrupted
    assert at <= first.steps < wanted.steps
    second = train(wanted, out=tmp_path / "second", resume=first.folder)
    assert second.resumed == EXACTLY
    assert whole.updates > 50
    assert_same(content_of(second), content_of(whole))
    assert second.evaluation == whole.evaluation


def test_another_buffer_or_environment_is_not_exact(tmp_path: Path) -> None:
    """Where something else was asked for, the run goes on with new episodes, and says so."""
    first = train(config("steps=300"), out=tmp_path / "a")
    second = train(
        config("environment.num_envs=3", "seed=1"), out=tmp_path / "b", resume=first.folder
    )
    assert second.resumed is not None
    assert "new episodes" in second.resumed


def test_an_environment_comes_back_from_seeds_and_actions() -> None:
    """A stepper that is brought back gives what the first one gives from there on, also for episodes of
    different lengths and beginnings."""
    recall.register()
    rng = np.random.default_rng(5)

    def make() -> Stepper:
        env = make_environment(recall.ID, 4, {"length": 3, "longest": 11})
        return Stepper(env, task_of(recall.ID, env))

    first = make()
    first.reset(7)
    for _ in range(57):
        first.step(rng.uniform(-1, 1, (4, 1)).astype("f4"))
    state = first.state()
    assert state is not None
    assert len(state["played"]) <= 11
    second = make()
    second.reset(1)
    second.restore(state)
    for _ in range(40):
        action = rng.uniform(-1, 1, (4, 1)).astype("f4")
        one, other = first.step(action), second.step(action)
        for name in ("reward", "terminated", "ended", "observation", "followed"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    with pytest.raises(MismatchError, match="cannot be brought back"):
        second.restore({"number": 0})


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ("memrl/BeamPhase-v0", {"machine": "psb", "offset_jitter_deg": 1.0, "noise": [0.01, 0.03]}),
        ("memrl/BeamPhase-v0", {"machine": "psb", "terminate_on_convergence": True}),
        ("memrl/BeamCycle-v0", {"program": "psb-2gev", "offset_drift_deg": 1.0}),
    ],
)
def test_the_beam_comes_back(environment: str, options: dict[str, Any]) -> None:
    """Simulated bunches, their monitors and offsets are where they were, also when some rows have
    begun again and others have not."""
    rng = np.random.default_rng(5)

    def make() -> Stepper:
        env = make_environment(environment, 3, {"n_slices": 32, **options})
        return Stepper(env, task_of(environment, env))

    first, second = make(), make()
    first.reset(7)
    for _ in range(40):
        first.step(0.2 * rng.uniform(-1, 1, (3, 1)).astype("f4"))
    state = first.state()
    assert state is not None
    second.reset(1)
    second.restore(state)
    for _ in range(40):
        action = 0.2 * rng.uniform(-1, 1, (3, 1)).astype("f4")
        one, other = first.step(action), second.step(action)
        for name in ("reward", "ended", "observation", "followed", "phase_error_rad"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for stepper in (first, second):
        stepper.close()


def test_episodes_of_one_seed_differ_by_row_and_number() -> None:
    """Every episode has a seed of its own; the same run has the same ones again."""
    recall.register()
    numbers = []
    for _ in range(2):
        env = make_environment(recall.ID, 3, {"length": 2})
        stepper = Stepper(env, task_of(recall.ID, env))
        seen = [stepper.reset(11).observation[:, 0]]
        for _ in range(4):
            stepper.step(np.zeros((3, 1), dtype="f4"))
            seen.append(stepper.step(np.zeros((3, 1), dtype="f4")).observation[:, 0])
        numbers.append(np.array(seen))
    np.testing.assert_array_equal(numbers[0], numbers[1])
    assert np.unique(numbers[0]).size == numbers[0].size
