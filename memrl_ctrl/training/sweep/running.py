"""Running a sweep: trials at a time, each training in a process of its own, until the budget is spent.

```
SWEEP/sweep.yaml, base.yaml   what it is
SWEEP/study.db                Optuna's data base
SWEEP/trials/0007/seed0/      run folders
SWEEP/report.md …             see `memrl_ctrl.training.sweep.report`
```
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from optuna.trial import TrialState

from memrl_ctrl.config import dump
from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.outputs import write_output
from memrl_ctrl.training import several
from memrl_ctrl.training.sweep.reading import BASE, FILE, Sweep, as_file, check_environments
from memrl_ctrl.training.sweep.study import SECONDS, Trials, open_study, sqlite_url
from memrl_ctrl.training.sweep.trial import TrialRun

POLL_S = 0.25
KEEP_TIME_S = 10.0
"""How often the time that a sweep took is kept, s."""
ENOUGH = 0.5
"""Trials, parts of them added, after which the time that is left is estimated."""
FAILURES = 3
"""A sweep ends when its first trials fail, this many."""
FOLDER = Path("sweeps")
"""Where sweeps are without another folder."""
LOCK, TRIALS = ".lock", "trials"

End = Literal["done", "interrupted", "time"]


@dataclass(kw_only=True)
class Standing:
    """How a sweep stands; given to `progress`."""

    folder: Path
    """Sweep folder."""
    budget: int
    """Trials in all."""
    complete: int = 0
    """Trials that are complete."""
    pruned: int = 0
    """Trials that were ended early."""
    failed: int = 0
    """Trials that failed."""
    best: float | None = None
    """Best figure so far."""
    best_trial: int | None = None
    """Number of its trial."""
    seconds: float = 0.0
    """Wall time of the sweep so far, s."""
    remaining_s: float | None = None
    """Time that is left by what trials took so far, s; None before there is anything to go by."""
    resumed: int = 0
    """Trials that were cut off with an earlier part of the sweep, and go on."""
    running: Sequence[TrialRun] = field(default_factory=list)
    """Trials that are worked on."""

    @property
    def finished(self) -> int:
        """Trials that have ended."""
        return self.complete + self.pruned + self.failed


Progress = Callable[[Standing], None]


def run_sweep(
    sweep: Sweep,
    folder: Path,
    *,
    workers: int = 1,
    devices: Sequence[str] = (),
    storage: str | None = None,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> tuple[Standing, End]:
    """Run what is left of a sweep; Ctrl-C or SIGTERM ends all trainings with checkpoints.

    Args:
        sweep: what is varied; of a sweep that was begun it must be the same.
        folder: the sweep folder; made where it is missing, gone on with where it holds this sweep.
        workers: trainings at a time.
        devices: CUDA devices that workers are spread over; none: what the configuration says.
        storage: address of another data base than the folder's own, as SQLAlchemy takes it.
        retry_failed: whether failed trials are tried again.
        progress: called four times a second.

    Returns:
        How it stands, and why it ended: the budget is spent, it was interrupted, or its time is over.

    Raises:
        UsageError: another process is at it, it was begun with another search space, its first trials
            all fail, or an environment cannot be made.
        UnknownNameError: the runs have no figure of the sweep's goal.
        FileError: the folder or the data base cannot be used.
    """
    if workers < 1:
        raise UsageError(f"workers must be at least 1, not {workers}")
    _check_folder(folder)
    check_environments(sweep)
    with _only_one(folder):
        study = open_study(sweep, storage or sqlite_url(folder))
        write_output(folder / BASE, dump(sweep.base))
        write_output(folder / FILE, as_file(sweep))
        trials = Trials(sweep, study)
        _end_orphans(sweep, folder)
        if retry_failed:
            trials.retry_failed()
        return _Sweeper(sweep, folder, trials, workers, devices).run(progress)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        UsageError: it does.
    """
    if folder.is_dir() and not (folder / FILE).is_file():
        others = [place.name for place in folder.iterdir() if place.name != LOCK]
        if others:
            raise UsageError(f"{folder} holds {others[0]} and no sweep; choose another --out")


def _end_orphans(sweep: Sweep, folder: Path) -> None:
    """End trainings that outlived a sweep that was killed; their trials go on from their checkpoints."""
    for lock in sorted((folder / TRIALS).glob("*/*.lock")):
        several.end_orphan(several.Job(config=sweep.base, folder=lock.with_suffix("")))


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keep another process from the same sweep; where this one dies, its lock goes with it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise FileError(folder, f"cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UsageError(
                f"sweep {folder} is being worked on by process {file.read().strip()}; wait for it, or "
                "end it with Ctrl-C"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


class _Sweeper:
    """The loop of a sweep."""

    def __init__(
        self, sweep: Sweep, folder: Path, trials: Trials, workers: int, devices: Sequence[str]
    ) -> None:
        self.sweep, self.folder, self.trials = sweep, folder, trials
        self.slots: list[TrialRun | None] = [None] * workers
        self.devices = devices
        self.before_s = float(trials.study.user_attrs.get(SECONDS, 0.0))
        self.began = self.kept = time.monotonic()
        self.at_start = len([one for one in trials.all() if one.state.is_finished()])
        self.failed_first, self.resumed = 0, len(trials.cut_off)

    @property
    def seconds(self) -> float:
        """Wall time of all parts of the sweep, s."""
        return self.before_s + time.monotonic() - self.began

    def run(self, progress: Progress | None) -> tuple[Standing, End]:
        """Work until there is nothing left to do, or until it is to end."""
        limit, end = 60.0 * self.sweep.config.minutes, "done"
        with several.interrupts() as interrupted:
            try:
                while self._work():
                    if interrupted() or (limit and self.seconds >= limit):
                        end = "interrupted" if interrupted() else "time"
                        break
                    if progress is not None:
                        progress(self.standing())
                    if time.monotonic() - self.kept >= KEEP_TIME_S:
                        self._keep_time()
                    time.sleep(POLL_S)
            finally:
                self._end_all()
                self._keep_time()
        return self.standing(), end  # type: ignore[return-value]

    def _work(self) -> bool:
        """Fill free workers and look after the others; return whether anything goes on."""
        for index, slot in enumerate(self.slots):
            run = slot or self._next(index)
            if run is not None and run.poll() != "running":
                self._note(run)
                # At once the next one, so that no worker waits.
                run = self._next(index)
            self.slots[index] = run
        return any(run is not None for run in self.slots)

    def _next(self, index: int) -> TrialRun | None:
        trial = self.trials.next()
        if trial is None:
            return None
        folder = self.folder / TRIALS / f"{trial.number:04d}"
        device = self.devices[index % len(self.devices)] if self.devices else None
        return TrialRun(self.sweep, trial, folder, device)

    def _note(self, run: TrialRun) -> None:
        """Take the end of a trial into account.

        Raises:
            UsageError: the first trials all failed.
        """
        finished = [one for one in self.trials.all() if one.state.is_finished()]
        if any(one.state != TrialState.FAIL for one in finished):
            return
        self.failed_first += 1
        if self.failed_first >= min(FAILURES, self.trials.budget()):
            raise UsageError(
                f"the first {self.failed_first} trials all failed, the last with: {run.reason}; put it "
                "right and give --retry-failed"
            )

    def _end_all(self) -> None:
        """Interrupt what runs, and wait for its checkpoints."""
        running = [run for run in self.slots if run is not None]
        for run in running:
            run.interrupt()
        while any(run.state == "running" for run in running):
            for run in running:
                run.poll()
            time.sleep(POLL_S)

    def _keep_time(self) -> None:
        self.kept = time.monotonic()
        self.trials.study.set_user_attr(SECONDS, round(self.seconds, 1))

    def standing(self) -> Standing:
        """Return how the sweep stands."""
        counted = self.trials.counted()
        counts = {
            state: sum(one.state == state for one in counted)
            for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        }
        best = self.trials.best()
        standing = Standing(
            folder=self.folder,
            budget=self.trials.budget(),
            complete=counts[TrialState.COMPLETE],
            pruned=counts[TrialState.PRUNED],
            failed=counts[TrialState.FAIL],
            best=None if best is None else best.value,
            best_trial=None if best is None else best.number,
            seconds=self.seconds,
            resumed=self.resumed,
            running=[run for run in self.slots if run is not None and run.state == "running"],
        )
        standing.remaining_s = self._remaining_s(standing)
        return standing

    def _remaining_s(self, standing: Standing) -> float | None:
        """Estimate what is left by what was done in this part of the sweep, and by its time limit."""
        spent = time.monotonic() - self.began
        begun = sum(run.fraction for run in standing.running)
        done = max(0.0, standing.finished - self.at_start) + begun
        left = standing.budget - standing.finished - begun
        estimate = spent / done * left if done > ENOUGH else None
        if not self.sweep.config.minutes:
            return estimate
        limit = max(0.0, 60.0 * self.sweep.config.minutes - self.seconds)
        return limit if estimate is None else min(limit, estimate)
