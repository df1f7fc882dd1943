"""The names that the seed work's PPO-LSTM has for its parameters, and ours for them.

The table behind it, with all defaults, stands in `docs/ppo-lstm.md`. Most are a change of name; of some
one of theirs is several of ours, or depends on others:

- `hidden_size` is the LSTM's, `hidden_layer_size` that of the two layers of each head;
- `env_id` knows CartPole without velocity by a name of its own;
- of `num_steps` only the last `buffer_size` are learnt from there, where that is given;
- `minibatch_size` counts sequences of `seq_len` steps, `agent.minibatches` the parts of a round:
  num_envs * num_steps / (seq_len * minibatch_size); with `auto_mini_batch` it is one part;
- `eval_freq` counts rounds of num_envs * num_steps environment steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memrl_ctrl.config import ConfigError, TrainingConfig
from memrl_ctrl.errors import UnknownNameError

BASE = "ppo-lstm-seed"
"""The configuration that has their defaults."""
CARTPOLE = {"CartPoleNoVel-v0": "memrl/CartPoleNoVel-v0"}
"""Names of tasks that are others here."""
RENAMED = {
    "num_envs": "environment.num_envs",
    "view_size": "environment.options.view_size",
    "one_hot": "environment.options.one_hot",
    "use_pixels": "environment.options.pixels",
    "total_steps": "steps",
    "seed": "seed",
    "seq_len": "agent.sequence_length",
    "update_epochs": "agent.epochs",
    "learning_rate": "agent.learning_rate",
    "betas": "agent.adam_betas",
    "max_grad_norm": "agent.gradient_clip",
    "clip_range": "agent.clip_range",
    "max_kl": "agent.target_kl",
    "gamma": "agent.gamma",
    "gae_lambda": "agent.gae_lambda",
    "vf_coef": "agent.value_weight",
    "entropy_coef": "agent.entropy_weight",
    "rand_move_eps": "agent.random_epsilon",
    "save_freq": "logging.checkpoint_every_steps",
    "use_wandb": "logging.wandb",
    "wandb_project": "logging.wandb_project",
    "wandb_group": "logging.wandb_group",
    "watch_model": "logging.watch_model",
    "ema_decay": "logging.return_decay",
    "eval_env_id": "evaluation.environment",
    "torch_deterministic": "torch_deterministic",
}
"""Parameters that only have another name."""
COMPUTED = (
    "env_id",
    "num_steps",
    "buffer_size",
    "hidden_size",
    "hidden_layer_size",
    "minibatch_size",
    "auto_mini_batch",
    "eval_freq",
)
"""Parameters that are several of ours, or depend on others."""
WITHOUT_COUNTERPART = {
    "gpu_id": "give --devices",
    "debug_probes": "memrl-ctrl check-agent runs the probes",
    "record_video": "memrl-ctrl evaluate RUN --render FILE.mp4",
    "deployment": "memrl-ctrl export, deploy and play",
    "save_dir": "checkpoints are in the run folder",
    "num_eval_envs": "give evaluation.episodes",
    "eval_steps": "whole episodes are played: evaluation.episodes",
    "run_name": "trials are numbered",
    "project_name": "give the sweep a name",
    "n_epochs": "it is computed from others",
    "batch_size": "it is computed from others",
    "num_iterations": "it is computed from others",
    "num_minibatches": "it is computed from others",
}
"""Parameters that nothing here depends on, and why or what to do instead."""
METRICS = {
    "episode/return": "return",
    "episode/return_ema": "return_ema",
    "episode/length": "episode_length",
    "eval/mean_reward": "evaluation_return",
    "eval/mean_episode_length": "evaluation_length",
    "training/actor_loss": "policy_loss",
    "training/critic_loss": "value_loss",
    "training/entropy": "entropy",
    "training/approx_kl": "kl",
    "training/clip_fraction": "clipped",
}
"""Names of logged figures."""


def check_names(names: Mapping[str, bool]) -> list[str]:
    """Check names of parameters, before any has a value.

    Args:
        names: each with whether it is varied.

    Returns:
        What is left out, in sentences.

    Raises:
        UnknownNameError: no such parameter.
        ConfigError: one is varied that nothing here depends on.
    """
    notes = []
    for name, varied in names.items():
        if name in RENAMED or name in COMPUTED or "." in name:
            continue
        if name not in WITHOUT_COUNTERPART:
            raise UnknownNameError("parameter", name, {**RENAMED, **dict.fromkeys(COMPUTED)})
        why = WITHOUT_COUNTERPART[name]
        if varied:
            raise ConfigError(
                f"parameter {name!r} cannot be varied, because nothing here depends on it ({why}); "
                "take it out"
            )
        notes.append(f"{name} is left out: {why}")
    return notes


def translated(values: Mapping[str, Any], base: TrainingConfig) -> dict[str, Any]:
    """Return settings by our dotted keys.

    Args:
        values: by their names; a name with a dot is one of ours already.
        base: what those have that are not given.

    Raises:
        ConfigError: a combination of which no round of learning can be made.
    """
    keys = {RENAMED.get(name, name): value for name, value in values.items() if _is_key(name)}
    if "hidden_size" in values:
        keys["agent.lstm"] = [values["hidden_size"]]
    if "hidden_layer_size" in values:
        keys["agent.actor"] = keys["agent.critic"] = [values["hidden_layer_size"]] * 2
    if "env_id" in values:
        keys["environment.id"] = CARTPOLE.get(str(values["env_id"]), values["env_id"])
    if base.algorithm != "ppo-lstm":
        return keys
    agent = base.ppo_lstm
    rollout = _count(values, "num_steps", agent.rollout_steps)
    rollout = min(rollout, _count(values, "buffer_size", rollout))
    if "num_steps" in values or "buffer_size" in values:
        keys["agent.rollout_steps"] = rollout
    round_steps = rollout * _count(values, "num_envs", base.environment.num_envs)
    if values.get("auto_mini_batch"):
        keys["agent.minibatches"] = 1
    elif "minibatch_size" in values:
        length = _count(values, "seq_len", agent.sequence_length)
        part = _count(values, "minibatch_size", 1) * length
        if not 0 < part <= round_steps:
            raise ConfigError(
                f"minibatches of minibatch_size * seq_len = {part} steps do not fit a round of "
                f"num_envs * num_steps = {round_steps}"
            )
        keys["agent.minibatches"] = round(round_steps / part)
    if "eval_freq" in values:
        keys["evaluation.every_steps"] = _count(values, "eval_freq", 1) * round_steps
    return keys


def _is_key(name: str) -> bool:
    return name in RENAMED or "." in name


def _count(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is {value!r}; expected an integer")
    return value
