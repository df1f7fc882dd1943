"""A secret that the user names: an info of the environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.training.memory.secrets import Secret
from memrl_ctrl.training.stepper import Stepper
from memrl_ctrl.training.watching import Watched

Floats = NDArray[np.float64]

MOST_CLASSES = 10
"""Whole numbers below this are classes; others are numbers."""


class OwnLabel:
    """Notes an info of the environment: a word, a truth value or a number for each row.

    Args:
        key: name of the info.
        environment: its name, for sentences.
    """

    def __init__(self, key: str, environment: str) -> None:
        self._key, self._environment = key, environment
        self._words: dict[str, int] = {}
        self._kind = "f"

    def __call__(self, watched: Watched) -> Sequence[Secret]:
        """Return the secret; whether it has classes is known only once it was recorded."""
        return (Secret(name=self._key, kind="number", read=lambda: self._values(watched)),)

    def check(self, stepper: Stepper, watched: Watched) -> None:
        """Refuse a name that the environment does not give, at a beginning or after a step.

        Raises:
            UnknownNameError: says which infos there are.
            UsageError: it is not one value for each row.
        """
        known = set(watched.infos)
        if self._key not in known:
            task = stepper.task
            unit = np.zeros((watched.num_envs, task.n_action), dtype=np.float32)
            stepper.step(unit)
            known |= set(watched.infos)
        if self._key not in known:
            given = {key for key in known if not key.startswith("_")}
            raise UnknownNameError(f"info of environment {self._environment!r}", self._key, given)
        self._values(watched)

    def resolved(self, secret: Secret, hidden: Floats) -> Secret:
        """Return the secret with its classes, if it has any.

        Args:
            secret: as it was noted.
            hidden: what was recorded of it [samples].
        """
        known = hidden[np.isfinite(hidden)]
        classes: tuple[str, ...] = ()
        if self._kind in "OSU":
            classes = tuple(self._words)
        elif self._kind == "b":
            classes = ("no", "yes")
        elif self._kind in "iu" and known.size and known.min() >= 0 and known.max() < MOST_CLASSES:
            classes = tuple(str(n) for n in range(int(known.max()) + 1))
        if not classes:
            return secret
        return dataclasses.replace(secret, kind="class", classes=classes)

    def _values(self, watched: Watched) -> Floats:
        """Return the info as numbers [rows]; NaN where it is absent."""
        if self._key not in watched.infos:
            return np.full(watched.num_envs, np.nan)
        given: NDArray[Any] = np.asarray(watched.infos[self._key])
        if given.size != watched.num_envs:
            raise UsageError(
                f"info {self._key!r} of environment {self._environment!r} has the shape "
                f"{given.shape[1:]}; a label is one value"
            )
        given = given.ravel()
        self._kind = given.dtype.kind
        if self._kind in "OSU":
            places = [self._words.setdefault(str(word), len(self._words)) for word in given]
            values = np.array(places, dtype=np.float64)
        elif self._kind in "biuf":
            values = given.astype(np.float64)
        else:
            raise UsageError(f"info {self._key!r} is neither number nor word, but {given.dtype}")
        there = watched.infos.get(f"_{self._key}")
        return (
            values if there is None else np.where(np.asarray(there, dtype=np.bool_), values, np.nan)
        )
