"""`memrl-ctrl program`: list, check, draw, import, export and edit cycle programs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, Token
from rich.markup import escape
from rich.table import Table

from memrl_ctrl.cli.program_optimum import optimum
from memrl_ctrl.cli.values import OutputFile, real
from memrl_ctrl.errors import MemrlError, MissingExtraError, ProgramError, UsageError
from memrl_ctrl.outputs import output_file
from memrl_ctrl.program import (
    CycleProgram,
    MachineWarning,
    RangeCheck,
    available_machines,
    available_programs,
    check_ranges,
    import_controls_export,
    load_machine,
    load_program,
    save_program,
)
from memrl_ctrl.program.controls_export import export_program, parse_devices
from memrl_ctrl.program.edit import Edit, edit_program, parse_edit
from memrl_ctrl.program.edit_syntax import EXAMPLES
from memrl_ctrl.program.units import UNITS, parse_units, short_name
from memrl_ctrl.terminal import Terminal

Repeated = Parameter(negative="", show_default=False)
"""An option that may be given several times."""

app = App(name="program", help="List, check, draw, import, export and edit cycle programs.")
app.command(optimum)


@app.command(name="list")
def list_() -> None:
    """List the programs and machines that can be used by name.

    Those of one's own are found too, where the environment variable MEMRL_PROGRAMS names their folder.
    """
    console = Terminal()
    programs = Table("program", "machine", "what", box=None, pad_edge=False)
    for name in sorted(available_programs()):
        programs.add_row(name, *_program_words(name))
    machines = Table("machine", "what", box=None, pad_edge=False)
    for name in sorted(available_machines()):
        machines.add_row(name, _machine_words(name))
    console.print(programs)
    console.print()
    console.print(machines)


@app.command(name="import")
def import_(
    directory: Path,
    /,
    *,
    out: Path,
    name: str | None = None,
    machine: str = "psb",
    version: Annotated[tuple[str, ...], Repeated] = (),
    ring: int | None = None,
    field: Path | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    phase_deg: float | None = None,
    unit: Annotated[tuple[str, ...], Repeated] = (),
    phase_sign: int = 1,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Import a controls-system export: field, voltages and phase as CSV (the field also as .npy).

    Writes a YAML file and one CSV per function beside it; nothing, when anything is wrong.

    Parameters
    ----------
    directory
        Folder with the exported files.
    out
        YAML file to write; its folder is made where it does not exist.
    name
        Name of the program; by default that of the file.
    machine
        Machine that plays it: a name or a file.
    version
        Date of an older version, as in its header (30-11-2024, with the time where needed), for the
        functions that have it; may be repeated. By default the current ones.
    ring
        Ring whose devices are taken, where the export holds several.
    field
        File with the field (.csv of an export, or .npy of shape (2, n)), where it is not in the folder.
    from_
        Program (name or file), or folder of another export, from which the functions are taken that
        this one lacks.
    phase_deg
        Constant phi_hw in degrees, where the export has no phase function.
    unit
        Unit of a function that is not the control system's (ms, gauss, volt, degrees): v1=kV,
        phi_hw=rad, b_field=T, ctime=s. Also settles a doubt: v2=V. May be repeated.
    phase_sign
        -1 where the control system counts the phase of the second harmonic against phi_2; then phi_hw
        is the negative of its function, and exports are turned back.
    force
        Replace files that exist.
    """
    imported = import_controls_export(
        directory,
        name=name or out.stem,
        machine=machine,
        version=version,
        ring=ring,
        phase_deg=phase_deg,
        field_file=field,
        missing_from=from_,
        units=parse_units(unit),
        phase_sign=phase_sign,
    )
    files = save_program(imported.program, out, force=force)
    console = Terminal(highlight=False, soft_wrap=True)
    for note in imported.notes:
        console.print(f"  {escape(note)}")
    console.print(
        f"wrote {escape(str(files[0]))} and {len(files) - 1} functions beside it; "
        f"look at them: memrl-ctrl program plot {escape(str(files[0]))}"
    )


@app.command
def export(
    program: str,
    /,
    *,
    out: Path,
    function: Annotated[tuple[str, ...], Repeated] = (),
    device: Annotated[tuple[str, ...], Repeated] = (),
    ring: int | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Export functions of a program in the controls system's format, so that they can be loaded.

    Nothing is lost: an import of what is written gives the same functions. A program that its machine
    cannot play is refused.

    Parameters
    ----------
    program
        Name or file of a program.
    out
        File that ends in .csv, or a folder for one file per function (B, V1A, V2A and V2P).
    function
        phi_hw, v1, v2 or b_field; may be repeated, and then a file holds them side by side. By default
        phi_hw for a file, all for a folder.
    device
        Device/property#field that plays the function (BA3.FGPRFH2/Settings#amplitudes), with the
        function before it where the name does not tell (phi_hw=MY.DEVICE/S#a); may be repeated. By
        default those that the program was imported from.
    ring
        Write for the devices of this ring instead.
    force
        Replace files that exist.
    """
    loaded = load_program(program)
    names = function or (("phi_hw",) if out.suffix.lower() == ".csv" else ())
    exported = export_program(
        loaded,
        out,
        functions=function or None,
        devices=parse_devices(device, names),
        ring=ring,
        force=force,
    )
    console = Terminal(highlight=False, soft_wrap=True)
    for note in exported.notes:
        console.print(f"  {escape(note)}")
    console.print(f"wrote {escape(', '.join(map(str, exported.files)))}")


def _edits(_: type, tokens: Sequence[Token]) -> tuple[Edit, ...]:
    """Read the edits of a command line, in its order."""
    return tuple(parse_edit((token.keyword or "").lstrip("-"), token.value) for token in tokens)


EditOptions = Parameter(
    name=[f"--{verb}" for verb in EXAMPLES],
    converter=_edits,
    n_tokens=1,
    negative="",
    show_default=False,
)


@app.command(help_format="markdown")
def edit(
    program: str,
    /,
    *,
    out: Path,
    edits: Annotated[tuple[Edit, ...], EditOptions] = (),
    name: str | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write an edited version of a program. Edits are applied in the order in which they are given.

    ```
    --scale    FUNCTION=FACTOR   v2=0.9
    --shift    FUNCTION=AMOUNT   phi_hw=+12deg  v1=-0.5kV  b_field=3G
    --shift    FUNCTION=TIME     v2=+4ms        later
    --smooth   FUNCTION=WIDTH    v1=5ms         moving average
    --insert   FUNCTION=CTIMES   phi_hw=300,350,400
    --resample FUNCTION=STEP     b_field=1ms    evenly spaced
    ```

    FUNCTION is phi_hw, v1, v2 or b_field, or several: `v1,v2=0.9`. All but `--insert` may be restricted to
    a range of ctime in ms: `v2=0.9@600..700`, `phi_hw=+12deg@600..`, `v1=5ms@..400`; outside it they fade
    within 2 ms, or as told: `v2=0.9@600..700~10ms`.

    The result is compared with the machine's limits, and its `source` says what was done.

    Parameters
    ----------
    program
        Name or file of a program.
    out
        YAML file to write; its folder is made where it does not exist.
    edits
        The edits, as above; each may be repeated.
    name
        Name of the new program; by default that of the file.
    force
        Replace files that exist.
    """
    if not edits:
        options = ", ".join(f"--{verb}" for verb in EXAMPLES)
        raise UsageError(f"nothing to edit; give at least one of {options}")
    edited = edit_program(load_program(program, check_limits=False), edits, name=name or out.stem)
    files = save_program(edited.program, out, force=force)
    console = Terminal(highlight=False, soft_wrap=True)
    for change in edited.changes:
        before, after = change.breakpoints
        unit = UNITS[change.function][0].name
        console.print(
            f"  {escape(change.edit.text)}: {short_name(change.function)} changes by at most "
            f"{change.largest:+.6g} {unit} (at ctime {change.largest_ctime_ms:g} ms), breakpoints "
            f"{before} to {after}"
        )
    console.print(
        f"wrote {escape(str(files[0]))} and {len(files) - 1} functions beside it; machine "
        f"{edited.program.machine.name} can play it"
    )


@app.command
def check(program: str, /) -> int:
    """Compare a program with its machine's hardware limits, between injection and extraction.

    Notes say what looks wrong but breaks no limit: an impedance whose phase does not fit. Ends with
    exit code 3 where a limit is broken.

    Parameters
    ----------
    program
        Name or file of a program.
    """
    with _notes_are_shown():
        loaded = load_program(program, check_limits=False)
    checks = check_ranges(loaded)
    console = Terminal(highlight=False)
    low, high = loaded.beam_ms
    console.print(
        f"{loaded.name} on machine {loaded.machine.name}: {loaded.control_points_ms.size} control "
        f"points, ctime {low:g} to {high:g} ms",
        soft_wrap=True,
    )
    console.print(_table(checks))
    for note in loaded.machine.notes:
        console.print(f"note: {escape(note)}", style="yellow", soft_wrap=True)
    broken = [check.sentence for check in checks if not check.ok]
    for sentence in broken:
        console.print(f"broken: {sentence}", style="red", soft_wrap=True)
    if broken:
        console.print(
            f"machine {loaded.machine.name} cannot play {loaded.name}", style="red", soft_wrap=True
        )
        return ProgramError.exit_code
    console.print(f"machine {loaded.machine.name} can play {loaded.name}", soft_wrap=True)
    return 0


@app.command
def plot(
    program: str,
    /,
    *,
    out: Annotated[OutputFile | None, Parameter(name=["--out", "-o"])] = None,
    optimum: Annotated[bool, Parameter(negative="")] = False,
    intensity: Annotated[float | None, real(0.0, 1e16)] = None,
    filling: Annotated[float | None, real(0.0, above=True)] = None,
) -> None:
    """Draw a program: field and ramp, voltages, phi_hw and synchronous phase over ctime.

    Parameters
    ----------
    program
        Name or file of a program.
    out
        PNG file to write; by default the program's name in the working folder.
    optimum
        Draw the optimum of phi_2 beside phi_hw (more of it: memrl-ctrl program optimum).
    intensity
        Protons in the ring, for the optimum.
    filling
        Emittance as a fraction of the cycle's smallest bucket, for the optimum; by default 0.7.
    """
    if optimum and intensity is None:
        raise UsageError("plot --optimum needs --intensity, the protons in the ring")
    if not optimum and (intensity is not None or filling is not None):
        raise UsageError("--intensity and --filling are those of the optimum; add --optimum")
    loaded = load_program(program, check_limits=False)
    path = out or Path(f"{loaded.name}.png")
    try:
        from memrl_ctrl.program.plot import draw
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise MissingExtraError("program plot", "matplotlib", "plot") from error
    found = None
    if optimum and intensity is not None:
        from memrl_ctrl.program.optimum import cycle_optimum

        found = cycle_optimum(loaded, intensity=intensity, filling=filling)
    with output_file(path) as partial:
        draw(loaded, partial, found)
    Terminal(highlight=False, soft_wrap=True).print(f"wrote {escape(str(path))}")


@contextmanager
def _notes_are_shown() -> Iterator[None]:
    """A machine's notes are printed with the answer: they are not warned of as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MachineWarning)
        yield


def _table(checks: list[RangeCheck]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("quantity")
    table.add_column("lowest", justify="right")
    table.add_column("at ms", justify="right")
    table.add_column("highest", justify="right")
    table.add_column("at ms", justify="right")
    table.add_column("allowed", justify="right")
    table.add_column("unit")
    table.add_column("")
    for check in checks:
        table.add_row(
            check.quantity,
            f"{check.lowest:.5g}",
            f"{check.lowest_ctime_ms:.1f}",
            f"{check.highest:.5g}",
            f"{check.highest_ctime_ms:.1f}",
            f"{check.allowed[0]:g} to {check.allowed[1]:g}",
            check.unit,
            "ok" if check.ok else "[red]broken[/red]",
        )
    return table


def _program_words(name: str) -> tuple[str, str]:
    try:
        program: CycleProgram = load_program(name, check_limits=False)
    except MemrlError as error:
        return "", f"[red]{escape(str(error))}[/red]"
    return program.machine.name, escape(_first_sentence(program.description))


def _machine_words(name: str) -> str:
    try:
        return escape(_first_sentence(load_machine(name).description))
    except MemrlError as error:
        return f"[red]{escape(str(error))}[/red]"


def _first_sentence(text: str) -> str:
    sentence, dot, _ = " ".join(text.split()).partition(". ")
    return sentence.rstrip(".") if dot or sentence.endswith(".") else sentence
