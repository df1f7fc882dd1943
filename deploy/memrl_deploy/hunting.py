"""Whether the loop moves points to and fro and gets nowhere: told, no more.

A policy that is shown something else than what its last function did (profiles two cycles late, points in
another order, a cavity that turns too far or the other way) answers its own past: each step is within every
limit, the beam is about right in the mean, and the function never comes to rest. Controls engineers call it
hunting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KIND = "hunting"
CYCLES = 40
"""Changes in a row that are looked at."""
USELESS_DEG = 200.0
"""Way that a point goes and goes back again over these, degrees. A point without a reference, where the
field hardly rises, was seen to go 117 on a machine as it should be, all others far less; a loop that
hunts, 240 to 2,800."""
TURNS = 4
"""Times that it turns round; on its way back by a turn of the circle a point does so twice."""
MOVE_DEG = 1.0
"""A smaller change has no direction, degrees."""
NAMED = 5
"""So many points are named in a sentence."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Hunt:
    """Which points go to and fro."""

    points: tuple[int, ...]
    useless_deg: float
    """Way that leads nowhere, of the point that has most of it, degrees in `CYCLES`."""

    def event(self, cycle: int) -> dict[str, Any]:
        """Return it as an event of a cycle's record."""
        return {
            "kind": KIND,
            "cycle": cycle,
            "points": list(self.points),
            "useless_deg": round(self.useless_deg, 1),
        }

    @property
    def numbers(self) -> str:
        """What was seen, in words."""
        named = ", ".join(str(point) for point in self.points[:NAMED])
        more = f" and {len(self.points) - NAMED} more" if len(self.points) > NAMED else ""
        each = self.useless_deg / CYCLES
        return (
            f"point{'s' * (len(self.points) > 1)} {named}{more}, up to {each:.1f} degrees a cycle"
        )

    def __str__(self) -> str:
        """Return it as a sentence for those who can take over."""
        return (
            f"the loop goes to and fro and gets nowhere, for {CYCLES} cycles now: {self.numbers}; it may be "
            "shown other points, or other cycles, than it moves; key m, or `memrl-ctrl operator take-over`, "
            "takes the machine from the loop"
        )


class Hunting:
    """Follows what is applied while the loop leads."""

    def __init__(self) -> None:
        self._applied: deque[Floats] = deque(maxlen=CYCLES + 1)
        self._told = False

    def see(self, applied_rad: Floats, *, engaged: bool) -> Hunt | None:
        """Look at a cycle; return which points hunt where that was not told yet.

        It is told again when it had stopped: when no point had half as much useless way.

        Args:
            applied_rad: what the machine says is applied [points]; what is not finite counts as unmoved.
            engaged: whether the loop leads, or led since a person engaged it.
        """
        if not engaged:
            self._applied.clear()
            self._told = False
            return None
        before = self._applied[-1] if self._applied else np.zeros_like(applied_rad)
        self._applied.append(np.where(np.isfinite(applied_rad), applied_rad, before))
        if len(self._applied) <= CYCLES:
            return None
        moves = np.degrees(np.diff(np.stack(self._applied), axis=0))
        useless = np.abs(moves).sum(axis=0) - np.abs(moves.sum(axis=0))
        if useless.max() < 0.5 * USELESS_DEG:
            self._told = False
        if self._told or useless.max() < USELESS_DEG:
            return None
        points = np.flatnonzero((useless >= USELESS_DEG) & (turns(moves) >= TURNS))
        if not points.size:
            return None
        self._told = True
        return Hunt(points=tuple(points.tolist()), useless_deg=float(useless[points].max()))


def turns(moves_deg: Floats) -> NDArray[np.int64]:
    """Return how often each point turned round [points].

    Args:
        moves_deg: changes [cycles, points], degrees.
    """
    count = np.zeros(moves_deg.shape[1], dtype=np.int64)
    heading = np.zeros(moves_deg.shape[1])
    for move in moves_deg:
        way = np.where(np.abs(move) >= MOVE_DEG, np.sign(move), 0.0)
        count += way * heading < 0.0
        heading = np.where(way != 0.0, way, heading)
    return count
