"""Playing whole episodes with one controller in one condition."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.angles import wrap
from memrl_ctrl.backend import Truth
from memrl_ctrl.beam import Conditions
from memrl_ctrl.bench.beam.conditions import USUAL, Condition, Part, parts
from memrl_ctrl.env.task import BeamPhase
from memrl_ctrl.errors import MismatchError
from memrl_ctrl.observation import beam_observation
from memrl_ctrl.policy.manifest import PolicyManifest

Floats = NDArray[np.float64]

LARGEST_BATCH = 256
"""Episodes that are played together."""


class Player(Protocol):
    """A policy or a driven controller."""

    @property
    def manifest(self) -> PolicyManifest:
        """What it is."""
        ...

    def reset(self, rows: int, mask: NDArray[np.bool_] | None = None) -> None:
        """Begin episodes."""
        ...

    def act(
        self, observation: NDArray[np.float32], previous_applied: NDArray[np.float32]
    ) -> NDArray[Any]:
        """Return changes [rows, 1], rad."""
        ...


CUT = "-no-memory"
"""Behind the name of a policy whose memory is cut."""


class Forgetful:
    """A policy whose memory is cut: it is back at its reset value in every shot.

    What was applied last is still shown: it is an input, not memory.
    """

    def __init__(self, player: Player) -> None:
        self._player = player

    @property
    def manifest(self) -> PolicyManifest:
        """What it is."""
        return self._player.manifest

    def reset(self, rows: int, mask: NDArray[np.bool_] | None = None) -> None:
        """Begin episodes."""
        self._player.reset(rows, mask)

    def act(
        self, observation: NDArray[np.float32], previous_applied: NDArray[np.float32]
    ) -> NDArray[Any]:
        """Return changes [rows, 1], rad, as in a first shot."""
        self._player.reset(len(observation))
        return self._player.act(observation, previous_applied)


@dataclass(frozen=True, kw_only=True, eq=False)
class Played:
    """What the episodes of one controller in one condition brought."""

    error_deg: Floats
    """Phase error [shots + 1, episodes], degrees with sign: before the first and after each shot, without
    the jitter of the shot itself; NaN where there is no reference optimum."""
    applied_deg: Floats
    """Change of phi_hw that was applied in each shot [shots, episodes], degrees."""
    decide_s: Floats
    """Time that each call took, by the clock [calls], s."""
    rows: NDArray[np.int64]
    """Rows of each call [calls]."""


def check_player(player: Player, n_slices: int, name: str) -> None:
    """Refuse a policy that cannot be compared here.

    Raises:
        MismatchError: it is not for the beam, or sees more slices than are measured.
    """
    spec = player.manifest
    if spec.observation.kind != "beam-phase" or spec.action.kind != "delta-phi-rad":
        raise MismatchError(
            f"{name} is a policy for {spec.training.task or 'another task'}, not for the beam: it "
            f"sees {spec.observation.kind!r} and gives {spec.action.kind!r}"
        )
    if spec.observation.n_slices > n_slices:
        raise MismatchError(
            f"{name} sees {spec.observation.n_slices} slices a turn, and {n_slices} are measured "
            "here: a policy for fewer slices can be compared"
        )


def play(
    player: Player,
    condition: Condition,
    *,
    episodes: int,
    seed: int,
    programs: Sequence[str | Path],
    folder: Path,
    advance: Callable[[float], None] = lambda share: None,
) -> Played:
    """Play whole episodes; the same seed brings every controller the same machine and noise.

    Args:
        player: who controls; its memory is reset.
        condition: what it meets.
        episodes: in all.
        seed: of machine, bunches and noise.
        programs: where the points come from, unless they are random.
        folder: for files of the condition.
        advance: called with the share of the work that was done since the last call.
    """
    played: list[Played] = []
    for k, part in enumerate(parts(condition, episodes, programs, folder)):
        done = 0
        while done < part.episodes:
            rows = min(LARGEST_BATCH, part.episodes - done)
            task = BeamPhase(rows, **part.options)
            try:
                # Each batch has a seed of its own, whatever was played before it.
                one = _episode(
                    player,
                    task,
                    part,
                    seed + 1000 * k + done,
                    share=rows / episodes,
                    advance=advance,
                )
            finally:
                task.close()
            played.append(one)
            done += rows
    return Played(
        error_deg=np.concatenate([one.error_deg for one in played], axis=1),
        applied_deg=np.concatenate([one.applied_deg for one in played], axis=1),
        decide_s=np.concatenate([one.decide_s for one in played]),
        rows=np.concatenate([one.rows for one in played]),
    )


def _episode(
    player: Player,
    task: BeamPhase,
    part: Part,
    seed: int,
    *,
    share: float,
    advance: Callable[[float], None],
) -> Played:
    rows, shots = task.rows.size, task.episode_length
    n_slices = player.manifest.observation.n_slices
    noise = np.random.default_rng(seed)
    task.start(seed, None)
    _inform(player, task, part)
    player.reset(rows)
    previous = np.zeros((rows, 1), dtype=np.float32)
    errors, applied, times = [_error_deg(task)], [], []
    for _ in range(shots):
        reading = task.reading
        profile = with_correlated_noise(reading.profile, part.correlation_slices, noise)
        seen = beam_observation(profile, reading.synchronous_phase_rad, n_slices)
        begun = time.perf_counter()
        action = _decide(player, seen, previous)
        times.append(time.perf_counter() - begun)
        task.play(action / task.max_step_rad)
        applied.append(np.degrees(task.applied))
        previous = task.applied[:, None].astype(np.float32)
        errors.append(_error_deg(task))
        advance(share / shots)
    return Played(
        error_deg=np.stack(errors),
        applied_deg=np.stack(applied),
        decide_s=np.array(times),
        rows=np.full(shots, rows),
    )


def _inform(player: Player, task: BeamPhase, part: Part) -> None:
    """Tell a controller that works with a model what the control system knows of each row."""
    inform = getattr(player, "inform", None)
    if inform is None:
        return
    told = getattr(task.backend, "conditions", None)
    true = None if told is None else told()
    if isinstance(true, Conditions):
        inform(part.known(true.replace(phi2_rad=0.0, intensity=0.0, emittance_evs=1.0)))


def with_correlated_noise(
    profile: NDArray[np.float32], correlation_slices: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return profiles with noise that neighbouring slices share.

    White noise is smoothed around the turn with a Gaussian and brought back to the usual size a slice.

    Args:
        profile: [rows, n_slices]; dead ones (without a peak above 0) stay as they are.
        correlation_slices: standard deviation of the Gaussian, slices; 0 adds nothing.
        rng: of the noise.
    """
    if correlation_slices <= 0.0:
        return profile
    n_slices = profile.shape[1]
    turns = np.arange(n_slices // 2 + 1) / n_slices
    gain = np.exp(-2.0 * (np.pi * turns * correlation_slices) ** 2)
    white = rng.standard_normal(profile.shape)
    smooth = np.fft.irfft(np.fft.rfft(white, axis=1) * gain, n_slices, axis=1)
    whole = np.concatenate([gain, gain[1 : (n_slices + 1) // 2]])
    size = float(USUAL["noise"]) / np.sqrt(np.mean(whole**2))
    peak = np.maximum(profile.max(axis=1, keepdims=True), 0.0)
    return np.asarray(profile + size * peak * smooth, dtype=np.float32)


def _decide(
    player: Player, seen: NDArray[np.float32], previous: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the changes [rows], rad; none where nothing was seen or the answer is not finite."""
    shown = seen[:, :-1].any(axis=1)
    before: Mapping[str, NDArray[Any]] | None = None
    if not shown.all() and isinstance(memory := getattr(player, "memory", None), Mapping):
        before = memory
    action = np.asarray(player.act(seen, previous), dtype=np.float64)[:, 0]
    if before is not None:
        # As the runtime does: a point that is not shown keeps its memory.
        after = dict(player.memory)  # type: ignore[attr-defined]
        for name, array in after.items():
            array[~shown] = before[name][~shown]
        player.memory = after  # type: ignore[attr-defined]
    return np.where(shown & np.isfinite(action), action, 0.0)


def _error_deg(task: BeamPhase) -> Floats:
    truth = task.reading.truth
    if truth is None:
        return np.full(task.rows.size, np.nan)
    return np.degrees(wrap(truth.phase_error_rad + _jitter_rad(truth)))


def _jitter_rad(truth: Truth) -> Floats | float:
    """Return what the offset of this shot has that is gone in the next [points], rad."""
    if truth.lasting_offset_rad is None:
        return 0.0
    return np.asarray(truth.offset_rad - truth.lasting_offset_rad)
