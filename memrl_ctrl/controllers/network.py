"""The feed-forward network from a profile to the phase error, and the controllers that use it.

The network gives direction and sharpness kappa of a von Mises distribution of the phase error. For a sharp
one the variance is 1 / kappa. How it was trained: `memrl_ctrl.training.phase_network`. Inference is three
matrix products in numpy.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from memrl_ctrl.angles import wrap
from memrl_ctrl.controllers.core import Array, Controller

FILE = "phase_network.npz"
LOG_KAPPA = (-5.0, 14.0)
"""Limits of log kappa: next to nothing is known, and a thousandth of a radian."""

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
            x = x @ weight + bias
            x = x * expit(x)
        weight, bias = self._layers[-1]
        out = (x @ weight + bias).astype(np.float64)
        return np.arctan2(out[:, 1], out[:, 0]), np.exp(-np.clip(out[:, 2], *LOG_KAPPA))


@cache
def phase_network() -> PhaseNetwork:
    """Return the shipped network."""
    return PhaseNetwork()


class ByNetwork(Controller):
    """A controller whose measurement is the network's; what it was trained to belongs to its settings."""

    @property
    def settings(self) -> dict[str, Any]:
        """Return its numbers and the network."""
        return {**super().settings, "network": phase_network().digest}


@dataclass(eq=False)
class ConstantGain(ByNetwork):
    """Moves by a fixed share of the network's phase error in every shot, and by all of a large one.

    Args:
        gain: share.
        capture_deg: a phase error above this is taken off at once, degrees.
    """

    name = "network-constant"
    ranges = MappingProxyType({"gain": (0.05, 1.0, "linear"), "capture_deg": (1.0, 60.0, "log")})

    gain: float = 0.4
    capture_deg: float = 10.0

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return none."""
        return {}

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        error = phase_network()(observation)[0]
        large = np.abs(error) > math.radians(self.capture_deg)
        return -np.where(large, 1.0, self.gain) * error, memory


@dataclass(eq=False)
class DecayingGain(ByNetwork):
    """Moves by 1/k of the network's phase error in the k-th shot: the mean of all measurements.

    Shots with a large error, which is taken off whole, do not count: the first is seldom the best.

    Args:
        capture_deg: a phase error above this is taken off at once, degrees.
    """

    name = "network-decaying"
    ranges = MappingProxyType({"capture_deg": (1.0, 60.0, "log")})

    capture_deg: float = 10.0

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return the number of shots that count."""
        return {"shots": (1,)}

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        error = phase_network()(observation)[0]
        large = np.abs(error) > math.radians(self.capture_deg)
        shots = memory["shots"][:, 0] + np.where(large, 0.0, 1.0)
        memory["shots"] = shots.astype(np.float32)[:, None]
        return -np.where(large, error, error / np.maximum(shots, 1.0)), memory


@dataclass(eq=False)
class Kalman(ByNetwork):
    """A Kalman filter of the phase error on the circle, measured by the network.

    What was applied moves the estimate; a random walk widens it; the network's own variance says how
    much a measurement counts (R. E. Kalman, J. Basic Eng. 82 (1960) 35; innovations are wrapped). A
    measurement that cannot be, given what was known, means a step of the offset: the filter begins anew.

    Args:
        walk_deg: standard deviation of the random walk a shot, degrees.
        noise_factor: by which the network's variance is multiplied.
        floor_deg: standard deviation that is added to every measurement, degrees: jitter.
        gate: standard deviations of the innovation from which on it begins anew.
    """

    name = "network-kalman"
    ranges = MappingProxyType(
        {
            "walk_deg": (0.01, 2.0, "log"),
            "noise_factor": (0.3, 5.0, "log"),
            "floor_deg": (0.01, 2.0, "log"),
            "gate": (2.5, 10.0, "linear"),
        }
    )

    walk_deg: float = 0.3
    noise_factor: float = 1.0
    floor_deg: float = 0.2
    gate: float = 5.0

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return the estimate and the inverse of its variance, 0 at the start: nothing is known."""
        return {"error_rad": (1,), "precision": (1,)}

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        measured, variance = phase_network()(observation)
        variance = self.noise_factor * variance + math.radians(self.floor_deg) ** 2
        precision = memory["precision"][:, 0].astype(np.float64)
        predicted = memory["error_rad"][:, 0] + previous_rad
        precision = precision / (1.0 + precision * math.radians(self.walk_deg) ** 2)
        innovation = wrap(measured - predicted)
        # The innovation's variance is 1 / precision + variance; nothing is known at precision 0.
        stepped = precision * innovation**2 > self.gate**2 * (1.0 + precision * variance)
        precision = np.where(stepped, 0.0, precision)
        gain = 1.0 / (1.0 + variance * precision)
        estimate = wrap(predicted + gain * innovation)
        memory["error_rad"] = estimate.astype(np.float32)[:, None]
        memory["precision"] = (precision + 1.0 / variance).astype(np.float32)[:, None]
        return -estimate, memory
