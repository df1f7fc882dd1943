"""PPO-LSTM learns what needs memory in a grid, and a policy without memory cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl.config import resolve
from memrl_ctrl.training import train

pytest.importorskip("minigrid")

EPISODES = 1_000
CHANCE = 0.5
"""Going to either end of the hallway without having looked."""
SOLVED = 0.95
"""Return of who is right nearly always; each of about ten steps of 245 costs 0.9 / 245."""


def mean_return(folder: Path, *overrides: str) -> float:
    settings = [
        "logging.tensorboard=false",
        "evaluation.every_steps=0",
        f"evaluation.episodes={EPISODES}",
        "evaluation.stop_at_return=null",
    ]
    config = resolve("ppo-lstm-minigrid-memory-s7", [*settings, *overrides])
    result = train(config, out=folder)
    assert result.evaluation is not None
    return float(result.evaluation["return_mean"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_object_is_remembered(tmp_path: Path) -> None:
    """With its shipped settings it looks at the first object, behind itself where it must, and goes to the
    same one."""
    assert mean_return(tmp_path / "run") > SOLVED


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_without_memory_it_is_chance(tmp_path: Path) -> None:
    """The same network without its LSTM gets no further than a guess, within four deviations."""
    reached = mean_return(tmp_path / "run", "agent.lstm=[]", "steps=200000")
    assert reached < CHANCE + 4 * 0.5 / EPISODES**0.5
