"""A cycle that was acknowledged survives SIGKILL and a full disk."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memrl_ctrl.testing.traces import (
    endless_cycles,
    record_until_killed,
    sample_cycle,
    sample_header,
)
from memrl_ctrl.trace import TraceReader, recover, verify
from memrl_ctrl.trace.codec import encode

KILLS_AT_ONCE = 20
KILLS_IN_ALL = 1000
START_S = 60.0
"""Longest time that a child may take until its first cycle, s."""
POINTS, SLICES = 30, 256

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


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.BaseContext:
    """Children are forked from a server that has everything loaded: a kill costs no second of imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memrl_ctrl.testing.traces"])
    return context


def acknowledged_before_kill(
    context: multiprocessing.context.BaseContext, journal: Path, delay_s: float
) -> list[int]:
    """Let a child record, kill it `delay_s` after its first cycle, return what it acknowledged."""
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(  # type: ignore[attr-defined]
        target=record_until_killed, args=(str(journal), theirs, POINTS, SLICES)
    )
    child.start()
    theirs.close()
    assert ours.poll(START_S), "the child recorded nothing"
    time.sleep(delay_s)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    said = []
    with contextlib.suppress(EOFError):
        while True:
            said.append(int.from_bytes(ours.recv_bytes(), "little"))
    ours.close()
    child.close()
    return said


def check_a_kill(
    context: multiprocessing.context.BaseContext, folder: Path, delay_s: float
) -> None:
    """What is left of a killed run has every acknowledged cycle, and verify and recover say so."""
    folder.mkdir()
    acknowledged = acknowledged_before_kill(context, folder / "trace.journal", delay_s)
    assert acknowledged == list(range(len(acknowledged)))
    recovery = recover(folder)
    report = recovery.report
    assert report.end is None
    assert len(report.damage) <= 1
    assert all(place.kind == "torn" for place in report.damage)
    assert verify(folder / "trace.journal").damage == report.damage
    found = verify(recovery.hdf5)
    assert (found.cycles, found.damage) == (report.cycles, report.damage)
    assert report.cycles - len(acknowledged) in (0, 1)
    header = sample_header(points=POINTS, n_slices=SLICES)
    with TraceReader(recovery.hdf5) as trace:
        assert trace.cycles.tolist() == list(range(report.cycles))
        for record, expected in zip(trace, endless_cycles(header), strict=False):
            assert encode(record) == encode(expected)
    shutil.rmtree(folder)


def test_no_acknowledged_cycle_is_lost_by_sigkill(
    context: multiprocessing.context.BaseContext, tmp_path: Path
) -> None:
    """Killed at random instants, every acknowledged cycle is recovered, and at most one more."""
    generator = random.Random(20)
    for kill in range(KILLS_AT_ONCE):
        check_a_kill(context, tmp_path / f"run-{kill}", generator.uniform(0.0, 0.1))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_none_is_lost_in_a_thousand_kills(
    context: multiprocessing.context.BaseContext, tmp_path: Path
) -> None:
    """The same, a thousand times."""
    generator = random.Random(1000)
    for kill in range(KILLS_IN_ALL):
        check_a_kill(context, tmp_path / f"run-{kill}", generator.uniform(0.0, 0.05))


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
