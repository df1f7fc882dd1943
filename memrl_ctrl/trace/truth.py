"""What only a simulated machine knew, beside what was recorded: for scoring afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import FileError
from memrl_ctrl.trace.reader import TraceReader

FloatArray = NDArray[np.float64]

WANTED = ("phase_error_rad", "reference_rad", "offset_rad")


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The truth of a trace's cycles; arrays [cycles, points], rad."""

    phase_error_rad: FloatArray
    """Distance of phi_2 from the reference optimum; NaN where there is none."""
    reference_hw_rad: FloatArray
    """The phi_hw that would have been right: the reference optimum plus the hidden offset."""


def truth_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read a log of `memrl-ctrl machine --truth-log`, a cycle at a time.

    Yields:
        `cycle`, and of each quantity [points]; null where a point has none.

    Raises:
        FileError: it cannot be read, or is no such log.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    row["cycle"] = int(row["cycle"])
                    values = {
                        name: np.array(row[name], dtype=np.float64)
                        for name in WANTED
                        if name in row
                    }
                except (ValueError, KeyError, TypeError) as error:
                    raise FileError(
                        path, "is no truth log of `memrl-ctrl machine --truth-log`", line=number
                    ) from error
                yield {**row, **values}
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"cannot be read as a truth log: {error}") from error


def offset_of_cycle(path: Path, cycle: int, points: int) -> FloatArray:
    """Return the hidden offset [points], rad, of one cycle.

    Raises:
        FileError: it is no truth log, or does not know this cycle with so many points.
    """
    for row in truth_rows(path):
        if row["cycle"] == cycle:
            return _checked(row, path, points, ("offset_rad",))["offset_rad"]
    raise FileError(path, f"knows nothing of cycle {cycle}")


def truth_of(trace: TraceReader, path: Path) -> Truth:
    """Return the truth of every cycle of a trace, in its order.

    Raises:
        FileError: it is no truth log, or that of another machine: a cycle is missing.
    """
    points = trace.header.machine.points
    cycles = [int(cycle) for cycle in trace.array("cycle")]
    wanted = set(cycles)
    known = {
        row["cycle"]: _checked(row, path, points)
        for row in truth_rows(path)
        if row["cycle"] in wanted
    }
    missing = sorted(wanted - set(known))
    if missing:
        raise FileError(path, f"knows nothing of cycle {missing[0]}, which {trace.path} holds")
    rows = [known[cycle] for cycle in cycles]
    return Truth(
        phase_error_rad=np.stack([row["phase_error_rad"] for row in rows]),
        reference_hw_rad=np.stack([row["reference_rad"] + row["offset_rad"] for row in rows]),
    )


def _checked(
    row: dict[str, Any], path: Path, points: int, names: Sequence[str] = WANTED
) -> dict[str, FloatArray]:
    for name in names:
        if name not in row:
            raise FileError(path, f"has no {name} for cycle {row['cycle']}")
        if row[name].shape != (points,):
            raise FileError(
                path,
                f"has {row[name].size} points for cycle {row['cycle']}, the trace {points}",
            )
    return {name: row[name] for name in names}
