"""Traces that a stranger damaged: every command says so in a sentence, and takes no other file's place."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from memrl_ctrl.cli import main
from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import TraceReader, recover, verify
from memrl_ctrl.trace.report import MOST_PLACES
from memrl_ctrl.trace.untrusted import verify_untrusted
from memrl_deploy.modes import Shadow
from memrl_deploy.runtime import Runtime

from .online_loop import N, policy

TOO_LONG = "x" * 300
"""A name that no file system has: looking at it is an error of the operating system."""
COMMANDS = (
    ["trace", "ls"], ["trace", "show"], ["trace", "verify"], ["trace", "recover"], ["trace", "plot"],
    ["trace", "export"], ["trace", "prune"], ["replay"], ["report"],
)  # fmt: skip


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "trace.journal"
    write_sample_journal(path, cycles=MOST_PLACES + 6)
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_path_that_cannot_be_looked_at_is_a_sentence(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the operating system refuses (a folder without permission, here a name) is told in one line."""
    monkeypatch.chdir(tmp_path)
    assert run(*command, TOO_LONG) == (1 if command[-1] == "verify" else 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"{TOO_LONG}: cannot be looked at: File name too long")


@pytest.mark.parametrize(
    "command", [["trace", "show"], ["trace", "export"], ["replay"]], ids=" ".join
)
def test_a_pipe_hangs_no_command(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What would block whoever opens it is refused before it is opened."""
    os.mkfifo(tmp_path / "pipe.h5")
    assert run(*command, tmp_path / "pipe.h5") == 3
    assert "is no file; expected a trace" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["trace", "export"], ["replay"]], ids=" ".join)
def test_what_is_made_from_a_trace_with_loss_is_told_to_lack_something(
    command: list[str], journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is that of the work; that something is lost stands on stderr."""
    os.truncate(journal, journal.stat().st_size - 200)
    run(*command, journal)
    assert "not whole: " in capsys.readouterr().err


def test_many_places_of_damage_are_told_in_a_few_lines(journal: Path) -> None:
    """A day's trace with a damaged column is no reason for 70,000 lines; the HDF5 file counts records."""
    hdf5 = recover(journal).hdf5
    with h5py.File(hdf5, "a") as file:
        file["cycles/applied_rad"][:] += 0.1
    report = verify(hdf5)
    assert len(report.damage) > MOST_PLACES
    lines = report.sentences()
    assert len(lines) == MOST_PLACES + 3
    assert lines[1].startswith("altered at record ")
    assert f"and {len(report.damage) - MOST_PLACES} more places" in lines[-2]


def test_an_unverified_file_is_not_called_whole(
    journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`show` reads what the file says of itself; only `verify` says that nothing is lost."""
    hdf5 = recover(journal).hdf5
    with h5py.File(hdf5, "a") as file:
        file["cycles/applied_rad"][3, 0] += 0.1
    assert run("trace", "show", hdf5) == 0
    assert "nothing is lost" not in capsys.readouterr().out
    assert run("trace", "verify", hdf5) == 3


def test_a_recovery_takes_no_foreign_files_place(journal: Path) -> None:
    """HDF5 of somebody else beside the journal stays as it is; a broken file is what a recovery is for."""
    hdf5 = journal.with_name("trace.h5")
    with h5py.File(hdf5, "w") as file:
        file["measurement"] = np.arange(3)
    with pytest.raises(TraceError, match="is HDF5, but no trace of memrl-ctrl"):
        recover(journal)
    with h5py.File(hdf5, "r") as file:
        assert list(file) == ["measurement"]
    hdf5.write_bytes(b"broken")
    recover(journal)
    assert verify(hdf5).whole


def test_a_file_that_lies_about_its_journal_is_read_as_what_it_is(journal: Path) -> None:
    """A length of the journal that is no number makes the HDF5 file stale; the journal counts."""
    hdf5 = recover(journal).hdf5
    with h5py.File(hdf5, "a") as file:
        file.attrs["journal_bytes"] = "many"
    with TraceReader(journal.parent) as trace:
        assert trace.path == journal


def test_names_in_a_file_do_not_act_on_the_terminal(
    journal: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escape sequences and markup in the machine's name are shown, not obeyed."""
    monkeypatch.setenv("COLUMNS", "200")  # a narrow table cuts names
    hdf5 = recover(journal).hdf5
    with h5py.File(hdf5, "a") as file:
        file.attrs["machine"] = "\x1b[2J[bold]psb[/bold]"
    for words in (("show", hdf5), ("ls", hdf5.parent)):
        assert run("trace", *words) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert "\\x1b[2J[bold]psb" in shown


def test_the_check_says_which_file_of_a_folder_it_read(journal: Path) -> None:
    """A folder may hold two files: the report names the one that was checked."""
    assert verify_untrusted(journal.parent).path == journal
    assert verify_untrusted(recover(journal).hdf5.parent).path == journal.with_name("trace.h5")


def test_a_trace_reads_no_other_file(journal: Path, tmp_path: Path) -> None:
    """A column whose values lie elsewhere (raw storage, a link) is damage, not this reader's file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 100_000)
    hdf5 = recover(journal).hdf5
    with h5py.File(hdf5, "a") as file:
        shape = file["cycles/applied_rad"].shape
        del file["cycles/applied_rad"], file["cycles/setpoint_rad"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_external(bytes(secret), 0, h5py.h5f.UNLIMITED)
        space = h5py.h5s.create_simple(shape)
        h5py.h5d.create(
            file["cycles"].id, b"applied_rad", h5py.h5t.IEEE_F64LE, space, dcpl=properties
        )
        with h5py.File(tmp_path / "other.h5", "w") as other:
            other["x"] = np.zeros(shape)
        file["cycles/setpoint_rad"] = h5py.ExternalLink("other.h5", "x")
    with TraceReader(hdf5) as trace:
        for name in ("applied_rad", "setpoint_rad"):
            with pytest.raises(TraceError, match=r"lies in another file|no column"):
                trace.array(name)
            with pytest.raises(TraceError):
                trace.record(0)
    assert not verify(hdf5).whole


def test_a_policy_that_describes_itself_wrongly_is_a_sentence_in_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manifest that is no JSON is named as damage; no traceback."""
    fake = FakeBackend(points=8, n_slices=N)
    summary = Runtime(Shadow(fake), policy(), records=tmp_path, cycles=3).run()
    assert summary.trace is not None
    with h5py.File(summary.trace, "a") as file:
        del file["header/manifest_json"]
        file["header/manifest_json"] = "{" * 100
    assert run("report", summary.trace, "--no-twin", "--out", tmp_path / "r.html") == 3
    assert "damaged: the policy's manifest" in capsys.readouterr().err
