"""Programs under random values and random damage."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.errors import MemrlError, ProgramError
from memrl_ctrl.program import (
    FUNCTIONS,
    CycleProgram,
    PiecewiseLinear,
    available_programs,
    import_controls_export,
    load_program,
    save_program,
)
from memrl_ctrl.program.controls_export import export_program
from memrl_ctrl.program.edit import (
    Within,
    edit_program,
    insert,
    parse_edit,
    scale,
    shift_value,
    smooth,
)
from memrl_ctrl.program.edit_syntax import EXAMPLES
from memrl_ctrl.program.units import UNITS, Unit, convert, parse_units, written

SHIPPED_PROGRAM = load_program("psb-2gev")
SHIPPED = available_programs()["psb-2gev"].parent
EXPORT = {
    "B.csv": "PSBBEAM/B#value,PSBBEAM/B#value\nX,Y\n0,0\n270,2320.5\n805,8627\n1200,0\n",
    "V1A.csv": "BA3.FGVRFH1/S#a,BA3.FGVRFH1/S#a\nX,Y\n0,0\n270,9000\n810,9000\n1200,0\n",
    "V2A.csv": "BA3.FGVRFH2/S#a,BA3.FGVRFH2/S#a\nX,Y\n0,0\n270,6000\n810,3000\n1200,0\n",
    "V2P.csv": (
        "BA3.FGPRFH2/S#a,BA3.FGPRFH2/S#a,BA3.FGPRFH2/S#a (30-11-2024 18:43:35),"
        "BA3.FGPRFH2/S#a (30-11-2024 18:43:35)\nX,Y,X,Y\n0,-88,0,-90\n805,-80,805,-90\n,,1200,0\n"
    ),
}


@st.composite
def functions(draw: st.DrawFn, low: float, high: float) -> PiecewiseLinear:
    """A function over the whole beam with random breakpoints between `low` and `high`."""
    inner = draw(st.lists(st.floats(276.0, 804.0), max_size=12, unique=True))
    first = draw(st.floats(-50.0, 275.0))
    last = draw(st.floats(805.0, 2000.0))
    time = np.array([first, *sorted(inner), last])
    size = time.size
    value = draw(st.lists(st.floats(low, high), min_size=size, max_size=size))
    hold = draw(st.booleans())
    return PiecewiseLinear(
        ctime_ms=time, value=np.array(value), beyond="hold" if hold else "refuse"
    )


@st.composite
def programs(draw: st.DrawFn) -> CycleProgram:
    """A program within the limits of the PSB."""
    low, high = sorted(draw(st.tuples(st.floats(0.23, 1.13), st.floats(0.23, 1.13))))
    field = PiecewiseLinear(
        ctime_ms=np.array([0.0, 275.1, 805.3]), value=np.array([0.0, low, high])
    )
    points = st.lists(st.integers(276, 804), min_size=1, max_size=9, unique=True).map(
        lambda times: tuple(float(time) / 1.0 for time in sorted(times))
    )
    return replace(
        load_program("psb-2gev"),
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)),
        description=draw(st.text(max_size=60)),
        source=draw(st.text(max_size=60)),
        b_field_t=field,
        v1_v=draw(functions(6000.0, 12000.0)),
        v2_v=draw(functions(0.0, 12000.0)),
        phi_hw_deg=draw(functions(-2.0, 2.0)),
        listed_points_ms=draw(st.none() | points),
        b_dot_window_ms=draw(st.floats(0.01, 100.0)),
    )


@settings(max_examples=60, deadline=None)
@given(program=programs())
def test_a_written_program_reads_back_equal(program: CycleProgram) -> None:
    """Writing and reading loses nothing, to the last bit and character."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        save_program(program, path)
        assert load_program(path) == program


NATIVE = parse_units(["ctime=ms", "b_field=G", "v1=V", "v2=V", "phi_hw=deg"])


@settings(max_examples=60, deadline=None)
@given(program=programs())
def test_an_exported_program_imports_equal(program: CycleProgram) -> None:
    """Export and import lose nothing: each function is the same to the last bit while there is beam."""
    with tempfile.TemporaryDirectory() as folder:
        export_program(program, folder, ring=1)
        again = import_controls_export(folder, name="x", units=NATIVE).program
        export_program(again, Path(folder) / "again")
        for path in Path(folder).glob("*.csv"):
            assert path.read_bytes() == (Path(folder) / "again" / path.name).read_bytes()
    low, high = program.beam_ms
    for name in FUNCTIONS:
        old, new = getattr(program, name), getattr(again, name)
        kept = np.isin(old.ctime_ms, new.ctime_ms)
        assert kept.all()
        assert np.array_equal(new.at(old.ctime_ms), old.value)
        time = new.breakpoints_within(low, high)
        assert np.array_equal(new.at(time), old.at(time))


@settings(max_examples=500, deadline=None)
@given(
    value=st.floats(-1e18, 1e18),
    unit=st.sampled_from([unit for units in UNITS.values() for unit in units if unit.exponent]),
)
def test_any_number_in_any_unit_reads_back_equal(value: float, unit: Unit) -> None:
    """A number written in another unit, and its sign, are the same after reading."""
    (text,) = written(np.array([value]), unit)
    (again,) = convert([text], unit)
    assert (again, np.signbit(again)) == (value, np.signbit(value))


ranges = st.one_of(
    st.just(Within()),
    st.builds(
        lambda low, length, taper: Within(low_ms=low, high_ms=low + length, taper_ms=taper),
        st.floats(275.0, 805.0),
        st.floats(0.0, 600.0),
        st.floats(0.01, 50.0),
    ),
)


@settings(max_examples=150, deadline=None)
@given(function=functions(-100.0, 100.0), width=st.floats(0.5, 300.0), within=ranges)
def test_smoothing_stays_between_the_extremes(
    function: PiecewiseLinear, width: float, within: Within
) -> None:
    """An average lies between the smallest and largest value, and leaves what its range leaves."""
    smoothed = smooth(function, width, within)
    slack = 1e-9 * (1.0 + np.abs(function.value).max())
    assert smoothed.value.min() >= function.value.min() - slack
    assert smoothed.value.max() <= function.value.max() + slack
    outside = np.array([275.0, 805.0])
    outside = outside[
        (outside < within.low_ms - within.taper_ms) | (outside > within.high_ms + within.taper_ms)
    ]
    assert smoothed.at(outside) == pytest.approx(function.at(outside), abs=1e-6)


@settings(max_examples=150, deadline=None)
@given(
    function=functions(-100.0, 100.0),
    factor=st.floats(-3.0, 3.0),
    times=st.lists(st.floats(275.0, 805.0), max_size=5),
    within=ranges,
)
def test_edits_do_what_they_say_inside_and_nothing_outside(
    function: PiecewiseLinear, factor: float, times: list[float], within: Within
) -> None:
    """Scale, shift and insert: exact in the range, no change outside it, old breakpoints kept."""
    where = np.array([275.0, *times, 805.0])
    inside = where[(where >= within.low_ms) & (where <= within.high_ms)]
    far = within.taper_ms
    outside = where[(where < within.low_ms - far) | (where > within.high_ms + far)]
    scaled, shifted = scale(function, factor, within), shift_value(function, factor, within)
    denser = insert(function, times)
    assert scaled.at(inside) == pytest.approx(factor * function.at(inside), abs=1e-6)
    assert shifted.at(inside) == pytest.approx(factor + function.at(inside), abs=1e-6)
    for edited in (scaled, shifted, denser):
        assert edited.at(outside) == pytest.approx(function.at(outside), abs=1e-6)
        assert np.isin(function.ctime_ms, edited.ctime_ms).all()
    assert denser.at(where) == pytest.approx(function.at(where), abs=1e-6)
    assert np.isin(times, denser.ctime_ms).all()


@settings(max_examples=200, deadline=None)
@given(
    verb=st.sampled_from(sorted(EXAMPLES)),
    text=st.one_of(
        st.text(max_size=20),
        st.from_regex(
            r"(phi_hw|v1|v1,v2|b_field|v9)=[-+]?[0-9.e]{1,5}(deg|rad|kV|V|ms|s|G)?"
            r"(@[0-9]{0,3}\.\.[0-9]{0,3}(~[0-9]{1,2}ms)?)?",
            fullmatch=True,
        ),
    ),
)
def test_any_text_is_an_edit_or_one_sentence(verb: str, text: str) -> None:
    """An edit's text is understood and can be applied or refused, or is refused at once."""
    try:
        edit = parse_edit(verb, text)
        edited = edit_program(SHIPPED_PROGRAM, [edit]).program
    except MemrlError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert edited.source.endswith(edit.text)


def damaged(text: bytes, place: float, length: int, new: bytes) -> bytes:
    start = int(place * len(text))
    return text[:start] + new + text[start + length :]


damages: Callable[..., st.SearchStrategy[tuple[float, int, bytes]]] = lambda: st.tuples(  # noqa: E731
    st.floats(0.0, 1.0),
    st.integers(0, 30),
    st.one_of(
        st.binary(max_size=6),
        st.text(alphabet="0123456789.,-+eE:#\n \"'[]{}&*!|>%@`xXnaif_", max_size=8).map(str.encode),
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(
        ["psb-2gev.yaml", "psb.yaml", "psb-2gev-v1_v.csv", "psb-2gev-phi_hw_deg.csv"]
    ),
    damage=damages(),
)
def test_damage_is_a_program_error_or_nothing(name: str, damage: tuple[float, int, bytes]) -> None:
    """A damaged file loads to a valid program or is refused in one sentence, never otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        for path in SHIPPED.glob("psb*"):
            shutil.copy(path, folder)
        main = Path(folder) / "psb-2gev.yaml"
        main.write_text(main.read_text().replace("machine: psb", "machine: ./psb.yaml"))
        path = Path(folder) / name
        path.write_bytes(damaged(path.read_bytes(), *damage))
        try:
            program = load_program(main)
        except ProgramError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert np.isfinite(program.at().b_dot_t_per_s).all()


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(EXPORT)), damage=damages())
def test_a_damaged_export_is_a_program_error_or_nothing(
    name: str, damage: tuple[float, int, bytes]
) -> None:
    """A damaged export imports to a program that can be written, or is refused in one sentence."""
    with tempfile.TemporaryDirectory() as folder:
        for file, text in EXPORT.items():
            (Path(folder) / file).write_text(text)
        path = Path(folder) / name
        path.write_bytes(damaged(path.read_bytes(), *damage))
        try:
            program = import_controls_export(folder, name="x").program
        except ProgramError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            save_program(program, Path(folder) / "x.yaml")
            assert load_program(Path(folder) / "x.yaml") == program


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300), header=st.booleans())
def test_a_field_array_of_any_bytes(content: bytes, header: bool) -> None:
    """A .npy file of any bytes is refused in one sentence; nothing in it is run."""
    with tempfile.TemporaryDirectory() as folder:
        for file, text in EXPORT.items():
            if file != "B.csv":
                (Path(folder) / file).write_text(text)
        prefix = b"\x93NUMPY\x01\x00" if header else b""
        (Path(folder) / "B.npy").write_bytes(prefix + content)
        with pytest.raises(ProgramError):
            import_controls_export(folder, name="x")
