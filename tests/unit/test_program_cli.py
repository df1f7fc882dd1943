"""`memrl-ctrl program`, run in this process."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pytest

from memrl_ctrl.cli import main
from memrl_ctrl.program import available_programs, load_program, save_program


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs and machines are listed with what they are."""
    assert main(["program", "list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^psb-seed-2gev +psb-seed ", out, re.MULTILINE)
    assert "A 2 GeV cycle: smooth magnetic ramp" in out


def test_list_shows_a_damaged_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged program is listed with its fault and hides no other."""
    (tmp_path / "bad.yaml").write_text("kind: program\nformat: [x]\n")
    monkeypatch.setenv("MEMRL_PROGRAMS", str(tmp_path))
    assert main(["program", "list"]) == 0
    out = capsys.readouterr().out
    assert "line 2: format: expected a single line of text" in out
    assert "psb-2gev" in out


def test_check_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """A program within its limits ends with a verdict and exit code 0."""
    assert main(["program", "check", "psb-2gev"]) == 0
    out = capsys.readouterr().out
    assert "sum V1 + V2" in out
    assert out.rstrip().endswith("machine psb can play psb-2gev")


def test_check_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken limit is shown in the table, said in a sentence, and ends with exit code 3."""
    save_program(load_program("psb-2gev"), tmp_path / "x.yaml")
    path = tmp_path / "x-v1_v.csv"
    path.write_text("ctime_ms,v1_v\n265,17000\n815,17000\n")
    assert main(["program", "check", str(tmp_path / "x.yaml")]) == 3
    out = capsys.readouterr().out
    assert "broken: sum V1 + V2 is 25640 V at ctime 320 ms" in out
    assert out.rstrip().endswith("machine psb cannot play psb-2gev")


def test_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A PNG is written where it was asked for."""
    out = tmp_path / "a picture"
    assert main(["program", "plot", "psb-2gev", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert main(["program", "plot", "psb-2gev", "--out", str(tmp_path / "new" / "x.png")]) == 0
    assert (tmp_path / "new" / "x.png").is_file()
    assert main(["program", "plot", "psb-2gev", "--out", str(out / "x.png")]) == 3
    assert "is a file, not a folder" in capsys.readouterr().err


def test_plot_with_the_optimum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The optimum is drawn for an intensity, and only asked for as a whole."""
    plain, out = tmp_path / "plain.png", tmp_path / "x.png"
    command = ["program", "plot", "psb-2gev", "--out"]
    assert main([*command, str(plain)]) == 0
    optimum = ["--optimum", "--intensity", "9e12", "--filling", "0.6"]
    assert main([*command, str(out), *optimum]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert out.read_bytes() != plain.read_bytes()
    assert main([*command, str(out), "--optimum"]) == 2
    assert "plot --optimum needs --intensity" in capsys.readouterr().err
    assert main([*command, str(out), "--intensity", "9e12"]) == 2
    assert "those of the optimum; add --optimum" in capsys.readouterr().err


def test_plot_without_matplotlib(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without matplotlib the command says how to install it, exit code 4."""
    monkeypatch.delitem(sys.modules, "memrl_ctrl.program.plot", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)

    class Blocked:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.partition(".")[0] == "matplotlib":
                raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])
    assert main(["program", "plot", "psb-2gev"]) == 4
    assert (
        'program plot needs matplotlib: pip install "memrl-ctrl[plot]"' in capsys.readouterr().err
    )


def test_errors_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong name and a wrong folder end in one line on stderr and their exit codes."""
    assert main(["program", "check", "nothing"]) == 2
    assert main(["program", "import", str(tmp_path), "--out", str(tmp_path / "x.yaml")]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_import_refuses_and_replaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An import is named like its file, tells what it took, and replaces only with --force."""
    folder = tmp_path / "export"
    folder.mkdir()
    for name, device, rows in (
        ("B", "PSBBEAM/B#value", "0,2320\n275,2320\n805,8627\n1200,8627"),
        ("V1A", "BA3.FGVRFH1/Settings#amplitudes", "0,8000\n1200,8000"),
        ("V2A", "BA3.FGVRFH2/Settings#amplitudes", "0,4000\n1200,4000"),
    ):
        (folder / f"{name}.csv").write_text(f"{device},{device}\nX,Y\n{rows}\n")
    command = ["program", "import", str(folder), "--out", str(tmp_path / "mine.yaml")]
    assert main(command) == 3
    assert "or --phase-deg X" in capsys.readouterr().err
    assert not (tmp_path / "mine.yaml").exists()
    assert main([*command, "--phase-deg", "-80"]) == 0
    assert "constant -80 degrees" in capsys.readouterr().out
    assert load_program(tmp_path / "mine.yaml").name == "mine"
    assert main([*command, "--phase-deg", "-70"]) == 3
    assert "mine.yaml: exists" in capsys.readouterr().err
    assert main([*command, "--phase-deg", "-70", "--force"]) == 0
    assert load_program(tmp_path / "mine.yaml").phi_hw_deg.value[0] == -70.0


def test_programs_are_found() -> None:
    """The shipped programs are there by name."""
    assert {"psb-2gev", "psb-seed-2gev"} <= set(available_programs())


def test_check_notes_an_impedance_whose_phase_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`program check` prints one note and passes; another command says it on stderr, as one line."""
    rows = ["f z p", *(f"{1e5 * 1.2**k:.6g} 50 80" for k in range(40))]
    (tmp_path / "cell.txt").write_text("\n".join(rows) + "\n")
    shipped = available_programs()["psb-2gev"].with_name("psb.yaml").read_text()
    item = (
        "    - table: {label: cell, file: cell.txt, frequency_column: f, magnitude_column: z, "
        "magnitude_unit: ohm, phase_column: p, phase_unit: deg, count: 13}\n"
    )
    ring = tmp_path / "ring.yaml"
    ring.write_text(shipped.replace("  impedance:\n", "  impedance:\n" + item, 1))
    save_program(load_program("psb-2gev"), tmp_path / "mine.yaml")
    text = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("machine: psb", "machine: ./ring.yaml"))
    assert main(["program", "check", str(tmp_path / "mine.yaml")]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("note: ") == 1
    assert "the phase of impedance 'cell' does not look as if it belonged" in captured.out
    assert captured.err == ""


def test_a_warning_is_one_line_of_words() -> None:
    """A warning of this project has no place in the code in it; others stay as they are."""
    from memrl_ctrl.cli import _plain_warnings
    from memrl_ctrl.program import MachineWarning

    usual = warnings.formatwarning
    with _plain_warnings():
        ours = warnings.formatwarning("the phase looks wrong", MachineWarning, "a.py", 3)
        other = warnings.formatwarning("something else", UserWarning, "a.py", 3)
    assert ours == "memrl-ctrl: note: the phase looks wrong\n"
    assert other == usual("something else", UserWarning, "a.py", 3)
    assert warnings.formatwarning is usual
