"""Edits of functions and programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate

from memrl_ctrl.cli import main
from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program import PiecewiseLinear, load_program
from memrl_ctrl.program.edit import (
    Within,
    apply_edit,
    edit_program,
    insert,
    parse_edit,
    resample,
    scale,
    shift_time,
    shift_value,
    smooth,
)

TENT = PiecewiseLinear(
    ctime_ms=np.array([0.0, 100.0, 200.0, 300.0]), value=np.array([0.0, 0.0, 10.0, 0.0])
)
HELD = PiecewiseLinear(ctime_ms=np.array([0.0, 100.0]), value=np.array([1.0, 2.0]), beyond="hold")


def points(function: PiecewiseLinear) -> dict[float, float]:
    return dict(zip(function.ctime_ms.tolist(), function.value.tolist(), strict=True))


def test_scale_and_shift_everywhere() -> None:
    """Without a range every value is changed and no breakpoint added; the argument stays."""
    assert points(scale(TENT, 0.5)) == {0.0: 0.0, 100.0: 0.0, 200.0: 5.0, 300.0: 0.0}
    assert points(shift_value(TENT, -1.5)) == {0.0: -1.5, 100.0: -1.5, 200.0: 8.5, 300.0: -1.5}
    assert points(TENT)[200.0] == 10.0


def test_a_range_fades_outside_it() -> None:
    """Inside its range an edit acts fully, outside it fades within 2 ms, or as told."""
    within = Within(low_ms=120.0, high_ms=150.0)
    shifted = points(shift_value(TENT, 1.0, within))
    assert shifted == pytest.approx(
        {0.0: 0.0, 100.0: 0.0, 118.0: 1.8, 120.0: 3.0, 150.0: 6.0, 152.0: 5.2, 200.0: 10.0, 300.0: 0.0}
    )  # fmt: skip
    halved = points(scale(TENT, 0.5, Within(low_ms=150.0, taper_ms=20.0)))
    assert halved == pytest.approx(
        {0.0: 0.0, 100.0: 0.0, 130.0: 3.0, 150.0: 2.5, 200.0: 5.0, 300.0: 0.0}
    )
    early = points(shift_value(TENT, 1.0, Within(high_ms=50.0)))
    assert early == {0.0: 1.0, 50.0: 1.0, 52.0: 0.0, 100.0: 0.0, 200.0: 10.0, 300.0: 0.0}


def test_a_range_where_a_function_is_held() -> None:
    """A function that holds its last value can be edited there; another has nothing to edit."""
    shifted = shift_value(HELD, 5.0, Within(low_ms=300.0, high_ms=400.0))
    assert points(shifted) == {0.0: 1.0, 100.0: 2.0, 298.0: 2.0, 300.0: 7.0, 400.0: 7.0, 402.0: 2.0}
    assert shifted.beyond == "hold"
    edits: tuple[Callable[[PiecewiseLinear, float, Within], PiecewiseLinear], ...] = (
        scale,
        smooth,
        resample,
        shift_time,
    )
    for edit in edits:
        with pytest.raises(
            UsageError, match=r"range 400\.\. lies outside the function, which reach"
        ):
            edit(TENT, 5.0, Within(low_ms=400.0))


def test_shift_in_time() -> None:
    """All breakpoints move, or those of a range, between what stays; none passes another."""
    assert points(shift_time(TENT, 5.0)) == {5.0: 0.0, 105.0: 0.0, 205.0: 10.0, 305.0: 0.0}
    moved = shift_time(TENT, 5.0, Within(low_ms=190.0, high_ms=210.0, taper_ms=20.0))
    assert points(moved) == {
        0.0: 0.0, 100.0: 0.0, 170.0: 7.0, 195.0: 9.0, 205.0: 10.0, 215.0: 9.0, 230.0: 7.0, 300.0: 0.0,
    }  # fmt: skip
    with pytest.raises(
        UsageError, match=r"move the breakpoint at 210 ms past the one at 212 ms; widen"
    ):
        shift_time(TENT, 5.0, Within(low_ms=190.0, high_ms=210.0))


@pytest.mark.parametrize("width_ms", [1.0, 5.0, 30.0, 150.0])
def test_smoothing_is_the_moving_average(width_ms: float) -> None:
    """Smoothing equals the integral over the window divided by its width, at each breakpoint."""
    smoothed = smooth(TENT, width_ms)
    assert set(TENT.ctime_ms) <= set(smoothed.ctime_ms)
    for time, value in points(smoothed).items():
        half = min(0.5 * width_ms, time - 0.0, 300.0 - time)
        if half > 0:
            corners = [t for t in TENT.ctime_ms if abs(t - time) < half]
            exact, _ = integrate.quad(
                lambda t: float(TENT.at(t)), time - half, time + half, points=corners or None
            )
            assert value == pytest.approx(exact / (2.0 * half), abs=1e-9)
    assert smoothed.at([0.0, 300.0]).tolist() == [0.0, 0.0]


def test_smoothing_of_a_measured_field_adds_no_breakpoints() -> None:
    """Where breakpoints are denser than a tenth of the width none is added; constants stay exactly."""
    time = np.arange(0.0, 500.0, 0.1)
    field = np.asarray(np.round(np.clip(1e-3 * (time - 250.0), 0.0, 0.2), 4), dtype=np.float64)
    smoothed = smooth(PiecewiseLinear(ctime_ms=time, value=field), 4.0)
    assert np.array_equal(smoothed.ctime_ms, time)
    assert not smoothed.value[:2400].any()
    assert (smoothed.value[4600:] == 0.2).all()
    inner = (time > 255) & (time < 440)
    assert np.abs(smoothed.value - 1e-3 * (time - 250.0))[inner].max() < 2e-5  # steps were 1e-4


def test_smoothing_in_a_range() -> None:
    """Corners outside the range keep their breakpoints and values."""
    smoothed = smooth(TENT, 20.0, Within(low_ms=180.0))
    assert smoothed.at(100.0) == 0.0
    assert smoothed.at(200.0) == pytest.approx(9.5)
    assert [t for t in smoothed.ctime_ms if t < 178.0] == [0.0, 100.0]


def test_insert_changes_nothing_but_breakpoints() -> None:
    """Inserted breakpoints lie on the function; existing ones stay bit for bit."""
    denser = insert(TENT, [150.0, 100.0, 33.3])
    assert denser.ctime_ms.tolist() == [0.0, 33.3, 100.0, 150.0, 200.0, 300.0]
    assert denser.at(150.0) == 5.0
    assert insert(HELD, [500.0]).value.tolist() == [1.0, 2.0, 2.0]
    with pytest.raises(UsageError, match="at ctime 301 ms; the function reaches from 0 to 300 ms"):
        insert(TENT, [301.0])


def test_resample() -> None:
    """Breakpoints become even multiples of the step, with the ends, everywhere or in a range."""
    assert resample(TENT, 75.0).ctime_ms.tolist() == [0.0, 75.0, 150.0, 225.0, 300.0]
    assert resample(TENT, 0.1).ctime_ms.size == 3001
    part = resample(TENT, 20.0, Within(low_ms=130.0, high_ms=210.0))
    assert part.ctime_ms.tolist() == [0.0, 100.0, 130.0, 140.0, 160.0, 180.0, 200.0, 210.0, 300.0]
    assert part.at(200.0) == 10.0
    assert resample(HELD, 60.0).ctime_ms.tolist() == [0.0, 60.0, 100.0]
    held = resample(HELD, 60.0, Within(low_ms=70.0, high_ms=250.0))
    assert held.ctime_ms.tolist() == [0.0, 70.0, 120.0, 180.0, 240.0, 250.0]


@pytest.mark.parametrize(
    ("verb", "text", "before", "after"),
    [
        ("scale", "v2=0.9", 10.0, 9.0),
        ("scale", "v2 = 1e-1", 10.0, 1.0),
        ("shift", "phi_hw=+12deg", 1.0, 13.0),
        ("shift", "phi_hw=-3.141592653589793rad", 0.0, -180.0),
        ("shift", "v1=-0.5kV", 9000.0, 8500.0),
        ("shift", "v1_v=200V", 9000.0, 9200.0),
        ("shift", "b_field=3G", 0.2, 0.2003),
        ("shift", "b_field=-1.5mT", 0.2, 0.1985),
        ("shift", "v1=+0.5kV@..300", 1.0, 501.0),
        ("shift", "v1=+0.5kV@0.25s..", 1.0, 501.0),
        ("shift", "v1=5V@270..280", 1.0, 6.0),
    ],
)
def test_the_text_of_an_edit(verb: str, text: str, before: float, after: float) -> None:
    """Factors and amounts with units do what they say at ctime 275 ms."""
    flat = PiecewiseLinear(ctime_ms=np.array([0.0, 1200.0]), value=np.array([before, before]))
    edit = parse_edit(verb, text)
    assert apply_edit(flat, edit).at(275.0) == pytest.approx(after)
    assert edit.text == f"{verb} {text}"


def test_the_text_of_times() -> None:
    """Times may be in ms or s; a shift in ms is one in time; several functions share an edit."""
    assert parse_edit("smooth", "v1,v2=5ms").functions == ("v1_v", "v2_v")
    assert parse_edit("smooth", "v1=0.005s").amounts == (5.0,)
    assert parse_edit("insert", "phi_hw=300,350ms, 400").amounts == (300.0, 350.0, 400.0)
    shift = parse_edit("shift", "v1=-4ms@600..700~10ms")
    assert (shift.of_time, shift.amounts) == (True, (-4.0,))
    assert shift.within == Within(low_ms=600.0, high_ms=700.0, taper_ms=10.0)
    assert shift.within.text == "600..700~10ms"
    assert parse_edit("scale", "v1=2@..400").within.low_ms == -math.inf


@pytest.mark.parametrize(
    ("verb", "text", "sentence"),
    [
        ("scale", "v2", "--scale 'v2' is not understood; expected for example --scale v2=0.9"),
        ("scale", "v2=x", "--scale 'v2=x' is not understood"),
        ("scale", "v2=2kV", "--scale 'v2=2kV' is not understood"),
        ("scale", "v3=2", "no function 'v3'; there is: b_field, v1, v2, phi_hw"),
        ("scale", "v2,v2=2", "--scale v2,v2=2: a function stands twice"),
        ("scale", "v2=2@600", "the range '600' is not understood; expected for example @600..700"),
        ("scale", "v2=2@..", r"the range '\.\.' is not understood"),
        ("scale", "v2=2@700..600", r"the range 700\.\.600 ends before it begins"),
        ("scale", "v2=2@1..2~0ms", "cannot fade over 0 ms; give more than 0"),
        ("scale", "v2=nan", "not understood"),
        (
            "shift",
            "v1=3",
            r"3 has no unit of v1; expected one of V, kV \(or ms, to shift in time\)",
        ),
        ("shift", "v1=3deg", "3deg has no unit of v1"),
        ("shift", "v1,phi_hw=3V", "3V has no unit of phi_hw; expected one of deg, rad"),
        ("smooth", "v1=5", "5 is no time; expected for example 5ms"),
        ("smooth", "v1=5V", "5V is no time"),
        ("insert", "v1=300,", "--insert 'v1=300,' is not understood; expected for example"),
        ("insert", "v1=300@..400", "breakpoints have no range; leave @ out"),
        ("rotate", "v1=3", "no edit 'rotate'; there is: scale, shift, smooth, insert, resample"),
    ],
)
def test_wrong_texts(verb: str, text: str, sentence: str) -> None:
    """What is not understood is named, with what is."""
    with pytest.raises(UsageError, match=sentence):
        parse_edit(verb, text)


@pytest.mark.parametrize(
    ("verb", "text", "sentence"),
    [
        ("smooth", "v1=0ms", "--smooth v1=0ms: v1: a width of 0 ms smooths nothing"),
        ("smooth", "v1=99s", "width of 99000 ms does not fit the function's breakpoints"),
        ("resample", "v1=0ms", "step of 0 ms is not possible"),
        ("resample", "v1=1e-9s", "step of 1e-06 ms gives more than 1000000 breakpoints"),
        ("insert", "v1=100", "no breakpoint can be inserted at ctime 100 ms"),
    ],
)
def test_edits_that_cannot_be(verb: str, text: str, sentence: str) -> None:
    """An edit that cannot be applied is one sentence that names it."""
    with pytest.raises(UsageError, match=sentence):
        edit_program(load_program("psb-2gev"), [parse_edit(verb, text)])


def test_edits_are_applied_in_order() -> None:
    """Shift then scale is not scale then shift; the source says what was done, the rest stays."""
    program = load_program("psb-2gev")
    shift, double = parse_edit("shift", "phi_hw=+10deg"), parse_edit("scale", "phi_hw=2")
    first = edit_program(program, [shift, double], name="mine")
    second = edit_program(program, [double, shift]).program
    assert first.program.phi_hw_deg.at(275.0) == 2 * (program.phi_hw_deg.at(275.0) + 10)
    assert second.phi_hw_deg.at(275.0) == 2 * program.phi_hw_deg.at(275.0) + 10
    assert first.program.source.endswith(
        "; edited from program psb-2gev: shift phi_hw=+10deg, scale phi_hw=2"
    )
    assert (first.program.name, second.name) == ("mine", "psb-2gev")
    assert first.program.v1_v == program.v1_v
    assert [change.largest for change in first.changes] == [10.0, pytest.approx(-75.0)]


def test_a_function_shifted_out_of_the_beam() -> None:
    """A shift in time that uncovers injection is one sentence that names the edit."""
    with pytest.raises(
        ProgramError, match=r"after --shift v1=30ms: v1_v covers ctime 295 to 845 ms"
    ):
        edit_program(load_program("psb-2gev"), [parse_edit("shift", "v1=30ms")])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`program edit` applies the edits in the order given and tells what each did."""
    out = tmp_path / "new" / "mine.yaml"
    edits = ["--shift", "phi_hw=+10deg", "--scale", "phi_hw=2", "--shift", "phi_hw=-5deg"]
    assert main(["program", "edit", "psb-2gev", "--out", str(out), *edits]) == 0
    text = capsys.readouterr().out
    assert "shift phi_hw=+10deg: phi_hw changes by at most +10 deg" in text
    original = load_program("psb-2gev").phi_hw_deg.at(275.0)
    edited = load_program(out)
    assert edited.phi_hw_deg.at(275.0) == 2 * (original + 10) - 5
    assert edited.name == "mine"
    assert "shift phi_hw=+10deg, scale phi_hw=2, shift phi_hw=-5deg" in edited.source


def test_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No edit, an unclear one, and one beyond the machine's limits write nothing."""
    command = ["program", "edit", "psb-2gev", "--out", str(tmp_path / "x.yaml")]
    assert main(command) == 2
    assert "nothing to edit; give at least one of --scale, --shift" in capsys.readouterr().err
    assert main([*command, "--scale", "v9=1"]) == 2
    assert "no function 'v9'" in capsys.readouterr().err
    assert main([*command, "--scale", "v2=9"]) == 3
    assert only_line(capsys.readouterr().err).startswith("memrl-ctrl: ")
    assert main([*command, "--scale"]) == 2
    assert list(tmp_path.iterdir()) == []


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line
