"""Gymnasium environments over any backend.

`memrl/BeamPhase-v0` corrects phi_2 at one control point, one shot a step. Its vector version holds one
control point (or one unrelated condition) per sub-environment and plays all of them in one call.

The environment does not know which backend it drives: a simulation, a twin, the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from memrl_ctrl import registry
from memrl_ctrl.backend import BeamBackend, Reading
from memrl_ctrl.errors import MismatchError, RefusalReason, Refused, UsageError
from memrl_ctrl.metrics import asymmetry, bunching_factor
from memrl_ctrl.observation import (
    CLIP_HIGH,
    CLIP_LOW,
    beam_observation,
    check_slices,
    observation_size,
)
from memrl_ctrl.reward import CONVERGED_RAD, Reward, Shot

FloatArray = NDArray[np.float64]
Observation = NDArray[np.float32]


LATE_CYCLES = 3
"""So many cycles may begin before a function reaches the machine, until that is an error."""


class BeamPhase:
    """The task itself, for some rows of a backend; both environments are thin covers of it."""

    def __init__(
        self,
        backend: BeamBackend,
        *,
        rows: NDArray[np.int64],
        n_slices: int,
        max_step_deg: float,
        reward: Reward,
    ) -> None:
        description = backend.description
        if description.n_slices < n_slices:
            raise MismatchError(
                f"backend {description.backend!r} measures {description.n_slices} slices a turn; "
                f"n_slices={n_slices} cannot be had from it"
            )
        if not 0.0 < max_step_deg <= 180.0:
            raise UsageError(
                f"max_step_deg must be above 0 and at most 180 degrees, not {max_step_deg}"
            )
        self.backend = backend
        self.rows = rows
        self.n_slices = n_slices
        self.max_step_rad = math.radians(max_step_deg)
        self.reward = reward
        self.shot = np.zeros(rows.size, dtype=np.int64)
        self.applied = np.zeros(rows.size)
        self.reading: Reading

    def start(self, seed: int | None, mask: NDArray[np.bool_] | None) -> None:
        """Begin an episode in the rows of `mask` (None: all)."""
        chosen = np.ones(self.rows.size, dtype=np.bool_) if mask is None else mask
        full = np.zeros(self.backend.description.points, dtype=np.bool_)
        full[self.rows[chosen]] = True
        everything = chosen.all() and self.rows.size == full.size
        self.reading = self.backend.start(seed=seed, mask=None if everything else full)
        if self.reward.needs_truth and self.reading.truth is None:
            raise UsageError(
                f"reward {self.reward.name!r} needs the simulation's truth, which backend "
                f"{self.backend.description.backend!r} does not know; use reward='measured'"
            )
        self.shot[chosen] = 0
        self.applied[chosen] = 0.0

    def play(self, action: NDArray[Any]) -> FloatArray:
        """Play one shot with the actions [rows] in [-1, 1]; return the rewards [rows]."""
        before = self.reading
        limits = self.backend.description.limits
        wanted = before.applied_rad.copy()
        wanted[self.rows] += np.clip(action, -1.0, 1.0) * self.max_step_rad
        allowed = limits.restrict(
            wanted, before.applied_rad, self.backend.description.ctime_ms
        ).phi_hw_rad
        error_before = self._goal_error_rad()
        self.reading = self._play(allowed)
        self.applied = (self.reading.applied_rad - before.applied_rad)[self.rows]
        profile = self.reading.profile[self.rows]
        needs = not self.reward.needs_truth
        undefined = np.full(self.rows.size, np.nan)
        rewards = self.reward(
            Shot(
                error_rad=self._goal_error_rad(),
                previous_error_rad=error_before,
                delta_rad=self.applied,
                asymmetry=asymmetry(profile) if needs else undefined,
                bunching_factor=bunching_factor(profile) if needs else undefined,
                shot=self.shot,
            )
        )
        self.shot = self.shot + 1
        return rewards

    def _play(self, phi_hw_rad: FloatArray) -> Reading:
        """Play a function in the next cycle that still takes it: a machine does not wait for us."""
        for _ in range(LATE_CYCLES):
            try:
                return self.backend.play(phi_hw_rad)
            except Refused as refused:
                if refused.reason is not RefusalReason.LATE:
                    raise
                self.backend.observe()
        return self.backend.play(phi_hw_rad)

    def observation(self) -> Observation:
        """Return what the policy may see [rows, n_slices + 1]."""
        return beam_observation(
            self.reading.profile[self.rows],
            self.reading.synchronous_phase_rad[self.rows],
            self.n_slices,
        )

    def phase_error_rad(self) -> FloatArray:
        """Return the true phase error [rows]; NaN where there is no truth or no reference."""
        truth = self.reading.truth
        if truth is None:
            return np.full(self.rows.size, np.nan)
        return truth.phase_error_rad[self.rows]

    def _goal_error_rad(self) -> FloatArray:
        """Return what rewards speak of [rows]: as `phase_error_rad`, but defined everywhere."""
        truth = self.reading.truth
        if truth is None:
            return np.full(self.rows.size, np.nan)
        return truth.goal_error_rad[self.rows]

    def info(self) -> dict[str, Any]:
        """Return what training and evaluation may know beside the observation.

        `applied` [rows, 1] rad: what was really applied in the last shot. `phase_error_rad` [rows].
        `privileged` [rows, 3]: error / pi, sin and cos of it, for a critic that may see the truth;
        where there is no reference it is the error to the flattest profile.
        """
        known = np.nan_to_num(self._goal_error_rad())
        return {
            "applied": self.applied[:, None].astype(np.float32),
            "phase_error_rad": self.phase_error_rad(),
            "privileged": np.stack([known / math.pi, np.sin(known), np.cos(known)], axis=1).astype(
                np.float32
            ),
        }

    def spaces(self) -> tuple[Box[np.float32], Box[np.float32]]:
        """Return the observation and action space of one row."""
        size = observation_size(self.n_slices)
        low = np.full(size, CLIP_LOW, dtype=np.float32)
        high = np.full(size, CLIP_HIGH, dtype=np.float32)
        low[-1], high[-1] = -1.0, 1.0
        return (
            Box(low, high, dtype=np.float32),
            Box(-1.0, 1.0, (1,), dtype=np.float32),
        )


def _reward(name: str, weights: Mapping[str, float] | None) -> Reward:
    reward: Reward = registry.load(registry.REWARDS, "reward", name)
    return reward.with_weights(weights or {})


class BeamPhaseEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """Correct phi_2 at one control point; one step is one shot.

    Observation: the profile, centred on its own mean and divided by its mean over the turn
    (`n_slices` values), and the synchronous phase / pi. Action: change of phi_2 in [-1, 1] times
    `max_step_deg`. Hidden: the hardware's phase offset, emittance, intensity, noise, program point.

    Args:
        backend: registered name, or an open backend (which stays open when this closes).
        point: control point to act on, where the backend has several; the others hold.
        n_slices: bins of the observed profile.
        max_step_deg: change of phase for action 1, degrees.
        episode_length: shots until truncation.
        terminate_on_convergence: end an episode within 0.5 degree of the reference (simulation).
        reward: registered name.
        reward_weights: weights of the reward's terms that differ from its own.
        render_mode: nothing is rendered yet; must be None.
        backend_options: passed to the backend, for example `program`, `noise`, `fidelity`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - typed so by the base class

    def __init__(
        self,
        *,
        backend: str | BeamBackend = "blond",
        point: int = 0,
        n_slices: int = 128,
        max_step_deg: float = 90.0,
        episode_length: int = 30,
        terminate_on_convergence: bool = False,
        reward: str = "log-error",
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
        **backend_options: Any,
    ) -> None:
        if render_mode is not None:
            raise UsageError(f"render_mode must be None, not {render_mode!r}")
        self.render_mode = None
        self._owned = isinstance(backend, str)
        opened = _open(backend, 1, n_slices, backend_options)
        if not 0 <= point < opened.description.points:
            raise UsageError(
                f"point must be 0 to {opened.description.points - 1}, not {point}: the backend has "
                f"{opened.description.points} control points"
            )
        self.task = BeamPhase(
            opened,
            rows=np.array([point]),
            n_slices=n_slices,
            max_step_deg=max_step_deg,
            reward=_reward(reward, reward_weights),
        )
        self.episode_length = episode_length
        self.terminate_on_convergence = terminate_on_convergence
        self.max_step_rad = self.task.max_step_rad
        self.observation_space, self.action_space = self.task.spaces()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; the backend draws new hidden conditions, a machine only reads."""
        super().reset(seed=seed)
        self.task.start(seed, None)
        return self.task.observation()[0], self._info()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Play one shot."""
        reward = self.task.play(np.asarray(action, dtype=np.float64).reshape(1))
        terminated = self.terminate_on_convergence and bool(
            np.abs(self.task.phase_error_rad()[0]) < CONVERGED_RAD
        )
        truncated = bool(self.task.shot[0] >= self.episode_length)
        return self.task.observation()[0], float(reward[0]), terminated, truncated, self._info()

    def _info(self) -> dict[str, Any]:
        return {name: value[0] for name, value in self.task.info().items()}

    def close(self) -> None:
        """Close the backend if this environment opened it."""
        if self._owned:
            self.task.backend.close()


class BeamPhaseVectorEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """`BeamPhaseEnv` for many rows in one call; arguments as there.

    Over a simulation the rows are `num_envs` unrelated conditions. Over a machine each sub-environment
    is one of its control points, so that `num_envs` must be their number. Episodes restart in the
    step that ends them (`AutoresetMode.SAME_STEP`); the last observations and infos of the old
    episodes are in `infos["final_obs"]` and `infos["final_info"]`, valid where `infos["_final_obs"]`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - typed so by the base class
        "render_modes": [],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        *,
        num_envs: int = 1,
        backend: str | BeamBackend = "blond",
        n_slices: int = 128,
        max_step_deg: float = 90.0,
        episode_length: int = 30,
        terminate_on_convergence: bool = False,
        reward: str = "log-error",
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
        **backend_options: Any,
    ) -> None:
        if render_mode is not None:
            raise UsageError(f"render_mode must be None, not {render_mode!r}")
        self._owned = isinstance(backend, str)
        opened = _open(backend, num_envs, n_slices, backend_options)
        if opened.description.points != num_envs:
            raise UsageError(
                f"num_envs={num_envs}, but the backend has {opened.description.points} control "
                f"points: use num_envs={opened.description.points}"
            )
        if terminate_on_convergence and num_envs > 1 and opened.description.ctime_ms is not None:
            raise UsageError(
                "terminate_on_convergence needs rows that can begin anew one by one; the control "
                "points of a cycle share one bunch"
            )
        self.num_envs = num_envs
        self.render_mode = None
        self.task = BeamPhase(
            opened,
            rows=np.arange(num_envs),
            n_slices=n_slices,
            max_step_deg=max_step_deg,
            reward=_reward(reward, reward_weights),
        )
        self.episode_length = episode_length
        self.terminate_on_convergence = terminate_on_convergence
        self.max_step_rad = self.task.max_step_rad
        self.single_observation_space, self.single_action_space = self.task.spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

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
        """Play one shot in every row."""
        rewards = self.task.play(np.asarray(actions, dtype=np.float64).reshape(self.num_envs))
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        if self.terminate_on_convergence:
            terminated = np.abs(self.task.phase_error_rad()) < CONVERGED_RAD
        truncated = self.task.shot >= self.episode_length
        observation, infos = self.task.observation(), self.task.info()
        ended = terminated | truncated
        if ended.any():
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
        if self._owned:
            self.task.backend.close()


def _open(
    backend: str | BeamBackend, rows: int, n_slices: int, options: Mapping[str, Any]
) -> BeamBackend:
    check_slices(n_slices)
    if not isinstance(backend, str):
        if options:
            raise UsageError(f"options {sorted(options)} given for a backend that is already open")
        return backend
    # What can have any size takes `rows` and `n_slices`; a machine has what it has.
    sizes = {"rows": rows, "n_slices": n_slices}
    wanted = registry.option_names(backend)
    options = {**{name: sizes[name] for name in sizes if name in wanted}, **options}
    return registry.open_backend(backend, **options)
