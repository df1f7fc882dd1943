"""What is installed here: this package's requirements, their versions, and the processor.

Requirements are read from the installed package itself, so that they stand in `pyproject.toml` only.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from memrl_ctrl.errors import MissingExtraError
from memrl_ctrl.registry import EXTRA_OF_LIBRARY

DISTRIBUTION = "memrl-ctrl"
CPUINFO = Path("/proc/cpuinfo")
NEEDS = {
    "train": ("torch", "tensorboard"),
    "sweep": ("torch", "tensorboard", "optuna"),
    "evaluate": ("torch",),
    "check-agent": ("torch",),
    "export": ("torch", "onnx"),
    "demo": ("torch", "onnx", "tensorboard", "matplotlib"),
    "program plot": ("matplotlib",),
    "trace plot": ("matplotlib",),
    "validate": ("blond",),
}
"""Optional libraries without which a command cannot do its work; the others need the base install only."""
COLLECTING = ("all", "dev")
"""Extras that only gather others."""


def requirements() -> dict[str, tuple[str, ...]]:
    """Return the names of the required libraries by extra; those of the base install by ''."""
    found: dict[str, list[str]] = {"": []}
    for line in requires(DISTRIBUTION) or ():
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if name and not (extra and extra[1] in COLLECTING):
            found.setdefault(extra[1] if extra else "", []).append(name[0])
    return {extra: tuple(names) for extra, names in found.items()}


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed ones among `names`, and Python's; imports none."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def missing(command: str) -> MissingExtraError | None:
    """Return what a command, as in `NEEDS`, has to complain about; None where it can be used."""
    needed = NEEDS.get(command, ())
    there = library_versions(needed)
    absent = [EXTRA_OF_LIBRARY[name] for name in needed if name not in there]
    if not absent:
        return None
    words, extras = zip(*absent, strict=True)
    return MissingExtraError(
        f"command {command!r}", " and ".join(words), ",".join(dict.fromkeys(extras))
    )


def processor() -> tuple[str, list[str]]:
    """Return the first processor's model name and its instruction set flags."""
    model = platform.processor() or platform.machine()
    flags: list[str] = []
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return model, flags
    for line in lines:
        key, _, value = line.partition(":")
        match key.strip():
            case "model name":
                model = value.strip()
            case "flags" | "Features":
                flags = value.split()
            case "":
                break  # only the first processor
    return model, flags
