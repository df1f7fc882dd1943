"""Edits of functions and programs: scale, shift, smooth, insert breakpoints, resample.

Each is a pure function from a `PiecewiseLinear` to another. `edit_program` applies a list of them, in
its order, and writes into the new program's `source` what was done:

```python
from memrl_ctrl.program import load_program
from memrl_ctrl.program.edit import Within, edit_program, parse_edit, scale

program = load_program("psb-2gev")
weaker = scale(program.v2_v, 0.9, Within(low_ms=600.0))
edited = edit_program(program, [parse_edit("scale", "v2=0.9@600.."), parse_edit("shift", "phi_hw=+12deg")])
```

An edit that is restricted to a range of ctime acts fully inside it and fades linearly to nothing over
`taper_ms` outside: a function generator cannot jump. Between its breakpoints the result is straight.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program.cycle import CycleProgram
from memrl_ctrl.program.edit_syntax import Edit, Within, parse_edit
from memrl_ctrl.program.functions import PiecewiseLinear
from memrl_ctrl.program.units import short_name

__all__ = [
    "Change",
    "Edit",
    "EditedProgram",
    "Within",
    "apply_edit",
    "edit_program",
    "insert",
    "parse_edit",
    "resample",
    "scale",
    "shift_time",
    "shift_value",
    "smooth",
]

FloatArray = NDArray[np.float64]

MOST_BREAKPOINTS = 1_000_000
"""An edit that would need more is a slip of a unit."""
SMOOTH_STEPS = 10
"""New breakpoints in the width of a smoothing, around each corner."""
_CHUNK = 512
"""Points that are smoothed at a time, to bound the memory."""
EVERYWHERE = Within()


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an edit did to a function."""

    edit: Edit
    """The edit."""
    function: str
    """The function, by its name in `FUNCTIONS`."""
    breakpoints: tuple[int, int]
    """Number of breakpoints before and after."""
    largest: float
    """Largest change of the value while there is beam, unit of the function."""
    largest_ctime_ms: float
    """Where, ms."""


@dataclass(frozen=True, kw_only=True)
class EditedProgram:
    """A program after edits, and what each of them did."""

    program: CycleProgram
    """The program; not compared with its machine's limits (saving it does that)."""
    changes: tuple[Change, ...]
    """One for each edit and function, in order."""


def scale(function: PiecewiseLinear, factor: float, within: Within = EVERYWHERE) -> PiecewiseLinear:
    """Multiply the values.

    Raises:
        UsageError: the factor is not finite, or the range lies outside the function.
    """
    _finite(factor, "factor")
    return _valued(function, within, lambda value, weight: value * (1.0 + (factor - 1.0) * weight))


def shift_value(
    function: PiecewiseLinear, amount: float, within: Within = EVERYWHERE
) -> PiecewiseLinear:
    """Add to the values; `amount` in the function's unit.

    Raises:
        UsageError: the amount is not finite, or the range lies outside the function.
    """
    _finite(amount, "amount")
    return _valued(function, within, lambda value, weight: value + amount * weight)


def shift_time(
    function: PiecewiseLinear, by_ms: float, within: Within = EVERYWHERE
) -> PiecewiseLinear:
    """Move breakpoints in time, later for a positive `by_ms`; those outside the range stay.

    Raises:
        UsageError: breakpoints would pass others that stay, or the range lies outside the function.
    """
    _finite(by_ms, "time")
    time = _breakpoints(function, within)
    moved = time + np.where((time >= within.low_ms) & (time <= within.high_ms), by_ms, 0.0)
    falls = np.flatnonzero(np.diff(moved) <= 0)
    if falls.size:
        i = int(falls[0])
        raise UsageError(
            f"a shift by {by_ms:g} ms would move the breakpoint at {time[i]:g} ms past the one at "
            f"{time[i + 1]:g} ms; widen the fading (~{math.ceil(2 * abs(by_ms))}ms), or shift less"
        )
    return dataclasses.replace(function, ctime_ms=moved, value=_at(function, time))


def smooth(
    function: PiecewiseLinear, width_ms: float, within: Within = EVERYWHERE
) -> PiecewiseLinear:
    """Take the moving average over a full width of `width_ms`, exactly.

    A corner at t0 where the slope changes by s adds s (h - |t - t0|)^2 / 4h within h = width / 2 of it
    (the average of |t| over a window of half-width h, minus |t|), so what is further from any corner
    keeps its values bit for bit. Towards the ends of the function the window shrinks, so that these stay
    too.
    Breakpoints are added around each corner, a tenth of the width apart; none is removed.

    Raises:
        UsageError: the width is not above 0, or too many breakpoints would be needed.
    """
    _finite(width_ms, "width")
    if not width_ms > 0:
        raise UsageError(f"a width of {width_ms:g} ms smooths nothing; give one above 0")
    old = function.ctime_ms
    step = width_ms / SMOOTH_STEPS
    near = np.arange(-(SMOOTH_STEPS // 2), SMOOTH_STEPS // 2 + 1)
    if old.size * near.size > MOST_BREAKPOINTS or old[-1] - old[0] < step:
        raise UsageError(f"a width of {width_ms:g} ms does not fit the function's breakpoints")
    grid = np.round(step * np.unique((np.round(old / step)[:, None] + near).ravel()), 9)
    after = np.clip(np.searchsorted(old, grid), 1, old.size - 1)
    apart = np.minimum(np.abs(grid - old[after - 1]), np.abs(grid - old[after]))
    grid = grid[(apart > 0.5 * step) & (grid > old[0]) & (grid < old[-1])]
    time = np.union1d(old, grid)
    smoothed = PiecewiseLinear(
        ctime_ms=time, value=_moving_average(function, time, 0.5 * width_ms), beyond=function.beyond
    )
    return _blended(function, smoothed, within)


def insert(function: PiecewiseLinear, ctimes_ms: Sequence[float]) -> PiecewiseLinear:
    """Add breakpoints; the function stays what it is, and those that exist stay untouched.

    Raises:
        UsageError: a ctime outside the function.
    """
    times = np.array(ctimes_ms, dtype=np.float64)
    for time in times:
        _finite(float(time), "ctime")
        if not function.start_ms <= time <= function.end_ms:
            raise UsageError(
                f"no breakpoint can be inserted at ctime {time:g} ms; the function reaches from "
                f"{function.start_ms:g} to {function.end_ms:g} ms"
            )
    return _sampled(function, np.union1d(function.ctime_ms, times))


def resample(
    function: PiecewiseLinear, step_ms: float, within: Within = EVERYWHERE
) -> PiecewiseLinear:
    """Replace the breakpoints by evenly spaced ones, the ends of the range (or function) included.

    Raises:
        UsageError: the step is not above 0, too small, or the range lies outside the function.
    """
    _finite(step_ms, "step")
    if not step_ms > 0:
        raise UsageError(f"a step of {step_ms:g} ms is not possible; give one above 0")
    _refuse_outside(function, within)
    old = function.ctime_ms
    low = max(within.low_ms, function.start_ms)
    high = min(within.high_ms, function.end_ms)
    # A function that holds is endless: without a range it is resampled between its breakpoints.
    low = min(low, high) if math.isfinite(low) else min(float(old[0]), high)
    high = high if math.isfinite(high) else max(float(old[-1]), low)
    if (high - low) / step_ms > MOST_BREAKPOINTS:
        raise UsageError(f"a step of {step_ms:g} ms gives more than {MOST_BREAKPOINTS} breakpoints")
    inner = np.arange(math.floor(low / step_ms) + 1, math.ceil(high / step_ms)) * step_ms
    inner = np.round(inner, 9)
    inner = inner[(inner > low) & (inner < high)]
    outside = old[(old < low) | (old > high)]
    return _sampled(function, np.union1d(outside, np.r_[low, inner, high]))


def apply_edit(function: PiecewiseLinear, edit: Edit) -> PiecewiseLinear:
    """Apply one edit to a function.

    Raises:
        UsageError: it cannot be applied; says why.
    """
    if edit.verb == "scale":
        return scale(function, edit.amounts[0], edit.within)
    if edit.verb == "shift" and edit.of_time:
        return shift_time(function, edit.amounts[0], edit.within)
    if edit.verb == "shift":
        return shift_value(function, edit.amounts[0], edit.within)
    if edit.verb == "smooth":
        return smooth(function, edit.amounts[0], edit.within)
    if edit.verb == "insert":
        return insert(function, edit.amounts)
    if edit.verb == "resample":
        return resample(function, edit.amounts[0], edit.within)
    raise UsageError(f"no edit {edit.verb!r}")


def edit_program(
    program: CycleProgram, edits: Sequence[Edit], *, name: str | None = None
) -> EditedProgram:
    """Apply edits to a program, in their order; its `source` says what was done.

    Args:
        program: the program; it is not changed.
        edits: what to do.
        name: name of the new program; None keeps it.

    Raises:
        UsageError: an edit that cannot be applied, named.
        ProgramError: after it a function no longer reaches from injection to extraction.
    """
    edited = program
    changes = []
    for edit in edits:
        for function_name in edit.functions:
            old: PiecewiseLinear = getattr(edited, function_name)
            short = short_name(function_name)
            try:
                new = apply_edit(old, edit)
                edited = dataclasses.replace(edited, **{function_name: new})  # type: ignore[arg-type]
            except UsageError as error:
                raise UsageError(f"--{edit.text}: {short}: {error}") from error
            except ValueError as error:
                where = program.path or program.name
                raise ProgramError(where, f"after --{edit.text}: {error}") from error
            changes.append(_change(edit, function_name, old, new, program.beam_ms))
    words = f"edited from program {program.name}: " + ", ".join(edit.text for edit in edits)
    edited = dataclasses.replace(
        edited,
        name=name or program.name,
        source="; ".join(filter(None, [program.source.rstrip(". "), words])),
        path=None,
    )
    return EditedProgram(program=edited, changes=tuple(changes))


def _change(
    edit: Edit, name: str, old: PiecewiseLinear, new: PiecewiseLinear, beam: tuple[float, float]
) -> Change:
    time = np.union1d(old.breakpoints_within(*beam), new.breakpoints_within(*beam))
    change = new.at(time) - old.at(time)
    worst = int(np.argmax(np.abs(change)))
    return Change(
        edit=edit,
        function=name,
        breakpoints=(old.ctime_ms.size, new.ctime_ms.size),
        largest=float(change[worst]),
        largest_ctime_ms=float(time[worst]),
    )


def _weight(time: FloatArray, within: Within) -> FloatArray:
    """Return 1 inside the range, falling linearly to 0 over its taper outside [n]."""
    distance = np.maximum(within.low_ms - time, time - within.high_ms)
    if within.taper_ms == 0:
        return np.asarray(distance <= 0, dtype=np.float64)
    return np.asarray(np.clip(1.0 - distance / within.taper_ms, 0.0, 1.0), dtype=np.float64)


def _refuse_outside(function: PiecewiseLinear, within: Within) -> None:
    if within.low_ms > function.end_ms or within.high_ms < function.start_ms:
        raise UsageError(
            f"the range {within.text} lies outside the function, which reaches from "
            f"{function.start_ms:g} to {function.end_ms:g} ms"
        )


def _breakpoints(function: PiecewiseLinear, within: Within) -> FloatArray:
    """Return the breakpoints with those where a range begins and ends to act."""
    _refuse_outside(function, within)
    edges = np.array(
        [
            within.low_ms - within.taper_ms,
            within.low_ms,
            within.high_ms,
            within.high_ms + within.taper_ms,
        ]
    )
    inside = np.isfinite(edges) & (edges > function.start_ms) & (edges < function.end_ms)
    return np.union1d(function.ctime_ms, edges[inside])


def _at(function: PiecewiseLinear, time: FloatArray) -> FloatArray:
    """Return values, those at breakpoints bit for bit (interpolation may lose the last one)."""
    value = function.at(time)
    index = np.clip(np.searchsorted(function.ctime_ms, time), 0, function.ctime_ms.size - 1)
    return np.where(function.ctime_ms[index] == time, function.value[index], value)


def _sampled(function: PiecewiseLinear, time: FloatArray) -> PiecewiseLinear:
    return dataclasses.replace(function, ctime_ms=time, value=_at(function, time))


def _valued(
    function: PiecewiseLinear,
    within: Within,
    change: Callable[[FloatArray, FloatArray], FloatArray],
) -> PiecewiseLinear:
    """Change values by their weight within a range."""
    time = _breakpoints(function, within)
    value = change(_at(function, time), _weight(time, within))
    return dataclasses.replace(function, ctime_ms=time, value=value)


def _blended(old: PiecewiseLinear, new: PiecewiseLinear, within: Within) -> PiecewiseLinear:
    """Take the new function inside a range, the old one outside, fading in between."""
    time = _breakpoints(old, within)
    added = new.ctime_ms[_weight(new.ctime_ms, within) > 0]
    time = np.union1d(time, added)
    weight = _weight(time, within)
    before, after = _at(old, time), _at(new, time)
    value = np.where(weight == 1.0, after, before + weight * (after - before))
    return dataclasses.replace(old, ctime_ms=time, value=value)


def _moving_average(function: PiecewiseLinear, time: FloatArray, half_ms: float) -> FloatArray:
    """Return the average over half_ms to either side [n], less towards the ends."""
    corners = function.ctime_ms[1:-1]
    slope = np.diff(function.value) / np.diff(function.ctime_ms)
    bend = np.diff(slope)
    corners, bend = corners[bend != 0], bend[bend != 0]
    value = _at(function, time)
    half = np.minimum(
        half_ms, np.minimum(time - function.ctime_ms[0], function.ctime_ms[-1] - time)
    )
    for first in range(0, time.size, _CHUNK):
        part = slice(first, first + _CHUNK)
        low, high = np.searchsorted(corners, [time[part][0] - half_ms, time[part][-1] + half_ms])
        inside = half[part, None] - np.abs(time[part, None] - corners[low:high])
        weight = np.zeros_like(inside)
        np.divide(inside**2, 4.0 * half[part, None], out=weight, where=inside > 0)
        value[part] += weight @ bend[low:high]
    return value


def _finite(value: float, what: str) -> None:
    if not math.isfinite(value):
        raise UsageError(f"the {what} is {value}; give a number")
