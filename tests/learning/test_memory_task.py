"""LSTM-TD3 learns what needs memory, and a policy without memory cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl.config import resolve
from memrl_ctrl.training import train

BEST_WITHOUT_MEMORY = -5 / 3
"""Mean return of answering 0 in the five steps in which the number is hidden: 5 times -E[x^2]."""


def mean_return(folder: Path, *overrides: str) -> float:
    config = resolve("recall", ["torch_threads=1", "logging.tensorboard=false", *overrides])
    result = train(config, out=folder)
    assert result.evaluation is not None
    return float(result.evaluation["return_mean"])


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["window", "sequence"])
def test_the_number_is_remembered(memory: str, tmp_path: Path) -> None:
    """Both memories come within a tenth of perfect on a task that cannot be done without."""
    assert mean_return(tmp_path / "run", f"agent.memory={memory}") > 0.1 * BEST_WITHOUT_MEMORY


@pytest.mark.slow
def test_without_memory_it_cannot_be_done(tmp_path: Path) -> None:
    """TD3 without memory gets no further than chance allows."""
    reached = mean_return(tmp_path / "run", "agent.history_length=0", "steps=10000")
    assert reached < 0.7 * BEST_WITHOUT_MEMORY
