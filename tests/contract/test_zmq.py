"""The backend `zmq` keeps the contract over a live server on loopback."""

from __future__ import annotations

import dataclasses
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from memrl_backends.zmq import MachineServer, open_backend
from memrl_backends.zmq.client import ZmqBackend
from memrl_backends.zmq.keys import make_folder
from memrl_ctrl.backend import BeamBackend
from memrl_ctrl.testing import BackendContract, FakeBackend


class OverLoopback(BackendContract):
    """Starts a server in a thread for every test."""

    period_s = 0.0

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.keys = tmp_path / "keys"
        make_folder(self.keys)

    def make_backend(self) -> BeamBackend:
        self.server = MachineServer(
            FakeBackend(points=30, n_slices=64),
            endpoint="tcp://127.0.0.1:0",
            period_s=self.period_s,
            keys=self.keys,
        )
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        backend = open_backend(endpoint=str(self.server.endpoint), keys=self.keys)
        assert isinstance(backend, BeamBackend)
        return backend

    def teardown_method(self) -> None:
        self.server.stop()
        self.thread.join()


class TestLockStep(OverLoopback):
    """The machine waits for whoever is in control."""

    registered_as = "zmq"

    def test_a_receipt_tells_when_its_commit_was_sent(self) -> None:
        """Between the call and the answer; it is no part of what the receipt says."""
        with closing(self.make_backend()) as backend:
            reading = backend.start()
            began_ns = time.monotonic_ns()
            receipt = backend.submit(reading.applied_rad, reading.cycle + 1, 5.0)
            assert began_ns < receipt.sent_ns < receipt.committed_ns
            assert dataclasses.replace(receipt, sent_ns=0) == receipt

    def test_the_machines_clock_is_followed(self) -> None:
        """It drifts by 0.4 s from one function to the next: no deadline of a second is missed for that."""
        with closing(self.make_backend()) as backend:
            assert isinstance(backend, ZmqBackend)
            reading = backend.start()
            for _ in range(6):
                backend._link._clock_offset_ns -= 400_000_000
                backend.submit(reading.applied_rad, reading.cycle + 1, 1.0)
                assert abs(backend._link.server_clock_ns() - time.monotonic_ns()) < 100_000_000
                reading = backend.observe()


class TestPaced(OverLoopback):
    """The machine waits for nobody."""

    period_s = 0.15
