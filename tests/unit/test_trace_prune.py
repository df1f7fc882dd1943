"""Pruning frees room and never what is not known to be whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memrl_ctrl.testing.traces import sample_cycle, sample_header, write_sample_journal
from memrl_ctrl.trace import JournalWriter, TraceReader, recover, verify
from memrl_ctrl.trace.prune import Drop, prune

INDEXED = ["trace.h5", "trace.h5.sha256"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run, with both its files."""
    folder = tmp_path / "records" / "a-run"
    folder.mkdir(parents=True)
    write_sample_journal(folder / "trace.journal")
    recover(folder)
    return folder


def kept(folder: Path, **options: object) -> str:
    """Why a run was kept; empty if something was deleted."""
    (done,) = prune(folder, **options)  # type: ignore[arg-type]
    return done.kept


def test_the_hdf5_file_goes_and_can_be_made_again(run: Path) -> None:
    """By default the indexed form is deleted, its size is told, and the journal is untouched."""
    size = sum((run / name).stat().st_size for name in INDEXED)
    journal = (run / "trace.journal").read_bytes()
    (planned,) = prune(run.parent, dry_run=True)
    assert (planned.freed_bytes, planned.kept) == (size, "")
    assert (run / "trace.h5").is_file()
    (done,) = prune(run.parent)
    assert done.freed_bytes == size
    assert [path.name for path in run.iterdir()] == ["trace.journal"]
    assert (run / "trace.journal").read_bytes() == journal
    assert recover(run).report.whole
    assert kept(run, drop=Drop.HDF5) == ""
    assert kept(run, drop=Drop.HDF5) == "has its trace.journal only"


def test_the_journal_goes_only_where_the_hdf5_holds_it_all(run: Path) -> None:
    """A whole HDF5 file replaces its journal; a changed one does not."""
    assert kept(run, drop=Drop.JOURNAL) == ""
    assert sorted(path.name for path in run.iterdir()) == INDEXED
    assert verify(run).whole
    with TraceReader(run) as trace:
        assert len(trace) == 6


def test_a_changed_hdf5_file_keeps_the_journal(run: Path) -> None:
    """One altered value in the HDF5 file, and nothing is deleted."""
    import h5py

    with h5py.File(run / "trace.h5", "r+") as file:
        file["cycles/applied_rad"][2, 1] += 1e-9
    for drop in Drop:
        assert "is not whole" in kept(run, drop=drop)
    assert sorted(path.name for path in run.iterdir()) == [*INDEXED, "trace.journal"]


def test_a_damaged_journal_keeps_the_hdf5_file_that_has_more(run: Path) -> None:
    """Where the journal lost a cycle that the HDF5 file still has, the HDF5 file stays."""
    data = bytearray((run / "trace.journal").read_bytes())
    data[len(data) * 2 // 3] ^= 1
    (run / "trace.journal").write_bytes(data)
    assert "does not hold all that trace.h5 holds" in kept(run, drop=Drop.HDF5)
    assert "is not whole" in kept(run, drop=Drop.RUN)
    assert kept(run, drop=Drop.RUN, unverified=True) == ""
    assert not run.exists()


def test_a_run_that_is_recorded_is_never_touched(tmp_path: Path) -> None:
    """Not even when it is told to delete what is not verified."""
    header = sample_header()
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        journal.append(sample_cycle(header, 1))
        recover(tmp_path)
        for drop in Drop:
            assert kept(tmp_path, drop=drop, unverified=True) == "is being recorded"
    assert sorted(path.name for path in tmp_path.iterdir()) == [*INDEXED, "trace.journal"]


def test_newer_runs_are_kept(run: Path) -> None:
    """A run that was written to within the given days stays."""
    assert kept(run, older_than_days=1.0) == "is newer"
    for path in run.iterdir():
        os.utime(path, (0, 0))
    assert kept(run, older_than_days=1.0, drop=Drop.RUN) == ""
    assert not run.exists()


def test_the_only_copy_of_another_run_is_not_pruned(tmp_path: Path) -> None:
    """Two killed runs of as many cycles: the file of one does not stand for the other's, verified or not."""
    folders = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        header = sample_header()
        with JournalWriter(folder / "trace.journal", header) as journal:
            journal.append(sample_cycle(header, 1))
            size = journal.size_bytes
        os.truncate(folder / "trace.journal", size)
        recover(folder)
        folders.append(folder)
    (folders[0] / "trace.h5").replace(folders[1] / "trace.h5")
    for drop in (Drop.HDF5, Drop.JOURNAL):
        for unverified in (False, True):
            assert "holds: another run" in kept(folders[1], drop=drop, unverified=unverified)
    assert sorted(path.name for path in folders[1].iterdir()) == [*INDEXED, "trace.journal"]
