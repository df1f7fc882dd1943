"""How memory grows is told from samples of several runs, each with a level of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memrl_deploy import memory_use
from memrl_deploy.memory_use import SETTLING_CYCLES, MemoryUse, within_runs


def samples(slope: float, levels: list[float], cycles: int = 5000) -> np.ndarray:
    """Return runs that grow by so many MB in 100,000 cycles, after they have taken 9 MB to settle."""
    count = np.arange(100, cycles + 1, 100)
    taking = np.minimum(count / 1500.0, 1.0) * 9.0
    return np.concatenate(
        [
            np.stack([np.full(count.size, run), count, level + taking + slope * count / 1e5], 1)
            for run, level in enumerate(levels)
        ]
    )


@pytest.mark.parametrize("slope", [0.0, 1.0, -3.0, 40.0])
def test_the_slope_is_that_within_the_runs(slope: float) -> None:
    """Neither what a run takes at its beginning, nor that a later one stands higher, is taken for growth."""
    assert within_runs(samples(slope, [270.0, 290.0, 281.0])) == pytest.approx(slope, abs=1e-6)


def test_short_runs_say_nothing() -> None:
    """Cycles in which a run settles do not count; where there are no others nothing is claimed."""
    assert math.isnan(within_runs(samples(1.0, [270.0], SETTLING_CYCLES)))
    assert math.isnan(within_runs(samples(1.0, [270.0, 280.0], SETTLING_CYCLES + 100)))
    assert math.isnan(within_runs(np.zeros((0, 3))))


def test_a_leak_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real memory of this process: 2 kB in a cycle are 200 MB in 100,000, and stay behind the run."""
    monkeypatch.setattr(memory_use, "SETTLING_CYCLES", 500)
    use, kept = MemoryUse(8000), []
    for _ in range(4):
        use.begin_run()
        for _ in range(2000):
            kept.append(np.ones(250))
            use.cycle()
    assert use.slope_per_100k() == pytest.approx(200.0, rel=0.3)
    assert use.growth_per_run() == pytest.approx(4.0, rel=0.3)


def test_no_leak_is_found_where_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What every cycle takes and gives back is no growth."""
    monkeypatch.setattr(memory_use, "SETTLING_CYCLES", 500)
    use = MemoryUse(8000)
    for _ in range(4):
        use.begin_run()
        for _ in range(2000):
            np.ones(30_000)
            use.cycle()
    assert abs(use.slope_per_100k()) < 10.0
    assert abs(use.growth_per_run()) < 0.5


def test_two_runs_do_not_say_how_it_goes_on() -> None:
    """The first makes what stays for all: three others are needed."""
    use = MemoryUse(0)
    for _ in range(3):
        use.begin_run()
    assert math.isnan(use.growth_per_run())
