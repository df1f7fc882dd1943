"""The reference phase of a whole cycle."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from memrl_ctrl.beam import CRITERIA, Conditions, reference_optimum
from memrl_ctrl.cli import main, program_optimum
from memrl_ctrl.errors import BeamError, ProgramError, UnknownNameError, UsageError
from memrl_ctrl.program import (
    PiecewiseLinear,
    available_programs,
    import_controls_export,
    load_program,
    load_reference,
    optimum,
    save_program,
)
from memrl_ctrl.program.optimum import CycleOptimum, cycle_optimum


@pytest.fixture(scope="module")
def found() -> CycleOptimum:
    """A cycle whose last part has no symmetric optimum."""
    return cycle_optimum(load_program("psb-tof"), intensity=8e12, emittance_evs=1.4, points=40)


def test_each_point_is_the_optimum_of_its_condition(found: CycleOptimum) -> None:
    """The function holds what `reference_optimum` says for the program's values at its ctimes."""
    program = found.program
    at = program.at(found.ctime_ms)
    conditions = Conditions(
        b_field_t=at.b_field_t,
        b_dot_t_per_s=at.b_dot_t_per_s,
        v1_v=at.v1_v,
        v2_v=at.v2_v,
        phi2_rad=0.0,
        emittance_evs=1.4,
        intensity=8e12,
        machine=program.machine.ring,
        gamma_transition=at.gamma_transition,
    )
    expected = reference_optimum(conditions)
    assert found.ctime_ms[[0, -1]].tolist() == [275.0, 805.0]
    np.testing.assert_allclose(np.exp(1j * found.phi2_rad), np.exp(1j * expected), atol=1e-9)
    there = found.found
    assert np.abs(found.at_optimum.asymmetry[there]).max() < 2e-3
    assert np.abs(found.at_program.asymmetry[there]).max() > 0.1


def test_gaps_are_reported_and_left_out_or_bridged(found: CycleOptimum) -> None:
    """Late in the cycle there is none: one gap with its reason; its points are left out, or hold."""
    ((first, last, count, reason),) = found.gaps()
    assert last == 805.0
    assert first == found.ctime_ms[~found.found][0]
    assert count == np.count_nonzero(~found.found)
    assert "does not exist" in reason
    assert found.function().ctime_ms.size == 40 - count
    bridged = found.function(bridge=True)
    assert bridged.ctime_ms.size == 40
    assert np.all(bridged.value[-count:] == bridged.value[-count - 1])


def test_the_function_is_unwrapped_across_180_degrees_and_gaps(
    found: CycleOptimum, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optima that pass 180 degrees, also within a gap, go on without a turn, near the program's phase."""
    degrees = np.array([150.0, 170.0, -175.0, np.nan, np.nan, -120.0, -90.0])

    def passing(conditions: Conditions, *_: object, **__: object) -> object:
        reasons = np.where(np.isnan(degrees), "none here", "")
        return np.radians(degrees), reasons

    monkeypatch.setattr(optimum, "reference_optimum", passing)
    result = cycle_optimum(found.program, intensity=0.0, emittance_evs=0.5, points=7)
    expected = [150.0, 170.0, 185.0, 240.0, 270.0]
    own = found.program.phi_hw_deg
    assert np.degrees(result.phi2_rad[result.found]) == pytest.approx(expected)
    # The program's phase is about -70 degrees: one turn below.
    assert result.function().value == pytest.approx(np.array(expected) - 360.0, abs=1e-6)
    assert result.function(bridge=True).value[3:5] == pytest.approx(
        [185.0 + 55.0 / 3.0 - 360.0, 185.0 + 110.0 / 3.0 - 360.0], abs=1e-6
    )
    assert [gap[2:] for gap in result.gaps()] == [(2, "none here")]
    # A program two turns higher takes its optimum along; an offset is added.
    high = dataclasses.replace(own, value=own.value + 720.0)
    program = dataclasses.replace(found.program, phi_hw_deg=high)
    moved = cycle_optimum(
        program, intensity=0.0, emittance_evs=0.5, points=7, offset_rad=np.radians(-88.0)
    )
    assert moved.function().value == pytest.approx(np.array(expected) - 88.0 + 720.0, abs=1e-6)


def test_the_default_bunch_fills_0_7_of_the_smallest_bucket() -> None:
    """Filling is that of the cycle's smallest bucket, as in the simulation."""
    program = load_program("psb-1p4gev")
    default = cycle_optimum(program, intensity=0.0, points=20)
    half = cycle_optimum(program, intensity=0.0, points=20, filling=0.35)
    assert half.emittance_evs == pytest.approx(0.5 * default.emittance_evs, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"intensity": -1.0}, "intensity must be at least 0 protons, not -1"),
        ({"intensity": float("nan")}, "intensity must be at least 0 protons, not nan"),
        ({"emittance_evs": 0.0}, "emittance must be above 0, not 0"),
        ({"filling": -0.1}, r"filling must be above 0, not -0\.1"),
        ({"filling": 0.5, "emittance_evs": 1.0}, "an emittance or a filling, not both"),
        ({"points": 1}, "points must be from 2 to 100000, not 1"),
        ({"offset_rad": float("inf")}, "offset must be a finite angle"),
    ],
)
def test_wrong_arguments_are_one_sentence(options: dict[str, float], sentence: str) -> None:
    """Each mistake names the quantity, its value and what is allowed."""
    with pytest.raises(UsageError, match=sentence):
        cycle_optimum(load_program("psb-2gev"), **({"intensity": 0.0} | options))  # type: ignore[arg-type]


def test_a_criterion_that_does_not_exist_is_named() -> None:
    """The criteria are listed."""
    with pytest.raises(
        UnknownNameError, match="no criterion 'flat'; there is: bunching-factor, eq"
    ):
        cycle_optimum(load_program("psb-2gev"), intensity=0.0, criterion="flat")  # type: ignore[arg-type]


def test_a_cycle_without_any_optimum_has_no_function() -> None:
    """With V2/V1 of 0.3 there are no two wells: the reason is given."""
    program = load_program("psb-1p4gev")
    low = dataclasses.replace(program.v2_v, value=0.3 * program.v1_v.value)
    none = cycle_optimum(
        dataclasses.replace(program, v2_v=low), intensity=0.0, criterion="equal-wells", points=5
    )
    assert np.isnan(none.phi2_rad).all()
    with pytest.raises(
        BeamError, match=r"optimum at 0 of 5 points: no function \(V2/V1 is not above"
    ):
        none.function()


def run(capsys: pytest.CaptureFixture[str], *arguments: object, expect: int = 0) -> str:
    assert main(["program", "optimum", *map(str, arguments)]) == expect
    captured = capsys.readouterr()
    return captured.out if expect == 0 else captured.err


def test_the_command_writes_what_the_control_system_and_we_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CSV in the controls format (read back by the import), a picture, phi_2 as reference phases."""
    out, plot, reference = (tmp_path / name for name in ("V2P.csv", "o.png", "phi2.csv"))
    text = run(
        capsys, "psb-tof", "--intensity", "8e12", "--emittance", "1.4", "--points", 40,
        "--offset-deg", -88, "--out", out, "--plot", plot, "--reference-out", reference,
    )  # fmt: skip
    assert re.search(r"optimum at \d\d of 40 points: phi_2 from", text)
    assert re.search(
        r"no optimum from 69\d.* to 805 ms, \d+ points left out: the criterion's", text
    )
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert out.read_text().splitlines()[:2] == [
        "BA3.FGPRFH2/Settings#amplitudes,BA3.FGPRFH2/Settings#amplitudes",
        "X,Y",
    ]
    expected = cycle_optimum(
        load_program("psb-tof"), intensity=8e12, emittance_evs=1.4, points=40,
        offset_rad=np.radians(-88.0),
    )  # fmt: skip
    for name, device, rows in (
        ("B", "PSBBEAM/B#value", "0,2320\n275,2320\n805,8627\n1200,8627"),
        ("V1A", "BA3.FGVRFH1/Settings#amplitudes", "0,8000\n1200,8000"),
        ("V2A", "BA3.FGVRFH2/Settings#amplitudes", "0,4000\n1200,4000"),
    ):
        (tmp_path / f"{name}.csv").write_text(f"{device},{device}\nX,Y\n{rows}\n")
    reference.rename(tmp_path / "phi2.txt")
    read = import_controls_export(tmp_path, name="x", machine="psb").program.phi_hw_deg
    assert read.ctime_ms.tolist() == expected.function().ctime_ms.tolist()
    assert read.value == pytest.approx(expected.function().value)
    phases = load_reference((tmp_path / "phi2.txt").rename(reference))
    there = expected.found
    turn = np.exp(1j * (phases.at_rad(expected.ctime_ms[there]) - expected.phi2_rad[there]))
    assert np.abs(turn - 1.0).max() < 1e-8


def test_the_command_bridges_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --bridge the function has all points, and the report says that they are interpolated."""
    out = tmp_path / "o.csv"
    common = ("psb-tof", "--intensity", "8e12", "--points", 20, "--out", out)
    run(capsys, *common)
    left_out = len(out.read_text().splitlines()) - 2
    assert left_out < 20
    assert "exists" in run(capsys, *common, "--bridge", expect=2)
    assert "points interpolated" in run(capsys, *common, "--bridge", "--force")
    assert len(out.read_text().splitlines()) - 2 == 20


def test_the_command_says_where_the_bunch_does_not_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An emittance larger than the bucket is one sentence with the share that stays."""
    text = run(capsys, "psb-2gev", "--intensity", "1e12", "--emittance", 4, "--points", 10)
    assert re.search(
        r"does not hold 4 eV s at 6 of 10 points, .* 0\.\d+ of the bunch at worst", text
    )


def test_the_command_says_where_the_well_breaks_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At an intensity that no bunch survives, the report says where there is no matched profile."""
    text = run(capsys, "psb-2gev", "--intensity", "1e15", "--emittance", 1, "--points", 20)
    assert re.search(
        r"no matched bunch at the program's phase at \d+ of 20 points: .* breaks apart at 1e\+15",
        text,
    )


def test_the_command_says_which_hardware_offset_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A function for the hardware is not written without a word about an offset that nobody gave."""
    common = ("psb-2gev", "--intensity", "1e12", "--points", 5, "--out")
    text = run(capsys, *common, tmp_path / "a.csv")
    assert "at the program's phase if the hardware offset is 0 degrees" in text
    assert "the hardware offset is taken for 0 degrees" in text
    given = run(capsys, *common, tmp_path / "b.csv", "--offset-deg", -88)
    assert "at the program's phase if the hardware offset is -88 degrees" in given
    assert "is taken for" not in given


@pytest.mark.parametrize("name", sorted(available_programs()))
def test_every_shipped_program_has_an_optimum(name: str) -> None:
    """Every shipped program, the second ring's too, has a continuous optimum over most of its cycle."""
    result = cycle_optimum(load_program(name), intensity=5e12, points=60)
    assert result.found.mean() > 0.75
    steps = np.abs(np.diff(np.degrees(result.phi2_rad[result.found])))
    assert steps.max() < 30.0
    assert result.at_optimum.converged[result.found].all()


def test_an_optimum_that_cannot_be_played_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A phase outside the machine's limits is refused, the value and the limit named."""
    out = tmp_path / "o.csv"
    sentence = run(
        capsys, "psb-2gev", "--intensity", "1e12", "--points", 10, "--out", out,
        "--offset-deg", 1e-3, expect=0,
    )  # fmt: skip
    assert out.is_file(), sentence
    folder = tmp_path / "mine"
    program = load_program("psb-2gev")
    save_program(program, folder / "mine.yaml")
    machine = Path(str(program.machine.path)).read_text()
    (folder / "ring.yaml").write_text(machine.replace("[-720.0, 720.0]", "[-90.0, -30.0]"))
    text = (folder / "mine.yaml").read_text().replace("machine: psb", "machine: ./ring.yaml")
    (folder / "mine.yaml").write_text(text)
    sentence = run(
        capsys, folder / "mine.yaml", "--intensity", "1e12", "--points", 10,
        "--out", tmp_path / "no.csv", expect=3,
    )  # fmt: skip
    assert re.search(
        r"no\.csv: not written, the optimum cannot be played: phase phi_hw is -?\d.* allows -90 to",
        sentence,
    )
    assert not (tmp_path / "no.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--intensity", "-1"), "--intensity must be between 0 and 1e"),
        (("--intensity", "1e12", "--points", "1"), "--points must be between 2 and 100000, not 1"),
        (("--intensity", "1e12", "--out", "x.txt"), r"expected a name that ends in \.csv"),
        ((), "requires an argument"),
    ],
)
def test_the_commands_mistakes_are_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    """Wrong options end in one line on stderr and exit code 2."""
    error = run(capsys, "psb-2gev", *arguments, expect=2)
    assert re.search(sentence, error)
    assert len(error.splitlines()) == 1


def test_too_low_a_voltage_for_the_ramp_is_refused(tmp_path: Path) -> None:
    """A program whose V1 does not give the energy that Bdot needs is refused before any optimum."""
    program = load_program("psb-2gev")
    save_program(program, tmp_path / "x.yaml")
    low = PiecewiseLinear(ctime_ms=np.array([265.0, 815.0]), value=np.array([3000.0, 3000.0]))
    rows = "\n".join(f"{t},{v}" for t, v in zip(low.ctime_ms, low.value, strict=True))
    (tmp_path / "x-v1_v.csv").write_text(f"ctime_ms,v1_v\n{rows}\n")
    with pytest.raises(ProgramError, match="V1 is 3000 V at ctime 674 ms, too low for the Bdot"):
        load_program(tmp_path / "x.yaml")


def test_the_command_knows_the_criteria_and_bounds_of_the_model() -> None:
    """What the command offers, without loading the model, is what the model has."""
    assert set(get_args(program_optimum.Criterion)) == set(CRITERIA)
    bounds = program_optimum.FEWEST, program_optimum.MOST
    assert bounds == (optimum.FEWEST, optimum.MOST)


def test_machines_and_programs_load_without_the_beam_model() -> None:
    """Loading a program or the commands of programs does not import the model, which is slow to load."""
    code = (
        "import sys; import memrl_ctrl.cli.program; from memrl_ctrl.program import load_program; "
        "load_program('psb-2gev'); sys.exit('numba' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
