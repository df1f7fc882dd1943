"""Configurations are read whole, refused with a sentence, and written so that they read back equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.config import (
    ConfigError,
    LayersConfig,
    LstmTd3Config,
    dump,
    from_dict,
    resolve,
    shipped,
    to_dict,
)
from memrl_ctrl.errors import FileError, UnknownNameError


@pytest.mark.parametrize("name", shipped())
def test_shipped_configurations_resolve_and_read_back_equal(name: str, tmp_path: Path) -> None:
    """Every shipped configuration is valid, and its dump is the same configuration."""
    config = resolve(name)
    file = tmp_path / "config.yaml"
    file.write_text(dump(config))
    assert resolve(file) == config
    assert from_dict(to_dict(config)) == config


def test_the_demo_needs_its_configurations() -> None:
    """The configurations that commands name are shipped."""
    assert {"psb", "lstm-td3-basic", "recall"} <= set(shipped())


def test_the_defaults_are_the_papers() -> None:
    """A configuration that says nothing is the algorithm as published; the shipped one for the beam has
    the two current-feature layers of the published script, its noise in shares of the largest step, pi/4,
    and learning rates and a random start with which it learns."""
    agent = resolve("lstm-td3-basic").agent
    layers = LayersConfig(current=(128, 128))
    noise = {"exploration_noise": 0.127, "target_noise": 0.255, "noise_clip": 0.637}
    for name, share in noise.items():
        assert share == pytest.approx(getattr(LstmTd3Config(), name) / (np.pi / 4), abs=1e-3)
    beam = {**noise, "actor_lr": 1e-4, "critic_lr": 2e-4, "start_steps": 2_000}
    assert agent == LstmTd3Config(actor=layers, critic=layers, **beam)
    paper = LstmTd3Config()
    assert (paper.actor_lr, paper.critic_lr, paper.start_steps) == (1e-3, 1e-3, 10_000)
    assert (agent.gamma, agent.polyak, agent.policy_delay, agent.batch_size) == (
        0.99,
        0.995,
        2,
        100,
    )


def test_overrides_replace_single_keys_and_leave_the_rest() -> None:
    """`--set` changes one value; numbers like 1e-3 are numbers and `off` is a word."""
    config = resolve(
        "psb",
        ["agent.gamma=1e-3", "agent.actor.lstm=[64, 32]", "environment.options.program=off"],
    )
    assert config.agent.gamma == 1e-3
    assert config.agent.actor.lstm == (64, 32)
    assert config.agent.actor.pre_lstm == resolve("psb").agent.actor.pre_lstm
    assert config.environment.options["program"] == "off"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("agent.gama=1", r"no key 'agent.gama'; did you mean 'agent.gamma'\? agent has: memory"),
        ("sed=1", "no key 'sed'; did you mean 'seed'"),
        ("agent.gamma=high", "agent.gamma: expected float, got str"),
        ("seed=1.5", "seed: expected int, got float"),
        ("agent.gamma=1.5", "agent: gamma must be between 0 and 1, not 1.5"),
        ("agent.gamma=.nan", "gamma must be between 0 and 1, not nan"),
        (
            "agent.memory=forever",
            "agent.memory cannot be 'forever'; it is one of: sequence, window",
        ),
        ("agent=3", "agent is 3; expected a group of keys"),
        ("agent.gamma.x=3", "agent.gamma is a value, not a group of keys"),
        ("agent.actor.lstm=[0]", "a layer of lstm has 0 units"),
        ("agent.actor.lstm=[]", "actor.lstm is empty"),
        ("agent.critic_sees_observation=false", "critics see nothing|critic_memory needs"),
        ("agent.batch_size=2000000", "batch_size 2000000 is larger than replay.capacity 1000000"),
        ("replay.capacity=1", "too small for 1 environments"),
        ("agent.burn_in=3", "sequence_length and burn_in are for memory: sequence"),
        ("agent.sequence_length=3", "sequence_length and burn_in are for memory: sequence"),
        ("replay={prioritised: true, alpha: 0}", "alpha is 0, which draws uniformly"),
        ("replay={prioritised: true, epsilon: 0}", "never drawn again"),
        ("replay.layout=separate", "separate is for priorities"),
        ("agent.precision=half", "precision cannot be 'half'; it is one of: bfloat16, float32"),
        ("name=a/b", "is no folder name"),
        ("gamma", "is not of the form key.sub=value"),
        ("agent.gamma={", "the value is no YAML"),
    ],
)
def test_what_cannot_work_is_refused_with_one_sentence(override: str, sentence: str) -> None:
    """A wrong key, type, value or combination says which, and what is allowed."""
    with pytest.raises(ConfigError, match=sentence):
        resolve("lstm-td3-basic", ["agent.gamma=0.9", override])


def test_unknown_names_come_with_suggestions() -> None:
    """A configuration or algorithm that does not exist is refused by name."""
    with pytest.raises(UnknownNameError, match=r"no configuration 'pbs'.*did you mean 'psb'"):
        resolve("pbs")
    with pytest.raises(UnknownNameError, match="no algorithm 'td4'; there is: lstm-td3"):
        resolve("psb", ["algorithm=td4"])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [1", "line 1: is no YAML"),
        (b"", "holds nothing; expected keys"),
        (b"just words", "holds text; expected keys"),
        (b"\xff\xfe\x00", "cannot be read as a configuration: it is no text"),
    ],
)
def test_files_that_are_no_configuration(content: bytes, sentence: str, tmp_path: Path) -> None:
    """Junk is refused with the file's name."""
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(FileError, match=sentence):
        resolve(file)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    """A path that is not there is named."""
    with pytest.raises(FileError, match="No such file"):
        resolve(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["agent.burn_in=4"], "burn_in is for parts of episodes"),
        (
            ["agent.sequence_length=90", "agent.burn_in=20", "replay.capacity=100"],
            "are 110 steps together; they do not fit the 100 steps",
        ),
        (
            ["agent.sequence_length=31", "environment.options.episode_length=30"],
            "sequence_length 31 is longer than an episode of 30 steps",
        ),
        (["agent.sequence_length=31"], "sequence_length 31 is longer than an episode of 30 steps"),
        (
            ["replay.prioritised=true", "replay.layout=separate"],
            "separate is for windows and parts of episodes",
        ),
    ],
)
def test_sequences_that_cannot_work_are_refused(overrides: list[str], sentence: str) -> None:
    """Parts longer than the buffer, a burn-in without parts, separate buffers of whole episodes."""
    with pytest.raises(ConfigError, match=sentence):
        resolve("lstm-td3-basic", ["agent.memory=sequence", *overrides])
