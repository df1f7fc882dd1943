"""The environments for one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.env.task import EPISODE_SHOTS, BeamCycle, BeamPhase, BeamTask, Observation
from memrl_ctrl.errors import UsageError
from memrl_ctrl.registry import missing_extra

if TYPE_CHECKING:
    from memrl_ctrl.env.picture import Picture

RENDER_MODES = ("rgb_array",)


class BeamEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """A task with one row as a Gymnasium environment.

    Args:
        task: what is played; closed with the environment.
        render_mode: None, or `rgb_array`: `render` draws the profile, its mirror image and the phase
            error so far (extra `plot`).
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": 5}  # noqa: RUF012 - typed so by the base class

    def __init__(self, task: BeamTask, render_mode: str | None) -> None:
        self.task = task
        self.render_mode = render_mode
        self.max_step_rad = task.max_step_rad
        self.observation_space, self.action_space = task.spaces()
        self._picture: Picture | None = None
        self._picture = self._new_picture()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; the backend draws new hidden conditions, a machine only reads."""
        super().reset(seed=seed)
        self.task.start(seed, None)
        if self._picture is not None:
            self._picture.begin()
        return self._seen()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play one step."""
        reward = self.task.play(np.asarray(action, dtype=np.float64).reshape(1))
        terminated = bool(self.task.terminated()[0])
        truncated = bool(self.task.truncated()[0])
        observation, info = self._seen()
        return observation, float(reward[0]), terminated, truncated, info

    def _seen(self) -> tuple[Observation, dict[str, Any]]:
        if self._picture is not None:
            self._picture.note()
        info = {name: value[0] for name, value in self.task.info().items()}
        return self.task.observation()[0], info

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture of where the episode is [height, width, 3]; None without a render mode."""
        return None if self._picture is None else self._picture.draw()

    def _new_picture(self) -> Picture | None:
        if self.render_mode is None:
            return None
        try:
            from memrl_ctrl.env.picture import Picture
        except ModuleNotFoundError as error:
            raise missing_extra("render_mode='rgb_array'", error) from error
        return Picture(self.task)

    def close(self) -> None:
        """Close the backend if this environment opened it."""
        self.task.close()


def check_render_mode(render_mode: str | None) -> None:
    """Refuse a render mode that does not exist, before anything is opened."""
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise UsageError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")


class BeamPhaseEnv(BeamEnv):
    """Correct phi_2 at one control point; one step is one shot.

    Observation: the profile, centred on its own mean and divided by its mean over the turn
    (`n_slices` values), and the synchronous phase / pi. Action: change of phi_2 in [-1, 1] times
    `max_step_deg`. Hidden: the hardware's phase offset, emittance, intensity, noise, program point.

    Args:
        point: control point to act on, where the backend has several; the others hold.
        episode_length: shots until truncation (30).
        terminate_on_convergence: end an episode within 0.5 degree of the reference (simulation).
        render_mode: None, or `rgb_array` (extra `plot`).
        options: `backend` (registered name, or an open one, which stays open when this closes;
            `blond`), `n_slices` of the observed profile (128), `max_step_deg`, the change of phase
            for action 1 (90 degrees), `reward` (registered name; `log-error`), `reward_weights` that
            differ from its own, and the backend's own options, for example `program`, `noise`.
    """

    def __init__(
        self,
        *,
        point: int = 0,
        episode_length: int = EPISODE_SHOTS,
        terminate_on_convergence: bool = False,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        check_render_mode(render_mode)
        task = BeamPhase(
            1,
            point=point,
            episode_length=episode_length,
            terminate_on_convergence=terminate_on_convergence,
            **options,
        )
        super().__init__(task, render_mode)


class BeamCycleEnv(BeamEnv):
    """Correct phi_2 along the cycle; one step is the next control point of the same bunch.

    Observation and action as in `BeamPhaseEnv`. Step k sets the correction of phi_hw at control point
    k + 1 and measures there; an episode is one passage from the first control point to the last and
    ends in truncation. The bunch keeps its emittance, its intensity and the hidden offset, so that
    what was learnt at early points serves later ones; what a bucket does not hold is lost for the
    rest of the passage. Without an action the correction stays and phi_hw goes on with the program's
    function.

    Args:
        render_mode: None, or `rgb_array` (extra `plot`).
        options: as for `BeamPhaseEnv`; of the backend for example `program` (one, or several of one
            machine: each episode runs along one of them) and `points`.
    """

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        check_render_mode(render_mode)
        super().__init__(BeamCycle(1, **options), render_mode)
