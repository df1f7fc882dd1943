"""The simulation keeps the contract, as a cycle and as a batch, in each fidelity."""

from __future__ import annotations

import pytest

from memrl_backends.blond import open_backend
from memrl_ctrl.backend import BeamBackend
from memrl_ctrl.testing import BackendContract


class TestCycle(BackendContract):
    """The control points of a program's cycle."""

    registered_as = "blond"

    def make_backend(self) -> BeamBackend:
        return open_backend(program="psb-2gev", n_slices=64, seed=1)


class TestBatch(BackendContract):
    """Unrelated conditions of a machine."""

    def make_backend(self) -> BeamBackend:
        return open_backend(machine="psb", rows=32, n_slices=64, seed=1)


class TestDriftingOffset(BackendContract):
    """An offset that drifts and jitters."""

    def make_backend(self) -> BeamBackend:
        return open_backend(n_slices=64, seed=1, offset_jitter_deg=2.0, offset_drift_deg=1.0)


class TestAlongTheCycle(BackendContract):
    """Bunches on their way along a cycle, each at a control point of its own."""

    def make_backend(self) -> BeamBackend:
        return open_backend(
            program="psb-2gev",
            points=4,
            along_cycle=True,
            rows=6,
            n_slices=64,
            seed=1,
            offset_jitter_deg=2.0,
            offset_drift_deg=1.0,
        )


@pytest.mark.slow
class TestBlondMatching(BackendContract):
    """BLonD's own matching."""

    def make_backend(self) -> BeamBackend:
        pytest.importorskip("blond", reason="needs the extra 'blond'")
        return open_backend(points=2, n_slices=64, seed=1, fidelity="blond")


class TestTracking(BackendContract):
    """A cycle tracked turn by turn, in short strides."""

    def make_backend(self) -> BeamBackend:
        pytest.importorskip("blond", reason="needs the extra 'blond'")
        return open_backend(
            points=2, n_slices=64, seed=1, fidelity="tracking", macroparticles=500, stride=20
        )


@pytest.mark.slow
class TestTrackedRows(BackendContract):
    """Unrelated conditions, each tracked."""

    def make_backend(self) -> BeamBackend:
        pytest.importorskip("blond", reason="needs the extra 'blond'")
        return open_backend(
            rows=3, n_slices=64, seed=1, fidelity="tracking", macroparticles=500, turns=50
        )
