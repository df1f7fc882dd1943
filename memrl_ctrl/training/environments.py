"""Making vector environments by name, and describing them as a policy sees them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv

from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.errors import MemrlError, UnknownNameError, UsageError
from memrl_ctrl.tasks import recall


def make_environment(
    name: str, num_envs: int, options: Mapping[str, Any]
) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment: the task's own vector version where it has one.

    Args:
        name: Gymnasium's name.
        num_envs: environments that step together.
        options: the environment's keyword arguments.

    Raises:
        UnknownNameError: no environment of that name.
        UsageError: it cannot be made with these options.
    """
    recall.register()
    if name not in gymnasium.registry:
        raise UnknownNameError("environment", name, gymnasium.registry)
    kwargs = dict(options)
    own = gymnasium.registry[name].vector_entry_point
    try:
        if own is not None:
            make = load_env_creator(own) if isinstance(own, str) else own
            if "autoreset" in inspect.signature(make).parameters:
                # The caller begins each episode, with a seed of its own.
                kwargs["autoreset"] = False
            return gymnasium.make_vec(
                name, num_envs, vectorization_mode="vector_entry_point", **kwargs
            )
        by_hand = {"autoreset_mode": AutoresetMode.DISABLED}
        return gymnasium.make_vec(
            name, num_envs, vectorization_mode="sync", vector_kwargs=by_hand, **kwargs
        )
    except MemrlError:
        raise
    except TypeError as error:
        raise UsageError(f"environment {name!r} cannot be made so: {error}") from error


def task_of(name: str, env: VectorEnv[Any, Any, Any]) -> TaskSpec:
    """Describe an environment as a policy sees it.

    Raises:
        UsageError: its spaces are not vectors of finite range.
    """
    seen, acts = env.single_observation_space, env.single_action_space
    if not isinstance(seen, Box) or len(seen.shape) != 1:
        raise UsageError(
            f"environment {name!r} has observation space {seen}; needed is a Box with one dimension "
            "(gymnasium.wrappers.FlattenObservation makes one)"
        )
    if not isinstance(acts, Box) or len(acts.shape) != 1 or not acts.is_bounded("both"):
        raise UsageError(
            f"environment {name!r} has action space {acts}; "
            "needed is a Box with one dimension and finite limits"
        )
    max_step_rad = getattr(env, "max_step_rad", None)
    if max_step_rad is not None:
        return beam_task(
            n_slices=seen.shape[0] - 1,
            max_step_rad=float(max_step_rad),
            environment=name,
        )
    return TaskSpec(
        environment=name,
        kind="task",
        n_observation=seen.shape[0],
        action_low=tuple(float(v) for v in acts.low),
        action_high=tuple(float(v) for v in acts.high),
    )
