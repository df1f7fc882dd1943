"""The report of a sweep: best trials, importances, pictures, and the best configuration to train with.

```
SWEEP/report.md, report.json   tables and figures
SWEEP/best.yaml                the best trial's configuration, as `memrl-ctrl train` takes it
SWEEP/history.png, importances.png, slices.png, parallel.png    where matplotlib is installed
```
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from memrl_ctrl.config import dump
from memrl_ctrl.outputs import write_json, write_output
from memrl_ctrl.training.sweep.reading import Sweep
from memrl_ctrl.training.sweep.study import (
    FIGURES,
    REASON,
    RETRY_OF,
    SECONDS,
    Trials,
    load_study,
    quiet,
    sqlite_url,
)
from memrl_ctrl.training.sweep.words import duration, shown

SHOWN = 10
"""Trials in the report's table; report.json has all."""
ENOUGH = 5
"""Complete trials that importances need."""
EVALUATOR = "PED-ANOVA (Watanabe, Bansal, Hutter 2023, arXiv 2304.10255)"
WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "ended early",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "cut off",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a sweep has found."""

    sweep: Sweep
    """What was varied."""
    folder: Path
    """Sweep folder."""
    trials: tuple[FrozenTrial, ...]
    """All trials, in their order."""
    seconds: float
    """Wall time of the sweep, s."""
    importances: dict[str, float]
    """Share of each parameter in what makes a trial good, the largest first; empty for few trials."""

    def ranked(self) -> list[FrozenTrial]:
        """Return the complete trials, the best first."""
        done = [one for one in self.trials if one.state == TrialState.COMPLETE]
        backwards = self.sweep.config.goal.direction == "maximize"
        return sorted(done, key=lambda one: float(one.value or 0.0), reverse=backwards)

    def count(self, state: TrialState) -> int:
        """Return how many trials are in a state."""
        return sum(one.state == state for one in self.trials)

    def settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return a trial's settings by parameter."""
        return self.sweep.settings(trial.params)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        best = next(iter(self.ranked()), None)
        return {
            "name": self.sweep.config.name,
            "goal": self.sweep.identity()["goal"],
            "sampler": self.sweep.config.sampler.name,
            "pruner": self.sweep.config.pruner.name,
            "base": self.sweep.base.name,
            "environment": self.sweep.base.environment.id,
            "steps": self.sweep.base.steps,
            "seeds": list(self.sweep.config.seed_numbers),
            "parameters": {one.name: one.as_plain() for one in self.sweep.parameters},
            "seconds": self.seconds,
            "counts": {words: self.count(state) for state, words in WORDS.items()},
            "best": None if best is None else self._plain(best),
            "importances": self.importances,
            "importance_evaluator": EVALUATOR,
            "rank_correlations": rank_correlations(self),
            "trials": [self._plain(one) for one in self.trials],
        }

    def _plain(self, trial: FrozenTrial) -> dict[str, Any]:
        steps = trial.last_step
        return {
            "number": trial.number,
            "state": WORDS[trial.state],
            "value": value_of(trial),
            "of_each_seed": trial.user_attrs.get(FIGURES),
            "settings": self.settings(trial) if trial.params else {},
            "steps_at_last_evaluation": steps,
            "evaluations": {str(step): one for step, one in trial.intermediate_values.items()},
            "seconds": trial.user_attrs.get(SECONDS),
            "reason": trial.user_attrs.get(REASON),
            "retry_of": trial.user_attrs.get(RETRY_OF),
            "folder": f"trials/{trial.number:04d}",
        }


def make_report(sweep: Sweep, folder: Path, *, storage: str | None = None) -> Report:
    """Read what a sweep has found.

    Raises:
        FileError: the data base cannot be opened, or has no such sweep.
    """
    study = load_study(sweep.config.name, storage or sqlite_url(folder))
    trials = tuple(Trials(sweep, study).all())
    return Report(
        sweep=sweep,
        folder=folder,
        trials=trials,
        seconds=float(study.user_attrs.get(SECONDS, 0.0)),
        importances=_importances(study),
    )


def value_of(trial: FrozenTrial) -> float | None:
    """Return a trial's figure; of one that was ended early that of its last evaluation."""
    value = trial.value if trial.state == TrialState.COMPLETE else None
    if value is None and trial.intermediate_values:
        value = trial.intermediate_values[max(trial.intermediate_values)]
    return None if value is None or not math.isfinite(value) else float(value)


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return importances; nothing where there are too few trials, or all are alike."""
    done = [one for one in study.get_trials(deepcopy=False) if one.state == TrialState.COMPLETE]
    if len(done) < ENOUGH or len({one.value for one in done}) == 1:
        return {}
    with quiet():
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {name: float(share) for name, share in found.items()}


def rank_correlations(report: Report) -> dict[str, float | None]:
    """Return Spearman's rank correlation of each parameter of numbers with the figure.

    None where there are no numbers, or too few trials.
    """
    done = report.ranked()
    found: dict[str, float | None] = {}
    for one in report.sweep.parameters:
        values = [report.settings(trial)[one.name] for trial in done]
        numbers = all(isinstance(value, int | float) for value in values)
        figures = [float(trial.value or 0.0) for trial in done]
        varied = numbers and len(set(values)) > 1 and len(set(figures)) > 1
        found[one.name] = None
        if len(done) >= ENOUGH and varied:
            found[one.name] = float(np.asarray(stats.spearmanr(values, figures).statistic))
    return found


def write_report(report: Report) -> list[Path]:
    """Write everything into the sweep folder; return the files, the text first.

    Raises:
        FileError: one cannot be written.
    """
    from memrl_ctrl.training.sweep.pictures import draw

    folder = report.folder
    written = []
    best = next(iter(report.ranked()), None)
    if best is not None:
        written.append(write_output(folder / "best.yaml", _best_configuration(report, best)))
    pictures = draw(report)
    write_json(folder / "report.json", report.as_json())
    text = write_output(folder / "report.md", _text(report, pictures))
    return [text, folder / "report.json", *written, *pictures]


def _best_configuration(report: Report, best: FrozenTrial) -> str:
    sweep = report.sweep
    config = sweep.configuration(report.settings(best))
    goal = sweep.config.goal.metric
    head = (
        f"# Best of {report.count(TrialState.COMPLETE)} complete trials of the sweep "
        f"{sweep.config.name}: trial {best.number}, {goal} {best.value:.6g}.\n"
    )
    return head + dump(config)


def _text(report: Report, pictures: list[Path]) -> str:
    """Return the report as Markdown."""
    sweep, goal = report.sweep, report.sweep.config.goal
    counts = ", ".join(
        f"{report.count(state)} {words}" for state, words in WORDS.items() if report.count(state)
    )
    seeds = len(sweep.config.seed_numbers)
    lines = [
        f"# Sweep {sweep.config.name}",
        "",
        f"{sweep.base.environment.id}, from configuration `{sweep.base.name}`; "
        f"{sweep.base.steps:,} steps a training, {seeds} {'seed' if seeds == 1 else 'seeds'} a trial. "
        f"Goal: {goal.direction} `{goal.metric}` ({goal.of} of a training). "
        f"Sampler {sweep.config.sampler.name}, pruner {sweep.config.pruner.name}.",
        "",
        f"Trials: {counts or 'none'}, in {duration(report.seconds)}.",
        "",
        *_ranking(report),
        *_importance_table(report),
        *_failures(report),
    ]
    best = report.folder / "best.yaml"
    if report.ranked():
        lines += ["## Train the best", "", "```", f"memrl-ctrl train {best}", "```", ""]
    lines += [f"![{path.stem}]({path.name})\n" for path in pictures]
    return "\n".join(lines).rstrip() + "\n"


def _ranking(report: Report) -> list[str]:
    ranked = report.ranked()
    if not ranked:
        return ["No trial is complete.", ""]
    names = [one.name for one in report.sweep.parameters]
    rows = [
        [str(place), str(one.number), shown(float(one.value or 0.0)), _spread(one)]
        + [shown(report.settings(one)[name]) for name in names]
        for place, one in enumerate(ranked[:SHOWN], start=1)
    ]
    heads = ["", "trial", report.sweep.config.goal.words, "of each seed", *names]
    if len(report.sweep.config.seed_numbers) == 1:
        heads.pop(3)
        rows = [row[:3] + row[4:] for row in rows]
    return ["## Best trials", "", *_table(heads, rows), ""]


def _spread(trial: FrozenTrial) -> str:
    return ", ".join(shown(float(one)) for one in trial.user_attrs.get(FIGURES, ()))


def _importance_table(report: Report) -> list[str]:
    lines = ["## Importances", ""]
    count = report.count(TrialState.COMPLETE)
    if not report.importances:
        return [*lines, f"Not computed: {count} complete trials, {ENOUGH} are needed.", ""]
    ranks = rank_correlations(report)
    rows = [
        [name, f"{100.0 * share:.0f} %", "" if ranks[name] is None else f"{ranks[name]:+.2f}"]
        for name, share in report.importances.items()
    ]
    return [
        *lines,
        *_table(["parameter", "importance", "rank correlation"], rows),
        "",
        f"Importance: share in what tells the best tenth of {count} complete trials from the others, "
        f"{EVALUATOR}. Rank correlation: Spearman's, of the parameter with the figure. Of few trials both "
        "are rough.",
        "",
    ]


def _failures(report: Report) -> list[str]:
    failed = [one for one in report.trials if one.state == TrialState.FAIL]
    if not failed:
        return []
    lines = [f"- trial {one.number}: {one.user_attrs.get(REASON, 'unknown')}" for one in failed]
    return ["## Failed", "", *lines, ""]


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---" if index == 0 else "---:" for index in range(len(heads))]
    return ["| " + " | ".join(row) + " |" for row in (heads, rule, *rows)]
