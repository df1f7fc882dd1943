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


def mean_return(folder: Path, *overrides: str) -> float:
    settings = [
        "logging.tensorboard=false",
        "evaluation.every_steps=0",
        f"evaluation.episodes={EPISODES}",
    ]
    config = resolve("ppo-lstm-minigrid-memory-s7", [*settings, *overrides])
    result = train(config, out=folder)
    assert result.evaluation is not None
    return float(result.evaluation["return_mean"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_object_is_remembered(tmp_path: Path) -> None:
    """With its shipped settings it goes to the right object wherever it began beside the first one, a
    quarter of the episodes; a guess in the others makes five eighths together."""
    assert mean_return(tmp_path / "run") > CHANCE + 4 * 0.5 / EPISODES**0.5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_without_memory_it_is_chance(tmp_path: Path) -> None:
    """The same network without its LSTM gets no further than a guess, within four deviations."""
    reached = mean_return(tmp_path / "run", "agent.lstm=[]", "steps=200000")
    assert reached < CHANCE + 4 * 0.5 / EPISODES**0.5
