"""How the two kinds of LSTM-TD3's memory are read at a decision, with the LSTM's state laid open."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from memrl_ctrl.agents.recurrent import (
    Memory,
    MemoryState,
    NoMemory,
    SequenceMemory,
    WindowMemory,
)

Mask = NDArray[np.bool_]
Features = tuple[Tensor, Tensor]
"""Memory [rows, n_memory] and features of the present [rows, n_features]; see `Memory.recall`."""


class Reader(Protocol):
    """Reads one network's memory step by step."""

    sizes: tuple[int, ...]
    """Units of its LSTM layers."""

    def reset(self, rows: int, mask: Mask | None) -> None:
        """Begin episodes, in all rows or those in `mask`."""
        ...

    def read(
        self, observation: Tensor, previous: Tensor, carried: MemoryState, normaliser: nn.Module
    ) -> tuple[Features, list[Tensor]]:
        """Read the memory at a decision.

        Args:
            observation: what is seen now, scaled [rows, n_observation].
            previous: unit action that was applied before it [rows, n_action].
            carried: the policy's memory before the decision.
            normaliser: scales observations that are carried.

        Returns:
            Features, and h and c of each LSTM layer [rows, size].
        """
        ...


def reader_of(memory: Memory) -> Reader:
    """Return what reads a memory."""
    if isinstance(memory, WindowMemory):
        return _WindowReader(memory)
    if isinstance(memory, SequenceMemory):
        return _SequenceReader(memory)
    return _NoReader(memory)


class _NoReader:
    def __init__(self, memory: Memory) -> None:
        if not isinstance(memory, NoMemory):
            raise TypeError(f"no reader for {type(memory).__name__}")
        self._n_features = memory.n_features
        self.sizes: tuple[int, ...] = ()

    def reset(self, rows: int, mask: Mask | None) -> None:
        """See `Reader`."""

    def read(
        self, observation: Tensor, previous: Tensor, carried: MemoryState, normaliser: nn.Module
    ) -> tuple[Features, list[Tensor]]:
        """See `Reader`."""
        return (observation[:, :0], observation[:, : self._n_features]), []


class _SequenceReader:
    """Carries a state of its own: that of a critic is not part of the policy's memory."""

    def __init__(self, memory: SequenceMemory) -> None:
        self._memory = memory
        self.sizes = memory.sizes
        self._state: list[Tensor] = []

    def reset(self, rows: int, mask: Mask | None) -> None:
        """See `Reader`."""
        fresh = [torch.zeros(rows, width) for width in self._memory.carried.values()]
        if mask is not None:
            keeps = torch.from_numpy(~mask)
            for new, old in zip(fresh, self._state, strict=True):
                new[keeps] = old[keeps]
        self._state = fresh

    def read(
        self, observation: Tensor, previous: Tensor, carried: MemoryState, normaliser: nn.Module
    ) -> tuple[Features, list[Tensor]]:
        """See `Reader`."""
        memory, features, state = self._memory(
            observation.unsqueeze(0), previous.unsqueeze(0), tuple(self._state)
        )
        self._state = list(state)
        return (memory.squeeze(0), features.squeeze(0)), self._state[: 2 * len(self.sizes)]


class _WindowReader:
    """Reads the window that the policy carries; see `WindowPolicy.step` for its form."""

    def __init__(self, memory: WindowMemory) -> None:
        self._memory = memory
        self.sizes = memory.lstm.sizes

    def reset(self, rows: int, mask: Mask | None) -> None:
        """See `Reader`."""

    def read(
        self, observation: Tensor, previous: Tensor, carried: MemoryState, normaliser: nn.Module
    ) -> tuple[Features, list[Tensor]]:
        """See `Reader`."""
        observations, actions, count = carried
        count = count.squeeze(-1).to(torch.int64)
        # The action behind the newest observation is known only now.
        newest = torch.arange(actions.shape[1]) == (count.unsqueeze(-1) - 1)
        actions = torch.where(newest.unsqueeze(-1), previous.unsqueeze(1), actions)
        seen = normaliser(observations).transpose(0, 1)
        steps = self._memory.before(self._memory.steps(seen, actions.transpose(0, 1)))
        packed = pack_padded_sequence(steps, count.clamp(min=1), enforce_sorted=False)
        filled = (count > 0).unsqueeze(-1)
        state: list[Tensor] = []
        for layer in self._memory.lstm.layers:
            packed, (h, c) = layer(packed)
            state += [h.squeeze(0) * filled, c.squeeze(0) * filled]
        return (self._memory.behind(state[-2]), observation), state
