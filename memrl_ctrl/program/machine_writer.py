"""Writing machine files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program import yaml_text
from memrl_ctrl.program.impedance_reader import OWN_COLUMNS
from memrl_ctrl.program.machine import HardwareRange, ImpedanceItem, MachineFile, OperatingRange
from memrl_ctrl.program.machine_reader import FORMAT, NAME
from memrl_ctrl.program.storage import write_texts
from memrl_ctrl.program.table import TIME, format_columns

LONGEST_INLINE = 20
"""Functions with more breakpoints than this become a CSV file beside the YAML."""


def save_machine(machine: MachineFile, out: str | Path, *, force: bool = False) -> list[Path]:
    """Write a machine as YAML, long functions and impedance tables as CSV beside it.

    What is written reads back equal, bit for bit (limits of the phase, which the file has in degrees,
    wherever a number of degrees stands for them). Tables of other programs are written in this
    project's own form, in ohm. All files or none are written.

    Args:
        machine: what to write.
        out: the YAML file; tables become `STEM-impedance-<n>.csv`, a long gamma_transition
            `STEM-gamma_transition.csv` in the same folder.
        force: replace files that exist.

    Returns:
        The files, the YAML first.

    Raises:
        ProgramError: a field that a machine file cannot hold, a file that exists, or a folder that
            cannot be written.
    """
    out = Path(out)
    if out.suffix not in (".yaml", ".yml"):
        raise ProgramError(out, "expected a name that ends in .yaml")
    if not NAME.fullmatch(machine.name):
        raise ProgramError(
            out, f"the name {machine.name!r} is not allowed; use letters, digits, '.', '_' and '-'"
        )
    texts: dict[Path, str] = {}
    fields = _fields(machine, out, texts)
    _check_assumptions(fields, out)
    texts[out] = yaml_text.dump(fields)
    write_texts(texts, force=force)
    return [out, *(path for path in texts if path != out)]


def _fields(machine: MachineFile, out: Path, texts: dict[Path, str]) -> dict[str, Any]:
    """Return the document; tables that stand in files of their own are added to `texts`."""
    limits = machine.phase_limits
    phi_hw = [_degrees(limits.min_rad), _degrees(limits.max_rad)]
    fields: dict[str, Any] = {"kind": "machine", "format": FORMAT, "name": machine.name}
    if machine.description:
        fields["description"] = machine.description
    fields["ring"] = {
        "circumference_m": float(machine.circumference_m),
        "bending_radius_m": float(machine.bending_radius_m),
        "gamma_transition": _gamma_transition(machine, out, texts),
        "harmonics": list(machine.harmonics),
        "intensity_effects": "on" if machine.intensity_effects else "off",
        "space_charge_g": float(machine.space_charge_g),
        "impedance": [
            _impedance(item, out.with_name(f"{out.stem}-impedance-{number}.csv"), texts)
            for number, item in enumerate(machine.impedance, start=1)
        ],
    }
    fields["cycle"] = {
        "injection_ctime_ms": float(machine.injection_ctime_ms),
        "extraction_ctime_ms": float(machine.extraction_ctime_ms),
        "period_s": float(machine.period_s),
    }
    fields["control_points"] = {
        "count": machine.control_points,
        "first_after_injection_ms": float(machine.first_point_after_injection_ms),
        "last_before_extraction_ms": float(machine.last_point_before_extraction_ms),
    }
    fields["hardware"] = _spans(machine.hardware)
    fields["phase_limits"] = {
        "phi_hw_deg": phi_hw,
        "step_deg": _degrees(limits.step_rad),
        "slope_deg_per_ms": _degrees(limits.slope_rad_per_ms),
    }
    fields["operating_range"] = _spans(machine.operating_range)
    if machine.assumptions:
        fields["assumptions"] = [{"field": a.field, "why": a.why} for a in machine.assumptions]
    return fields


def _spans(ranges: HardwareRange | OperatingRange) -> dict[str, Any]:
    return {
        name: [float(v) for v in value] if isinstance(value, tuple) else float(value)
        for name, value in vars(ranges).items()
    }


def _degrees(angle_rad: float) -> float:
    """Return the degrees that are read back as this angle, where there are any; else the nearest."""
    near = math.degrees(angle_rad)
    candidates = [round(near, 9), near]
    for _ in range(2):
        candidates += [
            math.nextafter(min(candidates[1:]), -math.inf),
            math.nextafter(max(candidates[1:]), math.inf),
        ]
    exact = [degrees for degrees in candidates if math.radians(degrees) == angle_rad]
    return exact[0] if exact else near


def _gamma_transition(machine: MachineFile, out: Path, texts: dict[Path, str]) -> Any:
    function = machine.gamma_transition
    times, values = function.ctime_ms, function.value
    if times.tolist() == [0.0, 1.0] and values[0] == values[1]:
        return float(values[0])
    if times.size <= LONGEST_INLINE:
        return {TIME: times.tolist(), "gamma_transition": values.tolist()}
    path = out.with_name(f"{out.stem}-gamma_transition.csv")
    texts[path] = format_columns({TIME: times, "gamma_transition": values})
    return {"csv": path.name}


def _impedance(item: ImpedanceItem, path: Path, texts: dict[Path, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"label": item.label}
    if item.kind == "table":
        impedance = np.array(item.table_ohm)
        columns = (np.array(item.table_hz), impedance.real, impedance.imag)
        texts[path] = format_columns(dict(zip(OWN_COLUMNS, columns, strict=True)))
        fields["csv"] = path.name
    elif item.kind == "z_over_n":
        fields["real_ohm"] = float(item.z_over_n_ohm.real)
        fields["imag_ohm"] = float(item.z_over_n_ohm.imag)
    else:
        names = {
            "resonator": ("r_shunt_ohm", "frequency_hz", "q"),
            "resistive_wall": (
                "length_m", "radius_m", "resistivity_ohm_m", "relative_permeability",
            ),
        }[item.kind]  # fmt: skip
        fields |= {name: float(getattr(item, name)) for name in names}
    fields["count"] = float(item.count)
    return {item.kind: fields}


def _check_assumptions(fields: dict[str, Any], out: Path) -> None:
    """Refuse an assumption about a field that the file does not have: it could not be read back."""
    for assumption in fields.get("assumptions", ()):
        place: Any = fields
        for part in assumption["field"].split("."):
            place = place.get(part) if isinstance(place, dict) else None
            if place is None:
                raise ProgramError(
                    out,
                    f"there is no field {assumption['field']!r} to be assumed in a machine file",
                )
