"""`memrl-ctrl deploy`, `shadow`, `export` and `replay`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter
from rich.console import Console

from memrl_ctrl import registry
from memrl_ctrl.errors import TraceError, UsageError
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.trace import RECORDS, TraceReader
from memrl_deploy.guard import GuardConfig
from memrl_deploy.inference import check_fit
from memrl_deploy.live import make_view, show_summary
from memrl_deploy.modes import ClosedLoop, Mode, Shadow
from memrl_deploy.replaying import GUARD_KEY, ReplayResult, replay_trace
from memrl_deploy.runtime import Runtime, stopped_by_signals
from memrl_deploy.summary import NoView


@Parameter(name="*")
@dataclass(kw_only=True)
class RunOptions:
    """Options of a run on a machine."""

    backend: str = "zmq"
    """What to run on: zmq (a machine), blond (the simulation, in this process), or one of your own."""
    endpoint: str | None = None
    """Of the machine, tcp://HOST:PORT; default tcp://127.0.0.1:5750."""
    keys: Path | None = None
    """Folder with the machine's public key and yours; default the local ones, on loopback."""
    record: Path = RECORDS
    """Folder of all traces; each run makes a folder of its own in it."""
    cycles: int | None = None
    """Cycles to decide; without it until Ctrl-C."""
    program: str | None = None
    """Cycle program of a simulation, by name or file."""
    fidelity: str | None = None
    """Fidelity of a simulation."""
    seed: int | None = None
    """Of a simulation's hidden conditions."""
    period: float | None = None
    """Least time between the cycles of a simulation, s; a machine has its own."""
    timeout: float | None = None
    """How long to wait for a reading, s; default some periods of the machine."""
    quiet: Annotated[bool, Parameter(negative="")] = False
    """Show only the summary."""
    set: Annotated[list[str] | None, Parameter(negative="", consume_multiple=False)] = None
    """Any other option of the backend, as NAME=VALUE; may be given several times."""

    def backend_options(self) -> dict[str, Any]:
        """Return what the backend's factory gets."""
        named = {
            "endpoint": self.endpoint,
            "keys": self.keys,
            "program": self.program,
            "fidelity": self.fidelity,
            "seed": self.seed,
        }
        options = {name: value for name, value in named.items() if value is not None}
        for text in self.set or []:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise UsageError(f"--set takes NAME=VALUE, not {text!r}")
            try:
                options[name] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise UsageError(f"--set {text}: {value!r} cannot be read as a value") from error
        return options

    def check(self) -> None:
        """Refuse numbers that cannot be meant."""
        for name, value, least in (
            ("cycles", self.cycles, 1),
            ("period", self.period, 0),
            ("timeout", self.timeout, 1e-3),
        ):
            if value is not None and not value >= least:
                raise UsageError(f"--{name} must be at least {least:g}, not {value:g}")


DEFAULTS = RunOptions()


def deploy(*, policy: Path, options: RunOptions = DEFAULTS) -> int:
    """Close the loop: the policy sets phi_2 at all control points, guarded and recorded.

    Ctrl-C ends it; the machine goes on with the last applied function.

    Parameters
    ----------
    policy
        Policy file (.onnx), as `memrl-ctrl export` writes it.
    """
    options.check()
    loaded = OnnxPolicy.load(policy)
    backend = registry.open_backend(options.backend, **options.backend_options())
    try:
        check_fit(loaded, backend.description)
        mode = ClosedLoop(backend)
    except BaseException:
        backend.close()
        raise
    return _run(mode, loaded, options)


def shadow(*, policy: Path, options: RunOptions = DEFAULTS) -> int:
    """Run beside the operators: see, recommend and record, without anything that could write.

    Parameters
    ----------
    policy
        Policy file (.onnx), as `memrl-ctrl export` writes it.
    """
    options.check()
    loaded = OnnxPolicy.load(policy)
    source = registry.open_source(options.backend, **options.backend_options())
    try:
        check_fit(loaded, source.description)
    except BaseException:
        source.close()
        raise
    return _run(Shadow(source), loaded, options)


def _run(mode: Mode, policy: OnnxPolicy, options: RunOptions) -> int:
    console = Console()
    machine = mode.description
    guard = GuardConfig()
    try:
        if options.period is not None and machine.period_s > 0.0:
            raise UsageError(
                f"the machine has its own period of {machine.period_s:g} s; --period is for "
                "simulations in this process"
            )
        runtime = Runtime(
            mode,
            policy,
            records=options.record,
            cycles=options.cycles,
            timeout_s=options.timeout,
            pace_s=options.period or 0.0,
            view=NoView() if options.quiet else make_view(console),
            guard=guard,
            configuration={
                "mode": mode.name,
                "policy": policy.path,
                **{
                    name: str(value) if isinstance(value, Path) else value
                    for name, value in asdict(options).items()
                },
                GUARD_KEY: asdict(guard),
            },
        )
    except BaseException:
        mode.close()
        raise
    with stopped_by_signals(runtime):
        summary = runtime.run()
    show_summary(summary, console)
    if summary.error is not None:
        raise summary.error
    return TraceError.exit_code if summary.trace_problem else 0


def export(
    run: Path,
    /,
    *,
    out: Path = Path("beam.onnx"),
    checkpoint: int | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a trained policy as one ONNX file, if torch and onnxruntime agree on it.

    Parameters
    ----------
    run
        Run folder of `memrl-ctrl train`.
    out
        The file.
    checkpoint
        Steps of the checkpoint to take; default the last.
    force
        Replace an existing file.
    """
    if out.exists() and not force:
        raise UsageError(f"{out} exists: give another --out, or --force to replace it")
    from memrl_ctrl.training import load_policy
    from memrl_deploy.exporter import PARITY_LIMIT, export_policy

    report = export_policy(load_policy(run, checkpoint), out)
    manifest = report.manifest
    Console(soft_wrap=True, highlight=False).print(
        f"{report.path}: {manifest.name}, {report.size_bytes / 1024:.0f} kB, sha256 "
        f"{report.digest[:16]}…\n"
        f"parity over {manifest.parity_steps} steps: largest difference "
        f"{report.parity_max_abs_diff:.1e} (allowed {PARITY_LIMIT:.0e})"
    )


def replay(trace: Path, /, *, policy: Path | None = None) -> int:
    """Ask the policy again over the recorded readings; exit code 0 if every action is identical.

    Another policy is asked in open loop: its actions are compared, but move nothing; exit code 0.

    Parameters
    ----------
    trace
        trace.h5, trace.journal, or the folder of a run.
    policy
        Another policy file; default the one in the trace.
    """
    other = None if policy is None else OnnxPolicy.load(policy)
    with TraceReader(trace) as reader:
        result = replay_trace(reader, other)
        count = len(reader)
    _show_replay(result, count, Console(soft_wrap=True, highlight=False, markup=False))
    return 0 if result.identical or not result.own_policy else 1


def _show_replay(result: ReplayResult, count: int, console: Console) -> None:
    asked = f"{result.cycles} of {count} cycles, {result.actions} actions"
    if not result.own_policy:
        console.print(f"{result.policy_name}, not the recorded policy: asked in open loop")
    if result.identical:
        console.print(f"identical to the bit: {asked}", style="green")
    else:
        console.print(f"different: {result.different} of {result.actions} actions in {asked}")
        if result.where is not None:
            cycle, point = result.where
            console.print(
                f"largest difference {result.largest_ulp} ULP in cycle {cycle} at point {point}; "
                f"largest in phase {result.largest_rad:.3g} rad"
            )
        if result.different_functions:
            console.print(f"guarded functions that differ: {result.different_functions} cycles")
    if result.resumed:
        console.print(f"memory taken from the record {result.resumed} times, after lost cycles")
    if result.environment and not result.identical:
        console.print("recorded elsewhere:")
        for key, (there, here) in result.environment.items():
            console.print(f"  {key}: {there!r} there, {here!r} here")
