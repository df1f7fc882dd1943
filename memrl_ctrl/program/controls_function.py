"""From a pair of columns of an export to a function in the project's units, doubts about units said."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program.controls_files import Pair
from memrl_ctrl.program.functions import Beyond, PiecewiseLinear
from memrl_ctrl.program.machine import MachineFile
from memrl_ctrl.program.units import (
    EXPORT_UNIT,
    Doubt,
    Unit,
    convert,
    doubt_of_values,
    find_unit,
    short_name,
    times_in_seconds,
)

FloatArray = NDArray[np.float64]

_GAP_MS = 5.0
"""Breakpoints of a sampled field this far apart, ms, and `_GAP_TIMES` the usual, are a gap."""
_GAP_TIMES = 20.0


def function_of(
    pair: Pair, machine: MachineFile, units: Mapping[str, Unit]
) -> tuple[PiecewiseLinear, list[str]]:
    """Turn a pair into a function in the project's units.

    Units follow from the format (ms, gauss, volt, degrees). Where magnitudes speak against one, a
    .npy file, whose format names none, is taken as what it looks like; a CSV is refused; and a phase
    within a turn of radians is only remarked on, since small degrees exist.

    Args:
        pair: the columns.
        machine: the machine that plays it.
        units: units that the user named; they are not doubted.

    Returns:
        The function, and sentences for the user.

    Raises:
        ProgramError: with file, line, and what was expected.
    """
    notes: list[str] = []
    time = _times(pair, machine, units, notes)
    value = _values(pair, time, machine, units, notes)
    beyond = _coverage(pair, time, value, machine, notes)
    if pair.role == "b_field_t":
        notes += _gaps(pair, time, machine)
    return PiecewiseLinear(ctime_ms=time, value=value, beyond=beyond), notes


def _times(
    pair: Pair, machine: MachineFile, units: Mapping[str, Unit], notes: list[str]
) -> FloatArray:
    unit = units.get("ctime", find_unit("ctime", EXPORT_UNIT["ctime"]))
    if "ctime" not in units and times_in_seconds(pair.ctime_ms, machine):
        unit = find_unit("ctime", "s")
        if pair.lines:
            raise ProgramError(
                pair.path,
                f"ctime of {pair.title} goes from {pair.ctime_ms[0]:g} to {pair.ctime_ms[-1]:g}; "
                "expected milliseconds, these look like seconds: correct the file, or give "
                "--unit ctime=s (--unit ctime=ms if it is right)",
                line=pair.lines[-1],
            )
        notes.append(f"{short_name(pair.role)}: the times look like seconds and are taken as such")
    time = convert(pair.cells[0], unit)
    if not (np.diff(time) > 0).all():  # two texts so close that they are one number after scaling
        raise ProgramError(pair.path, f"times of {pair.title} are too close to be told apart")
    return time


def _values(
    pair: Pair,
    time: FloatArray,
    machine: MachineFile,
    units: Mapping[str, Unit],
    notes: list[str],
) -> FloatArray:
    role = pair.role
    unit = units.get(role)
    if unit is None:
        unit = find_unit(role, EXPORT_UNIT[role])
        beam = np.flatnonzero(
            (time >= machine.injection_ctime_ms) & (time <= machine.extraction_ctime_ms)
        )
        beam = beam if beam.size else np.arange(time.size)
        doubt = doubt_of_values(role, pair.value[beam], machine)
        if doubt is not None:
            unit = _resolved(pair, int(beam[doubt.index]), doubt, unit, notes)
    value = convert(pair.cells[1], unit)
    if unit.name != EXPORT_UNIT[role] and role in units:
        notes.append(f"{short_name(role)}: taken as {unit.words}")
    return value


def _resolved(pair: Pair, index: int, doubt: Doubt, unit: Unit, notes: list[str]) -> Unit:
    """Return the unit that is taken in spite of a doubt, or refuse."""
    short, line = short_name(pair.role), pair.line_of(index)
    where = f"{pair.value[index]:g} at ctime {pair.ctime_ms[index]:g} ms"
    if not doubt.certain:
        in_line = f" (line {line})" if line else ""
        notes.append(
            f"{short}: no value is beyond {where}{in_line}; it is taken as {doubt.expected}; if "
            f"these are {doubt.unit.words}, give --unit {short}={doubt.unit.name}"
        )
        return unit
    if not pair.lines:
        notes.append(f"{short}: the values look like {doubt.unit.words} and are taken as such")
        return doubt.unit
    raise ProgramError(
        pair.path,
        f"the largest value of {pair.title} is {where}; expected {doubt.expected}; these look like "
        f"{doubt.unit.words}: correct the file, or give --unit {short}={doubt.unit.name} "
        f"(--unit {short}={EXPORT_UNIT[pair.role]} if it is right)",
        line=line,
    )


def _coverage(
    pair: Pair, time: FloatArray, value: FloatArray, machine: MachineFile, notes: list[str]
) -> Beyond:
    """Refuse a function that does not reach from injection to extraction; hold a phase that ends."""
    low, high = machine.injection_ctime_ms, machine.extraction_ctime_ms
    if pair.role == "phi_hw_deg" and time[0] <= low < time[-1] < high:
        # A function generator holds its last value; operators cut the tail of a phase function.
        notes.append(
            f"phi_hw: ends at ctime {time[-1]:g} ms, before extraction at {high:g} ms; its last "
            f"value of {value[-1]:g} degrees is held"
        )
        return "hold"
    if time[0] > low or time[-1] < high:
        late = time[0] > low
        raise ProgramError(
            pair.path,
            f"{pair.title} covers ctime {time[0]:g} to {time[-1]:g} ms; expected at least "
            f"{low:g} to {high:g} ms (injection to extraction of machine {machine.name})",
            line=pair.line_of(0 if late else -1),
        )
    return "refuse"


def _gaps(pair: Pair, time: FloatArray, machine: MachineFile) -> list[str]:
    """Remark on a stretch without samples in a field that is otherwise sampled densely."""
    low, high = machine.injection_ctime_ms, machine.extraction_ctime_ms
    step = np.diff(time)
    beam = (time[1:] > low) & (time[:-1] < high)
    usual = float(np.median(step[beam]))
    wide = np.flatnonzero(beam & (step > max(_GAP_MS, _GAP_TIMES * usual)))
    return [
        f"b_field: no samples between ctime {time[i]:g} and {time[i + 1]:g} ms in {pair.path.name}, "
        "where there is beam; a straight line is taken"
        for i in wide[:3]
    ]
