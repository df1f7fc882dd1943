"""Scenario files: which machine, what is imperfect about it, and what goes wrong when.

A file has the sections `machine`, `beam`, `rf` and `measurement`, whose fields are options of the
simulation by the same names (`memrl_backends.blond.open_backend` says what each means), `timing`, and
the list `faults`. docs/scenarios.md describes all of it. Files are found by path, or by name in
the folder that ships with memrl-ctrl.
"""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from memrl_backends.twin.faults import KINDS, Fault
from memrl_ctrl.errors import FileError, UnknownNameError, UsageError
from memrl_ctrl.program.document import Item, Section, open_document, relative, suggestion

EXPECTED = "a scenario (docs/scenarios.md)"
LONGEST_PERIOD_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a scenario file says."""

    name: str = ""
    """The file's name without its ending; empty where there is no file."""
    description: str = ""
    """One sentence for lists."""
    path: Path | None = None
    """The file."""
    seed: int | None = None
    """Of everything that is drawn; None takes one from the operating system."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the simulation."""
    period_s: float | None = None
    """Time between cycles, s; None is the machine's own."""
    reading_at_s: float = 0.0
    """When in a cycle its reading comes, s after its beginning; 0: as soon as it is there."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong, in the order in which it happens within a cycle."""


def available() -> dict[str, Path]:
    """Return the shipped scenarios: name to file."""
    folder = Path(str(files("memrl_backends.twin") / "scenarios"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(path_or_name: str | Path) -> Path:
    """Return the file that a path or a name stands for.

    A `Path`, a text that ends in .yaml or .yml, and one with a folder in it are paths; all else are
    names of shipped scenarios.

    Raises:
        UnknownNameError: no scenario of that name.
    """
    text = str(path_or_name)
    if isinstance(path_or_name, Path) or text.endswith((".yaml", ".yml")) or os.sep in text:
        return Path(path_or_name)
    known = available()
    if text not in known:
        raise UnknownNameError("scenario", text, known)
    return known[text]


def load_scenario(path_or_name: str | Path) -> Scenario:
    """Read a scenario by its name or from a file.

    Raises:
        UnknownNameError: no scenario of that name.
        FileError: the file cannot be read, or something in it is wrong: with line, field, what is
            allowed, and the nearest name.
    """
    path = find(path_or_name)
    return _load(path, ())


def _load(path: Path, under: tuple[Path, ...]) -> Scenario:
    """Read a scenario; `under` are the files that build on it."""
    root = open_document(path, EXPECTED)
    root.need("kind").choice("scenario")
    base = Scenario()
    if (like := root.get("like")) is not None:
        base = _base(like, (*under, path.resolve()))
    description, seed, timing = root.get("description"), root.get("seed"), root.get("timing")
    options: dict[str, Any] = dict(base.options)
    for name, readers in SECTIONS.items():
        if (item := root.get(name)) is not None:
            options.update(_options(item.section(), readers))
    listed = root.get("faults")
    own = () if listed is None else tuple(_fault(item.section()) for item in listed.items())
    period_s, reading_at_s = base.period_s, base.reading_at_s
    if timing is not None:
        period_s, reading_at_s = _timing(timing.section())
    scenario = Scenario(
        name=path.stem,
        description="" if description is None else " ".join(description.text().split()),
        path=path,
        seed=base.seed if seed is None else seed.whole(least=0, most=2**32 - 1),
        options=options,
        period_s=period_s,
        reading_at_s=reading_at_s,
        faults=(*base.faults, *own),
    )
    root.done()
    return scenario


def _base(item: Item, under: tuple[Path, ...]) -> Scenario:
    """Read the scenario that a file begins with."""
    try:
        path = find(_file_or_name(item))
    except UnknownNameError as error:
        raise item.error(str(error)) from error
    if path.resolve() in under:
        raise item.error(f"{item.text()!r} builds on this file, which builds on it")
    return _load(path, under)


# Sections

Reader = Callable[[Item], Any]


def _number(item: Item) -> float:
    return item.number()


def _count(item: Item) -> int:
    return item.whole(least=1, most=10**9)


def _text(item: Item) -> str:
    return item.text()


def _truth(item: Item) -> bool:
    return item.choice("true", "false") == "true"


def _limits(item: Item) -> float | list[float]:
    """A number, or [low, high]."""
    return item.numbers() if item.listed else item.number()


def _filling(item: Item) -> str | float | list[float]:
    """A number, a list, or the name of a preset."""
    if item.listed:
        return item.numbers()
    try:
        return item.number()
    except FileError:
        return item.text()


def _offset(item: Item) -> float | None:
    """Degrees, or `random`."""
    return None if item.scalar and item.text() == "random" else item.number()


def _file_or_name(item: Item) -> str:
    """A file beside the scenario, or a name."""
    text = item.text()
    return str(relative(item)) if text.endswith((".yaml", ".yml")) or os.sep in text else text


def _monitor(item: Item) -> str | dict[str, Any]:
    """A preset's name, or values by name."""
    if item.scalar:
        return item.text()
    section = item.section()
    values: dict[str, Any] = {}
    for name in section:
        value = section.need(name)
        if name == "preset":
            values[name] = value.text()
        elif name == "bits":
            values[name] = value.whole(least=0, most=64)
        else:
            values[name] = _limits(value)
    return values


SECTIONS: dict[str, dict[str, Reader]] = {
    "machine": {
        "program": _file_or_name,
        "points": _count,
        "n_slices": _count,
        "fidelity": _text,
        "macroparticles": _count,
        "stride": _count,
        "phase_loop": _truth,
        "reference": lambda item: str(relative(item)),
    },
    "beam": {
        "intensity": _limits,
        "intensity_scatter": _number,
        "intensity_effects": _truth,
        "emittance_evs": _limits,
        "emittance_scatter": _number,
        "filling": _filling,
    },
    "rf": {
        "offset_deg": _offset,
        "offset_jitter_deg": _number,
        "offset_drift_deg": _number,
        "offset_step_deg": _number,
        "offset_step_chance": _number,
        "v1_error": _limits,
        "v2_error": _limits,
        "phase_resolution_deg": _number,
        "generator_slope_deg_per_ms": _number,
        "settling_cycles": _number,
        "settling_ms": _number,
        "readback_noise_deg": _number,
    },
    "measurement": {"noise": _limits, "monitor": _monitor},
}
"""Fields of each section: options of the simulation, and how each is read."""


def _options(section: Section, readers: dict[str, Reader]) -> dict[str, Any]:
    found = {
        name: reader(item)
        for name, reader in readers.items()
        if (item := section.get(name)) is not None
    }
    section.done()
    return found


def _timing(section: Section) -> tuple[float | None, float]:
    period, reading_at = section.get("period_s"), section.get("reading_at_s")
    section.done()
    period_s = None if period is None else period.number(least=0.0, most=LONGEST_PERIOD_S)
    if reading_at is None:
        return period_s, 0.0
    if not period_s:
        raise reading_at.error("needs period_s above 0 beside it")
    return period_s, reading_at.number(least=0.0, most=period_s)


# Faults


def _fault(section: Section) -> Fault:
    """Read one fault; what its kind does not have is refused."""
    named = section.need("fault")
    kind = KINDS.get(named.text())
    if kind is None:
        raise named.error(
            f"{named.text()!r} is no fault; there is: {', '.join(sorted(KINDS))}"
            f"{suggestion(named.text(), KINDS)}"
        )
    hints = typing.get_type_hints(kind)
    values = {
        each.name: _value(item, hints[each.name])
        for each in dataclasses.fields(kind)
        if (item := section.get(each.name)) is not None
    }
    section.done()
    try:
        return kind(**values)
    except UsageError as error:
        raise section.error(f"{kind.kind}: {error}") from error


def _value(item: Item, kind: Any) -> Any:
    """Read a field by its type: number, whole number, truth value, or whole numbers."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if bool in kinds:
        return _truth(item)
    if float in kinds:
        return item.number()
    if int in kinds:
        return item.whole(least=0, most=10**9)
    each = item.items() if item.listed else [item]
    return tuple(one.whole(least=0, most=10**9) for one in each)


def dump(scenario: Scenario) -> str:
    """Return the options and faults of a scenario as YAML, for people."""
    from memrl_backends.twin.faults import as_values

    values: dict[str, Any] = {"kind": "scenario", "description": scenario.description}
    if scenario.seed is not None:
        values["seed"] = scenario.seed
    timing = {"period_s": scenario.period_s, "reading_at_s": scenario.reading_at_s or None}
    values["timing"] = {name: value for name, value in timing.items() if value is not None}
    for name, readers in SECTIONS.items():
        values[name] = {
            key: "random" if scenario.options[key] is None else scenario.options[key]
            for key in readers
            if key in scenario.options
        }
    values["faults"] = [as_values(fault) for fault in scenario.faults]
    kept = {name: value for name, value in values.items() if value not in ({}, [], "")}
    return yaml.safe_dump(
        kept, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
