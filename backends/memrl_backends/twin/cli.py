"""`memrl-ctrl scenario`: what scenarios there are, and whether a file is one."""

from __future__ import annotations

from cyclopts import App
from rich.table import Table

from memrl_backends.twin.options import open_backend
from memrl_backends.twin.scenario import available, dump, find, load_scenario
from memrl_ctrl.terminal import Terminal

app = App(name="scenario", help="Scenarios of the twin: list, show, check (docs/scenarios.md).")


@app.command(name="list")
def list_scenarios() -> int:
    """List the shipped scenarios, for `memrl-ctrl machine --scenario NAME`."""
    table = Table("scenario", "faults", "what it is", box=None, pad_edge=False)
    for name in available():
        scenario = load_scenario(name)
        table.add_row(name, str(len(scenario.faults)), scenario.description)
    Terminal(highlight=False).print(table)
    return 0


@app.command
def show(scenario: str, /) -> int:
    """Print a scenario as it was read.

    Parameters
    ----------
    scenario
        Name (`memrl-ctrl scenario list`) or file.
    """
    console = Terminal(highlight=False, soft_wrap=True)
    console.print(f"# {find(scenario)}", markup=False)
    console.print(dump(load_scenario(scenario)), markup=False, end="")
    return 0


@app.command
def check(scenario: str, /) -> int:
    """Read a scenario and open what it says, without playing it; one sentence where it is wrong.

    Parameters
    ----------
    scenario
        Name (`memrl-ctrl scenario list`) or file.
    """
    backend = open_backend(scenario=scenario)
    described = backend.description
    backend.close()
    faults = len(load_scenario(scenario).faults)
    Terminal(highlight=False, soft_wrap=True).print(
        f"{find(scenario)}: {described.name}, program {described.program}, {described.points} points x "
        f"{described.n_slices} slices, {faults} fault{'' if faults == 1 else 's'}",
        markup=False,
    )
    return 0
