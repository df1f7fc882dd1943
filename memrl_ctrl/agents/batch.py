"""Batches of decisions as the replay gives them and the networks take them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from memrl_ctrl.agents.priorities import Drawn


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
    """Whole episodes or parts of them, with the observation behind the last decision; behind the end
    of a shorter one it repeats."""

    observation: Tensor
    """[time + 1, batch, n_observation]."""
    previous: Tensor
    """Unit actions applied before them [time + 1, batch, n_action]."""
    state: Tensor | None = None
    """What the policy's memory was at the first of them when it acted [batch, n_state]; None where
    they begin with their episodes."""


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
    """1 for a decision to learn from; 0 behind the end of a shorter episode, and in the burn-in [...]."""
    weight: Tensor
    """Importance weights of prioritised sampling, 1 without it [batch]."""
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
    drawn: Drawn | None = None
    """Where the priorities of what was drawn are; None without priorities."""

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
