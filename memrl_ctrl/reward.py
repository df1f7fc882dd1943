"""Rewards: weighted sums of named, pure terms.

A reward that `needs_truth` can exist in a simulation only; `measured` is computed from what a machine
shows. One's own reward is a `Reward` object behind an entry point of the group `memrl_ctrl.rewards`.

The two seed rewards follow the published description and coefficients of the LSTM-TD3 beam work
(github.com/apastinante/LSTM-TD3, 2025), with two differences. The bonus for a fine correction compares
the correction with the error before it, not after it; and there is no penalty for a simulation that
failed: a profile that could not be made is flagged and never replaced by zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import UnknownNameError, UsageError

FloatArray = NDArray[np.float64]

CONVERGED_RAD = math.radians(0.5)
"""Phase error that counts as converged, rad (the seed's 0.5 degree)."""
FINE_DEG, COARSE_DEG = 0.3, 10.0
"""Scales of `fine-error`: the logarithm's, and the error that costs 1 more, degrees."""
FINE_RAD = math.radians(5.0)
"""Phase error below which a correction counts as fine, rad (the seed's 5 degrees)."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """What is known of one shot, for all rows; arrays [rows]. The error is NaN without a truth."""

    error_rad: FloatArray
    """Phase error after the shot, rad, in (-pi, pi]."""
    previous_error_rad: FloatArray
    """Phase error before the shot, rad."""
    delta_rad: FloatArray
    """Change of phi_hw that was applied, rad."""
    asymmetry: FloatArray
    """Skewness of the measured profile."""
    bunching_factor: FloatArray
    """Mean over peak of the measured profile."""
    shot: NDArray[np.int64]
    """Number of the shot in the episode, from 0."""


Term = Callable[[Shot], FloatArray]


def distance(shot: Shot) -> FloatArray:
    """-|e| / pi."""
    return -np.abs(shot.error_rad) / math.pi


def progress(shot: Shot) -> FloatArray:
    """tanh of what the error shrank by, in units of 45 degrees."""
    shrunk = np.abs(shot.previous_error_rad) - np.abs(shot.error_rad)
    return np.tanh(shrunk / (math.pi / 4.0))


def movement(shot: Shot) -> FloatArray:
    """-|delta| / pi: moving costs."""
    return -np.abs(shot.delta_rad) / math.pi


def _towards(shot: Shot) -> NDArray[np.bool_]:
    """Whether the correction went the right way and not too far [rows]."""
    before = shot.previous_error_rad
    return np.asarray(
        (np.sign(shot.delta_rad) == -np.sign(before)) & (np.abs(shot.delta_rad) <= np.abs(before))
    )


def fine_correction(shot: Shot) -> FloatArray:
    """Bonus up to 1 for a fine correction that goes the right way, less the later it comes."""
    before = np.abs(shot.previous_error_rad)
    missing_deg = np.degrees(before - np.abs(shot.delta_rad))
    earned = (before <= FINE_RAD) & _towards(shot)
    bonus = 1.0 / ((1.0 + np.maximum(missing_deg, 0.0)) * (shot.shot + 1))
    return np.where(earned, bonus, 0.0)


def convergence(shot: Shot) -> FloatArray:
    """Bonus up to 1 within 0.5 degree."""
    near = np.abs(shot.error_rad)
    return np.where(near < CONVERGED_RAD, np.exp(-10.0 * near), 0.0)


def staying(shot: Shot) -> FloatArray:
    """Bonus for being within 0.5 degree by a correction of the right sign and size."""
    return np.where(_towards(shot), convergence(shot), 0.0) / (shot.shot + 1)


def log_distance(shot: Shot) -> FloatArray:
    """-log(1 + |e| / 2 deg) - |e| / 60 deg: as steep near the optimum as far from it."""
    degrees = np.degrees(np.abs(shot.error_rad))
    return -np.log1p(degrees / 2.0) - degrees / 60.0


def fine_log_distance(shot: Shot) -> FloatArray:
    """-log(1 + |e| / 0.3 deg): the last tenths of a degree count too."""
    return -np.log1p(np.degrees(np.abs(shot.error_rad)) / FINE_DEG)


def symmetry(shot: Shot) -> FloatArray:
    """-|skewness| of the measured profile."""
    return -np.abs(shot.asymmetry)


def flatness(shot: Shot) -> FloatArray:
    """Bunching factor of the measured profile: long and flat is good, short and peaked is not.

    Symmetry alone cannot tell bunch lengthening from bunch shortening; this term does.
    """
    return shot.bunching_factor


@dataclass(frozen=True, kw_only=True)
class Reward:
    """A named reward: terms and their weights."""

    name: str
    """Registered name."""
    terms: Mapping[str, Term]
    """Pure functions of a shot, by name."""
    weights: Mapping[str, float]
    """Default weight of each term."""
    needs_truth: bool
    """Whether it needs what only a simulation knows."""
    doc: str = field(default="")
    """One sentence for people."""

    def with_weights(self, weights: Mapping[str, float]) -> Reward:
        """Return the reward with some weights replaced.

        Raises:
            UnknownNameError: a term that this reward does not have.
            UsageError: a weight that is not finite.
        """
        for name, weight in weights.items():
            if name not in self.terms:
                raise UnknownNameError(f"term of reward {self.name!r}:", name, self.terms)
            if not math.isfinite(weight):
                raise UsageError(f"weight of term {name!r} must be finite, not {weight}")
        return Reward(
            name=self.name,
            terms=self.terms,
            weights={**self.weights, **weights},
            needs_truth=self.needs_truth,
            doc=self.doc,
        )

    def __call__(self, shot: Shot) -> FloatArray:
        """Return the reward of each row [rows]; 0 where a row's error is not defined."""
        total = np.zeros(shot.error_rad.shape[0])
        for name, weight in self.weights.items():
            if weight != 0.0:
                total += weight * self.terms[name](shot)
        return np.where(np.isfinite(total), total, 0.0)


seed_shaped = Reward(
    name="seed-shaped",
    terms={
        "distance": distance,
        "progress": progress,
        "movement": movement,
        "fine_correction": fine_correction,
        "convergence": convergence,
    },
    weights={
        "distance": 2.0,
        "progress": 1.0,
        "movement": 0.1,
        "fine_correction": 10.0,
        "convergence": 20.0,
    },
    needs_truth=True,
    doc="the seed's shaped reward: distance, progress, movement and two bonuses",
)
seed_simple = Reward(
    name="seed-simple",
    terms={"distance": distance, "staying": staying},
    weights={"distance": 2.0, "staying": 20.0},
    needs_truth=True,
    doc="the seed's simplified reward: distance and a bonus for staying",
)
log_error = Reward(
    name="log-error",
    terms={"log_distance": log_distance, "movement": movement},
    weights={"log_distance": 1.0, "movement": 0.0},
    needs_truth=True,
    doc="logarithm of the phase error: rewards the last degree as much as the first",
)
fine_error = Reward(
    name="fine-error",
    terms={
        "fine_log_distance": fine_log_distance,
        "distance": distance,
        "movement": movement,
    },
    weights={"fine_log_distance": 1.0, "distance": 180.0 / COARSE_DEG, "movement": 0.0},
    needs_truth=True,
    doc="logarithm of the phase error down to tenths of a degree, and a tenth per degree",
)
measured = Reward(
    name="measured",
    terms={"symmetry": symmetry, "flatness": flatness, "movement": movement},
    weights={"symmetry": 1.0, "flatness": 2.0, "movement": 0.0},
    needs_truth=False,
    doc="asymmetry and bunching factor of the measured profile: also on the machine",
)
