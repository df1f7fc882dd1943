"""What a run asks: a policy file, a shipped policy or a classical controller, by path or by name."""

from __future__ import annotations

import json
from pathlib import Path

from memrl_ctrl import controllers
from memrl_ctrl.backend import MachineDescription
from memrl_ctrl.controllers import Driven
from memrl_ctrl.errors import (
    MemrlError,
    MismatchError,
    PolicyError,
    UnknownNameError,
    UsageError,
)
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.catalogue import locate, shipped
from memrl_ctrl.program import CycleProgram, load_program
from memrl_ctrl.program.library import ENVIRONMENT
from memrl_deploy.inference import Asked


def load_asked(policy: Path) -> Asked:
    """Return a policy with its memory, or a controller that is called like one.

    Args:
        policy: path of a policy file, or the name of a shipped policy or of a controller. What exists at
            that path comes first, then policies, then controllers.

    Raises:
        UnknownNameError: a name without a folder and an ending that is none of these.
        PolicyError: no such file, or a damaged one.
        MissingExtraError: the controller needs a library that is not installed.
    """
    found = locate(policy)
    name = str(policy)
    if not found.exists() and name in controllers.available():
        return controllers.drive(name)
    if not found.exists() and policy.name == name and not policy.suffix:
        raise UnknownNameError("policy or controller", name, [*shipped(), *controllers.available()])
    return OnnxPolicy.load(found)


def asked_again(data: bytes, path: str) -> Asked:
    """Return what was recorded: a policy from its file, or a controller with the settings of then.

    Args:
        data: what stands in the trace.
        path: for messages.

    Raises:
        PolicyError: it is damaged, or the controller cannot be had here as it was.
    """
    settings = _controller_in(data)
    if settings is None:
        policy = OnnxPolicy.load(data)
        policy.path = path
        return policy
    name, values = settings
    try:
        controller = controllers.make(name, values)
    except (MemrlError, TypeError) as error:
        raise PolicyError(
            path, f"the controller {name!r} cannot be had as it was: {error}"
        ) from error
    driven = Driven(controller)
    if driven.data != data:
        raise PolicyError(
            path,
            f"the controller {name!r} is not here as it was recorded ({data.decode()}): it was tuned or "
            "trained again since; use the release that recorded it",
        )
    driven.path = path
    return driven


def inform(asked: Asked, machine: MachineDescription) -> None:
    """Tell a controller that works with a model what the control system knows of each point.

    Raises:
        MismatchError: the machine does not say which points it has, or its program is not known here.
    """
    if not isinstance(asked, Driven) or not asked.controller.needs_points:
        return
    name = asked.controller.name
    if machine.ctime_ms is None:
        raise MismatchError(
            f"controller {name!r} works with a model of each point, and the points of {machine.name!r} "
            "belong to no cycle"
        )
    try:
        program = program_of(machine)
    except MemrlError as error:
        raise MismatchError(
            f"controller {name!r} needs the cycle program that the machine plays: "
            f"{with_remedy(error, machine.program)}"
        ) from error
    asked.inform(program.at(machine.ctime_ms).conditions(program.machine.ring))


def program_of(machine: MachineDescription) -> CycleProgram:
    """Return the cycle program that a machine says it plays; its points lie within it.

    Raises:
        MemrlError: none of that name is known here, its file is wrong, or it does not reach the points.
    """
    # What a machine says is a name: it opens no file here.
    program = load_program(machine.program, by_name=True)
    check_reaches(program, machine)
    return program


def check_reaches(program: CycleProgram, machine: MachineDescription) -> None:
    """Refuse a program that does not reach a machine's control points.

    Raises:
        MismatchError: with the point.
    """
    try:
        program.at(machine.ctime_ms)
    except ValueError as error:
        raise MismatchError(
            f"the program {program.name!r} is not that of the points of {machine.name!r}: {error}"
        ) from error


def with_remedy(error: MemrlError, program: str) -> str:
    """Return why a machine's program cannot be had, and what to do where it is not known here.

    Args:
        error: of `load_program`.
        program: its name, as the machine says it.
    """
    if not isinstance(error, UsageError):
        return str(error)
    return (
        f"{error}; name the folder of its file {program}.yaml in the environment variable {ENVIRONMENT} of "
        "this command"
    )


def _controller_in(data: bytes) -> tuple[str, dict[str, float]] | None:
    """Return name and settings of a recorded controller, None for a policy file."""
    try:
        held = json.loads(data)
        return str(held["controller"]), {
            key: value for key, value in held["settings"].items() if isinstance(value, float | int)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
