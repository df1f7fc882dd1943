"""`memrl-ctrl export`: what it refuses and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl import training
from memrl_ctrl.agents.exportable import untrained_policy
from memrl_ctrl.agents.task import beam_task
from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.policy import OnnxPolicy
from memrl_deploy import cli


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    """Without --force nothing is replaced."""
    out = tmp_path / "beam.onnx"
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="--force"):
        cli.export(tmp_path, out=out)
    assert out.read_bytes() == b"mine"


def test_a_folder_that_is_no_run_is_said(tmp_path: Path) -> None:
    """The sentence comes from the run, and nothing is written."""
    with pytest.raises(FileError):
        cli.export(tmp_path, out=tmp_path / "beam.onnx")
    assert not (tmp_path / "beam.onnx").exists()


def test_the_command_says_what_it_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parity and digest are printed, and the file loads."""
    exportable = untrained_policy(beam_task(n_slices=16))
    monkeypatch.setattr(training, "load_policy", lambda run, checkpoint: exportable)
    out = tmp_path / "beam.onnx"
    out.write_bytes(b"older")
    cli.export(tmp_path, out=out, force=True)
    said = capsys.readouterr().out
    assert "torch and onnxruntime differ, over 13710 steps, by " in said
    assert "at most from the same memory (allowed 1e-05)" in said
    assert OnnxPolicy.load(out).digest[:16] in said
