"""Import of a controls-system export: CSV files of function breakpoints, as operators save them.

```
BA3.FGVRFH1/Settings#amplitudes,BA3.FGVRFH1/Settings#amplitudes     device/property#field, per column
X,Y                                                                 repeated per pair
275.0,4072.5                                                        ctime [ms], value
```

A file may hold several X,Y pairs: older versions carry their date behind the name (the undated pair is
current), other rings' devices another name. Columns of different length leave empty cells. The field
comes in gauss, as CSV or as .npy of shape (2, n); voltages in volt; phases in degrees. The way back is
`memrl_ctrl.program.controls_export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program import library
from memrl_ctrl.program.controls_files import EXAMPLE, ROLES, Pair, read_export, read_file
from memrl_ctrl.program.controls_function import function_of
from memrl_ctrl.program.cycle import CycleProgram
from memrl_ctrl.program.functions import PiecewiseLinear, negated
from memrl_ctrl.program.machine import MachineFile
from memrl_ctrl.program.machine_reader import NAME
from memrl_ctrl.program.phase_sign import counted_otherwise
from memrl_ctrl.program.storage import load_machine, load_program, refuse_broken_limits
from memrl_ctrl.program.units import Unit, short_name


@dataclass(frozen=True, kw_only=True)
class ImportedProgram:
    """A program from an export, and what was decided on the way."""

    program: CycleProgram
    """The program, within its machine's limits."""
    notes: tuple[str, ...]
    """Sentences for the user: which device, version and assumption was taken."""


@dataclass
class _Draft:
    """What an import has found so far."""

    functions: dict[str, PiecewiseLinear] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    phase_sign: int = 1


def import_controls_export(
    directory: str | Path,
    *,
    name: str | None = None,
    machine: MachineFile | str | Path = "psb",
    version: str | Sequence[str] | None = None,
    ring: int | None = None,
    phase_deg: float | None = None,
    field_file: str | Path | None = None,
    missing_from: str | Path | None = None,
    units: Mapping[str, Unit] | None = None,
    phase_sign: int = 1,
) -> ImportedProgram:
    """Read an export of field, voltages and phase.

    What a pair of columns is follows from its device: `…/B` the field, `…FGVRFH1` and `…FGVRFH2` the
    voltages, `…FGPRFH2` the phase. Only where the device does not say it, the file's name does.

    Args:
        directory: folder with the files.
        name: name of the program; None takes the folder's.
        machine: the machine, or its name or file.
        version: dates of older versions, where there are some (`30-11-2024`, or with the time); a
            function without any of them is taken as it is now, as are all with None.
        ring: ring whose devices are taken, where there are several.
        phase_deg: constant phi_hw where the export has no phase function; None refuses it.
        field_file: a .csv or .npy file that holds the field, before any field of the export.
        missing_from: where the functions that the export lacks are taken from: a program (name or
            file) or the folder of another export.
        units: units of ctime and functions (`units.parse_units`) where they are not those of the
            controls system (ms, gauss, volt, degrees), or where these are doubted but right.
        phase_sign: -1 where the control system counts the phase against phi_2; see `CycleProgram`.

    Raises:
        ProgramError: a file is wrong, missing, ambiguous, or breaks a limit of the machine; names
            file, line and what was expected.
        UsageError: an option that does not fit the export.
    """
    folder = Path(directory)
    if phase_sign not in (1, -1):
        raise UsageError(f"the phase's sign is {phase_sign}; it is 1 or -1")
    if not isinstance(machine, MachineFile):
        machine = load_machine(machine)
    draft = _Draft(phase_sign=phase_sign)
    pairs, draft.notes = read_export(folder)
    if field_file is not None:
        pairs = [pair for pair in pairs if pair.role != "b_field_t"] + _field(Path(field_file))
    lacking = set(ROLES) - {pair.role for pair in pairs}
    if phase_deg is not None and "phi_hw_deg" in lacking:
        lacking.remove("phi_hw_deg")
        draft.functions["phi_hw_deg"] = _constant(phase_deg, machine)
        draft.notes.append(
            f"phi_hw: no phase function in the export; constant {phase_deg:g} degrees"
        )
    elif phase_deg is not None:
        draft.notes.append("phi_hw: the constant phase was not needed; the export has a function")
    if missing_from is not None and lacking:
        pairs += _from_elsewhere(missing_from, lacking, machine, draft)
    elif missing_from is not None:
        draft.notes.append(f"{missing_from} was not needed; the export has every function")
    pairs, ring_note = _of_ring(folder, pairs, ring)
    draft.notes += ring_note
    absent = [role for role in ROLES if role not in draft.functions and not _of_role(pairs, role)]
    if absent:
        raise _missing(folder, absent, pairs)
    versions = [version] if isinstance(version, str) else list(version or ())
    _check_versions(pairs, versions)
    for role in ROLES:
        if role not in draft.functions:
            pair = _of_version(_of_role(pairs, role), versions)
            _take(pair, machine, units or {}, draft)
    program = _program(folder, name, machine, draft)
    return ImportedProgram(program=program, notes=(*draft.notes, *counted_otherwise(program)))


def _program(folder: Path, name: str | None, machine: MachineFile, draft: _Draft) -> CycleProgram:
    raw = folder.resolve().name
    of_folder = "".join(c if NAME.fullmatch("a" + c) else "-" for c in raw).lstrip("-._")[:64]
    name = name or of_folder or "imported"
    if not NAME.fullmatch(name):
        raise UsageError(
            f"the program cannot be named {name!r}; give a name of letters, digits, '.', '_' and '-'"
        )
    program = CycleProgram(
        name=name,
        machine=machine,
        b_field_t=draft.functions["b_field_t"],
        v1_v=draft.functions["v1_v"],
        v2_v=draft.functions["v2_v"],
        phi_hw_deg=draft.functions["phi_hw_deg"],
        description=f"Imported from the controls-system export {raw}",
        source="; ".join(draft.sources),
        devices={role: draft.devices[role] for role in ROLES if role in draft.devices},
        phase_sign=draft.phase_sign,
    )
    refuse_broken_limits(program, folder)
    return program


def _take(pair: Pair, machine: MachineFile, units: Mapping[str, Unit], draft: _Draft) -> None:
    """Add the function of a pair."""
    function, notes = function_of(pair, machine, units)
    if pair.role == "phi_hw_deg" and draft.phase_sign < 0:
        function = negated(function)
        notes = [*notes, "phi_hw: its negative, as the phase counts against phi_2"]
    draft.functions[pair.role] = function
    draft.sources.append(
        f"{pair.path.name}: {pair.title}"
        if pair.device
        else f"{short_name(pair.role)}: {pair.title}"
    )
    draft.notes += [f"{short_name(pair.role)}: {pair.title} from {pair.path}", *notes]
    if pair.device:
        draft.devices[pair.role] = pair.device


def _field(path: Path) -> list[Pair]:
    """Return the field of a file that was named for it."""
    pairs = [pair for pair in read_file(path) if pair.role == "b_field_t"]
    if not pairs:
        what, device = EXAMPLE["b_field_t"]
        raise ProgramError(
            path, f"holds no {what}; expected a first line that names a device like {device}, or a "
            ".npy file"
        )  # fmt: skip
    return pairs


def _from_elsewhere(
    source: str | Path, lacking: set[str], machine: MachineFile, draft: _Draft
) -> list[Pair]:
    """Take the functions that an export lacks from a program, or return them from another export."""
    if Path(source).is_dir():
        pairs = read_export(Path(source))[0]
        return [pair for pair in pairs if pair.role in lacking]
    path = library.find("program", source)
    if path.suffix not in (".yaml", ".yml"):
        raise ProgramError(
            path, "expected a program (name or .yaml file) or the folder of an export; a file that "
            "holds the field alone is given with --field"
        )  # fmt: skip
    program = load_program(source, check_limits=False)
    low, high = machine.injection_ctime_ms, machine.extraction_ctime_ms
    for role in ROLES:
        if role in lacking:
            function: PiecewiseLinear = getattr(program, role)
            if function.start_ms > low or function.end_ms < high:
                raise ProgramError(
                    path,
                    f"{short_name(role)} covers ctime {function.start_ms:g} to {function.end_ms:g} "
                    f"ms; expected at least {low:g} to {high:g} ms (machine {machine.name})",
                )
            draft.functions[role] = function
            if role in program.devices:
                draft.devices[role] = program.devices[role]
            draft.sources.append(f"{short_name(role)}: of program {program.name}")
            draft.notes.append(f"{short_name(role)}: taken from program {program.name}")
    return []


def _of_ring(folder: Path, pairs: list[Pair], ring: int | None) -> tuple[list[Pair], list[str]]:
    """Leave the pairs of one ring (and those of no ring, as the field)."""
    rings = sorted({pair.ring for pair in pairs if pair.ring is not None})
    if ring is not None:
        if ring not in rings:
            have = ", ".join(map(str, rings)) or "none"
            raise UsageError(f"{folder} holds no device of ring {ring}; rings there: {have}")
    elif len(rings) > 1:
        # Only one ring with every function, or one function of each: otherwise it is the user's choice.
        roles = {pair.role for pair in pairs if pair.ring is not None}
        complete = [r for r in rings if {p.role for p in pairs if p.ring == r} >= roles]
        if len(complete) == 1:
            ring = complete[0]
        elif all(len({p.ring for p in _of_role(pairs, role)}) <= 1 for role in ROLES[1:]):
            devices = ", ".join(sorted({p.device for p in pairs if p.ring is not None}))
            return pairs, [f"the functions are of different rings: {devices}"]
        else:
            raise ProgramError(
                folder,
                f"holds devices of the rings {', '.join(map(str, rings))}; choose with --ring",
            )
    kept = [pair for pair in pairs if pair.ring is None or ring is None or pair.ring == ring]
    return kept, [f"ring {ring}"] if ring is not None else []


def _of_role(pairs: Sequence[Pair], role: str) -> list[Pair]:
    return [pair for pair in pairs if pair.role == role]


def _check_versions(pairs: Sequence[Pair], versions: Sequence[str]) -> None:
    """Refuse a version that no function has."""
    for version in versions:
        if not any(pair.matches(version) for pair in pairs):
            dates = sorted({pair.date for pair in pairs if pair.date})
            older = f"older versions there: {', '.join(dates)}"
            have = older if dates else "there are only current ones"
            raise UsageError(f"no function has a version {version!r}; {have}")


def _of_version(candidates: list[Pair], versions: Sequence[str]) -> Pair:
    """Return the one pair of a role that is meant."""
    matching = [pair for pair in candidates if any(map(pair.matches, versions))]
    if not matching:
        matching = [pair for pair in candidates if not pair.date] or candidates
    if len(matching) == 1:
        return matching[0]
    first, other = matching[:2]
    dates = ", ".join(sorted({pair.date for pair in matching if pair.date}))
    if dates:
        problem = f"several versions fit ({dates}); choose with --version DATE and time"
    else:
        problem = f"{other.title} stands in {first.path.name} and in {other.path.name}; keep one"
    raise ProgramError(other.path, problem, line=other.header_line)


def _missing(folder: Path, roles: Sequence[str], pairs: Sequence[Pair]) -> ProgramError:
    words = [f"no {EXAMPLE[role][0]} (a device like {EXAMPLE[role][1]})" for role in roles]
    listed = " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
    there = {
        f"{pair.path.name} ({pair.device})" if pair.device else pair.path.name for pair in pairs
    }
    have = ", ".join(sorted(there)) or "nothing"
    ways = ["--from with a program or the folder of another export that has it"]
    if "b_field_t" in roles:
        ways.insert(0, "--field FILE with the field (.csv or .npy)")
    if "phi_hw_deg" in roles:
        ways.append("--phase-deg X for a constant phase")
    return ProgramError(folder, f"holds {listed}; recognised: {have}; give {', or '.join(ways)}")


def _constant(value_deg: float, machine: MachineFile) -> PiecewiseLinear:
    if not np.isfinite(value_deg):
        raise UsageError(f"the constant phase is {value_deg}; expected degrees")
    times = np.array([0.0, max(1e3 * machine.period_s, machine.extraction_ctime_ms)])
    return PiecewiseLinear(ctime_ms=times, value=np.full(2, float(value_deg)))
