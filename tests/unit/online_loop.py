"""What the tests of the online loop share: machines and views that keep what they see, policies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from memrl_ctrl.backend import Reading, Receipt
from memrl_ctrl.errors import (
    ReadingTimeout,
)
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.testing import FakeBackend
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Runtime
from memrl_deploy.summary import CycleView

N = 64
SMALL_OFFSET = 0.4
PROPORTIONAL = proportional_policy(n_slices=N, gain_rad=1.5)


class Spy(FakeBackend):
    """Counts what is submitted; `fail` may raise before it is taken."""

    def __init__(
        self, fail: Callable[[int], Exception | None] | None = None, **options: Any
    ) -> None:
        super().__init__(**{"n_slices": N, "points": 8, "offset_rad": SMALL_OFFSET, **options})
        self.submitted: list[np.ndarray] = []
        self.fail = fail

    def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
        error = self.fail(len(self.submitted)) if self.fail else None
        self.submitted.append(np.array(phi_hw_rad))
        if error is not None:
            raise error
        return super().submit(phi_hw_rad, cycle, deadline_s)


class Looker:
    """A source without any way to write."""

    def __init__(self, readings: list[Reading], machine: FakeBackend) -> None:
        self.description = machine.description
        self._readings = iter(readings)

    def observe(self, timeout_s: float | None = None) -> Reading:
        del timeout_s
        reading = next(self._readings, None)
        if reading is None:
            raise ReadingTimeout("no more readings")
        return reading

    def close(self) -> None:
        pass


class Collect:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.cycles: list[CycleView] = []
        self.notes: list[str] = []

    def cycle(self, view: CycleView) -> None:
        self.cycles.append(view)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def close(self) -> None:
        pass


def policy(data: bytes = PROPORTIONAL) -> OnnxPolicy:
    return OnnxPolicy.load(data)


def closed_loop(backend: FakeBackend, records: Path, **options: Any) -> Runtime:
    return Runtime(
        ClosedLoop(backend), options.pop("policy", None) or policy(), records=records, **options
    )
