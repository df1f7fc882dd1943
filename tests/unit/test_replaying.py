"""Replay repeats a run to the bit, from any cycle, and says how far it is off where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.errors import TraceError, UsageError
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import CycleRecord, TraceReader
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.replaying import replay_trace
from memrl_deploy.runtime import Runtime
from memrl_deploy.statistics import of_draws

N, CYCLES = 64, 12
pytest.importorskip("onnx", reason="policies are written with onnx (extra 'train')")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trace of a run in closed loop."""
    backend = FakeBackend(points=8, n_slices=N, noise=0.02)
    policy = OnnxPolicy.load(proportional_policy(n_slices=N))
    records = tmp_path_factory.mktemp("replay")
    summary = Runtime(ClosedLoop(backend), policy, records=records, cycles=CYCLES).run()
    assert summary.error is None
    assert summary.trace is not None
    return summary.trace


def altered(trace: TraceReader, index: int, change: dict[str, np.ndarray]) -> None:
    """Let a reader give a cycle's policy call with other arrays."""
    real = trace.record

    def record(place: int) -> CycleRecord:
        found = real(place)
        if place != index or found.policy is None:
            return found
        return replace(found, policy=replace(found.policy, **change))  # type: ignore[arg-type]

    trace.record = record  # type: ignore[method-assign]


def test_a_replay_begins_at_any_cycle(run: Path) -> None:
    """From each cycle on, with the memory that stands in it, every action is the same."""
    with TraceReader(run) as trace:
        for index, cycle in enumerate(trace.cycles.tolist()):
            result = replay_trace(trace, from_cycle=cycle)
            assert result.identical
            assert result.cycles == CYCLES - index
            assert result.resumed == (1 if index else 0)
        with pytest.raises(TraceError, match="has no cycle 99999; it holds"):
            replay_trace(trace, from_cycle=99999)


def test_another_policy_cannot_begin_in_the_middle(run: Path) -> None:
    """Its memory at that cycle was never recorded, and that is said."""
    other = OnnxPolicy.load(proportional_policy(n_slices=N, gain_rad=0.7))
    with TraceReader(run) as trace, pytest.raises(UsageError, match="leave out --from-cycle"):
        replay_trace(trace, other, from_cycle=int(trace.cycles[3]))


def test_differences_are_counted_in_ulp_and_listed(run: Path) -> None:
    """One action moved by three units in the last place: one row, its class, its place."""
    with TraceReader(run) as trace:
        step = trace.record(5).policy
        assert step is not None
        moved = step.action.copy()
        for _ in range(3):
            moved[2, 0] = np.nextafter(moved[2, 0], np.float32(np.inf))
        altered(trace, 5, {"action": moved})
        result = replay_trace(trace)
        cycle = int(trace.cycles[5])
    assert not result.identical
    assert (result.different, result.largest_ulp, result.where) == (1, 3, (cycle, 2))
    (worst,) = result.worst
    assert (worst.cycle, worst.points, worst.largest_ulp, worst.point) == (cycle, 1, 3, 2)
    assert result.ulp_counts == {"0": 8 * CYCLES - 1, "2 to 4": 1}


def test_a_lost_memory_costs_one_comparison(run: Path) -> None:
    """Behind a lost cycle whose memory went with it, the replay goes on from what came out."""
    from memrl_deploy import replaying

    with TraceReader(run) as trace:
        record = trace.record(4)
        assert record.policy is not None
        policy = replaying.recorded_policy(trace)
        replaying._go_on_behind(policy, record.policy)
        after = trace.record(5).policy
        assert after is not None
        for name, array in policy.memory.items():
            np.testing.assert_array_equal(array, after.memory_in[name])
    assert not replaying._whole({"h": np.full((3, 2), np.nan, dtype=np.float32)})
    assert replaying._whole({"h": np.zeros((3, 2), dtype=np.float32)})


def test_an_interval_of_paired_draws_covers_the_mean() -> None:
    """Draws and blocks of cycles give an interval around the mean, narrower for calmer figures."""
    rng = np.random.default_rng(0)
    noisy = of_draws(0.1 + 0.05 * rng.normal(size=(20, 40)), rng)
    calm = of_draws(0.1 + 0.005 * rng.normal(size=(20, 40)), rng)
    for found in (noisy, calm):
        assert found.low < found.value < found.high
        assert found.low < 0.1 < found.high
    assert calm.high - calm.low < 0.3 * (noisy.high - noisy.low)
