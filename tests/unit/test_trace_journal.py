"""The journal keeps what it acknowledged, and locates what it lost."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import (
    sample_cycle,
    sample_header,
    sample_outcome,
    write_sample_journal,
)
from memrl_ctrl.trace import CycleRecord, JournalWriter, OutcomeRecord, read_journal, recover
from memrl_ctrl.trace.codec import FileRecord, encode
from memrl_ctrl.trace.journal import HEAD
from memrl_ctrl.trace.records import EndRecord, TraceHeader
from memrl_ctrl.trace.scan import Entry


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "trace.journal"
    write_sample_journal(path)
    return path


def cycles_of(path: Path) -> list[bytes]:
    with read_journal(path) as reader:
        return [encode(record) for record in reader if isinstance(record, CycleRecord)]


def entries_of(path: Path) -> list[Entry]:
    with read_journal(path) as reader:
        return list(reader.entries())


def test_cycles_come_back_to_the_bit(tmp_path: Path) -> None:
    """Every array, number, name and event of every cycle comes back exactly."""
    header = sample_header()
    written = write_sample_journal(tmp_path / "trace.journal", 8, header)
    with read_journal(tmp_path / "trace.journal") as reader:
        read = [record for record in reader if isinstance(record, CycleRecord)]
        assert reader.damage == ()
    assert [encode(record) for record in read] == [encode(record) for record in written]
    assert read[3].policy is None
    assert read[1].written_rad is None
    assert read[0].measures.keys() == {"asymmetry", "bunch.length/s"}
    assert read[1].events[0]["text"] == "beam ✓"
    assert read[0].timings_ns == written[0].timings_ns


def test_special_numbers_keep_their_bits(tmp_path: Path) -> None:
    """NaN with its payload, both zeros, infinities and subnormals keep every bit."""
    header = sample_header()
    record = sample_cycle(header, 100)
    bits = np.array([0x7FC01234, 0xFFC00001, 0x80000000, 0x7F800000, 1], dtype=np.uint32)
    record.reading.profile[0, :5] = bits.view(np.float32)
    wide = np.array([0x7FF8000000001234, 0x8000000000000000, 1], dtype=np.uint64)
    record = dataclasses.replace(record, proposed_rad=wide.view(np.float64))
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        journal.append(record)
    with read_journal(tmp_path / "trace.journal") as reader:
        back = next(iter(reader))
    assert isinstance(back, CycleRecord)
    assert back.reading.profile[0, :5].view(np.uint32).tolist() == bits.tolist()
    assert back.proposed_rad.view(np.uint64).tolist() == wide.tolist()


def test_header_comes_back_with_its_files(journal: Path) -> None:
    """Provenance, limits and whole files come back; the policy's digest is that of its bytes."""
    with read_journal(journal) as reader:
        header = reader.header
    assert header.files == {"policy.onnx": bytes(range(256)), "program.yaml": b"name: made-up\n"}
    assert header.policy == bytes(range(256))
    assert header.policy_sha256 == hashlib.sha256(bytes(range(256))).hexdigest()
    assert header.limits.step_rad == 0.5
    assert header.machine.ctime_ms is not None
    assert header.machine.ctime_ms.tolist() == [275.0, 540.0, 805.0]
    assert header.configuration["backend"] == {"name": "fake", "noise": 0.02}
    assert header.versions["numpy"] == np.__version__
    assert {"cpu_model", "onnxruntime", "numpy"} <= header.fingerprint.keys()


def test_outcomes_and_end_come_back(journal: Path) -> None:
    """Receipts, refusals and the end of the run come back as they were."""
    with read_journal(journal) as reader:
        records = list(reader)
    outcomes = [record for record in records if isinstance(record, OutcomeRecord)]
    assert [outcome.cycle for outcome in outcomes] == [100, 102, 103, 105]
    assert outcomes[0].reason == "late"
    assert not outcomes[0].accepted
    receipt = outcomes[1].receipt
    assert receipt is not None
    assert (receipt.cycle, receipt.fence) == (103, 3)
    assert isinstance(records[-1], EndRecord)
    assert records[-1].cycles == 6


def test_truth_is_not_recorded(tmp_path: Path) -> None:
    """What only a simulation knows never reaches the file."""
    from memrl_ctrl.testing import FakeBackend

    backend = FakeBackend(points=3, n_slices=16)
    header = dataclasses.replace(sample_header(), machine=backend.description)
    reading = backend.start(seed=1)
    assert reading.truth is not None
    record = dataclasses.replace(sample_cycle(header, 100), reading=reading)
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        journal.append(record)
    with read_journal(tmp_path / "trace.journal") as reader:
        back = next(iter(reader))
    assert isinstance(back, CycleRecord)
    assert back.reading.truth is None
    for secret in (reading.truth.offset_rad, reading.truth.emittance_evs):
        assert secret.tobytes() not in (tmp_path / "trace.journal").read_bytes()


def test_each_record_has_the_hash_of_the_one_before(journal: Path) -> None:
    """Record n holds SHA-256 over the plain head and payload of record n - 1; no sequence is left out."""
    entries = entries_of(journal)
    assert [entry.sequence for entry in entries] == list(range(len(entries)))
    assert entries[0].previous == bytes(32)
    for before, after in itertools.pairwise(entries):
        assert after.previous == hashlib.sha256(before.head + before.payload).digest()


def test_torn_at_every_byte_of_the_last_record_keeps_all_before(tmp_path: Path) -> None:
    """Wherever the last record is torn, every earlier record is kept and the tear is located."""
    path = tmp_path / "trace.journal"
    header = sample_header(points=1, n_slices=8)
    with JournalWriter(path, header) as journal:
        for cycle in (100, 101, 102):
            journal.append(sample_cycle(header, cycle))
        data = path.read_bytes()
    torn = tmp_path / "torn.journal"
    torn.write_bytes(data)
    expected = cycles_of(torn)
    assert len(expected) == 3
    start = entries_of(torn)[-1].offset
    for size in range(start, len(data)):
        os.truncate(torn, 0)
        torn.write_bytes(data[:size])
        with read_journal(torn) as reader:
            kept = [encode(r) for r in reader if isinstance(r, CycleRecord)]
            assert kept == expected[:2]
            if size == start:
                assert reader.damage == ()
                continue
            (damage,) = reader.damage
        assert (damage.kind, damage.offset, damage.size) == ("torn", start, size - start)
        assert damage.after_cycle == 101


def test_any_flipped_byte_is_located_and_costs_one_record(tmp_path: Path) -> None:
    """A changed byte anywhere costs at most the record it is in, and the place is named."""
    path = tmp_path / "trace.journal"
    write_sample_journal(path, 3, sample_header(points=1, n_slices=8))
    data = path.read_bytes()
    entries = entries_of(path)
    for position in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        hit = max(i for i, entry in enumerate(entries) if entry.offset <= position)
        kept = entries_of(path)
        assert [e.sequence for e in kept] == [e.sequence for i, e in enumerate(entries) if i != hit]
        with read_journal(path) as reader:
            report = reader.report()
        assert len(report.damage) == 1
        assert report.damage[0].offset == entries[hit].offset
        assert report.damage[0].size == entries[hit].size
        assert not report.whole


def test_a_forged_checksum_does_not_hide_a_change(journal: Path) -> None:
    """A record altered together with its checksum is found by its successor's hash."""
    from memrl_ctrl.trace.codec import Kind
    from memrl_ctrl.trace.journal import record_head

    entries = entries_of(journal)
    index = next(i for i, e in enumerate(entries) if isinstance(e.record, CycleRecord))
    record = entries[index].record
    assert isinstance(record, CycleRecord)
    forged = encode(dataclasses.replace(record, proposed_rad=record.proposed_rad + 1.0))
    head = record_head(Kind.CYCLE, forged, entries[index].sequence, entries[index].previous)
    data = bytearray(journal.read_bytes())
    data[entries[index].offset : entries[index].offset + entries[index].size] = head + forged
    journal.write_bytes(data)
    with read_journal(journal) as reader:
        report = reader.report()
    (damage,) = report.damage
    assert (damage.kind, damage.sequence) == ("altered", entries[index].sequence)
    assert report.cycles == 5


def test_a_record_cut_out_is_missed(journal: Path) -> None:
    """Records that were removed, or stand twice, are noted although every checksum is right."""
    entries = entries_of(journal)
    data = journal.read_bytes()
    cut = entries[6]
    journal.write_bytes(data[: cut.offset] + data[cut.offset + cut.size :])
    with read_journal(journal) as reader:
        (damage,) = reader.report().damage
    assert (damage.kind, damage.sequence) == ("missing", 6)
    journal.write_bytes(data + data[cut.offset : cut.offset + cut.size])
    with read_journal(journal) as reader:
        report = reader.report()
    assert report.cycles == 6
    assert "stands after record" in report.damage[0].text


def test_what_stands_behind_rubbish_is_found(journal: Path) -> None:
    """Foreign bytes between two records cost neither of them, even if they look like a record."""
    entries = entries_of(journal)
    data = journal.read_bytes()
    at = entries[7].offset
    rubbish = b"MRLJ" + bytes(70) + b"MRLJMRLJ" + HEAD.pack(b"MRLJ", 0, 1, 2, 50, 7, bytes(32))
    journal.write_bytes(data[:at] + rubbish + data[at:])
    with read_journal(journal) as reader:
        report = reader.report()
    assert report.cycles == 6
    assert report.lost_bytes == len(rubbish)
    assert report.damage[0].offset == at


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no trace journal: it holds no whole record"),
        (b"\x00" * 4096, "no trace journal: it holds no whole record"),
        (b"MRLJ" * 500, "no trace journal: it holds no whole record"),
    ],
)
def test_what_is_no_journal_is_said_to_be_none(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    """Empty and foreign files end in one sentence."""
    path = tmp_path / "x.journal"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=sentence):
        read_journal(path)


def test_a_lost_header_says_so(journal: Path) -> None:
    """Without either copy of the header nothing can be recovered, and that is said."""
    entries = entries_of(journal)
    journal.write_bytes(journal.read_bytes()[entries[2].offset :])
    with pytest.raises(TraceError, match="header is lost"):
        read_journal(journal)


def test_another_version_is_refused(journal: Path) -> None:
    """A journal of a later version is refused by its number."""
    import google_crc32c

    data = bytearray(journal.read_bytes())
    size = entries_of(journal)[0].size
    data[8] = 3
    data[4:8] = int(google_crc32c.value(bytes(data[8:size]))).to_bytes(4, "little")
    journal.write_bytes(data)
    with pytest.raises(TraceError, match="journal version 3; this release reads 1 and 2"):
        read_journal(journal)


def test_an_existing_file_is_never_overwritten(journal: Path) -> None:
    """A journal that exists stays as it is."""
    before = journal.read_bytes()
    with pytest.raises(TraceError, match="exists already; a journal is never overwritten"):
        JournalWriter(journal, sample_header())
    assert journal.read_bytes() == before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A journal in a folder that does not exist ends in a sentence."""
    with pytest.raises(TraceError, match="cannot be created: No such file"):
        JournalWriter(tmp_path / "none" / "trace.journal", sample_header())


def test_an_acknowledged_append_was_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A durable append syncs once, after its bytes are written; an outcome does not sync."""
    header = sample_header()
    path = tmp_path / "trace.journal"
    synced: list[int] = []
    real = os.fdatasync

    def counting(file: int) -> None:
        real(file)
        synced.append(path.stat().st_size)

    with JournalWriter(path, header) as journal:
        monkeypatch.setattr(os, "fdatasync", counting)
        record = sample_cycle(header, 100)
        outcome = sample_outcome(record)
        assert outcome is not None
        journal.append(record)
        assert synced == [journal.size_bytes]
        journal.append(outcome, durable=False)
        assert len(synced) == 1


def test_a_full_disk_is_an_error_and_leaves_a_whole_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails half-way raises, leaves no half record, and a later one may succeed."""
    header = sample_header()
    path = tmp_path / "trace.journal"
    real = os.writev

    def full(file: int, parts: list[bytes]) -> int:
        real(file, [b"".join(parts)[:100]])
        raise OSError(28, "No space left on device")

    with JournalWriter(path, header) as journal:
        journal.append(sample_cycle(header, 100))
        size = path.stat().st_size
        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", full)
            with pytest.raises(TraceError, match="cycle not recorded: No space left"):
                journal.append(sample_cycle(header, 101))
        assert path.stat().st_size == size
        journal.append(sample_cycle(header, 102))
    with read_journal(path) as reader:
        report = reader.report()
    assert (report.cycles, report.whole) == (2, True)


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only a part of the record is continued until all is written."""
    header = sample_header()
    path = tmp_path / "trace.journal"
    real = os.writev
    with JournalWriter(path, header) as journal:
        monkeypatch.setattr(os, "writev", lambda file, parts: real(file, [b"".join(parts)[:7]]))
        journal.append(sample_cycle(header, 100))
        monkeypatch.undo()
    with read_journal(path) as reader:
        assert reader.report().whole


def test_an_interrupted_append_leaves_a_whole_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C within an append, before or after its bytes, leaves no record that was not told."""
    header = sample_header()
    path = tmp_path / "trace.journal"
    real = os.writev

    def interrupted(file: int, parts: list[bytes]) -> int:
        real(file, parts)
        raise KeyboardInterrupt

    with JournalWriter(path, header) as journal:
        journal.append(sample_cycle(header, 100))
        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", interrupted)
            with pytest.raises(KeyboardInterrupt):
                journal.append(sample_cycle(header, 101))
    with read_journal(path) as reader:
        report = reader.report()
    assert (report.cycles, report.whole) == (1, True)
    assert report.end is not None


def test_after_a_failed_sync_nothing_is_recorded_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that once failed to sync is never believed again."""
    header = sample_header()

    def broken(_file: int) -> None:
        raise OSError(5, "Input/output error")

    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", broken)
            with pytest.raises(TraceError, match="Input/output error"):
                journal.append(sample_cycle(header, 100))
        with pytest.raises(TraceError, match="recording failed before: Input/output error"):
            journal.append(sample_cycle(header, 101))


def test_a_closed_journal_takes_nothing(journal: Path, tmp_path: Path) -> None:
    """Closing twice does nothing; appending afterwards is an error."""
    header = sample_header()
    writer = JournalWriter(tmp_path / "other.journal", header)
    writer.close("done")
    writer.close()
    with pytest.raises(TraceError, match="is closed"):
        writer.append(sample_cycle(header, 100))
    with read_journal(tmp_path / "other.journal") as reader:
        end = reader.report().end
    assert end is not None
    assert end.reason == "done"


def test_what_does_not_fit_the_run_is_not_written(tmp_path: Path) -> None:
    """Another shape, type or set of names than the run's is a ValueError and writes nothing."""
    header = sample_header()
    record = sample_cycle(header, 100)
    other = sample_cycle(sample_header(points=4), 101)
    narrow = dataclasses.replace(record.reading, setpoint_rad=np.zeros(3, dtype=np.float32))
    assert record.policy is not None
    step = dataclasses.replace(record.policy, memory_in={"c": np.zeros((3, 1), dtype=np.float32)})
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        journal.append(record)
        size = journal.size_bytes
        with pytest.raises(ValueError, match=r"profile of cycle 101 is float32 \[4, 16\]"):
            journal.append(other)
        with pytest.raises(ValueError, match="setpoint_rad is float32, not float64"):
            dataclasses.replace(record, reading=narrow)
        with pytest.raises(ValueError, match="has the measures"):
            journal.append(dataclasses.replace(record, measures={}))
        with pytest.raises(ValueError, match="has the memories"):
            journal.append(dataclasses.replace(record, policy=step))
        with pytest.raises(ValueError, match="outcome of cycle 99"):
            journal.append(OutcomeRecord(cycle=99, reason="late"))
        assert journal.size_bytes == size


def test_records_refuse_contradictions() -> None:
    """Records whose parts contradict each other cannot be made."""
    header = sample_header()
    record = sample_cycle(header, 100)
    for change, sentence in (
        ({"target_cycle": None}, "written_rad and target_cycle go together"),
        ({"target_cycle": -1}, "must not be negative"),
        ({"verdicts": record.verdicts.astype(np.int64)}, "verdicts is int64, not uint8"),
        ({"proposed_rad": np.zeros(4)}, "expected 3 points"),
        ({"timings_ns": {"observe": -1}}, "timing 'observe' is negative"),
        ({"events": ({"text": "no kind"},)}, "an event needs a 'kind'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            dataclasses.replace(record, **change)
    with pytest.raises(ValueError, match="either a receipt or a reason"):
        OutcomeRecord(cycle=1)
    with pytest.raises(ValueError, match="is not the SHA-256"):
        dataclasses.replace(header, policy_sha256="00")
    with pytest.raises(ValueError, match="cannot be recorded as JSON"):
        encode(dataclasses.replace(record, events=({"kind": "x", "what": object()},)))
    with pytest.raises(ValueError, match="does not fit into 64 bits"):
        encode(
            dataclasses.replace(record, reading=dataclasses.replace(record.reading, cycle=2**63))
        )


def test_a_living_run_is_not_a_damaged_one(tmp_path: Path) -> None:
    """What a run is just writing is not reported as lost, and the run is seen to be alive."""
    header = sample_header()
    path = tmp_path / "trace.journal"
    with JournalWriter(path, header) as journal:
        journal.append(sample_cycle(header, 100))
        with read_journal(path) as reader:
            report = reader.report()
        assert report.live
        assert "a run is writing to it" in report.sentences()[0]
    with read_journal(path) as reader:
        assert not reader.live


def test_configuration_takes_paths_and_numpy(tmp_path: Path) -> None:
    """A configuration with paths, numpy numbers and NaN is recorded as JSON."""
    configuration = {"out": Path("a/b"), "gain": np.float64(0.5), "n": np.arange(2), "x": np.nan}
    header = dataclasses.replace(sample_header(), configuration=configuration)
    with JournalWriter(tmp_path / "trace.journal", header):
        pass
    with read_journal(tmp_path / "trace.journal") as reader:
        assert reader.header.configuration == {"out": "a/b", "gain": 0.5, "n": [0, 1], "x": None}


def test_texts_that_hdf5_cannot_hold_are_made_harmless(tmp_path: Path) -> None:
    """A refusal with a NUL or a lone surrogate in its text is recorded all the same."""
    header = sample_header()
    path = tmp_path / "trace.journal"
    with JournalWriter(path, header) as journal:
        journal.append(sample_cycle(header, 100))
        journal.append(OutcomeRecord(cycle=100, reason="late", detail="a\0b\udcff"))
    assert recover(path).report.whole


def test_files_and_header_are_told_apart() -> None:
    """Each kind of record is encoded under its own name."""
    from memrl_ctrl.trace.codec import decode

    assert decode(encode(FileRecord(name="a", data=b""))) == FileRecord(name="a", data=b"")
    assert isinstance(decode(encode(sample_header())), TraceHeader)
