"""LSTM-TD3 beats TD3 without memory where velocities are removed."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from memrl_ctrl.config import resolve
from memrl_ctrl.training import train
from memrl_ctrl.training.logs import read_metrics

WITHOUT_MEMORY = -900.0
"""Better than any policy found without memory on the pendulum without its velocity; hanging still and turning
at random give about -1,200, and swinging up and holding -150."""


def last_returns(folder: Path, *overrides: str) -> float:
    """Train, and return the mean of the last three evaluations."""
    train(resolve("lstm-td3-pendulum", ["logging.tensorboard=false", *overrides]), out=folder)
    returns = [r["evaluation_return"] for r in read_metrics(folder) if "evaluation_return" in r]
    return statistics.fmean(returns[-3:])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_replaces_the_velocity(tmp_path: Path) -> None:
    """On the pendulum without its velocity LSTM-TD3 gets past what TD3 reaches, by a wide margin."""
    without = last_returns(tmp_path / "td3", "agent.history_length=0", "steps=8000")
    with_memory = last_returns(tmp_path / "lstm-td3")
    assert without < WITHOUT_MEMORY
    assert with_memory > without + 400.0
