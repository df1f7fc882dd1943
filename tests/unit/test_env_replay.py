"""Recorded cycles as a Gymnasium environment."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

import memrl_ctrl.env  # noqa: F401 - registers the environments
from memrl_ctrl.errors import ReadingTimeout
from memrl_ctrl.testing.traces import sample_cycle, sample_header
from memrl_ctrl.trace import JournalWriter


def test_recorded_cycles_are_served_whatever_the_actions(tmp_path: Path) -> None:
    """Two runs with opposite actions see the same recorded cycles, and info says that they are recorded."""
    header = sample_header(points=3, n_slices=64)
    path = tmp_path / "trace.journal"
    with JournalWriter(path, header) as journal:
        for cycle in range(4):
            journal.append(sample_cycle(header, cycle))
    seen = []
    for action in (1.0, -1.0):
        env = gymnasium.make(
            "memrl/BeamPhase-v0",
            backend="replay", trace=path, n_slices=64, point=1, reward="measured",
            disable_env_checker=True,
        )  # fmt: skip
        first, info = env.reset(seed=1)
        assert info["recorded"]
        steps = [env.step(np.array([action], dtype=np.float32)) for _ in range(3)]
        assert all(step[4]["recorded"] for step in steps)
        seen.append(np.stack([first, *(step[0] for step in steps)]))
        with pytest.raises(ReadingTimeout, match="at its end"):
            env.step(np.array([action], dtype=np.float32))
        env.close()
    np.testing.assert_array_equal(*seen)
    assert np.ptp(seen[0][:, :64], axis=0).any()
