"""Reading and writing program files: one YAML file, its functions as CSV beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.outputs import check_output_folder
from memrl_ctrl.program import library, yaml_text
from memrl_ctrl.program.controls_files import NO_PICKLES, PICKLES
from memrl_ctrl.program.cycle import (
    B_DOT_WINDOW_MS,
    FUNCTIONS,
    WINDOW_RANGE_MS,
    CycleProgram,
    check_device,
)
from memrl_ctrl.program.document import Item, open_document, relative
from memrl_ctrl.program.functions import Beyond, PiecewiseLinear
from memrl_ctrl.program.machine import MachineFile
from memrl_ctrl.program.machine_reader import (
    FORMAT,
    NAME,
    check_kind,
    read_machine,
    read_name,
)
from memrl_ctrl.program.ranges import check_ranges
from memrl_ctrl.program.table import TIME, format_columns, read_columns

EXPECTED = "a program file (YAML, see docs/programs.md)"


def load_machine(path_or_name: str | Path) -> MachineFile:
    """Read a machine by the path of its file or by its name.

    Raises:
        ProgramError: the file is wrong; names file, line and what was expected.
        UnknownNameError: no machine has that name; lists those that exist.
    """
    return read_machine(library.find("machine", path_or_name))


def load_program(
    path_or_name: str | Path, *, check_limits: bool = True, by_name: bool = False
) -> CycleProgram:
    """Read a cycle program, with its machine, by the path of its file or by its name.

    Args:
        path_or_name: `psb-2gev`, or the path of a YAML file.
        check_limits: refuse a program that its machine cannot play; False leaves that to
            `check_ranges`.
        by_name: it is a name, whatever it looks like: what a machine or a trace says opens no file.

    Raises:
        ProgramError: a file is wrong, or the program breaks a limit of its machine; names file,
            line and what was expected.
        UnknownNameError: no program has that name; lists those that exist.
    """
    program = read_program(library.find("program", path_or_name, by_name=by_name))
    if check_limits:
        refuse_broken_limits(program, program.path or Path(program.name))
    return program


def refuse_broken_limits(program: CycleProgram, path: Path) -> None:
    """Refuse a program that its machine cannot play; `path` is the file to be named."""
    sentences = [check.sentence for check in check_ranges(program) if not check.ok]
    if sentences:
        more = f" (and {len(sentences) - 1} more; see 'program check')" if sentences[1:] else ""
        raise ProgramError(path, f"{sentences[0]}{more}")


def read_program(path: Path) -> CycleProgram:
    """Read a program file without comparing it to the machine's limits.

    Raises:
        ProgramError: with file, line and what was expected.
    """
    if path.suffix.lower() in PICKLES:
        raise ProgramError(path, f"{NO_PICKLES}; expected {EXPECTED}")
    if path.is_dir() or path.suffix.lower() in (".csv", ".npy"):
        what = "is a folder" if path.is_dir() else "is no program"
        raise ProgramError(
            path, f"{what}; expected {EXPECTED}; a controls-system export becomes one by 'memrl-ctrl "
            "program import FOLDER --out my.yaml'"
        )  # fmt: skip
    root = open_document(path, EXPECTED)
    check_kind(root, "program")
    machine = _machine(root.need("machine"))
    functions = root.need("functions").section()
    read = {name: _function(functions.need(name), name, machine) for name in FUNCTIONS}
    functions.done()
    listed = root.get("control_points_ms")
    window = root.get("b_dot_window_ms")
    description, source = root.get("description"), root.get("source")
    devices = _devices(root.get("devices"))
    sign = root.get("phase_sign")
    name = read_name(root)
    root.done()
    low, high = WINDOW_RANGE_MS
    try:
        return CycleProgram(
            name=name,
            machine=machine,
            b_field_t=read["b_field_t"],
            v1_v=read["v1_v"],
            v2_v=read["v2_v"],
            phi_hw_deg=read["phi_hw_deg"],
            listed_points_ms=tuple(listed.numbers()) if listed else None,
            b_dot_window_ms=window.number(least=low, most=high) if window else B_DOT_WINDOW_MS,
            description=description.text() if description else "",
            source=source.text() if source else "",
            devices=devices,
            phase_sign=_sign(sign) if sign else 1,
            path=path,
        )
    except ValueError as error:
        if listed:
            raise listed.error(str(error)) from error
        raise ProgramError(path, str(error)) from error


def save_program(program: CycleProgram, out: str | Path, *, force: bool = False) -> list[Path]:
    """Write a program as YAML, its functions as CSV beside it; every number reads back bit for bit.

    All files are written under other names first and then renamed, the YAML last: a failure leaves
    what was there. A folder that does not exist is made.

    Args:
        program: what to write; it must keep its machine's limits.
        out: the YAML file; functions become `STEM-<function>.csv` in the same folder.
        force: replace files that exist.

    Returns:
        The files, the YAML first.

    Raises:
        ProgramError: the program breaks a limit, a file exists, or the folder cannot be written.
    """
    out = Path(out)
    if out.suffix not in (".yaml", ".yml"):
        raise ProgramError(out, "expected a name that ends in .yaml")
    refuse_broken_limits(program, out)
    texts: dict[Path, str] = {}
    for name in FUNCTIONS:
        function: PiecewiseLinear = getattr(program, name)
        columns = {TIME: function.ctime_ms, name: function.value}
        texts[out.with_name(f"{out.stem}-{name}.csv")] = format_columns(columns)
    texts[out] = _document(program, out)
    write_texts(texts, force=force)
    return [out, *(path for path in texts if path != out)]


def _machine(item: Item) -> MachineFile:
    try:
        path = library.find("machine", item.text(), base=item.path.parent)
    except UsageError as error:
        raise item.error(str(error)) from error
    return read_machine(path)


def _sign(item: Item) -> int:
    value = item.number(least=-1.0, most=1.0)
    if value not in (1.0, -1.0):
        raise item.error(f"is {value:g}; expected 1, or -1 where the phase counts against phi_2")
    return int(value)


def _devices(item: Item | None) -> dict[str, str]:
    if item is None:
        return {}
    section = item.section()
    found = {name: section.get(name) for name in FUNCTIONS}
    section.done()
    devices = {}
    for name, device in found.items():
        if device is not None:
            devices[name] = device.text()
            try:
                check_device(name, devices[name])
            except ValueError as error:
                raise device.error(str(error)) from error
    return devices


def _function(item: Item, name: str, machine: MachineFile) -> PiecewiseLinear:
    beyond: Beyond = "refuse"
    if item.scalar:
        path = relative(item)
    else:
        section = item.section()
        path = relative(section.need("csv"))
        beyond = "hold" if section.need("beyond").choice("refuse", "hold") == "hold" else "refuse"
        section.done()
    columns = read_columns(path, (TIME, name), (TIME, *FUNCTIONS), increasing=TIME)
    function = PiecewiseLinear(ctime_ms=columns[TIME], value=columns[name], beyond=beyond)
    low, high = machine.injection_ctime_ms, machine.extraction_ctime_ms
    if function.start_ms > low or function.end_ms < high:
        raise ProgramError(
            path,
            f"covers ctime {function.start_ms:g} to {function.end_ms:g} ms; expected at least "
            f"{low:g} to {high:g} ms (injection to extraction of machine {machine.name})",
        )
    return function


def _document(program: CycleProgram, out: Path) -> str:
    if not NAME.fullmatch(program.name):
        raise ProgramError(
            out, f"the name {program.name!r} is not allowed; use letters, digits, '.', '_' and '-'"
        )
    fields: dict[str, Any] = {
        "kind": "program",
        "format": FORMAT,
        "name": program.name,
        "machine": _machine_reference(program.machine, out),
        "description": program.description,
        "source": program.source,
        "b_dot_window_ms": program.b_dot_window_ms,
    }
    if program.listed_points_ms is not None:
        fields["control_points_ms"] = [float(ctime) for ctime in program.listed_points_ms]
    functions: dict[str, Any] = {}
    for name in FUNCTIONS:
        csv = f"{out.stem}-{name}.csv"
        hold = getattr(program, name).beyond == "hold"
        functions[name] = {"csv": csv, "beyond": "hold"} if hold else csv
    fields["functions"] = functions
    if program.devices:
        fields["devices"] = {n: program.devices[n] for n in FUNCTIONS if n in program.devices}
    if program.phase_sign != 1:
        fields["phase_sign"] = program.phase_sign
    return yaml_text.dump(fields)


def _machine_reference(machine: MachineFile, out: Path) -> str:
    """Return what finds the machine again from the folder of `out`: its name, or a path."""
    name = library.name_of("machine", machine.path)
    if name is not None:
        return name
    if machine.path is None:
        raise ProgramError(out, f"machine {machine.name!r} was not read from a file; save it first")
    relative_path = os.path.relpath(machine.path.resolve(), out.parent.resolve())
    return relative_path if os.sep in relative_path else os.path.join(".", relative_path)


def write_texts(texts: Mapping[Path, str], *, force: bool) -> None:
    """Write files, all of one folder, whole or not at all; a folder that does not exist is made.

    They are written under other names first and then renamed, in their order.

    Raises:
        ProgramError: a file exists and `force` is not given, or it cannot be written.
        FileError: nothing can be written in the folder.
    """
    for path in reversed(list(texts)):
        if path.exists() and not (force and path.is_file()):
            raise ProgramError(path, "exists; choose another name, or give --force to replace it")
    last = list(texts)[-1]
    check_output_folder(last.parent)
    try:
        last.parent.mkdir(parents=True, exist_ok=True)
        _write_all(texts)
    except OSError as error:
        raise ProgramError(last, f"cannot be written: {error.strerror}") from error


def _write_all(texts: Mapping[Path, str]) -> None:
    temporary = {path.with_name(f".{path.name}.{os.getpid()}.tmp"): path for path in texts}
    try:
        for name, path in temporary.items():
            with name.open("x", encoding="utf-8", newline="") as file:
                file.write(texts[path])
                file.flush()
                os.fsync(file.fileno())
        for name, path in temporary.items():
            name.replace(path)
    finally:
        for name in temporary:
            name.unlink(missing_ok=True)
