"""The machine as a process of its own: how it begins, is driven, is lost and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from memrl_backends.zmq import ZmqBackend, client, open_backend
from memrl_ctrl.backend import BeamBackend, BeamSource
from memrl_ctrl.cli import main
from memrl_ctrl.errors import (
    ConnectionFailed,
    MachineError,
)
from memrl_ctrl.registry import open_source

from .machine_process import LOOPBACK, Process, process


def test_a_machine_is_driven_and_stopped(tmp_path: Path) -> None:
    """The short command makes its keys, takes setpoints, writes the truth aside, and ends cleanly."""
    truth = tmp_path / "truth.jsonl"
    with process(tmp_path, "--period", "0", "--truth-log", str(truth)) as machine:
        endpoint = machine.ready()
        backend = open_backend(endpoint=endpoint, keys=machine.keys)
        assert isinstance(backend, BeamBackend)
        reading = backend.start()
        assert reading.truth is None
        wanted = reading.applied_rad + 0.1
        after = backend.play(wanted)
        assert after.cycle == reading.cycle + 1
        np.testing.assert_array_equal(after.applied_rad, wanted)
        code, out, _ = machine.end(signal.SIGTERM)
        assert code == 0
        assert re.search(r"psb stopped: played \d+ cycles .* took 1 functions", out)
        with pytest.raises(ConnectionFailed, match=r"has ended: it was stopped"):
            backend.observe()
        backend.close()
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    assert [line["cycle"] for line in lines] == list(range(1, len(lines) + 1))
    played = lines[after.cycle - 1]
    assert played["phi_hw_rad"] == wanted.tolist()
    assert len(played["phase_error_rad"]) == 30
    turn = np.array(played["phi2_rad"]) + played["offset_rad"] - np.array(played["phi_hw_rad"])
    np.testing.assert_allclose(np.cos(turn), 1.0)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has this priority")
@pytest.mark.parametrize(("options", "standing_back"), [(["--low-priority"], 1), ([], 0)])
def test_only_the_simulation_stands_back(
    tmp_path: Path, options: list[str], standing_back: int
) -> None:
    """With `--low-priority` the thread that plays leaves the cores to others; those that answer do not."""
    with process(tmp_path, "--period", "0", *options) as machine:
        backend = open_backend(endpoint=machine.ready(), keys=machine.keys)
        assert isinstance(backend, BeamBackend)
        reading = backend.start()
        backend.play(reading.applied_rad)
        threads = os.listdir(f"/proc/{machine.pid}/task")
        policies = {int(thread): os.sched_getscheduler(int(thread)) for thread in threads}
        backend.close()
    assert list(policies.values()).count(os.SCHED_IDLE) == standing_back
    assert policies[machine.pid] == os.SCHED_OTHER


def test_a_machine_that_is_killed_is_noticed(tmp_path: Path) -> None:
    """SIGKILL in the middle of a run is one sentence at the client, from every call."""
    with process(tmp_path, "--period", "0") as machine:
        backend = open_backend(endpoint=machine.ready(), keys=machine.keys)
        assert isinstance(backend, ZmqBackend)
        reading = backend.start()
        machine.end(signal.SIGKILL)
        with pytest.raises(ConnectionFailed, match="has gone: the connection broke"):
            backend.play(reading.applied_rad)
        with pytest.raises(ConnectionFailed, match="has gone"):
            backend.observe()
        backend.close()


def test_a_machine_that_is_frozen_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that keeps its connection but says nothing is gone after some time."""
    monkeypatch.setattr(client, "SILENCE_S", 1.0)
    with process(tmp_path, "--period", "30") as machine:
        source = open_backend(endpoint=machine.ready(), keys=machine.keys, read_only=True)
        os.kill(machine.pid, signal.SIGSTOP)
        try:
            with pytest.raises(ConnectionFailed, match=r"nothing was heard .* for 1\.\d s"):
                source.observe()
        finally:
            os.kill(machine.pid, signal.SIGCONT)
        source.close()


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    """A second machine on the same port says so and ends with exit code 2, playing nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = Process(tmp_path, "--endpoint", endpoint).end(None)
    assert code == 2
    assert out == ""
    assert err.startswith(f"memrl-ctrl: {endpoint} is in use: stop what runs there")
    assert len(err.strip().splitlines()) == 1


def test_a_count_of_cycles_ends_the_machine(tmp_path: Path) -> None:
    """`--cycles` plays exactly so many and ends by itself."""
    code, out, _ = Process(
        tmp_path, "--endpoint", LOOPBACK, "--cycles", "3", "--period", "0", "--quiet"
    ).end(None)
    assert code == 0
    assert "played 3 cycles" in out


def test_a_client_hears_that_all_cycles_are_played(tmp_path: Path) -> None:
    """A machine that ends after its count of cycles says so; it was not stopped."""
    with process(tmp_path, "--cycles", "10", "--period", "0.3") as machine:
        source = open_source("zmq", endpoint=machine.ready(), keys=machine.keys)
        try:
            with pytest.raises(MachineError, match="ended: it has played its 10 cycles"):
                _observe(source, 20)
        finally:
            source.close()


def _observe(source: BeamSource, count: int) -> None:
    for _ in range(count):
        source.observe(20.0)


def test_the_machine_ends_cleanly_when_its_reader_has_gone(tmp_path: Path) -> None:
    """`memrl-ctrl machine | head -1`: exit code 0, no message, and clients are told goodbye."""
    with process(tmp_path, "--period", "0.2") as machine:
        source = open_source("zmq", endpoint=machine.ready(), keys=machine.keys)
        try:
            source.observe(20.0)
            assert machine.leave() == "0: "
            with pytest.raises(MachineError, match="ended: it was stopped"):
                _observe(source, 10)
        finally:
            source.close()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_ends_the_machine_unless_nohup_said_otherwise(
    tmp_path: Path, ignored: bool
) -> None:
    """SIGHUP ends it as Ctrl-C does; where it was ignored from the start it stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with process(tmp_path, "--period", "0.2") as machine:
            machine.ready()
            os.kill(machine.pid, signal.SIGHUP)
            time.sleep(0.5)
            code, out, errors = machine.end(signal.SIGINT if ignored else None)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (code, errors) == (0, "")
    assert "stopped: played" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cycles", "-1"], "--cycles must be at least 1, not -1"),
        (["--cycles", "0"], "--cycles must be at least 1, not 0"),
        (["--cycles", "1.5"], "1.5 is no integer"),
        (["--offset-deg", "nan"], "--offset-deg must be a number of degrees or 'random'"),
        (["--offset-deg", "much"], "--offset-deg must be a number of degrees or 'random'"),
        (["--period", "-1"], "--period must be between 0 and 86400 s"),
        (["--idle", "nan"], "--idle must be between 0 and 86400 s"),
        (["--seed", "-1"], "--seed must be between 0"),
        (["--intensity", "1e20"], "intensity must be 0 to 1e+15 protons"),
        (["--truth-log", "/proc/new/x"], "/proc/new/x: cannot be written"),
    ],
)
def test_a_machine_that_cannot_be_meant_is_one_sentence(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which option, what is allowed, what was given; nothing is bound and nothing played."""
    assert main(["machine", "--endpoint", LOOPBACK, *options]) in (2, 3)
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_the_truth_log_gets_its_folders(tmp_path: Path) -> None:
    """A truth log in a folder that does not exist yet is made with it."""
    truth = tmp_path / "new" / "truth.jsonl"
    with process(tmp_path, "--period", "0", "--cycles", "2", "--truth-log", str(truth)) as machine:
        assert machine.end(None)[0] == 0
    assert len(truth.read_text().splitlines()) == 2
