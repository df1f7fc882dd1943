"""`memrl-ctrl deploy`, `shadow`, `export` and `replay`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from cyclopts import Parameter
from cyclopts.validators import Number

from memrl_ctrl import registry
from memrl_ctrl.backend import BeamSource, MachineDescription
from memrl_ctrl.cli.keyboard import Keys
from memrl_ctrl.cli.values import (
    Count,
    ExistingPath,
    OutputFolder,
    Seconds,
    Seed,
    SomeSeconds,
    Steps,
    real,
)
from memrl_ctrl.errors import FileError, TraceError, UsageError
from memrl_ctrl.outputs import check_output_file
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.trace import RECORDS
from memrl_deploy.asked import inform, load_asked
from memrl_deploy.classical import FALLBACK_KEY, described, make_classical
from memrl_deploy.engaging import EngageConfig
from memrl_deploy.fallback import FallbackConfig
from memrl_deploy.foreseeing import make_foresight
from memrl_deploy.guard import GuardConfig
from memrl_deploy.inference import Asked, check_fit
from memrl_deploy.live import in_foreground, show_summary
from memrl_deploy.modes import ClosedLoop, Mode, Shadow
from memrl_deploy.replaying import GUARD_KEY
from memrl_deploy.runtime import Runtime, stopped_by_signals
from memrl_deploy.service import make_views

ENGAGE_AFTER = 2
"""Cycles in a row that have to agree before a run engages."""
BLEND = 3
"""Functions over which a policy comes in."""
UNPACED_CYCLES = 1000
"""Cycles of a run that neither the machine's period nor an option limits; about 0.1 MB each on the disk."""
FINITE_BACKEND = "replay"
"""Backend whose cycles come to an end by themselves."""

S = TypeVar("S", bound=BeamSource)


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
    record: OutputFolder = RECORDS
    """Folder of all traces; each run makes a folder of its own in it."""
    cycles: Count | None = None
    """Cycles to decide; without it until Ctrl-C, or 1000 of a simulation that has no period."""
    program: str | None = None
    """Cycle program of a simulation, by name or file."""
    fidelity: str | None = None
    """Fidelity of a simulation."""
    seed: Seed | None = None
    """Of a simulation's hidden conditions."""
    period: Seconds | None = None
    """Least time between the cycles of a simulation, s; a machine has its own. 0: as fast as it plays."""
    timeout: SomeSeconds | None = None
    """How long to wait for a reading, s, three times in a row at most. Without it some periods of the
    machine, and `shadow` waits while it stands still."""
    look_ahead: str | None = None
    """Program, by name or file, whose model the guard looks ahead with; the machine's own unless given
    (off: none). Not where cycles come as fast as they are played."""
    look_ahead_loss: Annotated[float, real(0.0, 1.0, above=True)] = GuardConfig.lookahead_loss
    """Share of the beam that the guard lets a step lose, by that model."""
    quiet: Annotated[bool, Parameter(negative="")] = False
    """Show only the summary."""
    log_format: Literal["text", "json"] = "text"
    """json: one JSON object a line on standard error, for services; the summary follows as text."""
    metrics: str | None = None
    """HOST:PORT at which Prometheus finds the run's numbers, for example 127.0.0.1:9464."""
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

    def check(self, machine: MachineDescription) -> None:
        """Refuse a pace that is not ours to give."""
        if self.period is not None and machine.period_s > 0.0:
            raise UsageError(
                f"the machine has its own period of {machine.period_s:g} s; --period is for "
                "simulations in this process"
            )

    def limit(self, machine: MachineDescription) -> tuple[int | None, str]:
        """Return how many cycles are decided, and what is to be said about it.

        Nothing paces a simulation but its own speed: a run without an end would fill the disk.
        """
        endless = self.cycles is None and self.period is None and machine.period_s == 0.0
        if not endless or machine.backend == FINITE_BACKEND:
            return self.cycles, ""
        return UNPACED_CYCLES, (
            f"nothing paces {machine.name}, and every cycle is recorded: the run ends after "
            f"{UNPACED_CYCLES} cycles; --cycles N sets another number, --period S (0: as fast as it "
            "plays) goes on until Ctrl-C"
        )


@Parameter(name="*")
@dataclass(kw_only=True)
class FallbackOptions:
    """What happens when the policy must not be followed: hold, controller, restore, operator."""

    fallback: str | None = None
    """Controller that leads for a while when holding did not help: asymmetry-pi unless given, network-kalman,
    extremum-seeking, ... (hold: none moves anything)."""
    hold_cycles: Count = FallbackConfig.hold_cycles
    """Cycles of holding first, 2 or more; trouble that ends in them leads back to shadow."""
    classical_cycles: Count = FallbackConfig.classical_cycles
    """Cycles of the controller."""
    restore_cycles: Count = FallbackConfig.restore_cycles
    """Most cycles for restoring what was applied at engage, before the operator gets the machine."""

    def config(self) -> FallbackConfig:
        """Return the ladder's settings.

        Raises:
            UsageError: holding is too short for trouble to end in it.
        """
        usual = FallbackConfig()
        try:
            return replace(
                usual,
                hold_cycles=self.hold_cycles,
                recover_cycles=min(usual.recover_cycles, self.hold_cycles - 1),
                classical_cycles=self.classical_cycles,
                restore_cycles=self.restore_cycles,
            )
        except ValueError as error:
            raise UsageError(f"--hold-cycles must be 2 or more, not {self.hold_cycles}") from error


DEFAULTS = RunOptions()
LADDER = FallbackOptions()


def deploy(
    *,
    policy: Path,
    engage_after: Count = ENGAGE_AFTER,
    blend: Annotated[int, Parameter(validator=Number(gte=0))] = BLEND,
    ladder: FallbackOptions = LADDER,
    options: RunOptions = DEFAULTS,
) -> int:
    """Close the loop: the policy sets phi_2 at all control points, guarded and recorded.

    Ctrl-C ends it; the machine goes on with the last applied function. So does a closed terminal, and
    the end of what reads the output (`| head`): start it with `nohup`, or with its output in a file,
    where it is to go on. `--config FILE` takes options from a YAML file; those given here win.

    It begins in shadow and engages when the recommendations agree. Taking over: the key m (e engages
    again), the signals SIGUSR1 and SIGUSR2, or `memrl-ctrl operator take-over`.

    Parameters
    ----------
    policy
        Policy file (.onnx), as `memrl-ctrl export` writes it; or the name of a shipped policy or of a
        controller (hold, network-kalman, ...).
    engage_after
        Cycles in a row whose recommendations have to agree before anything is written.
    blend
        Functions over which the policy comes in; the first is what is applied already. 0: at once.
    """
    engage = EngageConfig(after_cycles=engage_after, blend_cycles=blend)
    return _run(policy, options, registry.open_backend, ClosedLoop, engage=engage, ladder=ladder)


def shadow(
    *, policy: Path, thresholds: ExistingPath | None = None, options: RunOptions = DEFAULTS
) -> int:
    """Run beside the operators: see, recommend and record, without anything that could write.

    It ends as `deploy` does, and takes `--config FILE` as it does.

    Parameters
    ----------
    policy
        Policy file (.onnx), as `memrl-ctrl export` writes it; or the name of a shipped policy or of a
        controller.
    thresholds
        YAML file with the limits for `memrl-ctrl report`: its digest goes into the trace, which proves that
        they were declared beforehand.
    """
    declared = {}
    if thresholds is not None:
        from memrl_deploy.report.thresholds import DECLARED_KEY, load_thresholds

        declared[DECLARED_KEY] = load_thresholds(thresholds).recorded
    return _run(policy, options, registry.open_source, Shadow, declared=declared)


def _run(
    policy: Path,
    options: RunOptions,
    open_: Callable[..., S],
    mode_of: Callable[[S], Mode],
    *,
    engage: EngageConfig | None = None,
    ladder: FallbackOptions | None = None,
    declared: dict[str, Any] | None = None,
) -> int:
    """Open the machine, check that all fits, run, and say how it went; return the exit code."""
    loaded = load_asked(policy)
    source = open_(options.backend, **options.backend_options())
    console = Terminal()
    try:
        check_fit(loaded, source.description)
        inform(loaded, source.description)
        options.check(source.description)
        cycles, notice = options.limit(source.description)
        runtime = _runtime(
            mode_of(source),
            loaded,
            options=options,
            cycles=cycles,
            console=console,
            engage=engage,
            ladder=ladder,
            declared=declared or {},
        )
    except BaseException:
        source.close()
        raise
    console.on_gone = partial(runtime.stop, "nobody reads the output any more")
    if notice:
        console.print(notice, soft_wrap=True, highlight=False, markup=False)
    with stopped_by_signals(runtime), _keys(runtime, console, quiet=options.quiet):
        summary = runtime.run()
    if summary.error is not None and summary.trace is None:
        raise summary.error  # refused before anything was done: one sentence is all there is to say
    show_summary(summary, console)
    if summary.error is not None:
        raise summary.error
    return TraceError.exit_code if summary.trace_problem else 0


def _unjudged(policy: Asked) -> str:
    """Return what is to be said of a policy that does not say what its training saw; else nothing."""
    if policy.manifest.statistics is not None:
        return ""
    if not isinstance(policy, OnnxPolicy):
        return (
            f"{policy.path} was trained on nothing, so the guard's stage distribution does not run and no "
            "shadow report on it can promote"
        )
    return (
        f"{policy.path} does not say what its training saw, so the guard's stage distribution does not "
        "run and no shadow report on it can promote: export the policy again from its run folder "
        "(memrl-ctrl export RUN --out FILE)"
    )


@contextmanager
def _keys(runtime: Runtime, console: Terminal, *, quiet: bool) -> Iterator[None]:
    """Listen to keys while a person sits at the terminal and the run is in its foreground."""
    if quiet or not console.is_terminal or not in_foreground():
        yield
        return
    with Keys() as keys:
        runtime.listen(partial(keys.wait, 0.0))
        yield


def _runtime(
    mode: Mode,
    policy: Asked,
    *,
    options: RunOptions,
    cycles: int | None,
    console: Terminal,
    engage: EngageConfig | None,
    ladder: FallbackOptions | None,
    declared: dict[str, Any],
) -> Runtime:
    loss = options.look_ahead_loss
    guard = GuardConfig(
        lookahead_loss=loss,
        lookahead_passing_loss=max(loss, GuardConfig.lookahead_passing_loss),
    )
    fallback, classical, left_out = None, None, ""
    if ladder is not None:
        fallback = ladder.config()
        classical, left_out = make_classical(ladder.fallback, mode.description)
    foresight, blind = make_foresight(
        mode.description, options.look_ahead, pace_s=options.period or 0.0
    )
    return Runtime(
        mode,
        policy,
        records=options.record,
        cycles=cycles,
        timeout_s=options.timeout,
        pace_s=options.period or 0.0,
        view=make_views(
            console,
            mode.name,
            quiet=options.quiet,
            as_json=options.log_format == "json",
            metrics=options.metrics,
        ),
        guard=guard,
        foresight=foresight,
        engage=engage,
        fallback=fallback,
        classical=classical,
        notices=tuple(filter(None, (left_out, blind, _unjudged(policy)))),
        configuration={
            "mode": mode.name,
            "policy": policy.path,
            **{
                name: str(value) if isinstance(value, Path) else value
                for name, value in asdict(options).items()
            },
            GUARD_KEY: asdict(guard),
            "engage": asdict(engage) if engage is not None else None,
            FALLBACK_KEY: described(fallback, classical) if fallback is not None else None,
            **declared,
        },
    )


def export(
    run: Path,
    /,
    *,
    out: Path = Path("beam.onnx"),
    checkpoint: Steps | None = None,
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
    if not run.is_dir():
        raise FileError(run, "is no run folder; `memrl-ctrl train` makes one")
    check_output_file(out, replace=force)
    from memrl_ctrl.training import load_policy
    from memrl_deploy.exporter import export_policy

    report = export_policy(load_policy(run, checkpoint), out)
    manifest, seen = report.manifest, report.manifest.statistics
    training = f"no statistics of the training: {report.without_statistics}"
    if seen is not None:
        training = f"statistics of the training: {seen.observations} observations, for the guard"
    Terminal(soft_wrap=True, highlight=False, markup=False).print(
        f"{report.path}: {manifest.name}, {report.size_bytes / 1024:.0f} kB, sha256 "
        f"{report.digest[:16]}…\n"
        f"torch and onnxruntime differ, over {manifest.parity_steps} steps, by {report.parity}\n"
        f"{training}"
    )
