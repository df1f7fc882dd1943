"""Probes: what they pay and what is known of them; agents pass them, crippled ones fail the right one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from memrl_ctrl.cli import main
from memrl_ctrl.errors import UnknownNameError
from memrl_ctrl.tasks import probes
from memrl_ctrl.tasks.probes import PROBES, ProbeVector, id_of, known_values

probes.register()


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("continuous", [False, True])
def test_gymnasium_takes_them(name: str, continuous: bool) -> None:
    """Gymnasium's own checker has nothing to say."""
    check_env(gymnasium.make(id_of(name), continuous=continuous).unwrapped)


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("continuous", [False, True])
def test_the_best_policy_earns_what_is_known(name: str, continuous: bool) -> None:
    """Who knows the cue earns, discounted, exactly the known value of every observation on the way."""
    env, gamma = ProbeVector(probe=name, num_envs=200, continuous=continuous, autoreset=False), 0.7
    seen = [env.reset(seed=3)[0]]
    wanted = seen[0][:, 0] if PROBES[name].cues else np.ones(200)
    action = 0.5 * wanted[:, None] if continuous else (wanted + 1) / 2
    rewards, ended = [], np.zeros(200, dtype=bool)
    while not ended.all():
        observation, reward, ended, truncated, _ = env.step(action)
        assert not truncated.any()
        seen.append(observation)
        rewards.append(reward)
    assert len(rewards) == PROBES[name].steps
    to_come = np.zeros(200)
    for observation, reward in zip(seen[-2::-1], rewards[::-1], strict=True):
        to_come = reward + gamma * to_come
        np.testing.assert_allclose(known_values(name, observation, gamma), to_come)
    assert abs(np.sum(rewards, axis=0).mean() - PROBES[name].best_return) < 0.2


def test_the_wrong_action_costs() -> None:
    """The action that was not shown earns -1, and with a number 1 - 1 where it is as far away."""
    for continuous, wrong, pay in ((False, 0, -1.0), (True, -0.5, 0.0)):
        env = ProbeVector(probe="action", num_envs=1, continuous=continuous)
        env.reset(seed=0)
        assert env.step(np.array([[wrong]]))[1] == [pay]


def test_the_cue_is_hidden_after_its_step() -> None:
    """In the probe of memory nothing but the first observation tells the cues apart."""
    env = ProbeVector(probe="memory", num_envs=50, autoreset=False)
    first = env.reset(seed=1)[0]
    assert set(first[:, 0]) == {-1.0, 1.0}
    for step in (1, 2):
        later = env.step(np.zeros(50))[0]
        np.testing.assert_array_equal(later, np.tile(np.float32([0.0, step]), (50, 1)))


def test_rows_begin_by_their_own_seeds() -> None:
    """A row's cue is known from its seed; rows that go on keep theirs; ends are given before restarts."""
    env = ProbeVector(probe="memory", num_envs=8, autoreset=False)
    first = env.reset(seed=list(range(8)))[0]
    env.step(np.zeros(8))
    mask = np.arange(8) < 4
    again = env.reset(seed=list(range(8)), options={"reset_mask": mask})[0]
    np.testing.assert_array_equal(again[:4], first[:4])
    assert (again[4:, 0] == 0).all()
    itself = ProbeVector(probe="constant-value", num_envs=2)
    itself.reset(seed=0)
    seen, _, ended, _, infos = itself.step(np.zeros(2))
    assert ended.all()
    assert (infos["final_obs"][:, 1] == 1).all()
    assert (seen[:, 1] == 0).all()


def test_an_unknown_probe_is_said() -> None:
    """A wrong name is one sentence with a suggestion."""
    with pytest.raises(UnknownNameError, match="did you mean 'memory'"):
        id_of("memroy")
    assert main(["check-agent", "memroy"]) == 2


@pytest.mark.parametrize("name", PROBES)
def test_ppo_lstm_passes(name: str) -> None:
    """PPO-LSTM learns every probe within seconds."""
    from memrl_ctrl.training.probing import probe_agent

    (result,) = probe_agent("ppo-lstm", [name])
    assert result.passed, result


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_lstm_td3_passes(name: str) -> None:
    """So does LSTM-TD3, with continuous actions."""
    from memrl_ctrl.training.probing import probe_agent

    (result,) = probe_agent("lstm-td3", [name])
    assert result.passed, result


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("memory", ["agent.lstm=[]"]),
        ("discounting", ["agent.gamma=1.0"]),
        ("observed-action", ["agent.learning_rate=1e-9"]),
    ],
)
def test_who_lacks_something_fails(name: str, changes: list[str]) -> None:
    """Without memory, with another discount, or without learning the probe for it is failed."""
    from memrl_ctrl.training.probing import probe_agent

    (result,) = probe_agent("ppo-lstm", [name], changes=[*changes, "steps=8000"])
    assert not result.passed, result


def test_check_agent_says_pass_or_fail(tmp_path: Path, capsys: Any) -> None:
    """The command shows what was reached beside what is known; exit code 1 where a probe fails."""
    quick = ["--algorithm", "ppo-lstm", "--json", str(tmp_path / "probes.json")]
    assert main(["check-agent", "constant-value", *quick]) == 0
    assert "pass" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "probes.json").read_text())["probes"]
    assert abs(result["value"] - result["known_value"]) <= 0.1
    useless = ["--set", "agent.learning_rate=1e-9", "--set", "steps=2000"]
    assert main(["check-agent", "action", *quick, *useless]) == 1
    assert "Failed: ppo-lstm action" in capsys.readouterr().out
    assert json.loads((tmp_path / "probes.json").read_text())["passed"] is False
