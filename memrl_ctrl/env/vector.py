"""The environments for many rows in one call: no process per environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from memrl_ctrl.backend import FloatArray
from memrl_ctrl.env.task import BeamCycle, BeamPhase, BeamTask, Observation
from memrl_ctrl.errors import UsageError


class BeamVectorEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """A task with many rows as a Gymnasium vector environment.

    Episodes restart in the step that ends them (`AutoresetMode.SAME_STEP`); the last observations and
    infos of the old episodes are in `infos["final_obs"]` and `infos["final_info"]`, valid where
    `infos["_final_obs"]`.

    Args:
        task: what is played; closed with the environment.
        autoreset: false leaves restarting to the caller (`AutoresetMode.DISABLED`, with
            `options["reset_mask"]`), who may then give each restart a seed.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - typed so by the base class
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, task: BeamTask, *, autoreset: bool = True) -> None:
        self.task = task
        self._autoreset = autoreset
        if not autoreset:
            self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.repeats = bool(getattr(task.backend, "repeats", False))
        """Whether a reset with a seed and the same actions bring the same again."""
        self.num_envs = task.rows.size
        self.render_mode = None
        self.max_step_rad = task.max_step_rad
        self.single_observation_space, self.single_action_space = task.spaces()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every row.

        Args:
            seed: one seed for all rows; a list is refused, the rows share one generator.
            options: `reset_mask` [num_envs] restarts some rows only.
        """
        if isinstance(seed, list):
            raise UsageError("the rows share one generator: give one seed, not a list")
        super().reset(seed=seed)
        mask = (options or {}).get("reset_mask")
        self.task.start(seed, None if mask is None else np.asarray(mask, dtype=np.bool_))
        return self.task.observation(), self.task.info()

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Observation, FloatArray, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Play one step in every row."""
        rewards = self.task.play(np.asarray(actions, dtype=np.float64).reshape(self.num_envs))
        terminated, truncated = self.task.terminated(), self.task.truncated()
        observation, infos = self.task.observation(), self.task.info()
        ended = terminated | truncated
        if ended.any() and self._autoreset:
            final_observation, final_infos = observation, infos
            self.task.start(None, None if ended.all() else ended)
            observation, infos = self.task.observation(), self.task.info()
            infos |= {
                "final_obs": final_observation,
                "_final_obs": ended,
                "final_info": final_infos,
                "_final_info": ended,
            }
        return observation, rewards, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close the backend if this environment opened it."""
        self.task.close()


def _check_no_picture(render_mode: str | None) -> None:
    if render_mode is not None:
        raise UsageError(
            f"render_mode must be None for many rows, not {render_mode!r}: "
            "gymnasium.make makes the environment that draws pictures"
        )


class BeamPhaseVectorEnv(BeamVectorEnv):
    """`BeamPhaseEnv` for many rows in one call; options as there, without `point`.

    Over a simulation the rows are `num_envs` unrelated conditions. Over a machine each sub-environment
    is one of its control points, so that `num_envs` must be their number.
    """

    def __init__(
        self,
        *,
        num_envs: int = 1,
        render_mode: str | None = None,
        autoreset: bool = True,
        **options: Any,
    ) -> None:
        _check_no_picture(render_mode)
        super().__init__(BeamPhase(num_envs, **options), autoreset=autoreset)


class BeamCycleVectorEnv(BeamVectorEnv):
    """`BeamCycleEnv` for many bunches in one call; options as there.

    Each row is a bunch of its own. Where programs of different numbers of control points are mixed,
    rows end and begin anew each at its own time.
    """

    def __init__(
        self,
        *,
        num_envs: int = 1,
        render_mode: str | None = None,
        autoreset: bool = True,
        **options: Any,
    ) -> None:
        _check_no_picture(render_mode)
        super().__init__(BeamCycle(num_envs, **options), autoreset=autoreset)
