"""`memrl-ctrl replay`: what a policy says to recorded cycles, again, instead, or in another loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.trace import tell_loss
from memrl_ctrl.cli.values import Count, JsonFile, Seed
from memrl_ctrl.errors import UsageError
from memrl_ctrl.outputs import write_json
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.trace import TraceReader
from memrl_deploy.asked import load_asked
from memrl_deploy.counterfactual import MOST_CYCLES, Counterfactual, counterfactual
from memrl_deploy.replaying import ReplayResult, replay_trace
from memrl_deploy.statistics import Figure


def replay(
    trace: Path,
    /,
    *,
    policy: Path | None = None,
    from_cycle: int | None = None,
    twin: Annotated[bool, Parameter(negative="")] = False,
    cycles: Count = MOST_CYCLES,
    program: str | None = None,
    seed: Seed = 0,
    json: Annotated[JsonFile | None, Parameter(name="--json")] = None,
) -> int:
    """Ask the policy again over the recorded readings; exit code 0 if all is identical.

    Another policy is asked in open loop: its actions are compared, but move nothing; exit code 0. With
    --twin the loop is closed instead, on a simulation that is fitted to the recorded readings.

    Parameters
    ----------
    trace
        trace.h5, trace.journal, or the folder of a run.
    policy
        Another policy file, or the name of a controller; default what is in the trace.
    from_cycle
        Number of the cycle to begin with, with the memory that was recorded there; default the first.
    twin
        Close the loop in simulation, from the recorded state of that cycle on.
    cycles
        With --twin: how many cycles at most.
    program
        With --twin: cycle program, by name or file; default the one that the trace names.
    seed
        With --twin: of the noise, and of the draws within the fit's uncertainties.
    json
        With --twin: also write the figures to this file; `-` is standard output.
    """
    other = None if policy is None else load_asked(policy)
    console = Terminal(soft_wrap=True, highlight=False, markup=False, stderr=str(json) == "-")
    with TraceReader(trace) as reader:
        tell_loss(reader)
        if twin:
            with work_bar(console, "closing the loop"):
                found = counterfactual(
                    reader,
                    other,
                    program=program,
                    from_cycle=from_cycle,
                    cycles=cycles,
                    seed=seed,
                )
            _show_counterfactual(found, console)
            if json is not None:
                write_json(json, as_json(found))
            return 0
        if json is not None or program is not None:
            raise UsageError("--json and --program belong to --twin")
        result = replay_trace(reader, other, from_cycle=from_cycle)
        count = len(reader)
    _show_replay(result, count, console)
    return 0 if result.identical or not result.own_policy else 1


def _show_replay(result: ReplayResult, count: int, console: Terminal) -> None:
    asked = f"{result.cycles} of {count} cycles, {result.actions} actions"
    if not result.own_policy:
        console.print(f"{result.policy_name}, not the recorded policy: asked in open loop")
    if result.identical:
        console.print(f"identical to the bit: {asked}", style="green")
    else:
        console.print(f"different: {result.different} of {result.actions} actions in {asked}")
        if result.where is not None and result.own_policy:
            cycle, point = result.where
            console.print(
                f"largest difference {result.largest_ulp} ULP in cycle {cycle} at point {point}; "
                f"largest in phase {result.largest_rad:.3g} rad"
            )
            _show_differences(result, console)
        elif result.different:
            console.print(f"largest difference in phase {result.largest_rad:.3g} rad")
        for name, cycles in result.different_arrays.items():
            console.print(f"{name} differs in {cycles} of {result.cycles} cycles")
        if result.different_functions:
            console.print(f"guarded functions that differ: {result.different_functions} cycles")
    if result.fallback_cycles:
        console.print(
            f"led by the fallback's controller: {result.fallback_cycles} cycles, of which "
            f"{result.different_fallback} differ and {result.unknown_fallback} could not be asked again "
            "(the controller is not here as it was)"
        )
    if result.resumed:
        console.print(f"memory taken from the record {result.resumed} times")
    if result.skipped:
        console.print(f"not compared, for want of the memory before them: {result.skipped} cycles")
    if result.environment and not result.identical:
        console.print("recorded elsewhere:")
        for key, (there, here) in result.environment.items():
            console.print(f"  {key}: {there!r} there, {here!r} here")


def _show_differences(result: ReplayResult, console: Terminal) -> None:
    """Print how far apart the actions are, and the cycles where they are farthest."""
    counts = ", ".join(f"{name} ULP: {count}" for name, count in result.ulp_counts.items())
    console.print(f"actions by difference: {counts}")
    table = Table(box=None, pad_edge=False)
    for heading in ("cycle", "actions that differ", "largest ULP", "at point", "largest rad"):
        table.add_column(heading, justify="right")
    for one in result.worst:
        table.add_row(
            str(one.cycle),
            str(one.points),
            str(one.largest_ulp),
            str(one.point),
            f"{one.largest_rad:.3g}",
        )
    console.print(table)


def as_json(found: Counterfactual) -> dict[str, object]:
    """Return a counterfactual as figures."""

    def figures(interval: Figure) -> dict[str, float]:
        return {"value": interval.value, "low": interval.low, "high": interval.high}

    return {
        "policy": found.policy_name,
        "first_cycle": found.first_cycle,
        "cycles": found.cycles,
        "asymmetry_recorded": found.recorded,
        "asymmetry_model_recorded": figures(found.model_recorded),
        "asymmetry_model_policy": figures(found.model_policy),
        "gain": figures(found.gain),
        "bunching_gain": figures(found.bunching_gain),
        "shortens": found.shortens,
        "credible": found.credible,
        "fits": [
            {
                "offset_rad": fit.offset_rad,
                "offset_sigma_rad": fit.offset_sigma_rad,
                "emittance_evs": fit.emittance_evs,
                "intensity": fit.intensity,
                "chi2_reduced": fit.chi2_reduced,
                "verdict": str(fit.verdict),
            }
            for fit in found.fitted
        ],
        "by_cycle": found.by_cycle.tolist(),
    }


def _show_counterfactual(found: Counterfactual, console: Terminal) -> None:
    def words(interval: Figure) -> str:
        return f"{interval.value:.4f}  ({interval.low:.4f} to {interval.high:.4f})"

    last = found.first_cycle + found.cycles - 1
    console.print(
        f"counterfactual: {found.policy_name} in closed loop on a fitted simulation, "
        f"{found.cycles} cycles, {found.first_cycle} to {last}"
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("mean |asymmetry|", "value (95 % interval)"):
        table.add_column(heading)
    table.add_row("measured", f"{found.recorded:.4f}")
    table.add_row("model, functions as recorded", words(found.model_recorded))
    table.add_row("model, policy in closed loop", words(found.model_policy))
    table.add_row("gain of the policy", words(found.gain))
    table.add_row("gain in bunching factor", words(found.bunching_gain))
    console.print(table)
    fit = found.fitted[0]
    console.print(
        f"fit of {len(found.fitted)} cycles: emittance {fit.emittance_evs:.3f} eV s, intensity "
        f"{fit.intensity:.3g}, chi2 {fit.chi2_reduced:.2f}, "
        f"{', '.join(sorted({str(one.verdict) for one in found.fitted}))}"
    )
    if found.shortens:
        console.print(
            "the policy leads to a shorter bunch: it is symmetric there too, and its peak is higher",
            style="yellow",
        )
    if not found.credible:
        console.print(f"do not decide on the gain: {found.doubt}", style="yellow")
