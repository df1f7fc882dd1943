"""Judging a policy: whole episodes, deterministic, on held-out seeds, memory reset at every start.

Every environment plays the same number of episodes to their ends, so that short episodes are not
counted more often than long ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from memrl_ctrl.agents.exportable import ExportablePolicy
from memrl_ctrl.errors import MismatchError, UsageError
from memrl_ctrl.policy.catalogue import locate
from memrl_ctrl.policy.manifest import PolicyManifest
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.stepper import Stepper

Array = NDArray[np.float32]

LARGEST_BATCH = 256
"""Episodes that are played together."""
TABLE_SHOTS = (0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100, 200)
"""Shots after which the phase error is reported."""
WITHIN_DEG = 2.0


class Policy(Protocol):
    """A policy with the memory of its rows: from torch, or from an ONNX file."""

    @property
    def manifest(self) -> PolicyManifest:
        """What it is."""
        ...

    def reset(self, rows: int, mask: NDArray[np.bool_] | None = None) -> None:
        """Begin episodes, in all rows or those in `mask` [rows]."""
        ...

    def act(self, observation: Array, previous_applied: Array) -> NDArray[Any]:
        """Return actions [rows, n_action] and carry the memory on."""
        ...


class TorchPolicy:
    """Drives an `ExportablePolicy` as a runtime would drive its file."""

    def __init__(self, policy: ExportablePolicy) -> None:
        self._policy = policy
        self._memory: tuple[torch.Tensor, ...] = ()
        self._allowed: Array | None = None

    @property
    def manifest(self) -> PolicyManifest:
        """What it is."""
        return self._policy.manifest

    def reset(self, rows: int, mask: NDArray[np.bool_] | None = None) -> None:
        """See `Policy`."""
        fresh = self._policy.initial_memory(rows)
        if mask is not None:
            chosen = torch.from_numpy(mask)
            for new, old in zip(fresh, self._memory, strict=True):
                new[~chosen] = old[~chosen]
        self._memory = fresh

    @property
    def module(self) -> torch.nn.Module:
        """The network behind it."""
        return self._policy.module

    @property
    def memory(self) -> tuple[torch.Tensor, ...]:
        """The memory that the next call gets [rows, ...]."""
        return self._memory

    def allow(self, allowed: Array) -> None:
        """Say which choices may be made in the next call of `act` [rows, sum of choices]."""
        self._allowed = allowed

    @torch.no_grad()
    def act(self, observation: Array, previous_applied: Array) -> NDArray[Any]:
        """See `Policy`."""
        acts, masks = self.manifest.action, []
        if acts.allowed_name:
            every = np.ones((len(observation), sum(acts.choices)), dtype=np.float32)
            masks = [torch.from_numpy(every if self._allowed is None else self._allowed)]
        self._allowed = None
        action, *memory = self._policy.module(
            torch.from_numpy(observation), torch.from_numpy(previous_applied), *masks, *self._memory
        )
        self._memory = tuple(memory)
        return np.asarray(action.numpy())


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What whole episodes brought."""

    returns: NDArray[np.float64]
    """Undiscounted return of each episode [episodes]."""
    lengths: NDArray[np.int64]
    """Steps of each episode [episodes]."""
    phase_error_deg: NDArray[np.float64] | None
    """Size of the phase error before the first and after each shot [shots + 1, episodes]; NaN where
    there is no reference optimum or the episode was over; None for other tasks."""
    environment: str
    """Gymnasium's name of the task."""
    options: dict[str, Any]
    """Its options."""
    seed: int
    """Seed of the episodes."""

    @property
    def without_reference(self) -> int:
        """Episodes whose condition has no reference optimum; not in the phase errors."""
        if self.phase_error_deg is None:
            return 0
        return int(np.isnan(self.phase_error_deg[0]).sum())

    def shots(self) -> list[dict[str, float]]:
        """Phase error by shot: `shot`, `median_deg`, `p95_deg`, `share_within_2_deg`."""
        if self.phase_error_deg is None:
            return []
        rows = []
        last = len(self.phase_error_deg) - 1
        for shot in sorted({*(s for s in TABLE_SHOTS if s <= last), last}):
            error = self.phase_error_deg[shot]
            error = error[np.isfinite(error)]
            if error.size:
                rows.append(
                    {
                        "shot": shot,
                        "median_deg": float(np.median(error)),
                        "p95_deg": float(np.percentile(error, 95)),
                        "share_within_2_deg": float(np.mean(error <= WITHIN_DEG)),
                    }
                )
        return rows

    def as_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` writes."""
        spread = float(self.returns.std(ddof=1)) if self.returns.size > 1 else 0.0
        return {
            "environment": self.environment,
            "options": self.options,
            "seed": self.seed,
            "episodes": int(self.returns.size),
            "return_mean": float(self.returns.mean()),
            "return_std": spread,
            "length_mean": float(self.lengths.mean()),
            "without_reference": self.without_reference,
            "shots": self.shots(),
        }


def run_episodes(
    policy: Policy,
    *,
    environment: str,
    options: Mapping[str, Any] | None = None,
    episodes: int = 10,
    seed: int = 1_000_003,
) -> Evaluation:
    """Play whole episodes with a policy.

    Args:
        policy: whose memory is reset here.
        environment: Gymnasium's name.
        options: its keyword arguments.
        episodes: number of episodes; 256 at most are played together.
        seed: of the episodes.

    Raises:
        MismatchError: the policy's observation or action is not the environment's.
        UsageError: no episodes are asked for.
    """
    if episodes < 1:
        raise UsageError(f"episodes must be at least 1, not {episodes}")
    rounds = -(-episodes // LARGEST_BATCH)
    rows = -(-episodes // rounds)
    stepper = open_for(policy, environment, rows, dict(options or {}))
    # Later rounds go on with the generators that the seed started.
    seeds = [seed, *(None for _ in range(rounds - 1))]
    try:
        parts = [play_round(policy, stepper, begin) for begin in seeds]
    finally:
        stepper.close()
    returns = np.concatenate([part[0] for part in parts])[:episodes]
    lengths = np.concatenate([part[1] for part in parts])[:episodes]
    return Evaluation(
        returns=returns,
        lengths=lengths,
        phase_error_deg=_joined([part[2] for part in parts], episodes),
        environment=environment,
        options=dict(options or {}),
        seed=seed,
    )


def open_for(
    policy: Policy,
    environment: str,
    rows: int,
    options: Mapping[str, Any],
    *,
    pictures: bool = False,
) -> Stepper:
    """Open an environment for a policy.

    Args:
        policy: who is to play in it.
        environment: Gymnasium's name.
        rows: episodes that are played together.
        options: its keyword arguments.
        pictures: whether it draws pictures.

    Raises:
        MismatchError: the policy's observation or action is not the environment's.
    """
    env = make_environment(environment, rows, options, pictures=pictures)
    task = task_of(environment, env)
    seen, acts = policy.manifest.observation.shape, policy.manifest.action
    spec = task.action_spec()
    if seen != task.shape or acts.shape != spec.shape or acts.choices != spec.choices:
        env.close()
        choices = f" of {spec.choices} choices" if spec.choices else ""
        hint = f"; give --set n_slices={seen[0] - 1}" if task.kind == "beam-phase" else ""
        if len(task.shape) == 3:
            hint = "; give the options that it was trained with, for example --set view_size=3"
        raise MismatchError(
            f"the policy sees {seen} and acts {acts.shape}, environment {environment!r} shows "
            f"{task.shape} and takes {spec.shape}{choices}{hint}"
        )
    return Stepper(env, task)


def play_round(
    policy: Policy, stepper: Stepper, seed: int | None, look: Callable[[], None] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None]:
    """Play one episode in every row, to its end.

    Args:
        policy: whose memory is reset here.
        stepper: the environments.
        seed: of the episodes; None goes on with the generators.
        look: called at the start and after every step.

    Returns:
        Returns [rows], lengths [rows], and sizes of the phase error [steps + 1, rows], degrees.
    """
    rows, task = stepper.env.num_envs, stepper.task
    begun = stepper.reset(seed)
    policy.reset(rows)
    if look is not None:
        look()
    observation, allowed = begun.observation, begun.allowed
    allow = getattr(policy, "allow", None)
    previous = np.zeros((rows, *task.action_spec().shape), dtype=np.float32)
    returns, lengths = np.zeros(rows), np.zeros(rows, dtype=np.int64)
    going = np.ones(rows, dtype=np.bool_)
    errors = None if begun.phase_error_rad is None else [begun.phase_error_rad]
    while going.any():
        if allow is not None and allowed is not None:
            allow(allowed)
        action = policy.act(observation.reshape(rows, *task.shape), previous)
        step = stepper.step(task.unit_of(action))
        if look is not None:
            look()
        returns += np.where(going, step.reward, 0.0)
        lengths += going
        if errors is not None and step.phase_error_rad is not None:
            errors.append(np.where(going, step.phase_error_rad, math.nan))
        going &= ~step.ended
        observation, allowed = step.observation, step.allowed
        previous = task.seen_as_previous(step.applied)
    degrees = None if errors is None else np.abs(np.degrees(np.stack(errors)))
    return returns, lengths, degrees


def _joined(parts: list[NDArray[np.float64] | None], episodes: int) -> NDArray[np.float64] | None:
    """Put rounds side by side; shorter ones are filled with NaN."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    longest = max(len(part) for part in known)
    padded = [
        np.pad(part, ((0, longest - len(part)), (0, 0)), constant_values=math.nan) for part in known
    ]
    return np.concatenate(padded, axis=1)[:, :episodes]


def load_any(path: Path, checkpoint: int | None = None) -> Policy:
    """Open a run folder, an ONNX file or a shipped policy.

    Raises:
        FileError: it is none of them, or damaged.
    """
    path = locate(path)
    if path.is_dir():
        from memrl_ctrl.training.runs import load_policy

        return TorchPolicy(load_policy(path, checkpoint))
    if checkpoint is not None:
        raise UsageError("--checkpoint belongs to a run folder; a policy file holds one policy")
    from memrl_ctrl.policy.runner import OnnxPolicy

    return OnnxPolicy.load(path)


def evaluate(
    run_or_policy: str | Path,
    *,
    episodes: int | None = None,
    seed: int | None = None,
    environment: str | None = None,
    options: Mapping[str, Any] | None = None,
    checkpoint: int | None = None,
) -> Evaluation:
    """Judge a run's policy, or a policy file, on the task that it was trained on or another.

    Args:
        run_or_policy: run folder or ONNX file.
        episodes: number of episodes; without it as the training's configuration says.
        seed: of the episodes; likewise.
        environment: Gymnasium's name; without it that of the training.
        options: environment options that differ from those of the training.
        checkpoint: environment steps of the run's checkpoint; without it the last.

    Raises:
        FileError: the run or file is damaged or missing.
        UsageError: the policy does not say what it was trained on, and nothing else was given.
    """
    policy = load_any(Path(run_or_policy), checkpoint)
    occasion = occasion_of(
        policy, episodes=episodes, seed=seed, environment=environment, options=options
    )
    return run_episodes(policy, **occasion)


def occasion_of(
    policy: Policy,
    *,
    episodes: int | None = None,
    seed: int | None = None,
    environment: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what a policy is judged on: `environment`, `options`, `episodes` and `seed`.

    Args:
        policy: who is judged; what is not given is as its training's configuration says.
        episodes, seed, environment, options: see `evaluate`.

    Raises:
        UsageError: the policy does not say what it was trained on, and nothing else was given.
    """
    training = policy.manifest.training
    trained = training.configuration
    settings: Mapping[str, Any] = trained.get("evaluation", {})
    other = settings.get("environment", "")
    name = environment or other or training.task
    if not name:
        raise UsageError("the policy does not say its task: give one with --env")
    # Options of the training's environment mean nothing to another one.
    base: dict[str, Any] = {}
    if name == training.task:
        base |= trained.get("environment", {}).get("options", {})
    if name == (other or training.task):
        base |= settings.get("options", {})
    return {
        "environment": name,
        "options": {**base, **(options or {})},
        "episodes": episodes or settings.get("episodes", 10),
        "seed": seed if seed is not None else settings.get("seed", 1_000_003),
    }
