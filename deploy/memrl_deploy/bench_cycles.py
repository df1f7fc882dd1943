"""`memrl-ctrl bench cycles`: closed loops over whole cycles, each with another simulated machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from memrl_ctrl import progress, registry
from memrl_ctrl.backend import FloatArray
from memrl_ctrl.bench.report import publish
from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.cli.values import Count, OutputFolder, Seed, real
from memrl_ctrl.errors import MachineError
from memrl_ctrl.outputs import STDOUT, scratch_folder
from memrl_ctrl.program import load_program
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.trace import TraceReader
from memrl_ctrl.trace.truth import truth_of
from memrl_deploy.asked import inform, load_asked
from memrl_deploy.bench import checked_and_removed
from memrl_deploy.classical import make_classical
from memrl_deploy.cli import BLEND, ENGAGE_AFTER
from memrl_deploy.engaging import EngageConfig
from memrl_deploy.fallback import FallbackConfig
from memrl_deploy.inference import check_fit
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Disengaged, Runtime, stopped_by_signals
from memrl_deploy.summary import CycleView, RunSummary
from memrl_deploy.twin import twin

PROGRAM = "psb-1p4gev"
LOOPS, CYCLES = 16, 60
LATE = 20
"""The last third of a loop's cycles are late ones, but not more than so many."""
AFTER = 10
"""Cycles after which the first look at the error is taken."""
RESTS_BEYOND_DEG = 5.0
"""A point whose median late error is larger rests at a wrong phase."""
WITHIN_DEG = 2.0
COLUMNS = (
    "policy",
    "arrived",
    "after 10 median",
    "late median",
    "late 95 %",
    "late largest",
    "within 2 deg",
    "rest beyond 5",
    "points",
    "handed over",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Loop:
    """One closed loop: what only the simulated machine knows of it."""

    offset_deg: float
    seed: int
    error_deg: FloatArray
    """|phase error| in every decided cycle [cycles, points]; NaN where a point has no reference."""
    handed_over: str = ""
    """Why the loop did not lead to its end; empty where it did."""

    @property
    def counted(self) -> NDArray[np.intp]:
        """Points that have a reference in all late cycles, from 0."""
        return np.flatnonzero(np.isfinite(self._late_deg).all(axis=0))

    @property
    def late_deg(self) -> FloatArray:
        """The last cycles of the points that are counted [cycles, counted]."""
        return self._late_deg[:, self.counted]

    @property
    def _late_deg(self) -> FloatArray:
        return self.error_deg[-_late(len(self.error_deg)) :]

    @property
    def resting(self) -> int:
        """Points that rest at a wrong phase."""
        return int((np.median(self.late_deg, axis=0) > RESTS_BEYOND_DEG).sum())


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The machines that every policy meets."""

    program: str
    offsets_deg: tuple[float, ...]
    seed: int
    options: tuple[str, ...]
    """Further options of `memrl-ctrl machine`."""


def run(
    json_path: Path | None = None,
    *,
    policy: Annotated[list[Path] | None, Parameter(negative="", consume_multiple=True)] = None,
    program: Annotated[str, Parameter()] = PROGRAM,
    loops: Annotated[Count, Parameter()] = LOOPS,
    cycles: Annotated[Count, Parameter()] = CYCLES,
    offset_deg: Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)] = None,
    intensity: Annotated[float | None, real(0.0, 1e15, above=True)] = None,
    scenario: Annotated[str | None, Parameter()] = None,
    seed: Annotated[Seed, Parameter()] = 5,
    folder: Annotated[OutputFolder | None, Parameter()] = None,
) -> dict[str, Any]:
    """Phase errors of closed loops over all control points of a cycle, as `deploy` runs them.

    Each loop has a twin of its own, over loopback with CURVE, with another hidden offset, beam, cavity and
    noise; every policy meets the same ones, through the guard, engaging as `deploy` does. The trace of a
    loop is verified, held against what only the twin knew, and removed. Ctrl-C prints what was measured
    until then.

    Args:
        json_path: file for the JSON, or None.
        policy: policy files, or shipped policies or controllers by name; one or more. Default psb.
        program: cycle program that is played, by name or file.
        loops: closed loops of each policy; their offsets go round the circle.
        cycles: cycles that each decides.
        offset_deg: hidden offsets of the loops instead, degrees.
        intensity: protons in the ring; each twin draws its own unless given.
        scenario: what is imperfect about the machine and what goes wrong, as for `memrl-ctrl machine`.
        seed: of the first loop's twin; the next ones count on.
        folder: where to record, for a disk of your own.
    """
    policies = policy or [Path("psb")]
    load_program(program)
    for each in policies:
        load_asked(each)
    around = -180.0 + 360.0 * (np.arange(loops) + 0.5) / loops
    options = {"--intensity": intensity and f"{intensity:g}", "--scenario": scenario}
    machines = Machines(
        program=program,
        offsets_deg=tuple(around if offset_deg is None else offset_deg),
        seed=seed,
        options=tuple(word for name, value in options.items() if value for word in (name, value)),
    )
    found: dict[str, list[Loop]] = {}
    console = Terminal(stderr=str(json_path) == STDOUT)
    watch = _Watch(len(policies) * len(machines.offsets_deg) * cycles)
    with (
        scratch_folder(folder) as place,
        suppress(KeyboardInterrupt),
        work_bar(console, "closed loops"),
    ):
        for each in policies:
            done = found.setdefault(_name(each, policies), [])
            for loop in _loops(each, machines, cycles, place, watch):
                done.append(loop)
    return _published(found, machines, cycles, json_path, console)


def _name(policy: Path, among: Sequence[Path]) -> str:
    """Return what a policy is called in the table: its file's stem, where that is enough."""
    alone = sum(other.stem == policy.stem for other in among) == 1
    return policy.stem if alone else str(policy)


class _Watch:
    """A view that says how far the loops have come."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def cycle(self, view: CycleView) -> None:
        """Count it."""
        self._done += 1
        progress.report(self._done, self._total)

    def skip(self, cycles: int) -> None:
        """Leave out what a loop did not come to."""
        self._done += cycles

    def note(self, text: str) -> None:
        """What went wrong shows in the errors, or ended the loop."""

    def close(self) -> None:
        """Nothing is left to do."""


def _loops(
    policy: Path, machines: Machines, cycles: int, place: Path, watch: _Watch
) -> Iterator[Loop]:
    """Run one loop after the other; a signal ends behind the one that is being run.

    Raises:
        MachineError: a loop ended with the machine, not with its function.
        TraceError: its trace is damaged, or lacks a cycle.
    """
    for k, offset_deg in enumerate(machines.offsets_deg):
        truth, seed = place / f"truth-{machines.seed + k}.jsonl", machines.seed + k
        options = ("--program", machines.program, "--offset-deg", str(offset_deg))
        more = ("--seed", str(seed), "--truth-log", str(truth), "--quiet", *machines.options)
        with twin(place, *options, *more) as endpoint:
            runtime = _runtime(policy, endpoint, cycles, place, watch)
            with stopped_by_signals(runtime):
                summary = runtime.run()
        if summary.error is not None and not isinstance(summary.error, Disengaged):
            raise summary.error
        if runtime.stop_cause:
            raise KeyboardInterrupt
        yield _scored(summary, truth, offset_deg, seed)
        watch.skip(cycles - summary.cycles)
        truth.unlink()


def _runtime(policy: Path, endpoint: str, cycles: int, place: Path, watch: _Watch) -> Runtime:
    """Return a run as `memrl-ctrl deploy` makes it without options."""
    backend = registry.open_backend("zmq", endpoint=endpoint, keys=place / "keys")
    try:
        asked, machine = load_asked(policy), backend.description
        check_fit(asked, machine)
        inform(asked, machine)
        return Runtime(
            ClosedLoop(backend),
            asked,
            records=place / "records",
            cycles=cycles,
            view=watch,
            engage=EngageConfig(after_cycles=ENGAGE_AFTER, blend_cycles=BLEND),
            fallback=FallbackConfig(),
            classical=make_classical(None, machine)[0],
        )
    except BaseException:
        backend.close()
        raise


def _scored(summary: RunSummary, truth: Path, offset_deg: float, seed: int) -> Loop:
    """Hold a loop's trace against the truth, verify it and remove it."""
    if summary.trace is None or not summary.cycles:
        raise MachineError(f"a loop decided no cycle: {summary.reason}")
    with TraceReader(summary.trace) as trace:
        error_deg = np.degrees(np.abs(truth_of(trace, truth).phase_error_rad))
    checked_and_removed(summary)
    return Loop(
        offset_deg=offset_deg,
        seed=seed,
        error_deg=error_deg,
        handed_over="" if summary.error is None else str(summary.error),
    )


def _late(cycles: int) -> int:
    """Return how many of so many cycles are late ones."""
    return max(1, min(LATE, cycles // 3))


def figures_of(loops: Sequence[Loop]) -> dict[str, float]:
    """Return the figures of a policy's loops; NaN where no point has a reference."""
    late = [loop.late_deg for loop in loops]
    errors = np.concatenate([each.ravel() for each in late])
    early = np.concatenate([loop.error_deg[min(AFTER, len(loop.error_deg) - 1)] for loop in loops])
    early = early[np.isfinite(early)]
    there = errors.size > 0
    points = sum(loop.error_deg.shape[1] for loop in loops)
    counted = sum(loop.counted.size for loop in loops)
    return {
        "loops": float(len(loops)),
        "arrived_share": float(
            np.mean([not loop.resting and not loop.handed_over for loop in loops])
        ),
        "median_deg_after_10": float(np.median(early)) if early.size else np.nan,
        "late_median_deg": float(np.median(errors)) if there else np.nan,
        "late_p95_deg": float(np.percentile(errors, 95.0)) if there else np.nan,
        "late_largest_deg": float(errors.max()) if there else np.nan,
        "share_within_2_deg": float((errors <= WITHIN_DEG).mean()) if there else np.nan,
        "points_resting_beyond_5_deg": float(sum(loop.resting for loop in loops)),
        "points": float(counted),
        "points_without_reference": float(points - counted),
        "handed_over": float(sum(bool(loop.handed_over) for loop in loops)),
    }


def _published(
    found: dict[str, list[Loop]],
    machines: Machines,
    cycles: int,
    json_path: Path | None,
    console: Terminal,
) -> dict[str, Any]:
    """Print and write what was measured.

    Raises:
        MachineError: nothing was.
    """
    measured = {name: loops for name, loops in found.items() if loops}
    if not measured:
        raise MachineError("stopped before a loop was done")
    figures: dict[str, float] = {}
    rows, notes = [], []
    for name, loops in measured.items():
        of = figures_of(loops)
        rows.append(_row(name, of))
        figures |= {f"{name}.{key}": value for key, value in of.items()}
        notes += _said(name, loops)
    without = max(int(figures[f"{name}.points_without_reference"]) for name in measured)
    first = (
        f"{machines.program}, {len(machines.offsets_deg)} loops of {cycles} cycles each, the last "
        f"{_late(cycles)} of them late; degrees. Seeds from {machines.seed}, offsets "
        f"{', '.join(f'{each:g}' for each in machines.offsets_deg)} degrees"
        f"{''.join(f', {word}' for word in [' '.join(machines.options)] if word)}. "
        f"{without} points without a reference optimum, not counted."
    )
    if any(len(loops) < len(machines.offsets_deg) for loops in found.values()):
        notes.append("Stopped before all loops were done.")
    return publish(
        name="cycles",
        columns=COLUMNS,
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=[first, *notes],
        console=console,
    )


def _row(name: str, of: dict[str, float]) -> dict[str, Any]:
    loops = int(of["loops"])
    return {
        "policy": name,
        "arrived": f"{round(of['arrived_share'] * loops)} of {loops}",
        "after 10 median": round(of["median_deg_after_10"], 2),
        "late median": round(of["late_median_deg"], 2),
        "late 95 %": round(of["late_p95_deg"], 2),
        "late largest": round(of["late_largest_deg"], 1),
        "within 2 deg": f"{100.0 * of['share_within_2_deg']:.1f} %",
        "rest beyond 5": int(of["points_resting_beyond_5_deg"]),
        "points": int(of["points"]),
        "handed over": int(of["handed_over"]),
    }


def _said(name: str, loops: Sequence[Loop]) -> list[str]:
    """Say in words which loop went worst, and which did not go to their end."""
    said = []
    scored = [loop for loop in loops if loop.late_deg.size]
    if scored:
        worst = max(scored, key=lambda loop: float(loop.late_deg.max()))
        point = worst.counted[worst.late_deg.max(axis=0).argmax()]
        said.append(
            f"{name}: the largest late error, {worst.late_deg.max():.1f} degrees, is at control point "
            f"{point + 1} in the loop with an offset of {worst.offset_deg:g} degrees (seed {worst.seed})."
        )
    said += [
        f"{name}: the loop with an offset of {loop.offset_deg:g} degrees (seed {loop.seed}) did not lead "
        f"to the end of its {len(loop.error_deg)} cycles: {loop.handed_over}."
        for loop in loops
        if loop.handed_over
    ]
    return said
