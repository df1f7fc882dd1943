"""Machine files under random values."""

from __future__ import annotations

import math
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.program import (
    Assumption,
    HardwareRange,
    ImpedanceItem,
    MachineFile,
    MachineWarning,
    OperatingRange,
    PiecewiseLinear,
    available_machines,
    load_machine,
    save_machine,
)

positive = st.floats(1e-6, 1e12)
text = st.text(min_size=1, max_size=40)
FIELDS = ("ring", "ring.space_charge_g", "hardware.v_sum_max_v", "phase_limits", "cycle.period_s")


def spans(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    pair = st.tuples(st.floats(low, high), st.floats(low, high)).map(sorted)
    return pair.filter(lambda two: two[0] < two[1]).map(lambda two: (two[0], two[1]))


@st.composite
def impedances(draw: st.DrawFn) -> ImpedanceItem:
    kind = draw(st.sampled_from(["resonator", "table", "z_over_n", "resistive_wall"]))
    fields: dict[str, Any] = {}
    if kind == "resonator":
        fields = {name: draw(positive) for name in ("r_shunt_ohm", "frequency_hz", "q")}
    elif kind == "table":
        hertz = sorted(draw(st.lists(st.floats(0.0, 1e9), min_size=2, max_size=30, unique=True)))
        ohm = st.complex_numbers(max_magnitude=1e6)
        fields["table_hz"] = tuple(hertz)
        fields["table_ohm"] = tuple(draw(ohm) for _ in hertz)
    elif kind == "z_over_n":
        fields["z_over_n_ohm"] = complex(draw(st.floats(0.0, 1e3)), draw(st.floats(-1e3, 1e3)))
    else:
        names = ("length_m", "radius_m", "resistivity_ohm_m", "relative_permeability")
        fields = {name: draw(positive) for name in names}
    return ImpedanceItem(kind=kind, label=draw(text), count=draw(positive), **fields)


@st.composite
def gamma_transitions(draw: st.DrawFn) -> PiecewiseLinear:
    size = draw(st.sampled_from([1, 2, 5, 40]))
    values = draw(st.lists(st.floats(1.001, 50.0), min_size=size, max_size=size))
    if size == 1:
        return PiecewiseLinear(
            ctime_ms=np.array([0.0, 1.0]), value=np.array(2 * values), beyond="hold"
        )
    times = draw(st.lists(st.floats(-10.0, 1e4), min_size=size, max_size=size, unique=True))
    return PiecewiseLinear(ctime_ms=np.array(sorted(times)), value=np.array(values), beyond="hold")


@st.composite
def machines(draw: st.DrawFn) -> MachineFile:
    first = draw(st.integers(1, 20))
    injection, extraction = draw(spans(0.0, 1e4))
    share = st.floats(0.0, 0.49)
    degrees = st.floats(-1e4, 1e4)
    low, high = draw(
        st.tuples(degrees, degrees).map(sorted).filter(lambda two: two[1] > two[0] + 1)
    )
    operating = {
        name: draw(spans(0.0, 1e6)) for name in ("b_field_t", "v1_v", "v2_over_v1", "intensity")
    }
    hardware = {
        name: draw(spans(-1e6, 1e6)) for name in ("b_field_t", "b_dot_t_per_s", "v1_v", "v2_v")
    }
    return MachineFile(
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)),
        description=draw(st.text(max_size=60)),
        circumference_m=draw(positive),
        bending_radius_m=draw(positive),
        gamma_transition=draw(gamma_transitions()),
        harmonics=(first, 2 * first),
        space_charge_g=draw(st.floats(0.0, 10.0)),
        impedance=tuple(draw(st.lists(impedances(), max_size=3))),
        intensity_effects=draw(st.booleans()),
        injection_ctime_ms=injection,
        extraction_ctime_ms=extraction,
        period_s=draw(positive),
        control_points=draw(st.integers(1, 10_000)),
        first_point_after_injection_ms=(extraction - injection) * draw(share),
        last_point_before_extraction_ms=(extraction - injection) * draw(share),
        hardware=HardwareRange(v_sum_max_v=draw(positive), **hardware),
        phase_limits=PhaseLimits(
            min_rad=math.radians(low),
            max_rad=math.radians(high),
            step_rad=math.radians(draw(st.floats(1e-3, 720.0))),
            slope_rad_per_ms=math.radians(draw(st.floats(1e-3, 720.0))),
        ),
        operating_range=OperatingRange(b_dot_t_per_s=draw(spans(-1e3, 1e3)), **operating),
        assumptions=tuple(
            Assumption(field=name, why=draw(text))
            for name in draw(st.lists(st.sampled_from(FIELDS), max_size=3, unique=True))
        ),
    )


@settings(max_examples=60)
@given(machine=machines())
def test_a_written_machine_reads_back_equal(machine: MachineFile) -> None:
    """Writing and reading loses nothing, to the last bit and character, and leaves no other files."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", MachineWarning)  # random tables have random phases
        out = Path(name) / "mine.yaml"
        files = save_machine(machine, out)
        assert load_machine(out) == machine
        assert sorted(Path(name).iterdir()) == sorted(files)


@pytest.mark.parametrize("name", sorted(available_machines()))
def test_a_shipped_machine_survives_a_copy(name: str, tmp_path: Path) -> None:
    """What is shipped is written and read back equal."""
    machine = load_machine(name)
    save_machine(machine, tmp_path / "copy.yaml")
    copy = load_machine(tmp_path / "copy.yaml")
    assert copy == machine
    assert copy.ring.impedance_ohm(3e6, 1e6) == machine.ring.impedance_ohm(3e6, 1e6)


def test_what_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    """A name, an assumption or a place that could not be read back is refused, nothing written."""
    machine = load_machine("psb")
    with pytest.raises(ProgramError, match="name 'my ring' is not allowed"):
        save_machine(replace(machine, name="my ring"), tmp_path / "x.yaml")
    with pytest.raises(ProgramError, match=r"ends in \.yaml"):
        save_machine(machine, tmp_path / "x.txt")
    wrong = (Assumption(field="ring.colour", why="none"),)
    with pytest.raises(ProgramError, match=r"no field 'ring\.colour' to be assumed"):
        save_machine(replace(machine, assumptions=wrong), tmp_path / "x.yaml")
    assert list(tmp_path.iterdir()) == []
    save_machine(machine, tmp_path / "x.yaml")
    with pytest.raises(ProgramError, match=r"exists; .*--force"):
        save_machine(machine, tmp_path / "x.yaml")
    save_machine(replace(machine, description="other"), tmp_path / "x.yaml", force=True)
    assert load_machine(tmp_path / "x.yaml").description == "other"
