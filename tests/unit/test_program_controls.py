"""Import of controls-system exports, on small exports of the test's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program import FUNCTIONS, import_controls_export, load_program, save_program
from memrl_ctrl.program.controls_export import export_program
from memrl_ctrl.program.controls_files import role_of
from memrl_ctrl.program.functions import PiecewiseLinear
from memrl_ctrl.program.units import parse_units

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
        (np.array([[0.0, 1.0], [1.0, 1e300]]), "column 1 is not finite, or too large"),
        (np.zeros((3, 2)), r"has shape \(3, 2\); expected .* \(save its transpose\)"),
        (np.array([[{}, None], [None, None]]), r"holds Python objects: pickles are not read"),
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


def test_several_versions_at_once(export: Path) -> None:
    """Functions saved at different times are each taken in the version of one of the dates."""
    for name, rows, date in (("V1A", V1, "29-11-2024"), ("V2A", V2, "30-11-2024")):
        dated = (f"{DEVICES[name]} ({date} 10:00:00)", rows.replace("000", "100"))
        write(export / f"{name}.csv", [(DEVICES[name], rows), dated])
    program = import_controls_export(export, version=["29-11-2024", "30-11-2024"]).program
    assert (program.v1_v.value[2], program.v2_v.value[2]) == (9100.0, 6100.0)
    assert import_controls_export(export, version="29-11-2024").program.v2_v.value[2] == 6000.0
    with pytest.raises(UsageError, match="no function has a version '01-12-2024'"):
        import_controls_export(export, version=["29-11-2024", "01-12-2024"])


def scaled(rows: str, factor: float) -> str:
    """Return rows with their values multiplied."""
    pairs = [row.split(",") for row in rows.splitlines()]
    return "\n".join(f"{time},{float(value) * factor!r}" for time, value in pairs)


@pytest.mark.parametrize(
    ("file", "factor", "unit", "sentence"),
    [
        (("V1A", V1), 1e-3, "v1=kV", r"V1A.csv, line 5: the largest value of BA3.FGVRFH1.* is 9 at "
         r"ctime 300 ms; expected volt \(about 6000 to 11000 on machine psb\); these look like "
         r"kilovolt: correct the file, or give --unit v1=kV \(--unit v1=V if it is right\)"),
        (("V2A", V2), 1e-3, "v2=kV", r"V2A.csv, line 5: .* is 6 at .* expected volt .*kilovolt"),
        (("B", FIELD), 1e-4, "b_field=T", r"B.csv, line 5: .*is 0.862712 at .*expected gauss .*tesla"),
    ],
)  # fmt: skip
def test_another_unit_is_told_from_the_magnitude(
    export: Path, file: tuple[str, str], factor: float, unit: str, sentence: str
) -> None:
    """Voltages in kV and a field in tesla are named with file and line, and taken when told."""
    expected = import_controls_export(export).program
    name, rows = file
    write(export / f"{name}.csv", [(DEVICES[name], scaled(rows, factor))])
    with pytest.raises(ProgramError, match=sentence):
        import_controls_export(export)
    program = import_controls_export(export, units=parse_units([unit])).program
    for function in FUNCTIONS:
        assert getattr(program, function).value == pytest.approx(getattr(expected, function).value)


def test_a_doubted_unit_that_is_right(export: Path) -> None:
    """A second harmonic of a few volts, or none, is taken when told that they are volts."""
    write(export / "V2A.csv", [(DEVICES["V2A"], scaled(V2, 1e-3))])
    program = import_controls_export(export, units=parse_units(["v2=V"])).program
    assert program.v2_v.value[2] == 6.0
    write(export / "V2A.csv", [(DEVICES["V2A"], "0,0\n1200,0")])
    assert import_controls_export(export).program.v2_v.value.tolist() == [0.0, 0.0]


def test_times_in_seconds(export: Path) -> None:
    """Times in seconds are named with file and line; all of an export are converted when told."""
    expected = import_controls_export(export).program
    for name, rows in (("B", FIELD), ("V1A", V1), ("V2A", V2), ("V2P", PHASE)):
        pairs = [row.split(",") for row in rows.splitlines()]
        seconds = "\n".join(f"{float(time) / 1e3!r},{value}" for time, value in pairs)
        write(export / f"{name}.csv", [(DEVICES[name], seconds)])
    with pytest.raises(
        ProgramError,
        match=r"B.csv, line 7: ctime of .* goes from 0 to 1.2; expected milliseconds, .*seconds",
    ):
        import_controls_export(export)
    program = import_controls_export(export, units=parse_units(["ctime=s"])).program
    assert [getattr(program, name) for name in FUNCTIONS] == [
        getattr(expected, name) for name in FUNCTIONS
    ]


@pytest.mark.parametrize(("time_factor", "factor"), [(1.0, 1.0), (1e-3, 1.0), (1e-3, 1e-4)])
def test_a_field_array_is_taken_as_what_it_looks_like(
    export: Path, time_factor: float, factor: float
) -> None:
    """A .npy names no units: seconds and tesla are recognised, taken, and said."""
    (export / "B.csv").unlink()
    rows = np.array([row.split(",") for row in FIELD.splitlines()], dtype=np.float64)
    np.save(export / "B.npy", (rows / [round(1 / time_factor), round(1 / factor)]).T)
    imported = import_controls_export(export)
    assert imported.program.b_field_t.value[2] == 0.8627123
    assert imported.program.b_field_t.ctime_ms.tolist() == [0.0, 270.0, 805.0, 815.0, 1200.0]
    assert any("look like seconds" in note for note in imported.notes) == (time_factor != 1.0)
    assert any("look like tesla" in note for note in imported.notes) == (factor != 1.0)


def test_a_phase_within_a_turn_of_radians_is_remarked_on(export: Path) -> None:
    """Small phases may be degrees: they are taken, with the way to say otherwise."""
    write(export / "V2P.csv", [(DEVICES["V2P"], "0,-1.5\n805,-1.25")])
    imported = import_controls_export(export)
    assert imported.program.phi_hw_deg.value.tolist() == [-1.5, -1.25]
    note = next(note for note in imported.notes if "radians" in note)
    assert note == (
        "phi_hw: no value is beyond -1.25 at ctime 805 ms (line 4); it is taken as degrees; if these "
        "are radians, give --unit phi_hw=rad"
    )
    turned = import_controls_export(export, units=parse_units(["phi_hw=rad"]))
    assert turned.program.phi_hw_deg.value == pytest.approx(np.degrees([-1.5, -1.25]))
    assert not any("if these" in note for note in turned.notes)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("v1", "unit 'v1' is not understood; expected for example v1=kV"),
        ("v3=kV", "no function 'v3'; there is: b_field, v1, v2, phi_hw"),
        ("v1=MV", "v1 has no unit 'MV'; allowed: V, kV"),
        ("ctime=h", "ctime has no unit 'h'; allowed: ms, s"),
    ],
)
def test_wrong_units(text: str, sentence: str) -> None:
    """A unit that is none is one sentence."""
    with pytest.raises(UsageError, match=sentence):
        parse_units([text])


def test_a_unit_twice() -> None:
    """Two units for one function are refused."""
    with pytest.raises(UsageError, match="unit of v1_v is given twice"):
        parse_units(["v1=kV", "v1_v=V"])


def test_a_gap_in_the_columns(export: Path) -> None:
    """Empty cells before further breakpoints are named with both lines."""
    rows = ["D,D,E,E", "X,Y,X,Y", "0,1,0,1", ",,1,2", "2,3,2,3"]
    (export / "V1A.csv").write_text("\n".join(rows).replace("D", DEVICES["V1A"]))
    with pytest.raises(
        ProgramError, match=r"V1A.csv, line 4: BA3.* has empty cells, but goes on in line 5; fill"
    ):
        import_controls_export(export)


def test_a_gap_in_the_samples(export: Path) -> None:
    """A stretch without samples in a field that is sampled densely is remarked on."""
    time = np.r_[0.0, np.arange(270.0, 400.0), np.arange(440.0, 811.0), 1200.0]
    field = np.interp(time, [0.0, 270.0, 807.0, 1200.0], [0.0, 2320.0, 8627.0, 0.0])
    np.save(export / "field.npy", np.stack([time, field]))
    notes = import_controls_export(export, field_file=export / "field.npy").notes
    assert [note for note in notes if "no samples" in note] == [
        "b_field: no samples between ctime 399 and 440 ms in field.npy, where there is beam; a "
        "straight line is taken"
    ]


def test_pickles_are_left_out(export: Path, tmp_path: Path) -> None:
    """A pickle in the folder is named as left out; a folder of nothing else is refused."""
    (export / "phases.pkl").write_bytes(b"\x80\x04N.")
    notes = import_controls_export(export).notes
    assert "phases.pkl: left out, pickles are not read: they can run any code" in notes
    (tmp_path / "p.pickle").write_bytes(b"\x80\x04N.")
    with pytest.raises(ProgramError, match=r"holds no .csv or .npy file \(p.pickle: pickles are"):
        import_controls_export(tmp_path)


@pytest.mark.parametrize(
    ("name", "role"),
    [("TOF_V1A", "v1_v"), ("V2A_x_modified", "v2_v"), ("V2P_seg", "phi_hw_deg"), ("B", "b_field_t"),
     ("Bfield", "b_field_t"), ("B V1A", ""), ("BV1A", ""), ("x", "")],
)  # fmt: skip
def test_a_word_of_the_files_name_says_what_it_is(name: str, role: str) -> None:
    """Where no device says it, a word of the file's name does; two that differ say nothing."""
    assert role_of("", name) == role
    assert role_of("MY.DEVICE", name) == role
    assert role_of("BA3.FGPRFH1/Settings#amplitudes", name) == ""


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
        ("D;D\nX;Y\n0;1\n", r"line 1: has 1 columns.*; save it with commas between the cells"),
        ("D,D\nX,Y\n0,1\n1,8 kV\n", r"line 4: column Y of D holds '8 kV'; expected a number"),
        ("D,D\nX,Y\n5,1\n1,2\n", r"line 4: X of D goes from 5 to 1; it must increase"),
        ("\x00\x01\x02", r"line 1: holds binary data"),
    ],
)
def test_wrong_export_files(export: Path, text: str, sentence: str) -> None:
    """Each kind of wrong export is named with file, line and what was expected."""
    (export / "V1A.csv").write_text(text)
    with pytest.raises(ProgramError, match=sentence):
        import_controls_export(export)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_wrong_encodings(export: Path, encoding: str) -> None:
    """Text that is not UTF-8 is named as such; a spreadsheet's byte order mark is no fault."""
    text = (export / "V1A.csv").read_text()
    (export / "V1A.csv").write_text("Gerät," + text, encoding=encoding)
    with pytest.raises(ProgramError, match=r"V1A.csv, line 1: is not UTF-8 text"):
        import_controls_export(export)
    (export / "V1A.csv").write_text(text.replace("\n", "\r\n"), encoding="utf-8-sig")
    assert import_controls_export(export).program.v1_v.value[2] == 9000.0


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


def against(folder: Path, sign: float) -> Path:
    """Write an export whose phase follows the optimum of phi_2 with a sign, 80 degrees away."""
    from memrl_ctrl.program.optimum import cycle_optimum

    program = load_program("psb-1p4gev")
    found = cycle_optimum(program, intensity=3e12, filling=0.7, points=60)
    time, phi2 = found.ctime_ms[found.found], np.degrees(found.phi2_rad[found.found])
    phase = PiecewiseLinear(ctime_ms=time, value=80.0 + sign * phi2, beyond="hold")
    time = np.concatenate([[0.0], time, [1200.0]])
    value = np.concatenate([[phase.value[0]], phase.value, [phase.value[-1]]])
    written = replace(program, phi_hw_deg=PiecewiseLinear(ctime_ms=time, value=value))
    export_program(written, folder, ring=3)
    return folder


def test_a_phase_that_runs_against_phi2_is_noticed(tmp_path: Path) -> None:
    """A function that follows minus the optimum is said to, with what to do; one that follows it is
    not; imported with the sign it is the negative, which is exported as it was."""
    other = against(tmp_path / "other", -1.0)
    (note,) = (n for n in import_controls_export(other).notes if "against phi_2" in n)
    assert "--phase-sign -1" in note
    along = import_controls_export(against(tmp_path / "along", 1.0))
    assert not any("against phi_2" in note for note in along.notes)
    turned = import_controls_export(other, phase_sign=-1)
    assert not any("seems to run" in note for note in turned.notes)
    plain = import_controls_export(other).program.phi_hw_deg.value
    np.testing.assert_array_equal(turned.program.phi_hw_deg.value, -plain)
    saved = save_program(turned.program, tmp_path / "p.yaml")[0]
    again = load_program(saved)
    assert again.phase_sign == -1
    export_program(again, tmp_path / "back", ring=3)
    for file in ("V2P.csv", "V1A.csv"):
        assert (tmp_path / "back" / file).read_bytes() == (other / file).read_bytes()


def test_a_sign_is_one_or_minus_one(tmp_path: Path) -> None:
    """Another sign is refused, on import and in a file."""
    with pytest.raises(UsageError, match="sign is 0; it is 1 or -1"):
        import_controls_export(tmp_path, phase_sign=0)
    file = save_program(load_program("psb-2gev"), tmp_path / "p.yaml")[0]
    file.write_text(file.read_text() + "phase_sign: 0.5\n")
    with pytest.raises(ProgramError, match=r"phase_sign: is 0\.5; expected 1, or -1"):
        load_program(file)
