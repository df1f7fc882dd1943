"""The fit of one profile, from the grid to the posterior and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, fdtrc

from memrl_ctrl.angles import wrap
from memrl_ctrl.beam._fit_input import FitInput, Priors
from memrl_ctrl.beam._fit_model import PHI2, TRIGGER, FitModel
from memrl_ctrl.beam._fit_search import (
    Box,
    Posterior,
    Scan,
    Solution,
    posterior,
    refine,
    scan,
    starts,
)
from memrl_ctrl.beam.machine import Array

GOOD, POOR, AMBIGUOUS, WEAK, NOT_FITTED = "good", "poor", "ambiguous", "weak", "not fitted"
POOR_BELOW = 1.0e-3
"""A fit whose chi2 is this improbable is poor: the model does not describe the profile."""
EXCLUDED_ABOVE = 9.0
"""Another solution whose chi2 is larger by this much is excluded (3 sigma)."""
WEAK_ABOVE_RAD = np.radians(20.0)
"""From this uncertainty of phi2 on the profile says next to nothing."""
_SAME_RAD = 1.0
"""Minima that are closer in phi2 belong to one solution."""
_TRIGGER_GAIN = 12.0
"""Chi2 that an unknown trigger must gain over one at the RF phase to be believed (3.5 sigma)."""
_MORE_STARTS = 10
_ROUGH = 0.02
"""Relative change of chi2 at which a first refinement ends."""
_NO_CHANCE = 100.0
"""A solution whose chi2 is then larger than the best by this much is given up."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One profile's solutions."""

    best: Solution
    second: Solution | None
    """Of another phi2, where it is not excluded."""
    moments: Posterior
    known: bool
    """Whether the trigger was taken for the RF phase."""
    reduced: float
    """Chi2 per degree of freedom."""
    p_value: float
    """Probability of a larger chi2."""


def fit_row(model: FitModel, k: int, given: FitInput, row: int, priors: Priors) -> Row | None:
    """Fit row `k` of the model, which is row `row` of what was given; None without a match."""
    with_intensity = bool(model.depends_on_intensity[k])
    free = priors.box(given, row, with_intensity=with_intensity, known=False)
    tied = priors.box(given, row, with_intensity=with_intensity, known=True)
    scanned = scan(model, k, free)
    if not np.any(scanned.captured > 0.0):
        return None
    solutions: list[Solution] = []
    known = priors.trigger != "unknown"
    if known:
        solutions = _refined(model, k, tied, starts(model, k, tied, scanned, known=True))
    if priors.trigger == "auto":
        known, solutions = _with_or_without(model, k, free, scanned, solutions)
    elif not known:
        solutions = _refined(model, k, free, starts(model, k, free, scanned, known=False))
    if not solutions:
        return None
    box = tied if known else free
    if _goodness(model, k, solutions[0])[1] < POOR_BELOW:
        finer = scan(model, k, box, 2)
        more = starts(model, k, box, finer, known=known, count=_MORE_STARTS)
        solutions = sorted([*solutions, *_refined(model, k, box, more)], key=lambda s: s.cost)
    reduced, probability = _goodness(model, k, solutions[0])
    # Where the model does not describe the profile, its uncertainties grow with the misfit.
    spread = max(1.0, reduced) if probability < POOR_BELOW else 1.0
    best = solutions[0]
    close, second = [best], None
    for other in solutions[1:]:
        above = (other.cost - best.cost) / spread
        apart = abs(float(wrap(other.parameters[[PHI2]] - best.parameters[PHI2])[0]))
        if apart > _SAME_RAD:
            if above < EXCLUDED_ABOVE and second is None:
                second = other
        elif above < _TRIGGER_GAIN and not any(_same(other, one) for one in close):
            close.append(other)
    moments = posterior(model, k, box, close, spread)
    return Row(
        best=best,
        second=second,
        moments=moments,
        known=known,
        reduced=reduced,
        p_value=probability,
    )


def _with_or_without(
    model: FitModel, k: int, free: Box, scanned: Scan, tied: list[Solution]
) -> tuple[bool, list[Solution]]:
    """Whether the trigger is at the RF phase, and the solutions that go with the answer.

    Where a solution there describes the profile, and freeing the trigger gains nothing near it, that
    is enough; else the free trigger is searched everywhere.
    """
    others: list[Solution] = []
    if tied:
        freed = refine(model, k, free, tied[0].parameters)
        bar = tied[0].cost - _TRIGGER_GAIN
        if freed.cost > bar and _goodness(model, k, tied[0])[1] > POOR_BELOW:
            return True, tied
        others = [freed]
    others += _refined(model, k, free, starts(model, k, free, scanned, known=False))
    others.sort(key=lambda s: s.cost)
    if tied and others[0].cost > bar:
        return True, tied
    return False, others


def _refined(model: FitModel, k: int, box: Box, begin: Array) -> list[Solution]:
    """Solutions from some starts, best first: those that have a chance are refined to the end."""
    rough = [refine(model, k, box, one, _ROUGH) for one in begin]
    rough.sort(key=lambda s: s.cost)
    fine: list[Solution] = []
    for one in rough:
        if one.cost > rough[0].cost + _NO_CHANCE:
            break
        if not any(_same(one, other) for other in fine):
            fine.append(refine(model, k, box, one.parameters))
    return sorted(fine, key=lambda s: s.cost)


def _same(one: Solution, other: Solution) -> bool:
    """Whether two minima are one."""
    difference = one.parameters - other.parameters
    difference[[PHI2, TRIGGER]] = wrap(difference[[PHI2, TRIGGER]])
    return bool(np.all(np.abs(difference) < np.array([0.02, 0.02, 0.2, 0.02])))


def _goodness(model: FitModel, k: int, solution: Solution) -> tuple[float, float]:
    """Chi2 per degree of freedom, and the probability of a larger one."""
    freedom = 2 * model.count - solution.information.shape[0] - 1
    reduced = solution.chi2 / freedom
    if model.noise_known[k]:
        return reduced, float(chdtrc(freedom, solution.chi2))
    # The noise is itself measured: a ratio of two variances.
    return reduced, float(fdtrc(freedom, model.noise_dof, reduced))


def verdict_of(row: Row) -> str:
    if row.p_value < POOR_BELOW:
        return POOR
    if row.second is not None:
        return AMBIGUOUS
    return WEAK if np.sqrt(row.moments.covariance[PHI2, PHI2]) > WEAK_ABOVE_RAD else GOOD
