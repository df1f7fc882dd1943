"""The HDF5 file holds exactly what the journal holds, and anybody can read it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import (
    sample_cycle,
    sample_header,
    sample_outcome,
    write_sample_journal,
)
from memrl_ctrl.trace import (
    CycleRecord,
    JournalWriter,
    TraceReader,
    build_hdf5,
    new_run_folder,
    read_journal,
    recover,
    verify,
)
from memrl_ctrl.trace.codec import encode
from memrl_ctrl.trace.heads import HeadCheck


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with journal and HDF5 file."""
    write_sample_journal(tmp_path / "trace.journal", 70)
    recover(tmp_path)
    return tmp_path


def cycle_offset(journal: Path, index: int) -> tuple[int, int]:
    """Return offset and size of a cycle's record."""
    with read_journal(journal) as reader:
        cycles = [e for e in reader.entries() if isinstance(e.record, CycleRecord)]
    return cycles[index].offset, cycles[index].size


def test_hdf5_gives_back_every_record_to_the_bit(run: Path) -> None:
    """Cycles and outcomes from the HDF5 file encode to the journal's very bytes."""
    with read_journal(run / "trace.journal") as journal, TraceReader(run / "trace.h5") as trace:
        written = [r for r in journal if isinstance(r, CycleRecord)]
        assert [encode(record) for record in trace] == [encode(record) for record in written]
        assert len(trace) == 70
        assert encode(trace.header) == encode(journal.header)
        assert trace.header.files == journal.header.files
        for index, record in enumerate(written):
            expected, found = sample_outcome(record), trace.outcome(index)
            assert (found is None) == (expected is None)
            if expected is not None and found is not None:
                assert encode(found) == encode(expected)
        assert encode(trace.record(-1)) == encode(written[-1])


def test_a_journal_reads_like_its_hdf5(run: Path) -> None:
    """The reader gives the same for the journal as for the file made from it."""
    with TraceReader(run / "trace.journal") as left, TraceReader(run / "trace.h5") as right:
        assert left.names == right.names
        assert [encode(a) for a in left] == [encode(b) for b in right]
        np.testing.assert_array_equal(left.heads(), right.heads())


def test_the_journal_can_be_made_again_from_the_hdf5(run: Path) -> None:
    """Heads and re-encoded records give the journal's records back in their plain form, byte for byte."""
    with TraceReader(run / "trace.h5") as trace:
        check = HeadCheck(trace)
        data = []
        for head in trace.heads():
            from memrl_ctrl.trace.codec import Kind
            from memrl_ctrl.trace.journal import HEAD

            kind = Kind(HEAD.unpack(head.tobytes())[3])
            data.append(head.tobytes() + encode(check._record(kind)))
    with read_journal(run / "trace.journal") as journal:
        assert data == [entry.head + entry.payload for entry in journal.entries()]


def test_plain_h5py_reads_it(run: Path) -> None:
    """Stacked columns, units, provenance and JSON are there for a reader that knows only HDF5."""
    with h5py.File(run / "trace.h5", "r") as file:
        assert file.attrs["format"] == "memrl-ctrl trace"
        assert file.attrs["schema_version"] == 3
        assert file.attrs["cycles"] == 70
        profile = file["cycles/profile"]
        assert profile.shape == (70, 3, 16)
        assert profile.dtype == np.dtype("<f4")
        assert profile.compression == "gzip"
        assert file["cycles/applied_rad"].attrs["units"] == "rad"
        assert file["cycles/measures/bunch%2Elength%2Fs"].attrs["units"] == "s"
        assert file["cycles/cycle"][:].tolist() == list(range(100, 170))
        assert file["cycles/mode"].asstr()[0] == "closed-loop"
        assert json.loads(file["cycles/events_json"].asstr()[1])[0]["kind"] == "operator"
        assert json.loads(file["header/configuration_json"].asstr()[()])["cycles"] == 3
        assert file["files/0"].attrs["description"] in {"program.yaml", "policy.onnx"}
        ran = file["cycles/policy_ran"][:]
        assert np.isnan(file["cycles/action"][:][ran == 0]).all()
        assert file["cycles/timings_ns/infer"][3] == -1


def test_only_plain_types_and_filters_are_used(run: Path) -> None:
    """Integers, floats and strings, gzip and shuffle: nothing that MATLAB or h5dump lacks."""
    with h5py.File(run / "trace.h5", "r") as file:

        def check(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                text = h5py.check_string_dtype(item.dtype)
                assert text is not None or item.dtype.kind in "iuf", name
                assert item.compression in (None, "gzip"), name
                assert not item.fletcher32, name
            values = item.attrs.items()  # type: ignore[attr-defined]
            assert all(isinstance(v, str | np.integer | np.floating) for _, v in values), name

        file.visititems(check)


def test_h5dump_reads_it(run: Path) -> None:
    """HDF5's own tool reads structure and values."""
    tool = shutil.which("h5dump")
    if tool is None:
        pytest.skip("h5dump is not installed (Debian: hdf5-tools)")
    command = [tool, "-d", "/cycles/applied_rad", str(run / "trace.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "70, 3" in done.stdout
    subprocess.run([tool, str(run / "trace.h5")], capture_output=True, check=True)


def test_a_whole_trace_verifies(run: Path) -> None:
    """Nothing is found wrong with a run that ended by itself, in either form."""
    for name in ("trace.h5", "trace.journal"):
        report = verify(run / name)
        assert report.whole
        assert report.cycles == 70
        assert (report.first_cycle, report.last_cycle) == (100, 169)
        assert report.end is not None
    assert "nothing is lost" in verify(run).sentences()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("cycles/profile", 0.5),
        ("cycles/action", 0.5),
        ("cycles/mode", "manual"),
        ("cycles/target_cycle", 7),
        ("outcomes/fence", 9),
        ("cycles/events_json", '[{"kind":"x"}]'),
    ],
)
def test_a_changed_value_in_the_hdf5_is_located(run: Path, column: str, value: object) -> None:
    """A value that was changed afterwards is found, with the record that it is in."""
    with h5py.File(run / "trace.h5", "r+") as file:
        file[column][2] = value
    report = verify(run / "trace.h5")
    assert len(report.damage) == 1
    assert report.damage[0].kind == "altered"
    assert report.damage[0].after_cycle == 101


def test_a_damaged_hdf5_is_located_or_refused(run: Path) -> None:
    """Flipped bytes anywhere in the HDF5 file give a report or a sentence, never a traceback."""
    data = (run / "trace.h5").read_bytes()
    rng = np.random.default_rng(1)
    damaged_file = run / "damaged.h5"
    outcomes: set[bool | str] = set()
    for position in rng.integers(0, len(data), 25):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        damaged_file.write_bytes(damaged)
        try:
            outcomes.add(verify(damaged_file).whole)
        except TraceError as error:
            outcomes.add(str(error).partition(":")[0])
    assert False in outcomes
    assert outcomes <= {True, False, str(damaged_file)}


def test_damage_in_the_journal_is_told_by_the_hdf5(tmp_path: Path) -> None:
    """What was lost of the journal stands in the file that was made from it; the rest is there."""
    journal = tmp_path / "trace.journal"
    write_sample_journal(journal, 6)
    offset, size = cycle_offset(journal, 2)
    data = bytearray(journal.read_bytes())
    data[offset + 200] ^= 1
    journal.write_bytes(data[:-10])
    recovery = recover(tmp_path)
    assert recovery.report.cycles == 5
    with TraceReader(recovery.hdf5) as trace:
        assert trace.cycles.tolist() == [100, 101, 103, 104, 105]
        assert [place.kind for place in trace.damage] == ["damaged", "torn"]
        assert trace.damage[0].size == size
        assert trace.damage[0].after_cycle == 101
        assert trace.report.end is None
        assert trace.record(2).cycle == 103
        # The outcome of the lost cycle is nobody's.
        assert trace.outcome(1) is None
    report = verify(recovery.hdf5)
    assert len(report.damage) == 2


def test_a_failed_build_leaves_what_was_there(run: Path) -> None:
    """A journal that cannot be used leaves the earlier HDF5 file and no half-made one."""
    before = (run / "trace.h5").read_bytes()
    (run / "trace.journal").write_bytes(b"junk" * 1000)
    with pytest.raises(TraceError, match="no trace journal"):
        build_hdf5(run / "trace.journal", run / "trace.h5")
    assert (run / "trace.h5").read_bytes() == before
    write_sample_journal(run / "good.journal", 2)
    with pytest.raises(TraceError, match="cannot be written"):
        build_hdf5(run / "good.journal", run / "none" / "trace.h5")
    assert sorted(p.name for p in run.iterdir()) == [
        "good.journal",
        "trace.h5",
        "trace.h5.sha256",
        "trace.journal",
    ]


def test_a_folder_means_its_newest_form(tmp_path: Path) -> None:
    """In a folder the HDF5 file counts, unless the journal has grown since."""
    header = sample_header()
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        journal.append(sample_cycle(header, 100))
        recover(tmp_path)
        with TraceReader(tmp_path) as trace:
            assert trace.path.name == "trace.h5"
        journal.append(sample_cycle(header, 101))
        with TraceReader(tmp_path) as trace:
            assert trace.path.name == "trace.journal"
            assert len(trace) == 2


def test_a_run_without_cycles_or_guard_is_a_trace_too(tmp_path: Path) -> None:
    """A run that was stopped before its first cycle, or has no guard stages, can be read."""
    import dataclasses

    header = dataclasses.replace(sample_header(), guard_stages=(), measures={})
    with JournalWriter(tmp_path / "trace.journal", header):
        pass
    recover(tmp_path)
    with TraceReader(tmp_path / "trace.h5") as trace:
        assert len(trace) == 0
        assert list(trace) == []
        assert trace.report.first_cycle is None
    other = tmp_path / "other.journal"
    record = dataclasses.replace(
        sample_cycle(header, 100), verdicts=np.zeros((3, 0), dtype=np.uint8), measures={}
    )
    with JournalWriter(other, header) as journal:
        journal.append(record)
    assert recover(other).hdf5.name == "other.h5"
    with TraceReader(tmp_path / "other.h5") as trace:
        assert encode(trace.record(0)) == encode(record)
    assert verify(tmp_path / "other.h5").whole


def test_a_policy_that_comes_later_fills_its_columns_from_there(tmp_path: Path) -> None:
    """Columns that begin in a later block are filled with NaN before it."""
    import dataclasses

    header = sample_header()
    records = [dataclasses.replace(sample_cycle(header, c), policy=None) for c in range(70)]
    records.append(sample_cycle(header, 70))
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        for record in records:
            journal.append(record, durable=False)
    recover(tmp_path)
    with TraceReader(tmp_path) as trace:
        assert trace.array("action").shape == (71, 3, 1)
        assert np.isnan(trace.array("action", slice(0, 70))).all()
        assert encode(trace.record(70)) == encode(records[70])


def test_wrong_use_of_a_reader_is_a_sentence(run: Path, tmp_path: Path) -> None:
    """Unknown columns, wrong indices and foreign files are named with what there is."""
    with TraceReader(run) as trace:
        with pytest.raises(TraceError, match="no column 'profil'; there is: cycles/action"):
            trace.array("profil")
        with pytest.raises(IndexError, match="cycle index 70; the trace has 70 cycles"):
            trace.record(70)
        with pytest.raises(ValueError, match="read-only"):
            trace.record(0).reading.profile[0, 0] = 1.0
    with pytest.raises(TraceError, match="does not exist"):
        TraceReader(tmp_path / "none.h5")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match=r"holds no trace: neither trace.h5 nor trace.journal"):
        TraceReader(tmp_path / "empty")
    (tmp_path / "junk.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(TraceError, match="cannot be opened as HDF5"):
        TraceReader(tmp_path / "junk.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(TraceError, match="is HDF5, but no trace of memrl-ctrl"):
        TraceReader(tmp_path / "foreign.h5")
    with h5py.File(run / "trace.h5", "r+") as file:
        file.attrs["schema_version"] = np.int32(9)
    with pytest.raises(TraceError, match="schema version 9; this release reads 1"):
        TraceReader(run / "trace.h5")


def test_recover_takes_journals_only(run: Path, tmp_path: Path) -> None:
    """Recover names what it needs where it gets something else."""
    with pytest.raises(TraceError, match="is HDF5 already"):
        recover(run / "trace.h5")
    with pytest.raises(TraceError, match="there is no journal to recover"):
        recover(tmp_path / "none")


def test_run_folders_have_names_of_their_own(tmp_path: Path) -> None:
    """Two runs begun in one second get two folders."""
    folders = {new_run_folder(tmp_path / "records", "shadow") for _ in range(3)}
    assert len(folders) == 3
    assert all("-shadow" in folder.name and folder.is_dir() for folder in folders)
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="no run folder can be made here"):
        new_run_folder(tmp_path / "file", "shadow")


def test_progress_is_told(run: Path) -> None:
    """Building and verifying say how far they are, up to the end."""
    told: list[tuple[int, int]] = []
    recover(run, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == (run / "trace.journal").stat().st_size
    told.clear()
    verify(run / "trace.h5", lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 70
