"""Replay of experience, for windows of history, for whole episodes and for parts of them.

Every environment has a column of its own, a ring of rows. A row is an observation and what followed
it; an episode of T steps takes T + 1 rows, the last one (its *tail*) holding the final observation and
no action. So each observation is stored once, the next observation of a row is always the row behind
it, and neither a history nor a next observation can reach into another episode.

With priorities, a row can be drawn from when the row behind it is written until the ring overwrites it or
a part of its history; a whole episode from its end until the ring overwrites its start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memrl_ctrl.agents.batch import Batch, Sequence, Window
from memrl_ctrl.agents.priorities import Drawn, Priorities, PrioritySettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Array = NDArray[Any]
Ints = NDArray[np.int64]


class Replay:
    """Rings of rows, one for each environment.

    Args:
        capacity: environment steps kept, over all columns (tails take room too).
        columns: environments.
        n_observation: length of the observation.
        n_action: length of the action.
        n_truth: length of the privileged features; 0 for none.
        n_state: length of the policy's memory, kept for each row at half precision; 0 for none.
        priorities: how to draw by priority; None draws uniformly.
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
        n_state: int = 0,
        priorities: PrioritySettings | None = None,
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
        self.policy_state = np.zeros((*shape, n_state), dtype=np.float16)
        self.reward = np.zeros(shape, dtype=np.float32)
        self.terminated = np.zeros(shape, dtype=np.bool_)
        self.tail = np.zeros(shape, dtype=np.bool_)
        self.age = np.zeros(shape, dtype=np.int32)
        # Rows are numbered for ever; row q of a column lies at q % rows.
        self.written = np.zeros(columns, dtype=np.int64)
        self._age_now = np.zeros(columns, dtype=np.int32)
        self._tails = np.zeros((columns * rows // 2 + columns, 2), dtype=np.int64)
        self._first_tail = self._next_tail = 0
        # Where the list of tails has the episode that starts at a row; -1 for none.
        listed = priorities is not None and priorities.of == "episodes"
        self._listed = np.full((columns, rows if listed else 0), -1, dtype=np.int32)
        self._settings = priorities
        leaves = (1, len(self._tails)) if listed else shape
        self.priorities = Priorities.by(priorities, *leaves) if priorities else None

    # --- storing ------------------------------------------------------------------------------------

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
        state: Array | None = None,
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
            state: the policy's memory when it saw the observation [columns, n_state].
        """
        column, row = self._open_row(mask)
        self._see((column, row), mask, observation=observation, previous=previous, truth=truth)
        self.action[column, row] = action[mask]
        self.reward[column, row] = reward[mask]
        self.terminated[column, row] = terminated[mask]
        self.tail[column, row] = False
        if state is not None:
            self.policy_state[column, row] = state[mask]
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
        last = self.written[column] - 1
        self._tails[at] = np.stack((column, last), axis=1)
        self._next_tail += column.size
        if self.priorities is not None and self._of_episodes:
            whole = self._whole(column, last)
            place = at[whole]
            self.priorities.admit(np.zeros_like(place), place)
            start = (last - self.age[column, row])[whole] % self.rows
            self._listed[column[whole], start] = place
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

    @property
    def nbytes(self) -> int:
        """Memory that a full buffer takes, bytes."""
        tree = 0 if self.priorities is None else self.priorities.tree.nodes.nbytes
        return tree + sum(int(getattr(self, name).nbytes) for name in (*_ROWS, *_WHOLE))

    # --- sampling -----------------------------------------------------------------------------------

    def sample_windows(
        self, size: int, length: int, rng: np.random.Generator, *, beta: float = 0.0
    ) -> Batch:
        """Draw decisions, each with the history that acting had.

        A decision whose history the ring has overwritten in part is not drawn.

        Args:
            size: decisions.
            length: longest history, steps.
            rng: source of the draw.
            beta: exponent of the importance weights, with priorities.

        Raises:
            ValueError: there is nothing to draw.
        """
        column, row, weighting = self._draw_decisions(size, length, rng, beta)
        at, behind = row % self.rows, (row + 1) % self.rows
        count = np.minimum(self.age[column, at], length).astype(np.int64)
        after = np.minimum(count + 1, length)
        return Batch(
            **self._decisions(column, at, behind),
            **weighting,
            observation=self._tensor(self.observation[column, at]),
            next_observation=self._tensor(self.observation[column, behind]),
            valid=torch.ones(size, device=self.device),
            window=self._window(column, row - count, count, length),
            next_window=self._window(column, row + 1 - after, after, length),
        )

    def sample_sequences(self, size: int, rng: np.random.Generator, *, beta: float = 0.0) -> Batch:
        """Draw whole episodes, each from its start.

        Args:
            size: episodes.
            rng: source of the draw.
            beta: exponent of the importance weights, with priorities.

        Raises:
            ValueError: there is nothing to draw.
        """
        drawn = None
        if self.priorities is None:
            column, last = self._draw(size, rng, self._draw_tails)
        else:
            drawn = self.priorities.draw(size, rng)
            column, last = self._tails[drawn.row].T
        steps = self.age[column, last % self.rows].astype(np.int64)
        offset = np.arange(int(steps.max()) + 1)[:, None]
        at = (last - steps + np.minimum(offset, steps)) % self.rows
        valid = offset[:-1] < steps
        return self._sequence(column, at, valid, self._weighting(drawn, size, beta))

    def sample_parts(
        self,
        size: int,
        length: int,
        burn_in: int,
        rng: np.random.Generator,
        *,
        beta: float = 0.0,
    ) -> Batch:
        """Draw parts of episodes, each beginning up to `burn_in` steps before a step that is drawn.

        The burn-in only brings the memory up to date: its decisions are not valid. A part that begins
        with its episode needs none, and all of its decisions are valid.

        Args:
            size: parts.
            length: decisions of a part behind the burn-in; fewer where the episode ends.
            burn_in: steps of the burn-in.
            rng: source of the draw.
            beta: exponent of the importance weights, with priorities.

        Raises:
            ValueError: there is nothing to draw.
        """
        column, row, weighting = self._draw_decisions(size, burn_in, rng, beta)
        age = self.age[column, row % self.rows].astype(np.int64)
        start = row - np.minimum(age, burn_in)
        offset = np.arange(burn_in + length + 1)[:, None]
        # Within an episode the age grows by one a row; the first row where it does not ends the part.
        here = start + offset
        age_at_start = self.age[column, start % self.rows]
        there = (here < self.written[column]) & (
            self.age[column, here % self.rows] == age_at_start + offset
        )
        there = np.logical_and.accumulate(there, axis=0)
        count = there.sum(axis=0)
        at = (start + np.minimum(offset, count - 1)) % self.rows
        burn = np.where(age >= burn_in, burn_in, 0)
        valid = there[1:] & (offset[:-1] >= burn)
        state = self.policy_state[column, start % self.rows].astype(np.float32)
        return self._sequence(column, at, valid, weighting, state)

    def update_priorities(self, drawn: Drawn, error: Array) -> None:
        """Take the errors [size] of what was drawn."""
        if self.priorities is not None:
            self.priorities.update(drawn.column, drawn.row, error)

    def state(self) -> dict[str, Any]:
        """Return everything, as arrays, for a checkpoint; rows that were never written are left out."""
        filled = int(min(self.written.max(), self.rows))
        state = {name: np.asarray(getattr(self, name)[:, :filled]) for name in _ROWS}
        state |= {name: np.asarray(getattr(self, name)) for name in _WHOLE}
        state["tail_range"] = np.asarray([self._first_tail, self._next_tail])
        if self.priorities is not None:
            state |= {f"priority_{k}": v for k, v in self.priorities.state().items()}
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned.

        Raises:
            ValueError: shapes do not agree, or one has priorities and the other has not.
        """
        if (self.priorities is None) == any(name.startswith("priority_") for name in state):
            raise ValueError("one has priorities and the other has none")
        filled = int(min(state["written"].max(), self.rows))
        for name in (*_ROWS, *_WHOLE):
            array = getattr(self, name)
            part = array[:, :filled] if name in _ROWS else array
            if state[name].shape != part.shape:
                raise ValueError(f"replay's {name} has shape {state[name].shape}, not {part.shape}")
            part[...] = state[name]
        self._first_tail, self._next_tail = (int(n) for n in state["tail_range"])
        if self.priorities is not None:
            self.priorities.restore({k: state[f"priority_{k}"] for k in ("leaves", "largest")})

    # --- rows and their priorities ------------------------------------------------------------------

    @property
    def _of_episodes(self) -> bool:
        return self._settings is not None and self._settings.of == "episodes"

    def _open_row(self, mask: Array) -> tuple[Ints, Ints]:
        """Take the next row of columns; what it overwrites cannot be drawn any more."""
        column = np.flatnonzero(mask)
        number = self.written[column]
        row = number % self.rows
        if self.priorities is not None and self._of_episodes:
            self._retire_episodes(column, number)
        self.written[column] += 1
        if self.priorities is not None and not self._of_episodes:
            self.priorities.remove(column, row)
            self._retire_histories(column)
            self._admit_rows(column, number - 1)
        return column, row

    def _admit_rows(self, column: Ints, number: Ints) -> None:
        """Let the rows before those just opened be drawn: what follows them is known now."""
        if self.priorities is None or self._settings is None:
            return
        known = number >= np.maximum(self.written[column] - self.rows, 0)
        column, number = column[known], number[known]
        at = number % self.rows
        oldest = np.maximum(self.written[column] - self.rows, 0)
        whole = number - oldest >= np.minimum(self.age[column, at], self._settings.history)
        good = whole & ~self.tail[column, at]
        self.priorities.admit(column[good], at[good])

    def _retire_histories(self, column: Ints) -> None:
        """Remove the rows whose history reaches behind the oldest row."""
        if self.priorities is None or self._settings is None or not self._settings.history:
            return
        column = column[self.written[column] > self.rows]
        if not column.size:
            return
        oldest = self.written[column] - self.rows
        ahead = np.arange(min(self._settings.history, self.rows))[:, None]
        at = (oldest + ahead) % self.rows
        lost = ahead < np.minimum(self.age[column, at], self._settings.history)
        place, which = np.nonzero(lost)
        self.priorities.remove(column[which], at[place, which])

    def _retire_episodes(self, column: Ints, number: Ints) -> None:
        """Remove the whole episodes whose first rows are about to be overwritten."""
        if self.priorities is None:
            return
        at = number % self.rows
        found = self._listed[column, at].astype(np.int64)
        place = found[found >= 0]
        self._listed[column, at] = -1
        self.priorities.remove(np.zeros_like(place), place)

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

    # --- from rows to batches -----------------------------------------------------------------------

    def _decisions(self, column: Ints, at: Ints, behind: Ints) -> dict[str, Any]:
        return {
            "action": self._tensor(self.action[column, at]),
            "reward": self._tensor(self.reward[column, at]),
            "terminated": self._tensor(self.terminated[column, at].astype(np.float32)),
            "truth": self._tensor(self.truth[column, at]),
            "next_truth": self._tensor(self.truth[column, behind]),
        }

    def _sequence(
        self,
        column: Ints,
        at: Ints,
        valid: Array,
        weighting: dict[str, Any],
        state: Array | None = None,
    ) -> Batch:
        observation = self._tensor(self.observation[column, at])
        previous = self._tensor(self.previous[column, at])
        before = None if state is None else self._tensor(state)
        return Batch(
            **self._decisions(column, at[:-1], at[1:]),
            **weighting,
            observation=observation[:-1],
            next_observation=observation[1:],
            valid=self._tensor(valid.astype(np.float32)),
            sequence=Sequence(observation=observation, previous=previous, state=before),
        )

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

    def _weighting(self, drawn: Drawn | None, size: int, beta: float) -> dict[str, Any]:
        if drawn is None or self.priorities is None:
            return {"weight": torch.ones(size, device=self.device)}
        weight = self.priorities.weights(drawn.probability, beta).astype(np.float32)
        return {"weight": self._tensor(weight), "drawn": drawn}

    # --- drawing ------------------------------------------------------------------------------------

    def _draw_decisions(
        self, size: int, history: int, rng: np.random.Generator, beta: float
    ) -> tuple[Ints, Ints, dict[str, Any]]:
        """Draw rows whose history is there, uniformly or by priority."""
        if self.priorities is None:
            column, row = self._draw(size, rng, lambda r: self._draw_rows(r, history))
            return column, row, self._weighting(None, size, beta)
        if self._settings is not None and history > self._settings.history:
            raise ValueError("the priorities were made for a shorter history")
        drawn = self.priorities.draw(size, rng)
        newest = self.written[drawn.column] - 1
        row = newest - (newest - drawn.row) % self.rows
        return drawn.column, row, self._weighting(drawn, size, beta)

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


_ROWS = (
    *("observation", "previous", "action", "truth", "policy_state"),
    *("reward", "terminated", "tail", "age"),
)
"""Arrays [columns, rows, ...]."""
_WHOLE = ("written", "_age_now", "_tails", "_listed")
"""Arrays that are kept as a whole."""
