"""`memrl-ctrl trace` says in words and by exit code what a trace is worth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from memrl_ctrl.cli.trace import app
from memrl_ctrl.errors import FileError, TraceError, UsageError
from memrl_ctrl.testing.traces import sample_header, write_sample_journal
from memrl_ctrl.trace import JournalWriter, installed_signer, recover


def call(*tokens: str | Path) -> object:
    """Run a command of the family and return its exit code."""
    words: Sequence[str] = [str(token) for token in tokens]
    return app(words, result_action="return_value", exit_on_error=False, print_error=False)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with a finished run, one that was killed, and one that is junk."""
    for name in ("a-closed-loop", "b-shadow", "c-junk"):
        (tmp_path / name).mkdir()
    write_sample_journal(tmp_path / "a-closed-loop" / "trace.journal")
    recover(tmp_path / "a-closed-loop")
    killed = tmp_path / "b-shadow" / "trace.journal"
    write_sample_journal(killed, header=sample_header(mode="shadow"))
    os.truncate(killed, killed.stat().st_size - 700)
    (tmp_path / "c-junk" / "trace.journal").write_bytes(b"junk" * 100)
    return tmp_path


def test_ls_lists_every_run_with_its_state(
    records: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run has a line: finished, to be recovered, or unusable and why."""
    monkeypatch.setenv("COLUMNS", "400")
    call("ls", records)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "closed-loop" in lines[1]
    assert "ended" in lines[1]
    assert "not recovered" in lines[2]
    assert "unusable" in lines[3]


def test_ls_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty folder is told as such, a missing one is an error."""
    call("ls", tmp_path)
    assert "no traces" in capsys.readouterr().out
    with pytest.raises(TraceError, match="is no folder"):
        call("ls", tmp_path / "none")


def test_show_tells_where_a_trace_comes_from(
    records: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run, machine, policy, setpoints, versions and state are printed."""
    monkeypatch.setenv("COLUMNS", "200")
    call("show", records / "a-closed-loop")
    text = capsys.readouterr().out
    for words in ("psb, program made-up", "256 bytes, inside", "2 taken, 2 not", "6 cycles"):
        assert words in text
    call("show", records / "b-shadow" / "trace.journal")
    assert "bytes are lost" in capsys.readouterr().out


def test_verify_has_three_exit_codes(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for a whole trace, 3 for one with loss, 1 for what cannot be used."""
    assert call("verify", records / "a-closed-loop") == 0
    assert call("verify", records / "a-closed-loop" / "trace.journal") == 0
    assert call("verify", records / "b-shadow") == 3
    assert "torn at byte" in capsys.readouterr().out
    assert call("verify", records / "c-junk") == 1
    assert "unusable" in capsys.readouterr().err


def test_recover_makes_the_hdf5_of_a_killed_run(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recover writes what there is, says what is lost, and ends with 3 where something is."""
    assert call("recover", records / "b-shadow") == 3
    text = capsys.readouterr().out
    assert "cycles, 100 to" in text
    assert "bytes are lost" in text
    assert (records / "b-shadow" / "trace.h5").is_file()
    assert call("recover", records / "a-closed-loop" / "trace.journal") == 0


def test_recover_of_a_folder_of_runs_takes_those_that_need_it(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs with an HDF5 file are left alone; one that is unusable does not stop the others."""
    before = (records / "a-closed-loop" / "trace.h5").stat().st_mtime_ns
    assert call("recover", records) == 3
    text = capsys.readouterr().out
    assert "not recovered" in text
    assert (records / "b-shadow" / "trace.h5").is_file()
    assert (records / "a-closed-loop" / "trace.h5").stat().st_mtime_ns == before
    (records / "c-junk" / "trace.journal").unlink()
    assert call("recover", records) == 0
    assert "nothing to recover" in capsys.readouterr().out


def test_recover_of_a_wrong_path_is_a_sentence(tmp_path: Path) -> None:
    """A path without a journal is named."""
    with pytest.raises(TraceError, match="there is no journal to recover"):
        call("recover", tmp_path / "none.journal")
    with pytest.raises(TraceError, match="holds no run"):
        call("recover", tmp_path)


def test_plot_draws_three_pictures(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Profiles, phase function and asymmetry are drawn as PNG and their places are told."""
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plot'")
    call("plot", records / "a-closed-loop", "--out", records / "pictures")
    names = sorted(path.name for path in (records / "pictures").iterdir())
    assert names == ["asymmetry.png", "phase_function.png", "profiles.png"]
    text = capsys.readouterr().out
    for name in names:
        assert (records / "pictures" / name).read_bytes().startswith(b"\x89PNG")
        assert name in text


def test_plot_of_an_empty_trace_is_a_sentence(tmp_path: Path) -> None:
    """A trace without cycles cannot be drawn, and that is said."""
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plot'")
    with JournalWriter(tmp_path / "trace.journal", sample_header()):
        pass
    with pytest.raises(TraceError, match="has no cycle; there is nothing to draw"):
        call("plot", tmp_path)


def test_ls_in_a_pipe_has_whole_names(
    records: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the output is no terminal, no name and no reason is cut."""
    monkeypatch.delenv("COLUMNS", raising=False)
    long = records / ("20261121T065735Z-closed-loop-of-a-very-long-name" + "-x" * 40)
    (records / "a-closed-loop").rename(long)
    call("ls", records)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert any(line.startswith(f"{long.name} ") for line in lines)
    assert "…" not in "".join(lines)


def test_plot_into_a_place_that_is_none_is_a_sentence(records: Path) -> None:
    """A file where the folder should be is told before anything is read."""
    (records / "file").touch()
    with pytest.raises(FileError, match="file is a file, not a folder"):
        call("plot", records / "a-closed-loop", "--out", records / "file")


def test_verify_can_demand_a_key(
    records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An unsigned trace ends with 3 where a key is demanded, a signed one with 0."""
    monkeypatch.setenv("MEMRL_CTRL_STATE", str(tmp_path / "state"))
    with pytest.raises(FileError, match="no signing key; `memrl-ctrl trace key --make` makes one"):
        call("key")
    call("key", "--make")
    key = capsys.readouterr().out.split()[0]
    call("key")
    assert capsys.readouterr().out.split()[0] == key
    assert call("verify", records / "a-closed-loop", "--key", key) == 3
    assert f"6 cycles are not signed by {key}" in capsys.readouterr().out
    (records / "signed").mkdir()
    write_sample_journal(records / "signed" / "trace.journal", signer=installed_signer())
    assert call("verify", records / "signed", "--key", key) == 0
    with pytest.raises(UsageError, match="is no public key"):
        call("verify", records / "signed", "--key", "none")


def test_export_writes_beside_the_trace(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV by default, under the trace's name; the number of rows is told."""
    call("export", records / "a-closed-loop")
    assert "trace.csv (18 rows)" in capsys.readouterr().out
    lines = (records / "a-closed-loop" / "trace.csv").read_text().splitlines()
    assert len(lines) == 19
    assert lines[0].startswith("cycle,stamp_ns,mode,point,ctime_ms,setpoint_rad")


def test_prune_says_what_it_frees_and_what_it_keeps(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What can be made again goes; a run that is not whole stays, and that is exit code 3."""
    assert call("prune", records, "--dry-run") == 0
    assert (records / "a-closed-loop" / "trace.h5").is_file()
    assert call("prune", records) == 0
    text = capsys.readouterr().out
    assert "of a-closed-loop" in text
    assert "kept c-junk" in text
    assert not (records / "a-closed-loop" / "trace.h5").exists()
    assert (records / "a-closed-loop" / "trace.journal").is_file()
    assert (records / "b-shadow" / "trace.journal").is_file()
    assert call("prune", records, "--drop", "run") == 3
    assert "kept b-shadow: is not whole: torn" in capsys.readouterr().out
    assert [folder.name for folder in sorted(records.iterdir())] == ["b-shadow", "c-junk"]
