"""`memrl-ctrl deploy` on a twin that misbehaves, both as processes: every transition is in the trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_ctrl.trace import TraceReader
from memrl_deploy.replaying import replay_trace

from .machine_process import Process, process

SLICES = 128
WAIT_S = 150.0
SCENARIO = """
kind: scenario
seed: 4
timing: {period_s: 0.3}
machine: {program: psb-2gev}
rf: {offset_deg: 40}
faults:
  - {fault: operator, at_cycle: 72, change_deg: 10}
  - {fault: setpoint_ignored, at_cycle: 77, for_cycles: 2}
  - {fault: dead_pickup, at_cycle: 84, for_cycles: 6}
  - {fault: frozen_profile, at_cycle: 112, for_cycles: 100000, points: [POINTS]}
""".replace("POINTS", ", ".join(str(point) for point in range(20)))
CYCLES = 130


class Run:
    """A `deploy` on a machine's process."""

    def __init__(self, machine: Process, folder: Path, *options: str) -> None:
        self.endpoint, self.records = machine.ready(), folder / "records"
        self.environment = {**os.environ, "MEMRL_CTRL_STATE": str(folder), "PYTHONUNBUFFERED": "1"}
        policy = write_file(folder / "p.onnx", proportional_policy(n_slices=SLICES, gain_rad=0.6))
        self.popen = subprocess.Popen(
            [
                sys.executable, "-m", "memrl_ctrl", "deploy", "--policy", str(policy),
                "--endpoint", self.endpoint, "--record", str(self.records), *options,
            ],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._watchdog = threading.Timer(WAIT_S, self.popen.kill)
        self._watchdog.start()

    def until_said(self, words: str) -> None:
        assert self.popen.stdout is not None
        assert any(words in line for line in self.popen.stdout), f"never said {words!r}"

    def ended(self) -> tuple[int, str, str]:
        out, errors = self.popen.communicate(timeout=WAIT_S)
        return self.popen.returncode, out, errors

    def trace(self) -> Path:
        (found,) = self.records.glob("*/trace.h5")
        return found

    def close(self) -> None:
        self._watchdog.cancel()
        self.popen.kill()
        self.popen.communicate()


@contextmanager
def deployed(machine: Process, folder: Path, *options: str) -> Iterator[Run]:
    run = Run(machine, folder, *options)
    try:
        yield run
    finally:
        run.close()


def modes(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["to"], event["cause"]) for event in events if event["kind"] == "mode"]


def test_a_twin_with_faults_leads_through_every_mode(tmp_path: Path) -> None:
    """A dead pick-up for a while recovers; one that freezes goes down to a verified restore of what was
    applied when the run engaged first, not of where the fallback that recovered had left it.

    A turned knob and ignored setpoints are no trouble: the loop goes on from what is applied.
    """
    (tmp_path / "faults.yaml").write_text(SCENARIO)
    options = ("--scenario", str(tmp_path / "faults.yaml"), "--slices", str(SLICES))
    ladder = ("--classical-cycles", "3", "--cycles", str(CYCLES))
    with process(tmp_path, *options) as machine, deployed(machine, tmp_path, *ladder) as run:
        code, out, errors = run.ended()
    assert code == 5, out + errors
    assert "restored, verified by readback" in errors
    with TraceReader(run.trace()) as trace:
        records = list(trace)
        events = [dict(event) for record in records for event in record.events]
        result = replay_trace(trace)
    assert modes(events) == [
        ("transition", "agreed"), ("closed-loop", "blended"), ("fallback", "trouble"),
        ("shadow", "recovered"),
        ("transition", "agreed"), ("closed-loop", "blended"), ("fallback", "trouble"),
        ("manual", "ladder-ended"),
    ]  # fmt: skip
    rungs = [event["rung"] for event in events if event["kind"] == "fallback"]
    assert set(rungs) == {"hold", "classical", "restore"}
    assert result.identical
    assert result.fallback_cycles == 3
    (engaged,) = [event["cycle"] for event in events if event.get("control") == "taken"]
    by_cycle = {record.cycle: record.reading for record in records}
    snapshot, last = by_cycle[engaged].applied_rad, records[-1].reading.applied_rad
    np.testing.assert_allclose(last, snapshot, atol=1e-9)
    # What the scenario did to the knob was seen, and was no reason to leave the loop.
    differs = [c for c, r in by_cycle.items() if np.abs(r.setpoint_rad - r.applied_rad).max() > 0]
    assert differs


def test_operator_take_over_ends_the_run_with_the_transition_in_its_trace(tmp_path: Path) -> None:
    """`memrl-ctrl operator take-over`: exit code 5, the cause in the last outcome, the function stays."""
    options = ("--period", "0.3", "--slices", str(SLICES))
    with process(tmp_path, *options) as machine, deployed(machine, tmp_path) as run:
        run.until_said("transition -> closed-loop")
        subprocess.run(
            [sys.executable, "-m", "memrl_ctrl", "operator", "take-over", "--endpoint", run.endpoint],
            env=run.environment, check=True, capture_output=True, timeout=WAIT_S,
        )  # fmt: skip
        code, _, errors = run.ended()
    assert code == 5
    assert "this agent is not in control any more (" in errors
    assert (
        "operator" in errors.partition("not in control any more (")[2].partition("); it takes")[0]
    )
    with TraceReader(run.trace()) as trace:
        outcome = trace.outcome(-1)
    assert outcome is not None
    assert modes([dict(event) for event in outcome.events]) == [("manual", "taken-over")]


@pytest.mark.parametrize(
    ("number", "codes"),
    [(signal.SIGUSR1, {0}), (signal.SIGTERM, {0}), (signal.SIGINT, {0, 130})],
)
def test_signals_while_the_program_is_loaded_do_not_kill_it(
    number: signal.Signals, codes: set[int], tmp_path: Path
) -> None:
    """SIGUSR1 is kept: the run begins in the operator's hands; SIGTERM and Ctrl-C end it."""
    options = ("--period", "0.3", "--slices", str(SLICES))
    with (
        process(tmp_path, *options) as machine,
        deployed(machine, tmp_path, "--cycles", "4") as run,
    ):
        handled = 1 << (number - 1)
        status = Path(f"/proc/{run.popen.pid}/status")
        while not _caught(status) & handled or (
            number is signal.SIGINT and not _caught(status) & 1 << (signal.SIGUSR1 - 1)
        ):
            assert run.popen.poll() is None
        run.popen.send_signal(number)
        code, out, errors = run.ended()
    assert code in codes, out + errors
    assert "Traceback" not in errors
    if number is signal.SIGUSR1:
        assert "shadow -> manual (operator)" in out
        assert "written" not in out.split("functions written")[0]


def _caught(status: Path) -> int:
    """Return the mask of signals that a process catches (proc(5), SigCgt)."""
    (line,) = [one for one in status.read_text().splitlines() if one.startswith("SigCgt:")]
    return int(line.split()[1], 16)
