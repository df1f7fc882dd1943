"""The fit over the operating range: accuracy, and whether its uncertainties are honest."""

import numpy as np
import pytest

from memrl_ctrl.beam import (
    Conditions,
    bucket_area_evs,
    fit_profile,
    matched_profiles,
    reference_optimum,
)
from memrl_ctrl.metrics import circular_difference
from memrl_ctrl.program import load_machine

NOISE = 0.02
SLICES = 1000


def drawn(count, seed, away_rad):
    """Conditions of the PSB's operating range with a reference optimum, away from it at random."""
    machine = load_machine("psb")
    span, rng = machine.operating_range, np.random.default_rng(seed)
    many = 2 * count
    v1 = rng.uniform(*span.v1_v, many)
    point = Conditions(
        b_field_t=rng.uniform(*span.b_field_t, many),
        b_dot_t_per_s=rng.uniform(*span.b_dot_t_per_s, many),
        v1_v=v1,
        v2_v=v1 * rng.uniform(*span.v2_over_v1, many),
        phi2_rad=0.0,
        emittance_evs=1.0,
        intensity=rng.uniform(*span.intensity, many),
        machine=machine.ring,
        gamma_transition=machine.gamma_transition.at(rng.uniform(275.0, 805.0, many)),
    )
    filled = rng.uniform(0.3, 0.9, many) * bucket_area_evs(point)
    kept = np.flatnonzero(np.isfinite(filled))
    point = point.take(kept).replace(emittance_evs=filled[kept])
    best = reference_optimum(point)
    phi2 = best + rng.uniform(-away_rad, away_rad, best.size)
    kept = np.flatnonzero(np.isfinite(best))
    point = point.take(kept).replace(phi2_rad=phi2[kept])
    kept = np.flatnonzero(matched_profiles(point, 16).converged)[:count]
    return machine, point.take(kept)


def pulls(count, seed, away_rad, **options):
    """Errors and uncertainties of phi2, degrees, and verdicts."""
    machine, point = drawn(count, seed, away_rad)
    rng = np.random.default_rng(seed + 1)
    density = matched_profiles(point, SLICES).line_density.astype(float)
    shown = density / density.max(axis=1, keepdims=True)
    shown += NOISE * rng.standard_normal(shown.shape)
    fit = fit_profile(shown, machine, point, **options)
    error = np.degrees(circular_difference(fit.phi2_rad, point.phi2_rad))
    return error, np.degrees(fit.phi2_sigma_rad), fit.verdict


def test_near_the_optimum_half_of_all_offsets_lie_within_half_a_degree():
    """Over 24 conditions within 30 degrees of their optimum the median error is below 0.5 degree."""
    error, sigma, verdict = pulls(24, 5, 0.5)
    assert (verdict == "good").mean() > 0.9
    assert np.median(np.abs(error)) < 0.5
    assert 0.6 < np.sqrt(np.mean((error / sigma) ** 2)) < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("away_rad", [0.5, np.pi])
def test_uncertainties_are_honest(away_rad):
    """Over 200 conditions two thirds of the errors lie within one sigma, 95 % within two."""
    error, sigma, verdict = pulls(200, 17, away_rad)
    sure = np.isin(verdict, ("good", "weak"))
    assert sure.mean() > 0.9
    pull = np.abs(error / sigma)[sure]
    assert 0.8 < np.quantile(pull, 0.683) < 1.2
    assert 1.6 < np.quantile(pull, 0.954) < 2.4
