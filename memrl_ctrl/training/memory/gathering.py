"""Many episodes with a policy, recorded; and the same episodes with its memory cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from memrl_ctrl.progress import report
from memrl_ctrl.training.evaluation import Policy
from memrl_ctrl.training.memory.insight import Insight
from memrl_ctrl.training.memory.recording import (
    Forgetful,
    Moments,
    Played,
    Recorder,
    open_watched,
    play,
)
from memrl_ctrl.training.memory.secrets import Secret
from memrl_ctrl.training.stepper import Stepper
from memrl_ctrl.training.video import most_steps
from memrl_ctrl.training.watching import Watched

Floats = NDArray[np.float64]

TOGETHER = 64
"""Episodes that are played together."""
RESAMPLES = 5_000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Occasion:
    """Which episodes are played."""

    environment: str
    """Gymnasium's name."""
    options: Mapping[str, Any]
    """Its options."""
    episodes: int
    """How many."""
    seed: int
    """Of the first ones; each round has the next one."""

    @property
    def rounds(self) -> int:
        """In how many rounds they are played."""
        return -(-self.episodes // TOGETHER)

    @property
    def rows(self) -> int:
        """Episodes of a round; the last round may play more than are wanted."""
        return -(-self.episodes // self.rounds)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The same episodes with memory and without."""

    remembering: Played
    forgetting: Played
    difference: float
    """Mean return with memory, less that without."""
    interval: tuple[float, float]
    """Its 95 % bootstrap interval over episodes."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "with_memory": figures(self.remembering),
            "without_memory": figures(self.forgetting),
            "return_difference": self.difference,
            "return_difference_interval_95": list(self.interval),
        }


def figures(played: Played) -> dict[str, float | int | None]:
    """Return what episodes brought as plain values."""
    errors = played.last_error_deg
    known = None if errors is None else errors[np.isfinite(errors)]
    many = played.returns.size > 1
    return {
        "episodes": int(played.returns.size),
        "return_mean": float(played.returns.mean()),
        "return_std": float(played.returns.std(ddof=1)) if many else 0.0,
        "length_mean": float(played.lengths.mean()),
        "success_rate": None if played.success is None else float(played.success.mean()),
        "last_phase_error_deg_median": float(np.median(known))
        if known is not None and known.size
        else None,
    }


def gather(
    insight: Insight,
    occasion: Occasion,
    secrets_in: Callable[[Watched], Sequence[Secret]],
) -> tuple[Played, Moments, tuple[Secret, ...]]:
    """Play episodes and record them.

    Args:
        insight: who plays.
        occasion: which episodes.
        secrets_in: returns what is noted of the environment.

    Returns:
        What they brought, their decisions, and the secrets that were noted.
    """
    secrets: list[Secret] = []
    parts: list[Moments] = []

    def recorder(watched: Watched) -> Recorder:
        secrets.extend(secrets_in(watched))
        return Recorder(insight, watched, secrets, thin=True)

    def keep(policy: Policy, number: int) -> None:
        if isinstance(policy, Recorder):
            moments = policy.moments()
            moments.row[:] += number * occasion.rows
            parts.append(moments)

    played = _rounds(insight, occasion, recorder, keep)
    joined = joined_moments(parts)
    return played, joined.where(joined.row < occasion.episodes), tuple(secrets)


def cut(insight: Insight, occasion: Occasion, remembering: Played) -> Compared:
    """Play the same episodes with the memory cut at every step.

    Args:
        insight: who plays.
        occasion: which episodes.
        remembering: what they brought with memory.
    """
    forgetting = _rounds(insight, occasion, lambda _: Forgetful(insight), lambda *_: None)
    difference = remembering.returns - forgetting.returns
    interval = (float(difference.mean()),) * 2
    if np.ptp(difference) > 0.0:
        found = stats.bootstrap(
            (difference,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            random_state=np.random.default_rng(0),
        ).confidence_interval
        interval = float(found.low), float(found.high)
    return Compared(
        remembering=remembering,
        forgetting=forgetting,
        difference=float(difference.mean()),
        interval=interval,
    )


def _rounds(
    insight: Insight,
    occasion: Occasion,
    player: Callable[[Watched], Policy],
    keep: Callable[[Policy, int], None],
) -> Played:
    """Play all rounds in one environment."""
    stepper, watched = open_watched(
        insight, occasion.environment, occasion.rows, occasion.options, pictures=False
    )
    parts: list[Played] = []
    try:
        # What is hidden is known once there is an episode.
        stepper.reset(occasion.seed)
        policy = player(watched)
        for number in range(occasion.rounds):
            look = _counter(stepper, watched, number, occasion.rounds)
            parts.append(play(policy, stepper, watched, occasion.seed + number, look))
            keep(policy, number)
    finally:
        stepper.close()
    report(1, 1)
    return _joined(parts, occasion.episodes)


def _counter(stepper: Stepper, watched: Watched, number: int, rounds: int) -> Callable[[], None]:
    """Return what reports progress: the share of the rows that have ended, or of the longest time."""
    most, step = most_steps(stepper), 0
    total = rounds * 1_000

    def look() -> None:
        nonlocal step
        share = max(1.0 - watched.going.mean(), min(step / most, 1.0))
        step += 1
        report(min(number * 1_000 + int(1_000 * share), total - 1), total)

    return look


def _joined(parts: Sequence[Played], episodes: int) -> Played:
    def one(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        known = all(array is not None for array in arrays)
        return np.concatenate(arrays)[:episodes] if known else None

    names = ("returns", "lengths", "success", "last_error_deg")
    return Played(**{name: one(name) for name in names})


def joined_moments(parts: Sequence[Moments]) -> Moments:
    """Put recordings behind each other."""

    def one(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    return Moments(**{name: one(name) for name in vars(parts[0])})
