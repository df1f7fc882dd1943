"""Import of a controls-system export: CSV files of function breakpoints, as operators save them.

```
BA3.FGVRFH1/Settings#amplitudes,BA3.FGVRFH1/Settings#amplitudes     device/property#field, per column
X,Y                                                                 repeated per pair
275.0,4072.5                                                        ctime [ms], value
```

A file may hold several X,Y pairs: older versions carry their date behind the name (the undated pair is
current), other rings' devices another name. Columns of different length leave empty cells. The field
comes in gauss, as CSV or as .npy of shape (2, n); voltages in volt; phases in degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program.controls_files import EXAMPLE, ROLES, Pair, read_export
from memrl_ctrl.program.cycle import CycleProgram
from memrl_ctrl.program.functions import Beyond, PiecewiseLinear
from memrl_ctrl.program.machine import MachineFile
from memrl_ctrl.program.machine_reader import NAME
from memrl_ctrl.program.storage import load_machine, refuse_broken_limits

GAUSS_PER_TESLA_EXPONENT = 4
_LARGEST_TESLA = 20.0
"""A PSB-like field never exceeds this in tesla and always does in gauss."""


@dataclass(frozen=True, kw_only=True)
class ImportedProgram:
    """A program from an export, and what was decided on the way."""

    program: CycleProgram
    """The program, within its machine's limits."""
    notes: tuple[str, ...]
    """Sentences for the user: which device, version and assumption was taken."""


def import_controls_export(
    directory: str | Path,
    *,
    name: str | None = None,
    machine: MachineFile | str | Path = "psb",
    version: str | None = None,
    ring: int | None = None,
    phase_deg: float | None = None,
) -> ImportedProgram:
    """Read an export of field, voltages and phase.

    What a pair of columns is follows from its device: `…/B` the field, `…FGVRFH1` and `…FGVRFH2` the
    voltages, `…FGPRFH2` the phase. Only where the device does not say it, the file's name does.

    Args:
        directory: folder with the files.
        name: name of the program; None takes the folder's.
        machine: the machine, or its name or file.
        version: date of older versions, where there are some (`30-11-2024`, or with the time); None
            takes the current ones.
        ring: ring whose devices are taken, where there are several.
        phase_deg: constant phi_hw where the export has no phase function; None refuses it.

    Raises:
        ProgramError: a file is wrong, missing, ambiguous, or breaks a limit of the machine; names
            file, line and what was expected.
        UsageError: an option that does not fit the export.
    """
    folder = Path(directory)
    if not isinstance(machine, MachineFile):
        machine = load_machine(machine)
    pairs, notes = read_export(folder)
    pairs, ring_note = _of_ring(folder, pairs, ring)
    notes += ring_note
    functions: dict[str, PiecewiseLinear] = {}
    chosen = []
    versioned = _check_version(pairs, version)
    for role in ROLES:
        candidates = [pair for pair in pairs if pair.role == role]
        if not candidates and role == "phi_hw_deg" and phase_deg is not None:
            functions[role] = _constant(phase_deg, machine)
            notes.append(f"phi_hw: no phase function in the export; constant {phase_deg:g} degrees")
            continue
        if not candidates:
            raise _missing(folder, role, pairs)
        pair = _of_version(candidates, version if role in versioned else None)
        functions[role], note = _function(pair, machine)
        notes += [f"{role}: {pair.title} from {pair.path.name}", *note]
        chosen.append(pair)
    if phase_deg is not None and "phi_hw_deg" in {pair.role for pair in chosen}:
        notes.append("phi_hw_deg: the constant phase was not needed; the export has a function")
    program = CycleProgram(
        name=name or _name_of(folder),
        machine=machine,
        b_field_t=functions["b_field_t"],
        v1_v=functions["v1_v"],
        v2_v=functions["v2_v"],
        phi_hw_deg=functions["phi_hw_deg"],
        description=f"Imported from the controls-system export {folder.resolve().name}",
        source="; ".join(f"{pair.path.name}: {pair.title}" for pair in chosen),
    )
    if not NAME.fullmatch(program.name):
        raise UsageError(
            f"the program cannot be named {program.name!r}; give a name of letters, digits, '.', '_' "
            "and '-'"
        )
    refuse_broken_limits(program, folder)
    return ImportedProgram(program=program, notes=tuple(notes))


def _name_of(folder: Path) -> str:
    raw = folder.resolve().name
    return (
        "".join(c if NAME.fullmatch("a" + c) else "-" for c in raw).lstrip("-._")[:64] or "imported"
    )


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
        elif all(len({p.ring for p in pairs if p.role == role}) == 1 for role in ROLES[1:]):
            devices = ", ".join(sorted({p.device for p in pairs if p.ring is not None}))
            return pairs, [f"the functions are of different rings: {devices}"]
        else:
            raise ProgramError(
                folder,
                f"holds devices of the rings {', '.join(map(str, rings))}; choose with --ring",
            )
    kept = [pair for pair in pairs if pair.ring is None or ring is None or pair.ring == ring]
    return kept, [f"ring {ring}"] if ring is not None else []


def _check_version(pairs: Sequence[Pair], version: str | None) -> set[str]:
    """Return the roles that have the version asked for."""
    if version is None:
        return set()
    roles = {pair.role for pair in pairs if pair.matches(version)}
    if not roles:
        dates = sorted({pair.date for pair in pairs if pair.date})
        have = (
            f"older versions there: {', '.join(dates)}" if dates else "there are only current ones"
        )
        raise UsageError(f"no function has a version {version!r}; {have}")
    return roles


def _of_version(candidates: list[Pair], version: str | None) -> Pair:
    """Return the one pair of a role that is meant."""
    matching = [pair for pair in candidates if version is not None and pair.matches(version)]
    if version is None:
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


def _missing(folder: Path, role: str, pairs: Sequence[Pair]) -> ProgramError:
    what, device = EXAMPLE[role]
    have = ", ".join(sorted({f"{pair.path.name} ({pair.device})" for pair in pairs})) or "nothing"
    hint = "; or give --phase-deg for a constant one" if role == "phi_hw_deg" else ""
    return ProgramError(
        folder, f"holds no {what} (a file whose first line names a device like {device}); "
        f"recognised: {have}{hint}"
    )  # fmt: skip


def _constant(value_deg: float, machine: MachineFile) -> PiecewiseLinear:
    if not np.isfinite(value_deg):
        raise UsageError(f"the constant phase is {value_deg}; expected degrees")
    times = np.array([0.0, max(1e3 * machine.period_s, machine.extraction_ctime_ms)])
    return PiecewiseLinear(ctime_ms=times, value=np.full(2, float(value_deg)))


def _function(pair: Pair, machine: MachineFile) -> tuple[PiecewiseLinear, list[str]]:
    """Turn a pair into a function in the project's units."""
    low, high = machine.injection_ctime_ms, machine.extraction_ctime_ms
    time, value = pair.ctime_ms, pair.value
    notes = []
    beyond: Beyond = "refuse"
    if pair.role == "phi_hw_deg" and time[0] <= low < time[-1] < high:
        # A function generator holds its last value; operators cut the tail of a phase function.
        beyond = "hold"
        notes = [
            f"phi_hw_deg: ends at ctime {time[-1]:g} ms, before extraction at {high:g} ms; its last "
            f"value of {value[-1]:g} degrees is held"
        ]
    elif time[0] > low or time[-1] < high:
        raise ProgramError(
            pair.path,
            f"{pair.title} covers ctime {time[0]:g} to {time[-1]:g} ms; expected at least "
            f"{low:g} to {high:g} ms (injection to extraction of machine {machine.name})",
            line=pair.lines[-1] if pair.lines else None,
        )
    if pair.role == "b_field_t":
        if not np.max(np.abs(value)) > _LARGEST_TESLA:
            raise ProgramError(
                pair.path,
                f"the largest field is {np.max(value):g}; expected gauss (2320 to 11350 in the PSB), "
                "these may be tesla",
                line=pair.header_line,
            )
        # Decimal arithmetic: 4124.449 G is 0.4124449 T and turns back into exactly 4124.449 G.
        value = np.array(
            [float(Decimal(repr(v)).scaleb(-GAUSS_PER_TESLA_EXPONENT)) for v in value.tolist()]
        )
    return PiecewiseLinear(ctime_ms=time, value=value, beyond=beyond), notes
