"""Recording whole episodes: what was seen, what the policy held, what was hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.policy.manifest import PolicyManifest
from memrl_ctrl.training.evaluation import Policy, open_for, play_round
from memrl_ctrl.training.memory.insight import Insight, Mask
from memrl_ctrl.training.memory.secrets import Secret, success_of
from memrl_ctrl.training.stepper import Stepper
from memrl_ctrl.training.watching import Watched

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
MOST_BYTES = 192 << 20
"""Observations and states that are kept of many episodes, bytes; of more every second step, and so on."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Decisions of some episodes, one after the other; arrays [moments, ...]."""

    row: NDArray[np.int64]
    """Episode that it belongs to."""
    step: NDArray[np.int64]
    """Step within the episode, from 0."""
    observation: Array
    """What was seen [moments, n_observation]."""
    state: Array
    """LSTM state with which it was decided [moments, units]."""
    probabilities: Array | None
    """Of each choice [moments, sum of choices]; None where there are none."""
    value: Array | None
    """Expected return [moments]; None where it is not known."""
    action: Array
    """What was decided, in the task's unit; for choices their numbers [moments, n_action]."""
    reward: Array
    """What it earned."""
    hidden: Floats
    """The secrets at that time [moments, secrets]; NaN where there was none."""
    lag: NDArray[np.int64]
    """Steps since each secret was seen last [moments, secrets], 0 in sight, -1 before the first time;
    of secrets that are never in sight the step."""

    def of(self, row: int) -> Moments:
        """Return one episode."""
        return self.where(self.row == row)

    def where(self, mask: Mask) -> Moments:
        """Return some of the moments."""
        whole: dict[str, Any] = vars(self)
        chosen: dict[str, Any] = {n: None if v is None else v[mask] for n, v in whole.items()}
        return Moments(**chosen)


@dataclass(frozen=True, kw_only=True)
class Played:
    """What episodes brought; arrays [episodes]."""

    returns: Floats
    lengths: NDArray[np.int64]
    success: Mask | None
    """Whether each reached what the task asks for; None where that is not defined."""
    last_error_deg: Floats | None
    """Size of the phase error at the end, degrees; None for other tasks."""


class Recorder:
    """A policy that is played and recorded; see `memrl_ctrl.training.evaluation.Policy`.

    Args:
        insight: who decides.
        watched: the environment.
        secrets: what is noted of it.
        thin: whether steps may be left out where they are too many.
    """

    def __init__(
        self, insight: Insight, watched: Watched, secrets: Sequence[Secret], *, thin: bool = False
    ) -> None:
        self._insight, self._watched, self._secrets = insight, watched, secrets
        self._thin, self._stride, self._bytes = thin, 1, 0
        self._parts: list[dict[str, Any]] = []
        self._step = 0
        self._open: tuple[dict[str, Any], Mask] | None = None
        self._lag = np.zeros((0, len(secrets)), dtype=np.int64)

    @property
    def manifest(self) -> PolicyManifest:
        """See `Policy`."""
        return self._insight.manifest

    def reset(self, rows: int, mask: Mask | None = None) -> None:
        """See `Policy`; begins a recording."""
        self._insight.reset(rows, mask)
        self._parts.clear()
        self._step, self._bytes, self._open = 0, 0, None
        self._lag = np.full((rows, len(self._secrets)), -1, dtype=np.int64)

    def act(self, observation: Array, previous_applied: Array) -> NDArray[Any]:
        """See `Policy`; notes what was seen and decided."""
        privileged = self._watched.infos.get("privileged")
        truth = None if privileged is None else np.asarray(privileged, dtype=np.float32)
        action = self._insight.act(observation, previous_applied, truth)
        hidden = [np.asarray(secret.read(), dtype=np.float64) for secret in self._secrets]
        self._count_lags()
        rows = len(observation)
        kept = self._watched.going & ((np.arange(rows) + self._step) % self._stride == 0)
        glimpse = self._insight.glimpse
        everything: dict[str, Any] = {
            "row": np.arange(rows),
            "step": np.full(rows, self._step),
            "observation": observation.reshape(rows, -1),
            "state": glimpse.state,
            "probabilities": glimpse.probabilities,
            "value": glimpse.value,
            "action": np.asarray(action, dtype=np.float32).reshape(rows, -1),
            "hidden": np.stack(hidden, axis=1) if hidden else np.zeros((rows, 0)),
            "lag": self._lag.copy(),
        }
        part: dict[str, Any] = {n: None if v is None else v[kept] for n, v in everything.items()}
        self._parts.append(part)
        self._open = part, kept
        self._bytes += part["observation"].nbytes + part["state"].nbytes
        self._step += 1
        return action

    def note_reward(self) -> None:
        """Take what the last decision earned; called after each step."""
        if self._open is not None:
            part, kept = self._open
            part["reward"] = self._watched.reward[kept].astype(np.float32)
            self._open = None
            if self._thin and self._bytes > MOST_BYTES:
                self._leave_out()

    def moments(self) -> Moments:
        """Return what was recorded since the last reset, in the order of time."""
        names = self._parts[0].keys()
        joined: dict[str, Any] = {}
        for name in names:
            arrays = [part[name] for part in self._parts]
            joined[name] = None if arrays[0] is None else np.concatenate(arrays)
        return Moments(**joined)

    def _count_lags(self) -> None:
        for number, secret in enumerate(self._secrets):
            lag = self._lag[:, number]
            if secret.shown is None:
                lag[:] = self._step
            else:
                lag[lag >= 0] += 1
                lag[secret.shown()] = 0

    def _leave_out(self) -> None:
        """Keep every second of the steps so far, each row others."""
        self._stride *= 2
        for part in self._parts:
            kept = (part["row"] + part["step"]) % self._stride == 0
            part |= {n: None if v is None else v[kept] for n, v in part.items()}
        self._bytes = sum(p["observation"].nbytes + p["state"].nbytes for p in self._parts)


class Forgetful:
    """A policy whose memory is put back to its initial state before every decision.

    What was applied last is still told to it: that is an input of the present, not its memory.

    Args:
        policy: who decides.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._rows = 0

    @property
    def manifest(self) -> PolicyManifest:
        """See `Policy`."""
        return self._policy.manifest

    def reset(self, rows: int, mask: Mask | None = None) -> None:
        """See `Policy`."""
        self._rows = rows

    def act(self, observation: Array, previous_applied: Array) -> NDArray[Any]:
        """See `Policy`."""
        self._policy.reset(self._rows)
        return self._policy.act(observation, previous_applied)


def open_watched(
    policy: Policy, environment: str, rows: int, options: Mapping[str, Any], *, pictures: bool
) -> tuple[Stepper, Watched]:
    """Open an environment for a policy, and watch it; see `open_for`."""
    stepper = open_for(policy, environment, rows, options, pictures=pictures)
    watched = Watched(stepper.env)
    stepper.env = watched
    return stepper, watched


def play(
    policy: Policy,
    stepper: Stepper,
    watched: Watched,
    seed: int,
    look: Callable[[], None] | None = None,
) -> Played:
    """Play one episode in every row, to its end.

    Args:
        policy: a `Recorder`, or any other.
        stepper, watched: of `open_watched`.
        seed: of the episodes.
        look: called at the start and after every step.
    """
    recorder = policy if isinstance(policy, Recorder) else None

    def after() -> None:
        if recorder is not None:
            recorder.note_reward()
        if look is not None:
            look()

    returns, lengths, errors = play_round(policy, stepper, seed, after)
    ends = None if errors is None else errors[lengths, np.arange(len(lengths))]
    return Played(
        returns=returns,
        lengths=lengths,
        success=success_of(watched, returns),
        last_error_deg=ends,
    )
