"""`memrl-ctrl bench NAME`: benchmarks, each an entry point of the group `memrl_ctrl.benchmarks`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from memrl_ctrl import registry
from memrl_ctrl.cli.values import JsonFile
from memrl_ctrl.terminal import Terminal


def bench(
    name: str | None = None,
    *,
    json: Annotated[JsonFile | None, Parameter(name="--json")] = None,
) -> None:
    """Measure speed or accuracy, and print what was measured.

    A benchmark compares in one run, as ratios and medians of several repetitions, on this machine.
    Figures and their names are explained in `docs/benchmarks/README.md`.

    Parameters
    ----------
    name
        The benchmark; without one, they are listed.
    json
        Also write machine, versions, the table's rows and the figures to this file; `-` is standard
        output, the table then goes to standard error.
    """
    known = registry.points(registry.BENCHMARKS)
    if name is None:
        console = Terminal()
        for known_name in sorted(known):
            doc = (
                registry.load(registry.BENCHMARKS, "benchmark", known_name).__doc__ or ""
            ).strip()
            console.print(f"[bold]{known_name}[/bold]  {doc.splitlines()[0] if doc else ''}")
        return
    registry.load(registry.BENCHMARKS, "benchmark", name)(json_path=json)
