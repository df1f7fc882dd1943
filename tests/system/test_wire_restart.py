"""A machine that is killed and started again at the same port, and its client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from memrl_backends.zmq import wire
from memrl_ctrl.errors import ConnectionFailed, RefusalReason

from .authority import ask, controller, reason_of
from .machine_process import lasting_endpoint


class Process:
    """`memrl-ctrl machine` at a port that stays the same."""

    def __init__(self, folder: Path, endpoint: str, *options: str) -> None:
        self.keys = folder / "keys"
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "memrl_ctrl", "machine", "--slices", "64", "--seed", "5",
             "--offset-deg", "10", "--endpoint", endpoint, "--period", "0",
             "--quiet", *options],
            env={**os.environ, "MEMRL_CTRL_STATE": str(folder), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        found = re.search(r"ready at (tcp://\S+):", line)
        if not found:
            self.kill()
        assert found, line
        self.endpoint = found[1]

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()


def test_a_machine_that_is_killed_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    """After SIGKILL in a transaction and a restart: the last acknowledged function plays, a repeat of its
    commit gets the same receipt, what was only staged is gone, and fencing numbers have grown."""
    machine = Process(tmp_path, lasting_endpoint())
    try:
        backend = controller(machine.endpoint, machine.keys)
        reading = backend.start()
        link = backend.link
        wanted = reading.applied_rad + 0.3
        asked = {
            "fence": backend._fence,
            "cycle": reading.cycle + 1,
            "deadline_ns": 2**62,
            "key": "k",
        }
        receipt = ask(link, wire.Submit, wanted, **asked)
        acknowledged = backend.observe()
        np.testing.assert_array_equal(acknowledged.applied_rad, wanted)
        ask(link, wire.Stage, wanted + 0.2, fence=backend._fence, cycle=acknowledged.cycle + 1)
        machine.kill()
        with pytest.raises(ConnectionFailed, match="has gone: the connection broke"):
            backend.observe()
        with pytest.raises(ConnectionFailed, match=r"has gone.*; now nobody answers"):
            backend.start()
        machine = Process(tmp_path, machine.endpoint, "--resume")
        again = backend.start()
        np.testing.assert_allclose(again.applied_rad, wanted, atol=1e-12)
        assert backend._fence > receipt.fence
        repeated = ask(backend.link, wire.Submit, wanted, **asked)
        assert (repeated.cycle, repeated.fence) == (receipt.cycle, receipt.fence)
        assert (
            reason_of(lambda: ask(backend.link, wire.Submit, wanted + 0.1, **asked))
            == RefusalReason.INVALID
        )
        assert (
            reason_of(
                lambda: ask(backend.link, wire.Commit, fence=backend._fence, deadline_ns=2**62)
            )
            == RefusalReason.INVALID
        )
        after = backend.observe()
        np.testing.assert_allclose(after.applied_rad, wanted, atol=1e-12)
        backend.close()
    finally:
        machine.kill()


def test_without_resume_a_machine_begins_anew(tmp_path: Path) -> None:
    """A machine that is started again without `--resume` plays its own function, not an old one."""
    machine = Process(tmp_path, lasting_endpoint())
    try:
        backend = controller(machine.endpoint, machine.keys)
        own = backend.start().applied_rad
        backend.play(own + 0.3)
        machine.kill()
        machine = Process(tmp_path, machine.endpoint)
        with pytest.raises(ConnectionFailed, match="has gone"):
            backend.observe()
        np.testing.assert_array_equal(backend.start().applied_rad, own)
        assert backend._cycle < 100  # its cycles count from the beginning
        backend.close()
    finally:
        machine.kill()
