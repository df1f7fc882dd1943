"""The feed-forward network from a profile to the phase error, and the controllers that use it.

The network gives kappa times cosine and sine of the expected phase error: direction and sharpness of a
von Mises distribution. For a sharp one the variance is 1 / kappa. How it was trained:
`memrl_ctrl.training.phase_network`. Inference is three matrix products in numpy.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.angles import wrap
from memrl_ctrl.controllers.core import Array, Controller

FILE = "phase_network.npz"
SMALLEST_KAPPA = 1e-3

Floats = NDArray[np.float64]


class PhaseNetwork:
    """The network's weights."""

    def __init__(self) -> None:
        source = files(__package__) / "data" / FILE
        data = source.read_bytes()
        self.digest = hashlib.sha256(data).hexdigest()
        with source.open("rb") as file, np.load(file, allow_pickle=False) as held:
            self._mean, self._scale = held["mean"], held["scale"]
            count = sum(name.startswith("weight") for name in held.files)
            self._layers = [(held[f"weight{k}"], held[f"bias{k}"]) for k in range(count)]

    @property
    def n_slices(self) -> int:
        """Bins that it sees."""
        return int(self._mean.size - 1)

    def __call__(self, observation: Array) -> tuple[Floats, Floats]:
        """Return the expected phase error [rows], rad, and its variance [rows], rad^2.

        Args:
            observation: [rows, n_slices + 1].
        """
        x = (observation - self._mean) / self._scale
        for weight, bias in self._layers[:-1]:
            x = np.maximum(x @ weight + bias, np.float32(0.0))
        weight, bias = self._layers[-1]
        out = (x @ weight + bias).astype(np.float64)
        kappa = np.maximum(np.hypot(out[:, 0], out[:, 1]), SMALLEST_KAPPA)
        return np.arctan2(out[:, 1], out[:, 0]), 1.0 / kappa


@cache
def phase_network() -> PhaseNetwork:
    """Return the shipped network."""
    return PhaseNetwork()


class ConstantGain(Controller):
    """Moves by a fixed share of the network's phase error in every shot.

    Args:
        gain: share.
    """

    name = "network-constant"

    def __init__(self, gain: float = 0.4) -> None:
        self._gain = gain
        self._network = phase_network()

    @property
    def settings(self) -> dict[str, Any]:
        """Return gain and network."""
        return {"gain": self._gain, "network": self._network.digest}

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return none."""
        return {}

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        return -self._gain * self._network(observation)[0], memory


class DecayingGain(Controller):
    """Moves by 1/k of the network's phase error in the k-th shot: the mean of all measurements."""

    name = "network-decaying"

    def __init__(self) -> None:
        self._network = phase_network()

    @property
    def settings(self) -> dict[str, Any]:
        """Return the network."""
        return {"network": self._network.digest}

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return the number of shots."""
        return {"shots": (1,)}

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        memory["shots"] = memory["shots"] + np.float32(1.0)
        return -self._network(observation)[0] / memory["shots"][:, 0], memory


class Kalman(Controller):
    """A Kalman filter of the phase error on the circle, measured by the network.

    What was applied moves the estimate; a random walk widens it; the network's own variance says how
    much a measurement counts (R. E. Kalman, J. Basic Eng. 82 (1960) 35; innovations are wrapped).

    Args:
        walk_deg: standard deviation of the random walk a shot, degrees.
        noise_factor: by which the network's variance is multiplied.
    """

    name = "network-kalman"

    def __init__(self, walk_deg: float = 0.3, noise_factor: float = 1.0) -> None:
        self._walk_deg = walk_deg
        self._noise_factor = noise_factor
        self._network = phase_network()

    @property
    def settings(self) -> dict[str, Any]:
        """Return the filter's numbers and the network."""
        return {
            "walk_deg": self._walk_deg,
            "noise_factor": self._noise_factor,
            "network": self._network.digest,
        }

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return the estimate and the inverse of its variance, 0 at the start: nothing is known."""
        return {"error_rad": (1,), "precision": (1,)}

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        measured, variance = self._network(observation)
        variance = self._noise_factor * variance
        precision = memory["precision"][:, 0].astype(np.float64)
        walk = np.radians(self._walk_deg) ** 2
        predicted = memory["error_rad"][:, 0] + previous_rad
        precision = precision / (1.0 + precision * walk)
        gain = 1.0 / (1.0 + variance * precision)
        estimate = wrap(predicted + gain * wrap(measured - predicted))
        memory["error_rad"] = estimate.astype(np.float32)[:, None]
        memory["precision"] = (precision + 1.0 / variance).astype(np.float32)[:, None]
        return -estimate, memory
