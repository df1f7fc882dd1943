"""A journal that somebody changed by hand: what was changed is found, located and dropped, and no more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import (
    sample_cycle,
    sample_header,
    write_sample_journal,
)
from memrl_ctrl.trace import CycleRecord, TraceReader, read_journal, recover, verify
from memrl_ctrl.trace.codec import Kind, encode
from memrl_ctrl.trace.journal import HEAD, PACKED, record_head
from memrl_ctrl.trace.packing import HEAD as PACKED_HEAD
from memrl_ctrl.trace.packing import Earlier, packed
from memrl_ctrl.trace.records import OutcomeRecord, TraceHeader
from memrl_ctrl.trace.scan import Entry

from .memory_journal import write_memory_journal

Records = list[bytes]


def written(path: Path, cycles: int = 8, *, first: int = 100, outcomes: bool = True) -> Path:
    """Write a journal whose policy carries its memory on, and return its path."""
    header = sample_header(points=4, n_slices=1000)
    write_memory_journal(path, header, cycles, first=first, outcomes=outcomes)
    return path


@pytest.fixture(params=[True, False], ids=["closed loop", "shadow"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A journal with an outcome behind most of its cycles, and one with none."""
    return written(tmp_path / "trace.journal", outcomes=request.param)


def entries_of(path: Path) -> list[Entry]:
    with read_journal(path) as reader:
        return list(reader.entries())


def split(path: Path) -> Records:
    data = path.read_bytes()
    return [data[entry.offset : entry.offset + entry.size] for entry in entries_of(path)]


def again(
    record: bytes,
    *,
    sequence: int | None = None,
    previous: bytes | None = None,
    payload: bytes | None = None,
) -> bytes:
    """Return a record with another head or payload, its checksum made anew."""
    _, _, version, kind, _, number, before = HEAD.unpack(record[: HEAD.size])
    content = record[HEAD.size :] if payload is None else payload
    number = number if sequence is None else sequence
    return record_head(kind, content, number, previous or before, version) + content


def cycle_places(path: Path) -> list[int]:
    """Return which of the records are cycles."""
    return [i for i, entry in enumerate(entries_of(path)) if isinstance(entry.record, CycleRecord)]


def numbers(path: Path) -> list[int]:
    with TraceReader(path) as trace:
        return [int(cycle) for cycle in trace.cycles]


def altered(entries: list[Entry], index: int, earlier: Entry, crc: int | None = None) -> bytes:
    """Return a cycle with one sign turned, packed as it was, outer checksum right.

    Args:
        entries: the journal's.
        index: which of them.
        earlier: the cycle before it.
        crc: the inner checksum; None makes it fit the change.
    """
    entry = entries[index]
    assert isinstance(entry.record, CycleRecord)
    changed = entry.record.proposed_rad.copy()
    changed[1] *= -1.0
    payload = encode(dataclasses.replace(entry.record, proposed_rad=changed))
    plain = record_head(Kind.CYCLE, payload, entry.sequence, entry.previous)
    inner = HEAD.unpack(plain)[1] if crc is None else crc
    small = packed(payload, inner, Earlier.of(earlier.sequence, earlier.payload))
    assert small is not None
    assert PACKED_HEAD.unpack_from(small)[4] == earlier.sequence
    return record_head(Kind.CYCLE | PACKED, small, entry.sequence, entry.previous) + small


@pytest.mark.parametrize("inner", ["kept", "made anew"])
def test_a_changed_value_in_a_packed_cycle_is_no_lost_memory(journal: Path, inner: str) -> None:
    """One sign turned, checksums of the file right: the cycle is located and dropped, all others are kept."""
    records, entries, places = split(journal), entries_of(journal), cycle_places(journal)
    at, before = places[4], entries[places[3]]
    crc = PACKED_HEAD.unpack_from(records[at], HEAD.size)[1] if inner == "kept" else None
    records[at] = altered(entries, at, before, crc)
    journal.write_bytes(b"".join(records))
    report = verify(journal)
    (damage,) = report.damage
    assert damage.kind == ("damaged" if inner == "kept" else "altered")
    assert (damage.sequence, damage.offset, damage.after_cycle) == (
        entries[at].sequence,
        entries[at].offset,
        103,
    )
    assert damage.size == len(records[at])
    assert numbers(journal) == [100, 101, 102, 103, 105, 106, 107]
    hdf5 = recover(journal).hdf5
    assert numbers(hdf5) == numbers(journal)
    # The cycle behind it still has its memory: the checksum says that it is the one recorded.
    wanted = entries[places[5]].payload
    for path in (journal, hdf5):
        with TraceReader(path) as trace:
            assert encode(trace.record(4)) == wanted
    assert verify(hdf5).damage == report.damage


@pytest.mark.parametrize("earlier", ["nobody", "outcome", "later"])
def test_a_memory_that_no_lost_cycle_held_is_no_excuse(tmp_path: Path, earlier: str) -> None:
    """A changed cycle that names a record which is no cycle, or is there, is dropped."""
    journal = written(tmp_path / "trace.journal")
    records, entries, places = split(journal), entries_of(journal), cycle_places(journal)
    at = places[4]
    named = {"nobody": 1, "outcome": entries[at - 1].sequence, "later": entries[-1].sequence + 9}
    assert isinstance(entries[at - 1].record, OutcomeRecord)
    payload = bytearray(records[at][HEAD.size :])
    payload[16:24] = named[earlier].to_bytes(8, "little")
    records[at] = again(records[at], payload=bytes(payload))
    journal.write_bytes(b"".join(records))
    first = verify(journal).damage[0]
    assert (first.kind, first.sequence) == ("damaged", entries[at].sequence)
    assert "which is not the cycle before it" in first.text
    assert 104 not in numbers(journal)


def test_what_cannot_be_checked_is_told_so(journal: Path) -> None:
    """Where the cycle before is really lost, the next one is kept, and it is said what that means."""
    entries, places = entries_of(journal), cycle_places(journal)
    data = bytearray(journal.read_bytes())
    data[entries[places[4]].offset + 500] ^= 1
    journal.write_bytes(data)
    lost, memory = verify(journal).damage
    assert (lost.kind, memory.kind) == ("damaged", "memory")
    assert "cannot be checked" in memory.text
    assert numbers(journal) == [100, 101, 102, 103, 105, 106, 107]


def test_a_cycle_of_another_run_does_not_stay(journal: Path, tmp_path: Path) -> None:
    """A foreign cycle in the place of one of the run's own goes, and costs no genuine record."""
    outcomes = len(entries_of(journal)) > 12
    foreign = split(written(tmp_path / "other.journal", first=200, outcomes=outcomes))
    records, entries, places = split(journal), entries_of(journal), cycle_places(journal)
    at = places[3]
    kept = [entry.payload for i, entry in enumerate(entries) if i not in (at, places[4])]
    records[at] = foreign[at]
    journal.write_bytes(b"".join(records))
    lost, memory = verify(journal).damage
    assert (lost.kind, lost.sequence) == ("damaged", entries[at].sequence)
    assert (memory.kind, memory.sequence) == ("memory", entries[places[4]].sequence)
    assert numbers(journal) == [100, 101, 102, 104, 105, 106, 107]
    found = [e.payload for e in entries_of(journal) if e.sequence != entries[places[4]].sequence]
    assert found == kept


def test_nothing_follows_the_end_of_a_run(journal: Path, tmp_path: Path) -> None:
    """A cycle, or another run's journal, behind the end is no part of the run."""
    data, entries = journal.read_bytes(), entries_of(journal)
    last = entries[cycle_places(journal)[-1]]
    copied = again(data[last.offset : last.offset + last.size], sequence=entries[-1].sequence + 1)
    plain = record_head(Kind.CYCLE, last.payload, entries[-1].sequence + 1, bytes(32))
    longer = written(tmp_path / "longer.journal", 20, first=200).read_bytes()
    for appended in (copied, plain + last.payload, longer):
        journal.write_bytes(data + appended)
        report = verify(journal)
        (damage,) = report.damage
        assert (damage.offset, damage.size) == (len(data), len(appended))
        assert report.cycles == 8
        assert report.end is not None


def test_an_end_that_is_none_does_not_end_the_run(journal: Path) -> None:
    """A forged end in the middle is dropped, and what follows it is kept."""
    records, entries, places = split(journal), entries_of(journal), cycle_places(journal)
    at = places[2]
    records[at] = again(records[-1], sequence=entries[at].sequence, previous=entries[at].previous)
    journal.write_bytes(b"".join(records))
    report = verify(journal)
    assert [(d.kind, d.sequence) for d in report.damage] == [
        ("altered", entries[at].sequence),
        ("memory", entries[places[3]].sequence),
    ]
    assert numbers(journal) == [100, 101, 103, 104, 105, 106, 107]
    assert report.end == entries[-1].record


@pytest.mark.parametrize("number", [1 << 63, 40, 14])
def test_a_false_sequence_number_costs_its_record_only(tmp_path: Path, number: int) -> None:
    """A record that says it is a later one, its checksum right, does not cost those that follow it."""
    path = tmp_path / "trace.journal"
    write_sample_journal(path, 6, sample_header(points=1, n_slices=8))
    records, entries = split(path), entries_of(path)
    for at in range(len(records) - 1):
        if number <= entries[at].sequence:
            continue
        forged = [*records[:at], again(records[at], sequence=number), *records[at + 1 :]]
        path.write_bytes(b"".join(forged))
        kept = [entry.sequence for entry in entries_of(path)]
        assert kept == [entry.sequence for i, entry in enumerate(entries) if i != at]
        (damage,) = verify(path).damage
        assert (damage.offset, damage.sequence) == (entries[at].offset, entries[at].sequence)


def test_cycles_that_changed_places_cost_themselves(journal: Path) -> None:
    """Two records in each other's place are lost; everything between and behind them is kept."""
    records, entries, places = split(journal), entries_of(journal), cycle_places(journal)
    a, b = places[2], places[5]
    records[a], records[b] = records[b], records[a]
    journal.write_bytes(b"".join(records))
    assert numbers(journal) == [100, 101, 103, 104, 106, 107]
    kept = {entry.sequence for entry in entries_of(journal)}
    assert kept == {entry.sequence for i, entry in enumerate(entries) if i not in (a, b)}


def other_header(tmp_path: Path) -> Records:
    path = tmp_path / "other.journal"
    written(path, 1)
    return split(path)[:2]


@pytest.mark.parametrize("copy", [0, 1])
def test_one_false_copy_of_the_header_costs_that_copy_only(
    journal: Path, tmp_path: Path, copy: int
) -> None:
    """The copy that the records behind it confirm counts, whatever stands in the other's place."""
    with read_journal(journal) as reader:
        wanted = reader.header.run_id
    records, entries = split(journal), entries_of(journal)
    records[copy] = other_header(tmp_path)[copy]
    journal.write_bytes(b"".join(records))
    with read_journal(journal) as reader:
        assert reader.header.run_id == wanted
    (damage,) = verify(journal).damage
    assert (damage.kind, damage.sequence) == ("damaged", copy)
    assert [entry.sequence for entry in entries_of(journal)] == [
        entry.sequence for entry in entries if entry.sequence != copy
    ]


def test_both_headers_of_another_run_give_no_run_its_cycles(journal: Path, tmp_path: Path) -> None:
    """Cycles are never shown under the identity of another run."""
    records = [*other_header(tmp_path), *split(journal)[2:]]
    journal.write_bytes(b"".join(records))
    with pytest.raises(TraceError, match="header is lost: what stands in its place is not of this"):
        read_journal(journal)


def test_a_changed_record_behind_the_header_does_not_cost_the_header(journal: Path) -> None:
    """Record 2 says whose the header is; where it was itself changed, both copies count."""
    records, entries = split(journal), entries_of(journal)
    records[2] = again(records[2], previous=bytes(range(32)))
    journal.write_bytes(b"".join(records))
    with read_journal(journal) as reader:
        assert reader.header.run_id == entries[0].record.run_id  # type: ignore[union-attr]
        assert isinstance(entries[0].record, TraceHeader)


Forge = Callable[[Records], Records]


@pytest.mark.parametrize(
    "forge",
    [
        lambda records: [*records[:-1], again(records[-1], sequence=1 << 63)],
        lambda records: [again(record, previous=bytes(32)) for record in records],
        lambda records: [again(record, sequence=i * 7) for i, record in enumerate(records)],
        lambda records: list(reversed(records)),
        lambda records: records[:2] * 20 + records,
    ],
    ids=["last number", "no chain", "numbers", "reversed", "headers"],
)
def test_any_order_and_number_ends_in_a_report_or_a_sentence(journal: Path, forge: Forge) -> None:
    """However the records are arranged, nothing is called whole that is not, and nothing crashes."""
    journal.write_bytes(b"".join(forge(split(journal))))
    try:
        report = verify(journal)
    except TraceError:
        return
    assert not report.whole


def test_a_plain_cycle_of_another_run_is_dropped(tmp_path: Path) -> None:
    """Without a memory that would tell, the hash of the next record does."""
    path, other = tmp_path / "trace.journal", tmp_path / "other.journal"
    header = sample_header(points=1, n_slices=8)
    write_sample_journal(path, 6, header)
    write_sample_journal(other, 6, sample_header(points=1, n_slices=8), seed=3)
    records, foreign, places = split(path), split(other), cycle_places(path)
    records[places[2]] = foreign[places[2]]
    path.write_bytes(b"".join(records))
    genuine = {encode(sample_cycle(header, cycle)) for cycle in range(100, 106)}
    with read_journal(path) as reader:
        assert all(encode(r) in genuine for r in reader if isinstance(r, CycleRecord))
        assert not reader.report().whole
