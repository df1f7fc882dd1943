"""The day that `bench trace` opens is a trace like any other: its rows are those that were recorded."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from memrl_ctrl.bench import trace as bench
from memrl_ctrl.trace import TraceReader
from memrl_ctrl.trace.columns import PROFILE_FIRST


def test_a_day_has_the_recorded_cycles_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every column of any cycle of the day is that of its source, coded or not, but for its number."""
    monkeypatch.setattr(bench, "SOURCE_CYCLES", 64)
    monkeypatch.setattr(bench, "LARGE_CHUNK_ROWS", 64)
    monkeypatch.setattr(bench, "DAY_CYCLES", 200)
    source = bench._day_source(tmp_path / "run", full=False)
    day = bench._day(source, tmp_path / "day.h5")
    with h5py.File(day) as file:
        assert (file[PROFILE_FIRST][:] >= 0).all()
    with TraceReader(source) as once, TraceReader(day) as often:
        assert len(often) == 200
        assert often.names == once.names
        assert often.cycles.tolist() == list(range(200))
        for name in set(once.names) - {"cycles/cycle"}:
            for index in (0, 63, 64, 65, 130, 199):
                found, wanted = often.array(name, index), once.array(name, index % 64)
                assert found.tobytes() == wanted.tobytes(), (name, index)
    assert bench._opened_s(day) > 0.0
