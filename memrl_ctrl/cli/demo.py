"""`memrl-ctrl demo`: the main job from nothing to a scored, replayed run, with the real commands.

Every step is a command that a user could type; the demo runs each in a process of its own and shows it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from memrl_ctrl.cli.demo_report import Score, draw, score, show
from memrl_ctrl.cli.values import OutputFolder, Seconds, Seed, real, whole
from memrl_ctrl.errors import MemrlError, UsageError
from memrl_ctrl.installed import missing
from memrl_ctrl.outputs import write_json
from memrl_ctrl.program import load_program
from memrl_ctrl.terminal import Terminal

WANTED_SHRINK = 10.0
"""By what factor the median phase error must shrink."""
MOST_MINUTES = 24.0 * 60.0
MOST_CYCLES = 10_000
"""The score holds all profiles in memory."""
STOP_WAIT_S = 20.0
READY_WAIT_S = 90.0
"""How long the machine may take to publish; its kernel may have to be compiled first, s."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where things are and how long they take."""

    out: Path
    minutes: float
    seed: int
    cycles: int
    period_s: float
    program: str

    @property
    def run(self) -> Path:
        """Run folder of the training."""
        return self.out / "run"

    @property
    def policy(self) -> Path:
        """Exported policy."""
        return self.out / "beam.onnx"

    @property
    def truth(self) -> Path:
        """What the machine process alone knows, for the score afterwards."""
        return self.out / "truth.jsonl"

    @property
    def records(self) -> Path:
        """Folder of the trace."""
        return self.out / "records"


def demo(
    *,
    out: OutputFolder = Path("demo-out"),
    minutes: Annotated[float, real(0.0, MOST_MINUTES, above=True, unit="minutes")] = 3.0,
    seed: Annotated[
        Seed, Parameter(help="Of training; the machine's hidden offset comes from it too.")
    ] = 1,
    cycles: Annotated[int, whole(2, MOST_CYCLES)] = 30,
    period: Seconds = 0.1,
    program: str = "psb-2gev",
) -> int:
    """Train, export, deploy over ZeroMQ, record, replay and score: about four minutes, no set-up.

    Needs the extras `train` and `plot`.

    The machine is a process of its own with an offset that it does not tell. Exit code 0 if the
    median phase error shrank at least tenfold, 1 otherwise.

    Parameters
    ----------
    out
        Folder for everything that is made; must be new or an earlier demo's.
    minutes
        Time to train.
    cycles
        Machine cycles to control.
    period
        Time between cycles, s (the machine's own is 1.2).
    program
        Cycle program that the machine plays, by name or file.
    """
    problem = missing("demo")
    if problem is not None:
        raise problem
    load_program(program)  # one that is wrong is told now, not after the training
    console = Terminal()
    _prepare(out)
    plan = Plan(
        out=out,
        minutes=minutes,
        seed=seed,
        cycles=cycles,
        period_s=period,
        program=program,
    )
    _step(console, "1/5 Train", plan, *_train(plan))
    _step(
        console, "2/5 Export", plan, "export", str(plan.run), "--out", str(plan.policy), "--force"
    )
    _control(console, plan)
    trace = _newest_trace(plan.records)
    identical = _step(console, "4/5 Replay", plan, "replay", str(trace), allow=(0, 1)) == 0
    _title(console, "5/5 Score")
    result = score(
        run=plan.run,
        policy=plan.policy,
        truth=plan.truth,
        trace=trace,
        replay_identical=identical,
    )
    pictures = draw(result, plan.out)
    write_json(plan.out / "report.json", result.as_json())
    show(result, console, [*pictures, plan.out / "report.json", trace])
    return _verdict(result, console)


def _verdict(result: Score, console: Terminal) -> int:
    if not result.replay_identical:
        console.print("[red]Failed: the replay differs from what was recorded.[/red]")
        return 1
    if result.shrink >= WANTED_SHRINK:
        console.print(
            f"[green]The median phase error shrank by a factor {result.shrink:.0f}.[/green]"
        )
        return 0
    console.print(
        f"[red]Failed: the median phase error shrank only by a factor {result.shrink:.1f}; "
        f"{WANTED_SHRINK:.0f} were wanted. Train longer: --minutes.[/red]"
    )
    return 1


def _title(console: Terminal, words: str) -> None:
    console.print(f"[bold]── {words} ──[/bold]")


def _train(plan: Plan) -> list[str]:
    return [
        "train",
        "psb",
        "--minutes",
        f"{plan.minutes:g}",
        "--seed",
        str(plan.seed),
        "--out",
        str(plan.run),
    ]


def _prepare(out: Path) -> None:
    """Make the folder. An earlier demo's is kept under another name; any other one is refused."""
    marker = out / ".memrl-ctrl-demo"
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise UsageError(
                f"{out} exists and is no earlier demo's folder: choose another with --out"
            )
        out.rename(out.with_name(f"{out.name}.until-{time.strftime('%Y%m%dT%H%M%S')}"))
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "memrl_ctrl", *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}


def _step(
    console: Terminal, title: str, plan: Plan, *arguments: str, allow: tuple[int, ...] = (0,)
) -> int:
    """Run one command in the foreground and return its exit code."""
    if title:
        _title(console, title)
    console.print(f"[dim]memrl-ctrl {' '.join(arguments)}[/dim]")
    code = subprocess.run(_command(*arguments), check=False, env=_environment()).returncode  # noqa: S603
    if code not in allow:
        raise MemrlError(
            f"'memrl-ctrl {arguments[0]}' ended with exit code {code}; what it made is in {plan.out}"
        )
    return code


def _control(console: Terminal, plan: Plan) -> None:
    """Start the machine as its own process, close the loop over it, stop it."""
    arguments = [
        "machine",
        "--cavity",
        "ideal",
        "--program",
        plan.program,
        "--endpoint",
        "tcp://127.0.0.1:0",
        "--period",
        f"{plan.period_s:g}",
        "--seed",
        str(plan.seed),
        "--truth-log",
        str(plan.truth),
    ]
    _title(console, "3/5 Machine and deploy")
    console.print(f"[dim]memrl-ctrl {' '.join(arguments)} &[/dim]")
    log = (plan.out / "machine.log").open("w")
    machine = subprocess.Popen(  # noqa: S603 - our own command
        _command(*arguments), stdout=log, stderr=subprocess.STDOUT, env=_environment()
    )
    try:
        endpoint = _endpoint_when_ready(machine, plan.out / "machine.log")
        _step(
            console,
            "",
            plan,
            "deploy",
            "--policy",
            str(plan.policy),
            "--backend",
            "zmq",
            "--endpoint",
            endpoint,
            "--cycles",
            str(plan.cycles),
            "--record",
            str(plan.records),
        )
    finally:
        machine.send_signal(signal.SIGINT)
        try:
            machine.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.wait()
        log.close()


def _endpoint_when_ready(machine: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the machine says that it is ready, and return where: it takes two free ports itself."""
    deadline = time.monotonic() + READY_WAIT_S
    while time.monotonic() < deadline:
        ended = machine.poll() is not None
        said = log.read_text()
        found = re.search(r"ready at (tcp://\S+):", said)
        if found:
            return found[1]
        if ended:
            lines = said.strip().splitlines()
            raise MemrlError(f"the machine ended at once: {lines[-1] if lines else '(no output)'}")
        time.sleep(0.1)
    raise MemrlError(f"the machine was not ready within {READY_WAIT_S:.0f} s; it said: {log}")


def _newest_trace(records: Path) -> Path:
    traces = sorted(records.glob("*/trace.h5"))
    if not traces:
        raise MemrlError(f"deploy left no trace in {records}")
    return traces[-1]
