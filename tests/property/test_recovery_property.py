"""However often a policy in trouble recovers, no point is further than the drift budget from where a person
engaged it; a replay of the run makes the same of it, to the bit."""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.backend import Reading
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader
from memrl_deploy.engaging import EngageConfig
from memrl_deploy.guard import GuardConfig
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.replaying import GUARD_KEY, replay_trace
from memrl_deploy.runtime import Runtime
from memrl_deploy.states import WRITING, State
from memrl_deploy.summary import CycleView

POINTS, SLICES = 4, 32
CYCLES = 70
ROUNDING_RAD = 1e-9
POLICY = proportional_policy(n_slices=SLICES, gain_rad=1.5)
TROUBLE, FULL = "trouble", "disk full"


@dataclass(frozen=True, kw_only=True)
class Story:
    """How fast the goal runs away, how far the points may follow, and what happens in some cycles."""

    speed_rad: float
    drift_rad: float
    engage: EngageConfig
    happens: dict[int, str]
    """By cycle, from the second on: `m` and `e` are the operator's keys."""


stories = st.builds(
    Story,
    speed_rad=st.floats(-0.6, 0.6),
    drift_rad=st.floats(0.3, 4.0),
    engage=st.builds(
        EngageConfig, after_cycles=st.integers(1, 3), blend_cycles=st.sampled_from([0, 2])
    ),
    happens=st.dictionaries(
        st.integers(2, CYCLES), st.sampled_from([TROUBLE, TROUBLE, TROUBLE, "m", "e", FULL]),
        max_size=25,
    ),
)  # fmt: skip


class Seen:
    """Keeps the cycles that a run shows."""

    def __init__(self) -> None:
        self.cycles: list[CycleView] = []

    def cycle(self, view: CycleView) -> None:
        self.cycles.append(view)

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def play(story: Story, records: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Seen, Path | None]:
    def alter(reading: Reading) -> Reading:
        runs = np.full(POINTS, story.speed_rad * reading.cycle)
        backend.disturb(offset_rad=runs, v2_factor=np.ones(POINTS))
        wrong = 2.0 if story.happens.get(reading.cycle) == TROUBLE else 0.0
        return replace(reading, readback_rad=reading.applied_rad + wrong)

    def now() -> str:
        return story.happens.get(len(seen.cycles) + 1, "")

    real, seen = os.writev, Seen()

    def write(file: int, parts: Any) -> int:
        if now() == FULL:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, parts)

    monkeypatch.setattr(os, "writev", write)
    monkeypatch.setattr(os, "fdatasync", lambda _file: None)
    limits = PhaseLimits(min_rad=-200.0, max_rad=200.0)
    backend = FakeBackend(
        points=POINTS, n_slices=SLICES, noise=0.02, offset_rad=0.3, limits=limits, alter=alter
    )
    guard = GuardConfig(drift_rad=story.drift_rad)
    runtime = Runtime(
        ClosedLoop(backend),
        OnnxPolicy.load(POLICY),
        records=records,
        cycles=CYCLES,
        view=seen,
        guard=guard,
        engage=story.engage,
        configuration={GUARD_KEY: asdict(guard)},
    )
    runtime.listen(lambda: key if (key := now()) in ("m", "e") else "")
    return seen, runtime.run().trace


@settings(max_examples=25)
@given(stories)
def test_no_recovery_leads_further_than_one_budget(story: Story) -> None:
    """Trouble at any cycles, the operator in between, cycles that cannot be recorded: all hold to it."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        seen, path = play(story, Path(folder), monkeypatch)
        assert path is not None
        with TraceReader(path) as trace:
            assert replay_trace(trace).identical
    start_rad = None
    for view in seen.cycles:
        if view.mode == State.MANUAL.value:
            start_rad = None  # whoever engages it again does so where it is then
        elif start_rad is None and view.mode in list(WRITING):
            start_rad = view.applied_rad
        elif start_rad is not None:
            assert np.abs(view.applied_rad - start_rad).max() <= story.drift_rad + ROUNDING_RAD
