"""What a server keeps over its end: fencing numbers and acknowledged functions; and its own limits."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from memrl_backends.zmq import fence as fences
from memrl_backends.zmq import ledger as ledgers
from memrl_backends.zmq.fence import BLOCK, SPARE, FenceCounter
from memrl_backends.zmq.gate import Gate, GateLimits, load_limits
from memrl_backends.zmq.ledger import LENGTH, Entry, Ledger, content_digest
from memrl_backends.zmq.state import State
from memrl_ctrl.errors import FileError, RefusalReason, Refused
from memrl_ctrl.limits import PhaseLimits, RateLimit
from memrl_ctrl.testing import FakeBackend


def entry(key: str, cycle: int = 1, client: str = "one") -> Entry:
    return Entry(
        client=client, key=key, content="c", cycle=cycle, fence=1, machine="psb", program="p"
    )


def test_fencing_numbers_grow_over_restarts(tmp_path: Path) -> None:
    """Every number is above all before, also after a kill, and of two servers at once."""
    path = tmp_path / "fence"
    seen = []
    for _ in range(3):  # nothing is closed: a killed server does not either
        one, other = FenceCounter(path), FenceCounter(path)
        mine = [one.next() for _ in range(5)]
        others = [other.next() for _ in range(5)]
        assert max(mine) < min(others)
        seen += mine + others
    assert seen == sorted(set(seen))


def test_fencing_numbers_do_not_hang_on_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that went back by years changes nothing."""
    path = tmp_path / "fence"
    before = FenceCounter(path).next()
    monkeypatch.setattr("time.time_ns", lambda: 0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert FenceCounter(path).next() > before


def test_a_block_used_up_is_followed_by_another(tmp_path: Path) -> None:
    """The counter goes on beyond a block, and what the file promises stays ahead of it."""
    path = tmp_path / "fence"
    counter = FenceCounter(path)
    numbers = [counter.next() for _ in range(BLOCK + 10)]
    assert np.all(np.diff(numbers) > 0)
    assert int(path.read_text()) > numbers[-1]


def test_operators_have_numbers_left_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a new block nobody gets the lease any more, but an operator still takes over."""
    counter = FenceCounter(tmp_path / "fence")
    numbers = [counter.next() for _ in range(BLOCK - SPARE)]

    def full(path: Path) -> tuple[int, int]:
        raise FileError(path, "No space left on device")

    monkeypatch.setattr(fences, "reserve", full)
    with pytest.raises(FileError, match="No space"):
        counter.next()
    kept = [counter.next(spare=True) for _ in range(SPARE)]
    assert kept[0] > numbers[-1]
    with pytest.raises(FileError, match="No space"):
        counter.next(spare=True)


@pytest.mark.parametrize("content", ["x", "-5", "0", "9" * 40, "1 2"])
def test_another_file_is_no_counter(tmp_path: Path, content: str) -> None:
    """A file with anything else in it is one sentence, and stays as it is."""
    path = tmp_path / "fence"
    path.write_text(content)
    with pytest.raises(FileError, match="no fencing number"):
        FenceCounter(path)
    assert path.read_text() == content


def test_what_is_acknowledged_survives(tmp_path: Path) -> None:
    """Entries and functions come back bit for bit in a new process, by their key and as the last."""
    path = tmp_path / "acknowledged"
    ledger = Ledger(path)
    for cycle in range(5):
        ledger.record(entry(f"k{cycle}", cycle), np.array([0.1, cycle]))
    os.close(ledger._descriptor)  # killed: nothing is said
    again = Ledger(path)
    found = again.find("one", "k3")
    assert found is not None
    assert found[0].cycle == 3
    assert found[1].tolist() == [0.1, 3.0]
    assert again.last is not None
    assert again.last[0].cycle == 4
    assert again.find("two", "k3") is None
    assert again.find("one", "") is None
    again.close()


@pytest.mark.parametrize("cut", [1, 3, 5, 40, 100])
def test_what_was_half_written_is_cut_off(tmp_path: Path, cut: int) -> None:
    """A kill in the middle of an entry loses that entry alone; what comes later stands behind the rest."""
    path = tmp_path / "acknowledged"
    ledger = Ledger(path)
    ledger.record(entry("a", 1), np.zeros(3))
    ledger.record(entry("b", 2), np.zeros(3))
    ledger.close()
    path.write_bytes(path.read_bytes()[:-cut])
    ledger = Ledger(path)
    assert ledger.find("one", "a") is not None
    assert ledger.find("one", "b") is None
    ledger.record(entry("c", 3), np.ones(3))
    ledger.close()
    ledger = Ledger(path)
    assert ledger.find("one", "c") is not None
    ledger.close()


def test_a_damaged_entry_ends_the_file(tmp_path: Path) -> None:
    """What follows a damaged entry is not believed."""
    path = tmp_path / "acknowledged"
    ledger = Ledger(path)
    ledger.record(entry("a", 1), np.zeros(3))
    ledger.record(entry("b", 2), np.zeros(3))
    ledger.close()
    data = bytearray(path.read_bytes())
    data[LENGTH.size + 40] ^= 1
    path.write_bytes(bytes(data))
    ledger = Ledger(path)
    assert ledger.last is None
    ledger.close()


def test_a_ledger_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is acknowledged, file and memory hold the newest only, and lose none of those."""
    monkeypatch.setattr(ledgers, "LARGEST", 20_000)
    monkeypatch.setattr(ledgers, "REMEMBERED", 10)
    path = tmp_path / "acknowledged"
    ledger = Ledger(path)
    for cycle in range(300):
        ledger.record(entry(f"k{cycle}", cycle), np.full(30, float(cycle)))
        assert path.stat().st_size < 21_000
    ledger.close()
    ledger = Ledger(path)
    assert ledger.find("one", "k299") is not None
    assert ledger.find("one", "k280") is None
    ledger.close()


def test_two_machines_do_not_share_a_ledger(tmp_path: Path) -> None:
    """A second machine with the same state and port is told so."""
    state = State(tmp_path / "new" / "folder", 5750)
    with pytest.raises(FileError, match="another machine is using this"):
        State(tmp_path / "new" / "folder", 5750)
    state.close()
    State(tmp_path / "new" / "folder", 5750).close()


def test_a_full_disk_acknowledges_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written is not remembered, and leaves no half of it in the file."""
    path = tmp_path / "acknowledged"
    ledger = Ledger(path)
    ledger.record(entry("a", 1), np.zeros(3))
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(FileError, match="No space"):
        ledger.record(entry("b", 2), np.zeros(3))
    monkeypatch.undo()
    assert ledger.find("one", "b") is None
    ledger.record(entry("c", 3), np.zeros(3))
    ledger.close()
    ledger = Ledger(path)
    assert [ledger.find("one", key) is not None for key in "abc"] == [True, False, True]
    ledger.close()


def test_the_content_tells_functions_apart() -> None:
    """Another value, cycle or choice of points is another function."""
    digests = {
        content_digest(np.array(values), cycle, points)
        for values in ([0.0, 1.0], [0.0, 1.5])
        for cycle in (1, 2)
        for points in (None, [0, 1], [1, 0], ["C275", 1])
    }
    assert len(digests) == 16


LIMITS = """
min_rad: -2.0
max_rad: 30.0
step_rad: 0.5
rate:
  travel_rad: 1.0
  cycles: 3
"""


def test_a_file_narrows_the_limits_of_the_machine(tmp_path: Path) -> None:
    """The narrower of file and machine holds; what the file does not say stays."""
    path = tmp_path / "limits.yaml"
    path.write_text(LIMITS)
    own = load_limits(path)
    assert own.rate == RateLimit(travel_rad=1.0, cycles=3)
    narrowed = own.within(PhaseLimits(min_rad=-1.0, max_rad=5.0, step_rad=1.0))
    assert narrowed == PhaseLimits(min_rad=-1.0, max_rad=5.0, step_rad=0.5)
    with pytest.raises(ValueError, match="must be below"):
        GateLimits(min_rad=6.0).within(PhaseLimits(max_rad=5.0))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "limits are names and values"),
        ("- 1", "limits are names and values"),
        ("step: 1", "no limit 'step'.*did you mean 'step_rad'"),
        ("step_rad: -1", "step_rad is -1; it must be above 0"),
        ("step_rad: .nan", "step_rad is nan; a finite number"),
        ("step_rad: yes", "step_rad is True; a finite number"),
        ("max_rad: [1]", r"max_rad is \[1\]; a finite number"),
        ("rate: 3", "rate needs travel_rad and cycles"),
        ("rate: {travel_rad: 1, cycles: 0}", "cycles of rate is 0; it must be 1 to 10000"),
        ("rate: {travel_rad: 0, cycles: 3}", "travel_rad is 0; it must be above 0"),
        (": : :", "no YAML"),
        ("\x00", "no YAML"),
    ],
)
def test_wrong_limits_are_one_sentence(tmp_path: Path, content: str, problem: str) -> None:
    """Which value, and what is allowed."""
    path = tmp_path / "limits.yaml"
    path.write_text(content)
    with pytest.raises(FileError, match=problem) as raised:
        load_limits(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_limits_that_are_absent_are_named(tmp_path: Path) -> None:
    """A file that does not exist is no reason to go on without limits."""
    with pytest.raises(FileError, match="cannot be read"):
        load_limits(tmp_path / "none.yaml")


def test_a_point_travels_only_so_far_in_a_window() -> None:
    """Forth and back added up, over so many cycles; after the window it may move again."""
    description = FakeBackend(points=2).description
    gate = Gate(description, GateLimits(rate=RateLimit(travel_rad=1.0, cycles=3)))
    applied = np.zeros(2)
    gate.played(applied)
    for value in (0.4, 0.0):
        wanted = np.array([value, 0.0])
        gate.check(wanted, applied)
        applied = wanted
        gate.played(applied)
    with pytest.raises(Refused, match=r"point 0 would have travelled 1\.2000 rad in 3") as refused:
        gate.check(np.array([0.4, 0.0]), applied)
    assert refused.value.reason is RefusalReason.RATE
    gate.check(np.array([0.2, 0.4]), applied)
    gate.played(applied)
    gate.check(np.array([0.4, 0.0]), applied)  # the first change has left the window


def test_a_window_of_one_cycle_is_a_step() -> None:
    """A window of one cycle looks at the change that is asked for alone."""
    gate = Gate(
        FakeBackend(points=2).description, GateLimits(rate=RateLimit(travel_rad=0.2, cycles=1))
    )
    for _ in range(3):
        gate.played(np.zeros(2))
    gate.check(np.full(2, 0.2), np.zeros(2))
    with pytest.raises(Refused, match="in 1 cycles"):
        gate.check(np.full(2, 0.3), np.zeros(2))
