"""Training several runs, some at a time, each in a process of its own.

Every run has a folder, named after its configuration and seed. A run that has ended is not done again;
one that was interrupted goes on in its folder. Needs no torch itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memrl_ctrl.config import TrainingConfig, dump
from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.outputs import write_output
from memrl_ctrl.training.logs import METRICS

POLL_S = 0.5
PATIENCE_S = 60.0
"""How long interrupted runs may take to write their checkpoints, s."""
RESULT = "result.json"


@dataclass
class Job:
    """One run."""

    config: TrainingConfig
    """Its resolved configuration, with its seed."""
    folder: Path
    """Its run folder."""
    state: str = "waiting"
    """`waiting`, `running`, `done`, `interrupted` or `failed`."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name for people."""
        return f"{self.config.name}, seed {self.config.seed}"

    @property
    def log(self) -> Path:
        """File with what the run prints."""
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def lock(self) -> Path:
        """File that the run's process holds locked while it lives; its number stands in it."""
        return self.folder.with_name(self.folder.name + ".lock")

    def result(self) -> dict[str, Any] | None:
        """Return how it ended, where it has ended."""
        try:
            values = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None
        return values if isinstance(values, dict) else None

    def is_done(self) -> bool:
        """Whether it has spent its budget, or solved its task."""
        result = self.result()
        if result is None:
            return False
        minutes = self.config.minutes
        spent = minutes and float(result["seconds"]) >= 60.0 * minutes
        over = spent or result.get("solved", False)
        return bool(over or int(result["steps"]) >= self.config.steps)

    def fraction(self) -> float:
        """Share of its budget that is spent, from its metrics."""
        if self.state == "done":
            return 1.0
        row = _last_line(self.folder / METRICS)
        by_steps = row.get("steps", 0.0) / self.config.steps
        minutes = self.config.minutes
        by_time = row.get("seconds", 0.0) / (60.0 * minutes) if minutes else 0.0
        return min(1.0, max(by_steps, by_time))


def plan(configs: Sequence[TrainingConfig], seeds: Sequence[int], out: Path) -> list[Job]:
    """Return the runs of configurations and seeds, in folders `out/<name>-seed<seed>`.

    Raises:
        UsageError: two configurations have one name, or a seed is given twice.
    """
    folders = [f"{config.name}-seed{seed}" for config in configs for seed in seeds]
    twice = [name for name in folders if folders.count(name) > 1]
    if twice:
        raise UsageError(
            f"two runs would share the folder {twice[0]}; name each seed and each once"
        )
    return [
        Job(config=replace(config, seed=seed), folder=out / f"{config.name}-seed{seed}")
        for config in configs
        for seed in seeds
    ]


def run_all(
    jobs: Sequence[Job], at_once: int, progress: Callable[[Sequence[Job]], None] | None = None
) -> bool:
    """Run what is not done yet; Ctrl-C or SIGTERM ends all with checkpoints.

    Args:
        jobs: the runs; their states are kept up to date.
        at_once: processes at a time.
        progress: called twice a second.

    Returns:
        Whether it was interrupted.

    Raises:
        UsageError: at_once below 1.
        FileError: a folder cannot be written.
    """
    if at_once < 1:
        raise UsageError(f"jobs must be at least 1, not {at_once}")
    for job in jobs:
        if job.is_done():
            job.state = "done"
    waiting = [job for job in jobs if job.state != "done"]
    running: list[Job] = []
    with interrupts() as interrupted:
        try:
            while (waiting or running) and not interrupted():
                while waiting and len(running) < at_once:
                    running.append(start(waiting.pop(0)))
                time.sleep(POLL_S)
                running = [job for job in running if not has_ended(job)]
                if progress is not None:
                    progress(jobs)
        finally:
            end(running)
        return interrupted()


def start(job: Job, environment: Mapping[str, str] | None = None) -> Job:
    """Start a run in a process of its own, or go on with it.

    Args:
        job: the run.
        environment: variables that its process has beside those of this one.

    Raises:
        UsageError: a process is still at it; its folder holds something else.
        FileError: the folder cannot be written.
    """
    try:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        with job.lock.open("a+") as lock:
            # The process inherits the lock, and holds it as long as it lives, whoever dies before.
            if not _locked(lock):
                lock.seek(0)
                raise UsageError(
                    f"run {job.folder} is still going on, in process {lock.read().strip()}; wait for "
                    "it, or end it with kill -INT"
                )
            settings = job.folder.with_name(job.folder.name + ".yaml")
            write_output(settings, dump(job.config))
            command = [sys.executable, "-m", "memrl_ctrl", "train", str(settings)]
            command += ["--out", str(job.folder)]
            if any((job.folder / "checkpoints").glob("*.pt")):
                command += ["--resume", str(job.folder)]
            elif job.folder.exists():
                _clear_unbegun(job.folder)
            with job.log.open("ab") as log:
                # A session of its own: a Ctrl-C in the terminal reaches it from here only, and once.
                job.process = subprocess.Popen(  # noqa: S603 - this program itself
                    command,
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=(lock.fileno(),),
                    env=None if environment is None else {**os.environ, **environment},
                )
            lock.truncate(0)
            lock.write(f"{job.process.pid}\n")
    except OSError as error:
        raise FileError(job.folder, f"cannot be written: {error.strerror}") from error
    job.state = "running"
    return job


def end_orphan(job: Job) -> bool:
    """End a run whose process outlived the one that started it; it writes its checkpoint.

    Returns:
        Whether there was one.

    Raises:
        UsageError: there is one, and nothing says which process it is.
    """
    try:
        with job.lock.open("r+") as lock:
            number, until = signal.SIGINT, 0.0
            while not _locked(lock):
                if time.monotonic() > until:
                    lock.seek(0)
                    with suppress(ProcessLookupError):
                        os.kill(int(lock.read()), number)
                    number, until = signal.SIGKILL, time.monotonic() + PATIENCE_S
                time.sleep(0.05)
            return until > 0.0
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise UsageError(
            f"run {job.folder} is still going on, and {job.lock} does not say in which process; end it"
        ) from error


def _locked(file: Any) -> bool:
    """Lock an open file, unless a process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_unbegun(folder: Path) -> None:
    """Take away what a run left that ended before its first checkpoint.

    Raises:
        UsageError: something else is in the folder.
    """
    known = {"config.yaml", METRICS, "tensorboard", "checkpoints", "wandb"}
    others = [place.name for place in folder.iterdir() if place.name not in known]
    if others:
        raise UsageError(f"{folder} holds {others[0]}, which is of no run; choose another --out")
    shutil.rmtree(folder)


def has_ended(job: Job) -> bool:
    """Whether a run's process has ended; its state then says how."""
    if job.process is None or job.process.poll() is None:
        return False
    if job.is_done():
        job.state = "done"
    else:
        result = job.result()
        job.state = "interrupted" if result and result.get("interrupted") else "failed"
    return True


def end(running: Sequence[Job]) -> None:
    """Interrupt runs, and wait for their checkpoints."""
    for job in running:
        if job.process is not None:
            with suppress(ProcessLookupError):
                job.process.send_signal(signal.SIGINT)
    until = time.monotonic() + PATIENCE_S
    for job in running:
        if job.process is None:
            continue
        try:
            job.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()
        has_ended(job)


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C or SIGTERM."""
    seen: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, lambda n, _: seen.append(n)) for number in numbers}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(path: Path) -> dict[str, float]:
    """Return the last whole line of a metrics file, read from its end."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
        return dict(json.loads(lines[-1])) if lines else {}
    except (OSError, json.JSONDecodeError):
        return {}


def seeds_of(text: str) -> list[int]:
    """Read seeds: `3`, `0:5` (0 to 4) or `1,4,7`.

    Raises:
        UsageError: it is none of these.
    """
    try:
        if ":" in text:
            low, high = (int(part) for part in text.split(":"))
            seeds = list(range(low, high))
        else:
            seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"seeds {text!r} cannot be read; give 0:5 for 0 to 4, or a list like 1,4,7"
        ) from error
    if not seeds or min(seeds) < 0:
        raise UsageError(f"seeds {text!r} hold no seed of 0 or more; 0:5 means 0 to 4")
    return seeds
