"""What logging costs a training: the same run with and without it, in turns."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from memrl_ctrl.bench.report import publish
from memrl_ctrl.config import TrainingConfig, resolve
from memrl_ctrl.training.collect import Collector, Ends
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.figures import Watch
from memrl_ctrl.training.logs import Logger, make_loggers
from memrl_ctrl.training.off_policy import OffPolicy
from memrl_ctrl.training.process import torch_threads
from memrl_ctrl.training.stepper import Stepper

CONFIGURATIONS = ("psb", "lstm-td3-parallel-per")
START = ("environment.num_envs=64", "agent.update_after=2000", "agent.start_steps=2000")
"""The same number of environments on every machine, and a short start."""
TURNS = 5
TURN_S = 3.0


def run(
    json_path: Path | None = None,
    *,
    turns: int = TURNS,
    turn_s: float = TURN_S,
    configurations: tuple[str, ...] = CONFIGURATIONS,
    overrides: tuple[str, ...] = START,
) -> dict[str, Any]:
    """What a line of figures and its TensorBoard events cost, beside the same training without.

    One training, which logs in every second turn only: once a second, histograms each time. Rates are
    by the CPU time of the process, all its threads.

    Args:
        json_path: file for the JSON, or None.
        turns: turns with logging and as many without; medians are reported.
        turn_s: wall time of a turn, s.
        configurations: shipped configurations.
        overrides: changes to them.
    """
    rows = []
    figures: dict[str, float] = {}
    for name in configurations:
        with tempfile.TemporaryDirectory() as folder, torch_threads(1):
            training = _Training(resolve(name, overrides), Path(folder))
            try:
                # Neither the first updates nor the imports of the first line count.
                training.turn(turn_s, logging=True)
                taken = [
                    (training.turn(turn_s, logging=True), training.turn(turn_s, logging=False))
                    for _ in range(turns)
                ]
            finally:
                training.close()
        logged, plain = (statistics.median(both) for both in zip(*taken, strict=True))
        line_ms = 1e3 * statistics.median(training.lines_s)
        rows.append(
            {
                "configuration": name,
                "updates a CPU second, logging": logged,
                "without": plain,
                "ratio": logged / plain,
                "ms a line": line_ms,
            }
        )
        figures |= {f"updates_ratio_{name}": logged / plain, f"line_ms_{name}": line_ms}
    return publish(
        name="logging",
        columns=tuple(rows[0]),
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=[
            f"One thread of torch; medians of {turns} turns of {turn_s:g} s each, in turns; a line and "
            "its TensorBoard events once a second, histograms with every line (a run: once a minute).",
        ],
    )


@dataclass
class _Count:
    steps: int = 0
    lines: int = 0


class _Training:
    """A training by hand, that can leave its logging out."""

    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        logging = dataclasses.replace(config.logging, tensorboard=True, histograms_every_s=1e-9)
        self.config = dataclasses.replace(config, logging=logging)
        environment = config.environment
        env = make_environment(environment.id, environment.num_envs, environment.options)
        stepper = Stepper(env, task_of(environment.id, env))
        start = stepper.reset(config.seed)
        if start.truth is not None:
            stepper.task = dataclasses.replace(stepper.task, n_truth=start.truth.shape[1])
        self.stepper = stepper
        self.learner = OffPolicy(self.config, stepper.task, None, "cpu")
        self.collector = Collector(stepper, start, self.learner.agent)
        self.ends, self.watch = Ends(environment.num_envs), Watch(self.config)
        self.loggers: list[Logger] = make_loggers(self.config, folder)
        self.count, self.seen = _Count(), dict[str, Tensor]()
        self.lines_s: list[float] = []
        """CPU time of each line, s."""

    def turn(self, turn_s: float, *, logging: bool) -> float:
        """Train for a while; return the updates a second of CPU time."""
        while not self.learner.agent.updates:
            self._round(logging=logging)
        updates, cpu = self.learner.agent.updates, time.process_time()
        begin = last = time.monotonic()
        while time.monotonic() - begin < turn_s:
            self._round(logging=logging)
            if logging and time.monotonic() - last >= 1.0:
                last = time.monotonic()
                self._line(last - begin)
        return (self.learner.agent.updates - updates) / (time.process_time() - cpu)

    def _round(self, *, logging: bool) -> None:
        self.learner.agent.refresh_behaviour()
        random = self.learner.is_random(self.count.steps)
        collected = self.collector.collect(self.learner.calls, random=random)
        self.learner.take(collected)
        for one in collected:
            self.count.steps += int(one.step.valid.sum())
            self.ends.note(one.step)
            if logging:
                self.watch.note(one.step)
        self.seen |= self.learner.learn(self.count.steps, lambda: 0.5)

    def _line(self, seconds: float) -> None:
        begin = time.process_time()
        steps, parts = self.count.steps, (self.learner, self.collector)
        figures = {
            **{name: float(value) for name, value in self.seen.items()},
            **self.ends.figures(),
            **self.watch.figures(*parts, steps, seconds, 0.5),
        }
        histograms = self.watch.histograms(*parts, time.monotonic())
        for logger in self.loggers:
            logger.log(steps, figures)
            logger.histograms(steps, histograms)
        self.lines_s.append(time.process_time() - begin)

    def close(self) -> None:
        """Close environment and files."""
        self.stepper.close()
        for logger in self.loggers:
            logger.close()
