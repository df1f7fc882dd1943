"""`memrl-ctrl check-agent`: does an algorithm learn what it must, task by task?"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from memrl_ctrl import registry
from memrl_ctrl.cli.values import JsonFile, Seed
from memrl_ctrl.outputs import STDOUT, write_json
from memrl_ctrl.tasks.probes import PROBES, id_of
from memrl_ctrl.terminal import Terminal

FAILED = 1


def check_agent(
    *probes: str,
    algorithm: Literal["ppo-lstm", "lstm-td3"] | None = None,
    seed: Seed = 0,
    set_: Annotated[
        list[str] | None,
        Parameter(name="--set", negative="", help="`key.sub=value` of the configuration."),
    ] = None,
    json_: Annotated[JsonFile | None, Parameter(name="--json")] = None,
) -> int:
    """Train an agent on the smallest tasks that it can fail, and compare with what is known of them.

    Five probes and one for memory, each for seconds. Where one fails, what it asks for beyond the one
    before it is what does not work. Exit code 0 if all pass, 1 otherwise.

    Parameters
    ----------
    probes
        Names: constant-value, observed-value, discounting, action, observed-action, memory; all
        without one.
    algorithm
        Which agent; both without it.
    seed
        Of everything that is drawn.
    json_
        File for the figures; `-` is standard output, the table then goes to standard error.
    """
    for name in probes:
        id_of(name)
    try:
        from memrl_ctrl.training.probing import CONFIGURATIONS, probe_agent
    except ModuleNotFoundError as error:
        raise registry.missing_extra("check-agent", error) from error

    console = Terminal(stderr=json_ is not None and str(json_) == STDOUT, highlight=False)
    algorithms = tuple(CONFIGURATIONS) if algorithm is None else (algorithm,)
    results, table = [], Table(title="Probes")
    for heading in ("agent", "probe", "asks to"):
        table.add_column(heading)
    for heading in ("return (known)", "value (known)", "error", "steps", "s", ""):
        table.add_column(heading, justify="right")
    with console.status("training") as status:
        for one in algorithms:
            for result in probe_agent(one, probes, seed=seed, changes=set_ or ()):
                status.update(f"{one}: {result.probe} {_verdict(result.passed)}")
                results.append({"algorithm": one, **dataclasses.asdict(result)})
                table.add_row(
                    one,
                    result.probe,
                    PROBES[result.probe].asks,
                    f"{result.mean_return:.2f} ({result.known_return:.2f})",
                    f"{result.value:.2f} ({result.known_value:.2f})",
                    f"{result.value_error:.2f}",
                    f"{result.steps:,}",
                    f"{result.seconds:.1f}",
                    _verdict(result.passed),
                )
    console.print(table)
    failed = [f"{one['algorithm']} {one['probe']}" for one in results if not one["passed"]]
    if failed:
        console.print(f"[red]Failed: {escape(', '.join(failed))}.[/red]")
    if json_ is not None:
        write_json(json_, {"passed": not failed, "probes": results})
    return FAILED if failed else 0


def _verdict(passed: bool) -> str:
    return "[green]pass[/green]" if passed else "[red]fail[/red]"
