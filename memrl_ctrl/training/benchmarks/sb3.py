"""sb3-contrib's RecurrentPPO with our network and budget, to compare speeds with (optional)."""

from __future__ import annotations

import importlib.util
import time
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from memrl_ctrl.config import TrainingConfig
from memrl_ctrl.errors import UsageError
from memrl_ctrl.training.environments import make_environment
from memrl_ctrl.training.process import torch_threads

MISSING = "sb3-contrib is not installed (pip install sb3-contrib), so that ratio_to_sb3 is absent"


def is_installed() -> bool:
    """Whether sb3-contrib is installed."""
    return importlib.util.find_spec("sb3_contrib") is not None


class Rival:
    """One training of RecurrentPPO on the task of a configuration.

    Args:
        config: of PPO-LSTM; one LSTM layer on the observation itself, constant learning rate, rollouts
            of whole sequences.
        own_environments: on environments one by one, as its users have them; else on all rows in one
            call, as ours.

    Raises:
        UsageError: the configuration has a network that RecurrentPPO does not.
    """

    def __init__(self, config: TrainingConfig, *, own_environments: bool) -> None:
        from sb3_contrib import RecurrentPPO

        settings = settings_of(config)
        maker = _one_by_one if own_environments else _together
        self._model = RecurrentPPO(
            "MlpLstmPolicy",
            maker(config),
            seed=config.seed,
            device="cpu",
            verbose=0,
            **settings,
        )

    def steps_per_s(self, steps: int, threads: int) -> float:
        """Train with so many threads of torch, and return the environment steps a second."""
        before = self._model.num_timesteps
        with torch_threads(threads):
            begin = time.perf_counter()
            self._model.learn(steps, reset_num_timesteps=False)
            seconds = time.perf_counter() - begin
        return float(self._model.num_timesteps - before) / seconds

    def close(self) -> None:
        """Close the environments."""
        env = self._model.get_env()
        if env is not None:
            env.close()


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """Return RecurrentPPO's arguments for the same network and budget.

    Raises:
        UsageError: the configuration has a network that RecurrentPPO does not.
    """
    from torch import nn

    agent = config.ppo_lstm
    if agent.pre_lstm or len(agent.lstm) != 1 or not agent.shared or agent.history_actions:
        raise UsageError(
            "sb3-contrib's RecurrentPPO has one LSTM layer on the observation: to compare with it give "
            "agent.pre_lstm=[], one size in agent.lstm, agent.shared=true, agent.history_actions=false"
        )
    collected = agent.rollout_steps * config.environment.num_envs
    return {
        "n_steps": agent.rollout_steps,
        "batch_size": collected // agent.minibatches,
        "n_epochs": agent.epochs,
        "learning_rate": agent.learning_rate,
        "gamma": agent.gamma,
        "gae_lambda": agent.gae_lambda,
        "clip_range": agent.clip_range,
        "ent_coef": agent.entropy_weight,
        "vf_coef": agent.value_weight,
        "max_grad_norm": agent.gradient_clip or float("inf"),
        "policy_kwargs": {
            "lstm_hidden_size": agent.lstm[0],
            "n_lstm_layers": 1,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "net_arch": {"pi": list(agent.actor), "vf": list(agent.critic)},
            "activation_fn": nn.ReLU,
        },
    }


def _one_by_one(config: TrainingConfig) -> Any:
    from stable_baselines3.common.vec_env import DummyVecEnv

    name, options = config.environment.id, config.environment.options
    # Registers the task, and refuses what it cannot be made with.
    make_environment(name, 1, options).close()
    return DummyVecEnv([partial(gymnasium.make, name, **options)] * config.environment.num_envs)


def _together(config: TrainingConfig) -> Any:
    """Show our vector environment as Stable-Baselines3 wants to see one."""
    from stable_baselines3.common.vec_env import VecEnv

    env = make_environment(
        config.environment.id, config.environment.num_envs, config.environment.options
    )

    class Together(VecEnv):
        def __init__(self) -> None:
            super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
            self._action: Any = None

        def reset(self) -> Any:
            return env.reset(seed=config.seed)[0]

        def step_async(self, actions: Any) -> None:
            self._action = actions

        def step_wait(self) -> Any:
            seen, reward, terminated, truncated, _ = env.step(self._action)
            ended = terminated | truncated
            infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
            if ended.any():
                for row in np.flatnonzero(ended):
                    over = bool(truncated[row] and not terminated[row])
                    infos[row] = {"terminal_observation": seen[row], "TimeLimit.truncated": over}
                seen, _ = env.reset(options={"reset_mask": ended})
            return seen, np.asarray(reward, dtype=np.float32), ended, infos

        def close(self) -> None:
            env.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(self, attr_name, None)] * env.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, *args: Any, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * env.num_envs

    return Together()
