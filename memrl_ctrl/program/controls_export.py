"""Functions of a program back in the controls system's format, so that an operator can load them.

The files are those that `memrl_ctrl.program.controls` reads: a first line that names the device for
each column, `X,Y` below, then breakpoints in ms and gauss, volt or degrees. Every number is written so
that it reads back bit for bit, with the shortest digits that do, as the controls system writes them:
what was imported is exported digit by digit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program.controls_files import EXAMPLE, of_ring, role_of
from memrl_ctrl.program.cycle import FUNCTIONS, CycleProgram, check_device
from memrl_ctrl.program.functions import PiecewiseLinear, negated
from memrl_ctrl.program.storage import refuse_broken_limits, write_texts
from memrl_ctrl.program.units import EXPORT_UNIT, find_unit, function_name, short_name, written

FILE_OF = {"b_field_t": "B.csv", "v1_v": "V1A.csv", "v2_v": "V2A.csv", "phi_hw_deg": "V2P.csv"}
"""Files of an export of several functions."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote."""

    files: tuple[Path, ...]
    """The files."""
    notes: tuple[str, ...]
    """Sentences for the user: which function as which device, and what was added to it."""


def export_text(functions: Sequence[tuple[str, str, PiecewiseLinear]]) -> str:
    """Return functions as the text of a controls-system CSV, pair of columns by pair of columns.

    Args:
        functions: name (`phi_hw_deg`, …), device and function in the project's units, for each pair.

    Raises:
        ValueError: a device that cannot stand in a header.
    """
    columns: list[list[str]] = []
    for name, device, function in functions:
        check_device(name, device)
        unit = find_unit(name, EXPORT_UNIT[name])
        times = written(function.ctime_ms, find_unit("ctime", EXPORT_UNIT["ctime"]))
        columns += [[device, "X", *times], [device, "Y", *written(function.value, unit)]]
    rows = max(map(len, columns))
    padded = [column + [""] * (rows - len(column)) for column in columns]
    return "".join(",".join(cells) + "\n" for cells in zip(*padded, strict=True))


def export_program(
    program: CycleProgram,
    out: str | Path,
    *,
    functions: Sequence[str] | None = None,
    devices: Mapping[str, str] | None = None,
    ring: int | None = None,
    force: bool = False,
) -> Exported:
    """Write functions of a program as the controls system exports and loads them.

    Args:
        program: the program; it must keep its machine's limits.
        out: a file that ends in .csv, with the functions side by side in it; or a folder, with one
            file for each (`B.csv`, `V1A.csv`, `V2A.csv`, `V2P.csv`), which `import` reads again.
        functions: names of the functions, with or without unit; None takes phi_hw for a file and all
            for a folder.
        devices: device/property#field by function; None takes those of the program (an imported one
            knows them).
        ring: ring whose devices are written: the same devices in that ring, or the PSB's where
            neither `devices` nor the program has one.
        force: replace files that exist.

    Raises:
        ProgramError: the program breaks a limit, a file exists, or nothing can be written there.
        UsageError: no such function, a function without device, or a device of another function.
    """
    out = Path(out)
    single = out.suffix.lower() == ".csv"
    names = [function_name(name) for name in functions or (["phi_hw"] if single else FUNCTIONS)]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"function {short_name(name)} is named twice; name it once")
    for name in set(devices or {}) - set(names):
        short = short_name(name)
        raise UsageError(
            f"device {(devices or {})[name]} plays {short}, which is not exported; add --function {short}"
        )
    refuse_broken_limits(program, program.path or Path(program.name))
    if not single and out.suffix:
        raise UsageError(f"{out} is no name for an export; expected a .csv file or a folder")
    if out.is_dir() and single:
        raise ProgramError(out, "is a folder; expected a file to be written")
    pairs, notes = [], []
    for name in names:
        device = _device(program, name, (devices or {}).get(name), ring)
        function, added = _playable(name, getattr(program, name), program)
        if name == "phi_hw_deg" and program.phase_sign < 0:
            function = negated(function)
        pairs.append((name, device, function))
        notes += [f"{short_name(name)}: as {device}, {function.ctime_ms.size} breakpoints", *added]
    if single:
        texts = {out: export_text(pairs)}
    else:
        texts = {out / FILE_OF[pair[0]]: export_text([pair]) for pair in pairs}
    write_texts(texts, force=force)
    return Exported(files=tuple(texts), notes=tuple(notes))


def parse_devices(texts: Sequence[str], functions: Sequence[str]) -> dict[str, str]:
    """Read `phi_hw=BA3.FGPRFH2/Settings#amplitudes`, or the device alone: function to device.

    A device alone is that of the function that its name tells, otherwise of the only one in
    `functions`.

    Raises:
        UsageError: it is not known whose device it is, or one function has two.
    """
    devices: dict[str, str] = {}
    for text in texts:
        name, equals, device = text.partition("=")
        if equals:
            role = function_name(name)
        else:
            device = text
            role = role_of(device, "")
            if not role and len(functions) == 1:
                role = function_name(functions[0])
            if not role:
                raise UsageError(
                    f"device {text!r} does not tell which function it plays; give FUNCTION=DEVICE, "
                    f"for example phi_hw={EXAMPLE['phi_hw_deg'][1]}"
                )
        if role in devices:
            raise UsageError(f"{short_name(role)} is given two devices; give one")
        try:
            check_device(role, device)
        except ValueError as error:
            raise UsageError(str(error)) from error
        devices[role] = device
    return devices


def _device(program: CycleProgram, name: str, given: str | None, ring: int | None) -> str:
    """Return the device that a function is written for."""
    short = short_name(name)
    device = given or program.devices.get(name)
    if device is None and (ring is not None or name == "b_field_t"):
        device = EXAMPLE[name][1]
    if device is None:
        raise UsageError(
            f"program {program.name} does not say which device plays {short}; give --device "
            f"{short}={EXAMPLE[name][1]} (or yours), or --ring N for the PSB's devices"
        )
    if ring is not None and given is None:
        if not 1 <= ring <= 9:
            raise UsageError(f"ring {ring} does not exist; expected 1 to 9")
        device = of_ring(device, ring)
    # The name of the file decides where the device's does not; a device of something else is a slip.
    played = role_of(device, Path(FILE_OF[name]).stem)
    if played != name:
        what = f"the {EXAMPLE[played][0]}" if played else f"no {EXAMPLE[name][0]}"
        raise UsageError(
            f"device {device} is {what}, not that of {short}; expected one like {EXAMPLE[name][1]}"
        )
    return device


def _playable(
    name: str, function: PiecewiseLinear, program: CycleProgram
) -> tuple[PiecewiseLinear, list[str]]:
    """Add what a function that holds leaves unsaid: its breakpoints alone must tell the beam's part.

    A phase that ends before extraction stays as it is: function generators hold it, and so does the
    import.
    """
    low, high = program.beam_ms
    time, value = function.ctime_ms, function.value
    notes = []
    if time[0] > low:
        time, value = np.r_[low, time], np.r_[value[0], value]
        notes.append(f"{short_name(name)}: a breakpoint at injection ({low:g} ms) was added")
    if time[-1] < high and (name != "phi_hw_deg" or time[-1] <= low):
        time, value = np.r_[time, high], np.r_[value, value[-1]]
        notes.append(f"{short_name(name)}: a breakpoint at extraction ({high:g} ms) was added")
    return PiecewiseLinear(ctime_ms=time, value=value), notes
