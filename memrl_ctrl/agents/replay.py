"""Replay of experience, for windows of history and for whole episodes.

Every environment has a column of its own, a ring of rows. A row is an observation and what followed
it; an episode of T steps takes T + 1 rows, the last one (its *tail*) holding the final observation and
no action. So each observation is stored once, the next observation of a row is always the row behind
it, and neither a history nor a next observation can reach into another episode.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

Array = NDArray[Any]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Histories, left-aligned; the first `count` steps of each are valid."""

    observation: Tensor
    """[length, batch, n_observation]."""
    action: Tensor
    """Unit actions that were applied after them [length, batch, n_action]."""
    count: Tensor
    """Valid steps [batch], int64."""


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """Whole episodes, the final observation included; behind the end of a shorter one it repeats."""

    observation: Tensor
    """[time + 1, batch, n_observation]."""
    previous: Tensor
    """Unit actions applied before them [time + 1, batch, n_action]."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Decisions to learn from: [batch] of them (windows) or [time, batch] (sequences)."""

    observation: Tensor
    """[..., n_observation]."""
    action: Tensor
    """Squashed actions that the policy took, before the action map [..., n_action]."""
    reward: Tensor
    """[...]."""
    terminated: Tensor
    """1 where the task ended, so that nothing follows; 0 for a time limit [...]."""
    valid: Tensor
    """1 for a decision, 0 behind the end of a shorter episode [...]."""
    truth: Tensor
    """Privileged features [..., n_truth]."""
    next_observation: Tensor
    """[..., n_observation]."""
    next_truth: Tensor
    """[..., n_truth]."""
    window: Window | None = None
    """History before each decision."""
    next_window: Window | None = None
    """History before the next decision."""
    sequence: Sequence | None = None
    """The episodes that the decisions are from."""

    def scaled(self, scale: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every observation passed through `scale`."""
        if self.sequence is not None:
            rows = scale(self.sequence.observation)
            sequence = replace(self.sequence, observation=rows)
            return replace(
                self, sequence=sequence, observation=rows[:-1], next_observation=rows[1:]
            )
        windows = [
            None if w is None else replace(w, observation=scale(w.observation))
            for w in (self.window, self.next_window)
        ]
        return replace(
            self,
            observation=scale(self.observation),
            next_observation=scale(self.next_observation),
            window=windows[0],
            next_window=windows[1],
        )


class Replay:
    """Rings of rows, one for each environment.

    Args:
        capacity: environment steps kept, over all columns (tails take room too).
        columns: environments.
        n_observation: length of the observation.
        n_action: length of the action.
        n_truth: length of the privileged features; 0 for none.
        device: where batches go.
    """

    def __init__(
        self,
        *,
        capacity: int,
        columns: int,
        n_observation: int,
        n_action: int,
        n_truth: int = 0,
        device: str = "cpu",
    ) -> None:
        rows = -(-capacity // columns)
        shape = (columns, rows)
        self.rows, self.columns, self.device = rows, columns, device
        # Pages of np.zeros are taken from the system only when they are first written.
        self.observation = np.zeros((*shape, n_observation), dtype=np.float32)
        self.previous = np.zeros((*shape, n_action), dtype=np.float32)
        self.action = np.zeros((*shape, n_action), dtype=np.float32)
        self.truth = np.zeros((*shape, n_truth), dtype=np.float32)
        self.reward = np.zeros(shape, dtype=np.float32)
        self.terminated = np.zeros(shape, dtype=np.bool_)
        self.tail = np.zeros(shape, dtype=np.bool_)
        self.age = np.zeros(shape, dtype=np.int32)
        # Rows are numbered for ever; row q of a column lies at q % rows.
        self.written = np.zeros(columns, dtype=np.int64)
        self._age_now = np.zeros(columns, dtype=np.int32)
        self._tails = np.zeros((columns * rows // 2 + columns, 2), dtype=np.int64)
        self._first_tail = self._next_tail = 0

    def add(
        self,
        mask: Array,
        *,
        observation: Array,
        previous: Array,
        action: Array,
        reward: Array,
        terminated: Array,
        truth: Array | None = None,
    ) -> None:
        """Store one step of the environments in `mask`.

        Args:
            mask: which environments stepped [columns].
            observation: what was seen [columns, n_observation].
            previous: unit action applied before it, 0 action at the start [columns, n_action].
            action: squashed action that was taken [columns, n_action].
            reward: what it earned [columns].
            terminated: whether the task ended with it; not for time limits [columns].
            truth: privileged features of the observation [columns, n_truth].
        """
        column, row = self._open_row(mask)
        self._see((column, row), mask, observation=observation, previous=previous, truth=truth)
        self.action[column, row] = action[mask]
        self.reward[column, row] = reward[mask]
        self.terminated[column, row] = terminated[mask]
        self.tail[column, row] = False
        self._age_now[mask] += 1

    def close(
        self, mask: Array, *, observation: Array, previous: Array, truth: Array | None = None
    ) -> None:
        """End the episodes of the environments in `mask` with their final observation."""
        column, row = self._open_row(mask)
        if not column.size:
            return
        self._see((column, row), mask, observation=observation, previous=previous, truth=truth)
        self.terminated[column, row] = False
        self.tail[column, row] = True
        self._age_now[mask] = 0
        at = (self._next_tail + np.arange(column.size)) % len(self._tails)
        self._tails[at] = np.stack((column, self.written[column] - 1), axis=1)
        self._next_tail += column.size
        self._forget_tails(4 * column.size + 16)

    def break_off(self) -> None:
        """End all episodes where they are, when their continuation will never come.

        The newest step of each is given up, because its next observation is not known.
        """
        column = np.flatnonzero(self._age_now > 0)
        self.tail[column, (self.written[column] - 1) % self.rows] = True
        self._age_now[:] = 0

    @property
    def steps(self) -> int:
        """Rows in the buffer, tails included."""
        return int(np.minimum(self.written, self.rows).sum())

    @property
    def episodes(self) -> int:
        """Whole episodes in the buffer, some of which may have lost their start."""
        return self._next_tail - self._first_tail

    def sample_windows(self, size: int, length: int, rng: np.random.Generator) -> Batch:
        """Draw decisions uniformly, each with the history that acting had.

        A decision whose history the ring has overwritten in part is not drawn.

        Args:
            size: decisions.
            length: longest history, steps.
            rng: source of the draw.
        """
        column, row = self._draw(size, rng, lambda r: self._draw_rows(r, length))
        at, behind = row % self.rows, (row + 1) % self.rows
        count = np.minimum(self.age[column, at], length).astype(np.int64)
        after = np.minimum(count + 1, length)
        return Batch(
            **self._decisions(column, at, behind),
            observation=self._tensor(self.observation[column, at]),
            next_observation=self._tensor(self.observation[column, behind]),
            valid=torch.ones(size, device=self.device),
            window=self._window(column, row - count, count, length),
            next_window=self._window(column, row + 1 - after, after, length),
        )

    def sample_sequences(self, size: int, rng: np.random.Generator) -> Batch:
        """Draw whole episodes uniformly, each from its start.

        Args:
            size: episodes.
            rng: source of the draw.
        """
        column, last = self._draw(size, rng, self._draw_tails)
        steps = self.age[column, last % self.rows].astype(np.int64)
        offset = np.arange(int(steps.max()) + 1)[:, None]
        at = (last - steps + np.minimum(offset, steps)) % self.rows
        observation = self._tensor(self.observation[column, at])
        previous = self._tensor(self.previous[column, at])
        return Batch(
            **self._decisions(column, at[:-1], at[1:]),
            observation=observation[:-1],
            next_observation=observation[1:],
            valid=self._tensor((offset[:-1] < steps).astype(np.float32)),
            sequence=Sequence(observation=observation, previous=previous),
        )

    def state(self) -> dict[str, Any]:
        """Return everything, as arrays, for a checkpoint."""
        return {
            **{name: np.asarray(getattr(self, name)) for name in _STORED},
            "tail_range": np.asarray([self._first_tail, self._next_tail]),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned; shapes must agree."""
        for name in _STORED:
            array = getattr(self, name)
            if state[name].shape != array.shape:
                raise ValueError(
                    f"replay's {name} has shape {state[name].shape}, not {array.shape}"
                )
            array[...] = state[name]
        self._first_tail, self._next_tail = (int(n) for n in state["tail_range"])

    def _open_row(self, mask: Array) -> tuple[Ints, Ints]:
        column = np.flatnonzero(mask)
        row = self.written[column] % self.rows
        self.written[column] += 1
        return column, row

    def _see(
        self,
        where: tuple[Ints, Ints],
        mask: Array,
        *,
        observation: Array,
        previous: Array,
        truth: Array | None,
    ) -> None:
        column, row = where
        self.observation[column, row] = observation[mask]
        self.previous[column, row] = previous[mask]
        self.age[column, row] = self._age_now[column]
        if truth is not None:
            self.truth[column, row] = truth[mask]

    def _decisions(self, column: Ints, at: Ints, behind: Ints) -> dict[str, Any]:
        return {
            "action": self._tensor(self.action[column, at]),
            "reward": self._tensor(self.reward[column, at]),
            "terminated": self._tensor(self.terminated[column, at].astype(np.float32)),
            "truth": self._tensor(self.truth[column, at]),
            "next_truth": self._tensor(self.truth[column, behind]),
        }

    def _window(self, column: Ints, first: Ints, count: Ints, length: int) -> Window | None:
        if length == 0:
            return None
        at = first + np.minimum(np.arange(length)[:, None], np.maximum(count - 1, 0))
        return Window(
            observation=self._tensor(self.observation[column, at % self.rows]),
            # What was applied after a row is what the next row saw as applied before it.
            action=self._tensor(self.previous[column, (at + 1) % self.rows]),
            count=self._tensor(count),
        )

    def _draw(
        self,
        size: int,
        rng: np.random.Generator,
        propose: Callable[[np.random.Generator], tuple[Ints, Ints]],
    ) -> tuple[Ints, Ints]:
        """Draw by rejection: few proposals are refused, and no list of the valid is kept."""
        columns, rows, found = [], [], 0
        for _ in range(1000):
            column, row = propose(rng)
            columns.append(column)
            rows.append(row)
            found += column.size
            if found >= size:
                return np.concatenate(columns)[:size], np.concatenate(rows)[:size]
        raise ValueError("the replay buffer holds nothing that could be sampled")

    PROPOSALS = 512

    def _draw_rows(self, rng: np.random.Generator, length: int) -> tuple[Ints, Ints]:
        filled = np.minimum(self.written, self.rows)
        ends = np.cumsum(filled)
        flat = rng.integers(0, max(int(ends[-1]), 1), self.PROPOSALS)
        column = np.minimum(np.searchsorted(ends, flat, side="right"), self.columns - 1)
        oldest = (self.written - filled)[column]
        row = oldest + flat - (ends - filled)[column]
        at = row % self.rows
        whole = row - oldest >= np.minimum(self.age[column, at], length)
        good = whole & ~self.tail[column, at] & (row + 1 < self.written[column])
        return column[good], row[good]

    def _draw_tails(self, rng: np.random.Generator) -> tuple[Ints, Ints]:
        span = max(self._next_tail - self._first_tail, 1)
        pick = (self._first_tail + rng.integers(0, span, self.PROPOSALS)) % len(self._tails)
        column, last = self._tails[pick].T
        good = self._whole(column, last) & (self._next_tail > self._first_tail)
        return column[good], last[good]

    def _whole(self, column: Ints, last: Ints) -> NDArray[np.bool_]:
        """Whether the episodes with these tails are still in the ring from their start."""
        start = last - self.age[column, last % self.rows]
        oldest = self.written[column] - self.rows
        return np.asarray((last >= oldest) & (start >= oldest))

    def _forget_tails(self, most: int) -> None:
        """Drop tails at the front whose episodes the ring has overwritten."""
        self._first_tail = max(self._first_tail, self._next_tail - len(self._tails))
        span = min(most, self._next_tail - self._first_tail)
        pick = (self._first_tail + np.arange(span)) % len(self._tails)
        column, last = self._tails[pick].T
        whole = self._whole(column, last)
        self._first_tail += int(np.argmax(whole)) if whole.any() else span

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


_STORED = (
    "observation",
    "previous",
    "action",
    "truth",
    "reward",
    "terminated",
    "tail",
    "age",
    "written",
    "_age_now",
    "_tails",
)
