"""PPO-LSTM: whole runs learn, end, resume, are judged and are watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from memrl_ctrl.config import ConfigError, resolve
from memrl_ctrl.training import evaluate, train
from memrl_ctrl.training.collect import Ends


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
