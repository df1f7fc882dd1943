"""The table of the seed's settings names settings that there are, and holds all of the seed's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from memrl_ctrl.config import resolve, shipped, to_dict

DOCUMENT = Path(__file__).parents[2] / "docs" / "ppo-lstm.md"
SEED = """
env_id view_size one_hot use_pixels hidden_size hidden_layer_size seq_len total_steps num_envs
num_steps update_epochs minibatch_size learning_rate betas max_grad_norm clip_range max_kl gamma gae_lambda
vf_coef
entropy_coef rand_move_eps save_freq save_dir eval_freq num_eval_envs eval_steps ema_decay project_name
wandb_project wandb_group seed torch_deterministic gpu_id watch_model debug_probes auto_mini_batch
buffer_size eval_env_id use_wandb record_video deployment
"""


def rows() -> list[list[str]]:
    part = DOCUMENT.read_text().partition("## The settings of the seed")[2]
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def lookup(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def test_every_setting_of_the_seed_has_its_counterpart() -> None:
    """Each stands in the first column; each key of the third and last is one of a configuration."""
    table = [row for row in rows() if len(row) == 5]
    named = {name for row in table for name in re.findall(r"`([^`]+)`", row[0])}
    assert named >= set(SEED.split())
    plain = to_dict(resolve("ppo-lstm-seed", ["algorithm=ppo-lstm"]))
    for row in table:
        for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+|steps|seed|device|name)`", row[2]):
            lookup(plain, key)
        for key in re.findall(r"`((?:agent|logging|evaluation)\.[a-z_]+)", row[4]):
            lookup(plain, key)


def test_the_seeds_defaults_are_shipped() -> None:
    """What the table says of translating them is what `ppo-lstm-seed` has."""
    config = resolve("ppo-lstm-seed")
    agent = config.ppo_lstm
    assert "ppo-lstm-seed" in shipped()
    assert (agent.lstm, agent.actor, agent.critic, agent.pre_lstm) == ((8,), (16, 16), (16, 16), ())
    assert (agent.rollout_steps, agent.sequence_length, agent.epochs) == (512, 8, 32)
    assert (agent.minibatches, agent.value_weight, agent.target_kl) == (1, 2.0, 0.0)
    assert (agent.random_epsilon, agent.random_in_policy, agent.weight_decay) == (0.1, True, 0.01)
    assert (config.steps, config.environment.num_envs) == (2_000_000, 16)


@pytest.mark.parametrize("row", [row for row in rows() if len(row) == 2 and " train " in row[1]])
def test_translated_commands_can_be_given(row: list[str]) -> None:
    """What follows `--set` in a translated command fits the configuration that it names."""
    words = shlex.split(row[1].strip("`"))
    name = words[words.index("train") + 1]
    changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    resolve("ppo-lstm-seed" if name == "NAME" else name, changes)
