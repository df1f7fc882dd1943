"""Bunches that differ from shot to shot, and the reference optimum of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from memrl_backends.blond.scenario import Draw, Drawn, merged
from memrl_ctrl.angles import wrap

FloatArray = NDArray[np.float64]

CUT = 3.0
"""A bunch differs from the drawn one by at most this many standard deviations."""
SMOOTH_RAD = 0.35
"""Where the reference moves by more than this within the scatter it is computed for every shot: it may
have jumped from one optimum to another, and no polynomial follows."""


class Shots:
    """Scatters intensity and emittance about those that were drawn at the start.

    A reference optimum takes ten times as long to find as a profile. So it is found once where each
    quantity is as drawn and `CUT` deviations to both sides, and in between interpolated by parabolas.

    Args:
        draw: what draws bunches and finds their references.
        ctime_ms: control points [points], which share one bunch; None where the rows are unrelated.
    """

    def __init__(self, draw: Draw, *, ctime_ms: FloatArray | None) -> None:
        self._draw = draw
        self._ctime_ms = ctime_ms
        scenario = draw.scenario
        self._sigma = (scenario.intensity_scatter, scenario.emittance_scatter)
        self._nodes = [np.array([-1.0, 0.0, 1.0]) if s > 0.0 else np.zeros(1) for s in self._sigma]
        self._nominal: Drawn | None = None
        # How far the reference moves at the nodes [intensity, emittance, rows], rad.
        self._moves: FloatArray = np.zeros((1, 1, 0))

    def begin(self, drawn: Drawn, rows: NDArray[np.int64]) -> None:
        """Take what was drawn, new in `rows`."""
        moves = self._moved_at_nodes(drawn, rows)
        if self._nominal is None or rows.size == len(drawn.conditions):
            self._nominal, self._moves = drawn, moves
            return
        self._nominal = merged(self._nominal, drawn.take(rows), rows)
        self._moves = self._moves.copy()
        self._moves[:, :, rows] = moves

    def next(self, rng: np.random.Generator) -> Drawn:
        """Return the bunches of another shot, in all rows."""
        nominal = self._nominal
        if nominal is None:
            raise RuntimeError("no bunch was drawn yet")
        count = len(nominal.conditions)
        size = count if self._ctime_ms is None else 1
        share = [
            np.broadcast_to(np.clip(rng.standard_normal(size) / CUT, -1.0, 1.0), count)
            for _ in self._sigma
        ]
        conditions = nominal.conditions.replace(
            intensity=nominal.conditions.intensity * (1.0 + CUT * self._sigma[0] * share[0]),
            emittance_evs=nominal.conditions.emittance_evs
            * (1.0 + CUT * self._sigma[1] * share[1]),
        )
        weights = [_parabola(u) if n.size == 3 else np.ones((1, count)) for u, n in
                   zip(share, self._nodes, strict=True)]  # fmt: skip
        move = np.einsum("ar,br,abr->r", *weights, self._moves)
        shot = replace(
            nominal,
            conditions=conditions,
            reference_rad=wrap(nominal.reference_rad + move),
            goal_rad=wrap(nominal.goal_rad + move),
        )
        unsmooth = np.flatnonzero(~np.isfinite(move))
        if not unsmooth.size:
            return shot
        return merged(shot, self._found(shot, unsmooth), unsmooth)

    def _found(self, drawn: Drawn, rows: NDArray[np.int64]) -> Drawn:
        """Return some rows with references found for them."""
        ctime_ms = None if self._ctime_ms is None else self._ctime_ms[rows]
        found = self._draw.with_reference(drawn.conditions.take(rows), ctime_ms)
        return replace(drawn.take(rows), reference_rad=found.reference_rad, goal_rad=found.goal_rad)

    def _moved_at_nodes(self, drawn: Drawn, rows: NDArray[np.int64]) -> FloatArray:
        """Return how far the reference of `rows` moves at the nodes, or where there is none the goal.

        NaN where it is not smooth, or where a reference comes or goes within the scatter.
        """
        moves = np.zeros((self._nodes[0].size, self._nodes[1].size, rows.size))
        if self._draw.reference is not None and self._ctime_ms is not None:
            return moves  # the user's own reference, whatever the bunch
        part = drawn.take(rows)
        for a, more in enumerate(CUT * self._sigma[0] * self._nodes[0]):
            for b, wider in enumerate(CUT * self._sigma[1] * self._nodes[1]):
                if more == wider == 0.0:
                    continue
                conditions = part.conditions.replace(
                    intensity=part.conditions.intensity * (1.0 + more),
                    emittance_evs=part.conditions.emittance_evs * (1.0 + wider),
                )
                there = self._draw.with_reference(conditions, None)
                moves[a, b] = wrap(there.goal_rad - part.goal_rad)
                appears = np.isnan(there.reference_rad) != np.isnan(part.reference_rad)
                moves[a, b, appears] = np.nan
        smooth = np.abs(moves).max(axis=(0, 1)) <= SMOOTH_RAD
        return np.where(smooth, moves, np.nan)


def _parabola(share: FloatArray) -> FloatArray:
    """Return the weights [3, rows] of values at -1, 0 and 1."""
    return np.stack([share * (share - 1.0) / 2.0, 1.0 - share**2, share * (share + 1.0) / 2.0])
