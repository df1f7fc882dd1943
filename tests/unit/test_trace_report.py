"""A report says how much is lost, and where, in words that are true of each kind of loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import Signer, read_journal, recover, verify
from memrl_ctrl.trace.journal import HEAD, record_head
from memrl_ctrl.trace.records import CycleRecord, EndRecord
from memrl_ctrl.trace.report import Damage, TraceReport


def place(kind: str, size: int = 0) -> Damage:
    return Damage(
        kind=kind,  # type: ignore[arg-type]
        offset=5,
        size=size,
        sequence=7,
        after_cycle=3,
        text="it is so",
    )


def report(*damage: Damage, cycles: int = 20, end: EndRecord | None = None) -> TraceReport:
    return TraceReport(
        path=Path("trace.h5"),
        cycles=cycles,
        first_cycle=1,
        last_cycle=cycles,
        end=end,
        live=False,
        size_bytes=9000,
        damage=damage,
    )


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ([("torn", 30), ("altered", 12)], "42 bytes are lost"),
        ([("missing", 0)], "records are missing in 1 place"),
        ([("memory", 0)], "the policy's memory is missing in 1 cycle"),
        ([("memory", 0)] * 2, "the policy's memory is missing in 2 cycles"),
        ([("altered", 0)], "1 place of the file is altered"),
        ([("altered", 0), ("altered", 0)], "2 places of the file are altered"),
        (
            [("damaged", 8), ("missing", 0), ("missing", 0)],
            "8 bytes are lost, records are missing in 2 places",
        ),
    ],
)
def test_every_kind_of_loss_has_its_words(kinds: list[tuple[str, int]], words: str) -> None:
    """No report of a loss says that zero bytes are lost."""
    found = report(*(place(kind, size) for kind, size in kinds))
    assert found.extent() == found.sentences()[-1] == words
    assert found.loss().startswith(f"not whole: {words}; 20 cycles are there")
    assert "0 bytes" not in " ".join(report(place("missing")).sentences())


def test_cycles_that_the_end_counts_are_missed_by_number() -> None:
    """Where the run's end is there, the missing cycles are counted."""
    end = EndRecord(cycles=30, ended_utc="2026-01-01T00:00:00+00:00", reason="")
    found = report(place("missing"), end=end)
    assert found.extent() == "10 of 30 cycles are missing, records are missing in 1 place"
    assert report(end=end, cycles=30).extent() == ""


def test_a_false_signature_is_found_where_it_stands(tmp_path: Path) -> None:
    """Its byte in the journal, its record, and the cycle before it; in the HDF5 file no byte."""
    journal = tmp_path / "trace.journal"
    write_sample_journal(journal, signer=Signer(bytes(range(32))))
    with read_journal(journal) as reader:
        entries = list(reader.entries())
    last = entries[-1]
    last_cycle = [e.record.cycle for e in entries if isinstance(e.record, CycleRecord)][-1]
    data = bytearray(journal.read_bytes())
    _, _, version, kind, _, sequence, previous = HEAD.unpack(last.head)
    other = Signer(bytes(range(1, 33))).sign("another run", sequence, previous)
    from memrl_ctrl.trace.codec import encode

    payload = encode(other)
    data[last.offset :] = record_head(kind, payload, sequence, previous, version) + payload
    journal.write_bytes(data)
    (false,) = verify(journal).damage
    assert (false.offset, false.sequence, false.after_cycle) == (
        last.offset,
        last.sequence,
        last_cycle,
    )
    assert false.sentence().startswith(
        f"altered at byte {last.offset} (record {last.sequence}, after cycle {last_cycle}): a signature"
    )
    hdf5 = recover(journal).hdf5
    assert verify(hdf5).damage == (false,)
