"""The run in the terminal: a block that is redrawn, or a line a cycle where there is no terminal."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from memrl_ctrl.metrics import mean_known
from memrl_ctrl.texts import clean
from memrl_deploy.pacing import SECTIONS
from memrl_deploy.summary import CycleView, RunSummary, View

REDRAW_S = 0.1
"""Least time between two drawings, s; cycles in between are not drawn."""
BARS = "▁▂▃▄▅▆▇█"


def bars(phi_rad: NDArray[np.float64], low: float, high: float) -> str:
    """Draw a function as a row of bars between `low` and `high`."""
    span = max(high - low, 1e-9)
    levels = np.clip((phi_rad - low) / span * (len(BARS) - 1), 0, len(BARS) - 1)
    return "".join(BARS[int(level)] for level in np.nan_to_num(levels).round())


def mean_asymmetry(view: CycleView) -> float:
    """Return the mean |asymmetry| over the points that have one; NaN if none has."""
    return float(mean_known(np.abs(view.asymmetry)))


def _difference(view: CycleView, phi_hw_rad: NDArray[np.float64]) -> str:
    step = np.degrees(np.abs(phi_hw_rad - view.applied_rad))
    step = step[np.isfinite(step)]
    if not step.size:
        return "none known"
    return f"mean {step.mean():.2f}°, largest {step.max():.2f}°"


def _limits(view: CycleView) -> str:
    return ", ".join(f"{name} {count}" for name, count in view.stages.items()) or "none"


class LineView:
    """One line a cycle."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def cycle(self, view: CycleView) -> None:
        """Print the cycle."""
        other = view.other_rad
        written = "" if other is None else f"written - applied: {_difference(view, other)}  "
        self._console.print(
            f"cycle {view.cycle}  {view.mode}  {view.outcome}  "
            f"recommended - applied: {_difference(view, view.recommended_rad)}  {written}"
            f"asymmetry {mean_asymmetry(view):.4f}  limits: {_limits(view)}  "
            f"{view.decision_ms:.2f} ms",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )

    def note(self, text: str) -> None:
        """Print it on a line of its own."""
        self._console.print(f"! {clean(text)}", soft_wrap=True, highlight=False, markup=False)

    def close(self) -> None:
        """Nothing is left to do."""


def in_foreground() -> bool:
    """Whether a person can press keys: standard input is a terminal, and this run is in its foreground."""
    return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()


class LiveView:
    """A block of lines that is redrawn; notes scroll above it. No thread of its own."""

    def __init__(self, console: Console, mode: str) -> None:
        self._console = console
        self._leads = mode != "shadow"
        self.keys_work = console.is_terminal and in_foreground()
        """Whether keys are listened to: they are said only then."""
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._live.start()
        self._last: CycleView | None = None
        self._drawn_s = 0.0

    def cycle(self, view: CycleView) -> None:
        """Draw the cycle, unless the last one was drawn just now."""
        self._last = view
        now = time.monotonic()
        if now - self._drawn_s >= REDRAW_S:
            self._drawn_s = now
            self._live.update(self._table(view), refresh=True)

    def note(self, text: str) -> None:
        """Print it above the block."""
        self._console.print(Text(f"! {clean(text)}", style="yellow"), soft_wrap=True)

    def close(self) -> None:
        """Draw the last cycle and give the terminal back."""
        if self._last is not None:
            self._live.update(self._table(self._last), refresh=True)
        self._live.stop()

    def _table(self, view: CycleView) -> Table:
        other = view.other_rad
        drawn = [view.recommended_rad, view.applied_rad]
        both = np.concatenate(drawn if other is None else [*drawn, other])
        finite = both[np.isfinite(both)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        scale = f"{np.degrees(low):.0f}° to {np.degrees(high):.0f}°"
        table = Table.grid(padding=(0, 2))
        keys = "; m: manual, e: engage" if self.keys_work and self._leads else ""
        table.add_row(
            Text(view.mode, style="bold"),
            f"cycle {view.cycle}, {view.decided} decided; Ctrl-C ends{keys}",
        )
        table.add_row("recommended", f"{bars(view.recommended_rad, low, high)}  {scale}")
        table.add_row("applied", bars(view.applied_rad, low, high))
        table.add_row("difference", _difference(view, view.recommended_rad))
        if other is not None:
            table.add_row("written", f"{bars(other, low, high)}  {_difference(view, other)}")
        table.add_row("asymmetry", f"{mean_asymmetry(view):.4f} (mean of |skewness|)")
        table.add_row("limits hit", _limits(view))
        table.add_row("decision", f"{view.decision_ms:.2f} ms, {view.outcome}")
        return table


def make_view(console: Console, mode: str) -> View:
    """Return the view that fits where the output goes."""
    return LiveView(console, mode) if console.is_terminal else LineView(console)


def show_summary(summary: RunSummary, console: Console) -> None:
    """Print what a run did, and where its trace is."""
    table = Table(title=f"{summary.mode} on {summary.machine}", show_header=False, min_width=60)

    def row(name: str, value: str) -> None:
        table.add_row(name, escape(value))

    row("ended", "by the error below" if summary.error else summary.reason or "?")
    row("cycles decided", str(summary.cycles))
    if summary.mode != "shadow":
        row("functions written", str(summary.written))
        row("cycles held by the guard", str(summary.held))
    for change in summary.changes:
        row("mode", clean(change))
    if summary.not_engaged:
        row("the policy at the end", clean(summary.not_engaged))
    if summary.unseen:
        row("cycles never seen", str(summary.unseen))
    for kind, count in sorted(summary.missed.items()):
        row(f"missed: {kind}", str(count))
    for name, found in (
        ("worse than when engaged", summary.worse),
        ("to and fro without end", summary.hunting),
    ):
        if found:
            times = f"{len(found)} times, the last: " if len(found) > 1 else ""
            row(name, times + found[-1])
    row("points altered or held", _counts(summary))
    if summary.asymmetry:
        row(
            "mean |asymmetry|, first to last",
            f"{summary.asymmetry[0]:.4f} to {summary.asymmetry[-1]:.4f}",
        )
    if len(summary.times_ns):
        median, p99, largest = summary.decision_ms(50.0, 99.0, 100.0)
        row("decision median, p99, max", f"{median:.2f}, {p99:.2f}, {largest:.2f} ms")
        row("its sections (medians)", _sections(summary))
    console.print(table)
    if summary.trace is not None:
        console.print(f"trace: {summary.trace}", soft_wrap=True, highlight=False, markup=False)
    if summary.trace_problem:
        console.print(f"! {summary.trace_problem}", soft_wrap=True, highlight=False, markup=False)


def _sections(summary: RunSummary) -> str:
    medians = np.median(summary.times_ns, axis=0) / 1e6
    named = zip(SECTIONS[1:], medians[1:], strict=True)
    return ", ".join(f"{name} {value:.2f}" for name, value in named if value) + " ms"


def _counts(summary: RunSummary) -> str:
    return ", ".join(f"{name} {count}" for name, count in summary.stages.items()) or "none"
