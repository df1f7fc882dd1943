"""A journal whose policy carries its memory on from cycle to cycle."""

from __future__ import annotations

from pathlib import Path

from memrl_ctrl.testing.traces import digitised_cycle, sample_outcome
from memrl_ctrl.trace import CycleRecord, JournalWriter, TraceHeader


def write_memory_journal(
    path: Path, header: TraceHeader, cycles: int, *, first: int = 100, outcomes: bool = True
) -> bytes:
    """Write it to its end; return what it held before the end."""
    before: CycleRecord | None = None
    with JournalWriter(path, header) as journal:
        for cycle in range(first, first + cycles):
            before = digitised_cycle(header, cycle, before, hidden=16)
            journal.append(before, durable=False)
            outcome = sample_outcome(before)
            if outcomes and outcome is not None:
                journal.append(outcome, durable=False)
        return path.read_bytes()
