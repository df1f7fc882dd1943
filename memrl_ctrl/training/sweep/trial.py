"""One trial of a sweep: its trainings, one seed after another, and what they report on the way."""

from __future__ import annotations

import json
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna

from memrl_ctrl.config import ConfigError, TrainingConfig
from memrl_ctrl.training import several
from memrl_ctrl.training.logs import METRICS
from memrl_ctrl.training.sweep.reading import Sweep, check_goal
from memrl_ctrl.training.sweep.study import FIGURES, REASON, SECONDS, quiet

State = Literal["running", "complete", "pruned", "failed", "interrupted"]
RESULT = "result."
"""How the name of a figure begins that stands in result.json."""
INTERRUPTED = 130
"""Exit code of a training that somebody else interrupted."""
RESTARTS = 2
"""How often a training that was killed is begun or gone on with again."""
JUDGED = "evaluation_return"
"""A figure that every evaluation has."""


class Figures:
    """A run's figures as it writes them; a file that was rewritten is read anew."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self._read, self._file = 0, 0
        self.rows: list[dict[str, float]] = []

    def update(self) -> bool:
        """Read what is new; return whether there was something."""
        try:
            with self._path.open("rb") as file:
                status = self._path.stat()
                if status.st_ino != self._file or status.st_size < self._read:
                    self._read, self._file, self.rows = 0, status.st_ino, []
                file.seek(self._read)
                text = file.read()
        except OSError:
            return False
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        self.rows += [json.loads(line) for line in whole.splitlines()]
        return bool(whole)

    def of(self, name: str) -> list[tuple[float, float]]:
        """Return environment steps and values of a figure."""
        return [(row["steps"], row[name]) for row in self.rows if name in row]


class TrialRun:
    """One trial while it is worked on.

    Args:
        sweep: what it is part of.
        trial: Optuna's, with its parameters drawn.
        folder: where its runs are.
        device: CUDA device that it may see; None for what the configuration says.
    """

    def __init__(
        self, sweep: Sweep, trial: optuna.Trial, folder: Path, device: str | None = None
    ) -> None:
        self.sweep, self.trial, self.folder = sweep, trial, folder
        self.environment = None if device is None else {"CUDA_VISIBLE_DEVICES": device}
        self.settings = sweep.settings(trial.params)
        self.state: State = "running"
        self.value: float | None = None
        """The last figure that it was compared by, or its final one."""
        self.job: several.Job | None = None
        self.figures: list[Figures] = []
        self._reported = {*_frozen(trial).intermediate_values}
        self._before_s = float(trial.user_attrs.get(SECONDS, 0.0))
        self._began, self._restarts = time.monotonic(), 0
        self._resumed = self._anew = False
        self._ending: tuple[State, float] | None = None
        self.jobs: list[several.Job] = []
        try:
            config = sweep.configuration(self.settings)
        except ConfigError as error:
            self._fail(f"cannot be trained: {error}")
            return
        self.jobs = [self._job(config, seed) for seed in sweep.config.seed_numbers]
        self.figures = [Figures(job.folder) for job in self.jobs]

    def _job(self, config: TrainingConfig, seed: int) -> several.Job:
        name = f"{self.sweep.config.name}-{self.trial.number:04d}"
        logging = config.logging
        if not logging.wandb_name:
            logging = replace(logging, wandb_name=f"{name}-seed{seed}")
        device = config.device if self.environment is None else "cuda"
        config = replace(config, name=name, seed=seed, device=device, logging=logging)
        return several.Job(config=config, folder=self.folder / f"seed{seed}")

    @property
    def seconds(self) -> float:
        """Wall time that it has taken so far, parts before an interruption included, s."""
        return self._before_s + time.monotonic() - self._began

    @property
    def fraction(self) -> float:
        """Share of its budget that is spent."""
        if not self.jobs:
            return 1.0
        return sum(1.0 if job.is_done() else job.fraction() for job in self.jobs) / len(self.jobs)

    def poll(self) -> State:
        """Begin what is to be begun, read what was logged, and say how it stands.

        Raises:
            UnknownNameError: the runs have no figure of the sweep's goal.
            FileError: a folder cannot be written.
        """
        if self.state != "running":
            return self.state
        if self.job is None:
            self._begin()
        elif several.has_ended(self.job):
            self._ended(self.job)
        elif self._ending is not None:
            self._kill_late(self.job)
        else:
            self._look()
        return self.state

    def _begin(self) -> None:
        """Start the first training that is not done; without one the trial is complete."""
        left = [job for job in self.jobs if not job.is_done()]
        if not left:
            self._look()
            self._complete()
            return
        self._resumed = any((left[0].folder / "checkpoints").glob("*.pt"))
        self.job = several.start(left[0], self.environment)

    def _ended(self, job: several.Job) -> None:
        """A training's process has gone: done, ended on purpose, killed or failed."""
        code = 0 if job.process is None else job.process.returncode
        self.job = None
        if self._ending is not None:
            self._finish(self._ending[0])
        elif job.state == "done":
            self._restarts = 0
            self._look()
        elif (code < 0 or code == INTERRUPTED) and self._restarts < RESTARTS:
            self._restarts += 1
        elif code > 0 and self._resumed and not self._anew:
            # It could not go on from what a killed run left: from the start, once.
            self._anew = True
            shutil.rmtree(job.folder)
        else:
            self._fail(_reason(job))

    def _look(self) -> None:
        """Report what is new to the pruner, and end the trial where it says so."""
        goal = self.sweep.config.goal
        fresh = [figures.update() for figures in self.figures]
        if goal.metric.startswith(RESULT) or not any(fresh):
            return
        names = {name for figures in self.figures for row in figures.rows for name in row}
        if JUDGED in names:
            check_goal(self.sweep, names)
        new = [point for point in self._intermediate() if point[0] not in self._reported]
        for step, value in new:
            self._reported.add(step)
            self.value = value
            self.trial.report(value, step)
        # At its end a trial is complete, whatever the pruner says.
        whole = self.sweep.base.steps * len(self.jobs)
        if self.job is None or not new or new[-1][0] >= whole:
            return
        with quiet():
            hopeless = self.trial.should_prune()
        if hopeless:
            self._stop("pruned")

    def _intermediate(self) -> list[tuple[int, float]]:
        """Return what the trial is compared by so far: steps counted over its trainings, and the mean
        over the seeds so far at the steps of the last of them."""
        every, steps = self.sweep.milestones, self.sweep.base.steps
        seeds = [self._at_milestones(figures) for figures in self.figures]
        found = []
        for number, seed in enumerate(seeds):
            for index in seed:
                before = [other[index] for other in seeds[:number] if index in other]
                # The end of one training and the start of the next are two places.
                place = number * steps + min((index + 1) * every, steps)
                found.append((place, float(np.mean([*before, seed[index]]))))
        return found

    def _at_milestones(self, figures: Figures) -> dict[int, float]:
        """Return a figure at each milestone: the first one logged there, or behind it."""
        every, name = self.sweep.milestones, self.sweep.config.goal.metric
        found: dict[int, float] = {}
        for steps, value in figures.of(name):
            if steps >= every:
                found.setdefault(int(steps // every) - 1, value)
        return found

    def _complete(self) -> None:
        """Tell the mean over the seeds."""
        figures = [
            self._final(job, figures) for job, figures in zip(self.jobs, self.figures, strict=True)
        ]
        self.trial.set_user_attr(FIGURES, figures)
        self.value = float(np.mean(figures))
        if not np.isfinite(self.value):
            self._fail(f"{self.sweep.config.goal.metric} is not finite")
            return
        self._finish("complete")

    def _final(self, job: several.Job, figures: Figures) -> float:
        """Return the figure that a training is judged by.

        Raises:
            UnknownNameError: it has none of that name.
        """
        goal = self.sweep.config.goal
        if goal.metric.startswith(RESULT):
            flat = _numbers(job.result() or {}, RESULT)
            check_goal(self.sweep, flat)
            return flat[goal.metric]
        values = [value for _, value in figures.of(goal.metric)]
        if not values:
            check_goal(self.sweep, {name for row in figures.rows for name in row})
        if goal.of == "mean":
            return float(np.mean(values))
        if goal.of == "best":
            return max(values) if goal.direction == "maximize" else min(values)
        return values[-1]

    # --- ends -----------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End the training in progress with a checkpoint; the trial stays to be gone on with."""
        if self.state == "running":
            if self.job is None:
                self.state = "interrupted"
            elif self._ending is None or self._ending[0] != "pruned":
                self._stop("interrupted")

    def _stop(self, state: State) -> None:
        self._ending = (state, time.monotonic() + several.PATIENCE_S)
        if self.job is not None and self.job.process is not None:
            with suppress(ProcessLookupError):
                self.job.process.send_signal(signal.SIGINT)

    def _kill_late(self, job: several.Job) -> None:
        if self._ending is not None and time.monotonic() > self._ending[1] and job.process:
            job.process.kill()

    def _fail(self, reason: str) -> None:
        self.trial.set_user_attr(REASON, reason)
        self._finish("failed")

    def _finish(self, state: State) -> None:
        """Tell the study how it ended; one that was interrupted stays running there."""
        self.state = state
        self.trial.set_user_attr(SECONDS, round(self.seconds, 1))
        if state == "interrupted":
            return
        with quiet():
            if state == "complete":
                self.trial.study.tell(self.trial, self.value)
                return
            told = {
                "pruned": optuna.trial.TrialState.PRUNED,
                "failed": optuna.trial.TrialState.FAIL,
            }
            self.trial.study.tell(self.trial, state=told[state])
        if state == "pruned":
            # Nobody goes on from here, and with a replay buffer they are large.
            for job in self.jobs:
                shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)

    @property
    def reason(self) -> str:
        """Why it failed."""
        return str(self.trial.user_attrs.get(REASON, ""))


def _frozen(trial: optuna.Trial) -> optuna.trial.FrozenTrial:
    return trial.study.get_trials(deepcopy=False)[trial.number]


def _reason(job: several.Job) -> str:
    """Return the last line that a run said, with the place of the others."""
    try:
        lines = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    said = lines[-1].removeprefix("memrl-ctrl: ") if lines else "ended without a word"
    return f"{said} (more in {job.log})"


def _numbers(values: dict[str, Any], above: str) -> dict[str, float]:
    """Return the numbers in nested plain values by their dotted paths."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _numbers(value, f"{above}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{above}{key}"] = float(value)
    return flat
