"""A real sweep, killed together with its trainings, goes on where it was, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memrl_ctrl.config import resolve

SPACE = """
base: ppo-lstm-cartpole-no-vel
trials: 1
steps: {steps}
evaluations: 2
pruner: none
set: {{evaluation.episodes: 2, environment.num_envs: 4, agent.rollout_steps: 16, agent.epochs: 1,
  agent.actor_average: 0.0, logging.tensorboard: false, logging.every_s: 0.0,
  logging.checkpoint_every_s: 0.5}}
parameters:
  agent.learning_rate: {{distribution: log-uniform, min: 1.0e-4, max: 1.0e-2}}
  agent.lstm: [[4], [8]]
"""


@pytest.mark.timeout(600)
def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    """SIGKILL to the sweep and to its training loses at most what came after the last checkpoint: the same
    command ends what is left running, goes on with the trial that was cut off, and writes a report whose
    best configuration is one that `train` takes."""
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(SPACE.format(steps=8_000))
    command = [sys.executable, "-m", "memrl_ctrl", "sweep", str(file), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    run = out / "trials" / "0000" / "seed0"
    until = time.monotonic() + 200.0
    while not list(run.glob("checkpoints/*.pt")):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    training = int((run.parent / "seed0.lock").read_text())
    assert Path(f"/proc/{training}").exists(), "the training outlives the sweep"
    os.kill(training, signal.SIGKILL)
    kept = max(int(path.stem.partition("-")[2]) for path in run.glob("checkpoints/*.pt"))
    assert not (run / "result.json").exists()
    done = subprocess.run(
        [*command, "--json", "-"], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["counts"]["complete"] == 1
    assert [trial["number"] for trial in figures["trials"]] == [0]
    result = json.loads((run / "result.json").read_text())
    assert result["resumed"] is not None
    assert 0 < kept < result["steps"]
    assert "1 of them went on" in done.stderr
    assert resolve(out / "best.yaml").steps == 8_000
    assert "/seed0/checkpoints" not in (out / "report.md").read_text()
