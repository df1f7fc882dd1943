"""Structured logs: one JSON object a line, for a service whose output a program reads."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, TextIO

import numpy as np

from memrl_deploy.summary import CycleView


class JsonView:
    """Writes each cycle and each note as one JSON object a line.

    Keys: `time` (UTC, ISO 8601), `level` (`info` or `warning`), `event` (`cycle`, `note`, `ended`) and what
    belongs to the event. Numbers that are not finite are null.

    Args:
        stream: where to write; flushed after every line.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def cycle(self, view: CycleView) -> None:
        """Write the cycle."""
        step = np.abs(view.recommended_rad - view.applied_rad)
        written = None if view.written_rad is None else np.abs(view.written_rad - view.applied_rad)
        asymmetry = np.abs(view.asymmetry)
        self._write(
            "info",
            "cycle",
            cycle=view.cycle,
            mode=view.mode,
            decided=view.decided,
            outcome=view.outcome,
            decision_ms=round(view.decision_ms, 4),
            guard=view.stages,
            largest_step_rad=_largest(step),
            largest_written_rad=None if written is None else _largest(written),
            largest_asymmetry=_largest(asymmetry),
        )

    def note(self, text: str) -> None:
        """Write something out of the ordinary."""
        self._write("warning", "note", text=text)

    def close(self) -> None:
        """Write that nothing more comes."""
        self._write("info", "ended")

    def _write(self, level: str, event: str, **what: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(), "level": level, "event": event, **what}
        self._stream.write(json.dumps(line, allow_nan=False) + "\n")
        self._stream.flush()


def _largest(values: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    finite = values[np.isfinite(values)]
    largest = float(finite.max()) if finite.size else math.nan
    return largest if math.isfinite(largest) else None
