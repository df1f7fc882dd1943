"""Controllers by name: entry points of the group `memrl_ctrl.controllers`.

An entry point is a function or class that returns a `Controller`; those that come with memrl-ctrl are called
with the settings that they were tuned to, which stand in `data/tuned.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from memrl_ctrl import registry
from memrl_ctrl.controllers.core import Controller, Driven

GROUP = "memrl_ctrl.controllers"
FILE = "tuned.json"


def available() -> list[str]:
    """Names of the registered controllers."""
    return sorted(registry.points(GROUP))


def make(name: str, settings: Mapping[str, float] | None = None) -> Controller:
    """Make a registered controller with its tuned settings, or with others.

    Args:
        name: of the entry point.
        settings: in the place of the tuned ones.

    Raises:
        UnknownNameError: no controller of that name.
        MissingExtraError: it needs a library that is not installed.
    """
    with registry.extra_for(f"controller {name!r}"):
        kind = registry.load(GROUP, "controller", name)
        controller: Controller = kind(**(tuned().get(name, {}) if settings is None else settings))
    return controller


@cache
def tuned() -> dict[str, dict[str, float]]:
    """Return the tuned settings by controller; see `memrl_ctrl.bench.beam.tune`."""
    found = json.loads((files(__package__) / "data" / FILE).read_text(encoding="utf-8"))
    return {name: each["settings"] for name, each in found.items()}


def drive(name: str) -> Driven:
    """Make a registered controller that can be driven like a policy; see `make`."""
    return Driven(make(name))
