"""Journals of two runs in one file: no cycle is shown under the identity of a run that it is not of."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl.testing.traces import sample_header
from memrl_ctrl.trace import TraceReader, read_journal, recover, verify
from memrl_ctrl.trace.codec import Kind
from memrl_ctrl.trace.journal import HEAD, PACKED, record_head
from memrl_ctrl.trace.scan import Entry

from .memory_journal import write_memory_journal

OURS = list(range(100, 106))


def written(path: Path, cycles: int = 6, *, first: int = 100, outcomes: bool = False) -> Path:
    """Write a journal whose policy carries its memory on, without an end, and return its path."""
    header = sample_header(points=2, n_slices=600)
    path.write_bytes(write_memory_journal(path, header, cycles, first=first, outcomes=outcomes))
    return path


def entries_of(path: Path) -> list[Entry]:
    with read_journal(path) as reader:
        return list(reader.entries())


def split(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[entry.offset : entry.offset + entry.size] for entry in entries_of(path)]


def numbers(path: Path) -> list[int]:
    with TraceReader(path) as trace:
        return [int(cycle) for cycle in trace.cycles]


def flipped(record: bytes) -> bytes:
    return record[:70] + bytes([record[70] ^ 1]) + record[71:]


@pytest.fixture(params=[True, False], ids=["closed loop", "shadow"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run that was killed."""
    return written(tmp_path / "trace.journal", outcomes=request.param)


@pytest.fixture(params=[True, False], ids=["with outcomes", "without"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path) -> list[bytes]:
    """The records of another, longer run."""
    return split(written(tmp_path / "other.journal", 20, first=200, outcomes=request.param))


def test_what_was_joined_to_a_journal_is_another_run(journal: Path, foreign: list[bytes]) -> None:
    """Every cycle of this run is kept, the last one too, and none of the other is taken for one of it."""
    data, other, before = journal.read_bytes(), b"".join(foreign), entries_of(journal)
    journal.write_bytes(data + other)
    report = verify(journal)
    (damage,) = report.damage
    assert (damage.kind, damage.offset, damage.size) == ("damaged", len(data), len(other))
    assert "of another run" in damage.text
    assert [entry.payload for entry in entries_of(journal)] == [e.payload for e in before]
    hdf5 = recover(journal).hdf5
    assert numbers(journal) == numbers(hdf5) == OURS
    assert verify(hdf5).damage == report.damage


def test_joined_behind_a_torn_record(journal: Path, foreign: list[bytes]) -> None:
    """The record that is torn and the run behind it are told as two places."""
    last = entries_of(journal)[-1]
    torn, other = journal.read_bytes()[: last.offset + last.size // 2], b"".join(foreign)
    journal.write_bytes(torn + other)
    damaged, joined = verify(journal).damage
    assert (damaged.offset, damaged.size) == (last.offset, len(torn) - last.offset)
    assert (joined.offset, joined.size) == (len(torn), len(other))
    assert "of another run" in joined.text
    assert set(numbers(journal)) <= set(OURS)


@pytest.mark.parametrize("lost", [(0,), (1,), (5,), (0, 5, 12), (1, 2, 3, 4)], ids=str)
def test_a_damaged_run_is_another_one_all_the_same(
    journal: Path, foreign: list[bytes], lost: tuple[int, ...]
) -> None:
    """One whole copy of its header is enough to know whose the records behind it are."""
    data = journal.read_bytes()
    other = [flipped(record) if i in lost else record for i, record in enumerate(foreign)]
    journal.write_bytes(data + b"".join(other))
    assert numbers(journal) == OURS
    assert sum(place.size for place in verify(journal).damage) == len(b"".join(other))


def test_what_stands_in_the_middle_of_a_run_costs_none_of_it(
    journal: Path, foreign: list[bytes]
) -> None:
    """A run that goes on behind another one proves it by its hash."""
    records, before = split(journal), entries_of(journal)
    for at in range(3, len(records)):
        journal.write_bytes(b"".join((*records[:at], *foreign, *records[at:])))
        (damage,) = verify(journal).damage
        assert (damage.offset, damage.size) == (before[at].offset, len(b"".join(foreign)))
        assert [entry.payload for entry in entries_of(journal)] == [e.payload for e in before]


def test_what_does_not_lead_back_is_not_believed(journal: Path, foreign: list[bytes]) -> None:
    """Behind another run, with the record between lost, nobody can say whose the rest is: it is lost."""
    records, before = split(journal), entries_of(journal)
    journal.write_bytes(b"".join((*records[:6], *foreign, *records[7:])))
    assert [entry.payload for entry in entries_of(journal)] == [e.payload for e in before[:6]]
    assert not verify(journal).whole


@pytest.mark.parametrize("at", [3, 6, None], ids=["files", "cycles", "behind"])
def test_a_record_of_another_version_is_one_damaged_place(journal: Path, at: int | None) -> None:
    """A journal that begins in a version that is read is not refused for what somebody put into it."""
    records, before = split(journal), entries_of(journal)
    _, _, _, kind, _, _, previous = HEAD.unpack(records[-1][: HEAD.size])
    payload = records[-1][HEAD.size :]
    strange = record_head(kind, payload, before[-1].sequence + 1, previous, version=3) + payload
    at = len(records) if at is None else at
    journal.write_bytes(b"".join((*records[:at], strange, *records[at:])))
    (damage,) = verify(journal).damage
    assert damage.text == "journal version 3; this release reads 1 and 2"
    assert damage.size == len(strange)
    assert [entry.payload for entry in entries_of(journal)] == [e.payload for e in before]


def test_a_changed_header_of_this_run_is_no_other_run(journal: Path) -> None:
    """One with this run's identity costs itself, wherever it stands."""
    records, before = split(journal), entries_of(journal)
    header = before[0].payload.replace(b"made-up", b"made-op")
    forged = record_head(Kind.HEADER, header, 7, bytes(32)) + header
    journal.write_bytes(b"".join((*records[:5], forged, *records[6:])))
    kept = {entry.sequence for entry in entries_of(journal)}
    assert kept == {entry.sequence for entry in before} - {5}
    assert HEAD.unpack(forged[: HEAD.size])[3] & PACKED == 0
