"""What is learnt along the cycle: the end of a passage is better than its beginning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.config import resolve
from memrl_ctrl.training import evaluate, train

SMALL = [
    "steps=40000",
    "torch_threads=1",
    "overlap=false",
    "logging.tensorboard=false",
    "environment.num_envs=64",
    "environment.options.points=10",
    "environment.options.n_slices=64",
    "agent.actor.pre_lstm=[64]",
    "agent.actor.lstm=[64]",
    "agent.actor.combination=[64]",
    "agent.critic.combination=[64,64]",
    "agent.start_steps=4000",
    "agent.update_after=4000",
    "agent.update_every=1280",
    "agent.updates_per_round=32",
    "evaluation.episodes=64",
]


@pytest.mark.slow
def test_later_control_points_are_corrected_by_what_earlier_ones_taught(tmp_path: Path) -> None:
    """From an offset anywhere on the circle, the later half of a short passage is within degrees."""
    result = train(resolve("psb-cycle", SMALL), out=tmp_path / "run")
    error = evaluate(result.folder).phase_error_deg
    assert error is not None
    assert error.shape == (10, 64)
    assert np.nanmedian(error[0]) > 45.0
    assert np.nanmedian(error[5:8]) < 6.0
