"""An HDF5 file from which something was cut by hand is not called whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from memrl_ctrl.errors import FileError, TraceError
from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import Signer, TraceReader, TraceReport, read_journal, recover, verify
from memrl_ctrl.trace.codec import Kind
from memrl_ctrl.trace.journal import HEAD
from memrl_ctrl.trace.records import CycleRecord


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    """The HDF5 file of a signed run of six cycles."""
    write_sample_journal(tmp_path / "trace.journal", signer=Signer(bytes(range(32))))
    return recover(tmp_path).hdf5


def heads(file: Any, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    rows = file["journal/heads"][:]
    del file["journal/heads"]
    file["journal"].create_dataset("heads", data=change(rows))


def kinds(rows: np.ndarray[Any, Any]) -> list[int]:
    return [HEAD.unpack(row.tobytes())[3] for row in rows]


def checked(hdf5: Path) -> TraceReport:
    report = verify(hdf5)
    assert not report.whole
    return report


def test_cycles_that_were_cut_out_are_missed_though_no_damage_is_told(tmp_path: Path) -> None:
    """Records cut out of the journal, and the note of it out of the file: the hole in the numbers remains."""
    journal = tmp_path / "trace.journal"
    write_sample_journal(journal, 9)
    data = journal.read_bytes()
    with read_journal(journal) as reader:
        entries = [e for e in reader.entries() if isinstance(e.record, CycleRecord)]
    first, last = entries[3], entries[6]
    journal.write_bytes(data[: first.offset] + data[last.offset :])
    recovery = recover(journal)
    assert [d.kind for d in recovery.report.damage] == ["missing"]
    assert verify(recovery.hdf5).damage == recovery.report.damage
    with h5py.File(recovery.hdf5, "r+") as file:
        file["journal/damage_json"][()] = "[]"
        file.attrs["lost_bytes"] = 0
    places = checked(recovery.hdf5).damage
    assert [(d.kind, d.sequence, d.after_cycle) for d in places] == [
        ("missing", first.sequence, 102),
        ("altered", -1, 108),
    ]
    assert f"record {last.sequence} follows, {first.sequence} was expected" in places[0].text
    assert "the run recorded 9 cycles, and 6 are there" in places[1].text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.OUTCOME, "1 outcomes more than it has heads of records"),
        (Kind.END, "1 ends of the run more"),
        (Kind.SIGNATURE, "1 signatures more"),
        (Kind.CYCLE, "1 cycles more"),
        (Kind.FILE, "1 files more"),
    ],
)
def test_a_head_for_every_record(hdf5: Path, kind: Kind, text: str) -> None:
    """Whatever the last head of a kind is, it is missed."""
    with h5py.File(hdf5, "r+") as file:
        last = max(i for i, k in enumerate(kinds(file["journal/heads"][:])) if k == kind)
        heads(file, lambda rows: np.delete(rows, last, 0))
    assert any(text in place.text for place in checked(hdf5).damage)


def test_heads_that_were_cut_off_are_missed(hdf5: Path) -> None:
    """The last outcome, the end and its signature without heads: each is told."""
    with h5py.File(hdf5, "r+") as file:
        heads(file, lambda rows: rows[:-3])
    told = " ".join(place.sentence() for place in checked(hdf5).damage)
    for what in ("1 outcomes", "1 ends of the run", "1 signatures"):
        assert f"altered: {what} more than it has heads of records" in told


def test_a_count_of_cycles_that_is_not_true_is_told(hdf5: Path) -> None:
    """The rows count, not what the file says of itself; the difference is no whole trace."""
    with h5py.File(hdf5, "r+") as file:
        file.attrs["cycles"] = 1_000_000
    report = checked(hdf5)
    assert report.cycles == 6
    assert "it says that it holds 1000000 cycles, and holds 6" in report.sentences()[1]
    with TraceReader(hdf5) as trace:
        assert trace.report.cycles == 6
        assert not trace.report.whole


def test_heads_in_another_order_or_with_huge_numbers_are_told(hdf5: Path) -> None:
    """Numbers that go back or far ahead are altered heads; the check ends."""

    def huge(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows[8, 16:24] = 255
        return rows

    with h5py.File(hdf5, "r+") as file:
        heads(file, huge)
    places = checked(hdf5).damage
    assert any(place.kind == "missing" for place in places)
    assert any("stands after record" in place.text for place in places)


def no_unit(file: Any) -> None:
    file["cycles/applied_rad"].attrs["units"] = "deg"


def no_meaning(file: Any) -> None:
    """The function of a cycle in which none was written."""
    silent = int(np.flatnonzero(file["cycles/target_cycle"][:] < 0)[0])
    file["cycles/written_rad"][silent] = 1.0


def described(file: Any) -> None:
    file["cycles/applied_rad"].attrs["description"] = "phi_2"


def besides(file: Any) -> None:
    file["cycles/note"] = [1.0]


@pytest.mark.parametrize("change", [no_unit, no_meaning, described, besides])
def test_what_no_record_holds_cannot_be_changed_unseen(
    hdf5: Path, change: Callable[[Any], None]
) -> None:
    """The digest beside the file tells of it; that all records are right is said too, and what to do."""
    assert verify(hdf5).whole
    with h5py.File(hdf5, "r+") as file:
        change(file)
    places = checked(hdf5).damage
    if change is not besides:  # a column of another length is told by itself
        (place,) = places
        assert place.sentence().startswith(
            "altered: its bytes are not those whose digest stands in trace.h5.sha256"
        )
        assert "All records are as they were" in place.text
    assert not verify(hdf5.parent).whole
    recover(hdf5.parent)
    assert verify(hdf5.parent).whole


def test_the_digest_is_one_that_sha256sum_checks_and_none_is_no_fault(hdf5: Path) -> None:
    """A file that was copied without it is judged by its records; one of another file is told."""
    digest = hdf5.with_name("trace.h5.sha256")
    told = hashlib.sha256(hdf5.read_bytes()).hexdigest()
    assert digest.read_text() == f"{told}  trace.h5\n"
    digest.write_text(f"{'0' * 64}  trace.h5\n")
    assert not verify(hdf5).whole
    digest.unlink()
    assert verify(hdf5).whole


def test_an_altered_record_is_told_by_itself(hdf5: Path) -> None:
    """Where a record says what was changed, the digest says nothing more."""
    with h5py.File(hdf5, "r+") as file:
        file["cycles/applied_rad"][2, 1] += 1e-9
    (place,) = checked(hdf5).damage
    assert "its content differs from what the journal had" in place.text


def test_a_disk_that_fails_between_file_and_digest_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file without a digest is whole; with that of the file before it would not be."""
    write_sample_journal(tmp_path / "trace.journal", 3)
    recover(tmp_path)

    def full(path: Path, content: str) -> None:
        raise FileError(path, "cannot be written: No space left on device")

    monkeypatch.setattr("memrl_ctrl.trace.digest.write_output", full)
    with pytest.raises(TraceError, match="No space left on device"):
        recover(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.h5", "trace.journal"]
    assert verify(tmp_path).whole
