"""What is made from an altered trace says so, and no name of a folder acts on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from memrl_ctrl.cli.trace import export, ls, plot, prune, recover, verify
from memrl_ctrl.errors import FileError
from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import recover as recover_trace
from memrl_ctrl.trace.prune import Drop

NAME = "a\n\x1b[31mrun"
CLEAN = r"a\x0a\x1b[31mrun"


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_sample_journal(folder / "trace.journal")
    recover_trace(folder)
    return folder


@pytest.mark.parametrize("command", [export, plot], ids=["export", "plot"])
def test_an_altered_file_is_told_before_it_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Callable[[Path], None]
) -> None:
    """One sentence on stderr where the digest beside the file contradicts, and none where it does not."""
    run = make_run(tmp_path / "run")
    command(run)
    assert capsys.readouterr().err == ""
    with h5py.File(run / "trace.h5", "r+") as file:
        file["cycles/measures/asymmetry"][...] *= 0.01
    command(run)
    told = capsys.readouterr()
    assert "trace.h5: altered: its digest is not the one in trace.h5.sha256 beside it" in told.err
    assert told.err.count("\n") == 1
    assert "written" in told.out
    (run / "trace.h5.sha256").unlink()
    command(run)
    assert capsys.readouterr().err == ""


def test_names_of_folders_are_cleaned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command shows a folder's name without what would act on a terminal."""
    root = tmp_path / NAME
    run = make_run(root / NAME)
    ls(root)
    verify(run)
    recover(run)
    recover(root)
    plot(run)
    export(run)
    (run / NAME).write_text("mine")
    (run / "trace.journal").write_bytes((run / "trace.journal").read_bytes()[:-100])
    verify(run / "trace.journal")
    verify(root)
    prune(root, drop=Drop.RUN)
    prune(root, drop=Drop.RUN, unverified=True)
    ls(root)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert CLEAN in text
        assert "\x1b" not in text
        assert "a\n" not in text.replace("\\x0a", "")


def test_errors_clean_the_name_of_their_file() -> None:
    """Whoever prints the sentence of an error prints a clean path, and the path itself stays as it is."""
    error = FileError(Path(NAME), "is wrong", line=3)
    assert str(error) == f"{CLEAN}, line 3: is wrong"
    assert error.path == Path(NAME)
