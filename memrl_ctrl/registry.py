"""Backends, commands, rewards and benchmarks, found by entry point.

A plug-in that cannot be imported harms no other: it is named, with its reason, where it is asked for
and in `memrl-ctrl doctor`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from memrl_ctrl.backend import BeamBackend, BeamSource
from memrl_ctrl.errors import MemrlError, MissingExtraError, UnknownNameError, UsageError

BACKENDS = "memrl_ctrl.backends"
COMMANDS = "memrl_ctrl.commands"
REWARDS = "memrl_ctrl.rewards"
PROGRAMS = "memrl_ctrl.programs"
BENCHMARKS = "memrl_ctrl.benchmarks"

EXTRA_OF_LIBRARY = {
    "blond": ("BLonD", "blond"),
    "torch": ("PyTorch", "train"),
    "onnx": ("onnx", "train"),
    "tensorboard": ("TensorBoard", "train"),
    "matplotlib": ("matplotlib", "plot"),
    "imageio": ("imageio", "plot"),
    "wandb": ("Weights & Biases", "wandb"),
    "optuna": ("Optuna", "sweep"),
    "sklearn": ("scikit-learn", "rivals"),
    "pybullet": ("PyBullet", "bench"),
    "pybullet_envs_gymnasium": ("pybullet-envs-gymnasium", "bench"),
    "minigrid": ("MiniGrid", "bench"),
    "p4p": ("p4p", "epics"),
    "pyarrow": ("pyarrow", "export"),
    "mcap": ("mcap", "export"),
}
"""Import name of an optional library: its name in words and the extra that brings it."""


def points(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of a group by name."""
    return {point.name: point for point in entry_points(group=group)}


def missing_extra(what: str, error: ModuleNotFoundError) -> MemrlError:
    """Turn a failed import into the sentence that says what to install.

    Args:
        what: what the user asked for, for example "backend 'blond'".
        error: the failed import.
    """
    library = (error.name or "").partition(".")[0]
    if library in EXTRA_OF_LIBRARY:
        words, extra = EXTRA_OF_LIBRARY[library]
        return MissingExtraError(what, words, extra)
    return MemrlError(f"{what} cannot be loaded: {error}")


@contextmanager
def extra_for(what: str) -> Iterator[None]:
    """Turn a library that is missed inside into the sentence that says what to install.

    Args:
        what: what the user asked for, for example "training".

    Raises:
        MissingExtraError: an optional library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(what, error) from error


def load(group: str, kind: str, name: str) -> Any:
    """Load the object behind a registered name.

    Args:
        group: entry point group, one of this module's constants.
        kind: the group's word for people, for example "backend".
        name: the registered name.

    Raises:
        UnknownNameError: nothing has that name.
        MissingExtraError: it needs a library that is not installed.
    """
    known = points(group)
    if name not in known:
        raise UnknownNameError(kind, name, known)
    try:
        return known[name].load()
    except ModuleNotFoundError as error:
        raise missing_extra(f"{kind} {name!r}", error) from error


def open_backend(name: str, **options: Any) -> BeamBackend:
    """Open a backend that may write.

    Args:
        name: registered name: `blond`, `zmq`, `replay`, or one of your own.
        options: passed to the backend's factory; an option it does not have is refused.

    Raises:
        UnknownNameError: no backend, or no option, of that name.
        MissingExtraError: it needs a library that is not installed.
    """
    backend: BeamBackend = _open(name, options)
    return backend


def option_names(name: str) -> frozenset[str]:
    """Return the names of the options that a backend's factory has."""
    factory = load(BACKENDS, "backend", name)
    return frozenset(inspect.signature(factory).parameters)


def open_source(name: str, **options: Any) -> BeamSource:
    """Open a backend for looking only.

    A factory that has a parameter `read_only` gets it as true and returns an object without any
    means to write; for another the source is wrapped so that only `observe` is left.
    """
    factory = load(BACKENDS, "backend", name)
    if "read_only" in inspect.signature(factory).parameters:
        source: BeamSource = _open(name, {**options, "read_only": True})
        return source
    return ObserveOnly(_open(name, options))


def _open(name: str, options: dict[str, Any]) -> Any:
    factory = load(BACKENDS, "backend", name)
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise UnknownNameError(f"option of backend {name!r}:", option, parameters)
    absent = [
        p.name
        for p in parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.name not in options
    ]
    if absent:
        raise UsageError(f"backend {name!r} needs the option {', '.join(absent)}")
    try:
        return factory(**options)
    except ModuleNotFoundError as error:
        raise missing_extra(f"backend {name!r}", error) from error


class ObserveOnly:
    """The looking half of a backend that has no read-only form of its own (a simulation)."""

    def __init__(self, backend: BeamBackend) -> None:
        self.description = backend.description
        self.observe = backend.observe
        self.close = backend.close
