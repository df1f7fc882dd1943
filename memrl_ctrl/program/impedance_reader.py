"""Impedances of a machine file: resonators, tables, constant Z/n, resistive walls.

A table is a file of a user, as it comes from an instrument or a code: the machine file says which of
its columns hold what, and in which unit. Whether the phase of a table can belong to its magnitude is
checked (`memrl_ctrl.beam.minimum_phase`); one that looks wrong is used all the same, with a note.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program.document import Item, Section, relative
from memrl_ctrl.program.machine import ImpedanceItem
from memrl_ctrl.program.table import read_columns
from memrl_ctrl.program.text_table import TextTable, read_text_table

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]

KINDS = ("resonator", "table", "z_over_n", "resistive_wall")
OWN_COLUMNS = ("frequency_hz", "real_ohm", "imag_ohm")
"""Columns of a table in this project's own form (`csv:`)."""
_HERTZ = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}
_LARGEST_OHM = 1e9
"""More than this is another unit or a damaged number."""


def read_impedance(item: Item) -> tuple[ImpedanceItem, str]:
    """Read one element of `ring.impedance`.

    Returns:
        The impedance, and a sentence where its table looks wrong (otherwise empty).

    Raises:
        ProgramError: with file, line and what was expected.
    """
    section = item.section()
    found = [kind for kind in KINDS if section.get(kind) is not None]
    section.done()
    if len(found) != 1:
        raise item.error(f"expected one of {', '.join(KINDS)}")
    kind = found[0]
    part = section.need(kind).section()
    label = _label(part, kind)
    count = part.need("count").number(above=0)
    note = ""
    if kind == "resonator":
        result = ImpedanceItem(
            kind=kind,
            label=label,
            count=count,
            r_shunt_ohm=part.need("r_shunt_ohm").number(least=0),
            frequency_hz=part.need("frequency_hz").number(above=0),
            q=part.need("q").number(above=0),
        )
    elif kind == "table":
        frequency, impedance, note = _table(part, label)
        result = ImpedanceItem(
            kind=kind,
            label=label,
            count=count,
            table_hz=tuple(frequency.tolist()),
            table_ohm=tuple(impedance.tolist()),
        )
    elif kind == "z_over_n":
        real = part.need("real_ohm").number(least=0)
        imag = part.need("imag_ohm").number()
        result = ImpedanceItem(
            kind=kind, label=label, count=count, z_over_n_ohm=complex(real, imag)
        )
    else:
        permeability = part.get("relative_permeability")
        result = ImpedanceItem(
            kind=kind,
            label=label,
            count=count,
            length_m=part.need("length_m").number(above=0),
            radius_m=part.need("radius_m").number(above=0),
            resistivity_ohm_m=part.need("resistivity_ohm_m").number(above=0),
            relative_permeability=permeability.number(above=0) if permeability else 1.0,
        )
    part.done()
    return result, note


def _label(part: Section, kind: str) -> str:
    """Return its label; without one the file's name, or what it is."""
    for name in ("label", "csv", "file"):
        item = part.get(name)
        if item is not None:
            return item.text()
    return kind


@dataclass(frozen=True)
class _Choice:
    """How a column of phases is read."""

    name: str
    sign: float = 1.0
    unit: str = "deg"

    def radians(self, table: TextTable) -> FloatArray:
        values = self.sign * table.column(self.name)
        return values if self.unit == "rad" else np.radians(values)


def _table(part: Section, label: str) -> tuple[FloatArray, ComplexArray, str]:
    """Return frequencies [rows], impedances [rows] and a note."""
    own, foreign = part.get("csv"), part.get("file")
    if (own is None) == (foreign is None):
        raise part.error("expected csv (this project's own form) or file (with columns named)")
    if own is not None:
        path = relative(own)
        columns = read_columns(path, OWN_COLUMNS, OWN_COLUMNS, increasing=OWN_COLUMNS[0])
        if columns["frequency_hz"][0] < 0:
            raise ProgramError(path, "frequency_hz begins below 0; expected positive frequencies")
        frequency = columns["frequency_hz"]
        impedance = columns["real_ohm"] + 1j * columns["imag_ohm"]
        return frequency, impedance, _note(label, path, frequency, impedance, "")
    path = relative(part.need("file"))
    table = read_text_table(path)
    frequency = _frequencies(part, table)
    if "real_column" in part or "imag_column" in part:
        real = table.column(_column(part, "real_column", table))
        imag = table.column(_column(part, "imag_column", table))
        _no_other(part, ("magnitude_column", "phase_column", "magnitude_unit", "phase_unit"))
        impedance = real + 1j * imag
        return frequency, impedance, _note(label, path, frequency, impedance, "")
    name = _column(part, "magnitude_column", table)
    values = table.column(name)
    unit = part.need("magnitude_unit").choice("ohm", "dB")
    magnitude = _in_ohm(values, unit)
    _check_magnitude(table, name, values, magnitude, unit)
    phase = _Choice(
        _column(part, "phase_column", table), unit=part.need("phase_unit").choice("deg", "rad")
    )
    impedance = magnitude * np.exp(1j * phase.radians(table))
    better = _better(part, table, frequency, (name, values, unit), phase)
    return frequency, impedance, _note(label, path, frequency, impedance, better)


def _frequencies(part: Section, table: TextTable) -> FloatArray:
    name = _column(part, "frequency_column", table)
    unit = part.get("frequency_unit")
    scale = _HERTZ[unit.choice(*_HERTZ)] if unit else 1.0
    values = table.column(name)
    table.refuse(values < 0, name, "is negative; expected frequencies of 0 or more")
    falls = np.concatenate([[False], np.diff(values) <= 0])
    table.refuse(falls, name, "is not above the row before; frequencies must increase")
    return scale * values


def _column(part: Section, field: str, table: TextTable) -> str:
    item = part.need(field)
    try:
        return table.named(item.text())
    except KeyError as error:
        raise item.error(str(error.args[0])) from error


def _no_other(part: Section, fields: tuple[str, ...]) -> None:
    for name in fields:
        item = part.get(name)
        if item is not None:
            raise item.error("is not used with real_column and imag_column; remove one of the two")


def _in_ohm(values: FloatArray, unit: str) -> FloatArray:
    """Return magnitudes in ohm; dB are those of a voltage ratio, 20 log10(|Z| / 1 ohm)."""
    if unit == "ohm":
        return values
    return np.asarray(10.0 ** (np.clip(values, -1e3, 1e3) / 20.0), dtype=np.float64)


def _check_magnitude(
    table: TextTable, name: str, values: FloatArray, magnitude: FloatArray, unit: str
) -> None:
    if unit == "ohm":
        table.refuse(values < 0, name, "is negative; is magnitude_unit dB meant?")
    hint = "; is magnitude_unit ohm meant?" if unit == "dB" else ""
    table.refuse(magnitude > _LARGEST_OHM, name, f"is more than {_LARGEST_OHM:g} ohm{hint}")


def _better(
    part: Section,
    table: TextTable,
    frequency: FloatArray,
    magnitude: tuple[str, FloatArray, str],
    phase: _Choice,
) -> str:
    """Return words for the reading of the file that comes nearest to minimum phase, if another."""
    from memrl_ctrl.beam import minimum_phase

    name, values, unit = magnitude
    used = {name, phase.name, table.named(part.need("frequency_column").text())}
    others = [other for other in table.names if other not in used]
    # What holds the frequency in another unit is no phase.
    others = [other for other in others if not _proportional(table.column(other), frequency)]
    tried: list[tuple[float, str]] = []
    for tried_unit in (unit, *(u for u in ("ohm", "dB") if u != unit)):
        if tried_unit == "ohm" and (values <= 0).any():
            continue
        amplitude = _in_ohm(values, tried_unit)
        for choice in (
            phase,
            *(_Choice(other, unit=phase.unit) for other in others),
            _Choice(phase.name, -1.0, phase.unit),
        ):
            impedance = amplitude * np.exp(1j * choice.radians(table))
            words = f"column {choice.name!r}" + (
                " with its sign reversed" if choice.sign < 0 else ""
            )
            if tried_unit != unit:
                words += f" with magnitude_unit {tried_unit}"
            tried.append((minimum_phase.phase_distance_deg(frequency, impedance), words))
    first, (least, words) = tried[0], min(tried, key=lambda one: one[0])
    if least < minimum_phase.THRESHOLD_DEG < first[0]:
        return f"; phases of {words} would fit ({least:.0f} degrees)"
    return ""


def _proportional(values: FloatArray, frequency: FloatArray) -> bool:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = values / frequency
    ratio = ratio[np.isfinite(ratio)]
    return bool(ratio.size and np.ptp(ratio) <= 1e-2 * np.abs(ratio).max())


def _note(
    label: str, path: Path, frequency: FloatArray, impedance: ComplexArray, better: str
) -> str:
    """Return one sentence where the phase does not look like that of the magnitude."""
    # Imported here: the beam model takes half a second to load, and most machines have no table.
    from memrl_ctrl.beam.minimum_phase import THRESHOLD_DEG, phase_distance_deg

    away = phase_distance_deg(frequency, impedance)
    if math.isnan(away) or away <= THRESHOLD_DEG:
        return ""
    return (
        f"{path}: the phase of impedance {label!r} does not look as if it belonged to its magnitude: "
        f"they are {away:.0f} degrees from minimum phase (suspect above {THRESHOLD_DEG:g})"
        f"{better or '; look at the columns, their units and their sign'}"
    )
