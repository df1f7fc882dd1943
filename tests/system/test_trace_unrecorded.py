"""What cannot be recorded in time is not written to the machine: full disk, slow disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.backend import Receipt
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader, verify
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Runtime

N = 64
pytest.importorskip("onnx", reason="policies are written with onnx (extra 'train')")

RUN = """
import json, resource, sys
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.testing import FakeBackend
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Runtime

submitted = []


class Spy(FakeBackend):
    def submit(self, phi_hw_rad, cycle, deadline_s):
        submitted.append(phi_hw_rad.tolist())
        return super().submit(phi_hw_rad, cycle, deadline_s)


resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, resource.RLIM_INFINITY))
policy = OnnxPolicy.load(open(sys.argv[1], "rb").read())
run = Runtime(ClosedLoop(Spy(points=8, n_slices=64, noise=0.02)), policy, records=sys.argv[2], cycles=500)
summary = run.run()
print(json.dumps({
    "submitted": submitted,
    "error": str(summary.error),
    "missed": dict(summary.missed),
    "written": summary.written,
}))
"""


def test_on_a_full_disk_nothing_is_written_that_is_not_recorded(tmp_path: Path) -> None:
    """A real process whose file cannot grow: every function that it sent stands in the trace."""
    (tmp_path / "policy.onnx").write_bytes(proportional_policy(n_slices=N))
    records = tmp_path / "records"
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "policy.onnx"), str(records)],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["missed"] == {"unrecorded": 3}
    assert "3 times 'unrecorded' in a row" in said["error"]
    assert 1 <= said["written"] < 500
    (folder,) = records.iterdir()
    report = verify(folder / "trace.journal")
    assert report.whole
    assert report.cycles == said["written"] == len(said["submitted"])
    with TraceReader(folder / "trace.journal") as trace:
        written = [trace.record(index).written_rad for index in range(report.cycles)]
    np.testing.assert_array_equal(written, said["submitted"])


def test_a_disk_that_is_too_slow_costs_the_function_not_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cycle that became durable after its deadline is in the trace, and was never sent."""
    period_s, slow_cycle = 0.5, 3
    sent: list[int] = []

    class Spy(FakeBackend):
        def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
            sent.append(cycle)
            return super().submit(phi_hw_rad, cycle, deadline_s)

    sync, syncs = os.fdatasync, 0

    def slow(file: int) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == slow_cycle + 2:  # the first is the header's
            time.sleep(1.2 * period_s)
        sync(file)

    monkeypatch.setattr(os, "fdatasync", slow)
    summary = Runtime(
        ClosedLoop(Spy(points=8, n_slices=N, period_s=period_s)),
        OnnxPolicy.load(proportional_policy(n_slices=N)),
        records=tmp_path,
        cycles=6,
    ).run()
    assert summary.error is None
    assert summary.missed == {"late": 1}
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert len(trace) == 6
        late, outcome = trace.record(slow_cycle), trace.outcome(slow_cycle)
        assert outcome is not None
        assert outcome.reason == "late"
        assert late.target_cycle not in sent
        assert len(sent) == 5
