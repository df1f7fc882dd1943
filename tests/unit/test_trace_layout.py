"""A machine or a policy that changes within a run ends it with a sentence, not with a traceback."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.backend import Reading
from memrl_ctrl.errors import MachineError, MemrlError, MismatchError
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.testing.traces import sample_cycle, sample_header
from memrl_ctrl.trace import CycleRecord, JournalWriter, verify
from memrl_ctrl.trace.layout import LayoutError

from .online_loop import N, closed_loop


def renamed(record: CycleRecord, count: int) -> CycleRecord:
    """The same cycle with so many memories."""
    if record.policy is None:
        raise ValueError("a cycle with a policy is needed")
    memory = {f"m{i}": np.zeros((3, 1), dtype=np.float32) for i in range(count)}
    step = dataclasses.replace(record.policy, memory_in=memory, memory_out=memory)
    return dataclasses.replace(record, policy=step)


@pytest.mark.parametrize(
    ("points", "n_slices", "said"),
    [
        (4, 16, r"profile of cycle 101 is float32 \[4, 16\]; in this run it is float32 \[3, 16\]"),
        (3, 32, r"profile of cycle 101 is float32 \[3, 32\]; in this run it is float32 \[3, 16\]"),
    ],
)
def test_another_shape_is_a_sentence(tmp_path: Path, points: int, n_slices: int, said: str) -> None:
    """Another number of points or slices says what was, what is, and what to do; nothing is written."""
    header = sample_header()
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        journal.append(sample_cycle(header, 100))
        size = journal.size_bytes
        with pytest.raises(MemrlError, match=said + ".* begin a new run$") as caught:
            journal.append(sample_cycle(sample_header(points, n_slices), 101))
        assert isinstance(caught.value, MismatchError)
        assert caught.value.exit_code == 6
        assert journal.size_bytes == size
        journal.append(sample_cycle(header, 102))
    assert verify(tmp_path / "trace.journal").cycles == 2


def test_other_memories_and_too_many_are_sentences(tmp_path: Path) -> None:
    """Memories that are not those of the run, and more than a record can hold, are named."""
    header = sample_header()
    record = sample_cycle(header, 100)
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        with pytest.raises(LayoutError, match=r"has 94 arrays, 80 of them memories .* at most 64"):
            journal.append(renamed(record, 40))
        journal.append(record)
        with pytest.raises(LayoutError, match=r"has the memories .*; earlier ones of the run have"):
            journal.append(renamed(record, 2))


def test_a_machine_that_changes_its_slices_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    """The run ends with what changed and exit code 5, and what was recorded until then is whole."""

    def doubled(reading: Reading) -> Reading:
        if reading.cycle < 6:
            return reading
        return dataclasses.replace(reading, profile=np.repeat(reading.profile, 2, axis=1))

    backend = FakeBackend(points=3, n_slices=N, offset_rad=0.1, alter=doubled)
    summary = closed_loop(backend, tmp_path, cycles=12).run()
    assert isinstance(summary.error, MachineError)
    assert summary.error.exit_code == 5
    assert "profile of cycle 6 as float32 [3, 128], and had described itself" in str(summary.error)
    assert summary.trace is not None
    report = verify(summary.trace)
    assert (report.whole, report.last_cycle) == (True, 5)
