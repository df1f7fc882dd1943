"""Keys in a real terminal: one press gives the machine to the operator, at once and as it stands."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_ctrl.trace import TraceReader
from memrl_deploy.states import State

WAIT_S = 240.0
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Seat:
    """A process in the foreground of a terminal of its own, and the person in front of it."""

    def __init__(self, *arguments: object) -> None:
        self.said = b""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:  # the child: its three standard files are the terminal
            environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "memrl_ctrl", *map(str, arguments)]
            os.execve(sys.executable, command, environment)  # noqa: S606 - no shell is wanted
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))

    def read(self, seconds: float) -> bool:
        """Take in what is shown for up to so long; False once the terminal is closed."""
        ready, _, _ = select.select([self._terminal], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # Linux: the last process has closed it
            return False
        self.said += data
        return bool(data)

    def until(self, words: str) -> None:
        """Read on until something is shown that was not there before."""
        begins, deadline_s = len(self.said), time.monotonic() + WAIT_S
        while words.encode() not in ESCAPES.sub(b"", self.said[begins:]):
            assert time.monotonic() < deadline_s, self.said[-3000:]
            assert self.read(1.0), self.said[-3000:]

    def press(self, key: str) -> int:
        """Press a key; return when (monotonic clock of the computer), ns."""
        os.write(self._terminal, key.encode())
        return time.monotonic_ns()

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, as it does where no program has taken the keys."""
        return bool(termios.tcgetattr(self._terminal)[3] & termios.ECHO)

    def end(self) -> int:
        """Press Ctrl-C, read to the end, and return the exit code."""
        self.press("\x03")
        deadline_s = time.monotonic() + WAIT_S
        while self.read(1.0):
            assert time.monotonic() < deadline_s, self.said[-3000:]
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Leave: whatever still runs is ended."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._terminal)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_file(tmp_path / "p.onnx", proportional_policy(n_slices=64, gain_rad=0.1))
    return tmp_path


def seat(folder: Path, command: str, *options: object) -> contextlib.closing[Seat]:
    return contextlib.closing(Seat(
        command, "--policy", folder / "p.onnx", "--backend", "blond", "--period", "0.1", "--seed", "5",
        "--set", "points=4", "--set", "n_slices=64", "--record", folder / "records", *options,
    ))  # fmt: skip


def test_a_key_takes_over_at_once_and_leaves_the_last_applied_function(folder: Path) -> None:
    """m in closed loop: no cycle that came after the press writes; what was applied last stays."""
    with seat(folder, "deploy", "--engage-after", 1, "--blend", 1) as person:
        person.until("m: manual, e: engage")
        person.until("closed-loop")
        assert not person.echoes()
        pressed_ns = person.press("m")
        person.until("the operator asked to take over")
        person.until("manual")
        again_ns = person.press("e")
        person.until("the operator asked to engage again")
        code = person.end()
    assert code == 0, person.said[-3000:]
    (trace,) = (folder / "records").glob("*/trace.h5")
    with TraceReader(trace) as reader:
        came, applied = reader.array("received_ns"), reader.array("applied_rad")
        targets, mode = reader.array("target_cycle"), reader.array("mode")
    assert (targets[came < pressed_ns] >= 0).any()
    between = (came > pressed_ns) & (came < again_ns)
    assert between.any()
    assert set(mode[between]) == {State.MANUAL.value}
    assert (targets[between] < 0).all()
    # The first of these cycles plays what was written last; it stays to the bit.
    rows = np.flatnonzero(between)
    assert (applied[rows] == applied[rows[0]]).all()


def test_in_shadow_no_key_is_announced_and_none_does_anything(folder: Path) -> None:
    """Shadow has nothing to take over: m changes nothing, and Ctrl-C ends it."""
    with seat(folder, "shadow") as person:
        person.until("Ctrl-C ends")
        person.press("m")
        person.until("Ctrl-C ends")
        code = person.end()
    assert code == 0, person.said[-3000:]
    shown = ESCAPES.sub(b"", person.said)
    assert b"m: manual" not in shown
    assert b"taken over" not in shown
    assert b"all cycles" not in shown
    assert b"shadow on" in shown  # the summary
