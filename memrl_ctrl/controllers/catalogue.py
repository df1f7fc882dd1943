"""Controllers by name: entry points of the group `memrl_ctrl.controllers`.

An entry point is a function or class that is called without arguments and returns a `Controller` with
its tuned settings.
"""

from __future__ import annotations

from memrl_ctrl import registry
from memrl_ctrl.controllers.core import Controller, Driven

GROUP = "memrl_ctrl.controllers"


def available() -> list[str]:
    """Names of the registered controllers."""
    return sorted(registry.points(GROUP))


def make(name: str) -> Controller:
    """Make a registered controller with its tuned settings.

    Raises:
        UnknownNameError: no controller of that name.
        MissingExtraError: it needs a library that is not installed.
    """
    with registry.extra_for(f"controller {name!r}"):
        controller: Controller = registry.load(GROUP, "controller", name)()
    return controller


def drive(name: str) -> Driven:
    """Make a registered controller that can be driven like a policy; see `make`."""
    return Driven(make(name))
