"""An order of the LSTM's units and a plane to look at its states in, the same for all pictures of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.linalg import eigh

from memrl_ctrl.training.memory.insight import Array, Block

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_FOR_ORDER = 2_000
"""States that units are compared on."""
MOST_ORDERED = 256
"""Units of a block that are put in the best order; for more the tree's own order has to do."""
QUIET = 1e-6
"""A unit that varies less is silent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """How states are shown."""

    blocks: tuple[Block, ...]
    """Parts of the state."""
    order: Integers
    """Units in the order in which they are drawn, block by block [units]."""
    scale: Floats
    """Size that is drawn in full colour, of each block."""
    mean: Floats
    """Mean state of the actor's units [actor units]."""
    axes: Floats
    """Two leading principal components of the actor's states [actor units, 2]."""
    explained: tuple[float, float]
    """Share of the variance along each."""

    @classmethod
    def of(cls, state: Array, blocks: Sequence[Block]) -> Space:
        """Look at many states [samples, units]."""
        parts, scales, first = [], [], 0
        for block in blocks:
            part = state[:, first : first + block.size]
            parts.append(first + _alike_together(part))
            scales.append(max(float(np.percentile(np.abs(part), 99.0)), 1e-3))
            first += block.size
        units = state[:, actor_units(blocks)].astype(np.float64)
        mean = units.mean(axis=0)
        values, vectors = eigh(
            np.cov(units - mean, rowvar=False, ddof=0).reshape(2 * (units.shape[1],))
        )
        axes = vectors[:, ::-1][:, :2]
        # Their signs mean nothing: the largest weight is made positive, so that they repeat.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        if axes.shape[1] < 2:
            axes = np.pad(axes, ((0, 0), (0, 1)))
        total = max(float(values.sum()), 1e-12)
        shares = [float(v) / total for v in (*values[::-1][:2], 0.0)]
        return cls(
            blocks=tuple(blocks),
            order=np.concatenate(parts),
            scale=np.array(scales),
            mean=mean,
            axes=axes,
            explained=(shares[0], shares[1]),
        )

    def plane(self, state: Array) -> Floats:
        """Project states [samples, units] to the two components [samples, 2]."""
        projected: Floats = (state[:, actor_units(self.blocks)] - self.mean) @ self.axes
        return projected

    def drawn(self, state: Array) -> list[Floats]:
        """Return states [samples, units] as they are drawn: each block [its units, samples], -1 to 1."""
        ends = np.cumsum([block.size for block in self.blocks])[:-1]
        parts = np.split(state[:, self.order], ends, axis=1)
        return [part.T / scale for part, scale in zip(parts, self.scale, strict=True)]


def actor_units(blocks: Sequence[Block]) -> NDArray[np.bool_]:
    """Return which units are the actor's [units]: a critic's state decides nothing."""
    return np.concatenate([np.full(b.size, b.name.startswith("actor")) for b in blocks])


def _alike_together(part: Array) -> Integers:
    """Return an order of units [samples, units] in which neighbours vary alike; silent ones come last.

    Hierarchical clustering by correlation, leaves in the order of Bar-Joseph et al. 2001
    (Bioinformatics 17, S22).
    """
    part = part[:: -(-len(part) // MOST_FOR_ORDER)].astype(np.float64)
    lively = np.flatnonzero(part.std(axis=0) > QUIET)
    silent = np.setdiff1d(np.arange(part.shape[1]), lively)
    if lively.size > 2:
        centred = part[:, lively] - part[:, lively].mean(axis=0)
        centred /= np.linalg.norm(centred, axis=0)
        tree = linkage(
            centred.T,
            method="average",
            metric="euclidean",
            optimal_ordering=lively.size <= MOST_ORDERED,
        )
        lively = lively[leaves_list(tree)]
    return np.concatenate([lively, silent]).astype(np.int64)
