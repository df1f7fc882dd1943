"""The backend `epics` keeps the contract over a live PV Access server on loopback."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import pytest

from memrl_ctrl.backend import BeamBackend
from memrl_ctrl.testing import BackendContract, FakeBackend

needs_p4p = pytest.mark.skipif(
    importlib.util.find_spec("p4p") is None, reason="needs the extra 'epics' (p4p)"
)


class OverLoopback(BackendContract):
    """Starts a server in a thread for every test."""

    period_s = 0.0

    @pytest.fixture(autouse=True)
    def _own_state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MEMRL_CTRL_STATE", str(tmp_path))

    def make_backend(self) -> BeamBackend:
        from memrl_backends.epics import open_backend
        from memrl_backends.epics.server import EpicsServer

        self.server: Any = EpicsServer(
            FakeBackend(points=30, n_slices=64), port=0, broadcast_port=0, period_s=self.period_s
        )
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        assert self.server.ready.wait(20)
        backend = open_backend(address=f"127.0.0.1:{self.server.port}")
        assert isinstance(backend, BeamBackend)
        return backend

    def teardown_method(self) -> None:
        self.server.stop()
        self.thread.join()


@needs_p4p
class TestLockStep(OverLoopback):
    """The machine waits for whoever is in control."""

    registered_as = "epics"


@needs_p4p
class TestPaced(OverLoopback):
    """The machine waits for nobody."""

    period_s = 0.3
