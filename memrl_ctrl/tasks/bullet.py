"""The eight PyBullet tasks by their usual names, through `pybullet-envs-gymnasium` (extra `bench`).

Two habits of the library are covered here. It prints to the process's standard output and standard error when
it is imported and at every environment. And the first episode of a walker after its creation differs from
later ones with the same seed and actions (by 0.2 after 60 steps of Hopper), because a reset goes back to a
state that is saved at the end of the first one: so a first reset is thrown away, and an episode depends on
its seed and actions alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.registry import missing_extra

ROBOTS = (
    "HalfCheetah",
    "Ant",
    "Hopper",
    "Walker2D",
    "InvertedPendulum",
    "InvertedDoublePendulum",
    "InvertedPendulumSwingup",
    "Reacher",
)
NAMES = tuple(f"{robot}BulletEnv-v0" for robot in ROBOTS)
"""Gymnasium's names of the tasks."""

Vector = NDArray[np.float32]


def is_bullet(name: str) -> bool:
    """Whether a name is of a PyBullet task, also one beside the eight."""
    return name.endswith("BulletEnv-v0")


def register(name: str) -> None:
    """Make the tasks known to Gymnasium; a second call does nothing.

    Args:
        name: which one is wanted, for the message.

    Raises:
        MissingExtraError: PyBullet is not installed.
    """
    if NAMES[0] in gymnasium.registry:
        return
    try:
        with silence():
            import pybullet  # noqa: F401 - prints a line
            import pybullet_envs_gymnasium  # noqa: F401 - registers the tasks
    except ModuleNotFoundError as error:
        raise missing_extra(f"environment {name!r}", error) from error


class BulletCover(gymnasium.Wrapper[Vector, Vector, Vector, Vector]):
    """Keeps a PyBullet environment silent, and its first episode the same as later ones."""

    def __init__(self, env: gymnasium.Env[Vector, Vector]) -> None:
        super().__init__(env)
        self._fresh = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        """Begin an episode."""
        if self._fresh:
            self._fresh = False
            with silence():
                self.env.reset(seed=seed, options=options)
        return self.env.reset(seed=seed, options=options)


@contextmanager
def silence() -> Iterator[None]:
    """Send what C code prints to nowhere, in the whole process; Python's own output is written before."""
    saved = []
    for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
        stream.flush()
        saved.append((number, os.dup(number)))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number, _ in saved:
            os.dup2(nowhere, number)
        yield
    finally:
        # C's own buffer, before its place is given back.
        ctypes.CDLL(None).fflush(None)
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
