"""What the training saw, in a few kilobytes: is a reading like it?

A principal component analysis of the training's profiles, each divided by its peak: noise is a share of
the peak, so that a short bunch does not make room for noise in a long one. A reading is judged by four
distances:

- within the space of the leading components (Mahalanobis distance), and off it (root mean square of the
  residual): Hotelling's T2 and the residual Q of Jackson and Mudholkar, Technometrics 21 (1979) 341;
- the base, mean of the lowest eighth of the slices: a pedestal lies within what components can make;
- the synchronous phase, one number that the others would not notice.

Each is divided by what 99.9 % of observations kept that the analysis was not made from (of the last two,
which have two sides, the range from 0.1 to 99.9 %); the score is the largest, so 1 is the edge of the
training.
"""

from __future__ import annotations

import base64

import msgspec
import numpy as np
from numpy.typing import NDArray

QUANTILE = 0.999
"""Quantile of the training's distances that is the edge."""
COMPONENTS = 16
"""Leading components that are kept at most."""
BASE_SHARE = 8
"""The base is the mean of the lowest 1/8 of the slices."""
SMALLEST = 1e-6
"""Smallest peak, in units of the mean, and smallest edge; keeps divisions finite."""

FloatArray = NDArray[np.float64]
Range = tuple[float, float]


class ObservationStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean, leading components and edges of the training's observations."""

    n_slices: int
    """Bins of the profile; an observation has one entry more."""
    observations: int
    """How many observations they were made from."""
    mean: str
    """[n_slices] float32, little-endian, base64: of the profiles divided by their peaks."""
    axes: str
    """[components, n_slices] float32, little-endian, base64: orthonormal."""
    deviations: str
    """[components] float32, little-endian, base64: standard deviation along each axis."""
    distance_edge: float
    """99.9 % quantile of the Mahalanobis distance."""
    residual_edge: float
    """99.9 % quantile of the residual's root mean square, in units of the peak."""
    base_range: Range
    """0.1 and 99.9 % quantile of the mean of the lowest eighth of the slices, in units of the peak."""
    phase_range: Range
    """0.1 and 99.9 % quantile of the synchronous phase / pi."""

    def __post_init__(self) -> None:
        """Refuse arrays and edges that do not fit.

        Raises:
            ValueError: with what does not fit.
        """
        mean, axes, deviations = _array(self.mean), _array(self.axes), _array(self.deviations)
        if self.n_slices < BASE_SHARE or mean.size != self.n_slices:
            raise ValueError(
                f"the mean has {mean.size} entries, n_slices is {self.n_slices} ({BASE_SHARE} or more)"
            )
        if not deviations.size or axes.size != deviations.size * self.n_slices:
            raise ValueError(
                f"{deviations.size} components of {self.n_slices} slices do not make axes of "
                f"{axes.size} numbers"
            )
        if not all(np.isfinite(array).all() for array in (mean, axes, deviations)):
            raise ValueError("mean, axes and deviations must be finite")
        if not (deviations > 0.0).all():
            raise ValueError("deviations must be positive")
        if not (self.distance_edge > 0.0 and self.residual_edge > 0.0):
            raise ValueError("distance_edge and residual_edge must be positive")
        for name in ("base_range", "phase_range"):
            low, high = getattr(self, name)
            if not (np.isfinite([low, high]).all() and low < high):
                raise ValueError(f"{name} must be finite and increasing, not {low} to {high}")

    def distances(self, observation: NDArray[np.float32]) -> FloatArray:
        """Return the four distances [4, batch], each in units of its edge: within, off, base, phase.

        Args:
            observation: [batch, n_slices + 1].
        """
        mean, axes, whitened = _arrays(self)
        share = _shares(observation)
        centred = share - mean
        distance = np.linalg.norm(centred @ whitened.T, axis=1) / self.distance_edge
        off = centred - (centred @ axes.T) @ axes
        residual = np.sqrt(np.mean(np.square(off), axis=1)) / self.residual_edge
        return np.stack(
            [
                np.asarray(distance, dtype=np.float64),
                np.asarray(residual, dtype=np.float64),
                _beside(_base(share), self.base_range),
                _beside(observation[:, -1], self.phase_range),
            ]
        )

    def score(self, observation: NDArray[np.float32]) -> FloatArray:
        """Return how unlike the training observations are [batch]; 1 is the edge.

        Args:
            observation: [batch, n_slices + 1].
        """
        return np.asarray(self.distances(observation).max(axis=0))


def measure_statistics(observation: NDArray[np.float32]) -> ObservationStatistics:
    """Make the statistics of observations [n, n_slices + 1].

    The even ones give the components, the odd ones the edges.

    Raises:
        ValueError: too few, not finite, or all alike.
    """
    if observation.shape[0] < 1000 or not np.isfinite(observation).all():
        raise ValueError(
            f"statistics need 1000 finite observations or more, not {observation.shape[0]}"
        )
    made, held_out = _shares(observation[::2]).astype(np.float64), observation[1::2]
    mean = made.mean(axis=0)
    size, axes = np.linalg.svd(made - mean, full_matrices=False)[1:]
    deviation = size / np.sqrt(made.shape[0])
    kept = int((deviation[:COMPONENTS] > max(SMALLEST, 1e-6 * deviation[0])).sum())
    if not kept:
        raise ValueError("statistics need observations that differ")
    draft = ObservationStatistics(
        n_slices=observation.shape[1] - 1,
        observations=observation.shape[0],
        mean=_text(mean),
        axes=_text(axes[:kept]),
        deviations=_text(deviation[:kept]),
        distance_edge=1.0,
        residual_edge=1.0,
        base_range=_range(_base(_shares(held_out))),
        phase_range=_range(held_out[:, -1]),
    )
    distance, residual = np.quantile(draft.distances(held_out)[:2], QUANTILE, axis=1)
    return msgspec.structs.replace(
        draft,
        distance_edge=max(float(distance), SMALLEST),
        residual_edge=max(float(residual), SMALLEST),
    )


def _shares(observation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return profiles divided by their peaks [batch, n_slices]."""
    profile = observation[:, :-1]
    peak = np.maximum(profile.max(axis=1, keepdims=True), np.float32(SMALLEST))
    return np.asarray(profile / peak)


def _base(share: NDArray[np.float32]) -> FloatArray:
    """Return the mean of the lowest eighth of the slices [batch]."""
    count = share.shape[1] // BASE_SHARE
    lowest = np.partition(share, count - 1, axis=1)[:, :count]
    return np.asarray(lowest.mean(axis=1), dtype=np.float64)


def _range(values: NDArray[np.floating]) -> Range:
    low, high = np.quantile(values.astype(np.float64), [1.0 - QUANTILE, QUANTILE])
    wider = max(0.0, SMALLEST - (high - low))
    return float(low - wider), float(high + wider)


def _beside(values: NDArray[np.floating], within: Range) -> FloatArray:
    """Return distances from the middle of a range in units of its half width [batch]."""
    low, high = within
    return np.asarray(np.abs(values - (low + high) / 2.0) / ((high - low) / 2.0), dtype=np.float64)


_known: dict[tuple[str, str, str], tuple[NDArray[np.float32], ...]] = {}


def _arrays(statistics: ObservationStatistics) -> tuple[NDArray[np.float32], ...]:
    """Return mean [n_slices], axes and axes divided by their deviations, decoded once."""
    key = (statistics.mean, statistics.axes, statistics.deviations)
    if key not in _known:
        axes = _array(statistics.axes).reshape(-1, statistics.n_slices)
        whitened = axes / _array(statistics.deviations)[:, None]
        _known[key] = (_array(statistics.mean), axes, whitened)
    return _known[key]


def _array(text: str) -> NDArray[np.float32]:
    data = base64.b64decode(text, validate=True)
    if len(data) % 4:
        raise ValueError("an array of the statistics is no whole number of float32")
    return np.frombuffer(data, dtype="<f4")


def _text(array: FloatArray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()
