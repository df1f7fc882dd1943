"""What is shown of a run, with and without a terminal."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console

from memrl_deploy.live import LineView, LiveView, bars, make_view, show_summary
from memrl_deploy.pacing import SECTIONS
from memrl_deploy.summary import CycleView, RunSummary


def view(cycle: int = 3) -> CycleView:
    return CycleView(
        mode="closed-loop",
        cycle=cycle,
        decided=cycle,
        recommended_rad=np.radians([10.0, 20.0, np.nan]),
        applied_rad=np.radians([10.0, 10.0, np.nan]),
        asymmetry=np.array([0.1, -0.3, np.nan]),
        stages={"slope": 2},
        outcome="written",
        decision_ms=1.25,
    )


def test_without_a_terminal_a_cycle_is_one_line() -> None:
    """Mode, cycle, difference, asymmetry, limits and latency stand on one plain line."""
    out = io.StringIO()
    shown = make_view(Console(file=out, width=40), "closed-loop")
    assert isinstance(shown, LineView)
    shown.cycle(view())
    shown.note("refused [late]")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    for part in ("cycle 3", "closed-loop", "written", "mean 5.00", "largest 10.00", "0.2000"):
        assert part in lines[0]
    assert "slope 2" in lines[0]
    assert "1.25 ms" in lines[0]
    assert lines[1] == "! refused [late]"


def test_in_a_terminal_a_block_is_redrawn() -> None:
    """The block has both functions as bars, and ends with the last cycle."""
    out = io.StringIO()
    shown = make_view(Console(file=out, force_terminal=True, width=100), "closed-loop")
    assert isinstance(shown, LiveView)
    for cycle in range(20):
        shown.cycle(view(cycle))
    shown.note("something")
    shown.close()
    text = out.getvalue()
    for part in ("recommended", "applied", "slope 2", "cycle 19", "! something", "▁"):
        assert part in text


def test_bars_span_the_range() -> None:
    """The lowest value is the lowest bar, the highest the highest; a flat function is drawn too."""
    assert bars(np.array([0.0, 1.0]), 0.0, 1.0) == "▁█"
    assert bars(np.zeros(3), 0.0, 0.0) == "▁▁▁"


def test_the_summary_says_where_the_trace_is() -> None:
    """Counts, percentiles and the trace's place are printed, and what went wrong with it."""
    out = io.StringIO()
    summary = RunSummary(
        mode="closed-loop",
        machine="psb",
        cycles=5,
        written=4,
        missed=Counter({"late": 1}),
        asymmetry=[0.4, 0.1],
        times_ns=np.full((5, len(SECTIONS)), 1_000_000),
        reason="all cycles done",
        trace=Path("records/x/trace.h5"),
        trace_problem="disk full",
    )
    show_summary(summary, Console(file=out, width=100))
    text = out.getvalue()
    for part in ("missed: late", "0.4000 to 0.1000", "8.00, 8.00, 8.00 ms", "records/x/trace.h5"):
        assert part in text
    assert "! disk full" in text
