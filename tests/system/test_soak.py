"""`memrl-ctrl soak` on real processes: faults, a kill in the middle, and the same command again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

WAIT_S = 240.0


def start(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "memrl_ctrl", "soak", "--cycles", "428", "--segment", "214",
            "--scenario", "rough-day", "--slices", "64", "--out", str(out),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_a_killed_soak_goes_on_and_holds_its_promises(tmp_path: Path) -> None:
    """Killed in a segment, the same command goes on: nothing outside, nothing lost, faults judged."""
    first = start(tmp_path)
    deadline_s = time.monotonic() + WAIT_S
    while not list(tmp_path.glob("segment/records/*/trace.journal")):
        assert time.monotonic() < deadline_s
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = start(tmp_path)
    said, _ = second.communicate(timeout=WAIT_S)
    assert second.returncode == 0, said
    state = json.loads((tmp_path / "soak.json").read_text())
    totals = state["totals"]
    assert totals["cycles"] == 428
    assert totals["written"] > 300
    assert (totals["outside"], totals["lost"], totals["wrong"]) == (0, 0, 0)
    assert (state["segments"], state["interrupted"]) == (2, 1)
    judged = sum(n for name, n in state["faults"].items() if "not judged" not in name)
    assert judged >= 10
    assert not (tmp_path / "segment").exists()
    third = start(tmp_path)
    said, _ = third.communicate(timeout=WAIT_S)
    assert third.returncode == 0, said
    assert json.loads((tmp_path / "soak.json").read_text()) == state
