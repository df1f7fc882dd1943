"""Units of functions: conversion without loss of digits, and what a magnitude says about its unit.

An export of the controls system names no units: ctime is in ms, the field in gauss, voltages in volt,
phases in degrees. Decimal factors are applied to the decimal digits as they are written, so that
4124.449 gauss are 0.4124449 tesla and turn back into exactly 4124.449 gauss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, DecimalException

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import UsageError
from memrl_ctrl.program.machine import MachineFile

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit that a quantity may be given in."""

    name: str
    """As it is written: `kV`."""
    words: str
    """As it is said: `kilovolt`."""
    exponent: int | None
    """Power of ten to the project's unit; None where that is no power of ten (radians)."""


UNITS: dict[str, tuple[Unit, ...]] = {
    "ctime": (
        Unit(name="ms", words="milliseconds", exponent=0),
        Unit(name="s", words="seconds", exponent=3),
    ),
    "b_field_t": (
        Unit(name="T", words="tesla", exponent=0),
        Unit(name="mT", words="millitesla", exponent=-3),
        Unit(name="G", words="gauss", exponent=-4),
    ),
    "v1_v": (
        Unit(name="V", words="volt", exponent=0),
        Unit(name="kV", words="kilovolt", exponent=3),
    ),
    "v2_v": (
        Unit(name="V", words="volt", exponent=0),
        Unit(name="kV", words="kilovolt", exponent=3),
    ),
    "phi_hw_deg": (
        Unit(name="deg", words="degrees", exponent=0),
        Unit(name="rad", words="radians", exponent=None),
    ),
}
"""Units of ctime and of each function; the first is the project's own."""
EXPORT_UNIT = {"ctime": "ms", "b_field_t": "G", "v1_v": "V", "v2_v": "V", "phi_hw_deg": "deg"}
"""What the controls system's files hold."""
SHORT = {"b_field": "b_field_t", "v1": "v1_v", "v2": "v2_v", "phi_hw": "phi_hw_deg"}
"""What people type for a function, without its unit."""
_LARGEST_TESLA = 20.0
"""No magnet of a ring with RF buckets exceeds this in tesla, and every one does in gauss."""
_SLACK = 10.0
"""How far from the operating range a quantity may be before another unit is considered."""
_LARGEST_RADIANS = 7.0
"""A little more than a turn: a phase function within it may be in radians, or small degrees."""


def function_name(text: str) -> str:
    """Return the function's full name for `phi_hw`, `v1`, `v2`, `b_field` or a full name.

    Raises:
        UsageError: it is none; lists them.
    """
    name = SHORT.get(text, text)
    if name not in SHORT.values():
        raise UsageError(f"no function {text!r}; there is: {', '.join(SHORT)}")
    return name


def short_name(name: str) -> str:
    """Return `phi_hw` for `phi_hw_deg`, and so on: what options take."""
    return next((short for short, full in SHORT.items() if full == name), name)


def find_unit(quantity: str, text: str) -> Unit:
    """Return a unit by its name; upper and lower case matter where two differ only in that.

    Raises:
        UsageError: the quantity has no such unit; lists those it has.
    """
    units = UNITS[quantity]
    exact = [unit for unit in units if unit.name == text]
    close = exact or [unit for unit in units if unit.name.lower() == text.lower()]
    if len(close) != 1:
        allowed = ", ".join(unit.name for unit in units)
        raise UsageError(f"{short_name(quantity)} has no unit {text!r}; allowed: {allowed}")
    return close[0]


def parse_units(texts: Sequence[str]) -> dict[str, Unit]:
    """Read `v1=kV`, `phi_hw=rad`, `ctime=s`: quantity to unit.

    Raises:
        UsageError: one is no such text, or a quantity stands twice.
    """
    units: dict[str, Unit] = {}
    for text in texts:
        name, equals, unit = text.partition("=")
        if not equals:
            raise UsageError(f"unit {text!r} is not understood; expected for example v1=kV")
        quantity = name if name == "ctime" else function_name(name)
        if quantity in units:
            raise UsageError(f"the unit of {name} is given twice")
        units[quantity] = find_unit(quantity, unit)
    return units


def convert(cells: Sequence[str], unit: Unit) -> FloatArray:
    """Return numbers, written as decimal text [n], in the project's unit [n]."""
    if unit.exponent is None:
        return np.array([math.degrees(float(cell)) for cell in cells])
    if unit.exponent == 0:
        return np.array([float(cell) for cell in cells])
    return np.array([_scaled(cell, unit.exponent) for cell in cells])


def _scaled(cell: str, exponent: int) -> float:
    try:
        return float(Decimal(cell).scaleb(exponent))
    except DecimalException:  # an exponent beyond any quantity: what float makes of it
        return float(Decimal(repr(float(cell))).scaleb(exponent))


def written(values: FloatArray, unit: Unit) -> list[str]:
    """Return numbers of the project's unit [n] as text in another; `convert` gives them back exactly.

    They look as the controls system writes them: the shortest digits that mean the same number.

    Raises:
        ValueError: the unit is no power of ten away.
    """
    if unit.exponent is None:
        raise ValueError(f"{unit.words} cannot be written without loss")
    if unit.exponent == 0:
        return [repr(value) for value in values.tolist()]
    texts = []
    for value in values.tolist():
        exact = Decimal(repr(value)).scaleb(-unit.exponent)
        shortest = repr(float(exact))
        same = float(Decimal(shortest).scaleb(unit.exponent)) == value
        texts.append(shortest if same else f"{exact}")
    return texts


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """A unit that a magnitude speaks for, other than the one that was expected."""

    unit: Unit
    """The unit it looks like."""
    index: int
    """The value that says so."""
    expected: str
    """What was expected, in words and numbers."""
    certain: bool
    """Whether the expected unit is impossible, or only less likely."""


def doubt_of_values(role: str, value: FloatArray, machine: MachineFile) -> Doubt | None:
    """Compare the magnitudes of a function in the export's unit with what the machine operates at.

    Args:
        role: the function.
        value: its values while there is beam [n], in the unit of exports.
        machine: the machine.
    """
    index = int(np.argmax(np.abs(value)))
    peak = float(abs(value[index]))
    operating, hardware = machine.operating_range, machine.hardware
    if role == "b_field_t":
        if 0.0 < peak <= _LARGEST_TESLA:
            low, high = (1e4 * b for b in operating.b_field_t)
            words = f"gauss (about {low:.0f} to {high:.0f} on machine {machine.name})"
            return Doubt(unit=UNITS[role][0], index=index, expected=words, certain=True)
        return None
    if role == "phi_hw_deg":
        if 0.0 < peak <= _LARGEST_RADIANS:
            return Doubt(unit=UNITS[role][1], index=index, expected="degrees", certain=False)
        return None
    low, high = operating.v1_v
    most = hardware.v1_v[1]
    if role == "v2_v":
        ratio_low, ratio_high = operating.v2_over_v1
        low, high, most = low * ratio_low, high * ratio_high, hardware.v2_v[1]
    if 0.0 < peak < low / _SLACK and 1e3 * peak <= most:
        words = f"volt (about {low:.0f} to {high:.0f} on machine {machine.name})"
        return Doubt(unit=UNITS[role][1], index=index, expected=words, certain=True)
    return None


def times_in_seconds(ctime_ms: FloatArray, machine: MachineFile) -> bool:
    """Whether times, read as ms, end before there is beam, but read as seconds reach into it."""
    return bool(
        ctime_ms[-1] < machine.injection_ctime_ms < 1e3 * ctime_ms[-1]
        and 1e3 * ctime_ms[-1] <= _SLACK * 1e3 * math.ceil(machine.period_s)
    )
