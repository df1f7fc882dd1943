"""The modes of `memrl-ctrl deploy` as a process of its own: each transition in the trace, by its cause."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_backends.zmq import MachineServer
from memrl_backends.zmq.keys import make_folder
from memrl_ctrl.backend import Reading, Receipt
from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader

N = 64
WAIT_S = 90.0
PERIOD_S = 0.4


class Faulty(FakeBackend):
    """A machine whose readback can be made to lie; remembers what it took."""

    def __init__(self) -> None:
        super().__init__(points=30, n_slices=N, offset_rad=0.6, alter=self._lie)
        self.taken: list[np.ndarray] = []
        self.wrong_rad = 0.0

    def _lie(self, reading: Reading) -> Reading:
        return replace(reading, readback_rad=reading.applied_rad + self.wrong_rad)

    def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
        receipt = super().submit(phi_hw_rad, cycle, deadline_s)
        self.taken.append(np.array(receipt.applied_rad))
        return receipt


class Run:
    """A served machine and a `deploy` on it."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder / "keys")
        path = write_file(folder / "p.onnx", proportional_policy(n_slices=N, gain_rad=1.5))
        self.machine = Faulty()
        self._server = MachineServer(
            self.machine, endpoint="tcp://127.0.0.1:0", period_s=PERIOD_S, keys=folder / "keys"
        )
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        self._records = folder / "records"
        self._watchdog = threading.Timer(WAIT_S, self._kill)
        self._watchdog.start()
        self.child = subprocess.Popen(
            [
                sys.executable, "-m", "memrl_ctrl", "deploy", "--policy", str(path),
                "--endpoint", str(self._server.endpoint), "--keys", str(folder / "keys"),
                "--record", str(self._records),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def until_said(self, words: str) -> None:
        """Read the output up to a line with these words."""
        assert self.child.stdout is not None
        assert any(words in line for line in self.child.stdout), f"never said {words!r}"

    def ended(self) -> tuple[int, str, list[dict[str, Any]]]:
        """End it; return the exit code, the output's rest and the transitions in its trace."""
        self.child.send_signal(signal.SIGTERM)
        out, _ = self.child.communicate(timeout=WAIT_S)
        (trace,) = self._records.glob("*/trace.h5")
        with TraceReader(trace) as reader:
            events = [dict(event) for record in reader for event in record.events]
        return self.child.returncode, out, [e for e in events if e["kind"] == "mode"]

    def _kill(self) -> None:
        if self.child.poll() is None:
            self.child.kill()

    def close(self) -> None:
        self._watchdog.cancel()
        self._kill()
        self.child.communicate()
        self._server.stop()
        self._thread.join()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    running = Run(tmp_path)
    yield running
    running.close()


def test_signals_take_over_and_engage_again(run: Run) -> None:
    """SIGUSR1: nothing more is taken, the last function stays; SIGUSR2: through shadow into the loop."""
    run.until_said("transition -> closed-loop")
    run.child.send_signal(signal.SIGUSR1)
    run.until_said("closed-loop -> manual")
    taken = len(run.machine.taken)
    time.sleep(3.0 * PERIOD_S)
    assert len(run.machine.taken) == taken
    run.child.send_signal(signal.SIGUSR2)
    run.until_said("transition -> closed-loop")
    run.until_said("closed-loop  written")  # the cycle in whose record the transition stands
    assert len(run.machine.taken) > taken
    code, out, changes = run.ended()
    assert code == 0
    assert out.count("manual -> shadow (operator)") == 1  # in the summary
    assert [change["cause"] for change in changes] == [
        "agreed", "blended", "operator", "operator", "agreed", "blended"
    ]  # fmt: skip


def test_a_fault_goes_down_the_ladder(run: Run) -> None:
    """A readback that goes wrong for a while recovers by shadow; one that stays wrong hands over."""
    run.until_said("transition -> closed-loop")
    run.machine.wrong_rad = 2.0
    run.until_said("closed-loop -> fallback")
    run.machine.wrong_rad = 0.0
    run.until_said("fallback -> shadow")
    run.until_said("transition -> closed-loop")
    run.machine.wrong_rad = 2.0
    run.until_said("fallback -> manual")
    run.until_said("  manual  ")
    taken = len(run.machine.taken)
    code, _, changes = run.ended()
    assert code == 5
    assert len(run.machine.taken) == taken
    assert [change["cause"] for change in changes] == [
        "agreed", "blended", "trouble", "recovered", "agreed", "blended", "trouble", "ladder-ended"
    ]  # fmt: skip
