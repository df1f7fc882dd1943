"""Making vector environments by name, and describing them as a policy sees them.

Beside its own options every environment takes those of what is seen of it:

| option | meaning |
|---|---|
| `pomdp` | kind of partial observability (`memrl_ctrl.tasks.pomdp`), for example `remove_velocity` |
| `flicker_probability`, `noise_sigma`, `missing_probability` | its parameters (0.2, 0.1, 0.1) |
| `velocity_indices` | where the velocities are, for a task that is not known |
| `window_observation` | steps that are shown beside the present one, for policies without memory |
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.errors import MemrlError, UnknownNameError, UsageError
from memrl_ctrl.tasks import bullet, cartpole, minigrid, probes, recall
from memrl_ctrl.tasks.plain import made_plain
from memrl_ctrl.tasks.pomdp import Degradation
from memrl_ctrl.tasks.wrappers import PomdpVectorWrapper, PomdpWrapper, WindowObservation

Wrapper = Callable[[gymnasium.Env[Any, Any]], gymnasium.Wrapper[Any, Any, Any, Any]]

PICTURE = "rgb_array"
PARAMETERS = ("flicker_probability", "noise_sigma", "missing_probability", "velocity_indices")
"""Options that belong to `pomdp`."""


def make_environment(
    name: str, num_envs: int, options: Mapping[str, Any], *, pictures: bool = False
) -> VectorEnv[Any, Any, Any]:
    """Make a vector environment: the task's own vector version where it has one.

    Args:
        name: Gymnasium's name, with `MODULE:` before it where a module is to be imported that registers
            it, or the name of a PyBullet or MiniGrid task.
        num_envs: environments that step together.
        options: the environment's keyword arguments, and those of what is seen of it.
        pictures: whether `render` is to return a picture of each (mode `rgb_array`); they then begin
            anew in the call after an end, so that the end can be seen.

    Raises:
        UnknownNameError: no environment of that name.
        UsageError: it cannot be made with these options, or cannot draw pictures.
        MissingExtraError: it needs a library that is not installed.
    """
    recall.register()
    cartpole.register()
    minigrid.register()
    probes.register()
    if bullet.is_bullet(name):
        bullet.register(name)
    kwargs, registered = dict(options), name
    if minigrid.is_grid(name):
        registered, kwargs["task"] = minigrid.ID, name
    else:
        registered = _registered(name)
    sight = {
        key: kwargs.pop(key)
        for key in (*PARAMETERS, "pomdp", "window_observation")
        if key in kwargs
    }
    if pictures:
        kwargs["render_mode"] = _picture_mode(registered)
    own = None if pictures else gymnasium.registry[registered].vector_entry_point
    try:
        if own is not None:
            make = load_env_creator(own) if isinstance(own, str) else own
            if "autoreset" in inspect.signature(make).parameters:
                # The caller begins each episode, with a seed of its own.
                kwargs["autoreset"] = False
            env = gymnasium.make_vec(
                registered, num_envs, vectorization_mode="vector_entry_point", **kwargs
            )
            return _seen_by_all(name, env, sight)
        mode = AutoresetMode.NEXT_STEP if pictures else AutoresetMode.DISABLED
        env = gymnasium.make_vec(
            registered,
            num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": mode},
            wrappers=_wrappers(name, sight),
            **kwargs,
        )
        first = env.envs[0].unwrapped if isinstance(env, SyncVectorEnv) else env
        max_step_rad = getattr(first, "max_step_rad", None)
        if max_step_rad is not None:
            # What tells a beam task (`task_of`) from others.
            env.max_step_rad = max_step_rad  # type: ignore[attr-defined]
        return env
    except MemrlError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise MemrlError(f"environment {name!r} cannot be made: {error}") from error
    except TypeError as error:
        # Gymnasium adds where it raised it from, with everything that was given.
        said = str(error).partition(" was raised from")[0]
        if unknown := re.search(r"unexpected keyword argument '(\w+)'", said):
            raise UsageError(
                f"environment {name!r} cannot be made so: it has no option {unknown[1]!r}"
            ) from error
        raise UsageError(f"environment {name!r} cannot be made so: {said}") from error


def _registered(name: str) -> str:
    """Return the name that Gymnasium has an environment by; `MODULE:NAME` imports the module first.

    Raises:
        UnknownNameError: no environment of that name.
        UsageError: the module cannot be found.
    """
    module, colon, bare = name.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except (ModuleNotFoundError, TypeError, ValueError) as error:
            raise UsageError(
                f"environment {name!r} cannot be made: module {module!r} is not found ({error}); "
                "it must be installed, or its folder be in PYTHONPATH"
            ) from error
    if bare not in gymnasium.registry:
        raise UnknownNameError("environment", bare, {*gymnasium.registry, *bullet.NAMES})
    return bare


def _picture_mode(name: str) -> str:
    """Return the render mode that draws pictures.

    Raises:
        UsageError: the environment says that it has none.
    """
    entry = gymnasium.registry[name].entry_point
    maker = load_env_creator(entry) if isinstance(entry, str) else entry
    metadata = getattr(maker, "metadata", None)
    # A wrapper has its metadata only once it is made.
    modes = metadata.get("render_modes") if isinstance(metadata, Mapping) else None
    if modes is not None and PICTURE not in modes:
        has = ", ".join(map(str, modes)) or "none"
        raise UsageError(
            f"environment {name!r} draws no pictures: it has no render mode {PICTURE} (it has: {has})"
        )
    return PICTURE


def _wrappers(name: str, sight: Mapping[str, Any]) -> list[Wrapper]:
    """Return what is put around each environment, the innermost first."""
    found: list[Any] = [bullet.BulletCover] if bullet.is_bullet(name) else [made_plain]
    kind, parameters = _pomdp(sight)
    if kind is not None:
        found.append(partial(PomdpWrapper, kind=kind, **parameters))
    if sight.get("window_observation"):
        found.append(partial(WindowObservation, length=sight["window_observation"]))
    return found


def _seen_by_all(
    name: str, env: VectorEnv[Any, Any, Any], sight: Mapping[str, Any]
) -> VectorEnv[Any, Any, Any]:
    """Put what is seen around an environment that plays all rows in one call."""
    try:
        if sight.get("window_observation"):
            raise UsageError(
                f"window_observation cannot be had of {name!r}, whose rows are played together; "
                "agent.memory=window shows the policy the last steps"
            )
        kind, parameters = _pomdp(sight)
        if kind is None:
            return env
        size = env.single_observation_space.shape
        degradation = Degradation.of(kind, size=size[0] if size else 0, task=name, **parameters)
        if hasattr(env.unwrapped, "max_step_rad") and len(degradation.kept) != degradation.size:
            raise UsageError(f"pomdp {kind!r} would leave out entries of {name!r}, a profile")
        return PomdpVectorWrapper(env, degradation)
    except MemrlError:
        env.close()
        raise


def _pomdp(sight: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the kind of partial observability, None for none, and its parameters."""
    parameters = {key: sight[key] for key in PARAMETERS if key in sight}
    kind = sight.get("pomdp")
    if "pomdp" not in sight and parameters:
        raise UsageError(f"{', '.join(parameters)} given without pomdp: say which kind it is for")
    return kind, parameters


def task_of(name: str, env: VectorEnv[Any, Any, Any]) -> TaskSpec:
    """Describe an environment as a policy sees it.

    Raises:
        UsageError: its spaces are others than agents can learn with.
    """
    seen, acts = env.single_observation_space, env.single_action_space
    if not isinstance(seen, Box) or len(seen.shape) not in {1, 3}:
        raise UsageError(
            f"environment {name!r} has observation space {seen}; needed are choices or numbers "
            "(gymnasium.wrappers.FlattenObservation makes them of most), or three dimensions for a picture"
        )
    plain = env.unwrapped
    shape: dict[str, Any] = {
        "n_observation": math.prod(seen.shape),
        "action_names": tuple(getattr(plain, "action_names", ())),
    }
    if plain.single_observation_space == seen:  # a wrapper may have left out something
        shape["meaning"] = dict(getattr(plain, "observation_meaning", {}))
    if len(seen.shape) == 3:
        shape["observation_shape"] = seen.shape
    if isinstance(acts, Discrete | MultiDiscrete):
        single = isinstance(acts, Discrete)
        choices = (int(acts.n),) if isinstance(acts, Discrete) else tuple(int(n) for n in acts.nvec)
        return TaskSpec(
            environment=name, kind="task", choices=choices, single_choice=single, **shape
        )
    if not isinstance(acts, Box) or len(acts.shape) != 1 or not acts.is_bounded("both"):
        raise UsageError(
            f"environment {name!r} has action space {acts}; needed are choices, or a Box with one "
            "dimension and finite limits"
        )
    max_step_rad = getattr(env.unwrapped, "max_step_rad", None)
    if max_step_rad is not None:
        return beam_task(
            n_slices=seen.shape[0] - 1,
            max_step_rad=float(max_step_rad),
            environment=name,
        )
    return TaskSpec(
        environment=name,
        kind="task",
        **shape,
        action_low=tuple(float(v) for v in acts.low),
        action_high=tuple(float(v) for v in acts.high),
    )
