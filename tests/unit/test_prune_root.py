"""Pruning deletes files of verified runs, and nothing that lies beside or below them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from memrl_ctrl.cli.trace import ls, recover
from memrl_ctrl.cli.trace import prune as prune_command
from memrl_ctrl.testing.traces import sample_cycle, sample_header, write_sample_journal
from memrl_ctrl.trace import JournalWriter
from memrl_ctrl.trace import recover as recover_trace
from memrl_ctrl.trace.plot import PICTURES
from memrl_ctrl.trace.prune import Drop, Pruned, prune

FILES = ["trace.h5", "trace.h5.sha256", "trace.journal"]


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_sample_journal(folder / "trace.journal")
    recover_trace(folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pruned(root: Path, **options: object) -> dict[str, Pruned]:
    return {done.folder.name: done for done in prune(root, **options)}  # type: ignore[arg-type]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder of a whole run, a damaged one and one that is recorded, with a trace in the folder itself."""
    root = tmp_path / "records"
    make_run(root / "a-whole")
    damaged = make_run(root / "b-damaged")
    data = bytearray((damaged / "trace.journal").read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / "trace.journal").write_bytes(data)
    shutil.copy(root / "a-whole" / "trace.h5", root)
    return root


def test_a_trace_in_the_folder_of_the_runs_does_not_cost_the_runs(records: Path) -> None:
    """Of `--drop run` each run is judged by itself, and the folder itself is one of them."""
    live = records / "c-live"
    live.mkdir()
    header = sample_header()
    with JournalWriter(live / "trace.journal", header) as journal:
        journal.append(sample_cycle(header, 1))
        done = pruned(records, drop=Drop.RUN)
    assert list(done) == ["records", "a-whole", "b-damaged", "c-live"]
    assert (done["records"].kept, done["a-whole"].kept) == ("", "")
    assert done["records"].left == ("a-whole", "b-damaged", "c-live")
    assert "is not whole" in done["b-damaged"].kept
    assert done["c-live"].kept == "is being recorded"
    assert names(records) == ["b-damaged", "c-live"]
    assert names(records / "b-damaged") == FILES
    assert names(live) == ["trace.journal"]


def test_a_trace_in_the_folder_of_the_runs_hides_none(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ls` and `recover` see the folder itself and the runs in it."""
    ls(records)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("records", "a-whole", "b-damaged"))
    (records / "a-whole" / "trace.h5").unlink()
    assert recover(records) == 0
    assert names(records / "a-whole") == FILES


def test_what_is_not_of_the_run_stays_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exports and pictures under the names they are given unasked go with the run, and nothing else."""
    run = make_run(tmp_path / "run")
    (run / "plots").mkdir()
    for name in (*PICTURES, "mine.png"):
        (run / "plots" / name).write_text("picture")
    for name in ("trace.csv", "trace.parquet", "trace.mcap", "notes.txt", "other.h5"):
        (run / name).write_text("made")
    size = sum(path.stat().st_size for path in run.glob("trace.*")) + len("picture") * len(PICTURES)
    (planned,) = prune(run, drop=Drop.RUN, dry_run=True)
    assert prune_command(run, drop=Drop.RUN) == 0
    assert planned.left == ("notes.txt", "other.h5", "plots")
    assert planned.freed_bytes == size
    assert "not of the run, and kept: notes.txt, other.h5, plots" in capsys.readouterr().out
    assert names(run) == ["notes.txt", "other.h5", "plots"]
    assert names(run / "plots") == ["mine.png"]


def test_a_run_with_its_pictures_only_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder goes with the last file, also where it is the current one."""
    run = make_run(tmp_path / "run")
    (run / "plots").mkdir()
    (run / "plots" / PICTURES[0]).write_text("picture")
    monkeypatch.chdir(run)
    (done,) = prune(Path(), drop=Drop.RUN)
    monkeypatch.undo()
    assert (done.kept, done.left) == ("", ())
    assert not run.exists()


def test_a_live_run_with_a_damaged_header_is_never_touched(tmp_path: Path) -> None:
    """Where the verification cannot say that it lives, the lock on its journal does."""
    header = sample_header()
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        with (tmp_path / "trace.journal").open("r+b") as file:
            file.write(bytes(journal.size_bytes))
        for drop in Drop:
            (done,) = prune(tmp_path, drop=drop, unverified=True)
            assert done.kept == "is being recorded"
        journal.append(sample_cycle(header, 1))
    assert names(tmp_path) == ["trace.journal"]


@pytest.mark.parametrize("with_digest", [True, False])
def test_a_journal_stays_where_the_hdf5_file_was_altered(tmp_path: Path, with_digest: bool) -> None:
    """`--unverified` does not make a changed HDF5 file stand for a whole journal."""
    run = make_run(tmp_path / "run")
    with h5py.File(run / "trace.h5", "r+") as file:
        file["cycles/applied_rad"][2, 1] += 1e-9
    if not with_digest:
        (run / "trace.h5.sha256").unlink()
    (done,) = prune(run, drop=Drop.JOURNAL, unverified=True)
    assert "is not whole: altered" in done.kept
    assert (run / "trace.journal").is_file()


def test_a_damaged_journal_may_go_where_the_hdf5_file_has_all_of_it(tmp_path: Path) -> None:
    """What the HDF5 file itself tells of the journal's losses is overruled by `--unverified`."""
    run = tmp_path / "run"
    run.mkdir()
    write_sample_journal(run / "trace.journal")
    data = bytearray((run / "trace.journal").read_bytes())
    data[len(data) * 2 // 3] ^= 1
    (run / "trace.journal").write_bytes(data)
    recover_trace(run)
    (done,) = prune(run, drop=Drop.JOURNAL)
    assert "is not whole" in done.kept
    (done,) = prune(run, drop=Drop.JOURNAL, unverified=True)
    assert done.kept == ""
    assert names(run) == ["trace.h5", "trace.h5.sha256"]


def test_a_symbolic_link_to_a_run_is_left_alone(tmp_path: Path) -> None:
    """The dry run says so too, and the runs behind it have their turn."""
    elsewhere = make_run(tmp_path / "elsewhere")
    root = tmp_path / "records"
    make_run(root / "b")
    (root / "a").symlink_to(elsewhere)
    for dry_run in (True, False):
        done = pruned(root, drop=Drop.RUN, dry_run=dry_run)
        assert done["a"].kept.startswith("is a symbolic link")
        assert not done["a"].doubtful
        assert done["b"].kept == ""
    assert names(elsewhere) == FILES
    assert names(root) == ["a"]


def test_a_run_that_cannot_be_deleted_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told why, and the truth is what stays."""
    make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == tmp_path / "a" / "trace.journal":
            raise PermissionError(1, "Operation not permitted")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    done = pruned(tmp_path, drop=Drop.RUN)
    assert done["a"].kept == "cannot be deleted: Operation not permitted"
    assert done["a"].freed_bytes > 0
    assert done["b"].kept == ""
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["trace.journal"]


def test_what_a_killed_recover_left_goes(tmp_path: Path) -> None:
    """An unfinished file goes with the next `recover` or `prune`, if the process that wrote it is gone."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    run = make_run(tmp_path / "run")
    dead = run / f".trace.h5.{int(gone.stdout)}.part"
    kept = [run / f".trace.h5.{os.getppid()}.part", run / ".trace.h5.x.part"]
    for path in (dead, *kept):
        path.write_bytes(b"unfinished")
    recover_trace(run)
    assert names(run) == sorted(path.name for path in kept) + FILES
    dead.write_bytes(b"unfinished")
    (done,) = prune(run)
    assert done.freed_bytes > 10
    assert names(run) == sorted([*(path.name for path in kept), "trace.journal"])
