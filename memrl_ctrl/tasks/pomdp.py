"""Partial observability: what a policy sees when sensors fail, as pure functions of arrays.

The four kinds and their six pairs are those of Meng, Gorbet and Kulić 2021 (arXiv 2102.12344, section V).
Names are joined by `_and_`, and what comes first is done first: `flickering_and_random_noise` shows pure
noise in a frame that flickers. `memrl_ctrl.tasks.wrappers` puts them around environments; anything else
that holds observations (a twin, a test of robustness) calls a `Degradation` itself:

    faulty = Degradation.of("random_noise_and_random_sensor_missing", size=129)
    observation = faulty(observation, rng)  # [rows, 129]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.tasks.velocities import velocities_of

Array = NDArray[np.floating[Any]]

FLICKER_PROBABILITY = 0.2
NOISE_SIGMA = 0.1
MISSING_PROBABILITY = 0.1

SELECTIONS = ("remove_velocity", "position_only", "velocity_only")
"""Kinds that leave entries out; they come first."""
FAULTS = ("flickering", "random_noise", "random_sensor_missing")
"""Kinds that change what is there, at random."""
PUBLISHED = (
    "remove_velocity",
    "flickering",
    "random_noise",
    "random_sensor_missing",
    "remove_velocity_and_flickering",
    "remove_velocity_and_random_noise",
    "remove_velocity_and_random_sensor_missing",
    "flickering_and_random_noise",
    "random_noise_and_random_sensor_missing",
    "random_sensor_missing_and_random_noise",
)
"""The ten versions of Meng et al. 2021."""


def keep_entries(observation: Array, kept: Sequence[int]) -> Array:
    """Return some entries of observations [rows, n] as [rows, len(kept)]."""
    return observation[:, list(kept)]


def flicker(
    observation: Array, rng: np.random.Generator, probability: float = FLICKER_PROBABILITY
) -> Array:
    """Make whole observations [rows, n] zero, each row with a probability."""
    lost = rng.random((len(observation), 1)) < probability
    return np.where(lost, observation.dtype.type(0), observation)


def add_noise(observation: Array, rng: np.random.Generator, sigma: float = NOISE_SIGMA) -> Array:
    """Add normal noise to every entry of observations [rows, n], in their unit."""
    noise = sigma * rng.standard_normal(observation.shape)
    return observation + noise.astype(observation.dtype)


def miss_sensors(
    observation: Array, rng: np.random.Generator, probability: float = MISSING_PROBABILITY
) -> Array:
    """Make entries of observations [rows, n] zero, each one with a probability."""
    lost = rng.random(observation.shape) < probability
    return np.where(lost, observation.dtype.type(0), observation)


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """What becomes of an observation on its way to the policy; made by `Degradation.of`."""

    kind: str
    """Its name."""
    size: int
    """Entries of the observation."""
    kept: tuple[int, ...]
    """Entries that are seen."""
    faults: tuple[str, ...]
    """What happens to them, in this order."""
    flicker_probability: float = FLICKER_PROBABILITY
    """Probability that a whole observation is zero."""
    noise_sigma: float = NOISE_SIGMA
    """Standard deviation of the noise on each entry."""
    missing_probability: float = MISSING_PROBABILITY
    """Probability of each entry to be zero."""

    def __post_init__(self) -> None:
        """Refuse what is no probability and no size of noise."""
        for name in ("flicker_probability", "missing_probability"):
            if not _is_number(getattr(self, name)) or not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"{name} must be between 0 and 1, not {getattr(self, name)!r}")
        if not _is_number(self.noise_sigma) or not 0.0 <= self.noise_sigma < math.inf:
            raise UsageError(f"noise_sigma must be 0 or more, not {self.noise_sigma!r}")

    @classmethod
    def of(
        cls,
        kind: str,
        *,
        size: int,
        task: str = "",
        velocity_indices: Sequence[int] | None = None,
        **parameters: float,
    ) -> Degradation:
        """Make a degradation by its name.

        Args:
            kind: one of `PUBLISHED`, `position_only`, `velocity_only`, or others joined by `_and_`: first one
                of `SELECTIONS` or none, then `FAULTS` in the order in which they happen.
            size: entries of the observation.
            task: Gymnasium's name of the environment, for its velocities.
            velocity_indices: where the velocities are, for a task that is not known.
            parameters: `flicker_probability`, `noise_sigma`, `missing_probability`.

        Raises:
            UnknownNameError: there is no such kind.
            UsageError: the order cannot be, the velocities are not known, or a parameter is no probability.
        """
        names = kind.split("_and_") if isinstance(kind, str) else [str(kind)]
        for name in names:
            if name not in (*SELECTIONS, *FAULTS):
                known = {*PUBLISHED, *SELECTIONS}
                raise UnknownNameError("kind of partial observability", str(kind), known)
        if len(set(names)) < len(names) or any(name in SELECTIONS for name in names[1:]):
            raise UsageError(
                f"pomdp {kind!r}: each part once, and {', '.join(SELECTIONS)} only as the first"
            )
        selection = names[0] if names[0] in SELECTIONS else None
        return cls(
            kind=kind,
            size=size,
            kept=_kept(selection, size, task, velocity_indices),
            faults=tuple(name for name in names if name in FAULTS),
            **parameters,
        )

    @property
    def adds_noise(self) -> bool:
        """Whether entries can leave their range."""
        return "random_noise" in self.faults

    def __call__(self, observation: Array, rng: np.random.Generator) -> Array:
        """Return what is seen of observations [rows, n] as [rows, len(kept)]; they stay as they are.

        Args:
            observation: floating point; the result has the same type.
            rng: for what happens at random.
        """
        does: dict[str, Callable[[Array], Array]] = {
            "flickering": lambda seen: flicker(seen, rng, self.flicker_probability),
            "random_noise": lambda seen: add_noise(seen, rng, self.noise_sigma),
            "random_sensor_missing": lambda seen: miss_sensors(seen, rng, self.missing_probability),
        }
        seen = keep_entries(observation, self.kept)
        for name in self.faults:
            seen = does[name](seen)
        return seen


def _kept(
    selection: str | None, size: int, task: str, indices: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the entries that a kind of selection leaves."""
    everything = range(size)
    if selection is None:
        if indices is not None:
            raise UsageError(f"velocity_indices are for {', '.join(SELECTIONS)}")
        return tuple(everything)
    if indices is None:
        known = velocities_of(task)
        if known.size != size:
            raise UsageError(
                f"the observation of {task!r} has {size} entries, not {known.size}: where its velocities "
                "are is not known; give them as velocity_indices"
            )
        velocities = known.published if selection == "remove_velocity" else known.every
    else:
        velocities = _checked(indices, size)
    wanted = selection == "velocity_only"
    return tuple(i for i in everything if (i in velocities) == wanted)


def _checked(indices: Sequence[int], size: int) -> tuple[int, ...]:
    """Return indices as they are, or refuse them."""
    fine = isinstance(indices, list | tuple) and all(
        isinstance(i, int) and not isinstance(i, bool) and 0 <= i < size for i in indices
    )
    if not fine or not 0 < len(set(indices)) < size:
        raise UsageError(
            f"velocity_indices must be a list of some of 0 to {size - 1}, not {indices!r}"
        )
    return tuple(indices)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
