"""A client in another language, written from docs/protocol.md, against a live machine."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memrl_backends.zmq import MachineServer, keyring
from memrl_backends.zmq.keys import make_folder
from memrl_ctrl.backend import FloatArray, Receipt
from memrl_ctrl.testing import FakeBackend

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "examples" / "foreign-client"
WAIT_S = 60.0

NODE, NPM = shutil.which("node"), shutil.which("npm")
INSTALL_S = 120.0
pytestmark = [
    pytest.mark.skipif(NODE is None, reason="Node is not installed"),
    pytest.mark.usefixtures("packages"),
]


@pytest.fixture(scope="module")
def packages() -> None:
    """The client's packages, installed where they are not; skipped with npm's reason where they cannot be."""
    lock = Path(tempfile.gettempdir()) / f"memrl-ctrl-foreign-client-{os.getuid()}.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # tests that run side by side install once
        if (CLIENT / "node_modules" / ".package-lock.json").is_file():  # npm writes it last
            return
        if NPM is None:
            pytest.skip("the npm package zeromq is not installed, and neither is npm")
        try:
            done = subprocess.run(
                [NPM, "ci", "--no-audit", "--no-fund", "--fetch-retries=1"], cwd=CLIENT,
                capture_output=True, text=True, timeout=INSTALL_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm ci in {CLIENT} did not end within {INSTALL_S:g} s")
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line]
            pytest.skip(f"npm ci in {CLIENT} failed: {' '.join(said[:3]) or 'no reason given'}")


class Machine(FakeBackend):
    """Remembers what it took."""

    def __init__(self) -> None:
        super().__init__(points=30, n_slices=64)
        self.taken: list[FloatArray] = []

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        self.taken.append(np.array(phi_hw_rad))
        return super().submit(phi_hw_rad, cycle, deadline_s)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Machine, str, Path]]:
    make_folder(tmp_path / "keys")
    machine = Machine()
    server = MachineServer(
        machine, endpoint="tcp://127.0.0.1:0", period_s=0.3, keys=tmp_path / "keys"
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    yield machine, str(server.endpoint), tmp_path / "keys"
    server.stop()
    thread.join()


def node(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NODE), str(CLIENT / script), *map(str, arguments)],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip


def test_it_reads_cycles_and_plays_a_setpoint(served: tuple[Machine, str, Path]) -> None:
    """As an observer it sees cycle after cycle; as a controller its function is taken, to the bit."""
    machine, endpoint, keys = served
    done = node("main.mjs", endpoint, keys, "4", "0.125")
    assert done.returncode == 0, done.stderr
    hello, *cycles, receipt = [json.loads(line) for line in done.stdout.splitlines()]
    assert hello == {"machine": machine.description.name, "role": "observer", "mode": "armed"}
    numbers = [line["cycle"] for line in cycles]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert all(line["shape"] == [30, 64] and line["missed"] == 0 for line in cycles)
    assert receipt["applied"] == [0.125] * 30
    assert [function.tolist() for function in machine.taken] == [[0.125] * 30]


def test_a_refusal_reaches_it_by_name(served: tuple[Machine, str, Path]) -> None:
    """What breaks a limit ends with the typed reason, and plays nothing."""
    machine, endpoint, keys = served
    done = node("main.mjs", endpoint, keys, "1", "3.0")
    assert done.returncode == 1
    assert done.stderr.startswith("step: point 0 would move by 3.0000 rad")
    assert machine.taken == []


def test_a_key_that_is_not_let_in_is_named(served: tuple[Machine, str, Path]) -> None:
    """It watches the handshake, so that a wrong key is no silence."""
    _, endpoint, keys = served
    (keys / "observer.key").unlink()
    (keys / "observer.pub").unlink(missing_ok=True)
    keyring.new_key(keys, "observer", keyring.Role.OBSERVER)
    done = node("main.mjs", endpoint, keys)
    assert done.returncode == 1
    assert "does not accept this key" in done.stderr


def test_it_reads_the_vectors() -> None:
    """Every test vector says the same on the other side."""
    done = node("vectors.mjs", ROOT / "docs" / "protocol" / "vectors")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["wrong"] == 0
