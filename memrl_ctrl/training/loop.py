"""The training loop: act, store, learn, log, evaluate, keep."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import TrainingConfig
from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.training import checkpoint as checkpoints
from memrl_ctrl.training.collect import Ends
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.evaluation import TorchPolicy, run_episodes
from memrl_ctrl.training.figures import Watch, evaluation_figures
from memrl_ctrl.training.logs import Logger, check_loggers, draw_learning_curve, make_loggers
from memrl_ctrl.training.off_policy import OffPolicy
from memrl_ctrl.training.on_policy import OnPolicy
from memrl_ctrl.training.process import (
    deterministic,
    interruptible,
    torch_threads,
    usable_cores,
    usable_device,
)
from memrl_ctrl.training.resume import Begun, begun_from, seed_after
from memrl_ctrl.training.runs import Agent, make_run_folder, policy_of, save_run
from memrl_ctrl.training.stepper import Start, Stepper


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How a training stands; given to `progress`."""

    folder: Path
    steps: int
    total_steps: int
    fraction: float
    """Share of the run that is done, by steps or time, whichever is further."""
    seconds: float
    steps_per_s: float
    remaining_s: float
    figures: dict[str, float]
    """What was logged last."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a training ended."""

    folder: Path
    """Run folder."""
    checkpoint: Path
    """Last checkpoint."""
    steps: int
    """Environment steps."""
    updates: int
    """Updates of the critics."""
    seconds: float
    """Wall time of acting and learning, s, evaluations left out."""
    steps_per_s: float
    """Environment steps a second, training included."""
    interrupted: bool
    """Whether Ctrl-C or SIGTERM ended it."""
    solved: bool
    """Whether an evaluation that reached `evaluation.stop_at_return` ended it."""
    resumed: str | None
    """For a resumed run: in which way it went on, in words."""
    evaluation: dict[str, Any] | None
    """The last evaluation; None where it was interrupted before any."""


Progress = Callable[[Snapshot], None]


def train(
    config: TrainingConfig,
    *,
    out: str | Path | None = None,
    progress: Progress | None = None,
    resume: str | Path | None = None,
) -> RunResult:
    """Train an agent and keep everything in a run folder.

    Ctrl-C or SIGTERM ends the run after the round in progress, with a checkpoint from which it goes on
    exactly; a second one at once. A run that fails leaves a checkpoint too; the exception's notes say
    where.

    Args:
        config: the resolved configuration (`memrl_ctrl.config.resolve`).
        out: run folder, new or empty; without it `runs/<name>-<time stamp>`. The folder of the run to
            resume goes on with that run in place.
        progress: called about once a `logging.every_s`.
        resume: run folder whose last checkpoint is the start; its agent settings must be the same. Its
            steps and minutes count as part of the configuration's.

    Raises:
        UsageError: the environment, device or folder cannot be used so; nothing is left to do.
        FileError: the folder cannot be written, or the checkpoint to resume is damaged.
    """
    device = usable_device(config.device)
    check_loggers(config)
    config = with_environments(config)
    stepper, task = _open_environment(config)
    logger: list[Logger] = []
    try:
        start = stepper.reset(config.seed)
        masked = start.allowed is not None
        task = dataclasses.replace(task, n_truth=_truth_size(start, config), masked=masked)
        stepper.task = task
        begun = None if resume is None else begun_from(Path(resume), config, task, device)
        if begun is not None and begun.run is None:
            # Other episodes than those that the first part began with.
            start = stepper.reset(seed_after(config.seed, begun.steps))
        run = _Run(config, (stepper, start), device, logger)
        run.progress = progress
        if begun is not None:
            run.go_on_from(begun)
            run.check_budget(resume)
        # Nothing is written before all of it fits together.
        run.folder = make_run_folder(config, out, resume=resume)
        logger += make_loggers(config, run.folder, after=run.steps)
        with (
            torch_threads(config.torch_threads),
            deterministic(config.torch_deterministic),
            interruptible() as interrupt,
        ):
            try:
                run.go(interrupt)
            except Exception as error:
                run.rescue(error)
                raise
        return run.finish(interrupted=interrupt.is_set())
    finally:
        stepper.close()
        for one in logger:
            one.close()


LEARNERS: dict[str, Callable[..., Any]] = {"lstm-td3": OffPolicy, "ppo-lstm": OnPolicy}
"""What learns, for each algorithm: an agent with its experience."""


class _Run:
    """State of one training."""

    def __init__(
        self,
        config: TrainingConfig,
        environments: tuple[Stepper, Start],
        device: str,
        loggers: list[Logger],
    ) -> None:
        self.config, self.folder, self.loggers = config, Path(), loggers
        self.stepper, self.start = environments
        self.task = self.stepper.task
        self.progress: Progress | None = None
        self.learner: Any = LEARNERS[config.algorithm](config, self.task, None, device)
        self.collector = self.learner.collector(self.stepper, self.start)
        self.ends = Ends(config.environment.num_envs, config.logging.return_decay)
        self.watch = Watch(config)
        self.steps, self.device = 0, device
        self.seconds_before = self.paused_s = 0.0
        self.began = self.logged = self.saved_at = time.monotonic()
        self.passing: list[Path] = []
        self.seen: dict[str, Tensor] = {}
        self.evaluation: dict[str, Any] | None = None
        self.solved = False
        self.saved: Path | None = None
        self.resumed: str | None = None

    def go_on_from(self, begun: Begun) -> None:
        """Take over where another run stood."""
        self.steps, self.seconds_before = begun.steps, begun.seconds
        self.resumed = begun.how
        self.learner = type(self.learner)(self.config, self.task, begun.agent, self.device)
        self.learner.go_on(begun.steps, begun.experience, exactly=begun.run is not None)
        self.collector = self.learner.collector(self.stepper, self.start)
        if begun.run is not None:
            self.stepper.restore(begun.run["stepper"])
            self.collector.restore(begun.run["collector"])
            self.ends.restore(begun.run["ends"])
            self.watch = Watch(self.config, fresh=False)

    @property
    def agent(self) -> Agent:
        """What learns."""
        agent: Agent = self.learner.agent
        return agent

    def check_budget(self, resume: str | Path | None) -> None:
        """Refuse a budget that the run to resume has spent already.

        Raises:
            UsageError: says how much it was, and that the budget is that of both parts together.
        """
        if self.fraction() >= 1.0:
            minutes = f" and {self.config.minutes:g} minutes" if self.config.minutes else ""
            raise UsageError(
                f"nothing is left to do: run {resume} has trained {self.steps:,} steps in "
                f"{self.seconds_before / 60.0:.1f} minutes, and the budget of {self.config.steps:,} "
                f"steps{minutes} counts them too; give more (--steps, --minutes)"
            )

    def state(self) -> dict[str, Any] | None:
        """Return how loop and environments stand; None where the environments cannot come back."""
        environments = self.stepper.state()
        if environments is None:
            return None
        return {
            "stepper": environments,
            "collector": self.collector.state(),
            "ends": self.ends.state(),
        }

    # --- the loop -----------------------------------------------------------------------------------

    def go(self, interrupt: threading.Event) -> None:
        """Act and learn until the budget is spent, the task is solved, or the round ends in which an
        interrupt comes.

        With `overlap` the next steps are collected by a thread while the agent learns. What it does
        depends on the weights at the beginning of the round only, so that a seed still reproduces
        the run.
        """
        rows = self.config.environment.num_envs
        self.began = self.logged = self.saved_at = time.monotonic()
        if not self.config.overlap:
            # What was due when a checkpoint was written is still to be learnt.
            self._learn()
        with ThreadPoolExecutor(1, thread_name_prefix="collect") as thread:
            while self.fraction() < 1.0 and not self.solved and not interrupt.is_set():
                self.agent.refresh_behaviour()
                left = -(-(self.config.steps - self.steps) // rows)
                calls = min(self.learner.calls, left)
                random = self.learner.is_random(self.steps)
                collect = partial(self.collector.collect, calls, random=random)
                if self.config.overlap:
                    pending = thread.submit(collect)
                    self._learn()
                    self._take(pending.result())
                else:
                    self._take(collect())
                    self._learn()

    def _take(self, collected: list[Any]) -> None:
        """Store what was collected; log, evaluate and save where it is time."""
        before = self.steps
        self.learner.take(collected)
        for one in collected:
            self.ends.note(one.step)
            self.watch.note(one.step)
            self.steps += int(one.step.valid.sum())
        for every, action in (
            (self.config.evaluation.every_steps, self.evaluate),
            (self.config.logging.checkpoint_every_steps, self.save),
        ):
            if every and before // every < self.steps // every:
                action()
        self._save_in_passing()
        if time.monotonic() - self.logged >= self.config.logging.every_s:
            self.logged = time.monotonic()
            self._log()

    def _learn(self) -> None:
        """Do the updates that are due."""
        self.seen |= self.learner.learn(self.steps, self.fraction)

    # --- budget and figures -------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """Wall time of acting and learning, s."""
        return self.seconds_before + time.monotonic() - self.began - self.paused_s

    def fraction(self) -> float:
        """Share of the budget that is spent, of steps or time, whichever is further."""
        by_time = self.seconds / (60.0 * self.config.minutes) if self.config.minutes else 0.0
        return max(self.steps / self.config.steps, by_time)

    def figures(self) -> dict[str, float]:
        """Return what is worth logging now."""
        seconds = max(self.seconds, 1e-9)
        return {
            "seconds": seconds,
            "updates": float(self.agent.updates),
            "steps_per_s": self.steps / seconds,
            "updates_per_s": self.agent.updates / seconds,
            **{name: float(value) for name, value in self.seen.items()},
            **self.ends.figures(),
            **self.watch.figures(
                self.learner, self.collector, self.steps, seconds, self.fraction()
            ),
        }

    def _log(self) -> None:
        figures = self.figures()
        histograms = self.watch.histograms(self.learner, self.collector, self.seconds)
        for logger in self.loggers:
            logger.log(self.steps, figures)
            logger.histograms(self.steps, histograms)
        self._show(figures)

    def _show(self, figures: dict[str, float]) -> None:
        if self.progress is None:
            return
        done = self.fraction()
        self.progress(
            Snapshot(
                folder=self.folder,
                steps=self.steps,
                total_steps=self.config.steps,
                fraction=min(done, 1.0),
                seconds=self.seconds,
                steps_per_s=figures["steps_per_s"],
                remaining_s=max(self.seconds / max(done, 1e-9) - self.seconds, 0.0),
                figures=figures,
            )
        )

    def evaluate(self) -> None:
        """Judge the policy as it is now; its time is not training time."""
        began = time.monotonic()
        config = self.config
        policy = policy_of(self.agent, self.task, config, self.steps)
        name, options = config.judged_on
        result = run_episodes(
            TorchPolicy(policy),
            environment=name,
            options=options,
            episodes=config.evaluation.episodes,
            seed=config.evaluation.seed,
        )
        self.evaluation = {"steps": self.steps, **result.as_json()}
        goal = config.evaluation.stop_at_return
        self.solved = goal is not None and self.evaluation["return_mean"] >= goal
        figures = evaluation_figures(self.evaluation)
        for logger in self.loggers:
            logger.log(self.steps, {"seconds": self.seconds, **figures})
        self.paused_s += time.monotonic() - began

    def save(self, *, interrupted: bool = False) -> None:
        """Write a checkpoint."""
        wanted = self.config.logging.checkpoint_replay
        whole = wanted == "always" or (wanted == "interrupted" and interrupted)
        self.saved = save_run(
            self.folder,
            config=self.config,
            task=self.task,
            agent=self.agent,
            steps=self.steps,
            seconds=self.seconds,
            rest={"experience": self.learner.state(), "run": self.state()} if whole else {},
        )
        self.saved_at = time.monotonic()

    def _save_in_passing(self) -> None:
        """Save when it is time, and drop the oldest of what was saved so."""
        logging = self.config.logging
        due = 0.0 < logging.checkpoint_every_s <= time.monotonic() - self.saved_at
        if not due or self.saved == checkpoints.file_of(self.folder, self.steps):
            return
        self.save()
        if self.saved is not None:
            self.passing.append(self.saved)
        while logging.checkpoint_keep and len(self.passing) > logging.checkpoint_keep:
            self.passing.pop(0).unlink(missing_ok=True)

    def rescue(self, error: Exception) -> None:
        """Save what was learnt before the error; its notes say where, or why not."""
        try:
            self.save()
        except (OSError, RuntimeError) as problem:
            error.add_note(f"No checkpoint could be written: {problem}")
        else:
            error.add_note(f"What was learnt before is in {self.saved}")

    def finish(self, *, interrupted: bool) -> RunResult:
        """Save first, then judge, then say how it went."""
        seconds = self.seconds
        self.save(interrupted=interrupted)
        if self.saved is None:
            raise FileError(self.folder, "no checkpoint could be written")
        self._log()
        if not interrupted and (self.evaluation or {}).get("steps") != self.steps:
            self.evaluate()
        result = RunResult(
            folder=self.folder,
            checkpoint=self.saved,
            steps=self.steps,
            updates=self.agent.updates,
            seconds=seconds,
            steps_per_s=self.steps / max(seconds, 1e-9),
            interrupted=interrupted,
            solved=self.solved,
            resumed=self.resumed,
            evaluation=self.evaluation,
        )
        values = {**dataclasses.asdict(result), "folder": str(self.folder)}
        values["checkpoint"] = str(self.saved.relative_to(self.folder))
        (self.folder / "result.json").write_text(json.dumps(values, indent=2) + "\n")
        draw_learning_curve(self.folder)
        return result


def with_environments(config: TrainingConfig) -> TrainingConfig:
    """Return the configuration with its number of environments; 0 becomes one for each core."""
    if config.environment.num_envs:
        return config
    environment = dataclasses.replace(config.environment, num_envs=usable_cores())
    return dataclasses.replace(config, environment=environment)


def _open_environment(config: TrainingConfig) -> tuple[Stepper, TaskSpec]:
    name = config.environment.id
    env = make_environment(name, config.environment.num_envs, config.environment.options)
    try:
        task = task_of(name, env)
    except UsageError:
        env.close()
        raise
    return Stepper(env, task), task


def _truth_size(start: Start, config: TrainingConfig) -> int:
    if start.truth is not None:
        return int(start.truth.shape[1])
    if config.agent.critic_sees_truth:
        raise UsageError(
            f"agent.critic_sees_truth needs privileged features, and environment "
            f"{config.environment.id!r} gives none: set it to false"
        )
    return 0
