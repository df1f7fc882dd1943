"""Export of programs in the controls system's format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.cli import main
from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program import (
    FUNCTIONS,
    CycleProgram,
    PiecewiseLinear,
    check_ranges,
    import_controls_export,
    load_program,
    save_program,
)
from memrl_ctrl.program.controls_export import export_program, export_text, parse_devices

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "psb_isolde"
PHASE = "BA3.FGPRFH2/Settings#amplitudes"
DEVICES = {
    "b_field_t": "PSBBEAM/B#value",
    "v1_v": "BA3.FGVRFH1/Settings#amplitudes",
    "v2_v": "BA3.FGVRFH2/Settings#amplitudes",
    "phi_hw_deg": PHASE,
}


@pytest.fixture
def program() -> CycleProgram:
    """The shipped program, as if imported from ring 3."""
    return dataclasses.replace(load_program("psb-2gev"), devices=DEVICES)


def line(times: list[float], values: list[float], *, hold: bool = False) -> PiecewiseLinear:
    return PiecewiseLinear(
        ctime_ms=np.array(times), value=np.array(values), beyond="hold" if hold else "refuse"
    )


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no operational export at {REAL}")
def test_a_real_export_comes_back_byte_by_byte(tmp_path: Path) -> None:
    """Import, save, load and export of an operational cycle give the files that were imported."""
    save_program(import_controls_export(REAL).program, tmp_path / "x.yaml")
    files = export_program(load_program(tmp_path / "x.yaml"), tmp_path / "back").files
    assert [path.name for path in files] == ["B.csv", "V1A.csv", "V2A.csv", "V2P.csv"]
    for path in files:
        rows = (REAL / path.name).read_text().splitlines()
        # The real phase has an older version behind the current one.
        current = [",".join(row.split(",")[:2]) for row in rows]
        assert path.read_text().splitlines() == current
    assert files[0].read_bytes() == (REAL / "B.csv").read_bytes()


def test_the_format_is_the_control_systems() -> None:
    """Devices head each column, X,Y stand below, units are ms, gauss and degrees, cells stay empty."""
    text = export_text(
        [
            ("b_field_t", "PSBBEAM/B#value", line([0.0, 275.5, 805.0], [0.0, 0.4124449, 1.0])),
            ("phi_hw_deg", PHASE, line([0.0, 805.0], [-88.0, -69.32147692709266])),
        ]
    )
    assert text == (
        f"PSBBEAM/B#value,PSBBEAM/B#value,{PHASE},{PHASE}\n"
        "X,Y,X,Y\n"
        "0.0,0.0,0.0,-88.0\n"
        "275.5,4124.449,805.0,-69.32147692709266\n"
        "805.0,10000.0,,\n"
    )


def test_a_folder_imports_to_the_same_program(program: CycleProgram, tmp_path: Path) -> None:
    """What is exported as a folder imports to the same functions of the same devices."""
    exported = export_program(program, tmp_path / "new" / "folder")
    again = import_controls_export(tmp_path / "new" / "folder").program
    assert len(exported.files) == 4
    assert [getattr(again, name) for name in FUNCTIONS] == [
        getattr(program, name) for name in FUNCTIONS
    ]
    assert again.devices == DEVICES


def test_functions_side_by_side(program: CycleProgram, tmp_path: Path) -> None:
    """A file takes phi_hw, or the functions that are named, in pairs of columns."""
    export_program(program, tmp_path / "one.csv")
    assert (tmp_path / "one.csv").read_text().startswith(f"{PHASE},{PHASE}\nX,Y\n265.0,-85.0\n")
    export_program(
        program, tmp_path / "x" / "all.csv", functions=["v2", "b_field", "v1_v", "phi_hw"]
    )
    assert import_controls_export(tmp_path / "x").program.v1_v == program.v1_v


def test_a_phase_that_is_held_stays_as_short(program: CycleProgram, tmp_path: Path) -> None:
    """A phase that ends before extraction is written as it is; the import holds it again."""
    held = dataclasses.replace(program, phi_hw_deg=line([0.0, 400.0], [-88.0, -70.0], hold=True))
    export_program(held, tmp_path / "x")
    assert import_controls_export(tmp_path / "x").program.phi_hw_deg == held.phi_hw_deg


def test_what_holding_leaves_unsaid_is_written(program: CycleProgram, tmp_path: Path) -> None:
    """A function that is held before its first or after its last breakpoint gets one there."""
    short = dataclasses.replace(
        program,
        v1_v=line([300.0, 700.0], [8000.0, 9500.0], hold=True),
        phi_hw_deg=line([300.0, 400.0], [-88.0, -70.0], hold=True),
    )
    exported = export_program(short, tmp_path / "x")
    assert "v1: a breakpoint at injection (275 ms) was added" in exported.notes
    assert "v1: a breakpoint at extraction (805 ms) was added" in exported.notes
    again = import_controls_export(tmp_path / "x").program
    assert again.v1_v.ctime_ms.tolist() == [275.0, 300.0, 700.0, 805.0]
    assert again.phi_hw_deg.ctime_ms.tolist() == [275.0, 300.0, 400.0]
    time = np.linspace(275.0, 805.0, 107)
    assert np.array_equal(again.phi_hw_deg.at(time), short.phi_hw_deg.at(time))


def test_a_function_the_machine_cannot_play_is_refused(
    program: CycleProgram, tmp_path: Path
) -> None:
    """The export refuses with the sentence of `check`, and writes nothing."""
    v1 = dataclasses.replace(program.v1_v, value=np.full(program.v1_v.value.shape, 3000.0))
    weak = dataclasses.replace(program, v1_v=v1)
    sentence = next(check.sentence for check in check_ranges(weak) if not check.ok)
    with pytest.raises(ProgramError) as caught:
        export_program(weak, tmp_path / "x")
    assert sentence in str(caught.value)
    assert "too low for the Bdot" in sentence
    assert list(tmp_path.iterdir()) == []


def test_devices(program: CycleProgram, tmp_path: Path) -> None:
    """Devices are the program's, another ring's, or given; a slip between functions is refused."""
    out = tmp_path / "x.csv"

    def device(program: CycleProgram, ring: int | None = None, **given: str) -> str:
        export_program(program, out, devices=given, ring=ring, force=True)
        return out.read_text().partition(",")[0]

    bare = dataclasses.replace(program, devices={})
    assert device(program) == PHASE
    assert device(program, ring=1) == PHASE.replace("3", "1")
    assert device(bare, ring=4) == PHASE.replace("3", "4")
    assert device(bare, phi_hw_deg="MY.GENERATOR/Phase#f") == "MY.GENERATOR/Phase#f"
    assert device(program, ring=1, phi_hw_deg=PHASE) == PHASE
    with pytest.raises(UsageError, match=r"does not say which device plays phi_hw; give --device"):
        device(bare)
    with pytest.raises(UsageError, match=r"BA3.FGVRFH2/S#a is the h=2 voltage, not that of phi_hw"):
        device(program, phi_hw_deg="BA3.FGVRFH2/S#a")
    with pytest.raises(UsageError, match=r"BA3.FGPRFH1/S#a is no h=2 phase, not that of phi_hw"):
        device(program, phi_hw_deg="BA3.FGPRFH1/S#a")
    with pytest.raises(UsageError, match=r"plays v1, which is not exported; add --function v1"):
        device(program, v1_v=DEVICES["v1_v"])
    with pytest.raises(UsageError, match="ring 0 does not exist; expected 1 to 9"):
        device(program, ring=0)


def test_devices_as_text() -> None:
    """A device alone is that of the function its name tells, or of the only one that is exported."""
    assert parse_devices([PHASE, "v1=MY.A/S#c"], []) == {"phi_hw_deg": PHASE, "v1_v": "MY.A/S#c"}
    assert parse_devices(["MY.A/S#c"], ["v2"]) == {"v2_v": "MY.A/S#c"}
    for texts, sentence in (
        (["MY.A/S#c"], "does not tell which function it plays; give FUNCTION=DEVICE"),
        ([PHASE, "phi_hw=X"], "phi_hw is given two devices"),
        (["v1=a,b"], "is no name like"),
        (["v7=X"], "no function 'v7'"),
    ):
        with pytest.raises(UsageError, match=sentence):
            parse_devices(texts, ["v1", "v2"])


def test_places_that_cannot_be_written(program: CycleProgram, tmp_path: Path) -> None:
    """Files are replaced only when told; odd names and places are one sentence."""
    export_program(program, tmp_path / "x")
    with pytest.raises(ProgramError, match=r"exists; choose another name, or give --force"):
        export_program(program, tmp_path / "x")
    export_program(program, tmp_path / "x", force=True)
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(ProgramError, match=r"d.csv: is a folder"):
        export_program(program, tmp_path / "d.csv")
    with pytest.raises(UsageError, match=r"x.yaml is no name for an export; expected a .csv file"):
        export_program(program, tmp_path / "x.yaml")
    with pytest.raises(UsageError, match="function v1 is named twice"):
        export_program(program, tmp_path / "y", functions=["v1", "v1_v"])
    with pytest.raises(UsageError, match="no function 'phi2'; there is: b_field, v1, v2, phi_hw"):
        export_program(program, tmp_path / "y", functions=["phi2"])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`program export` writes what it says, and names the way where a device is missing."""
    out = tmp_path / "phase.csv"
    assert main(["program", "export", "psb-2gev", "--out", str(out)]) == 2
    assert "or --ring N for the PSB's devices" in capsys.readouterr().err
    assert main(["program", "export", "psb-2gev", "--out", str(out), "--device", PHASE]) == 0
    assert f"phi_hw: as {PHASE}, 111 breakpoints" in capsys.readouterr().out
    assert main(["program", "export", "psb-2gev", "--out", str(tmp_path / "f"), "--ring", "2"]) == 0
    assert "BA2.FGVRFH1" in (tmp_path / "f" / "V1A.csv").read_text()
    arguments = ["--function", "v1", "--function", "v2", "--ring", "2", "--force"]
    assert main(["program", "export", "psb-2gev", "--out", str(out), *arguments]) == 0
    assert out.read_text().splitlines()[1] == "X,Y,X,Y"
