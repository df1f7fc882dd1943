"""Benchmark of the twin: `memrl-ctrl bench twin`, cycles a second through the whole machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from memrl_backends.twin.options import open_backend
from memrl_backends.zmq.server import CycleEvent, MachineServer
from memrl_ctrl.bench.report import publish

SCENARIOS = ("psb", "rough-day")
CYCLES = 130
REPETITIONS = 3
COLUMNS = ("what", "cycles/s", "cycles/s of CPU", "ms of CPU a cycle", "least ms of CPU")


def run(json_path: Path | None = None) -> dict[str, Any]:
    """Cycles a second of shipped scenarios, simulation and server, one thread.

    What is timed is what `memrl-ctrl machine --scenario NAME --cycles N --period 0` does between its
    first and its last cycle. Other processes slow the clock's figure, less so that of CPU time.

    Args:
        json_path: file for the JSON, or None.

    Returns:
        What was written (see `memrl_ctrl.bench.report.publish`).
    """
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for name in SCENARIOS:
        wall_s, cpu_s = np.transpose([_cycle_s(name) for _ in range(REPETITIONS)])
        key = name.replace("-", "_")
        figures[f"cycles_per_s_{key}"] = float(1.0 / np.median(wall_s))
        figures[f"cycles_per_cpu_s_{key}"] = float(1.0 / np.median(cpu_s))
        rows.append(
            {
                "what": f"{name}: 30 points x 1000 slices",
                "cycles/s": figures[f"cycles_per_s_{key}"],
                "cycles/s of CPU": figures[f"cycles_per_cpu_s_{key}"],
                "ms of CPU a cycle": float(1e3 * np.median(cpu_s)),
                "least ms of CPU": float(1e3 * cpu_s.min()),
            }
        )
    return publish(
        name="twin",
        columns=COLUMNS,
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=[f"{CYCLES} cycles each, median of {REPETITIONS}; scenarios: docs/scenarios.md"],
    )


def _cycle_s(scenario: str) -> tuple[float, float]:
    """Return time and CPU time of a cycle, s."""
    backend = open_backend(scenario=scenario, seed=7)
    seen: list[tuple[int, float, float]] = []

    def note(event: CycleEvent) -> None:
        seen.append((event.reading.cycle, time.perf_counter(), time.process_time()))

    server = MachineServer(
        backend,
        endpoint="tcp://127.0.0.1:0",
        period_s=0.0,
        insecure_loopback=True,
        cycles=CYCLES,
        idle_s=0.0,
        on_cycle=note,
    )
    try:
        server.run()
    finally:
        backend.close()
    (first, wall_s, cpu_s), (last, wall_end_s, cpu_end_s) = seen[0], seen[-1]
    return (wall_end_s - wall_s) / (last - first), (cpu_end_s - cpu_s) / (last - first)
