"""The tasks themselves, for some rows of a backend; the environments are thin covers of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from memrl_ctrl import registry
from memrl_ctrl.backend import AlongCycle, BeamBackend, BoolArray, FloatArray, Reading
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

Observation = NDArray[np.float32]

EPISODE_SHOTS = 30
"""Shots of an episode at one control point, if nothing else is said."""
LATE_CYCLES = 3
"""So many cycles may begin before a function reaches the machine, until that is an error."""


class BeamTask(ABC):
    """Observation, action and reward at some rows of a backend.

    Args:
        count: rows that the task holds.
        point: the row to act on where `count` is 1 and the backend has several, the others hold;
            None holds all rows, which must be `count`.
        backend: registered name, or an open backend (which stays open when this closes).
        n_slices: bins of the observed profile.
        max_step_deg: change of phase for action 1, degrees.
        reward: registered name.
        reward_weights: weights of the reward's terms that differ from its own.
        backend_options: passed to the backend.

    Raises:
        UsageError: options that cannot work.
        MismatchError: the backend measures fewer slices than asked for.
    """

    options_of_kind: ClassVar[Mapping[str, Any]] = {}
    """Options that a backend gets for this kind of task, beside those of the user."""

    def __init__(
        self,
        count: int,
        /,
        *,
        point: int | None = None,
        backend: str | BeamBackend = "blond",
        n_slices: int = 128,
        max_step_deg: float = 90.0,
        reward: str = "log-error",
        reward_weights: Mapping[str, float] | None = None,
        **backend_options: Any,
    ) -> None:
        check_slices(n_slices)
        if not 0.0 < max_step_deg <= 180.0:
            raise UsageError(
                f"max_step_deg must be above 0 and at most 180 degrees, not {max_step_deg}"
            )
        named: Reward = registry.load(registry.REWARDS, "reward", reward)
        self.reward = named.with_weights(reward_weights or {})
        self.n_slices = n_slices
        self.max_step_rad = math.radians(max_step_deg)
        self._owned = isinstance(backend, str)
        self.backend = self._open(backend, count, backend_options)
        try:
            self._check_backend()
            self.rows = self._rows(count, point)
        except Exception:
            self.close()
            raise
        self.shot = np.zeros(self.rows.size, dtype=np.int64)
        self.applied = np.zeros(self.rows.size)
        self.reading: Reading

    def _open(
        self, backend: str | BeamBackend, count: int, options: Mapping[str, Any]
    ) -> BeamBackend:
        if not isinstance(backend, str):
            if options:
                raise UsageError(
                    f"options {sorted(options)} given for a backend that is already open"
                )
            return backend
        # What can have any size takes `rows` and `n_slices`; a machine has what it has.
        known = {"rows": count, "n_slices": self.n_slices, **self.options_of_kind}
        wanted = registry.option_names(backend)
        given = {name: value for name, value in known.items() if name in wanted}
        return registry.open_backend(backend, **{**given, **options})

    def _check_backend(self) -> None:
        """Refuse a backend that this task cannot be played on."""
        description = self.backend.description
        if description.n_slices < self.n_slices:
            raise MismatchError(
                f"backend {description.backend!r} measures {description.n_slices} slices a turn; "
                f"n_slices={self.n_slices} cannot be had from it"
            )

    def _rows(self, count: int, point: int | None) -> NDArray[np.int64]:
        points = self.backend.description.points
        if point is None:
            if points != count:
                raise UsageError(
                    f"num_envs={count}, but the backend has {points} control points: "
                    f"use num_envs={points}"
                )
            return np.arange(count)
        if not 0 <= point < points:
            raise UsageError(
                f"point must be 0 to {points - 1}, not {point}: the backend has {points} control "
                "points"
            )
        return np.array([point])

    @abstractmethod
    def held_rad(self) -> FloatArray:
        """Return phi_hw [points] that the next step plays without an action."""

    @abstractmethod
    def known_error_rad(self) -> FloatArray:
        """Return the error to the goal [rows] that the next step has without an action.

        It is what a reward compares with and a critic that may see the truth is shown; NaN without
        a truth.
        """

    @abstractmethod
    def truncated(self) -> BoolArray:
        """Return the rows whose episode is at its end in time [rows]."""

    def terminated(self) -> BoolArray:
        """Return the rows whose task is done [rows]."""
        return np.zeros(self.rows.size, dtype=np.bool_)

    @abstractmethod
    def place(self) -> FloatArray:
        """Return where in its episode each row is [rows], for people: see `place_label`."""

    place_label: ClassVar[str]
    """What `place` counts."""

    def start(self, seed: int | None, mask: BoolArray | None) -> None:
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
        """Play one step with the actions [rows] in [-1, 1]; return the rewards [rows]."""
        limits = self.backend.description.limits
        held = self.held_rad()
        wanted = held.copy()
        wanted[self.rows] += np.clip(action, -1.0, 1.0) * self.max_step_rad
        allowed = limits.restrict(wanted, held, self.backend.description.ctime_ms).phi_hw_rad
        error_before = self.known_error_rad()
        self.reading = self._play(allowed)
        self.applied = (self.reading.applied_rad - held)[self.rows]
        profile = self.reading.profile[self.rows]
        needs = not self.reward.needs_truth
        undefined = np.full(self.rows.size, np.nan)
        rewards = self.reward(
            Shot(
                error_rad=self.goal_error_rad(),
                previous_error_rad=error_before,
                delta_rad=self.applied,
                asymmetry=asymmetry(profile) if needs else undefined,
                bunching_factor=bunching_factor(profile) if needs else undefined,
                shot=self.shot,
            )
        )
        self.shot = self.shot + 1
        return rewards

    @property
    def recorded(self) -> bool:
        """Whether the cycles come from a recording, in which actions change nothing."""
        return bool(getattr(self.backend, "recorded", False))

    def _play(self, phi_hw_rad: FloatArray) -> Reading:
        """Play a function in the next cycle that still takes it: a machine does not wait for us.

        In a recording nothing is played: the next recorded cycle comes, whatever was asked for.
        """
        if self.recorded:
            return self.backend.observe()
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

    def goal_error_rad(self) -> FloatArray:
        """Return what rewards speak of [rows]: as `phase_error_rad`, but defined everywhere."""
        truth = self.reading.truth
        if truth is None:
            return np.full(self.rows.size, np.nan)
        return truth.goal_error_rad[self.rows]

    def aim_error_rad(self) -> FloatArray:
        """Return the error [rows] that a correction can remove: without what the next shot forgets."""
        return self.known_error_rad()

    def info(self) -> dict[str, Any]:
        """Return what training and evaluation may know beside the observation.

        `applied` [rows, 1] rad: what was really applied in the last step. `phase_error_rad` [rows].
        `privileged` [rows, 3]: `aim_error_rad` / pi, sin and cos of it, for a critic that may see
        the truth; where there is no reference it is the error to the least skewed profile. `recorded`
        [rows], only over a recording: True, the actions change nothing.
        """
        known = np.nan_to_num(self.aim_error_rad())
        said = {"recorded": np.ones(self.rows.size, dtype=np.bool_)} if self.recorded else {}
        return {
            **said,
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

    def close(self) -> None:
        """Close the backend if it was opened here."""
        if self._owned:
            self.backend.close()


class BeamPhase(BeamTask):
    """Each row is a control point; a step is a shot, and the episode has a fixed length.

    Args:
        count: see `BeamTask`, also for the other options.
        episode_length: shots until truncation.
        terminate_on_convergence: end an episode within 0.5 degree of the reference (simulation).
        options: see `BeamTask`.
    """

    place_label = "shot"

    def __init__(
        self,
        count: int,
        /,
        *,
        episode_length: int = EPISODE_SHOTS,
        terminate_on_convergence: bool = False,
        **options: Any,
    ) -> None:
        if episode_length < 1:
            raise UsageError(f"episode_length must be at least 1 shot, not {episode_length}")
        self.episode_length = episode_length
        self.terminate_on_convergence = terminate_on_convergence
        super().__init__(count, **options)

    def _check_backend(self) -> None:
        super()._check_backend()
        if isinstance(self.backend, AlongCycle):
            raise UsageError(
                "a step of memrl/BeamPhase-v0 is a shot at one control point, and this backend moves "
                "along the cycle: use memrl/BeamCycle-v0"
            )

    def _rows(self, count: int, point: int | None) -> NDArray[np.int64]:
        rows = super()._rows(count, point)
        related = self.backend.description.ctime_ms is not None
        if self.terminate_on_convergence and related and rows.size > 1:
            raise UsageError(
                "terminate_on_convergence needs rows that can begin anew one by one; the control "
                "points of a cycle share one bunch"
            )
        return rows

    def held_rad(self) -> FloatArray:
        """Return what is applied now: the points of a machine hold."""
        return self.reading.applied_rad

    def known_error_rad(self) -> FloatArray:
        """Return the error to the goal as it is [rows]."""
        return self.goal_error_rad()

    def aim_error_rad(self) -> FloatArray:
        """Return the error to the goal without the offset's jitter [rows].

        A critic that saw the jitter would take for the actor's mistake what nobody can know, and
        an actor that follows it would answer every shot's jitter instead of averaging it out.
        """
        truth = self.reading.truth
        return self.goal_error_rad() if truth is None else truth.aim_error_rad[self.rows]

    def truncated(self) -> BoolArray:
        """Return the rows that have had all their shots [rows]."""
        return np.asarray(self.shot >= self.episode_length)

    def terminated(self) -> BoolArray:
        """Return the rows that have converged, if that ends an episode [rows]."""
        if not self.terminate_on_convergence:
            return super().terminated()
        return np.asarray(np.abs(self.phase_error_rad()) < CONVERGED_RAD)

    def place(self) -> FloatArray:
        """Return the number of the shot [rows]."""
        return self.shot.astype(np.float64)


class BeamCycle(BeamTask):
    """Each row is a bunch on its way along a cycle; a step is its next control point.

    The action changes the correction that is added to the program's phi_hw, from the next control
    point on. The episode is one passage from the first control point to the last.
    """

    options_of_kind = {"along_cycle": True}  # noqa: RUF012 - typed so by the base class
    place_label = "ctime [ms]"

    backend: AlongCycle

    def _open(
        self, backend: str | BeamBackend, count: int, options: Mapping[str, Any]
    ) -> BeamBackend:
        if isinstance(backend, str) and "along_cycle" not in registry.option_names(backend):
            raise UsageError(_no_control_inside(backend))
        return super()._open(backend, count, options)

    def _check_backend(self) -> None:
        super()._check_backend()
        if not isinstance(self.backend, AlongCycle):
            raise UsageError(_no_control_inside(self.backend.description.backend))

    def held_rad(self) -> FloatArray:
        """Return the program's function plus the correction so far, at the next points."""
        return self.backend.held_rad

    def known_error_rad(self) -> FloatArray:
        """Return the error to the goal [rows] at the next points, if the correction stays."""
        error = self.backend.held_goal_error_rad
        return np.full(self.rows.size, np.nan) if error is None else error[self.rows]

    def truncated(self) -> BoolArray:
        """Return the rows that are at the last control point [rows]."""
        return np.asarray(self.backend.points_left[self.rows] == 0)

    def place(self) -> FloatArray:
        """Return where in the cycle each row is [rows], ms."""
        return self.backend.row_ctime_ms[self.rows]

    def info(self) -> dict[str, Any]:
        """Return also `ctime_ms` [rows], where in the cycle each row was measured."""
        return {**super().info(), "ctime_ms": self.place()}


def _no_control_inside(backend: str) -> str:
    return (
        f"memrl/BeamCycle-v0 sets phi_hw between the control points of one cycle, and backend "
        f"{backend!r} takes and shows whole cycles only: use backend='blond' with along_cycle=True, "
        "or memrl/BeamPhase-v0, one step a shot"
    )
