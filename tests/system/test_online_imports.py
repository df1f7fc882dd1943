"""The whole online path runs where torch, BLonD, onnx and matplotlib cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from memrl_ctrl.policy.write import proportional_policy, write_file

PROGRAM = """
import importlib.abc
import sys
from pathlib import Path

FORBIDDEN = ("torch", "blond", "matplotlib", "onnx", "tensorboard")


class Forbid(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is imported online")
        return None


sys.meta_path.insert(0, Forbid())

from memrl_ctrl import registry
from memrl_ctrl.cli import main
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.trace import TraceReader, recover, verify
from memrl_deploy.modes import ClosedLoop, Shadow
from memrl_deploy.replaying import replay_trace
from memrl_deploy.runtime import Runtime

policy, records = Path(sys.argv[1]), Path(sys.argv[2])
options = {"program": "psb-2gev", "fidelity": "matched", "seed": 1, "n_slices": 200}
loop = ClosedLoop(registry.open_backend("blond", **options))
summary = Runtime(loop, OnnxPolicy.load(policy), records=records, cycles=3).run()
if summary.error is not None or summary.written != 3:
    raise SystemExit(f"closed loop: {summary}")
if not verify(summary.trace).whole:
    raise SystemExit("the trace is not whole")
with TraceReader(summary.trace) as trace:
    if not replay_trace(trace).identical:
        raise SystemExit("the replay differs")
recover(summary.trace.parent)
source = registry.open_source("blond", **options)
summary = Runtime(Shadow(source), OnnxPolicy.load(policy), records=records, cycles=2).run()
if summary.error is not None or summary.cycles != 2:
    raise SystemExit(f"shadow: {summary}")
import memrl_backends.zmq

code = main(["deploy", "--policy", str(policy), "--backend", "blond", "--cycles", "2", "--quiet",
             "--record", str(records), "--set", "n_slices=200"])
code = code or main(["replay", str(summary.trace)])
found = [name for name in FORBIDDEN if name in sys.modules]
raise SystemExit(code or (f"imported: {found}" if found else 0))
"""


def test_the_online_path_needs_neither_torch_nor_blond(tmp_path: Path) -> None:
    """Open the simulation, load a policy, close the loop, shadow, record, verify, replay, and the
    commands: nothing of it imports what a base install lacks."""
    policy = write_file(tmp_path / "p.onnx", proportional_policy(n_slices=128))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(policy), str(tmp_path / "records")],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
