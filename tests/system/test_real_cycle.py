"""The main job on a real cycle: import, machine in a process of its own, deploy, shadow, trace, replay."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_ctrl.trace import TraceReader

EXPORT = Path(__file__).parents[3] / "shared" / "data" / "psb_isolde"
pytestmark = pytest.mark.skipif(
    not EXPORT.is_dir(), reason="the real controls-system export (../shared/data) is not here"
)


def command(*arguments):
    return [sys.executable, "-m", "memrl_ctrl", *map(str, arguments)]


def run(*arguments, expect=0, **options):
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=240, check=False, **options
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    out = tmp_path_factory.mktemp("program") / "isolde.yaml"
    run("program", "import", EXPORT, "--out", out)
    run("program", "check", out)
    return out


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Keys of this test alone."""
    monkeypatch.setenv("MEMRL_CTRL_STATE", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def machine(program, state):
    """A machine that plays the real cycle, its endpoint, and its truth log.

    It waits for whoever is in control: with a period of 50 ms a busy computer is late, rightly so (the time
    to decide ends when the next cycle begins), and three in a row end the run.
    """
    truth = state / "truth.jsonl"
    arguments = command(
        "machine", "--program", program, "--endpoint", "tcp://127.0.0.1:0", "--period", 0, "--seed", 4,
        "--offset-deg", 40, "--noise", 0.005, "--emittance-evs", 1.2, "--intensity", 2e12,
        "--truth-log", truth, "--slices", 256,
    )  # fmt: skip
    log = (state / "machine.log").open("w")
    process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline, ready = time.monotonic() + 90, None
        while ready is None and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
            ready = re.search(r"ready at (tcp://\S+):", (state / "machine.log").read_text())
        assert ready, (state / "machine.log").read_text()
        yield ready[1], truth
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def newest(records):
    return sorted(records.glob("*/trace.h5"))[-1]


def test_real_cycle_is_controlled_recorded_and_replayed(machine, state):
    """A simple policy brings the real cycle nearer its optimum; the trace replays to the bit."""
    endpoint, truth = machine
    policy = state / "p.onnx"
    write_file(
        policy,
        proportional_policy(n_slices=128, gain_rad=0.5, max_step_rad=math.radians(30.0)),
    )
    records = state / "records"
    run(
        "deploy", "--policy", policy, "--backend", "zmq", "--endpoint", endpoint, "--cycles", 25,
        "--record", records,
    )  # fmt: skip
    trace = newest(records)
    assert "identical" in run("replay", trace)
    run("trace", "verify", trace)
    with TraceReader(trace) as reader:
        first, last = reader.array("cycle")[[0, -1]]
        recorded = len(reader)
    assert recorded == 25
    errors = {
        row["cycle"]: np.abs(np.degrees(np.array(row["phase_error_rad"], dtype=float)))
        for row in map(json.loads, truth.read_text().splitlines())
    }
    assert np.nanmedian(errors[int(last)]) < 0.5 * np.nanmedian(errors[int(first)])

    run(
        "shadow", "--policy", policy, "--backend", "zmq", "--endpoint", endpoint, "--cycles", 5,
        "--record", state / "shadowed",
    )  # fmt: skip
    with TraceReader(newest(state / "shadowed")) as reader:
        assert len(reader) == 5
        applied = reader.array("applied_rad")
    assert np.array_equal(applied, np.broadcast_to(applied[0], applied.shape))
