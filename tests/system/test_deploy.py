"""`memrl-ctrl deploy` as a process of its own, against a machine over ZeroMQ in this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_backends.zmq import MachineServer, open_backend
from memrl_backends.zmq.keys import make_folder
from memrl_ctrl.backend import Receipt
from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import HDF5_NAME, TraceReader, recover, verify

N = 64
WAIT_S = 60.0
PERIOD_S = 0.5
"""Of a machine with cycles of its own: long enough that no decision is late on a busy computer."""
KILLS = 20


class Machine(FakeBackend):
    """A fake machine that remembers what it took: cycle to function."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"points": 30, "n_slices": N, "offset_rad": 0.6, **options})
        self.taken: dict[int, np.ndarray] = {}

    def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
        receipt = super().submit(phi_hw_rad, cycle, deadline_s)
        self.taken[cycle] = np.array(receipt.applied_rad)
        return receipt


class Served:
    """A machine served in a thread."""

    def __init__(self, keys: Path, *, period_s: float = 0.0, **options: Any) -> None:
        self.machine = Machine(**options)
        self.server = MachineServer(
            self.machine, endpoint="tcp://127.0.0.1:0", period_s=period_s, keys=keys
        )
        self.endpoint = str(self.server.endpoint)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    def stop(self) -> None:
        self.server.stop()
        self._thread.join()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online") / "keys"
    make_folder(folder)
    return folder


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "p.onnx"
    return write_file(path, proportional_policy(n_slices=N, gain_rad=1.5))


@pytest.fixture
def serve(keys: Path) -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def begin(**options: Any) -> Served:
        running.append(Served(keys, **options))
        return running[-1]

    yield begin
    for served in running:
        served.stop()


def arguments(command: str, *more: str | Path) -> list[str]:
    return [sys.executable, "-m", "memrl_ctrl", command, *map(str, more)]


def start(command: str, *more: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments(command, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(command: str, *more: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(command, *more), capture_output=True, text=True, timeout=WAIT_S, check=False
    )


def until(condition: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def check_against(machine: Machine, trace: TraceReader) -> None:
    """Every function that the machine took is in the trace, as it was taken."""
    written = {r.target_cycle: r.written_rad for r in trace if r.target_cycle is not None}
    for cycle, function in machine.taken.items():
        np.testing.assert_array_equal(written[cycle], function)
    assert len(written) - len(machine.taken) <= 1


def test_deploy_converges_and_replays(
    serve: Callable[..., Served], policy: Path, keys: Path, tmp_path: Path
) -> None:
    """The short command closes the loop over ZeroMQ, records, and replays to the bit."""
    served = serve()
    done = run(
        "deploy", "--policy", policy, "--backend", "zmq", "--endpoint", served.endpoint,
        "--keys", keys, "--record", tmp_path, "--cycles", "25",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The first cycle of two that have to agree is not written.
    assert done.stdout.count("written  recommended - applied") == 24
    (trace,) = tmp_path.glob("*/trace.h5")
    with TraceReader(trace) as reader:
        check_against(served.machine, reader)
        asymmetry = [np.abs(reader.record(i).measures["asymmetry"]).mean() for i in (0, 24)]
    assert asymmetry[1] < 0.05 * asymmetry[0]
    again = run("replay", trace)
    assert (again.returncode, "identical to the bit" in again.stdout) == (0, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly(
    number: signal.Signals,
    serve: Callable[..., Served],
    policy: Path,
    keys: Path,
    tmp_path: Path,
) -> None:
    """Ctrl-C and SIGTERM: exit code 0, the last function stays, the HDF5 file is there."""
    served = serve(period_s=PERIOD_S)
    child = start(
        "deploy", "--policy", policy, "--endpoint", served.endpoint, "--keys", keys,
        "--record", tmp_path, "--quiet",
    )  # fmt: skip
    until(lambda: len(served.machine.taken) >= 3, child)
    child.send_signal(number)
    out, error = child.communicate(timeout=WAIT_S)
    assert child.returncode == 0, error
    assert f"stopped by {number.name}" in out
    (trace,) = tmp_path.glob("*/trace.h5")
    assert verify(trace).whole
    last = served.machine.taken[max(served.machine.taken)]
    served.stop()
    np.testing.assert_array_equal(served.machine.observe().applied_rad, last)
    with TraceReader(trace) as reader:
        check_against(served.machine, reader)


def test_sigkill_loses_at_most_the_cycle_in_flight(
    serve: Callable[..., Served], policy: Path, keys: Path, tmp_path: Path
) -> None:
    """Killed at random instants: whatever the machine took is in the recovered trace."""
    generator = np.random.default_rng(5)
    for kill in range(KILLS):
        served = serve()
        records = tmp_path / str(kill)
        child = start(
            "deploy", "--policy", policy, "--endpoint", served.endpoint, "--keys", keys,
            "--record", records, "--quiet",
        )  # fmt: skip
        until(lambda machine=served.machine: len(machine.taken) >= 1, child)
        time.sleep(float(generator.uniform(0.0, 0.15)))
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        served.stop()
        (folder,) = records.iterdir()
        recovery = recover(folder)
        assert recovery.hdf5 == folder / HDF5_NAME
        with TraceReader(recovery.hdf5) as trace:
            check_against(served.machine, trace)


def test_a_machine_that_goes_away_is_said(
    serve: Callable[..., Served], policy: Path, keys: Path, tmp_path: Path
) -> None:
    """The server ends in the middle: one sentence, exit code 5, and a readable trace."""
    served = serve(period_s=PERIOD_S)
    child = start(
        "deploy", "--policy", policy, "--endpoint", served.endpoint, "--keys", keys,
        "--record", tmp_path, "--quiet",
    )  # fmt: skip
    until(lambda: len(served.machine.taken) >= 2, child)
    served.stop()
    _, error = child.communicate(timeout=WAIT_S)
    assert child.returncode == 5
    assert error.startswith("memrl-ctrl: ")
    assert "Traceback" not in error
    (trace,) = tmp_path.glob("*/trace.h5")
    assert verify(trace).whole


def test_mistakes_get_one_sentence_and_write_nothing(
    serve: Callable[..., Served], policy: Path, keys: Path, tmp_path: Path
) -> None:
    """Wrong port, wrong policy file, policy that does not fit: said, and the machine is left alone."""
    served = serve()
    junk = tmp_path / "junk.onnx"
    junk.write_text("no policy")
    wide = write_file(tmp_path / "wide.onnx", proportional_policy(n_slices=2 * N))
    records = tmp_path / "records"
    base = ["--endpoint", served.endpoint, "--keys", keys, "--record", records]
    wrong_port = ["--endpoint", "tcp://127.0.0.1:9", *base[2:]]
    for options, code, words in (
        (["--policy", policy, *wrong_port], 5, "127.0.0.1:9"),
        (["--policy", junk, *base], 3, "not a usable ONNX file"),
        (["--policy", tmp_path / "absent.onnx", *base], 3, "no such file"),
        (["--policy", wide, *base], 6, f"at most {N} slices"),
        (["--policy", policy, *base, "--cycles", "0"], 2, "--cycles must be at least 1"),
        (["--policy", policy, *base, "--set", "colour=blue"], 2, "colour"),
        (["--policy", policy, *base, "--set", "colour"], 2, "NAME=VALUE"),
    ):
        done = run("deploy", *options)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert done.stderr.startswith("memrl-ctrl: ")
        assert done.stderr.count("\n") == 1
    assert served.machine.taken == {}
    assert not records.exists()


def test_a_run_ends_cleanly_when_its_reader_has_gone(
    serve: Callable[..., Served], policy: Path, keys: Path, tmp_path: Path
) -> None:
    """`deploy … | head -1`: no message, exit code 0, the trace whole, the lease given back."""
    served = serve(period_s=PERIOD_S)
    child = start(
        "deploy", "--policy", policy, "--endpoint", served.endpoint, "--keys", keys,
        "--record", tmp_path,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    assert any("written" in line for line in child.stdout)  # the first decisions may come late
    child.stdout.close()
    assert (child.wait(WAIT_S), child.stderr.read()) == (0, "")
    child.stderr.close()
    (trace,) = tmp_path.glob("*/trace.h5")
    assert verify(trace).whole
    with TraceReader(trace) as reader:
        assert reader.report.end is not None
        assert reader.report.end.reason == "nobody reads the output any more"
    with closing(open_backend(endpoint=served.endpoint, keys=keys, name="next")) as next_one:
        next_one.start()  # takes the lease, which a dead client would hold for seconds
