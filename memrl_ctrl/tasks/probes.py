"""Probes: the smallest tasks that an agent can fail, each for one reason, with known values.

The idea is A. Jones's ("Debugging RL, without the agonizing pain", andyljones.com, 2021): where one of them
fails, what it asks for beyond the one before it is what does not work. Observation: what is shown, and the
step within the episode. With gamma the discount and V the value under the best policy:

| probe | episode | reward | shows that | best return |
|---|---|---|---|---|
| `constant-value` | 1 step | 1 | a value is learnt at all: V = 1 | 1 |
| `observed-value` | 1 step | the observation, -1 or 1 | the value sees the observation: V = it | 0 (mean) |
| `discounting` | 2 steps | 1 at the end | what comes later counts less: V = gamma, then 1 | 1 |
| `action` | 1 step | 1 for the right action | the policy learns: V = 1 | 1 |
| `observed-action` | 1 step | 1 for the action shown | the policy sees the observation: V = 1 | 1 |
| `memory` | 3 steps | at the end, 1 for the action shown first | it remembers: V = gamma^2, gamma, 1 | 1 |

Of two choices the wrong one earns -1. A continuous action a in [-1, 1] earns 1 - (a - w/2)^2, where w is -1
or 1. Without memory the last probe's best is 0, with continuous actions 3/4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from memrl_ctrl.errors import UnknownNameError
from memrl_ctrl.tasks.rows import Floats, Mask, RowsVector, Seeds

Seen = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One of the tasks. Arrays [rows]."""

    asks: str
    """What an agent must be able to do, in words."""
    steps: int = 1
    """Length of an episode."""
    cues: bool = False
    """Whether an episode has a cue, -1 or 1, shown in its first step."""
    reward: Callable[[Floats, Floats], Floats]
    """What the last step earns: of the cue, and of the action's reward against -1 or 1, `matched`."""
    value: Callable[[Floats], Floats] = np.ones_like
    """What the last step earns under the best policy, of the cue where it is shown."""
    best_return: float = 1.0
    """Mean return of the best policy."""


def _one(cue: Floats, action: Floats) -> Floats:
    return np.ones_like(cue)


def _cue(cue: Floats, action: Floats) -> Floats:
    return cue


def _right_action(cue: Floats, action: Floats) -> Floats:
    return action


PROBES = {
    "constant-value": Probe(asks="learn a value", reward=_one),
    "observed-value": Probe(
        asks="learn a value that depends on the observation",
        cues=True,
        reward=_cue,
        value=np.copy,
        best_return=0.0,
    ),
    "discounting": Probe(asks="carry a value back in time", steps=2, reward=_one),
    "action": Probe(asks="learn an action", reward=_right_action),
    "observed-action": Probe(
        asks="learn an action that depends on the observation", cues=True, reward=_right_action
    ),
    "memory": Probe(asks="remember an observation", steps=3, cues=True, reward=_right_action),
}
"""The probes by name, the simplest first."""


def id_of(name: str) -> str:
    """Return Gymnasium's name of a probe.

    Raises:
        UnknownNameError: there is no such probe.
    """
    if name not in PROBES:
        raise UnknownNameError("probe", name, PROBES)
    return f"memrl/Probe-{name}-v0"


def known_values(name: str, observation: Seen, gamma: float) -> Floats:
    """Return the best policy's value of observations.

    Args:
        name: of the probe.
        observation: [..., 2].
        gamma: discount.

    Returns:
        [...].
    """
    probe = PROBES[name]
    shown, step = np.moveaxis(np.asarray(observation, dtype=np.float64), -1, 0)
    known: Floats = gamma ** (probe.steps - 1 - step) * probe.value(shown)
    return known


class ProbeVector(RowsVector):
    """A probe, many rows in one call.

    Args:
        probe: its name.
        num_envs: rows.
        continuous: whether the action is a number in [-1, 1] instead of one of two choices.
        render_mode: None; there is nothing to draw.
        autoreset: see `RowsVector`.

    Raises:
        UnknownNameError: there is no such probe.
    """

    def __init__(
        self,
        *,
        probe: str,
        num_envs: int = 1,
        continuous: bool = False,
        render_mode: str | None = None,
        autoreset: bool = True,
    ) -> None:
        id_of(probe)
        self.probe, self._continuous = PROBES[probe], continuous
        low, high = [-1.0, 0.0], [1.0, float(self.probe.steps)]
        super().__init__(
            num_envs=num_envs,
            observation_space=Box(
                np.array(low, dtype=np.float32), np.array(high, dtype=np.float32)
            ),
            action_space=Box(-1.0, 1.0, (1,), dtype=np.float32) if continuous else Discrete(2),
            render_mode=render_mode,
            autoreset=autoreset,
        )
        self._cue, self._step = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)

    def _act(self, actions: NDArray[Any]) -> tuple[Floats, Mask, Mask]:
        wanted = self._cue if self.probe.cues else np.ones(self.num_envs)
        acted = actions.astype(np.float64).reshape(self.num_envs)
        matched = (2.0 * acted - 1.0) * wanted
        if self._continuous:
            matched = 1.0 - np.square(acted - 0.5 * wanted)
        self._step += 1
        ended = self._step >= self.probe.steps
        reward = np.where(ended, self.probe.reward(self._cue, matched), 0.0)
        return reward, ended, np.zeros(self.num_envs, dtype=np.bool_)

    def _begin(self, mask: Mask, seeds: Seeds) -> None:
        self._step[mask] = 0
        if seeds is None:
            draws = self._rng.integers(2, size=int(mask.sum()))
        else:
            rows = np.flatnonzero(mask)
            draws = np.array([np.random.default_rng(seeds[row]).integers(2) for row in rows])
        self._cue[mask] = 2.0 * draws - 1.0 if self.probe.cues else 0.0

    def _seen(self) -> Seen:
        shown = np.where(self._step == 0, self._cue, 0.0)
        return np.stack([shown, self._step], axis=1).astype(np.float32)


class ProbeEnv(gymnasium.Env[Seen, Any]):
    """A probe, one row; see `ProbeVector`.

    Args:
        options: of `ProbeVector`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - typed so by the base class

    def __init__(self, **options: Any) -> None:
        self._rows = ProbeVector(num_envs=1, autoreset=False, **options)
        self.observation_space = self._rows.single_observation_space
        self.action_space = self._rows.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        return self._rows.reset(seed=int(self.np_random.integers(2**31)))[0][0], {}

    def step(self, action: Any) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Act."""
        seen, reward, ended, _, _ = self._rows.step(np.asarray(action)[None])
        return seen[0], float(reward[0]), bool(ended[0]), False, {}


def register() -> None:
    """Make the probes known to Gymnasium; a second call does nothing."""
    for name in PROBES:
        if id_of(name) not in gymnasium.registry:
            gymnasium.register(
                id_of(name),
                entry_point="memrl_ctrl.tasks.probes:ProbeEnv",
                vector_entry_point="memrl_ctrl.tasks.probes:ProbeVector",
                kwargs={"probe": name},
            )
