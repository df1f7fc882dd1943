"""Linear read-outs with a penalty that is chosen on held-out groups: ridge and logistic regression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import logsumexp

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PENALTIES = tuple(10.0**power for power in (2, 1, 0, -1, -2, -3, -4))
"""Weights of the squared coefficients that are tried, of standardised features, against the mean error
of a sample; the strongest first."""
FOLDS = 4
MOST_FEATURES = 384
"""More features are replaced by that many of their principal components."""
MOST_FOR_COMPONENTS = 2_000
"""Samples that the principal components are taken of."""
MOST_ITERATIONS = 200
SMALLEST_DEVIATION = 1e-6
"""Features that vary less are left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaled:
    """Takes features to standardised ones, fewer where there are too many."""

    mean: Floats
    kept: Integers
    """Features that vary [kept]."""
    deviation: Floats
    """Of those [kept]."""
    turned: Floats | None
    """Principal components [kept, components]; None where all features are used."""

    @classmethod
    def to(cls, features: Floats) -> Scaled:
        """Fit to features [samples, n]."""
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        kept = np.flatnonzero(deviation > SMALLEST_DEVIATION)
        part = (features[:, kept] - mean[kept]) / deviation[kept]
        turned = None
        if kept.size > MOST_FEATURES:
            some = part[:: -(-len(part) // MOST_FOR_COMPONENTS)]
            # From the smaller of the two matrices of products.
            values, vectors = eigh(some @ some.T)
            best = np.argsort(values)[::-1][: min(MOST_FEATURES, len(some))]
            best = best[values[best] > values.max() * 1e-10]
            turned = some.T @ vectors[:, best] / np.sqrt(values[best])
        return cls(mean=mean, kept=kept, deviation=deviation[kept], turned=turned)

    def __call__(self, features: Floats) -> Floats:
        """From features [samples, n] to [samples, m]."""
        part = (features[:, self.kept] - self.mean[self.kept]) / self.deviation
        return part if self.turned is None else part @ self.turned


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadOut:
    """A linear map of features."""

    scaled: Scaled
    weights: Floats
    """[m, outputs]."""
    offset: Floats
    """[outputs]."""
    penalty: float
    """The one that was chosen."""

    def __call__(self, features: Floats) -> Floats:
        """From features [samples, n] to outputs; for classes unnormalised logarithms of probability."""
        return self.scaled(np.asarray(features, dtype=np.float64)) @ self.weights + self.offset


def ridge(features: Floats, targets: Floats, groups: Integers) -> ReadOut:
    """Fit numbers by least squares with a penalty.

    Args:
        features: [samples, n].
        targets: [samples, outputs].
        groups: whole groups (episodes) are held out when the penalty is chosen [samples].
    """

    def fit(x: Floats, y: Floats) -> Callable[[float], tuple[Floats, Floats]]:
        middle, level = x.mean(axis=0), y.mean(axis=0)
        gram = (x - middle).T @ (x - middle) / len(x)
        values, vectors = eigh(gram)
        moments = vectors.T @ ((x - middle).T @ (y - level)) / len(x)

        def solve(penalty: float) -> tuple[Floats, Floats]:
            weights = vectors @ (moments / (np.maximum(values, 0.0) + penalty)[:, None])
            return weights, level - middle @ weights

        return solve

    def loss(outputs: Floats, y: Floats) -> float:
        return float(np.mean(np.square(outputs - y)))

    return _chosen(features, targets, groups, fit, loss)


def logistic(features: Floats, classes: Integers, groups: Integers, n_classes: int) -> ReadOut:
    """Fit classes by multinomial logistic regression with a penalty.

    Args:
        features: [samples, n].
        classes: [samples], from 0.
        groups: see `ridge`.
        n_classes: how many classes there are.
    """
    targets = np.eye(n_classes)[classes]

    def fit(x: Floats, y: Floats) -> Callable[[float], tuple[Floats, Floats]]:
        start = np.zeros((x.shape[1] + 1) * n_classes)

        def solve(penalty: float) -> tuple[Floats, Floats]:
            nonlocal start

            def objective(flat: Floats) -> tuple[float, Floats]:
                both = flat.reshape(-1, n_classes)
                raw = x @ both[:-1] + both[-1]
                logs = raw - logsumexp(raw, axis=1, keepdims=True)
                difference = (np.exp(logs) - y) / len(x)
                value = -np.sum(logs * y) / len(x) + 0.5 * penalty * np.sum(np.square(both[:-1]))
                slope = np.vstack([x.T @ difference + penalty * both[:-1], difference.sum(axis=0)])
                return float(value), slope.ravel()

            # From the last penalty's solution: they are tried from strong to weak.
            start = minimize(
                objective,
                start,
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": MOST_ITERATIONS},
            ).x
            both = start.reshape(-1, n_classes)
            return both[:-1], both[-1]

        return solve

    def loss(outputs: Floats, y: Floats) -> float:
        logs = outputs - logsumexp(outputs, axis=1, keepdims=True)
        return float(-np.mean(np.sum(logs * y, axis=1)))

    return _chosen(features, targets, groups, fit, loss)


def _chosen(
    features: Floats,
    targets: Floats,
    groups: Integers,
    fit: Callable[[Floats, Floats], Callable[[float], tuple[Floats, Floats]]],
    loss: Callable[[Floats, Floats], float],
) -> ReadOut:
    """Choose the penalty on groups that are held out, then fit to everything."""
    features = np.asarray(features, dtype=np.float64)
    scaled = Scaled.to(features)
    x = scaled(features)
    _, number = np.unique(groups, return_inverse=True)
    folds = min(FOLDS, int(number.max()) + 1)
    total = np.zeros(len(PENALTIES))
    for fold in range(folds if folds > 1 else 0):
        out = number % folds == fold
        solve = fit(x[~out], targets[~out])
        for at, penalty in enumerate(PENALTIES):
            weights, offset = solve(penalty)
            total[at] += loss(x[out] @ weights + offset, targets[out])
    best = PENALTIES[int(total.argmin())]
    solve = fit(x, targets)
    for penalty in PENALTIES[: PENALTIES.index(best) + 1]:
        weights, offset = solve(penalty)
    return ReadOut(scaled=scaled, weights=weights, offset=offset, penalty=best)
