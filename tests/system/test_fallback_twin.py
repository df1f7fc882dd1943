"""The snapshot on the Booster's cavity with its imperfections: the readback lags and has noise."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.registry import open_backend
from memrl_ctrl.trace import TraceReader
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Disengaged, Runtime

SCENARIO = """
kind: scenario
description: A polarity that flips for good.
like: psb
faults:
  - {fault: flipped_polarity, at_cycle: 12, for_cycles: 200}
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_snapshot_is_verified_on_the_default_machine(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is applied again, the readback says so as well as it did at engage, and that is told."""
    monkeypatch.setattr(os, "fdatasync", lambda _file: None)  # what a sync costs is no matter here
    (tmp_path / "flip.yaml").write_text(SCENARIO)
    machine = open_backend(
        "twin", scenario=str(tmp_path / "flip.yaml"), n_slices=64, period_s=0.0, seed=seed
    )
    policy = OnnxPolicy.load(proportional_policy(n_slices=64, gain_rad=0.8))
    summary = Runtime(ClosedLoop(machine), policy, records=tmp_path, cycles=45).run()
    assert isinstance(summary.error, Disengaged)
    assert "the snapshot taken at engage is restored, verified by readback" in str(summary.error)
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        first, last = trace.record(0).reading, trace.record(-1).reading
    np.testing.assert_allclose(last.applied_rad, first.applied_rad, atol=np.radians(0.1))
    assert np.abs(last.readback_rad - last.applied_rad).max() > np.radians(0.1)  # its own noise
