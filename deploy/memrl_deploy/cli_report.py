"""`memrl-ctrl report`: what a policy would have done in shadow, for whoever has to decide."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.trace import tell_loss
from memrl_ctrl.cli.values import ExistingPath, OutputFile, Seed
from memrl_ctrl.errors import MemrlError, UsageError
from memrl_ctrl.installed import DISTRIBUTION
from memrl_ctrl.outputs import check_output_file, write_json, write_output
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.trace import TraceReader
from memrl_ctrl.trace.untrusted import verify_untrusted
from memrl_deploy.counterfactual import Counterfactual, counterfactual
from memrl_deploy.report import judge, load_thresholds, shadow_figures
from memrl_deploy.report.numbers import as_json
from memrl_deploy.report.page import Subject, page
from memrl_deploy.report.thresholds import recorded_in

TWIN_CYCLES, TWIN_DRAWS = 30, 10


def report(
    trace: Path,
    /,
    *,
    out: Annotated[OutputFile, Parameter(name="--out")] = Path("report.html"),
    thresholds: ExistingPath | None = None,
    twin: bool = True,
    program: str | None = None,
    seed: Seed = 0,
) -> int:
    """Say from a shadow run's trace whether its policy may write: PROMOTE, HOLD or REJECT, and why.

    Written are one HTML page that needs nothing else, and the same numbers as JSON beside it. Exit code 0
    whatever the verdict is.

    Parameters
    ----------
    trace
        trace.h5, trace.journal, or the folder of a run of `memrl-ctrl shadow`.
    out
        The page; the JSON has the same name with `.json`.
    thresholds
        YAML file with the limits, declared before the run (`memrl-ctrl shadow --thresholds` puts its digest
        into the trace). Without it those that come with memrl-ctrl are used, and the report says so
        (`docs/shadow-report.md`).
    twin
        Also close the loop on a simulation fitted to the readings: some minutes.
    program
        Cycle program of that simulation, by name or file; default the one that the trace names.
    seed
        Of the bootstrap.
    """
    if out.suffix == ".json":
        raise UsageError(
            f"--out {out} names the page: the JSON beside it has that name; give it .html"
        )
    check_output_file(out.with_suffix(".json"))
    console = Terminal(soft_wrap=True, highlight=False, markup=False)
    declared = load_thresholds(thresholds)
    state = verify_untrusted(trace)
    with TraceReader(trace) as reader:
        tell_loss(reader)
        figures = shadow_figures(reader, declared.thresholds, seed=seed)
        found, problem = _twin(reader, console, program=program, seed=seed) if twin else (None, "")
        judgement = judge(
            figures,
            declared,
            started_utc=reader.header.started_utc,
            recorded_with=reader.header.versions.get(DISTRIBUTION, ""),
            in_trace=recorded_in(reader.header.configuration),
            problems=() if state.whole else (f"the trace is not whole: {state.sentences()[-1]}",),
            twin=found,
        )
        subject = Subject(
            header=reader.header,
            state=state,
            figures=figures,
            judgement=judgement,
            declared=declared,
            twin=found,
            twin_problem=problem,
        )
    write_output(out, page(subject))
    write_json(out.with_suffix(".json"), as_json(subject))
    console.print(str(judgement.verdict), style="bold")
    for reason in judgement.reasons:
        console.print(f"- {reason}")
    console.print(f"thresholds: {declared.words(subject.in_trace)}")
    console.print(f"written: {out} and {out.with_suffix('.json')}")
    return 0


def _twin(
    reader: TraceReader, console: Terminal, *, program: str | None, seed: int
) -> tuple[Counterfactual | None, str]:
    """Return the counterfactual, or why there is none."""
    try:
        with work_bar(console, "closing the loop in simulation"):
            return counterfactual(
                reader, program=program, cycles=TWIN_CYCLES, draws=TWIN_DRAWS, seed=seed
            ), ""
    except MemrlError as error:
        if program is not None:
            raise
        return None, f"None: {error}"
