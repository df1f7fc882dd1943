"""Replay of what the online loop recorded, to the bit."""

from __future__ import annotations

import errno
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.backend import Quality, Reading
from memrl_ctrl.errors import (
    TraceError,
)
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.trace import TraceReader
from memrl_deploy.guard import GuardConfig
from memrl_deploy.replaying import replay_trace, ulp_distance

from .online_loop import Collect, N, Spy, closed_loop, policy


def test_replay_is_identical(tmp_path: Path) -> None:
    """The recorded policy, run again over the recorded readings, gives the same bits."""

    def drop(reading: Reading) -> Reading:
        quality = reading.quality.copy()
        quality[reading.cycle % 8] = Quality.DEAD
        return replace(reading, quality=quality)

    summary = closed_loop(Spy(alter=drop, noise=0.02), tmp_path, cycles=12).run()
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        result = replay_trace(trace)
    assert result.identical
    assert (result.cycles, result.actions) == (12, 96)
    assert result.own_policy
    assert result.environment == {}


def test_a_way_back_by_a_turn_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guard remembers on the way back a replay builds up itself, also past a lost cycle."""
    limits = PhaseLimits(min_rad=-6.0, max_rad=1.0, step_rad=0.5)
    backend = Spy(limits=limits, offset_rad=1.5)
    runtime = closed_loop(backend, tmp_path, cycles=40, view=(view := Collect()))
    real = os.writev

    def full(file: int, parts: Any) -> int:
        if len(view.cycles) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, parts)

    monkeypatch.setattr(os, "writev", full)
    summary = runtime.run()
    assert summary.missed == {"unrecorded": 1}
    assert summary.stages["coherence"] > 0
    assert backend.submitted[-1].max() < -3.0
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical


def test_replay_of_another_policy_says_where_it_differs(tmp_path: Path) -> None:
    """Another policy is asked in open loop, and the largest difference has a place."""
    summary = closed_loop(Spy(), tmp_path, cycles=4).run()
    other = policy(proportional_policy(n_slices=N, gain_rad=0.7))
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        result = replay_trace(trace, other)
    assert not result.own_policy
    assert not result.identical
    assert result.where is not None
    assert result.largest_rad > 0.01


def test_replay_without_anything_to_replay_is_said(tmp_path: Path) -> None:
    """A trace in which no policy was asked is one clear sentence."""
    summary = closed_loop(Spy(), tmp_path, cycles=1).run()
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        trace.record = lambda index: replace(TraceReader.record(trace, index), policy=None)  # type: ignore[method-assign]
        with pytest.raises(TraceError, match="nothing to replay"):
            replay_trace(trace)


def test_ulp_distance_counts_floats() -> None:
    """Neighbouring floats are one apart, across zero too; equal bits are none apart."""
    a = np.array([1.0, -0.0, np.nan, -1.0], dtype=np.float32)
    b = np.array(
        [np.nextafter(np.float32(1), np.float32(2)), 1e-45, np.nan, -1.0], dtype=np.float32
    )
    np.testing.assert_array_equal(ulp_distance(a, b), [1, 1, 0, 0])


@pytest.mark.parametrize("earlier", [False, True])
def test_a_trace_of_a_release_that_remembered_one_reading_replays_so(
    tmp_path: Path, *, earlier: bool
) -> None:
    """Two noisy readings in turn: held where the settings say how many are remembered, else as then."""
    old: list[np.ndarray] = []

    def in_turn(reading: Reading) -> Reading:
        old.append(reading.profile)
        return replace(reading, profile=old[(reading.cycle - 1) % 2])

    settings = asdict(GuardConfig(frozen_readings=1 if earlier else 10))
    guard = GuardConfig(**settings)
    if earlier:
        del settings["frozen_readings"]
    summary = closed_loop(
        Spy(noise=0.02, alter=in_turn),
        tmp_path,
        cycles=7,
        guard=guard,
        configuration={"guard": settings},
    ).run()
    assert summary.trace is not None
    assert bool(summary.stages["health"]) is not earlier
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical
