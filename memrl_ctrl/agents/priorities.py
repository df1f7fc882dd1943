# mypy: disable-error-code="no-untyped-def"
"""Prioritised sampling: a sum tree over the rows of a replay, compiled.

Schaul, Quan, Antonoglou, Silver 2016 (arXiv 1511.05952): a row is drawn with probability proportional
to priority^alpha, and its loss is weighted by (N P)^-beta, divided by the largest weight of the batch.
What cannot be drawn has priority 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.compiling import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Leaves that were drawn; arrays [size]."""

    column: Ints
    """Column of each leaf."""
    row: Ints
    """Its place in the column, 0 to rows - 1."""
    probability: Floats
    """With which probability each draw took that leaf."""


class PriorityTree:
    """A sum tree with one subtree for each column, above them a tree of the columns.

    Every inner node is the sum of its two children, computed anew from them when a leaf changes: no
    rounding error builds up.

    Args:
        columns: subtrees.
        rows: leaves of each.
    """

    def __init__(self, *, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._width = 1 << (rows - 1).bit_length()  # leaves of a subtree, a power of 2
        self._tops = 1 << (columns - 1).bit_length()
        self.nodes = np.zeros(2 * self._tops * self._width)

    @property
    def total(self) -> float:
        """Sum of all leaves."""
        return float(self.nodes[1])

    @property
    def column_totals(self) -> Floats:
        """Sum of each column's leaves [columns]."""
        return self.nodes[self._tops : self._tops + self.columns]

    @property
    def leaves(self) -> Floats:
        """All leaves [columns, rows]; a view."""
        first = self._tops * self._width
        return self.nodes[first:].reshape(self._tops, self._width)[: self.columns, : self.rows]

    def set(self, column: Ints, row: Ints, value: Floats) -> None:
        """Give leaves [n] their values, at least 0; of a leaf named twice the last one counts."""
        leaf = self._tops * self._width + column * self._width + row
        _set(self.nodes, leaf, np.ascontiguousarray(value, dtype=np.float64))

    def draw(self, size: int, rng: np.random.Generator, *, separate: bool = False) -> Drawn:
        """Draw leaves, stratified, with probabilities proportional to their values.

        Args:
            size: how many.
            rng: source of the draw.
            separate: as many from each column that has anything, instead of from all together.

        Raises:
            ValueError: all leaves are 0.
        """
        if not self.total > 0.0:
            raise ValueError("the replay buffer holds nothing that could be sampled")
        where = rng.random(size)
        root = np.ones(size, dtype=np.int64)
        if separate:
            filled = np.flatnonzero(self.column_totals > 0.0)
            chosen = filled[np.arange(size) % filled.size]
            root = self._tops + chosen
        else:
            where = (np.arange(size) + where) / size
        leaf = np.empty(size, dtype=np.int64)
        _find(self.nodes, root, where, leaf)
        index = leaf - self._tops * self._width
        probability = self.nodes[leaf] / self.nodes[root]
        if separate:
            probability = probability / filled.size
        return Drawn(column=index // self._width, row=index % self._width, probability=probability)


@compiled
def _set(nodes: Any, leaf: Any, value: Any) -> None:
    for i in range(leaf.shape[0]):
        node = leaf[i]
        nodes[node] = value[i]
        node //= 2
        while node >= 1:
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1]
            node //= 2


@compiled
def _find(nodes: Any, root: Any, where: Any, leaf: Any) -> None:
    """Descend from each root to the leaf at a share `where` in [0, 1) of its sum."""
    first = nodes.shape[0] // 2
    for i in range(leaf.shape[0]):
        node = root[i]
        rest = where[i] * nodes[node]
        while node < first:
            node *= 2
            left = nodes[node]
            # A rounding error must not lead into an empty branch.
            if (rest >= left and nodes[node + 1] > 0.0) or left <= 0.0:
                rest -= left
                node += 1
        leaf[i] = node


@dataclass(frozen=True, kw_only=True)
class PrioritySettings:
    """How a replay draws by priority; see `Priorities`."""

    of: Literal["rows", "episodes"]
    """What has a priority: a row (windows and parts of episodes) or a whole episode."""
    alpha: float = 0.6
    """Exponent of the priorities."""
    epsilon: float = 1e-6
    """Added to each error."""
    separate: bool = False
    """Whether each environment's rows are a buffer of their own; equally many are drawn of each."""
    history: int = 0
    """Rows before a row that must still be there for it to be drawn, as far as its episode has them."""


class Priorities:
    """Priorities of a replay's rows: new rows get the largest seen so far.

    Args:
        columns, rows: shape of the replay.
        alpha: exponent of the priorities; 0 draws uniformly.
        epsilon: added to each error, so that nothing is never drawn again.
        separate: whether each column is a buffer of its own, of which equally many are drawn.
    """

    def __init__(
        self, *, columns: int, rows: int, alpha: float, epsilon: float, separate: bool = False
    ) -> None:
        self.tree = PriorityTree(columns=columns, rows=rows)
        self.alpha, self.epsilon, self.separate = alpha, epsilon, separate
        self.largest = 1.0
        self.count = 0
        """Leaves that can be drawn."""

    @classmethod
    def by(cls, settings: PrioritySettings, columns: int, rows: int) -> Priorities:
        """Return priorities of `columns` times `rows` things, as settings say."""
        return cls(
            columns=columns,
            rows=rows,
            alpha=settings.alpha,
            epsilon=settings.epsilon,
            separate=settings.separate,
        )

    def admit(self, column: Ints, row: Ints) -> None:
        """Let rows be drawn, with the largest priority seen so far."""
        self._set(column, row, np.full(column.size, self.largest**self.alpha))

    def remove(self, column: Ints, row: Ints) -> None:
        """Let rows not be drawn any more."""
        self._set(column, row, np.zeros(column.size))

    def update(self, column: Ints, row: Ints, error: Floats) -> None:
        """Take new errors (absolute TD errors) of rows that were drawn; removed rows stay so."""
        priority = np.abs(error) + self.epsilon
        kept = self.tree.leaves[column, row] > 0.0
        if not kept.any():
            return
        self.largest = max(self.largest, float(priority[kept].max()))
        self._set(column[kept], row[kept], priority[kept] ** self.alpha)

    def draw(self, size: int, rng: np.random.Generator) -> Drawn:
        """Draw rows; see `PriorityTree.draw`."""
        return self.tree.draw(size, rng, separate=self.separate)

    def weights(self, probability: Floats, beta: float) -> Floats:
        """Importance weights (N P)^-beta over the largest of them, [size]."""
        weight = (self.count * probability) ** -beta
        return np.asarray(weight / weight.max())

    def state(self) -> dict[str, Any]:
        """Return everything, as arrays, for a checkpoint."""
        leaves = self.tree.leaves.copy()
        return {"leaves": leaves, "largest": np.array(self.largest)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned; shapes must agree.

        Raises:
            ValueError: they do not.
        """
        leaves = np.asarray(state["leaves"])
        if leaves.shape != (self.tree.columns, self.tree.rows):
            raise ValueError(f"priorities have shape {leaves.shape}")
        column, row = np.nonzero(np.ones(leaves.shape, dtype=np.bool_))
        self.tree.set(column, row, leaves.ravel())
        self.count = int(np.count_nonzero(leaves))
        self.largest = float(state["largest"])

    def _set(self, column: Ints, row: Ints, value: Floats) -> None:
        if not column.size:
            return
        # A leaf named twice counts once: the last one holds.
        before = self.tree.leaves[column, row] > 0.0
        self.tree.set(column, row, value)
        after = self.tree.leaves[column, row] > 0.0
        changed = np.flatnonzero(before != after)
        if changed.size:
            names = column[changed] * self.tree.rows + row[changed]
            _, once = np.unique(names, return_index=True)
            self.count += int((after[changed][once].astype(np.int64) * 2 - 1).sum())
