"""Where the beam would be lost: what a fit to a recent reading says of every phase of every point.

The fit itself is made elsewhere, in its own time (`memrl_deploy.foreseeing`); here is what it leaves: the
share of the bunch that the bucket holds, and the profile's asymmetry, over the circle of phi_hw. The table
is kept in whole numbers, so that a trace holds exactly what was judged by.

The fallback holds what is applied, shot after shot, and then leads back over the phases in between, in steps
that nobody knows yet. So where a step leads, the bucket has to hold the bunch; on the way there, it must not
lose most of it.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

PHASES = 72
"""Phases of the table, from 0 on, over one turn of phi_hw."""
CELL_RAD = 2.0 * math.pi / PHASES
"""Distance of two of them, rad."""
HELD_UNITS = 250
"""Unit of the share that is held: 1 / 250."""
ASYMMETRY_UNITS = 80
"""Unit of the asymmetry: 1 / 80; a matched bunch stays within 1.5."""
UNKNOWN = -128
"""Stands for an asymmetry that does not exist."""
KIND = "outlook"
"""Kind of the event that carries a table in a trace."""
ROUNDING_RAD = 1e-9
"""So little beyond a phase of the table is at it, rad."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlook:
    """What each phase would do to the bunch of a cycle, by a model that was fitted to it."""

    cycle: int
    """Cycle whose reading was fitted."""
    held: NDArray[np.uint8]
    """Share of the bunch that the bucket holds [points, PHASES], in 1 / HELD_UNITS."""
    asymmetry: NDArray[np.int8]
    """Asymmetry of the profile [points, PHASES], in 1 / ASYMMETRY_UNITS; UNKNOWN where there is none."""

    @classmethod
    def made(cls, cycle: int, held: FloatArray, asymmetry: FloatArray) -> Outlook:
        """Make it from shares (NaN: nothing is held) and asymmetries, both [points, PHASES]."""
        shares = np.clip(np.nan_to_num(held, nan=0.0), 0.0, 1.0)
        known = np.clip(np.rint(ASYMMETRY_UNITS * asymmetry), UNKNOWN + 1, -UNKNOWN - 1)
        return cls(
            cycle=cycle,
            held=np.floor(HELD_UNITS * shares + 0.5).astype(np.uint8),
            asymmetry=np.where(np.isnan(asymmetry), UNKNOWN, known).astype(np.int8),
        )

    def event(self) -> dict[str, Any]:
        """Return what a trace keeps of it; `of` gives back the same."""
        both = self.held.tobytes() + self.asymmetry.tobytes()
        return {
            "kind": KIND,
            "cycle": self.cycle,
            "table": base64.b64encode(zlib.compress(both)).decode("ascii"),
        }

    @classmethod
    def of(cls, event: Mapping[str, Any], points: int) -> Outlook | None:
        """Return what an event holds; None if it tells of a fit that was no use.

        Raises:
            ValueError: it is no such event, or not of so many points.
        """
        text, cycle = event.get("table"), event.get("cycle")
        if event.get("kind") != KIND or not isinstance(cycle, int):
            raise ValueError(f"no {KIND} of a cycle: {sorted(event)}")
        if text is None:
            return None
        size = points * PHASES
        try:
            unpacking = zlib.decompressobj()
            both = unpacking.decompress(base64.b64decode(str(text), validate=True), 2 * size + 1)
        except (zlib.error, binascii.Error) as error:
            raise ValueError(f"the table of the {KIND} of cycle {cycle} is damaged") from error
        if len(both) != 2 * size:
            raise ValueError(f"the table of the {KIND} of cycle {cycle} is not of {points} points")
        shape = (points, PHASES)
        return cls(
            cycle=cycle,
            held=np.frombuffer(both[:size], dtype=np.uint8).reshape(shape),
            asymmetry=np.frombuffer(both[size:], dtype=np.int8).reshape(shape),
        )

    @cached_property
    def _lost(self) -> FloatArray:
        """Share that is lost [points, PHASES]."""
        return np.asarray(1.0 - self.held / HELD_UNITS)

    @cached_property
    def _most_lost(self) -> float:
        """Largest loss of any phase beyond the least of its point."""
        return float((self._lost - self._lost.min(axis=1, keepdims=True)).max())

    def nearest(
        self, target_rad: FloatArray, applied_rad: FloatArray, *, stays: float, passes: float
    ) -> FloatArray:
        """Return the targets, or what comes nearest on the way there [points], rad.

        A point may stay at a phase that loses no more than `stays` beyond the least of all phases, and
        may pass by phases that lose no more than `passes` beyond it: a fallback comes back over them.
        What is lost already where the point is may be lost further on. Between two phases of the table the
        larger loss counts.

        Args:
            target_rad: where to [points], rad.
            applied_rad: what is applied now [points], rad, less than a turn from there.
            stays: share of the bunch.
            passes: share of the bunch, not below `stays`.
        """
        if self._most_lost <= stays:
            return target_rad
        lost, rows = self._lost, np.arange(len(self._lost))[:, None]
        way, up = np.abs(target_rad - applied_rad)[:, None], (target_rad > applied_rad)[:, None]
        at = applied_rad[:, None] / CELL_RAD
        below = np.floor(at).astype(np.int64)
        here = np.minimum(lost[rows, below % PHASES], lost[rows, (below + 1) % PHASES])
        least = lost.min(axis=1, keepdims=True)
        # The table's phases in the order in which the point would come to them, and how far they are.
        order = np.arange(math.ceil(float(way.max()) / CELL_RAD) + 1)
        coming = np.where(up, below + 1 + order, below - order)
        far = np.abs(coming - at) * CELL_RAD
        loss = lost[rows, coming % PHASES]
        fine = loss <= np.maximum(least + stays, here)
        fine &= np.logical_and.accumulate(loss <= np.maximum(least + passes, here), axis=1)
        before = far < way - ROUNDING_RAD
        beyond = before.sum(
            axis=1, keepdims=True
        )  # the first phase of the table that is not before it
        at_it = np.take_along_axis(far, beyond, axis=1) <= way + ROUNDING_RAD
        inside = np.take_along_axis(fine, np.maximum(beyond - 1, 0), axis=1)
        free = np.take_along_axis(fine, beyond, axis=1) & (at_it | inside)
        reached = np.where(before & fine, far, 0.0).max(axis=1)
        moved = applied_rad + np.where(up[:, 0], reached, -reached)
        return np.where(free[:, 0] | (way[:, 0] <= ROUNDING_RAD), target_rad, moved)

    def explains(self, asymmetry: FloatArray, applied_rad: FloatArray, within: float) -> bool:
        """Whether it still says what is measured, at half of the points at least.

        Args:
            asymmetry: of the newest profiles [points]; NaN where there is none.
            applied_rad: what is applied now [points], rad, finite.
            within: largest difference of asymmetries.
        """
        nearest = np.rint(applied_rad / CELL_RAD).astype(np.int64) % PHASES
        told = self.asymmetry[np.arange(len(self.asymmetry)), nearest]
        known = np.isfinite(asymmetry) & (told != UNKNOWN)
        off = np.abs(told[known] / ASYMMETRY_UNITS - asymmetry[known])
        return bool(known.any() and np.median(off) <= within)
