"""Reading machine files."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.program.document import Item, Section, open_document, relative
from memrl_ctrl.program.functions import PiecewiseLinear
from memrl_ctrl.program.impedance_reader import read_impedance
from memrl_ctrl.program.machine import (
    Assumption,
    HardwareRange,
    ImpedanceItem,
    MachineFile,
    MachineWarning,
    OperatingRange,
)
from memrl_ctrl.program.table import TIME, read_columns

FORMAT = 1
EXPECTED = "a machine file (YAML, see docs/programs.md)"
LATEST_MS = 1e5
"""Largest ctime that a machine may have, ms."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def read_machine(path: Path) -> MachineFile:
    """Read a machine file.

    Raises:
        ProgramError: with file, line and what was expected.
    """
    root = open_document(path, EXPECTED)
    check_kind(root, "machine")
    ring = root.need("ring").section()
    cycle = root.need("cycle").section()
    points = root.need("control_points").section()
    injection = cycle.need("injection_ctime_ms").number(least=0, most=LATEST_MS)
    extraction = cycle.need("extraction_ctime_ms").number(above=injection, most=LATEST_MS)
    first = points.need("first_after_injection_ms").number(least=0)
    last = points.need("last_before_extraction_ms").number(least=0)
    if not first + last < extraction - injection:
        raise points.error("first and last point leave no time between injection and extraction")
    impedance = [read_impedance(item) for item in ring.need("impedance").items()]
    machine = MachineFile(
        name=read_name(root),
        description=root.need("description").text() if "description" in root else "",
        circumference_m=ring.need("circumference_m").number(above=0),
        bending_radius_m=ring.need("bending_radius_m").number(above=0),
        gamma_transition=_gamma_transition(ring.need("gamma_transition")),
        harmonics=_harmonics(ring.need("harmonics")),
        space_charge_g=ring.need("space_charge_g").number(least=0),
        impedance=tuple(item for item, _ in impedance),
        intensity_effects=ring.need("intensity_effects").switch(),
        injection_ctime_ms=injection,
        extraction_ctime_ms=extraction,
        period_s=cycle.need("period_s").number(above=0),
        control_points=points.need("count").whole(least=1, most=10_000),
        first_point_after_injection_ms=first,
        last_point_before_extraction_ms=last,
        hardware=_hardware(root.need("hardware").section()),
        phase_limits=_phase_limits(root.need("phase_limits").section()),
        operating_range=_operating_range(root.need("operating_range").section()),
        assumptions=_assumptions(root),
        path=path,
        notes=_notes(impedance, ring.need("circumference_m").number()),
    )
    for section in (root, ring, cycle, points):
        section.done()
    for note in machine.notes:
        _warn_once(note)
    return machine


def _notes(
    impedance: Sequence[tuple[ImpedanceItem, str]], circumference_m: float
) -> tuple[str, ...]:
    """Return what a person should look at in impedances and the notes of their reading."""
    notes = [note for _, note in impedance if note]
    fastest_hz = 299_792_458.0 / circumference_m  # speed of light, m/s
    for item, _ in impedance:
        if item.kind != "table":
            continue
        if item.table_hz[0] > fastest_hz or item.table_hz[-1] < 0.5 * fastest_hz:
            notes.append(
                f"impedance {item.label!r} reaches from {item.table_hz[0]:g} to {item.table_hz[-1]:g} "
                f"Hz, not around the revolution frequency (below {fastest_hz:g} Hz); is its unit right?"
            )
    return tuple(notes)


@cache
def _warn_once(note: str) -> None:
    warnings.warn(note, MachineWarning, stacklevel=2)


def check_kind(root: Section, kind: str) -> None:
    """Refuse a file of another kind or format."""
    found = root.need("kind")
    if found.text() != kind:
        raise found.error(f"is {found.text()!r}; expected {kind!r}")
    version = root.need("format")
    if version.text() != str(FORMAT):
        raise version.error(f"{version.text()} is not known; this version reads format {FORMAT}")


def read_name(root: Section) -> str:
    """Return the file's own name for what it describes."""
    item = root.need("name")
    if not NAME.fullmatch(item.text()):
        raise item.error(
            f"{item.text()[:80]!r} is no name; expected up to 64 letters, digits, '.', '_' or '-'"
        )
    return item.text()


def _gamma_transition(item: Item) -> PiecewiseLinear:
    if item.scalar:
        value = item.number(above=1)
        return PiecewiseLinear(
            ctime_ms=np.array([0.0, 1.0]), value=np.array([value, value]), beyond="hold"
        )
    section = item.section()
    if "csv" in section:
        path = relative(section.need("csv"))
        names = (TIME, "gamma_transition")
        columns = read_columns(path, names, names, increasing=TIME)
        times, values = (columns[name].tolist() for name in names)
    else:
        times = section.need(TIME).numbers()
        values = section.need("gamma_transition").numbers()
    section.done()
    if min(values, default=0.0) <= 1:
        raise item.error("must be above 1 everywhere")
    try:
        return PiecewiseLinear(ctime_ms=np.array(times), value=np.array(values), beyond="hold")
    except ValueError as error:
        raise item.error(str(error)) from error


def _harmonics(item: Item) -> tuple[int, int]:
    values = [part.whole(least=1, most=100) for part in item.items()]
    if len(values) != 2 or values[1] != 2 * values[0]:
        raise item.error(f"{values} is not supported; the second must be twice the first")
    return values[0], values[1]


def _hardware(section: Section) -> HardwareRange:
    result = HardwareRange(
        b_field_t=section.need("b_field_t").span(),
        b_dot_t_per_s=section.need("b_dot_t_per_s").span(),
        v1_v=section.need("v1_v").span(),
        v2_v=section.need("v2_v").span(),
        v_sum_max_v=section.need("v_sum_max_v").number(above=0),
    )
    section.done()
    return result


def _phase_limits(section: Section) -> PhaseLimits:
    low, high = section.need("phi_hw_deg").span()
    limits = PhaseLimits(
        min_rad=math.radians(low),
        max_rad=math.radians(high),
        step_rad=math.radians(section.need("step_deg").number(above=0)),
        slope_rad_per_ms=math.radians(section.need("slope_deg_per_ms").number(above=0)),
    )
    section.done()
    return limits


def _operating_range(section: Section) -> OperatingRange:
    spans = {}
    for name in ("b_field_t", "b_dot_t_per_s", "v1_v", "v2_over_v1", "intensity"):
        item = section.need(name)
        spans[name] = item.span()
        if name != "b_dot_t_per_s" and spans[name][0] < 0:
            raise item.error("must not be negative")
    section.done()
    return OperatingRange(**spans)


def _assumptions(root: Section) -> tuple[Assumption, ...]:
    found = root.get("assumptions")
    assumptions = []
    for item in found.items() if found else []:
        section = item.section()
        named = section.need("field")
        # A field that is not in the file would label nothing.
        place: Item = root
        for part in named.text().split("."):
            inside = place.section()
            if part not in inside:
                raise named.error(f"there is no field {named.text()!r} in this file to be assumed")
            place = inside.need(part)
        assumptions.append(Assumption(field=named.text(), why=section.need("why").text()))
        section.done()
    return tuple(assumptions)
