"""A replay that is to begin at a cycle which is not there says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import sample_cycle, sample_header
from memrl_ctrl.trace import CycleRecord, JournalWriter, TraceReader, read_journal
from memrl_deploy.replaying import cycle_index


def written(path: Path, cycles: list[int]) -> Path:
    header = sample_header()
    with JournalWriter(path, header) as journal:
        for cycle in cycles:
            journal.append(sample_cycle(header, cycle), durable=False)
    return path


def test_a_lost_cycle_is_told_to_be_lost(tmp_path: Path) -> None:
    """With its neighbours, not with a range that it would be in."""
    path = written(tmp_path / "trace.journal", [100, 101, 102, 103])
    with read_journal(path) as reader:
        entries = [e for e in reader.entries() if isinstance(e.record, CycleRecord)]
    data = bytearray(path.read_bytes())
    data[entries[1].offset + 100] ^= 1
    path.write_bytes(data)
    with TraceReader(path) as trace:
        with pytest.raises(TraceError, match=r"cycle 101 is lost: it goes on from 100 to 102$"):
            cycle_index(trace, 101)
        with pytest.raises(TraceError, match="has no cycle 99; it holds 100 to 103"):
            cycle_index(trace, 99)
        assert cycle_index(trace, 103) == 2


def test_a_cycle_that_never_was_is_not_called_lost(tmp_path: Path) -> None:
    """A whole trace may leave out numbers: the machine played without the loop."""
    with (
        TraceReader(written(tmp_path / "trace.journal", [100, 105])) as trace,
        pytest.raises(TraceError, match=r"has no cycle 103: it goes on from 100 to 105$"),
    ):
        cycle_index(trace, 103)
