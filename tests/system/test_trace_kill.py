"""A cycle that was acknowledged survives SIGKILL and a full disk."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from memrl_ctrl.testing.traces import sample_cycle, sample_header
from memrl_ctrl.trace import TraceReader, recover, verify
from memrl_ctrl.trace.codec import encode

KILLS = 20
START_S = 60.0
"""Longest time that a child may take until its first cycle, s."""

RECORDER = """
import sys
from memrl_ctrl.testing.traces import sample_cycle, sample_header, sample_outcome
from memrl_ctrl.trace import JournalWriter

header = sample_header(points=30, n_slices=256)
records = [sample_cycle(header, cycle) for cycle in range(40)]
import dataclasses
with JournalWriter(sys.argv[1], header) as journal:
    for cycle in range(1_000_000):
        record = records[cycle % len(records)]
        reading = dataclasses.replace(record.reading, cycle=cycle)
        record = dataclasses.replace(record, reading=reading)
        journal.append(record)
        sys.stdout.write(f"{cycle}\\n")  # the acknowledgement
        sys.stdout.flush()
        outcome = sample_outcome(record)
        if outcome is not None:
            journal.append(outcome, durable=False)
"""

FILLER = """
import resource, sys
from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import sample_cycle, sample_header
from memrl_ctrl.trace import JournalWriter

header = sample_header()
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
with JournalWriter(sys.argv[1], header) as journal:
    for cycle in range(10_000):
        try:
            journal.append(sample_cycle(header, cycle))
        except TraceError as error:
            sys.stdout.write(f"{error}\\n")
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            break
        sys.stdout.write(f"{cycle}\\n")
"""


def acknowledged_before_kill(journal: Path, delay_s: float) -> list[int]:
    """Let a child record, kill it `delay_s` after its first cycle, return what it acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(journal)], stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdout is not None
        said = b""
        deadline = time.monotonic() + START_S
        while b"\n" not in said:
            ready, _, _ = select.select([child.stdout], [], [], deadline - time.monotonic())
            assert ready, "the child recorded nothing"
            piece = os.read(child.stdout.fileno(), 1 << 16)
            assert piece, "the child ended by itself"
            said += piece
        until = time.monotonic() + delay_s
        while (left := until - time.monotonic()) > 0:
            if select.select([child.stdout], [], [], left)[0]:
                said += os.read(child.stdout.fileno(), 1 << 16)
        child.send_signal(signal.SIGKILL)
        child.wait()
        while piece := os.read(child.stdout.fileno(), 1 << 16):
            said += piece
    whole, _, _ = said.rpartition(b"\n")
    return [int(line) for line in whole.split()]


def test_no_acknowledged_cycle_is_lost_by_sigkill(tmp_path: Path) -> None:
    """Killed at random instants, every acknowledged cycle is recovered, and at most one more."""
    generator = random.Random(20)
    header = sample_header(points=30, n_slices=256)
    for kill in range(KILLS):
        folder = tmp_path / f"run-{kill}"
        folder.mkdir()
        acknowledged = acknowledged_before_kill(
            folder / "trace.journal", generator.uniform(0.0, 0.1)
        )
        recovery = recover(folder)
        assert all(place.kind == "torn" for place in recovery.report.damage)
        assert recovery.report.end is None
        with TraceReader(recovery.hdf5) as trace:
            found = trace.cycles.tolist()
            assert found[: len(acknowledged)] == acknowledged
            assert len(found) - len(acknowledged) in (0, 1)
            last = trace.record(len(acknowledged) - 1)
            expected = sample_cycle(header, acknowledged[-1] % 40)
            assert last.reading.profile.tobytes() == expected.reading.profile.tobytes()
        assert verify(recovery.hdf5).cycles == len(found)


def test_a_full_disk_refuses_the_cycle_and_keeps_the_others(tmp_path: Path) -> None:
    """When the file cannot grow the cycle is refused in words; all before it verify."""
    journal = tmp_path / "trace.journal"
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(journal)], capture_output=True, text=True, check=True
    )
    *acknowledged, refusal = done.stdout.splitlines()
    assert "cycle not recorded: File too large" in refusal
    report = verify(journal)
    assert report.whole
    assert report.cycles == len(acknowledged)
    header = sample_header()
    recover(journal)
    with TraceReader(tmp_path / "trace.h5") as trace:
        last = trace.record(-1)
    assert encode(last) == encode(sample_cycle(header, int(acknowledged[-1])))
