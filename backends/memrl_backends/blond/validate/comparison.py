"""What one comparison leaves behind, and how far two profiles of one bunch are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number with the tolerance it is judged by."""

    name: str
    """What it is, with its unit."""
    value: float
    """The largest deviation found."""
    tolerance: float
    """Largest value that passes."""

    @property
    def passed(self) -> bool:
        """Whether it is a number within the tolerance."""
        return bool(self.value <= self.tolerance)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The kernel and BLonD at one condition."""

    check: str
    """The check it belongs to, a key of `checks.TITLES`."""
    what: str
    """The condition in words."""
    condition: Mapping[str, float]
    """The condition, names with units."""
    figures: tuple[Figure, ...]
    """How far apart they are."""
    phase_rad: FloatArray
    """RF phase of the slices [n_slices], rad."""
    kernel: FloatArray
    """The kernel's line density [n_slices], 1/rad."""
    blond: FloatArray
    """BLonD's line density [n_slices], 1/rad; of a tracked bunch, after the last turn."""
    turns: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Turns at which a tracked bunch was measured [snapshots]."""
    length_ratio: FloatArray = field(default_factory=lambda: np.zeros(0))
    """Its rms length over the kernel's [snapshots]."""

    @property
    def passed(self) -> bool:
        """Whether every figure is within its tolerance."""
        return all(figure.passed for figure in self.figures)


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far profiles are from a reference; arrays [profiles]."""

    rms: FloatArray
    """Root of the mean squared difference over the turn, per peak of the reference."""
    largest: FloatArray
    """Largest difference, per peak of the reference."""
    mean_turns: FloatArray
    """Difference of the mean positions, in turns of the RF phase."""
    length_ratio: FloatArray
    """rms length over the reference's."""


def distance(profiles: FloatArray, reference: FloatArray) -> Distance:
    """How far profiles [profiles, n_slices] are from a reference [n_slices], on one turn of phase.

    Positions are taken on the circle cut opposite to the reference's mean, so that a bunch that lies
    across the turn's end is measured like any other.
    """
    slices = reference.size
    step = 2.0 * np.pi / slices
    phase = (np.arange(slices) + 0.5) * step
    middle = np.angle(np.sum(reference * np.exp(1j * phase)))
    away = np.mod(phase - middle + np.pi, 2.0 * np.pi) - np.pi
    difference = profiles - reference
    mean, length = _moments(profiles, away)
    expected_mean, expected_length = _moments(reference[None, :], away)
    peak = reference.max()
    return Distance(
        rms=np.sqrt(np.mean(difference**2, axis=1)) / peak,
        largest=np.abs(difference).max(axis=1) / peak,
        mean_turns=np.abs(mean - expected_mean) / (2.0 * np.pi),
        length_ratio=length / expected_length,
    )


def shot_noise(reference: FloatArray, particles: int) -> float:
    """rms over the slices of a histogram of so many particles, per peak of the reference [n_slices].

    A slice with the share p of N particles has the standard deviation sqrt(p / N).
    """
    step = 2.0 * np.pi / reference.size
    return float(np.sqrt(np.mean(reference * step / particles)) / (step * reference.max()))


def _moments(profiles: FloatArray, place: FloatArray) -> tuple[FloatArray, FloatArray]:
    weights = profiles / profiles.sum(axis=1, keepdims=True)
    mean = weights @ place
    square = weights @ place**2 - mean**2
    return np.asarray(mean), np.sqrt(square)
