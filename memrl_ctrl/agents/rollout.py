"""A round of experience for on-policy learning: its advantages, and its sequences.

Arrays are time-major, [time, rows, ...]. Sequences end where episodes end: each is a stretch of one
episode in one row, with what the policy's memory was at its first step, so that a pass over all of
them at once needs no reset inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.compiling import compiled

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """What was collected in a round. Arrays [time, rows, ...]."""

    observation: Floats
    """What was seen, scaled as the policy saw it [..., n_observation]."""
    previous: Floats
    """Unit action applied before it [..., n_action]."""
    memory: Floats
    """The policy's memory when it saw it [..., n_state]."""
    truth: Floats
    """Privileged features [..., n_truth]."""
    action: Floats
    """Action that was drawn [..., n_action]."""
    allowed: Floats | None
    """1 where a choice could be made [..., n_action]; None where all could."""
    log_prob: Floats
    """Logarithm of its probability when it was drawn."""
    value: Floats
    """Value of what was seen, by the critic of then."""
    reward: Floats
    """What the action earned, scaled as it is learnt."""
    terminated: Mask
    """Whether the task ended with it, so that nothing follows."""
    ended: Mask
    """Whether the episode ended with it, by the task or by its time limit."""
    valid: Mask
    """Whether it is a step; false where an environment used the call to restart."""
    bootstrap: Floats
    """Value of what followed, where a time limit ended the episode; elsewhere 0."""
    following: Floats
    """Value of what comes after the last step [rows]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """Stretches of episodes within a rollout."""

    row: Ints
    """Row of each [sequences]."""
    start: Ints
    """Step it starts with [sequences]."""
    length: Ints
    """Its steps [sequences]."""

    def __len__(self) -> int:
        return int(self.row.size)


def advantages(rollout: Rollout, gamma: float, gae_lambda: float) -> tuple[Floats, Floats]:
    """Return generalised advantage estimates and the values to learn, [time, rows].

    A time limit is not an end: the value of what would have followed counts. Schulman et al. 2016
    (arXiv 1506.02438), equation 16.
    """
    advantage = np.zeros_like(rollout.value)
    _estimate(
        rollout.reward,
        rollout.value,
        rollout.terminated,
        rollout.ended,
        rollout.valid,
        rollout.bootstrap,
        rollout.following,
        gamma,
        gae_lambda,
        advantage,
    )
    return advantage, advantage + rollout.value


@compiled
def _estimate(  # type: ignore[no-untyped-def]  # noqa: PLR0917 - compiled: arrays handed in place
    reward, value, terminated, ended, valid, bootstrap, following, gamma, decay, advantage
):
    steps, rows = reward.shape
    for row in range(rows):
        later, ahead = 0.0, following[row]
        for t in range(steps - 1, -1, -1):
            if not valid[t, row]:
                later, ahead = 0.0, value[t, row]
                continue
            if ended[t, row]:
                later = 0.0
                ahead = 0.0 if terminated[t, row] else bootstrap[t, row]
            later = reward[t, row] + gamma * ahead - value[t, row] + gamma * decay * later
            advantage[t, row] = later
            ahead = value[t, row]


def sequences(ended: Mask, valid: Mask, longest: int) -> Sequences:
    """Cut a rollout into sequences.

    Args:
        ended: whether the episode ended with a step [time, rows].
        valid: whether it is a step; others are in no sequence [time, rows].
        longest: most steps of a sequence; 0 for no limit.
    """
    steps, rows = ended.shape
    time = np.arange(steps)[:, None]
    first = np.ones((steps, rows), dtype=np.bool_)
    first[1:] = ended[:-1] | ~valid[:-1]
    since = time - np.maximum.accumulate(np.where(first, time, 0), axis=0)
    if longest:
        first |= since % longest == 0
    # Row by row, so that the next beginning in a row follows it.
    row, start = np.nonzero((first & valid).T)
    stop = first | ~valid
    row_of, at = np.nonzero(stop.T)
    ends = np.searchsorted(row_of * steps + at, row * steps + start, side="right")
    same = (ends < row_of.size) & (row_of[np.minimum(ends, row_of.size - 1)] == row)
    until = np.where(same, at[np.minimum(ends, row_of.size - 1)], steps)
    return Sequences(row=row, start=start, length=until - start)


def places(chosen: Sequences, pick: Ints, longest: int) -> tuple[Ints, Ints, Floats]:
    """Return where the steps of some sequences lie.

    Args:
        chosen: all sequences.
        pick: which of them [n].
        longest: steps to return.

    Returns:
        Time [longest, n] and row [n] of each step, behind the end of a shorter one its last step; and
        1 where there is a step [longest, n].
    """
    length = chosen.length[pick]
    offset = np.arange(longest)[:, None]
    time = chosen.start[pick] + np.minimum(offset, length - 1)
    return time, chosen.row[pick], (offset < length).astype(np.float32)


class RewardScale:
    """Divides rewards by the running deviation of the discounted return.

    Args:
        rows: environments.
        gamma: discount a step.
        statistics: count, mean and squared deviations of the returns so far [3]; written here, so that
            whoever holds them can keep them.
    """

    def __init__(
        self, rows: int, gamma: float, statistics: NDArray[np.float64] | None = None
    ) -> None:
        self._gamma = gamma
        self._return = np.zeros(rows)
        self._statistics = np.zeros(3) if statistics is None else statistics

    def scale(self, reward: Floats, ended: Mask, valid: Mask) -> Floats:
        """Take rewards [time, rows] into the statistics, and return them scaled."""
        returns = np.empty(reward.shape)
        for t in range(reward.shape[0]):
            self._return = self._return * self._gamma + np.where(valid[t], reward[t], 0.0)
            returns[t] = self._return
            self._return = np.where(ended[t], 0.0, self._return)
        new = returns[valid]
        count, mean, squares = (float(value) for value in self._statistics)
        if new.size:
            total = count + new.size
            difference = new.mean() - mean
            squares += new.var() * new.size + difference**2 * count * new.size / total
            mean, count = mean + difference * new.size / total, total
            self._statistics[:] = count, mean, squares
        variance = squares / count if count else 1.0
        return np.asarray(reward / np.sqrt(variance + 1e-8), dtype=np.float32)

    def state(self) -> dict[str, Any]:
        """Return everything, for a checkpoint."""
        return {"return": self._return.copy(), "statistics": self._statistics.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self._return[:] = state["return"]
        self._statistics[:] = state["statistics"]
