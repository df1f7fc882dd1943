"""What a sweep file holds: frozen dataclasses, each field with its meaning and unit."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from memrl_ctrl.config.checks import require, require_between

MOST_SEEDS = 1_000


@dataclass(frozen=True, kw_only=True)
class GoalConfig:
    """What a trial is judged by."""

    metric: str = "evaluation_return"
    """Name of a figure in the runs' metrics.jsonl, or `result.` and the path of one in their
    result.json, for example `result.seconds`."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether more or less of it is better."""
    of: Literal["last", "best", "mean"] = "last"
    """Which of a run's evaluations count: the last, the best, or the mean of all, which also favours
    what learns early."""

    @property
    def words(self) -> str:
        """What is compared, for headings."""
        return self.metric if self.of == "last" else f"{self.of} {self.metric}"

    def __post_init__(self) -> None:
        """Refuse an empty name."""
        require(bool(self.metric), "metric is empty; name a figure, for example evaluation_return")
        require(
            not self.metric.startswith("result.") or self.of == "last",
            f"{self.metric} is one figure of a whole run: set of: last",
        )


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """What proposes parameters."""

    name: Literal["tpe", "random", "grid"] = "tpe"
    """`tpe`: tree-structured Parzen estimator (Bergstra et al. 2011, NeurIPS 24), `random`, or `grid`:
    every combination once."""
    seed: int = 0
    """Of what it draws."""
    startup_trials: int = 10
    """Trials that `tpe` draws at random before it learns from them."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        require_between(self, 0, 2**31 - 1, "seed")
        require_between(self, 0, 10**6, "startup_trials")


@dataclass(frozen=True, kw_only=True)
class PrunerConfig:
    """What ends trials that promise little, by their evaluations on the way."""

    name: Literal["median", "hyperband", "none"] = "median"
    """`median`: below the median of earlier trials at the same steps; `hyperband` (Li et al. 2018, JMLR
    18, 185): the best part goes on at steps that grow geometrically; `none`."""
    startup_trials: int = 5
    """`median`: trials that are finished before any is ended."""
    warmup_evaluations: int = 0
    """`median`: evaluations of a training before it may be ended."""
    reduction: int = 3
    """`hyperband`: one in so many goes on, and steps grow so many times."""
    first_evaluation: int = 1
    """`hyperband`: the evaluation at which it first looks."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        require_between(self, 0, 10**6, "startup_trials")
        require_between(self, 0, 1_000, "warmup_evaluations")
        require_between(self, 1, 1_000, "first_evaluation")
        require_between(self, 2, 1_000, "reduction")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A whole sweep."""

    name: str = "sweep"
    """Name of the sweep folder and of its trials."""
    base: str = ""
    """Configuration that trials begin with: a shipped name, or a YAML file (from the sweep file's
    folder)."""
    names: Literal["memrl-ctrl", "ppo_lstm"] = "memrl-ctrl"
    """Whose names parameters and `set` have: dotted keys of the configuration, or those of the seed
    work's ppo_lstm, which are translated."""
    trials: int = 20
    """Trials in all, those that are ended early included; with sampler `grid` also fewer."""
    steps: int = 0
    """Environment steps of a training; 0: the base's."""
    seeds: int | tuple[int, ...] = 1
    """Trainings of a trial, which differ in their seed, or the seeds; the trial's figure is their mean."""
    minutes: float = 0.0
    """Wall time of the sweep, parts before an interruption included, minutes; 0: no limit."""
    evaluations: int = 10
    """Evaluations of a training, evenly spread; trials are ended early by them."""
    try_base: bool = True
    """Whether the base's own values are tried first, where they can be drawn."""
    set: dict[str, Any] = field(default_factory=dict)
    """Settings that differ from the base's, the same in all trials, by dotted key."""
    goal: GoalConfig = GoalConfig()
    """What a trial is judged by."""
    sampler: SamplerConfig = SamplerConfig()
    """What proposes parameters."""
    pruner: PrunerConfig = PrunerConfig()
    """What ends trials early."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What is varied, by dotted key; see `memrl_ctrl.training.sweep.parameters`."""

    def __post_init__(self) -> None:
        """Refuse a sweep that cannot be done."""
        require(
            bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name)),
            f"name {self.name!r} is no folder name; use letters, digits, '.', '_' and '-'",
        )
        require_between(self, 1, 10**6, "trials")
        require_between(self, 0, 10**13, "steps")
        require_between(self, 0.0, 1e7, "minutes")
        require_between(self, 1, 1_000, "evaluations")
        require(bool(self.parameters), "there is nothing to vary: give `parameters`")
        numbers = self.seed_numbers
        require(
            0 < len(numbers) <= MOST_SEEDS and len(set(numbers)) == len(numbers),
            f"seeds {self.seeds} are not 1 to {MOST_SEEDS} different ones",
        )
        require(all(0 <= seed < 2**31 for seed in numbers), f"seeds {self.seeds} must be 0 or more")

    @property
    def seed_numbers(self) -> tuple[int, ...]:
        """Seeds of a trial's trainings."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds
