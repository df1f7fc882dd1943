"""What brings environments back to where they were: the seeds and actions since episodes began.

An environment whose reset with a seed, followed by the same actions, brings the same again needs no
state of its own to be saved: its present is known from its past. That holds for Gymnasium's
environments, whatever library they are from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from memrl_ctrl.errors import MismatchError

Mask = NDArray[np.bool_]

LONGEST = 5_000
"""Steps that are kept of environments whose rows never all begin together."""


class Past(Protocol):
    """Seeds and actions of the episodes that are played."""

    def begin(self, seed: int | None) -> Any:
        """Begin in all rows; return what `reset` takes as its seed."""
        ...

    def begin_again(self, mask: Mask) -> Any:
        """Begin in some rows; return what `reset` takes as its seed."""
        ...

    def note(self, action: NDArray[Any]) -> None:
        """Take the actions [rows, ...] of a step, as the environment gets them."""
        ...

    def state(self) -> dict[str, Any] | None:
        """Return it as arrays and plain values; None where it is not known."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned, and bring the environments to where they were.

        Raises:
            MismatchError: it is of environments of another kind.
        """
        ...


def past_of(env: VectorEnv[Any, Any, Any]) -> Past | None:
    """Return the kind of past that an environment without autoreset has; None for none."""
    plain = env.unwrapped
    if isinstance(plain, SyncVectorEnv) or getattr(plain, "rows_of_their_own", False):
        return PastOfRows(env)
    if getattr(plain, "repeats", False):
        return PastOfAll(env)
    return None


def seed_of(*words: int) -> int:
    """Return a seed made of some numbers."""
    return int(np.random.SeedSequence(words).generate_state(1)[0]) & (2**31 - 1)


class PastOfRows:
    """Rows that are environments of their own: each episode has a seed, of its row and number.

    Args:
        env: Gymnasium's `SyncVectorEnv`, or an environment whose rows do not touch each other, which
            says so by `rows_of_their_own` and takes a list of seeds.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self._env = env
        self._seed: int | None = None
        self._episode = np.zeros(env.num_envs, dtype=np.int64)
        # Actions since the oldest episode that is still played began, and where each one began.
        self._played: deque[NDArray[Any]] = deque()
        self._first = 0
        self._began = np.zeros(env.num_envs, dtype=np.int64)

    def begin(self, seed: int | None) -> list[int | None]:
        """See `Past`."""
        self._seed = seed
        self._episode[:] = 0
        self._played.clear()
        self._first = 0
        self._began[:] = 0
        return self._seeds()

    def begin_again(self, mask: Mask) -> list[int | None]:
        """See `Past`."""
        self._episode += mask
        self._began[mask] = self._first + len(self._played)
        while self._first < self._began.min():
            self._played.popleft()
            self._first += 1
        return self._seeds(mask)

    def note(self, action: NDArray[Any]) -> None:
        """See `Past`."""
        if self._seed is not None:
            self._played.append(np.array(action))

    def state(self) -> dict[str, Any] | None:
        """See `Past`."""
        if self._seed is None:
            return None
        return {
            "seed": self._seed,
            "episode": self._episode.copy(),
            "began": self._began - self._first,
            "played": np.array(self._played),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Past`."""
        if "episode" not in state:
            raise MismatchError(
                "the environments cannot be brought back: they were of another kind"
            )
        self._seed = int(state["seed"])
        self._episode[:], self._began[:] = state["episode"], state["began"]
        self._first = 0
        self._played = deque(np.array(state["played"]))
        plain = self._env.unwrapped
        if isinstance(plain, SyncVectorEnv):
            self._bring_back_each(plain)
        else:
            self._bring_back_together()

    def _bring_back_each(self, plain: SyncVectorEnv) -> None:
        for row, (env, seed) in enumerate(zip(plain.envs, self._seeds(), strict=True)):
            if self._episode[row]:
                # An environment's first reset may differ from its later ones in the last digits.
                env.reset(seed=seed)
            env.reset(seed=seed)
            for action in list(self._played)[int(self._began[row]) :]:
                env.step(action[row])

    def _bring_back_together(self) -> None:
        """Play all rows; what a row does before its episode began does not matter."""
        seeds: Any = self._seeds()
        self._env.reset(seed=seeds)
        for step, action in enumerate(self._played):
            begins = self._began == step
            if step and begins.any():
                self._env.reset(seed=seeds, options={"reset_mask": begins})
            self._env.step(action)
        begins = self._began == len(self._played)
        if len(self._played) and begins.any():
            self._env.reset(seed=seeds, options={"reset_mask": begins})

    def _seeds(self, mask: Mask | None = None) -> list[int | None]:
        """Return the seed of each row's episode; None in rows that are not in `mask` [rows]."""
        rows = range(self._env.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        seeds: list[int | None] = [None] * self._env.num_envs
        if self._seed is not None:
            for row in rows:
                seeds[row] = seed_of(self._seed, row, int(self._episode[row]))
        return seeds


class PastOfAll:
    """Rows that share one generator: each beginning has a seed, of its number.

    Args:
        env: the environment; `reset` with a seed and a mask begins those rows with that seed.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self._env = env
        self._seed: int | None = None
        self._number = self._number_of_all = 0
        # Since all rows began together: actions, and after how many of them which rows began again.
        self._played: list[NDArray[Any]] = []
        self._again: list[tuple[int, Mask]] = []

    def begin(self, seed: int | None) -> int | None:
        """See `Past`."""
        self._seed, self._number = seed, -1
        return self.begin_again(np.ones(self._env.num_envs, dtype=np.bool_))

    def begin_again(self, mask: Mask) -> int | None:
        """See `Past`."""
        self._number += 1
        if mask.all():
            self._number_of_all = self._number
            self._played.clear()
            self._again.clear()
        else:
            self._again.append((len(self._played), mask.copy()))
        return self._seed_of(self._number)

    def note(self, action: NDArray[Any]) -> None:
        """See `Past`."""
        if self._seed is not None and len(self._played) <= LONGEST:
            self._played.append(np.array(action))

    def state(self) -> dict[str, Any] | None:
        """See `Past`."""
        if self._seed is None or len(self._played) > LONGEST:
            return None
        masks = [mask for _, mask in self._again]
        return {
            "seed": self._seed,
            "number": self._number_of_all,
            "played": np.array(self._played),
            "again_at": np.array([at for at, _ in self._again], dtype=np.int64),
            "again": np.array(masks, dtype=np.bool_).reshape(len(masks), self._env.num_envs),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Past`."""
        if "number" not in state:
            raise MismatchError(
                "the environments cannot be brought back: they were of another kind"
            )
        self._seed = int(state["seed"])
        self._number = int(state["number"]) - 1
        everything = np.ones(self._env.num_envs, dtype=np.bool_)
        self._env.reset(seed=self.begin_again(everything))
        again = list(zip(state["again_at"].tolist(), state["again"], strict=True))
        for step in range(len(state["played"]) + 1):
            while again and again[0][0] == step:
                mask = np.array(again.pop(0)[1])
                self._env.reset(seed=self.begin_again(mask), options={"reset_mask": mask})
            if step < len(state["played"]):
                action = np.array(state["played"][step])
                self.note(action)
                self._env.step(action)

    def _seed_of(self, number: int) -> int | None:
        if self._seed is None or number == 0:
            return self._seed
        return seed_of(self._seed, number)
