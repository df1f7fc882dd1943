"""Wrong files: one sentence each, with file, line and what was expected."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program import available_programs, load_machine, load_program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A writable copy of the shipped files."""
    shipped = available_programs()["psb-2gev"].parent
    for path in [*shipped.glob("*.yaml"), *shipped.glob("*.csv")]:
        shutil.copy(path, tmp_path)
    return tmp_path


def csv_error(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / f"psb-2gev-{name}.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ProgramError) as caught:
        load_program(folder / "psb-2gev.yaml")
    assert caught.value.path.name == path.name
    assert "\n" not in str(caught.value)
    return str(caught.value)


ROWS = "275,8000\n805,8000\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"csv: is empty; expected a header line ctime_ms,v1_v"),
        (" \n\n", r"is empty"),
        ("# only words\n", r"holds only comments"),
        ("ctime_ms\n275\n805\n", r"line 1: column v1_v is missing; expected the columns"),
        (f"ctime_ms,v1\n{ROWS}", r"line 1: column 'v1' is not known.*did you mean 'v1_v'\?"),
        (f"ctime_ms,v1_kv\n{ROWS}", r"its unit is wrong: convert kilovolt to volt \(v1_v\)"),
        (f"ctime_s,v1_v\n{ROWS}", r"its unit is wrong: convert seconds to ms \(ctime_ms\)"),
        (f"v1_v,ctime_ms,v1_v\n{ROWS}", r"column v1_v stands twice"),
        (ROWS, r"line 1: begins with numbers; expected the columns ctime_ms,v1_v named first"),
        ("ctime_ms,v1_v\n", r"line 1: has 0 rows of numbers; expected at least 2"),
        (
            f"ctime_ms,v1_v\n{ROWS}805,8000\n",
            r"line 4: ctime_ms goes from 805 to 805; it must incr",
        ),
        (f"# a\nctime_ms,v1_v\n300,1\n{ROWS}", r"line 4: ctime_ms goes from 300 to 275"),
        (
            "ctime_ms,v1_v\n275,nan\n805,8000\n",
            r"line 2: column v1_v holds 'nan'; expected a number",
        ),
        ("ctime_ms,v1_v\n275,8_000\n805,8000\n", r"line 2: column v1_v holds '8_000'"),
        ("ctime_ms,v1_v\n275,1e300\n805,8000\n", r"line 2: column v1_v holds '1e300'"),
        ("ctime_ms,v1_v\n275,\n805,8000\n", r"line 2: column v1_v holds an empty cell"),
        ("ctime_ms,v1_v\n275,8000\n805,8 kV\n", r"line 3: column v1_v holds '8 kV'"),
        ("ctime_ms,v1_v\n275,8000,3\n805,8000\n", r"line 2: has 3 columns; expected 2"),
        ("ctime_ms;v1_v\n275;8000\n", r"line 1: column 'ctime_ms;v1_v' is not known"),
        ('ctime_ms,v1_v\n275,"8000\n', r"line 2: no valid CSV"),
        (
            "ctime_ms,v1_v\n280,8000\n805,8000\n",
            r"covers ctime 280 to 805 ms; expected at least 275",
        ),
        (
            "ctime_ms,v1_v\n275,8000\n400,8000\n",
            r"covers ctime 275 to 400 ms.*extraction of machine",
        ),
        (b"\x89PNG\r\n\xff\xfe", r"line 1: is not UTF-8 text"),
        (b"ctime_ms,v1_v\n275,1\n\0\0", r"line 3: holds binary data"),
    ],
)
def test_wrong_csv(folder: Path, text: str | bytes, sentence: str) -> None:
    """Each kind of wrong function file is named with its line and what was expected."""
    assert re.search(sentence, csv_error(folder, "v1_v", text))


def test_a_spreadsheets_text_is_read(folder: Path) -> None:
    """Byte order mark, CRLF, comments, spaces and blank lines do no harm."""
    path = folder / "psb-2gev-v1_v.csv"
    path.write_bytes(
        b"\xef\xbb\xbf# note, with comma\r\nctime_ms, v1_v\r\n\r\n0, 9e3\r\n1200,9000\r\n"
    )
    assert load_program(folder / "psb-2gev.yaml").v1_v.value.tolist() == [9000.0, 9000.0]


def test_missing_csv(folder: Path) -> None:
    """A function file that is not there is named."""
    (folder / "psb-2gev-v2_v.csv").unlink()
    with pytest.raises(ProgramError, match=r"v2_v\.csv: cannot be read \(no such file\); expected"):
        load_program(folder / "psb-2gev.yaml")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("kind: program", "kind: machine", r"line 1: kind: is 'machine'; expected 'program'"),
        ("format: 1", "format: 7", r"line 2: format: 7 is not known; this version reads format 1"),
        ("machine: psb", "machine: psbx", r"line 4: machine: no machine 'psbx'; there is: .*psb"),
        ("machine: psb", "machina: psb", r"line 1: file: field machine is missing; did you mean"),
        ("name: psb-2gev", "name: my program", r"line 3: name: 'my program' is no name"),
        ("  v1_v: ", "  v1_kv: ", r"field functions.v1_v is missing; did you mean 'v1_kv'"),
        ("functions:", "volume: 3\nfunctions:", r"volume: is no field here; allowed: b_dot_window"),
        ("functions:", "functions: {}\nother:", r"field functions\.b_field_t is missing"),
        (
            "functions:",
            "functions: x\nother:",
            r"functions: expected 'field: value' lines below it",
        ),
        ("functions:", "name: again\nfunctions:", r"name: stands twice; keep one"),
        (
            "functions:",
            "b_dot_window_ms: 0\nfunctions:",
            r"0 is not allowed; it must be at least 0.01",
        ),
        ("functions:", "control_points_ms: [300, 299]\nfunctions:", r"must increase"),
        ("functions:", "control_points_ms: [100]\nfunctions:", r"allowed is 275 to 805 ms"),
        ("functions:", "control_points_ms: []\nfunctions:", r"at least one ctime"),
        (
            "functions:",
            "control_points_ms: [3, x]\nfunctions:",
            r"\[1\]: expected a number, not 'x'",
        ),
        (
            "kind: program",
            "kind: program\n\tx: 1",
            r"line 2: no valid YAML: .*; expected a program",
        ),
    ],
)
def test_wrong_program_yaml(folder: Path, old: str, new: str, sentence: str) -> None:
    """Each wrong field of a program file is named with its line."""
    path = folder / "psb-2gev.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ProgramError, match=sentence) as caught:
        load_program(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "circumference_m: 157.08",
            "circumference_m: -1",
            r"ring.circumference_m: -1 is not allowed",
        ),
        ("circumference_m: 157.08", "circumference_km: 1", r"ring.circumference_m is missing; did"),
        ("harmonics: [1, 2]", "harmonics: [1, 3]", r"the second must be twice the first"),
        (
            "intensity_effects: on",
            "intensity_effects: maybe",
            r"'maybe' is not known; allowed: on, o",
        ),
        ("period_s: 1.2", "period_s: soon", r"cycle.period_s: expected a number, not 'soon'"),
        ("count: 30", "count: 3.5", r"expected a whole number from 1 to 10000, not 3.5"),
        ("v1_v: [0.0, 24000.0]", "v1_v: [5, 5]", r"hardware.v1_v: expected \[lowest, highest\]"),
        ("ctime_ms: [275.0, 805.0]", "ctime_ms: [805, 275]", r"a function's times must increase"),
        ("[4.27, 4.05]", "[4.27, 0.5]", r"gamma_transition: must be above 1 everywhere"),
        ("q: 0.044", "q: 0", r"impedance\[0\].resonator.q: 0 is not allowed; it must be above 0"),
        (
            "- resonator:",
            "- resonance:",
            r"resonance: is no field here; allowed: resistive_wall, resonator, t",
        ),
        ("field: hardware", "field: hardwear", r"no field 'hardwear' in this file to be assumed"),
        (
            "first_after_injection_ms: 10.0",
            "first_after_injection_ms: 530",
            r"leave no time between",
        ),
        ("extraction_ctime_ms: 805.0", "extraction_ctime_ms: 200", r"must be above 275"),
    ],
)
def test_wrong_machine_yaml(folder: Path, old: str, new: str, sentence: str) -> None:
    """Each wrong field of a machine file is named with its line."""
    path = folder / "psb.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ProgramError, match=sentence) as caught:
        load_machine(path)
    assert caught.value.line is not None


def test_a_machine_may_hold_tables(folder: Path) -> None:
    """Impedance as a table, Z/n and gamma_transition as CSV reach the beam model."""
    path = folder / "psb.yaml"
    text = path.read_text()
    text = text.replace(
        "  impedance:\n",
        "  impedance:\n"
        "    - table: {label: cell, csv: cell.csv, count: 36}\n"
        "    - z_over_n: {label: wall, real_ohm: 1, imag_ohm: 2.5, count: 1}\n",
    ).replace(
        "    ctime_ms: [275.0, 805.0]\n    gamma_transition: [4.27, 4.05]\n", "    csv: gt.csv\n"
    )
    path.write_text(text)
    (folder / "cell.csv").write_text("frequency_hz,real_ohm,imag_ohm\n1e5,1,2\n1e6,3,-4\n")
    (folder / "gt.csv").write_text("ctime_ms,gamma_transition\n275,4.3\n805,4.1\n")
    machine = load_machine(path)
    assert machine.gamma_transition.value.tolist() == [4.3, 4.1]
    table, wall = machine.ring.impedance[:2]
    assert table.count == 36
    assert table.impedance_ohm.tolist() == [1 + 2j, 3 - 4j]  # type: ignore[union-attr]
    assert wall.z_over_n_ohm == 1 + 2.5j  # type: ignore[union-attr]
    (folder / "cell.csv").write_text("frequency_hz,real_ohm,imag_ohm\n-1e5,1,2\n1e6,3,-4\n")
    with pytest.raises(ProgramError, match=r"cell\.csv: frequency_hz begins below 0"):
        load_machine(path)
    (folder / "cell.csv").write_text("frequency_hz,real_ohm,imag_ohm\n1e6,1,2\n1e5,3,-4\n")
    with pytest.raises(ProgramError, match=r"cell\.csv, line 3: frequency_hz goes from 1e\+06"):
        load_machine(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"just words", r"holds no 'field: value' lines"),
        (b"- a\n- b\n", r"holds no 'field: value' lines"),
        (b"[" * 5000, r"nested too deeply|no valid YAML"),
        (b"a: *nowhere\n", "line 1: no valid YAML: found undefined alias"),
        (b"a: \x07\n", "no valid YAML"),
        (b"\x80\x81", "line 1: is not UTF-8"),
        (b"kind: program\n? [x]\n: 1\n", "expected a field's name before the colon"),
    ],
)
def test_files_that_are_no_yaml(tmp_path: Path, content: bytes, sentence: str) -> None:
    """Whatever the bytes, the error says what was expected."""
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ProgramError, match=sentence):
        load_program(path)


def test_places_that_are_no_file(tmp_path: Path) -> None:
    """A missing file and a folder are named as such."""
    with pytest.raises(
        ProgramError, match=r"no\.yaml: cannot be read \(no such file\); expected a p"
    ):
        load_program(tmp_path / "no.yaml")
    with pytest.raises(ProgramError, match=r": is a folder; expected a program file"):
        load_program(tmp_path)


def test_the_documents_machine_file_is_valid(tmp_path: Path) -> None:
    """The machine file shown in docs/programs.md loads as it stands there."""
    page = Path(__file__).resolve().parents[2] / "docs" / "programs.md"
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL)
    (tmp_path / "machine.yaml").write_text(blocks[1])
    (tmp_path / "cell.csv").write_text("frequency_hz,real_ohm,imag_ohm\n1e5,1,2\n1e6,3,-4\n")
    (tmp_path / "finemet.txt").write_text("Freq. [Hz]\tx\t|Z| CL\tp\n1e5\t0\t3\t45\n1e7\t0\t9\t0\n")
    machine = load_machine(tmp_path / "machine.yaml")
    assert len(machine.ring.impedance) == 5


def test_an_export_or_a_pickle_in_the_place_of_a_program(tmp_path: Path) -> None:
    """Who gives an export is told to import it; a pickle is refused before it is opened."""
    (tmp_path / "export").mkdir()
    for name in ("V1A.csv", "B.npy", "export"):
        with pytest.raises(
            ProgramError,
            match=rf"{name}: is (a folder|no program); expected a program file .*program import",
        ):
            load_program(tmp_path / name)
    with pytest.raises(ProgramError, match=r"phases.pkl: pickles are not read"):
        load_program(tmp_path / "phases.pkl")
