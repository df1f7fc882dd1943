"""Import of controls-system exports, on small exports of the test's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program import import_controls_export, load_program, save_program

FIELD = "0,0\n270,2320.5\n805,8627.123\n815,8627.123\n1200,0"
V1 = "0,0\n260,4000\n300,9000\n810,9000\n1200,0"
V2 = "0,0\n260,3000\n300,6000\n810,3000\n1200,0"
PHASE = "0,-88\n300,-75.5\n805,-90.25"
DEVICES = {
    "B": "PSBBEAM/B#value",
    "V1A": "BA3.FGVRFH1/Settings#amplitudes",
    "V2A": "BA3.FGVRFH2/Settings#amplitudes",
    "V2P": "BA3.FGPRFH2/Settings#amplitudes",
}


def write(path: Path, pairs: list[tuple[str, str]]) -> None:
    """Write pairs (title, rows) side by side, the shorter ones with empty cells below."""
    columns = [[row.split(",") for row in rows.splitlines()] for _, rows in pairs]
    lines = [",".join(f"{title},{title}" for title, _ in pairs), ",".join(["X,Y"] * len(pairs))]
    for i in range(max(map(len, columns))):
        cells = [column[i] if i < len(column) else ["", ""] for column in columns]
        lines.append(",".join(",".join(pair) for pair in cells))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A complete export."""
    folder = tmp_path / "my export"
    folder.mkdir()
    for name, rows in (("B", FIELD), ("V1A", V1), ("V2A", V2), ("V2P", PHASE)):
        write(folder / f"{name}.csv", [(DEVICES[name], rows)])
    return folder


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


def test_the_undated_pair_is_current(export: Path) -> None:
    """Of several pairs the undated one is taken, whichever column it stands in; a date chooses."""
    old, older = (
        f"{DEVICES['V2P']} ({date})" for date in ("30-11-2024 18:43:35", "02-01-2023 10:00:00")
    )
    write(
        export / "V2P.csv",
        [(old, "0,-1\n805,-1\n900,-1\n1200,-1"), (DEVICES["V2P"], PHASE), (older, "0,-2\n805,-2")],
    )

    def phase(version: str | None) -> float:
        program = import_controls_export(export, version=version).program
        return float(program.phi_hw_deg.value[0])

    assert phase(None) == -88.0
    assert phase("30-11-2024") == -1.0
    assert phase("2024-11-30") == -1.0
    assert phase("02-01-2023 10:00:00") == -2.0
    with pytest.raises(
        UsageError, match=r"no function has a version '01-01-2020'; older .*30-11-2024"
    ):
        phase("01-01-2020")


def test_several_versions_of_a_day_are_told_apart(export: Path) -> None:
    """A date that fits two versions, and a function with only dated ones, ask for more."""
    pairs = [(f"{DEVICES['V2P']} (30-11-2024 {hour}:00:00)", PHASE) for hour in (10, 11)]
    write(export / "V2P.csv", pairs)
    for version in (None, "30-11-2024"):
        with pytest.raises(
            ProgramError, match=r"line 1: several versions fit \(30-11-2024 10:00:00, "
        ):
            import_controls_export(export, version=version)
    assert import_controls_export(export, version="30-11-2024 11").program


@pytest.mark.parametrize("ring", [1, 2, 3, 4])
@pytest.mark.parametrize("prefix", ["BA", "BR"])
def test_devices_of_any_ring(export: Path, ring: int, prefix: str) -> None:
    """The ring of the devices does not matter."""
    for path in export.glob("V*.csv"):
        path.write_text(path.read_text().replace("BA3", f"{prefix}{ring}"))
    assert f"{prefix}{ring}.FGVRFH1" in import_controls_export(export).program.source


def test_a_device_of_another_ring_in_each_file(export: Path) -> None:
    """Files of one function each, of different rings, are taken and that is said."""
    for path, ring in zip(sorted(export.glob("V*.csv")), (1, 2, 4), strict=True):
        path.write_text(path.read_text().replace("BA3", f"BA{ring}"))
    assert any("different rings" in note for note in import_controls_export(export).notes)


def test_several_rings_side_by_side(export: Path) -> None:
    """Where a file holds several rings, the only complete one is taken, otherwise --ring decides."""
    other = "BA1.FGVRFH1/Settings#amplitudes"
    write(export / "V1A.csv", [(other, V1.replace("9000", "8000")), (DEVICES["V1A"], V1)])
    assert import_controls_export(export).program.v1_v.value[2] == 9000.0
    for name, rows in (("V2A", V2), ("V2P", PHASE)):
        write(
            export / f"{name}.csv",
            [(DEVICES[name].replace("A3", "A1"), rows), (DEVICES[name], rows)],
        )
    with pytest.raises(ProgramError, match="devices of the rings 1, 3; choose with --ring"):
        import_controls_export(export)
    assert import_controls_export(export, ring=1).program.v1_v.value[2] == 8000.0
    with pytest.raises(UsageError, match="no device of ring 2; rings there: 1, 3"):
        import_controls_export(export, ring=2)


def test_the_device_decides_not_the_files_name(export: Path) -> None:
    """Files may have any name: the first line says what they hold."""
    for i, path in enumerate(sorted(export.glob("*.csv"))):
        path.rename(export / f"function {9 - i}.csv")
    assert import_controls_export(export).program.v2_v.value[2] == 6000.0


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


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((5, 3)), r"has shape \(5, 3\); expected an array of shape \(2, n\)"),
        (np.array([[0.0, 0.0], [1.0, 2.0]]), "does not increase at column 1"),
        (np.array([[0.0, 1.0], [1.0, np.nan]]), "column 1 is not finite"),
        (np.array([["a", "b"], ["c", "d"]]), "holds 2 <U1"),
        (np.array([[0.0, 900.0], [0.2, 0.9]]), "largest field is 0.9; expected gauss"),
        (np.array([[{}, None], [None, None]]), r"is no \.npy file of numbers"),
    ],
)
def test_wrong_npy(export: Path, array: np.ndarray, sentence: str) -> None:
    """A wrong field array is one sentence; nothing is unpickled."""
    (export / "B.csv").unlink()
    np.save(export / "B.npy", array, allow_pickle=True)
    with pytest.raises(ProgramError, match=sentence):
        import_controls_export(export)


def test_a_missing_phase_function(export: Path) -> None:
    """Without a phase function the import says so, or takes a constant when told."""
    (export / "V2P.csv").unlink()
    with pytest.raises(ProgramError, match=r"holds no h=2 phase .*FGPRFH2.*or give --phase-deg"):
        import_controls_export(export)
    program = import_controls_export(export, phase_deg=-30.0).program
    assert np.degrees(program.at().phi_hw_rad) == pytest.approx(np.full(30, -30.0))
    with pytest.raises(UsageError, match="constant phase is nan"):
        import_controls_export(export, phase_deg=float("nan"))


def test_a_missing_voltage(export: Path) -> None:
    """A missing function is named together with what was recognised."""
    (export / "V2A.csv").unlink()
    with pytest.raises(
        ProgramError, match=r"holds no h=2 voltage .*recognised: B.csv \(PSBBEAM/B#v"
    ):
        import_controls_export(export)


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


def test_a_function_twice(export: Path) -> None:
    """Two current functions of the same kind are ambiguous."""
    write(export / "V1B.csv", [(DEVICES["V1A"], V1)])
    with pytest.raises(ProgramError, match=r"V1B.csv, line 1: .* stands in V1A.csv and in V1B.csv"):
        import_controls_export(export)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"V1A.csv: is empty; expected device names in the first line"),
        ("D,D\n", r"has 1 line; expected device names"),
        ("D\nX\n1\n", r"line 1: has 1 columns; expected pairs"),
        ("D,D\nY,X\n1,2\n", r"line 2: reads 'Y,X'; expected X,Y"),
        ("D,E\nX,Y\n1,2\n", r"line 1: columns 1 and 2 are named 'D' and 'E'; expected one device"),
        ("D,D\nX,Y\n0,1\n1,2,3\n", r"line 4: has 3 columns; expected 2"),
        ("D,D\nX,Y\n0,1\n1,\n", r"line 4: column Y of D holds an empty cell; expected a number"),
        ("D,D\nX,Y\n0,1\n0,2\n", r"line 4: X of D goes from 0 to 0; it must increase"),
        ("D,D\nX,Y\n0,1\n1,inf\n", r"line 4: column Y of D holds 'inf'"),
        ("D,D\nX,Y\n0,1\n", r"line 1: D has 1 breakpoints; expected at least 2"),
        ("D;D\nX;Y\n0;1\n", r"line 1: has 1 columns"),
        ("\x00\x01\x02", r"line 1: holds binary data"),
    ],
)
def test_wrong_export_files(export: Path, text: str, sentence: str) -> None:
    """Each kind of wrong export is named with file, line and what was expected."""
    (export / "V1A.csv").write_text(text)
    with pytest.raises(ProgramError, match=sentence):
        import_controls_export(export)


def test_wrong_folders(tmp_path: Path) -> None:
    """A folder that is missing, empty or a file is named."""
    with pytest.raises(ProgramError, match="nowhere: does not exist; expected a folder"):
        import_controls_export(tmp_path / "nowhere")
    with pytest.raises(ProgramError, match=r"holds no \.csv or \.npy file"):
        import_controls_export(tmp_path)
    (tmp_path / "x").write_text("")
    with pytest.raises(ProgramError, match="x: is no folder"):
        import_controls_export(tmp_path / "x")


def test_a_name_that_is_none(export: Path) -> None:
    """A program's name must be usable on the command line."""
    with pytest.raises(UsageError, match="cannot be named 'a b'"):
        import_controls_export(export, name="a b")
