"""Run folders: what a training leaves behind, and how a policy comes back from it.

```
RUN/config.yaml          the whole resolved configuration
RUN/metrics.jsonl        figures while it went on
RUN/checkpoints/         step-<environment steps>.pt
RUN/tensorboard/         events
RUN/result.json          how it ended
RUN/learning_curve.png   where matplotlib is installed
```
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from memrl_ctrl.agents.exportable import ExportablePolicy, exportable
from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.ppo_lstm import PpoLstm
from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import TrainingConfig, dump, from_dict, resolve, to_dict
from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.policy.manifest import Training
from memrl_ctrl.training import checkpoint as checkpoints

Agent = LstmTd3 | PpoLstm
AGENTS: dict[str, Any] = {"lstm-td3": LstmTd3, "ppo-lstm": PpoLstm}
"""The agent of each algorithm."""
RUNS = Path("runs")
CONFIG = "config.yaml"


BUDGET = ("steps", "minutes", "device", "torch_threads", "evaluation", "logging")
"""What may change when a run goes on in its own folder."""


def make_run_folder(
    config: TrainingConfig, out: str | Path | None, *, resume: str | Path | None = None
) -> Path:
    """Make the folder of a run and write its configuration.

    Args:
        config: the resolved configuration.
        out: the folder; without it `runs/<name>-<time stamp>`.
        resume: the folder of a run that this one goes on with; the same one as `out` is used again.

    Raises:
        UsageError: it exists and is not empty; nothing is overwritten.
        FileError: it cannot be made.
    """
    folder = RUNS / f"{config.name}-{time.strftime('%Y%m%dT%H%M%S')}" if out is None else Path(out)
    in_place = out is not None and resume is not None and folder.resolve() == Path(resume).resolve()
    if in_place:
        _check_same(folder, config)
    elif out is None:
        stem, number = folder.name, 2
        while folder.exists():
            folder, number = folder.with_name(f"{stem}-{number}"), number + 1
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty: choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(dump(config), encoding="utf-8")
    except OSError as error:
        raise FileError(folder, f"cannot be written: {error.strerror}") from error
    return folder


def _check_same(folder: Path, config: TrainingConfig) -> None:
    """Refuse to go on in a folder with another configuration than that of its run.

    Raises:
        UsageError: names what differs.
    """
    old, new = to_dict(resolve(folder / CONFIG)), to_dict(config)
    changed = [name for name in new if name not in BUDGET and old.get(name) != new[name]]
    if changed:
        raise UsageError(
            f"{folder} was trained with another {', '.join(changed)}; to go on with a changed "
            "configuration choose a new folder with --out"
        )


def save_run(
    folder: Path,
    *,
    config: TrainingConfig,
    task: TaskSpec,
    agent: Agent,
    steps: int,
    seconds: float,
    rest: dict[str, Any],
) -> Path:
    """Write a checkpoint; return its file.

    Args:
        folder, config, task, agent: of the run.
        steps: environment steps so far.
        seconds: wall time of acting and learning, s.
        rest: nested plain values and arrays, for a run that is to go on exactly.
    """
    content = {
        "config": to_dict(config),
        "task": dataclasses.asdict(task),
        "agent": agent.state(),
        "steps": steps,
        "seconds": seconds,
    }
    content |= checkpoints.packed(rest)
    return checkpoints.save(folder, steps, content)


def restore_agent(
    path: Path, content: dict[str, Any], device: str = "cpu"
) -> tuple[Agent, TaskSpec, TrainingConfig]:
    """Make the agent of a checkpoint.

    Raises:
        FileError: its parts do not fit together.
    """
    try:
        config = from_dict(content["config"])
        task = TaskSpec(**content["task"])
        agent = AGENTS[config.algorithm](task, config.agent, seed=config.seed, device=device)
        agent.restore(content["agent"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileError(path, f"does not hold what a checkpoint should: {error}") from error
    return agent, task, config


def load_policy(run_folder: str | Path, checkpoint: int | None = None) -> ExportablePolicy:
    """Return the policy of a run, as it is evaluated and exported.

    Args:
        run_folder: folder of the run.
        checkpoint: environment steps of the checkpoint; without it the last.

    Raises:
        FileError: the folder is no run, or the checkpoint is damaged.
        UsageError: there is no such checkpoint; says which there are.
    """
    path = checkpoints.find(Path(run_folder), checkpoint)
    content = checkpoints.load(path)
    agent, task, config = restore_agent(path, content)
    return policy_of(agent, task, config, int(content["steps"]))


def policy_of(agent: Agent, task: TaskSpec, config: TrainingConfig, steps: int) -> ExportablePolicy:
    """Return an agent's policy as it is now, with its manifest."""
    training = Training(
        algorithm=config.algorithm,
        task=task.environment,
        steps=steps,
        seed=config.seed,
        configuration=to_dict(config),
    )
    return exportable(agent.policy(), task, name=config.name, training=training)
