"""The names that the seed work's PPO-LSTM has for its parameters, and ours for them.

The table behind it, with all defaults, stands in `docs/ppo-lstm.md`. Most are a change of name; of some
one of theirs is several of ours, or depends on others:

- `hidden_size` is the LSTM's, `hidden_layer_size` that of the two layers of each head;
- `minibatch_size` counts sequences of `seq_len` steps, `agent.minibatches` the parts of a round:
  num_envs * num_steps / (seq_len * minibatch_size); with `auto_mini_batch` it is one part;
- `eval_freq` counts rounds of num_envs * num_steps environment steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memrl_ctrl.config import ConfigError, TrainingConfig
from memrl_ctrl.errors import UnknownNameError

RENAMED = {
    "env_id": "environment.id",
    "num_envs": "environment.num_envs",
    "view_size": "environment.options.view_size",
    "one_hot": "environment.options.one_hot",
    "use_pixels": "environment.options.pixels",
    "total_steps": "steps",
    "seed": "seed",
    "num_steps": "agent.rollout_steps",
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
    "project_name": "logging.wandb_project",
}
"""Parameters that only have another name."""
COMPUTED = ("hidden_size", "hidden_layer_size", "minibatch_size", "auto_mini_batch", "eval_freq")
"""Parameters that are several of ours, or depend on others."""
WITHOUT_COUNTERPART = {
    "wandb_group": "every sweep has a folder of its own",
    "ema_decay": "it smooths a figure that is shown; `return` is the mean of the last episodes",
    "torch_deterministic": "a seed reproduces a run on the CPU anyway",
    "gpu_id": "give --devices",
    "watch_model": "gradient norms are logged, see logging.histograms_every_s",
    "debug_probes": "memrl-ctrl check-agent runs the probes",
    "record_video": "memrl-ctrl evaluate RUN --render FILE.mp4",
    "deployment": "memrl-ctrl export, deploy and play",
    "save_dir": "checkpoints are in the run folder",
    "buffer_size": "what is learnt from is what a round collects",
    "num_eval_envs": "give evaluation.episodes",
    "eval_steps": "whole episodes are played: evaluation.episodes",
    "eval_env_id": "memrl-ctrl evaluate RUN --env ID",
    "run_name": "trials are numbered",
    "n_epochs": "it is computed from others",
    "batch_size": "it is computed from others",
    "num_iterations": "it is computed from others",
    "num_minibatches": "it is computed from others",
}
"""Parameters that nothing here depends on, and why or what to do instead."""
METRICS = {
    "episode/return": "return",
    "episode/return_ema": "return",
    "episode/length": "episode_length",
    "eval/mean_reward": "evaluation_return",
    "eval/mean_episode_length": "evaluation_length",
    "training/actor_loss": "policy_loss",
    "training/critic_loss": "value_loss",
    "training/entropy": "entropy",
    "training/approx_kl": "kl",
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
    if base.algorithm != "ppo-lstm":
        return keys
    agent = base.ppo_lstm
    environments = _count(values, "num_envs", base.environment.num_envs)
    round_steps = environments * _count(values, "num_steps", agent.rollout_steps)
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
