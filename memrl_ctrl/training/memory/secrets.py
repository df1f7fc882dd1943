"""What an episode hides and a memory may hold, task by task: the labels of the linear probe.

A new task gets its secrets with one function here: it takes the environment, returns what is hidden in
it, or nothing where the environment is none of its kind, and stands in `FINDERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv
from numpy.typing import NDArray

from memrl_ctrl.env.task import BeamTask
from memrl_ctrl.tasks.cartpole import CartPoleNoVel, CartPoleNoVelVector
from memrl_ctrl.tasks.grid_sight import Sight, Worlds
from memrl_ctrl.tasks.probes import ProbeVector
from memrl_ctrl.tasks.recall import RecallEnv
from memrl_ctrl.tasks.wrappers import PomdpWrapper
from memrl_ctrl.training.watching import Watched

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Kind = Literal["class", "number", "angle"]

GOAL, KEY, BALL = 8, 5, 6
"""MiniGrid's numbers of what a cell holds."""
EPISODE = "steps since the episode began"
MOST_ENTRIES = 12
"""Entries of an observation that are left out, of which each is a secret of its own."""


@dataclass(frozen=True, kw_only=True)
class Secret:
    """Something that is hidden, at least sometimes."""

    name: str
    """What it is, in words."""
    kind: Kind
    """A class (values are indices into `classes`), a number, or an angle in rad."""
    read: Callable[[], Floats]
    """Returns it as it is now [rows]; NaN where there is none."""
    classes: tuple[str, ...] = ()
    """Names of the classes."""
    unit: str = ""
    """Of a number."""
    shown: Callable[[], Mask] | None = None
    """Returns where it can be seen now [rows]; None: never."""
    since: str = EPISODE
    """What a probe's score is shown against."""


def secrets_of(watched: Watched) -> tuple[Secret, ...]:
    """Return what an environment hides, as far as it is known; nothing for others.

    Args:
        watched: the environment, already reset.
    """
    return next((found for finder in FINDERS if (found := finder(watched))), ())


# --- MiniGrid -----------------------------------------------------------------------------------------


def _of_grids(watched: Watched) -> tuple[Secret, ...]:
    """In MiniGrid Memory the first object; else where the goal is, and where the agent is."""
    found = _grid(watched)
    if found is None:
        return ()
    worlds, sight = found
    from minigrid.envs.memory import MemoryEnv

    if isinstance(worlds.envs[0], MemoryEnv):

        def place() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            height = worlds.size[:, 1]
            return np.ones_like(height), height // 2 - 1

        def which() -> Floats:
            content = worlds.cells[np.arange(len(worlds.size)), *place(), 0]
            return np.where(content == KEY, 0.0, np.where(content == BALL, 1.0, math.nan))

        return (
            Secret(
                name="object at the start",
                kind="class",
                classes=("key", "ball"),
                read=which,
                shown=lambda: _in_view(worlds, sight, *place()),
                since="steps since the object was last in view",
            ),
        )
    if not (worlds.cells[..., 0] == GOAL).any(axis=(1, 2)).all():
        return ()

    def goal() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        flat = (worlds.cells[..., 0] == GOAL).reshape(len(worlds.cells), -1).argmax(axis=1)
        x, y = np.unravel_index(flat, worlds.cells.shape[1:3])
        return np.asarray(x), np.asarray(y)

    def direction() -> Floats:
        ahead, right = _seen_from_agent(worlds, *goal())
        return np.arctan2(right, ahead)

    where = Secret(
        name="direction of the goal, as the agent looks",
        kind="angle",
        read=direction,
        shown=lambda: _in_view(worlds, sight, *goal()),
        since="steps since the goal was last in view",
    )
    places = [
        Secret(
            name=f"place of the agent, {axis}",
            kind="number",
            unit="cells",
            read=lambda at=at: worlds.pose[:, at].astype(np.float64),  # type: ignore[misc]
        )
        for at, axis in enumerate("xy")
    ]
    return (where, *places)


def _grid(watched: Watched) -> tuple[Worlds, Sight] | None:
    """Return the worlds of MiniGrid's tasks, and what is seen of them."""
    plain: Any = watched.unwrapped
    if isinstance(plain, SyncVectorEnv) and plain.num_envs == 1:
        plain = plain.envs[0].unwrapped
    worlds, sight = getattr(plain, "worlds", None), getattr(plain, "sight", None)
    return (worlds, sight) if isinstance(worlds, Worlds) and isinstance(sight, Sight) else None


def _seen_from_agent(
    worlds: Worlds, x: NDArray[np.int64], y: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how far ahead and to the right of the agents a place is [rows], cells."""
    dx, dy = x - worlds.pose[:, 0], y - worlds.pose[:, 1]
    facing = worlds.pose[:, 2]
    ahead_x, ahead_y = np.array([1, 0, -1, 0])[facing], np.array([0, 1, 0, -1])[facing]
    return dx * ahead_x + dy * ahead_y, dy * ahead_x - dx * ahead_y


def _in_view(worlds: Worlds, sight: Sight, x: NDArray[np.int64], y: NDArray[np.int64]) -> Mask:
    """Return where a place is seen by the agent [rows]."""
    size = sight.view_size
    if not size:
        return np.ones(len(x), dtype=np.bool_)
    ahead, right = _seen_from_agent(worlds, x, y)
    half = size // 2
    inside = (ahead >= 0) & (ahead < size) & (np.abs(right) <= half)
    view = worlds.views(size)[..., 0]
    row, column = np.clip(half + right, 0, size - 1), np.clip(size - 1 - ahead, 0, size - 1)
    # 0 is what MiniGrid shows of a cell that is hidden.
    return np.asarray(inside & (view[np.arange(len(x)), row, column] != 0))


# --- others -------------------------------------------------------------------------------------------


def _of_cartpole(watched: Watched) -> tuple[Secret, ...]:
    plain, singles = watched.unwrapped, watched.singles()
    if isinstance(plain, CartPoleNoVelVector):

        def state() -> Floats:
            return plain.state
    elif singles and all(any(isinstance(w, CartPoleNoVel) for w in _chain(e)) for e in singles):

        def state() -> Floats:
            return np.array([env.unwrapped.state for env in singles], dtype=np.float64)
    else:
        return ()
    return (
        Secret(name="speed of the cart", kind="number", unit="m/s", read=lambda: state()[:, 1]),
        Secret(name="turning of the pole", kind="number", unit="rad/s", read=lambda: state()[:, 3]),
    )


def _of_cues(watched: Watched) -> tuple[Secret, ...]:
    """What the first observation shows: the number of Recall, the cue of the probe for memory."""
    singles = watched.singles()
    if singles and all(isinstance(env.unwrapped, RecallEnv) for env in singles):
        return (
            Secret(
                name="number shown first",
                kind="number",
                read=lambda: watched.first[:, 0].astype(np.float64),
                shown=lambda: watched.seen[:, 1] > 0.5,
                since="steps since the number was shown",
            ),
        )
    plain = watched.unwrapped
    probe = plain.probe if isinstance(plain, ProbeVector) else None
    if probe is None or not probe.cues:
        return ()
    return (
        Secret(
            name="cue shown first",
            kind="class",
            classes=("-1", "1"),
            read=lambda: (watched.first[:, 0] > 0.0).astype(np.float64),
            shown=lambda: watched.seen[:, 1] < 0.5,
            since="steps since the cue was shown",
        ),
    )


def _of_the_beam(watched: Watched) -> tuple[Secret, ...]:
    """What a simulation of the beam knows: phase error, offset, emittance and intensity."""
    plain, singles = watched.unwrapped, watched.singles()
    single = singles[0].unwrapped if len(singles) == 1 else None
    task = getattr(plain, "task", None) or getattr(single, "task", None)
    if not isinstance(task, BeamTask) or task.reading.truth is None:
        return ()

    def known(name: str) -> Floats:
        truth = task.reading.truth
        values = getattr(truth, name)
        return np.asarray(values, dtype=np.float64)[task.rows]

    return (
        Secret(name="phase error", kind="angle", read=lambda: known("phase_error_rad")),
        Secret(name="offset of the hardware", kind="angle", read=lambda: known("offset_rad")),
        Secret(name="emittance", kind="number", unit="eV s", read=lambda: known("emittance_evs")),
        Secret(
            name="intensity",
            kind="number",
            unit="1e12 protons",
            read=lambda: known("intensity") / 1e12,
        ),
    )


def _of_sensors(watched: Watched) -> tuple[Secret, ...]:
    """Entries of an observation that the option `pomdp` leaves out."""
    covers = [
        next((w for w in _chain(env) if isinstance(w, PomdpWrapper)), None)
        for env in watched.singles()
    ]
    if not covers or covers[0] is None:
        return ()
    kept, size = covers[0].degradation.kept, covers[0].degradation.size
    left_out = [i for i in range(size) if i not in kept][:MOST_ENTRIES]
    return tuple(
        Secret(
            name=f"entry {i} of the observation, left out",
            kind="number",
            read=lambda i=i: np.array([w.whole[i] for w in covers if w is not None], "f8"),  # type: ignore[misc]
        )
        for i in left_out
    )


def _chain(env: Any) -> Iterator[Any]:
    """Walk from the outermost wrapper to the environment inside."""
    while True:
        yield env
        if not isinstance(env, gymnasium.Wrapper):
            return
        env = env.env


FINDERS: tuple[Callable[[Watched], tuple[Secret, ...]], ...] = (
    _of_grids,
    _of_cartpole,
    _of_cues,
    _of_the_beam,
    _of_sensors,
)
"""What knows the secrets of a kind of task, each."""


# --- success ------------------------------------------------------------------------------------------


def success_of(watched: Watched, returns: Floats) -> Mask | None:
    """Return which episodes reached what the task asks for [rows]; None where that is not defined.

    An environment that says so itself (info `is_success`) is believed. MiniGrid rewards success only;
    in CartPole it is to last.

    Args:
        watched: the environment, all its rows at their ends.
        returns: of the episodes [rows].
    """
    if watched.successes is not None:
        return watched.successes
    if _grid(watched) is not None:
        return np.asarray(returns > 0.0)
    if _of_cartpole(watched):
        return ~watched.terminated
    return None
