"""Tuning of the classical controllers, each with the same effort.

    python -m memrl_ctrl.bench.beam.tune memrl_ctrl/controllers/data/tuned.json NAME … [--shots N]

draws `TRIALS` settings of each named controller (Optuna's TPE, the first trial being the controller's own
defaults), plays `EPISODES` episodes in each of `CONDITIONS`, and keeps the settings with the lowest loss in
the file, where `memrl_ctrl.controllers.make` finds them. Points are random ones of the operating range and
the seeds are of their own: no program and no episode of `memrl-ctrl bench beam` is used. With `--shots`
episodes end sooner, for controllers that take long to decide. Needs the extra `sweep`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from memrl_ctrl import progress, registry
from memrl_ctrl.bench.beam.conditions import CONDITIONS as KNOWN
from memrl_ctrl.bench.beam.conditions import PROGRAMS, SHOTS
from memrl_ctrl.bench.beam.play import play
from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.controllers.catalogue import GROUP
from memrl_ctrl.controllers.core import Controller, Driven
from memrl_ctrl.errors import UsageError
from memrl_ctrl.outputs import write_json
from memrl_ctrl.terminal import Terminal

TRIALS = 40
EPISODES = 24
CONDITIONS = ("random-still", "random-jitter", "random-drift", "random-steps")
SEED = 20_270_301
SCALE_DEG = 0.3
"""Phase error at which the loss is log 2, degrees."""
FROM_SHOT = 3
"""The loss counts the shots from this one on: how fast a controller arrives, and how well it stays."""


def loss(controller: Controller, folder: Path, shots: int = SHOTS) -> float:
    """Return the mean of log(1 + |phase error| / `SCALE_DEG`) over conditions, episodes and shots."""
    found = []
    for name in CONDITIONS:
        played = play(
            Driven(controller),
            replace(KNOWN[name], shots=shots),
            episodes=EPISODES,
            seed=SEED,
            programs=PROGRAMS,
            folder=folder,
        )
        known = np.isfinite(played.error_deg).all(axis=0)
        error = np.abs(played.error_deg[FROM_SHOT:, known])
        found.append(float(np.mean(np.log1p(error / SCALE_DEG))))
    return float(np.mean(found))


def tune(name: str, *, trials: int = TRIALS, shots: int = SHOTS) -> dict[str, Any]:
    """Return the best settings of a controller, and what they were found with.

    Raises:
        UnknownNameError: no controller of that name.
        UsageError: it has nothing to be tuned.
        MissingExtraError: Optuna is not installed.
    """
    kind: type[Controller] = registry.load(GROUP, "controller", name)
    if not kind.ranges:
        raise UsageError(f"controller {name!r} has no number that could be tuned")
    with registry.extra_for("tuning"):
        import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED))
    defaults = kind().settings
    study.enqueue_trial({key: defaults[key] for key in kind.ranges})
    with tempfile.TemporaryDirectory() as folder:
        for number in range(trials):
            trial = study.ask()
            drawn = {
                key: trial.suggest_float(key, low, high, log=scale == "log")
                for key, (low, high, scale) in kind.ranges.items()
            }
            study.tell(trial, loss(kind(**drawn), Path(folder), shots))
            progress.report(number + 1, trials)
    return {
        "settings": {key: float(f"{value:.4g}") for key, value in study.best_params.items()},
        "loss": study.best_value,
        "loss_of_defaults": study.trials[0].value,
        "trials": trials,
        "episodes": EPISODES,
        "shots": shots,
        "conditions": list(CONDITIONS),
        "seed": SEED,
    }


def main() -> None:
    """Tune the named controllers and keep what was found."""
    parser = argparse.ArgumentParser(description="Tune classical controllers, 40 trials each.")
    parser.add_argument("path", metavar="FILE", type=Path, help="where what was found is kept")
    parser.add_argument("names", metavar="NAME", nargs="+", help="controllers")
    parser.add_argument("--shots", type=int, default=SHOTS, help="of an episode (%(default)s)")
    words = parser.parse_args()
    path, console = words.path, Terminal()
    for name in words.names:
        with work_bar(console, name):
            found = tune(name, shots=words.shots)
        kept = json.loads(path.read_text()) if path.exists() else {}
        write_json(path, {**kept, name: found})
        console.print(f"{name}: {found}", highlight=False, markup=False)


if __name__ == "__main__":
    main()
