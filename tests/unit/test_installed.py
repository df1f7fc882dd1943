"""What is installed, what that allows, and what is said where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl import installed, registry
from memrl_ctrl.cli import demo as demo_module
from memrl_ctrl.cli import main
from memrl_ctrl.errors import MissingExtraError
from memrl_ctrl.trace.provenance import recorded_versions


@pytest.fixture
def base_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if only the base install were there."""
    real = installed.version
    optional = {name for e, names in installed.requirements().items() if e for name in names}

    def version(name: str) -> str:
        if name in optional:
            raise installed.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(installed, "version", version)


def test_requirements_are_those_of_the_package() -> None:
    """Base and extras come from the package; extras that only gather others are left out."""
    found = installed.requirements()
    assert {"numpy", "onnxruntime", "rich"} <= set(found[""])
    assert "torch" in found["train"]
    assert "torch" not in found[""]
    assert not {"all", "dev"} & set(found)


def test_every_library_that_a_command_needs_belongs_to_an_extra() -> None:
    """So that the sentence can say what to install; and every such command exists."""
    extras = installed.requirements()
    for command, libraries in installed.NEEDS.items():
        assert command.split()[0] in registry.points(registry.COMMANDS)
        for library in libraries:
            assert library in extras[registry.EXTRA_OF_LIBRARY[library][1]]
        assert installed.missing(command) is None


@pytest.mark.usefixtures("base_install")
def test_the_demo_names_all_it_needs_before_it_does_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence with both extras; no folder is made and no training begins."""
    monkeypatch.setattr(demo_module, "_step", lambda *_, **__: pytest.fail("it began"))
    assert main(["demo", "--out", str(tmp_path / "out")]) == MissingExtraError.exit_code
    said = capsys.readouterr().err
    assert 'pip install "memrl-ctrl[train,plot]"' in said
    assert "PyTorch and onnx and TensorBoard and matplotlib" in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("base_install")
def test_the_doctor_says_of_each_command_whether_it_can_be_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a base install the online commands can, training, export, demo and pictures cannot."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (usable,) = [line for line in lines if "deploy, " in line and "yes" in line]
    for command in ("deploy", "machine", "replay", "shadow", "trace"):
        assert command in usable
    for command in installed.NEEDS:
        assert any(f"command '{command}' needs" in line for line in lines)
        assert command not in usable.replace("trace", "").replace("program", "")
    assert any('torch missing: pip install "memrl-ctrl[train]"' in line for line in lines) or any(
        "torch" in line and 'pip install "memrl-ctrl[train]"' in line for line in lines
    )


def test_a_trace_records_base_and_optional_versions() -> None:
    """Python's, ours, every base requirement's, and torch's where it is there."""
    versions = recorded_versions()
    assert {"python", "memrl-ctrl", *installed.requirements()[""]} <= set(versions)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "nan"], "--minutes must be above 0"),
        (["--cycles", "1"], "--cycles must be between 2"),
        (["--period", "-1"], "--period must be between 0"),
        (["--seed", "-1"], "--seed must be between 0"),
        (["--program", "nope"], "no program 'nope'"),
        (["--out", "/etc/passwd"], "/etc/passwd is a file, not a folder"),
    ],
)
def test_a_demo_that_cannot_work_does_not_begin(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence, before the training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "_step", lambda *_, **__: pytest.fail("it began"))
    assert main(["demo", *words]) in (2, 3)
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
