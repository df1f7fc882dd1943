"""Finding machines and programs by name: shipped, of other packages, and one's own folders.

Folders come from the entry points of group `memrl_ctrl.programs` (each a callable that returns a
folder) and from the environment variable `MEMRL_PROGRAMS` (folders separated by `:`), which is
searched first.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from memrl_ctrl import registry
from memrl_ctrl.errors import MemrlError, UnknownNameError, UsageError

ENVIRONMENT = "MEMRL_PROGRAMS"
_KIND = re.compile(rb"^kind:[ \t]*(\w+)", re.MULTILINE)
_HEAD_BYTES = 4096


def folders() -> tuple[list[Path], list[str]]:
    """Return the folders that are searched, and why others are not.

    Returns:
        The folders, first found wins; a sentence for each that is no folder and for each package
        that does not load (it hides no other).
    """
    problems = []
    found = [Path(part) for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]
    for name in sorted(registry.points(registry.PROGRAMS)):
        try:
            found.append(Path(registry.load(registry.PROGRAMS, "programs", name)()))
        except (MemrlError, ImportError, AttributeError) as error:
            problems.append(f"programs of {name!r} cannot be loaded: {error}")
    problems += [f"{folder} is no folder" for folder in found if not folder.is_dir()]
    return [folder for folder in found if folder.is_dir()], problems


def available_machines() -> dict[str, Path]:
    """Return the machines that can be loaded by name: name to file."""
    return _available("machine")


def available_programs() -> dict[str, Path]:
    """Return the programs that can be loaded by name: name to file."""
    return _available("program")


def find(
    kind: str, path_or_name: str | Path, *, base: Path | None = None, by_name: bool = False
) -> Path:
    """Return the file that a path or a name stands for.

    A `Path`, a text that ends in .yaml or .yml, and one with a folder in it are paths; all else are
    names.

    Args:
        kind: `machine` or `program`.
        path_or_name: what was given.
        base: folder that relative paths begin at; None is the working folder.
        by_name: it is a name, whatever it looks like.

    Raises:
        UnknownNameError: no file of that name; lists those that exist.
    """
    text = str(path_or_name)
    is_path = isinstance(path_or_name, Path) or text.endswith((".yaml", ".yml")) or os.sep in text
    if is_path and not by_name:
        return (base or Path()) / text
    known = _available(kind)
    if text not in known:
        problems = folders()[1]
        if problems:
            raise UsageError(f"{UnknownNameError(kind, text, known)} ({'; '.join(problems)})")
        raise UnknownNameError(kind, text, known)
    return known[text]


def name_of(kind: str, path: Path | None) -> str | None:
    """Return the name that finds a file again, None where only its path does."""
    for name, known in _available(kind).items():
        if path is not None and known.resolve() == path.resolve():
            return name
    return None


def _available(kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders()[0]:
        for path in sorted(folder.glob("*.yaml")):
            if path.stem not in found and _kind_of(path) == kind:
                found[path.stem] = path
    return found


def _kind_of(path: Path) -> str:
    """Return a file's kind without parsing it: one that is damaged hides no other."""
    try:
        with path.open("rb") as file:
            match = _KIND.search(file.read(_HEAD_BYTES))
    except OSError:
        return ""
    return match.group(1).decode() if match else ""
