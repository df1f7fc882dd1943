"""Import of controls-system exports: what arrives, and what is missing, held or left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program import import_controls_export, load_program, save_program

from .controls_export import DEVICES, FIELD, PHASE, V1, complete, write


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A complete export."""
    return complete(tmp_path / "my export")


def test_values_arrive_in_the_projects_units(export: Path) -> None:
    """Gauss become tesla digit by digit, volts and degrees stay; the folder gives the name."""
    program = import_controls_export(export).program
    assert program.name == "my-export"
    assert program.b_field_t.value.tolist() == [0.0, 0.23205, 0.8627123, 0.8627123, 0.0]
    assert program.v1_v.value[2] == 9000.0
    assert program.phi_hw_deg.value.tolist() == [-88.0, -75.5, -90.25]
    assert program.at([805.0]).phi_hw_rad[0] == pytest.approx(np.radians(-90.25))
    assert "BA3.FGVRFH2" in program.source


def test_an_import_survives_saving(export: Path, tmp_path: Path) -> None:
    """Import, save and load give the same program."""
    program = import_controls_export(export).program
    save_program(program, tmp_path / "out.yaml")
    assert load_program(tmp_path / "out.yaml") == program


def test_other_functions_are_left_out(export: Path) -> None:
    """A device that is none of the four is named as left out."""
    write(export / "V1P.csv", [("BA3.FGPRFH1/Settings#amplitudes", PHASE)])
    (export / "notes.txt").write_text("nothing")
    notes = import_controls_export(export).notes
    assert any(n.startswith("V1P.csv: left out BA3.FGPRFH1") for n in notes)


def test_the_field_as_npy(export: Path) -> None:
    """The field may be a .npy of shape (2, n), ctime in ms and gauss."""
    (export / "B.csv").unlink()
    rows = np.array([row.split(",") for row in FIELD.splitlines()], dtype=np.float64)
    np.save(export / "B.npy", rows.T)
    assert import_controls_export(export).program.b_field_t.value[2] == 0.8627123


def test_a_missing_phase_function(export: Path) -> None:
    """Without a phase function the import says so, or takes a constant when told."""
    (export / "V2P.csv").unlink()
    with pytest.raises(
        ProgramError, match=r"holds no h=2 phase .*FGPRFH2.*give --from .*, or --phase-deg X"
    ):
        import_controls_export(export)
    program = import_controls_export(export, phase_deg=-30.0).program
    assert np.degrees(program.at().phi_hw_rad) == pytest.approx(np.full(30, -30.0))
    with pytest.raises(UsageError, match="constant phase is nan"):
        import_controls_export(export, phase_deg=float("nan"))


def test_missing_functions_are_all_named(export: Path) -> None:
    """What is missing is named at once, with what was recognised and every way to give it."""
    (export / "V2A.csv").unlink()
    (export / "B.csv").unlink()
    with pytest.raises(
        ProgramError,
        match=r"holds no magnetic field \(a device like PSBBEAM/B#value\) and no h=2 voltage \(.*"
        r"recognised: V1A.csv \(BA3.*give --field FILE .*, or --from with a program or the folder",
    ):
        import_controls_export(export)


def test_missing_functions_from_a_program(export: Path) -> None:
    """A program gives the functions that an export lacks, and only those."""
    for name in ("B", "V2P"):
        (export / f"{name}.csv").unlink()
    other = load_program("psb-2gev")
    imported = import_controls_export(export, missing_from="psb-2gev")
    assert imported.program.b_field_t == other.b_field_t
    assert imported.program.phi_hw_deg == other.phi_hw_deg
    assert imported.program.v1_v.value[2] == 9000.0
    assert any("b_field: taken from program psb-2gev" in note for note in imported.notes)
    assert "phi_hw: of program psb-2gev" in imported.program.source
    constant = import_controls_export(export, missing_from="psb-2gev", phase_deg=-30.0).program
    assert constant.phi_hw_deg.value.tolist() == [-30.0, -30.0]


def test_missing_functions_from_another_export(export: Path, tmp_path: Path) -> None:
    """Another export gives what one lacks; nothing of it replaces what is there."""
    other = tmp_path / "other"
    other.mkdir()
    write(other / "B.csv", [(DEVICES["B"], FIELD)])
    write(other / "V1A.csv", [(DEVICES["V1A"], V1.replace("9000", "7000"))])
    (export / "B.csv").unlink()
    program = import_controls_export(export, missing_from=other).program
    assert program.b_field_t.value[2] == 0.8627123
    assert program.v1_v.value[2] == 9000.0
    for wrong, sentence in (
        (tmp_path / "other" / "B.csv", "B.csv: expected a program .* is given with --field"),
        (tmp_path / "x.pkl", r"x.pkl: expected a program"),
        (tmp_path / "no.yaml", "no.yaml: cannot be read"),
    ):
        with pytest.raises(ProgramError, match=sentence):
            import_controls_export(export, missing_from=wrong)


@pytest.mark.parametrize("suffix", ["csv", "npy"])
def test_the_field_from_a_file_of_its_own(export: Path, tmp_path: Path, suffix: str) -> None:
    """A field file given for it comes before the export's own, whatever its name."""
    file = tmp_path / f"yesterday.{suffix}"
    rows = FIELD.replace("8627.123", "8000")
    if suffix == "csv":
        write(file, [(DEVICES["B"], rows)])
    else:
        np.save(file, np.array([row.split(",") for row in rows.splitlines()], dtype=float).T)
    for _ in range(2):
        assert import_controls_export(export, field_file=file).program.b_field_t.value[2] == 0.8
        (export / "B.csv").unlink(missing_ok=True)
    with pytest.raises(ProgramError, match=r"V1A.csv: holds no magnetic field; expected a first l"):
        import_controls_export(export, field_file=export / "V1A.csv")
    with pytest.raises(ProgramError, match=r"B.pkl: pickles are not read.*save it as"):
        import_controls_export(export, field_file=tmp_path / "B.pkl")


def test_a_phase_that_ends_early_is_held(export: Path) -> None:
    """A function generator holds its last phase: so does the program, and the import says it."""
    write(export / "V2P.csv", [(DEVICES["V2P"], "0,-88\n400,-67.5")])
    imported = import_controls_export(export)
    assert any("ends at ctime 400 ms" in note and "held" in note for note in imported.notes)
    assert imported.program.phi_hw_deg.at(805.0) == -67.5
    assert imported.program.phi_hw_deg.ctime_ms.tolist() == [0.0, 400.0]


def test_a_voltage_that_ends_early_is_refused(export: Path) -> None:
    """Nothing is guessed of a voltage or field that does not reach extraction."""
    write(export / "V1A.csv", [(DEVICES["V1A"], "0,0\n260,8000\n700,8000")])
    with pytest.raises(
        ProgramError, match=r"V1A.csv, line 5: .* covers ctime 0 to 700 ms; expected"
    ):
        import_controls_export(export)


def test_a_name_that_is_none(export: Path) -> None:
    """A program's name must be usable on the command line."""
    with pytest.raises(UsageError, match="cannot be named 'a b'"):
        import_controls_export(export, name="a b")
