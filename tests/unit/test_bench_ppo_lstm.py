"""The benchmark of PPO-LSTM measures what it says, and goes without what is not installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.config import resolve
from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.training.benchmarks import ppo_lstm, sb3

SMALL = ppo_lstm.Budget(
    ours=128, rival=64, trial=64, grid=128, bare=64,
    overrides=("environment.num_envs=4", "agent.rollout_steps=16", "agent.lstm=[8]"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Stable-Baselines3 sets torch's threads."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_all_figures_are_reported(tmp_path: Path) -> None:
    """Rates, ratios that agree with them, seconds of every seed; the file holds the same."""
    pytest.importorskip("sb3_contrib")
    pytest.importorskip("minigrid")
    easy = ("evaluation.every_steps=64", "evaluation.stop_at_return=1", "evaluation.episodes=2")
    budget = replace(SMALL, overrides=(*SMALL.overrides, *easy))
    file = tmp_path / "bench.json"
    result = ppo_lstm.run(json_path=file, parts="solve", seeds="0:2", budget=budget)
    rates = ppo_lstm.run(parts="speed,minigrid", repeats=1, budget=SMALL)
    assert json.loads(file.read_text())["figures"] == result["figures"]
    solved = result["figures"]
    assert solved["cartpole_solved_share"] == 1.0
    assert (
        0.0
        < solved["cartpole_seconds_to_solve_median"]
        <= solved["cartpole_seconds_to_solve_worst"]
    )
    figures, rows = rates["figures"], {row["what"]: row for row in rates["rows"]}
    ours = figures["cartpole_steps_per_s"]
    assert ours == rows["memrl-ctrl"]["steps/s"]
    np.testing.assert_allclose(figures["ratio_to_sb3"], ours / rows["sb3-contrib"]["steps/s"])
    share = figures["minigrid_steps_per_s"] / figures["minigrid_bare_steps_per_s"]
    np.testing.assert_allclose(figures["minigrid_share_of_bare"], share)


def test_what_is_not_solved_gives_no_figure() -> None:
    """A seed that never reaches the goal counts as infinite: no median is reported, and the row says so."""
    never = ("steps=128", "evaluation.every_steps=64", "evaluation.episodes=1")
    budget = replace(SMALL, overrides=(*SMALL.overrides, *never))
    result = ppo_lstm.run(parts="solve", seeds="3:4", budget=budget)
    assert "cartpole_seconds_to_solve_median" not in result["figures"]
    assert result["figures"]["cartpole_solved_share"] == 0.0
    assert result["rows"][0]["what"] == "not solved, seed 3"


def test_without_sb3_contrib_its_figure_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says why; ours is measured all the same."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name == "sb3_contrib" else find(name, *a),
    )
    result = ppo_lstm.run(parts="speed", repeats=1, budget=SMALL)
    assert list(result["figures"]) == ["cartpole_steps_per_s"]
    assert "sb3-contrib is not installed (pip install sb3-contrib)" in result["notes"][0]


def test_an_unknown_part_is_refused() -> None:
    """It is named with those there are."""
    with pytest.raises(UnknownNameError, match="no part 'sped'"):
        ppo_lstm.run(parts="speed,sped")


def test_the_rival_has_the_same_network_and_budget() -> None:
    """As many weights in its LSTM and heads, as many updates in a round; a network that it cannot have is
    refused with what to give."""
    pytest.importorskip("sb3_contrib")
    config = resolve("ppo-lstm-cartpole-no-vel", ["environment.num_envs=4"])
    rival = sb3.Rival(config, own_environments=False)
    theirs = rival._model.policy
    from memrl_ctrl.agents.ppo_networks import PpoNetwork
    from memrl_ctrl.training.environments import make_environment, task_of

    name = config.environment.id
    env = make_environment(name, 1, {})
    ours = PpoNetwork(task_of(name, env), config.ppo_lstm)
    env.close()
    rival.close()
    count = sum(p.numel() for p in theirs.parameters())
    assert count == sum(p.numel() for p in ours.parameters() if p.requires_grad)
    settings = sb3.settings_of(config)
    assert settings["batch_size"] * config.ppo_lstm.minibatches == 4 * settings["n_steps"]
    with pytest.raises(UsageError, match=r"give agent\.pre_lstm=\[\]"):
        sb3.settings_of(resolve("ppo-lstm-cartpole-no-vel", ["agent.pre_lstm=[64]"]))
