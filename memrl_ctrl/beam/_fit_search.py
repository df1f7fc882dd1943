"""The search for one profile's phi2, emittance and intensity: scan, refine, then the posterior.

- **Scan**: a grid of phi2, emittance and intensity, one call of the kernel, each compared at its best
  trigger phase; for each phi2 the best remains, and the minima over the circle are starts.
- **Refine**: bounded least squares from each start (scipy).
- **Posterior**: intensity and emittance are often bounded by what is possible rather than by the
  profile, and phi2 follows them: a covariance at the minimum would not be honest. So the moments are
  taken over the posterior (likelihood, Gaussian priors, flat within the bounds) by importance
  sampling from a Student distribution about the minimum, refined in rounds (population Monte Carlo;
  Cappe et al., J. Comput. Graph. Stat. 13, 907, 2004), with quasi-random points: results repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri, gammaln, ndtri

from memrl_ctrl.angles import wrap
from memrl_ctrl.beam._fit_model import (
    INTENSITY,
    LOG_EMITTANCE,
    PHI2,
    TRIGGER,
    FitModel,
)
from memrl_ctrl.beam.machine import Array, ComplexArray

PHI2_POINTS = 24
EMITTANCE_POINTS = 8
INTENSITY_POINTS = 3
STARTS = 4
"""Minima over the circle of phi2 that are refined."""
PER_INTENSITY = 2
"""The same for each intensity of the grid alone."""
TOLERANCE = 1.0e-5
"""Relative change of chi2, and of the parameters in their scales, at which least squares end."""
COLUMNS = 4
OVERFILLED = 100.0
"""Residual of a bunch of which the bucket holds nothing."""
STEPS = np.array([4.0e-3, 2.0e-3, 4.0e-2, 2.0e-3])
"""Steps of the differences, by column."""
_SCALES = np.array([0.1, 0.05, 1.0, 0.05])
_SAMPLES = 256
_ROUNDS = 4
_FREEDOM = 5.0
"""Degrees of freedom of the Student distribution that is drawn from."""
_ENOUGH = 60.0
"""Effective number of samples at which the rounds end."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Bounds and priors of one point's parameters; columns as in `_fit_model`."""

    low: Array
    """Lower bounds [4]."""
    high: Array
    """Upper bounds [4]."""
    priors: tuple[tuple[int, float, float], ...]
    """Gaussian priors: column, mean, standard deviation."""
    free: npt.NDArray[np.int64]
    """Columns that are fitted."""
    fixed: Array
    """Values [4] of those that are not."""


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A minimum of chi2."""

    parameters: Array
    """[4]."""
    chi2: float
    """Of the data."""
    cost: float
    """Chi2 of data and priors."""
    information: Array
    """J'J over the free columns, priors included."""


def bounded(model: FitModel, row: int, box: Box, parameters: Array) -> Array:
    """Residuals [b, 2 harmonics + 1 + priors] at parameters [b, 4] of one point."""
    rows = np.full(parameters.shape[0], row)
    spectra, captured = model.spectra(rows, parameters)
    moved = model.moved(spectra, parameters[:, TRIGGER])
    return with_priors(model.residuals(rows, moved), captured, box, parameters)


def with_priors(residuals: Array, captured: Array, box: Box, parameters: Array) -> Array:
    """Residuals with one more column for what the bucket does not hold, and one for each prior.

    A bunch that overfills its bucket looks like the captured part alone: of all emittances and
    intensities with that captured part, the captured part itself is the answer.
    """
    extra = [OVERFILLED * (1.0 - captured)]
    extra += [(parameters[:, c] - mean) / sigma for c, mean, sigma in box.priors]
    return np.concatenate([residuals, np.stack(extra, axis=1)], axis=1)


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Profiles of one point on a grid of phi2, intensity and emittance."""

    grid: Array
    """Parameters but the trigger [b, 3], emittance running fastest, phi2 slowest."""
    points: tuple[int, int, int]
    """Points in phi2, intensity and emittance."""
    spectra: ComplexArray
    """[b, harmonics]."""
    captured: Array
    """[b]."""


def scan(model: FitModel, row: int, box: Box, fineness: int = 1) -> Scan:
    """Compute the grid of a point; `fineness` multiplies the points of each axis."""
    count = PHI2_POINTS * fineness
    phi2 = (np.arange(count) + 0.5) * (2.0 * np.pi / count) - np.pi
    emittance = np.linspace(
        box.low[LOG_EMITTANCE], box.high[LOG_EMITTANCE], EMITTANCE_POINTS * fineness
    )
    if INTENSITY in box.free:
        low, high = box.low[INTENSITY], box.high[INTENSITY]
        for column, mean, sigma in box.priors:
            if column == INTENSITY:
                low, high = max(low, mean - 2.0 * sigma), min(high, mean + 2.0 * sigma)
        count = INTENSITY_POINTS * fineness
        intensity = low + (high - low) * (np.arange(count) + 0.5) / count
    else:
        intensity = box.fixed[[INTENSITY]]
    mesh = np.meshgrid(phi2, intensity, emittance, indexing="ij")
    grid = np.stack([mesh[0].ravel(), mesh[2].ravel(), mesh[1].ravel()], axis=1)
    spectra, captured = model.spectra(np.full(grid.shape[0], row), grid)
    return Scan(
        grid=grid,
        points=(phi2.size, intensity.size, emittance.size),
        spectra=spectra,
        captured=captured,
    )


def starts(
    model: FitModel, row: int, box: Box, scanned: Scan, *, known: bool, count: int = STARTS
) -> Array:
    """Starts [starts, 4] for `refine`, best first: the minima of chi2 over the circle of phi2.

    Args:
        model: the data.
        row: the point.
        box: bounds and priors.
        scanned: the point's grid.
        known: whether the trigger is near 0.
        count: minima that are taken, at most.
    """
    grid = scanned.grid
    chi2, trigger = model.scan_triggers(row, scanned.spectra, known=known)
    for column, mean, sigma in box.priors:
        if column != TRIGGER:
            chi2 = chi2 + ((grid[:, column] - mean) / sigma) ** 2
    n_phi2, n_intensity, n_emittance = scanned.points
    # Where the best profile of a phi2 fills its bucket, the best that does not is a start too; and
    # so is the best of each intensity, since two solutions may differ in that more than in phi2.
    layers = [scanned.captured > 0.0, scanned.captured >= 1.0]
    if all(column != INTENSITY for column, _, _ in box.priors):
        layer = (np.arange(chi2.size) // n_emittance) % n_intensity
        layers += [(scanned.captured >= 1.0) & (layer == k) for k in range(n_intensity)]
    found: dict[int, float] = {}
    for k, allowed in enumerate(layers):
        table = np.where(allowed, chi2, np.inf).reshape(n_phi2, -1)
        best = table.argmin(axis=1)
        curve = table[np.arange(n_phi2), best]
        minima = np.flatnonzero((curve <= np.roll(curve, 1)) & (curve < np.roll(curve, -1)))
        most = count if k < 2 else PER_INTENSITY
        for at in minima[np.argsort(curve[minima])][:most]:
            found.setdefault(int(at * table.shape[1] + best[at]), float(curve[at]))
    index = np.array(sorted(found, key=lambda at: found[at]), dtype=np.int64)
    result = np.concatenate([grid[index], trigger[index, None]], axis=1)
    step = (box.high - box.low)[LOG_EMITTANCE] / (n_emittance - 1)
    for k, at in enumerate(index):
        place = int(at) % n_emittance
        if 0 < place < n_emittance - 1:
            result[k, LOG_EMITTANCE] += step * _vertex(chi2[at - 1 : at + 2])
    return result


def _vertex(three: Array) -> float:
    """Where the parabola through three grid points has its minimum, steps from the middle one."""
    left, here, right = three
    bend = left - 2.0 * here + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend > 0.0 else 0.0


def refine(
    model: FitModel, row: int, box: Box, start: Array, tolerance: float = TOLERANCE
) -> Solution:
    """The minimum of chi2 that least squares reach from a start [4]."""
    from scipy.optimize import least_squares  # heavy: only who fits imports it

    free = box.free
    margin = 1.0e-6 * (box.high - box.low)[free]
    low, high = box.low[free], box.high[free]

    def full(values: Array) -> Array:
        parameters = box.fixed.copy()
        parameters[free] = values
        return parameters

    def residuals(values: Array) -> Array:
        result: Array = bounded(model, row, box, full(values)[None, :])[0]
        return result

    def jacobian(values: Array) -> Array:
        return slopes(model, row, box, full(values))

    found = least_squares(
        residuals,
        np.clip(start[free], low + margin, high - margin),
        jac=jacobian,
        bounds=(low, high),
        x_scale=_SCALES[free],
        ftol=tolerance,
        xtol=TOLERANCE,
        max_nfev=25,
    )
    values = full(np.asarray(found.x, dtype=np.float64))
    fun = np.asarray(found.fun, dtype=np.float64)
    data = float(np.sum(fun[: 2 * model.count] ** 2))
    jac = np.asarray(found.jac, dtype=np.float64)
    return Solution(
        parameters=values,
        chi2=data,
        cost=float(np.sum(fun**2)),
        information=jac.T @ jac,
    )


def slopes(model: FitModel, row: int, box: Box, parameters: Array) -> Array:
    """Jacobian [residuals, free] by differences: one kernel call; the trigger needs none."""
    columns = [int(c) for c in box.free]
    steps = np.zeros((2 * len(columns), COLUMNS))
    for k, column in enumerate(columns):
        steps[2 * k, column], steps[2 * k + 1, column] = STEPS[column], -STEPS[column]
    points = parameters + steps
    points[:, INTENSITY] = np.maximum(points[:, INTENSITY], 0.0)
    of_beam = np.array([c != TRIGGER for c in columns for _ in range(2)])
    beam = np.concatenate([points[of_beam], parameters[None, :]])
    spectra, fractions = model.spectra(np.full(beam.shape[0], row), beam)
    every = np.repeat(spectra[-1:], points.shape[0], axis=0)
    captured = np.repeat(fractions[-1:], points.shape[0])
    every[of_beam], captured[of_beam] = spectra[:-1], fractions[:-1]
    rows = np.full(points.shape[0], row)
    residuals = model.residuals(rows, model.moved(every, points[:, TRIGGER]))
    residuals = with_priors(residuals, captured, box, points)
    width = np.array([points[2 * k, c] - points[2 * k + 1, c] for k, c in enumerate(columns)])
    result: Array = ((residuals[0::2] - residuals[1::2]) / width[:, None]).T
    return result


@lru_cache(maxsize=8)
def _quasi_random(columns: int, count: int, skip: int) -> tuple[Array, Array]:
    """Standard normal points [count, columns] and uniform ones [count], low discrepancy."""
    from scipy.stats.qmc import Halton  # heavy: only who fits imports it

    points = Halton(columns + 1, scramble=True, seed=1).random(skip + count)[skip:]
    points = np.clip(points, 1.0e-9, 1.0 - 1.0e-9)
    return ndtri(points[:, :-1]), points[:, -1]


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Moments of the free parameters, given the data."""

    mean: Array
    """[4]."""
    covariance: Array
    """[4, 4]; 0 where a column is not free."""
    samples: float
    """Effective number of samples."""


def posterior(
    model: FitModel, row: int, box: Box, solutions: list[Solution], spread: float
) -> Posterior:
    """Moments about minima that belong together, the best first.

    Args:
        model: the data.
        row: the point.
        box: bounds and priors.
        solutions: the minima.
        spread: factor on the variance of the data (1, or above where the fit is poor).
    """
    free = box.free
    low, high = box.low[free], box.high[free]
    width = np.where(free == PHI2, 1.8, (high - low) / np.sqrt(12.0))
    waiting = [
        (_near(s, solutions[0])[free], _inverse(s.information / spread + np.diag(width**-2.0)))
        for s in solutions
    ]
    drawn: list[Array] = []
    cost: list[Array] = []
    proposals: list[tuple[Array, Array]] = []
    effective = 0.0
    for turn in range(len(waiting) + _ROUNDS - 1):
        if waiting:
            mean, covariance = waiting.pop(0)
        proposals.append((mean, covariance))
        values = _draw(mean, covariance, turn)
        inside = np.all((values >= low) & (values <= high), axis=1)
        values = values[inside]
        parameters = np.repeat(box.fixed[None, :], values.shape[0], axis=0)
        parameters[:, free] = values
        drawn.append(values)
        cost.append(np.sum(bounded(model, row, box, parameters) ** 2, axis=1))
        if not sum(map(len, drawn)):  # a minimum in a corner of the bounds: nothing to correct
            continue
        mean, covariance, effective = _weighed(
            np.concatenate(drawn),
            (np.concatenate(cost) - solutions[0].cost) / spread,
            proposals,
        )
        if waiting:
            continue
        if effective >= _ENOUGH:
            break
        # Too few samples count: the next round is drawn from what is known, and somewhat wider.
        blend = min(1.0, effective / (3.0 * free.size))
        covariance = blend * covariance + (1.0 - blend) * proposals[-1][1]
    whole = box.fixed.copy()
    whole[free] = mean
    full = np.zeros((COLUMNS, COLUMNS))
    full[np.ix_(free, free)] = covariance
    whole[[PHI2, TRIGGER]] = wrap(whole[[PHI2, TRIGGER]])
    return Posterior(mean=whole, covariance=full, samples=effective)


def _near(one: Solution, best: Solution) -> Array:
    """Parameters of a solution, on the turn of the best one."""
    values = one.parameters.copy()
    for column in (PHI2, TRIGGER):
        values[column] = best.parameters[column] + wrap(values[column] - best.parameters[column])
    return values


def _weighed(
    points: Array, excess: Array, proposals: list[tuple[Array, Array]]
) -> tuple[Array, Array, float]:
    """Mean, covariance and effective number of weighed samples.

    Args:
        points: samples [n, columns].
        excess: chi2 above the minimum [n].
        proposals: mean and covariance of the distributions that they were drawn from, in equal
            numbers: each is weighed against all of them (deterministic mixture weights).
    """
    density = np.mean([np.exp(_log_density(points, m, c)) for m, c in proposals], axis=0)
    log_weight = -0.5 * excess - np.log(density)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = weight @ points
    centred = points - mean
    covariance = (weight[:, None] * centred).T @ centred
    return mean, covariance, float(1.0 / np.sum(weight**2))


def _inverse(matrix: Array) -> Array:
    result: Array = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    return result


def _draw(mean: Array, covariance: Array, turn: int) -> Array:
    """Points of a Student distribution [samples, columns]."""
    normal, uniform = _quasi_random(mean.size, _SAMPLES, turn * _SAMPLES)
    scale = np.asarray(np.sqrt(_FREEDOM / chdtri(_FREEDOM, uniform)), dtype=np.float64)
    root = np.linalg.cholesky(_regular(covariance))
    result: Array = mean + (normal * scale[:, None]) @ root.T
    return result


def _log_density(points: Array, mean: Array, covariance: Array) -> Array:
    """Logarithm of the Student distribution's density at points [n, columns]."""
    size = mean.size
    root = np.linalg.cholesky(_regular(covariance))
    distance = np.sum(np.linalg.solve(root, (points - mean).T) ** 2, axis=0)
    constant = (
        gammaln(0.5 * (_FREEDOM + size))
        - gammaln(0.5 * _FREEDOM)
        - 0.5 * size * np.log(_FREEDOM * np.pi)
        - np.sum(np.log(np.diag(root)))
    )
    result: Array = constant - 0.5 * (_FREEDOM + size) * np.log1p(distance / _FREEDOM)
    return result


def _regular(covariance: Array) -> Array:
    """A covariance whose Cholesky factor exists."""
    diagonal = np.diag(covariance)
    result: Array = covariance + np.diag(1.0e-9 * diagonal + 1.0e-18)
    return result
