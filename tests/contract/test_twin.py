"""The twin keeps the contract whatever is imperfect about the machine and its sensors."""

from __future__ import annotations

from memrl_backends.twin import open_backend, with_faults
from memrl_backends.twin.faults import (
    CavityTrip,
    DeadPickup,
    FrozenProfile,
    LateReading,
    MissingReading,
    NanProfile,
    NoiseBurst,
    OffsetJump,
)
from memrl_ctrl.backend import BeamBackend
from memrl_ctrl.testing import BackendContract, FakeBackend


class TestCavity(BackendContract):
    """The Booster's cavity with its low-level RF, errors and scatter."""

    registered_as = "twin"

    def make_backend(self) -> BeamBackend:
        return open_backend(scenario="psb", points=6, n_slices=64, seed=1)


class TestRows(BackendContract):
    """Unrelated conditions whose sensors fail at random, as in training."""

    def make_backend(self) -> BeamBackend:
        return open_backend(scenario="bad-sensors", rows=8, n_slices=64, seed=1)


class TestAlongTheCycle(BackendContract):
    """Bunches on their way along a cycle, with faults."""

    def make_backend(self) -> BeamBackend:
        return open_backend(
            scenario="bad-sensors", rows=4, along_cycle=True, points=4, n_slices=64, seed=1
        )


class TestEverythingWrong(BackendContract):
    """Every fault that takes nothing from whoever writes, most of them all the time."""

    def make_backend(self) -> BeamBackend:
        faults = [
            MissingReading(at_cycle=(2,), every_cycles=3),
            LateReading(probability=0.5),
            FrozenProfile(probability=0.3, for_cycles=2),
            NanProfile(probability=0.5, share=0.3),
            NoiseBurst(probability=0.5),
            DeadPickup(probability=0.3, flagged=True),
            OffsetJump(at_cycle=(2,)),
            CavityTrip(at_cycle=(3,), for_cycles=2),
        ]
        return with_faults(FakeBackend(points=5, n_slices=32), faults, seed=4)
