"""A twin that a benchmark or a soak started ends with it, also where nobody could end it any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WAIT_S = 120.0
STARTS = """
import sys, time
from pathlib import Path
from memrl_deploy.twin import twin

with twin(Path(sys.argv[1]), "--quiet", "--slices", "64"):
    print("ready", flush=True)
    time.sleep(600.0)
"""


def running(pid: int) -> bool:
    """Whether a process is there and not a zombie (proc(5), stat)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_twin_ends_with_whoever_started_it(number: signal.Signals, tmp_path: Path) -> None:
    """Killed in the middle, a parent leaves no machine behind."""
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    child = 0
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        (child,) = map(int, children)
        assert b"machine" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        parent.send_signal(number)
        parent.wait(WAIT_S)
        deadline_s = time.monotonic() + WAIT_S
        while running(child) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert not running(child)
    finally:
        parent.kill()
        parent.communicate()
        if child and running(child):
            os.kill(child, signal.SIGKILL)
