"""What the training saw, in a few kilobytes: is a reading like it?

A principal component analysis of the training's observations. A reading is judged by two distances:
how far it lies within the space of the leading components (Mahalanobis distance) and how far off that
space (root mean square of the residual). Each is divided by its 99.9 % quantile over observations that
the analysis was not made from; the score is the larger of the two, so 1 is the edge of the training.
(Jackson and Mudholkar, Technometrics 21 (1979) 341: Hotelling's T2 and the residual Q.)
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

FloatArray = NDArray[np.float64]


class ObservationStatistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mean, leading components and edges of the training's observations."""

    n_slices: int
    """Bins of the profile; an observation has one entry more."""
    observations: int
    """How many observations they were made from."""
    mean: str
    """[entries] float32, little-endian, base64."""
    components: str
    """[components, entries] float32, little-endian, base64: each divided by the standard deviation
    along it, so that the product with an observation less the mean has variance 1."""
    axes: str
    """[components, entries] float32, little-endian, base64: orthonormal."""
    distance_edge: float
    """99.9 % quantile of the Mahalanobis distance."""
    residual_edge: float
    """99.9 % quantile of the residual's root mean square, in units of the observation."""

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit.

        Raises:
            ValueError: with what does not fit.
        """
        entries = self.n_slices + 1
        rows = _array(self.axes).size / entries
        if _array(self.mean).size != entries or rows != int(rows) or rows < 1:
            raise ValueError(f"statistics do not fit observations of {entries} entries")
        if _array(self.components).size != _array(self.axes).size:
            raise ValueError("statistics have components of two sizes")
        if not (self.distance_edge > 0.0 and self.residual_edge > 0.0):
            raise ValueError("edges of the statistics must be positive")

    def score(self, observation: NDArray[np.float32]) -> FloatArray:
        """Return how unlike the training observations are [batch]; 1 is the edge.

        Args:
            observation: [batch, n_slices + 1].
        """
        mean, whitened, axes = _arrays(self)
        centred = observation - mean
        distance = np.linalg.norm(centred @ whitened.T, axis=1) / self.distance_edge
        off = centred - (centred @ axes.T) @ axes
        residual = np.sqrt(np.mean(np.square(off), axis=1)) / self.residual_edge
        return np.asarray(np.maximum(distance, residual), dtype=np.float64)


def measure_statistics(observation: NDArray[np.float32]) -> ObservationStatistics:
    """Make the statistics of observations [n, n_slices + 1] in an arbitrary order.

    Half of them give the components, the other half the edges.

    Raises:
        ValueError: too few, or not finite.
    """
    if observation.shape[0] < 1000 or not np.isfinite(observation).all():
        raise ValueError(
            f"statistics need 1000 finite observations or more, not {observation.shape[0]}"
        )
    made, held_out = observation[::2].astype(np.float64), observation[1::2]
    mean = made.mean(axis=0)
    _, size, axes = np.linalg.svd(made - mean, full_matrices=False)
    deviation = size / np.sqrt(made.shape[0])
    kept = max(1, int((deviation[:COMPONENTS] > 1e-6 * deviation[0]).sum()))
    draft = ObservationStatistics(
        n_slices=observation.shape[1] - 1,
        observations=observation.shape[0],
        mean=_text(mean),
        components=_text(axes[:kept] / deviation[:kept, None]),
        axes=_text(axes[:kept]),
        distance_edge=1.0,
        residual_edge=1.0,
    )
    distance = msgspec.structs.replace(draft, residual_edge=np.inf).score(held_out)
    residual = msgspec.structs.replace(draft, distance_edge=np.inf).score(held_out)
    return msgspec.structs.replace(
        draft,
        distance_edge=float(np.quantile(distance, QUANTILE)),
        residual_edge=max(float(np.quantile(residual, QUANTILE)), 1e-6),
    )


_known: dict[tuple[str, str], tuple[NDArray[np.float32], ...]] = {}


def _arrays(statistics: ObservationStatistics) -> tuple[NDArray[np.float32], ...]:
    """Return mean, components and axes, decoded once."""
    key = (statistics.components, statistics.axes)
    if key not in _known:
        entries = statistics.n_slices + 1
        _known[key] = (
            _array(statistics.mean),
            _array(statistics.components).reshape(-1, entries),
            _array(statistics.axes).reshape(-1, entries),
        )
    return _known[key]


def _array(text: str) -> NDArray[np.float32]:
    data = base64.b64decode(text, validate=True)
    if len(data) % 4:
        raise ValueError("an array of the statistics is no whole number of float32")
    return np.frombuffer(data, dtype="<f4")


def _text(array: FloatArray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode()
