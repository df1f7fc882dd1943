"""The two files of a run are held against each other: neither silently costs what only the other holds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from memrl_ctrl.cli.trace import app
from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import sample_cycle, sample_header, write_sample_journal
from memrl_ctrl.trace import JournalWriter, TraceReader, recover, verify


def call(*tokens: str | Path) -> object:
    """Run a command of the family and return its exit code."""
    words = [str(token) for token in tokens]
    return app(words, result_action="return_value", exit_on_error=False, print_error=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run, with both its files."""
    return made(tmp_path / "records" / "run-a")


def made(folder: Path, cycles: int = 6, mode: str = "closed-loop") -> Path:
    """Make the folder of a finished run, with both its files."""
    folder.mkdir(parents=True)
    write_sample_journal(folder / "trace.journal", cycles, sample_header(mode=mode))
    recover(folder)
    return folder


def cut(journal: Path, share: float = 0.7) -> None:
    os.truncate(journal, int(journal.stat().st_size * share))


def flip(journal: Path, share: float = 0.7) -> None:
    data = bytearray(journal.read_bytes())
    data[int(len(data) * share)] ^= 1
    journal.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_journal_does_not_replace_a_whole_hdf5_file(run: Path, damage: object) -> None:
    """Cycles that only the HDF5 file holds are not overwritten, and a sentence says which and what to do."""
    before = (run / "trace.h5").read_bytes()
    damage(run / "trace.journal")  # type: ignore[operator]
    with pytest.raises(
        TraceError,
        match=r"trace\.h5: holds .*cycle.* which trace\.journal beside it does "
        r"not give: it stays as it is.*move trace\.h5 away first",
    ) as told:
        recover(run)
    assert told.value.exit_code == 3
    assert (run / "trace.h5").read_bytes() == before
    assert sorted(path.name for path in run.iterdir()) == [
        "trace.h5",
        "trace.h5.sha256",
        "trace.journal",
    ]
    (run / "trace.h5").rename(run / "whole.h5")
    assert not recover(run).report.whole


def test_recover_of_a_folder_leaves_a_run_whose_journal_was_cut(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A journal that is shorter than when its HDF5 file was made has not grown: nothing is recovered."""
    before = (run / "trace.h5").read_bytes()
    cut(run / "trace.journal")
    assert call("recover", run.parent) == 0
    assert "nothing to recover" in capsys.readouterr().out
    assert (run / "trace.h5").read_bytes() == before
    with TraceReader(run) as trace:
        assert len(trace) == 6


def test_another_runs_journal_does_not_replace_the_hdf5_file(run: Path, tmp_path: Path) -> None:
    """A journal that came from another run is told by both identities, and overwrites nothing."""
    other = made(tmp_path / "b", cycles=9)
    shutil.copy(other / "trace.journal", run / "trace.journal")
    before = (run / "trace.h5").read_bytes()
    with TraceReader(run / "trace.h5") as mine, TraceReader(other) as foreign:
        both = f"another run ({mine.header.run_id}, not {foreign.header.run_id})"
    with pytest.raises(TraceError, match="holds another run") as told:
        recover(run)
    assert both in str(told.value)
    assert (run / "trace.h5").read_bytes() == before


def test_an_altered_hdf5_file_is_made_anew(run: Path) -> None:
    """Where the journal gives every record, what was changed in the HDF5 file is put right."""
    with h5py.File(run / "trace.h5", "r+") as file:
        file["cycles/applied_rad"][2, 1] += 1.0
    assert not verify(run / "trace.h5").whole
    assert recover(run).report.whole
    assert verify(run / "trace.h5").whole


def test_a_recovered_file_is_replaced_once_the_journal_is_back(run: Path) -> None:
    """A file with loss gives way to the one of the whole journal, and not the other way round."""
    whole = (run / "trace.journal").read_bytes()
    flip(run / "trace.journal", 0.5)
    (run / "trace.h5").unlink()
    assert recover(run).report.cycles < 6
    (run / "trace.journal").write_bytes(whole)
    assert recover(run).report.whole
    cut(run / "trace.journal")
    with pytest.raises(TraceError, match="stays as it is"):
        recover(run)


def test_a_file_of_a_later_release_is_not_replaced(run: Path) -> None:
    """What this release cannot read, but a later one can, stays."""
    with h5py.File(run / "trace.h5", "r+") as file:
        file.attrs["schema_version"] = 99
    with pytest.raises(TraceError, match="was written by a later release"):
        recover(run)


@pytest.mark.parametrize("content", [b"", b"junk" * 500_000], ids=["empty", "longer"])
def test_where_the_journal_is_unusable_the_hdf5_file_counts(run: Path, content: bytes) -> None:
    """An empty or foreign journal beside a whole HDF5 file costs nothing, shorter or longer."""
    (run / "trace.journal").write_bytes(content)
    with TraceReader(run) as trace:
        assert (trace.path.name, len(trace)) == ("trace.h5", 6)
    with pytest.raises(TraceError, match=r"no whole record; trace\.h5 beside it stays as it is"):
        recover(run)


def random_bytes(run: Path) -> None:
    size = (run / "trace.journal").stat().st_size
    (run / "trace.journal").write_bytes(bytes(i * 7919 % 251 for i in range(size)))


def empty(run: Path) -> None:
    (run / "trace.journal").write_bytes(b"")


def no_hdf5(run: Path) -> None:
    (run / "trace.h5").write_bytes(b"broken")


def hollow_hdf5(run: Path) -> None:
    with h5py.File(run / "trace.h5", "r+") as file:
        del file["cycles"]


def cut_journal(run: Path) -> None:
    cut(run / "trace.journal")


def flipped_journal(run: Path) -> None:
    flip(run / "trace.journal")


def altered_hdf5(run: Path) -> None:
    with h5py.File(run / "trace.h5", "r+") as file:
        file["cycles/applied_rad"][2, 1] += 1.0


def longer_hdf5(run: Path) -> None:
    shutil.copy(made(run.parent.parent / "b", cycles=9) / "trace.h5", run / "trace.h5")


def shorter_hdf5(run: Path) -> None:
    shutil.copy(made(run.parent.parent / "b", cycles=3) / "trace.h5", run / "trace.h5")


def recovered(run: Path) -> None:
    (run / "trace.h5").unlink()
    flip(run / "trace.journal", 0.5)
    recover(run)


@pytest.mark.parametrize(
    ("change", "counts", "told"),
    [
        (None, "trace.h5", "trace.journal beside it holds the same records"),
        (empty, "trace.h5", "trace.journal beside it is unusable: no trace journal"),
        (random_bytes, "trace.h5", "trace.journal beside it is unusable: no trace journal"),
        (no_hdf5, "trace.journal", "trace.h5 beside it is unusable: cannot be opened as HDF5"),
        (hollow_hdf5, "trace.journal", "trace.h5 beside it is unusable: damaged"),
        (cut_journal, "trace.h5", "trace.journal beside it lacks 3 cycles (103 to 105) and is not"),
        (flipped_journal, "trace.h5", "trace.journal beside it lacks "),
        (altered_hdf5, "trace.h5", "trace.journal beside it holds the same records and is whole"),
        (longer_hdf5, "trace.h5", "trace.journal beside it is of another run: "),
        (shorter_hdf5, "trace.journal", "trace.h5 beside it is of another run: "),
        (recovered, "trace.h5", "trace.journal beside it holds the same records"),
    ],
)
def test_verify_of_a_folder_speaks_of_both_files(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None] | None,
    counts: str,
    told: str,
) -> None:
    """Whatever became of one of the two files is said, with exit code 3; the other one is used."""
    if change is not None:
        change(run)
    assert call("verify", run) == (0 if change is None else 3)
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"{run / counts}:")
    assert told in text


def test_an_hdf5_file_that_is_only_older_is_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made while the run went on, it lacks what came later, and that is told."""
    header = sample_header()
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        journal.append(sample_cycle(header, 1))
        recover(tmp_path)
        journal.append(sample_cycle(header, 2))
    assert call("verify", tmp_path) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "trace.h5 beside it is older and lacks cycle 2; `memrl-ctrl trace recover`" in text


def test_a_folder_with_two_unusable_files_is_unusable(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and both files are named."""
    empty(run)
    no_hdf5(run)
    assert call("verify", run) == 1
    text = " ".join(capsys.readouterr().err.split())
    assert "no trace journal" in text
    assert "trace.h5 beside it is unusable" in text
