"""The fake backend keeps the contract, in each of its shapes."""

from __future__ import annotations

from memrl_ctrl.backend import BeamBackend
from memrl_ctrl.testing import BackendContract, FakeBackend


class TestRelated(BackendContract):
    """Control points of one cycle."""

    def make_backend(self) -> BeamBackend:
        return FakeBackend(points=30, n_slices=64, noise=0.01)


class TestUnrelated(BackendContract):
    """A batch of unrelated conditions."""

    def make_backend(self) -> BeamBackend:
        return FakeBackend(points=16, n_slices=64, related=False)


class TestReadOnly(BackendContract):
    """A backend that takes no setpoints."""

    def make_backend(self) -> BeamBackend:
        return FakeBackend(points=3, n_slices=64, writable=False)
