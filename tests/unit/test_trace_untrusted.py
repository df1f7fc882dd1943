"""A file of unknown origin is checked by a process that may use little and change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.texts import clean
from memrl_ctrl.trace import child, recover, verify
from memrl_ctrl.trace.untrusted import verify_untrusted

LIMITED = """
import sys
from pathlib import Path
from memrl_ctrl.trace.child import limit

limit(0)
try:
    with open(sys.argv[1], "wb") as file:
        file.write(bytes(10))
        file.flush()
except OSError as error:
    print("write:", error.strerror)
try:
    bytearray(5 << 30)
except MemoryError:
    print("memory: refused")
"""


def test_the_child_says_what_the_check_in_this_process_says(tmp_path: Path) -> None:
    """Report, damage and signatures are the same, for whole, torn and unusable files."""
    write_sample_journal(tmp_path / "trace.journal")
    for path in (tmp_path / "trace.journal", recover(tmp_path).hdf5):
        here, there = verify(path), verify_untrusted(path)
        assert (there.cycles, there.damage, there.end) == (here.cycles, here.damage, here.end)
        assert there.sentences() == here.sentences()
    torn = tmp_path / "torn.journal"
    torn.write_bytes((tmp_path / "trace.journal").read_bytes()[:-700])
    assert verify_untrusted(torn).sentences() == verify(torn).sentences()
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    with pytest.raises(TraceError, match="no trace journal: it holds no whole record"):
        verify_untrusted(tmp_path / "junk")


def test_the_child_can_neither_write_nor_take_all_memory(tmp_path: Path) -> None:
    """Under the child's limits a file stays empty and 5 GB are refused."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["write: File too large", "memory: refused"]
    assert (tmp_path / "x").read_bytes() == b""


def test_a_dataset_that_unpacks_to_terabytes_is_unusable(tmp_path: Path) -> None:
    """A bomb in the HDF5 file is refused before it is unpacked: it claims more than its bytes can hold."""
    write_sample_journal(tmp_path / "trace.journal")
    bomb = recover(tmp_path).hdf5
    with h5py.File(bomb, "r+") as file:
        del file["journal/heads"]
        file["journal"].create_dataset(
            "heads", shape=(1 << 34, 56), dtype="u1", chunks=(1 << 14, 56), compression="gzip"
        )
    with pytest.raises(TraceError, match="claims 962072674304 bytes, more than it can"):
        verify_untrusted(bomb)


def test_a_child_that_does_not_survive_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose check ends by a signal cannot be used, and the signal is named."""
    write_sample_journal(tmp_path / "trace.journal")
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(child.sys, "executable", str(killer))
    with pytest.raises(TraceError, match="the check of it was ended by SIGSEGV: it cannot be used"):
        verify_untrusted(tmp_path / "trace.journal")


def test_a_pipe_does_not_hang_the_check(tmp_path: Path) -> None:
    """What is no file is refused before it is opened."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TraceError, match="is no file; expected a trace"):
        verify_untrusted(tmp_path / "pipe")


def test_texts_of_a_foreign_file_do_not_act_on_the_terminal(tmp_path: Path) -> None:
    """Escape sequences in what a file says are shown, not obeyed."""
    assert clean("beam \x1b[2J ✓") == "beam \\x1b[2J ✓"
    write_sample_journal(tmp_path / "trace.journal")
    path = recover(tmp_path).hdf5
    with h5py.File(path, "r+") as file:
        file.attrs["end_reason"] = "\x1b[2J"
        file.attrs["ended"] = np.uint8(1)
    assert all("\x1b" not in line for line in verify_untrusted(path).sentences())
