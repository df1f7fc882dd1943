"""Import of controls-system exports: devices, rings and versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program import import_controls_export
from memrl_ctrl.program.controls_files import role_of

from .controls_export import DEVICES, PHASE, V1, V2, complete, write


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A complete export."""
    return complete(tmp_path / "my export")


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


def test_a_function_twice(export: Path) -> None:
    """Two current functions of the same kind are ambiguous."""
    write(export / "V1B.csv", [(DEVICES["V1A"], V1)])
    with pytest.raises(ProgramError, match=r"V1B.csv, line 1: .* stands in V1A.csv and in V1B.csv"):
        import_controls_export(export)
