"""`memrl-ctrl machine --scenario`: the twin as a process, its clients, and a loop that survives."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_backends.twin import open_backend as twin
from memrl_backends.zmq import open_backend
from memrl_ctrl.backend import Quality, Reading
from memrl_ctrl.cli import main
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Runtime

LOOPBACK = "tcp://127.0.0.1:0"
QUICK = "kind: scenario\nlike: psb\nmachine: {points: 6, n_slices: 64}\n"


class Machine:
    """The command as a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "memrl_ctrl", "machine", "--endpoint", LOOPBACK, *options],
            env={**os.environ, "MEMRL_CTRL_STATE": str(folder), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ready(self) -> str:
        """Wait for the ready line and return the endpoint in it."""
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        found = re.search(r"ready at (tcp://\S+):", line)
        assert found, line + "".join(self.end(signal.SIGKILL)[1:])
        return found[1]

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        """Send a signal, if any, and wait; return exit code, output and errors."""
        if number is not None and self._popen.poll() is None:
            self._popen.send_signal(number)
        out, errors = self._popen.communicate(timeout=120)
        return self._popen.returncode, out, errors


@contextmanager
def machine(folder: Path, *options: str) -> Iterator[Machine]:
    started = Machine(folder, *options)
    try:
        yield started
    finally:
        started.end(signal.SIGKILL)


def scenario(folder: Path, text: str) -> str:
    path = folder / "scenario.yaml"
    path.write_text(QUICK + text)
    return str(path)


def truth_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_scenario_is_played_through_and_comes_again(tmp_path: Path) -> None:
    """With --cycles and --period 0 it ends by itself, and the same seed is the same machine."""
    path = scenario(tmp_path, "faults: [{fault: offset_jump, at_cycle: 9, offset_deg: 50}]\n")
    logs = []
    for name in ("one", "two"):
        log = tmp_path / f"{name}.jsonl"
        with machine(
            tmp_path, "--scenario", path, "--seed", "4", "--cycles", "20", "--period", "0",
            "--truth-log", str(log),
        ) as played:  # fmt: skip
            code, out, errors = played.end()
        assert (code, errors) == (0, "")
        assert "played 20 cycles" in out
        logs.append([{k: v for k, v in line.items() if k != "stamp_ns"} for line in truth_of(log)])
    assert logs[0] == logs[1]
    offset = np.degrees([line["offset_rad"][0] for line in logs[0]])
    assert np.argmax(np.abs(np.diff(offset))) == 7  # between cycles 8 and 9
    assert np.diff(offset)[7] == pytest.approx(50.0, abs=2.0)
    assert np.std(np.diff([line["intensity"][0] for line in logs[0]])) > 0.0


def test_clients_meet_the_faults(tmp_path: Path) -> None:
    """Over the wire a missing reading is a hole, flags and NaN arrive, and the readback is the cavity's."""
    path = scenario(
        tmp_path,
        """
rf: {settling_cycles: 1.0}
faults:
  - {fault: nan_profile, at_cycle: 4, points: [1]}
  - {fault: missing_reading, at_cycle: 6, for_cycles: 2}
""",
    )
    with machine(tmp_path, "--scenario", path, "--seed", "4", "--period", "0") as served:
        endpoint = served.ready()
        backend = open_backend(endpoint=endpoint, keys=tmp_path / "keys")
        seen = [backend.start()]
        while seen[-1].cycle < 9:
            seen.append(backend.play(seen[-1].applied_rad + 0.02))
        backend.close()
    by_cycle = {reading.cycle: reading for reading in seen}
    assert not {6, 7} & set(by_cycle)
    if 4 in by_cycle:  # the machine goes on until somebody is in control
        assert by_cycle[4].quality[1] & Quality.NOT_FINITE
        assert by_cycle[4].usable[0]
    last = seen[-1]
    behind = np.degrees(np.abs(last.readback_rad - last.applied_rad))
    assert (behind > 0.2).all()


def test_without_a_scenario_it_is_the_boosters_cavity(tmp_path: Path) -> None:
    """The offset drifts and the bunch scatters from cycle to cycle; `--cavity ideal` keeps both."""
    quick = ("--points", "4", "--slices", "64", "--seed", "4", "--cycles", "12", "--period", "0")
    spread = {}
    for cavity in ((), ("--cavity", "psb"), ("--cavity", "ideal")):
        log = tmp_path / "truth.jsonl"
        with machine(tmp_path, *quick, *cavity, "--truth-log", str(log)) as played:
            code, _, errors = played.end()
        assert (code, errors) == (0, "")
        spread[cavity[1:]] = [
            float(np.std([line[name][0] for line in truth_of(log)]))
            for name in ("offset_rad", "intensity")
        ]
    assert spread[()] == spread["psb",]
    assert max(spread["ideal",]) < 1e-12 < min(spread[()])


@pytest.mark.parametrize(
    ("period_s", "reading_at_s"), [(1.2, 0.85), (0.5, 0.15), (0.3, 0.0), (3.0, 0.85)]
)
def test_another_period_leaves_as_long_to_write(
    period_s: float, reading_at_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reading there is the scenario's 0.35 s before the next cycle, if the period is so long."""
    given: list[Any] = []
    monkeypatch.setattr("memrl_backends.twin.options.with_faults", lambda *_, **k: given.append(k))
    twin(scenario="psb", points=2, n_slices=64, period_s=period_s)
    assert given[0]["timing"].reading_at_s == pytest.approx(reading_at_s)


def test_a_loop_survives_a_rough_day(tmp_path: Path) -> None:
    """A closed loop goes through every kind of fault, ends as asked, and is back at the optimum."""
    path = scenario(
        tmp_path,
        """
beam: {filling: 0.6}
faults:
  - {fault: missing_reading, at_cycle: 20, for_cycles: 2}
  - {fault: missing_reading, at_cycle: 24, points: [2, 3]}
  - {fault: late_reading, at_cycle: 26}
  - {fault: frozen_profile, at_cycle: 28, for_cycles: 2}
  - {fault: nan_profile, at_cycle: 32, for_cycles: 2}
  - {fault: noise_burst, at_cycle: 36, for_cycles: 2}
  - {fault: dead_pickup, at_cycle: 40, for_cycles: 2, flagged: true}
  - {fault: flipped_polarity, at_cycle: 44}
  - {fault: cavity_trip, at_cycle: 48, for_cycles: 2, recovery_cycles: 2}
  - {fault: setpoint_ignored, at_cycle: 54, for_cycles: 2}
  - {fault: operator, at_cycle: 58, for_cycles: 2}
  - {fault: offset_jump, at_cycle: 62, offset_deg: 30}
""",
    )
    backend = twin(scenario=path, seed=4)
    errors: dict[int, np.ndarray] = {}
    observe = backend.observe

    def noted(timeout_s: float | None = None) -> Reading:
        reading = observe(timeout_s)
        assert reading.truth is not None
        errors[reading.cycle] = np.degrees(np.abs(reading.truth.phase_error_rad[:-1]))
        return reading

    backend.observe = noted  # type: ignore[method-assign]
    policy = OnnxPolicy.load(proportional_policy(n_slices=64, gain_rad=1.0))
    summary = Runtime(ClosedLoop(backend), policy, records=tmp_path / "run", cycles=110).run()
    assert summary.error is None
    assert summary.cycles == 110
    assert not {20, 21} & set(errors)
    jump = np.median(errors[62]) - np.median(errors[61])
    last = np.median([errors[cycle] for cycle in range(100, 110)])
    assert abs(jump) > 15.0
    assert last < 5.0


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--scenario", "rough-dax"], 2, "no scenario 'rough-dax'"),
        (["--scenario", "nowhere.yaml"], 3, "nowhere.yaml: cannot be read (no such file)"),
        (
            ["--scenario", "rough-day", "--points", "5"],
            2,
            "fault 2 (missing_reading) is at point 6",
        ),
        (["--scenario", "psb", "--fidelity", "matchd"], 2, "did you mean 'matched'?"),
        (["--scenario", "psb", "--cavity", "ideal"], 2, "leave out --cavity ideal"),
        (["--cavity", "psb", "--fidelity", "tracking"], 2, "not simulated by fidelity 'tracking'"),
        (["--cavity", "psb", "--backend", "replay"], 2, "not simulated by backend 'replay'"),
        (["--cavity", "round"], 2, 'Choose from: "psb", "ideal"'),
        (["--scenario", "cavity-trip", "--backend", "replay"], 3, "no option of backend 'replay'"),
    ],
)
def test_a_scenario_that_cannot_be_played_is_one_sentence(
    options: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which scenario, what is wrong, what there is; nothing is bound."""
    assert main(["machine", "--endpoint", LOOPBACK, *options]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
