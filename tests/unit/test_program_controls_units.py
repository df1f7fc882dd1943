"""Import of controls-system exports: units, and the sign of the phase."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program import FUNCTIONS, import_controls_export, load_program, save_program
from memrl_ctrl.program.controls_export import export_program
from memrl_ctrl.program.functions import PiecewiseLinear
from memrl_ctrl.program.units import parse_units

from .controls_export import DEVICES, FIELD, PHASE, V1, V2, complete, write


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A complete export."""
    return complete(tmp_path / "my export")


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
