"""Machines and programs: reading, values, limits, writing."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

from memrl_ctrl.errors import FileError, ProgramError, UnknownNameError, UsageError
from memrl_ctrl.program import (
    PiecewiseLinear,
    available_machines,
    available_programs,
    check_ranges,
    load_machine,
    load_program,
    save_program,
)
from memrl_ctrl.program.shapes import shipped_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A writable copy of the shipped files, the shipped machine within it."""
    shipped = available_programs()["psb-2gev"].parent
    for path in [*shipped.glob("*.yaml"), *shipped.glob("*.csv")]:
        shutil.copy(path, tmp_path)
    text = (tmp_path / "psb-2gev.yaml").read_text()
    (tmp_path / "psb-2gev.yaml").write_text(text.replace("machine: psb", "machine: ./psb.yaml"))
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_shipped_files_are_those_of_the_recipe() -> None:
    """The shipped functions are exactly what the project's own recipe writes."""
    folder = available_programs()["psb-2gev"].parent
    for name, text in shipped_files().items():
        assert (folder / name).read_text() == text


@pytest.mark.parametrize("name", sorted(available_programs()))
def test_shipped_programs_keep_their_limits(name: str) -> None:
    """Every shipped program loads, keeps its machine's limits and its file is named like itself."""
    program = load_program(name)
    assert program.name == name
    assert all(check.ok for check in check_ranges(program))
    assert np.isfinite(program.at().synchronous_phase_rad).all()


def test_psb_2gev_is_within_the_published_ranges() -> None:
    """Field, ramp and voltages stay within the published operation, and the bucket is large."""
    program = load_program("psb-2gev")
    points = program.at(np.linspace(275.0, 805.0, 1061))
    operating = program.machine.operating_range
    ratio = points.v2_v / points.v1_v
    for value, (low, high) in (
        (points.b_field_t, operating.b_field_t),
        (points.b_dot_t_per_s, operating.b_dot_t_per_s),
        (points.v1_v, operating.v1_v),
        (ratio, operating.v2_over_v1),
    ):
        assert value.min() >= low - 1e-4
        assert value.max() <= high + 1e-4
    assert points.b_field_t[0] == pytest.approx(0.232, abs=1e-6)
    assert points.b_field_t[-1] == pytest.approx(1.135, abs=1e-6)
    assert ratio[0] == pytest.approx(0.8, abs=1e-3)
    assert ratio[-1] == pytest.approx(0.14, abs=1e-3)
    assert np.degrees(np.nanmax(points.synchronous_phase_rad)) < 30.0

    beam = import_module("memrl_ctrl.beam")
    conditions = beam.Conditions(
        b_field_t=points.b_field_t,
        b_dot_t_per_s=points.b_dot_t_per_s,
        v1_v=points.v1_v,
        v2_v=points.v2_v,
        phi2_rad=0.0,
        emittance_evs=1.0,
        intensity=0.0,
        machine=program.machine.ring,
        gamma_transition=points.gamma_transition,
    )
    assert np.min(beam.bucket_area_evs(conditions)) > 1.7


@pytest.mark.parametrize(
    ("name", "energy_gev", "last_ratio", "emittance_evs", "with_optimum"),
    [
        ("psb-1p4gev", 1.4, 0.4, 1.4, 0.95),
        ("psb-tof", 2.0, 0.14, 1.4, 0.8),
        ("psb-1p4gev-modified", 1.4, 0.445, 1.3, 0.95),
        ("isis-800mev", 0.8, 0.5, 0.5, 1.0),
    ],
)
def test_other_programs_are_within_the_published_ranges(
    name: str, energy_gev: float, last_ratio: float, emittance_evs: float, with_optimum: float
) -> None:
    """Energy at extraction, voltages and their ratio are those that the program says; the bucket of
    its optimum holds a usual bunch all along; an optimum exists nearly everywhere, but for V2/V1 of
    0.14 late in psb-tof."""
    program = load_program(name)
    machine = program.machine
    low, high = program.beam_ms
    points = program.at(np.linspace(low + 0.02 * (high - low), high, 60))
    momentum_ev = 299792458.0 * points.b_field_t[-1] * machine.bending_radius_m
    kinetic_ev = math.hypot(momentum_ev, 938.272e6) - 938.272e6
    assert kinetic_ev == pytest.approx(1e9 * energy_gev, rel=1e-2)
    ratio = points.v2_v / points.v1_v
    assert ratio[-1] == pytest.approx(last_ratio, abs=2e-3)
    lowest, highest = machine.operating_range.v2_over_v1
    assert lowest - 1e-3 <= ratio.min() <= ratio.max() <= max(highest, 0.91)
    assert points.b_dot_t_per_s.max() <= machine.operating_range.b_dot_t_per_s[1]

    beam = import_module("memrl_ctrl.beam")
    conditions = beam.Conditions(
        b_field_t=points.b_field_t,
        b_dot_t_per_s=points.b_dot_t_per_s,
        v1_v=points.v1_v,
        v2_v=points.v2_v,
        phi2_rad=0.0,
        emittance_evs=emittance_evs,
        intensity=5e12,
        machine=machine.ring,
        gamma_transition=points.gamma_transition,
    )
    best = beam.reference_optimum(conditions)
    assert np.isfinite(best).mean() >= with_optimum
    there = np.isfinite(best)
    matched = beam.matched_profiles(conditions.replace(phi2_rad=np.nan_to_num(best)), 64)
    assert matched.captured_fraction[there].min() > 0.999


def test_b_dot_of_the_shipped_ramp_is_that_of_its_formula() -> None:
    """The fitted slope agrees with the analytic one to 0.01 T/s, also where Bdot sets in."""
    from memrl_ctrl.program.shapes import field_t

    time = np.linspace(275.0, 805.0, 531)
    exact = (field_t(time + 1e-3) - field_t(time - 1e-3)) / 2e-6
    fitted = load_program("psb-2gev").at(time).b_dot_t_per_s
    assert np.abs(fitted - exact).max() < 0.01


def test_machine_values_have_the_units_of_the_program() -> None:
    """Degrees of the file are radians in the object, and the ring carries the file's numbers."""
    machine = load_machine("psb")
    assert machine.phase_limits.step_rad == pytest.approx(math.pi / 2)
    assert machine.phase_limits.max_rad == pytest.approx(4 * math.pi)
    assert machine.control_points == 30
    assert machine.ring.bending_radius_m == 8.239
    assert machine.ring.space_charge_g == 2.0
    assert len(machine.ring.impedance) == 2
    assert machine.gamma_transition.at([0.0, 275.0, 540.0, 805.0, 1200.0]) == pytest.approx(
        [4.27, 4.27, 4.16, 4.05, 4.05]
    )
    assert {a.field for a in machine.assumptions} >= {"ring.space_charge_g", "ring.impedance"}


def test_intensity_effects_off_leaves_a_bare_ring() -> None:
    """The compatibility machine has constant gamma_transition 4.4 and no wake at all."""
    machine = load_machine("psb-seed")
    assert not machine.intensity_effects
    assert machine.ring.space_charge_g == 0.0
    assert machine.ring.impedance == ()
    assert machine.gamma_transition.at([275.0, 805.0]).tolist() == [4.4, 4.4]


@pytest.mark.parametrize("name", ["psb", "psb-seed", "isis"])
def test_a_machine_file_that_a_yaml_library_wrote_is_the_same_machine(
    name: str, folder: Path
) -> None:
    """Such a library turns `on` and `off` into `true` and `false`: it is read as it was meant."""
    path = folder / f"{name}.yaml"
    before = load_machine(path)
    written = yaml.safe_dump(yaml.safe_load(path.read_text()))
    assert re.search(r"intensity_effects: (true|false)", written)
    path.write_text(written)
    assert load_machine(path) == before


@pytest.mark.parametrize(
    ("word", "on"),
    [("on", True), ("True", True), ("YES", True), ("'true'", True),
     ("off", False), ("false", False), ("No", False)],
)  # fmt: skip
def test_a_switch_knows_the_words_of_yaml(word: str, on: bool, folder: Path) -> None:
    """YAML 1.1 and 1.2 write a switch in several ways, quoted too."""
    edit(folder / "psb.yaml", "intensity_effects: on", f"intensity_effects: {word}")
    assert load_machine(folder / "psb.yaml").intensity_effects is on


def test_synchronous_phase_is_the_arcsine_of_the_energy_gain() -> None:
    """C rho Bdot = 157.08 m x 8.239 m x 3 T/s = 3882.5 eV a turn; too low a V1 gives NaN."""
    machine = load_machine("psb")
    phase = machine.synchronous_phase_rad(
        np.array([3.0, 3.0, 0.0]), np.array([8000.0, 3000.0, 0.0])
    )
    assert phase[0] == pytest.approx(math.asin(3882.547 / 8000.0), abs=1e-6)
    assert math.isnan(phase[1])


def test_control_points_are_even_or_listed(folder: Path) -> None:
    """30 even control points by default; a program may list its own."""
    points = load_program("psb-2gev").control_points_ms
    assert points.size == 30
    assert points[0] == 285.0
    assert points[-1] == 805.0
    assert np.ptp(np.diff(points)) < 1e-9
    edit(folder / "psb-2gev.yaml", "functions:", "control_points_ms: [300, 400.5]\nfunctions:")
    assert load_program(folder / "psb-2gev.yaml").control_points_ms.tolist() == [300.0, 400.5]


def test_slope_of_a_parabola_is_exact_everywhere() -> None:
    """The fit keeps a linear Bdot exactly, up to the function's ends, whatever the sampling."""
    time = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.04, 2000))
    function = PiecewiseLinear(ctime_ms=time, value=1.0 + 2e-3 * time + 3e-5 * time**2)
    where = np.array([time[0], 5.0, 12.3, time[-1]])
    assert function.slope_per_s(where, 4.0) == pytest.approx(2.0 + 0.06 * where, abs=2e-4)


def test_slope_averages_the_resolution_of_a_measured_field() -> None:
    """Steps of 0.001 G every 0.1 ms leave less than 0.5 mT/s in Bdot."""
    time = np.arange(270.0, 310.0, 0.1)
    field = 0.3 + 1.5e-3 * (time - 270.0)
    function = PiecewiseLinear(ctime_ms=time, value=np.round(field, 7))
    slope = function.slope_per_s(np.arange(275.0, 305.0, 0.37), 4.0)
    assert np.abs(slope - 1.5).max() < 5e-4


def test_a_function_refuses_or_holds_outside() -> None:
    """Outside its breakpoints a function has no value unless it holds."""
    function = PiecewiseLinear(ctime_ms=np.array([0.0, 10.0]), value=np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="ctime 11 ms is outside the function's 0 to 10 ms"):
        function.at([5.0, 11.0])
    with pytest.raises(ValueError, match="outside"):
        function.at(math.nan)
    held = dataclasses.replace(function, beyond="hold")
    assert held.at([-5.0, 5.0, 11.0]).tolist() == [1.0, 1.5, 2.0]
    assert held.slope_per_s([20.0], 4.0).tolist() == [0.0]
    assert held != function


def test_unknown_names_list_what_there_is() -> None:
    """A wrong name is answered with the names that exist and a suggestion."""
    with pytest.raises(UnknownNameError, match=r"no program 'psb2gev'.*did you mean 'psb-2gev'"):
        load_program("psb2gev")
    with pytest.raises(UnknownNameError, match=r"no machine 'psbx'.*psb-seed"):
        load_machine("psbx")


def test_own_folders_are_searched_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MEMRL_PROGRAMS adds folders; a damaged file in them hides no other, a wrong folder is named."""
    (folder / "mine.yaml").write_text("kind: program\n: : [")
    monkeypatch.setenv("MEMRL_PROGRAMS", f"{folder}:{folder / 'nowhere'}")
    assert available_programs()["mine"] == folder / "mine.yaml"
    assert available_machines()["psb"] == folder / "psb.yaml"
    assert load_program("psb-2gev").machine.path == folder / "psb.yaml"
    with pytest.raises(ProgramError, match=r"mine\.yaml.*no valid YAML"):
        load_program("mine")
    with pytest.raises(UsageError, match="nowhere is no folder"):
        load_program("nothing")


def test_save_and_load_lose_nothing(tmp_path: Path) -> None:
    """What is written reads back equal, and nothing but its files is left."""
    program = load_program("psb-2gev")
    program = dataclasses.replace(
        program,
        description="degrees ° and: colons #\nlines\r\n",
        source="\x85",
        listed_points_ms=(300.1, 1 / 3 + 400),
        phi_hw_deg=dataclasses.replace(program.phi_hw_deg, beyond="hold"),
    )
    files = save_program(program, tmp_path / "mine.yaml")
    assert load_program(tmp_path / "mine.yaml") == program
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_save_finds_a_machine_of_ones_own_again(folder: Path) -> None:
    """A program of a machine without a name is written with the way to the machine's file."""
    program = load_program(folder / "psb-2gev.yaml")
    (folder / "sub").mkdir()
    for out in (folder / "copy.yaml", folder / "sub" / "copy.yaml"):
        save_program(program, out)
        assert load_program(out).machine.path.resolve() == folder / "psb.yaml"  # type: ignore[union-attr]


def test_save_replaces_only_when_told(tmp_path: Path) -> None:
    """Existing files are refused, and replaced with force."""
    program = load_program("psb-2gev")
    out = tmp_path / "mine.yaml"
    save_program(program, out)
    with pytest.raises(ProgramError, match=r"mine\.yaml: exists; .*--force"):
        save_program(program, out)
    other = dataclasses.replace(program, description="other")
    save_program(other, out, force=True)
    assert load_program(out).description == "other"


def test_a_program_beyond_the_limits_is_not_written(tmp_path: Path) -> None:
    """A program that its machine cannot play is refused on writing and on loading, named by value."""
    program = load_program("psb-2gev")
    v2 = dataclasses.replace(program.v2_v, value=program.v2_v.value + 6000.0)
    high = dataclasses.replace(program, v2_v=v2)
    with pytest.raises(
        ProgramError, match=r"sum V1 \+ V2 is 25440 V at ctime .*allows 0 to 24000 V"
    ):
        save_program(high, tmp_path / "high.yaml")
    assert list(tmp_path.iterdir()) == []


def test_too_low_a_voltage_for_the_ramp_is_refused() -> None:
    """A V1 below the energy gain of a turn is one sentence: where, the Bdot there, what it needs."""
    program = load_program("psb-2gev")
    low = dataclasses.replace(program.v1_v, value=np.full(program.v1_v.value.shape, 3000.0))
    sentences = [
        c.sentence for c in check_ranges(dataclasses.replace(program, v1_v=low)) if not c.ok
    ]
    assert len(sentences) == 1
    words = re.fullmatch(
        r"voltage V1 is 3000 V at ctime (\d+) ms, too low for the Bdot of (\S+) T/s there, which "
        r"needs more than (\d+\.\d+) V \(C rho Bdot\)",
        sentences[0],
    )
    assert words is not None
    ctime, b_dot, needed = map(float, words.groups())
    assert program.at([ctime]).b_dot_t_per_s[0] == pytest.approx(b_dot, rel=1e-3)
    assert needed == pytest.approx(157.08 * 8.239 * program.at([ctime]).b_dot_t_per_s[0], rel=1e-5)


def test_limits_hold_only_while_there_is_beam(folder: Path) -> None:
    """Before injection and after extraction a program may do what the hardware range forbids."""
    path = folder / "psb-2gev-b_field_t.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], "0,0", "200,0", *rows[1:], "1200,0"]) + "\n")
    assert load_program(folder / "psb-2gev.yaml").b_field_t.value[0] == 0.0


@pytest.mark.parametrize("suffix", ["mine", "mine.csv"])
def test_save_wants_a_yaml_name(tmp_path: Path, suffix: str) -> None:
    """A name without .yaml could not be found again and is refused."""
    with pytest.raises(ProgramError, match=r"ends in \.yaml"):
        save_program(load_program("psb-2gev"), tmp_path / suffix)


def test_save_makes_the_folder(tmp_path: Path) -> None:
    """A folder that does not exist is made; one that cannot be is one sentence."""
    save_program(load_program("psb-2gev"), tmp_path / "a" / "b" / "mine.yaml")
    assert load_program(tmp_path / "a" / "b" / "mine.yaml") == load_program("psb-2gev")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot be written: .*file is a file, not a folder"):
        save_program(load_program("psb-2gev"), tmp_path / "file" / "mine.yaml")


def test_devices_are_kept_and_checked(folder: Path) -> None:
    """A program remembers the devices that play it; unknown functions and odd names are refused."""
    devices = {"v1_v": "BA3.FGVRFH1/Settings#amplitudes"}
    program = dataclasses.replace(load_program("psb-2gev"), devices=devices)
    save_program(program, folder / "mine.yaml")
    assert load_program(folder / "mine.yaml").devices == devices
    for wrong in ({"v1": "X"}, {"v1_v": "a,b"}, {"v1_v": ""}, {"v1_v": " x"}, {"v1_v": "a\nb"}):
        with pytest.raises(ValueError, match="device"):
            dataclasses.replace(program, devices=wrong)
    text = (folder / "mine.yaml").read_text()
    for new, sentence in (
        ("v1_v: 'BA3,FGVRFH1'", r"line 16: devices\.v1_v: device 'BA3,FGVRFH1' of v1_v is no name"),
        ("v1: BA3.FGVRFH1", r"line 16: devices\.v1: is no field here; .*did you mean 'v1_v'"),
    ):
        (folder / "mine.yaml").write_text(text.replace(f"v1_v: {devices['v1_v']}", new))
        with pytest.raises(ProgramError, match=sentence):
            load_program(folder / "mine.yaml")
