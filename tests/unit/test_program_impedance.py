"""Impedance tables of a user in machine files."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.beam import Resonator
from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program import MachineFile, MachineWarning, available_machines, load_machine

SHIPPED = available_machines()["psb"].read_text()
FINEMET = Path(__file__).parents[3] / "shared" / "data" / "finemet" / "finemet_impedance.txt"
FREQUENCY = np.geomspace(1e5, 5e7, 80)
GAP = Resonator(r_shunt_ohm=90.0, frequency_hz=3e6, q=1.5)
COLUMNS = "frequency_column: f, magnitude_column: z, magnitude_unit: ohm, phase_column: p, phase_unit: deg"


def machine(folder: Path, table: str) -> MachineFile:
    """Load the PSB with one more item in its impedance."""
    path = folder / "machine.yaml"
    path.write_text(SHIPPED.replace("  impedance:\n", f"  impedance:\n    - {table}\n", 1))
    return load_machine(path)


def write(folder: Path, header: str, *columns: np.ndarray, separator: str = "\t") -> None:
    """Write `cell.txt` with a header of names between blanks."""
    rows = [separator.join(f"{value:.12g}" for value in row) for row in zip(*columns, strict=True)]
    names = separator.join(header.split())
    (folder / "cell.txt").write_text("\n".join([names, *rows]) + "\n")


def gap_at(loaded: MachineFile) -> np.ndarray:
    """The first item's impedance at 2 MHz, per item."""
    item = loaded.ring.impedance[0]
    return item.table_at(np.array([2e6])) / item.count  # type: ignore[union-attr,no-any-return]


@pytest.mark.parametrize("separator", ["\t", ",", ";", " "])
@pytest.mark.parametrize("units", [("ohm", "deg"), ("dB", "rad")])
def test_magnitude_and_phase_in_any_unit(
    tmp_path: Path, separator: str, units: tuple[str, str]
) -> None:
    """Ohm or dB, degrees or radians, any separator: the same impedance, times the number of cells."""
    z = GAP.impedance_ohm(FREQUENCY)
    magnitude = np.abs(z) if units[0] == "ohm" else 20.0 * np.log10(np.abs(z))
    phase = np.degrees(np.angle(z)) if units[1] == "deg" else np.angle(z)
    write(tmp_path, "f z p", FREQUENCY, magnitude, phase, separator=separator)
    loaded = machine(
        tmp_path,
        f"table: {{label: gap, file: cell.txt, frequency_column: f, magnitude_column: z, "
        f"magnitude_unit: {units[0]}, phase_column: p, phase_unit: {units[1]}, count: 13}}",
    )
    assert loaded.notes == ()
    assert loaded.ring.impedance[0].count == 13
    assert np.array(loaded.impedance[0].table_ohm) == pytest.approx(z, rel=1e-9)
    assert gap_at(loaded) == pytest.approx(GAP.impedance_ohm(np.array([2e6])), rel=1e-2)


def test_real_and_imaginary_columns_by_number_without_header(tmp_path: Path) -> None:
    """A file of numbers alone, in MHz, its columns given by number; comments are left out."""
    z = GAP.impedance_ohm(FREQUENCY)
    rows = zip(FREQUENCY / 1e6, z.real, z.imag, strict=True)
    text = "% exported\n" + "\n".join(" ".join(map(repr, map(float, row))) for row in rows)
    (tmp_path / "cell.txt").write_text(text)
    loaded = machine(
        tmp_path,
        "table: {file: cell.txt, frequency_column: 1, frequency_unit: MHz, real_column: 2, "
        "imag_column: 3, count: 2}",
    )
    assert loaded.impedance[0].label == "cell.txt"
    assert loaded.notes == ()
    assert np.array(loaded.impedance[0].table_ohm) == pytest.approx(z, rel=1e-12)


def test_a_phase_of_another_column_is_noted_once_and_used(tmp_path: Path) -> None:
    """Two gaps with their phases swapped: a warning names the column that would fit, once."""
    other = Resonator(r_shunt_ohm=50.0, frequency_hz=2e7, q=4.0).impedance_ohm(FREQUENCY)
    z = GAP.impedance_ohm(FREQUENCY)
    write(
        tmp_path, "f z p z2 q", FREQUENCY, np.abs(z), np.degrees(np.angle(other)), np.abs(other),
        np.degrees(np.angle(z)),
    )  # fmt: skip
    table = f"table: {{label: gap, file: cell.txt, {COLUMNS}, count: 1}}"
    with pytest.warns(
        MachineWarning, match=r"impedance 'gap' does not look .* column 'q' would fit"
    ):
        first = machine(tmp_path, table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = machine(tmp_path, table)
    assert first.notes == second.notes
    assert len(first.notes) == 1
    assert "\n" not in first.notes[0]
    assert len(first.ring.impedance) == 3


def test_a_reversed_sign_is_noted(tmp_path: Path) -> None:
    """Phases in the convention of exp(-j omega t) are recognised as such."""
    z = GAP.impedance_ohm(FREQUENCY)
    write(tmp_path, "f z p", FREQUENCY, np.abs(z), -np.degrees(np.angle(z)))
    with pytest.warns(MachineWarning, match="column 'p' with its sign reversed would fit"):
        machine(tmp_path, f"table: {{label: gap, file: cell.txt, {COLUMNS}, count: 1}}")


def test_a_table_in_another_unit_of_frequency_is_noted(tmp_path: Path) -> None:
    """A table that does not reach the revolution frequency gives a note, not silence."""
    z = GAP.impedance_ohm(FREQUENCY)
    write(tmp_path, "f z p", FREQUENCY / 1e6, np.abs(z), np.degrees(np.angle(z)))
    with pytest.warns(MachineWarning, match=r"from 0\.1 to 50 Hz, not around the revolution"):
        machine(tmp_path, f"table: {{label: gap, file: cell.txt, {COLUMNS}, count: 1}}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("f\tz\tp\n1e5\t3\t1\n2e5\t\t1\n", r"cell\.txt, line 3: column 'z' has a gap; expected a"),
        ("f\tz\tp\n1e5\t3\t1\n2e5\tn/a\t1\n", r"line 3: column 'z' holds 'n/a'; expected a number"),
        ("f\tz\tp\n1e5\t3\t1\n2e5\t3\n", r"line 3: has 2 columns; expected 3 as above it"),
        (
            "f\tz\tp\n-1e5\t3\t1\n2e5\t3\t1\n",
            r"line 2: column 'f': -1e5 is negative; expected freq",
        ),
        (
            "f\tz\tp\n2e5\t3\t1\n\n1e5\t3\t1\n",
            r"line 4: column 'f': 1e5 is not above the row before",
        ),
        ("f\tz\tp\n1e5\t3\t1\n1e5\t3\t1\n", r"line 3: column 'f': 1e5 is not above the row before"),
        ("f\tz\tp\n1e5\t-3\t1\n2e5\t3\t1\n", r"line 2: column 'z': -3 is negative; .* dB meant\?"),
        ("f\tz\tp\n1e5\t3e9\t1\n2e5\t3\t1\n", r"line 2: column 'z': 3e9 is more than 1e\+09 ohm"),
        (
            "f\tz\tq\n1e5\t3\t1\n2e5\t3\t1\n",
            r"machine\.yaml, line \d+: .*has no column 'p'; there is",
        ),
        ("f\tz\tp\n1e5\t3\t1\n", r"line 1: has 1 rows of numbers; expected at least 2"),
        ("# nothing\n", r"holds no numbers; expected a table"),
        ("f\tp\tz\tz\n1e5\t3\t1\t1\n2e5\t3\t1\t1\n", r"has several columns 'z'; give its number"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """Gaps, negative and unordered frequencies, wrong columns: file, line, what was expected."""
    (tmp_path / "cell.txt").write_text(text)
    with pytest.raises(ProgramError) as caught:
        machine(tmp_path, f"table: {{label: gap, file: cell.txt, {COLUMNS}, count: 1}}")
    assert re.search(sentence, str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("table: {count: 1}", r"expected csv \(this project's own form\) or file"),
        ("table: {file: cell.txt, csv: cell.txt, count: 1}", r"expected csv .* or file"),
        (
            "table: {file: cell.txt, frequency_column: f, real_column: z, imag_column: p, "
            "phase_unit: deg, count: 1}",
            r"phase_unit: is not used with real_column and imag_column",
        ),
        (
            f"table: {{file: cell.txt, {COLUMNS.replace('ohm', 'kilohm')}, count: 1}}",
            r"magnitude_unit: 'kilohm' is not known; allowed: ohm, dB",
        ),
        (
            f"table: {{file: cell.txt, {COLUMNS}, phase_offset: 3, count: 1}}",
            r"phase_offset: is no field here",
        ),
        (f"table: {{file: nowhere.txt, {COLUMNS}, count: 1}}", r"nowhere\.txt: .*no such file"),
        (
            "resistive_wall: {length_m: 157, radius_m: 0, resistivity_ohm_m: 7e-7, count: 1}",
            r"resistive_wall\.radius_m: 0 is not allowed; it must be above 0",
        ),
    ],
)
def test_a_wrong_description_is_one_sentence(tmp_path: Path, table: str, sentence: str) -> None:
    """Each mistake in the machine file is named with its line."""
    z = GAP.impedance_ohm(FREQUENCY)
    write(tmp_path, "f z p", FREQUENCY, np.abs(z), np.degrees(np.angle(z)))
    with pytest.raises(ProgramError) as caught:
        machine(tmp_path, table)
    assert re.search(sentence, str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not FINEMET.is_file(), reason="the measured table (../shared/data) is not here")
@pytest.mark.parametrize(("magnitude", "own", "other"), [(3, 4, 6), (5, 6, 4)])
def test_the_traps_of_a_measured_table(
    tmp_path: Path, magnitude: int, own: int, other: int
) -> None:
    """The measured cell loads in ohm with the phase that belongs to it; the headers' own pairing, and
    dB, are noted with what would fit."""
    (tmp_path / "cell.txt").write_text(FINEMET.read_text())

    def table(unit: str, phase: int) -> str:
        return (
            f"table: {{file: cell.txt, frequency_column: 1, magnitude_column: {magnitude}, "
            f"magnitude_unit: {unit}, phase_column: {phase}, phase_unit: deg, count: 13}}"
        )

    assert machine(tmp_path, table("ohm", own)).notes == ()
    name = {4: r"\|Z\| OL \[deg\]", 6: r"\|Z\| CL \[deg\]"}[own]
    with pytest.warns(MachineWarning, match=rf"column '{name}' would fit"):
        machine(tmp_path, table("ohm", other))
    if magnitude == 3:
        with pytest.warns(MachineWarning, match=rf"'{name}' with magnitude_unit ohm would fit"):
            machine(tmp_path, table("dB", own))
    else:
        with pytest.raises(ProgramError, match="is magnitude_unit ohm meant"):
            machine(tmp_path, table("dB", own))
