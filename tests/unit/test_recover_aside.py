"""An HDF5 file of which nobody could tell what it holds is not lost by a recovery."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl.cli import main
from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import recover, recovery, verify


def test_a_file_that_nobody_could_look_at_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed for want of memory, say: each time another name, and the journal's file in its place."""
    write_sample_journal(tmp_path / "trace.journal")
    hdf5 = recover(tmp_path).hdf5
    made = hdf5.read_bytes()
    monkeypatch.setattr(recovery, "unopenable", lambda _: "a first look at it was ended by SIGKILL")
    for name in ("trace.aside.h5", "trace.aside1.h5"):
        hdf5.write_bytes(made + b"more")
        assert main(["trace", "recover", str(tmp_path)]) == 0
        assert (tmp_path / name).read_bytes() == made + b"more"
        assert f"it is kept as {tmp_path / name}" in capsys.readouterr().out
        assert verify(hdf5).whole
