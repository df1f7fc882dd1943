"""`memrl-ctrl soak`: the closed loop on a twin to which every fault happens, for as long as it takes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter
from rich.table import Table

from memrl_ctrl import progress, registry
from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.values import Count, OutputFolder, Seed
from memrl_ctrl.errors import FileError, MachineError, TraceError, UsageError
from memrl_ctrl.outputs import write_json
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.catalogue import locate
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.trace import JOURNAL_NAME, TraceReader, verify
from memrl_deploy.bench import POINTS, checked_and_removed
from memrl_deploy.engaging import EngageConfig
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Disengaged, Runtime, stopped_by_signals
from memrl_deploy.soak_checks import Findings, Truth, check_segment
from memrl_deploy.states import State
from memrl_deploy.summary import CycleView
from memrl_deploy.twin import twin

STATE_NAME = "soak.json"
TRUTH_NAME = "truth.jsonl"
OPERATOR_AFTER = 5
"""Cycles that the operator leaves a machine that was handed over before engaging again."""
QUIET = 100
"""Cycles after the last fault of a scenario that does not repeat."""
WRONG_KEPT = 50
"""Sentences that are kept of what should not be."""
SCENARIOS = ("soak", "rough-day")


@dataclass
class Tally:
    """How far a soak has come; its file makes it resumable."""

    settings: dict[str, Any]
    segments: int = 0
    totals: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("cycles", "written", "outside", "lost", "wrong"), 0)
    )
    faults: dict[str, int] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    interrupted: int = 0
    """Segments whose process was killed; their traces were verified when the soak went on."""

    @classmethod
    def load(cls, folder: Path, settings: dict[str, Any]) -> Tally:
        """Take up the soak of a folder, or begin one.

        Raises:
            FileError: its state cannot be read.
            UsageError: it was begun with other settings.
        """
        path = folder / STATE_NAME
        if not path.exists():
            return cls(settings=settings)
        try:
            known = cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise FileError(path, f"is no state of a soak: {error}") from error
        if known.settings != settings:
            raise UsageError(
                f"{folder} holds a soak with other settings ({known.settings}); give the same, or "
                "another --out"
            )
        return known

    def add(self, found: Findings) -> None:
        """Add a segment."""
        self.segments += 1
        for name in ("cycles", "written", "outside", "lost"):
            self.totals[name] += getattr(found, name)
        self.totals["wrong"] += len(found.wrong)
        for mine, more in ((self.faults, found.faults), (self.changes, found.changes)):
            count(mine, more)
        room = WRONG_KEPT - len(self.wrong)
        self.wrong += [f"segment {self.segments}: {text}" for text in found.wrong[: max(room, 0)]]


def count(into: dict[str, int], more: dict[str, int]) -> None:
    """Add counts to counts."""
    for name, number in more.items():
        into[name] = into.get(name, 0) + number


class Operator:
    """A view that keeps what the run says, and somebody at the keys who engages where it handed over."""

    def __init__(self, done: int, total: int) -> None:
        self.decided: list[int] = []
        self.acknowledged: list[int] = []
        self._done, self._total = done, total
        self._manual = 0

    def cycle(self, view: CycleView) -> None:
        """Keep what was decided and what was taken."""
        self.decided.append(view.cycle)
        if view.outcome == "written":
            self.acknowledged.append(view.cycle)
        self._manual = self._manual + 1 if view.mode == State.MANUAL.value else 0
        if len(self.decided) % 50 == 0:
            progress.report(min(self._done + len(self.decided), self._total), self._total)

    def key(self) -> str:
        """Press `e` once the machine was left alone for long enough; to be listened to."""
        return "e" if self._manual == OPERATOR_AFTER else ""

    def note(self, text: str) -> None:
        """Changes of mode are taken from the trace."""

    def close(self) -> None:
        """Nothing is left to do."""


def soak(
    *,
    out: OutputFolder,
    cycles: Count = 1_000_000,
    scenario: Annotated[list[str] | None, Parameter(negative="", consume_multiple=False)] = None,
    policy: Path | None = None,
    segment: Count = 2560,
    slices: Count = 128,
    seed: Seed = 1,
) -> int:
    """Run the closed loop on a twin that fails in every way, and hold every cycle against the promises.

    No function outside the limits, no acknowledged cycle lost, every fault ended in the documented mode:
    from the trace of each segment, which is then verified and removed, and from the twin's truth log.
    Exit code 1 if one of them does not hold. The same command goes on where an interrupted one stopped.

    Parameters
    ----------
    out
        Folder of its state (soak.json) and of the segment that is running.
    cycles
        Cycles in all.
    scenario
        Scenario, by name or file; may be given several times: they take turns, a segment each. Default
        soak and rough-day.
    policy
        Policy file; default one with an LSTM that follows the asymmetry.
    segment
        Cycles of one segment: a twin process and a trace of their own.
    slices
        Slices of a profile.
    seed
        Of the first segment's twin; the next ones count on.
    """
    scenarios = tuple(scenario or SCENARIOS)
    faults = {name: faults_of(name) for name in scenarios}
    loaded = OnnxPolicy.load(
        proportional_policy(n_slices=min(slices, 128), gain_rad=0.5, lstm_units=32, name="soak")
        if policy is None
        else locate(policy)
    )
    settings = {
        "scenarios": list(scenarios),
        # The one built in is written anew each time, with the time in it; its graph is the same.
        "policy": loaded.digest if policy else loaded.manifest.graph_digest,
        "segment": segment,
        "slices": slices,
        "seed": seed,
    }
    tally = Tally.load(out, settings)
    _clear_interrupted(tally, out)
    console = Terminal(highlight=False, soft_wrap=True)
    with work_bar(console, "soak"), suppress(KeyboardInterrupt):
        while tally.totals["cycles"] < cycles:
            name = scenarios[tally.segments % len(scenarios)]
            most = min(length(faults[name], segment), cycles - tally.totals["cycles"])
            going_on = _segment(
                tally, out, name=name, faults=faults[name], policy=loaded, count_=most, total=cycles
            )
            save(tally, out)
            if not going_on:
                break
    _show(tally, cycles, out, console)
    return 0 if _holds(tally) else 1


def save(tally: Tally, folder: Path) -> None:
    """Write the state; the file is the old one or the new one, whatever happens."""
    write_json(folder / STATE_NAME, asdict(tally))


def faults_of(scenario: str) -> list[dict[str, Any]]:
    """Return the faults of a scenario as plain values.

    Raises:
        UsageError: there is no such scenario, or it is wrong.
    """
    shown = subprocess.run(  # noqa: S603 - this interpreter, no shell
        [sys.executable, "-m", "memrl_ctrl", "scenario", "show", scenario],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    if shown.returncode:
        raise UsageError(shown.stderr.strip().removeprefix("memrl-ctrl: "))
    values: dict[str, Any] = yaml.safe_load(shown.stdout)
    return list(values.get("faults", ()))


def length(faults: list[dict[str, Any]], segment: int) -> int:
    """Return how many cycles a segment has: fewer where nothing repeats and all has happened."""
    if not faults or any(fault.get("every_cycles") for fault in faults):
        return segment
    last = max(
        max(fault.get("at_cycle", [0])) + int(fault.get("for_cycles", 1)) for fault in faults
    )
    return min(segment, int(last) + QUIET)


def _segment(
    tally: Tally,
    out: Path,
    *,
    name: str,
    faults: list[dict[str, Any]],
    policy: OnnxPolicy,
    count_: int,
    total: int,
) -> bool:
    """Run one segment, check it, remove it; return whether the soak goes on.

    Raises:
        MachineError: it ended in a way that is not documented.
        TraceError: its trace is damaged, or lacks a cycle.
    """
    place = out.resolve() / "segment"
    place.mkdir(parents=True, exist_ok=True)
    truth = place / TRUTH_NAME
    operator = Operator(tally.totals["cycles"], total)
    shape = ("--points", str(POINTS), "--slices", str(tally.settings["slices"]))
    seed = ("--seed", str(tally.settings["seed"] + tally.segments))
    options = ("--scenario", name, "--truth-log", str(truth), "--quiet")
    with twin(place, *shape, *seed, *options) as endpoint:
        runtime = Runtime(
            ClosedLoop(registry.open_backend("zmq", endpoint=endpoint, keys=place / "keys")),
            policy,
            records=place / "records",
            cycles=count_,
            view=operator,
            engage=EngageConfig(),
        )
        runtime.listen(operator.key)
        with stopped_by_signals(runtime):
            summary = runtime.run()
    if summary.error is not None and not isinstance(summary.error, Disengaged):
        raise summary.error
    if summary.trace is None or not summary.cycles:
        raise MachineError(f"the segment decided no cycle: {summary.reason}")
    with TraceReader(summary.trace) as reader:
        found = check_segment(
            reader, Truth.read(truth), faults, operator.decided, operator.acknowledged
        )
    checked_and_removed(summary)
    shutil.rmtree(place)
    tally.add(found)
    count(tally.missed, dict(summary.missed))
    count(tally.ends, {summary.reason if summary.error is None else str(summary.error): 1})
    return not runtime.stop_cause and (summary.error is not None or summary.cycles >= count_)


def _clear_interrupted(tally: Tally, out: Path) -> None:
    """Verify what a killed segment left, and remove it; its cycles are run again.

    Raises:
        TraceError: the trace of the killed segment cannot be used.
    """
    place = out.resolve() / "segment"
    if not place.exists():
        return
    _end_orphan(place / TRUTH_NAME)
    tally.interrupted += 1
    for journal in sorted(place.glob(f"records/*/{JOURNAL_NAME}")):
        try:
            report = verify(journal)
        except TraceError as error:
            if "no whole record" in str(error):
                continue  # killed while the header was written: no cycle was acknowledged
            raise
        for damage in report.damage:
            if damage.kind != "torn":
                tally.totals["lost"] += 1
                tally.wrong.append(f"killed segment: {damage.sentence()}")
    shutil.rmtree(place)
    save(tally, out)


def _end_orphan(truth: Path) -> None:
    """End the twin of a killed soak: the process that was told to write this truth log (proc(5))."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if b"machine" in arguments and os.fsencode(truth) in arguments:
                os.kill(int(process.name), signal.SIGTERM)


def _holds(tally: Tally) -> bool:
    return not (tally.totals["outside"] or tally.totals["lost"] or tally.totals["wrong"])


def _show(tally: Tally, cycles: int, out: Path, console: Terminal) -> None:
    totals = tally.totals
    console.print(
        f"{totals['cycles']} of {cycles} cycles in {tally.segments} segments, {totals['written']} functions "
        f"taken; {totals['outside']} outside the limits, {totals['lost']} lost, {tally.interrupted} segments "
        "killed",
        markup=False,
    )
    for title, counts in (
        ("faults, and how they ended", tally.faults),
        ("changes of mode", tally.changes),
        ("missed", tally.missed),
        ("ends of segments", tally.ends),
    ):
        table = Table(title, "times", box=None, pad_edge=False)
        for name, number in sorted(counts.items()):
            table.add_row(name, str(number))
        if counts:
            console.print(table)
    for text in tally.wrong:
        console.print(text, style="red", markup=False)
    if not _holds(tally):
        console.print(f"{totals['wrong']} things that should not be", style="red")
    console.print(f"state: {out / STATE_NAME}", markup=False)
