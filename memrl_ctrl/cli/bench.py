"""`memrl-ctrl bench NAME`: benchmarks, each an entry point of the group `memrl_ctrl.benchmarks`.

A benchmark is a function that takes `json_path`. Options of its own are those parameters whose annotation
holds a cyclopts `Parameter`; they are read here, and shown by `memrl-ctrl bench NAME --help`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from memrl_ctrl import registry
from memrl_ctrl.cli.values import FINITE, JsonFile
from memrl_ctrl.errors import MemrlError, UsageError
from memrl_ctrl.terminal import Terminal

HELP_FLAGS = ("--help", "-h")

app = cyclopts.App(name="memrl-ctrl bench", help_flags=[], version_flags=[])


@app.default
def bench(
    name: str | None = None,
    *options: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    json: Annotated[JsonFile | None, Parameter(name="--json")] = None,
    help_: Annotated[bool, Parameter(name=HELP_FLAGS, negative="")] = False,
) -> None:
    """Measure speed or accuracy, and print what was measured.

    A benchmark compares in one run, as ratios and medians of several repetitions, on this machine.
    Figures and their names are explained in `docs/benchmarks/README.md`. Without a name the benchmarks
    are listed; `memrl-ctrl bench NAME --help` shows what one of them takes.

    Parameters
    ----------
    name
        The benchmark; without one, they are listed.
    options
        Options of the benchmark's own.
    json
        Also write machine, versions, the table's rows and the figures to this file; `-` is standard
        output, the table then goes to standard error.
    help_
        Show this help, or that of the benchmark.
    """
    if name is None:
        if help_:
            app.help_print([])
        else:
            _list()
        return
    run = registry.load(registry.BENCHMARKS, "benchmark", name)
    if help_:
        (_reader(name, run) or app).help_print([])
        return
    run(json_path=json, **_own_options(name, run, options))


def _own_options(name: str, run: Callable[..., Any], words: tuple[str, ...]) -> dict[str, Any]:
    """Read a benchmark's own options.

    Raises:
        UsageError: it has none.
        CycloptsError: they are others, or not what is allowed.
    """
    reader = _reader(name, run)
    if reader is None:
        if words:
            raise UsageError(f"benchmark {name!r} has no options of its own: {' '.join(words)}")
        return {}
    _, bound, _ = reader.parse_args(words, exit_on_error=False, print_error=False)
    return {**bound.arguments}


def _reader(name: str, run: Callable[..., Any]) -> cyclopts.App | None:
    """Return what reads a benchmark's own options; None where it has none."""
    hints = typing.get_type_hints(run, include_extras=True)
    own = [key for key, hint in hints.items() if _is_option(hint)]
    if not own:
        return None
    signature = inspect.signature(run)

    def options(**_values: Any) -> None:
        """Stand for the benchmark, with nothing but its own options."""

    options.__doc__ = run.__doc__
    options.__annotations__ = {key: hints[key] for key in own}
    options.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[signature.parameters[key].replace(annotation=hints[key]) for key in own],
        return_annotation=None,
    )
    reader = cyclopts.App(
        name=f"memrl-ctrl bench {name}",
        default_parameter=FINITE,
        help_flags=[],
        version_flags=[],
        help_epilogue="Every benchmark also takes --json FILE (memrl-ctrl bench --help).",
    )
    reader.default(options)
    return reader


def _is_option(hint: Any) -> bool:
    return any(isinstance(extra, Parameter) for extra in _extras(hint))


def _extras(hint: Any) -> tuple[Any, ...]:
    """Return what `Annotated` adds to a type, also within a union."""
    own = getattr(hint, "__metadata__", ())
    inside = (
        extra for part in typing.get_args(hint) for extra in getattr(part, "__metadata__", ())
    )
    return (*own, *inside)


def _list() -> None:
    """Print the names of the benchmarks; one that cannot be loaded says why."""
    console = Terminal()
    for name in sorted(registry.points(registry.BENCHMARKS)):
        try:
            doc = registry.load(registry.BENCHMARKS, "benchmark", name).__doc__ or ""
        except MemrlError as error:
            doc = f"({error})"
        first = doc.strip().partition("\n")[0]
        console.print(f"[bold]{name}[/bold]  ", end="")
        console.print(first, markup=False)
