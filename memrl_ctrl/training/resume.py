"""Going on with a run: exactly where its checkpoint says how everything stood, else nearly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memrl_ctrl.agents.task import TaskSpec
from memrl_ctrl.config import TrainingConfig
from memrl_ctrl.errors import UsageError
from memrl_ctrl.training import checkpoint as checkpoints
from memrl_ctrl.training.past import seed_of
from memrl_ctrl.training.runs import Agent, restore_agent

EXACTLY = "exactly where it stood"
NEW_EPISODES = "with its replay buffer, and with new episodes"
EMPTY_BUFFER = "with an empty replay buffer, and with new episodes"


@dataclass(frozen=True, kw_only=True)
class Begun:
    """Where a run to resume stood."""

    agent: Agent
    """Weights, optimisers, generators."""
    steps: int
    """Environment steps."""
    seconds: float
    """Wall time of acting and learning, s."""
    experience: dict[str, Any] | None
    """What was experienced, as the learner keeps it; None where the checkpoint has none."""
    run: dict[str, Any] | None
    """How environments and loop stood; None where the run cannot go on exactly."""

    @property
    def how(self) -> str:
        """In which way the run goes on, in words."""
        if self.run is not None:
            return EXACTLY
        return EMPTY_BUFFER if self.experience is None else NEW_EPISODES


def begun_from(folder: Path, config: TrainingConfig, task: TaskSpec, device: str) -> Begun:
    """Return what a run's last checkpoint holds.

    Raises:
        UsageError: the run's agent or task are others than the configuration's.
        FileError: the checkpoint is missing or damaged.
    """
    path = checkpoints.find(folder)
    content = checkpoints.load(path)
    agent, old_task, old = restore_agent(path, content, device)
    for name, same in (("agent", old.agent == config.agent), ("task", old_task == task)):
        if not same:
            raise UsageError(
                f"run {folder} has another {name} than this configuration; "
                f"use its own: {folder / 'config.yaml'}"
            )
    experience, run = content.get("experience"), content.get("run")
    same_loop = all(
        getattr(old, name) == getattr(config, name)
        for name in ("seed", "environment", "replay", "overlap")
    )
    exact = experience is not None and run is not None and same_loop
    return Begun(
        agent=agent,
        steps=int(content["steps"]),
        seconds=float(content["seconds"]),
        experience=checkpoints.unpacked(experience),
        run=checkpoints.unpacked(run) if exact else None,
    )


def seed_after(seed: int, steps: int) -> int:
    """Return a seed of the environments for a run that goes on with new episodes."""
    return seed_of(seed, steps)
