"""Macroparticles of a matched bunch."""

from __future__ import annotations

import numpy as np

from memrl_ctrl.beam.conditions import Conditions
from memrl_ctrl.beam.machine import Array
from memrl_ctrl.beam.profiles import bucket_area_evs, evaluate, matched_profiles
from memrl_ctrl.errors import BeamError, UsageError

_POINTS = 8192


def sample_particles(
    conditions: Conditions,
    count: int,
    rng: np.random.Generator,
    *,
    intensity_effects: bool = True,
) -> tuple[Array, Array]:
    """Particles drawn from f(H) ~ sqrt(H0 - H) in the self-consistent potential.

    Times are those of a code that kicks and then drifts, as BLonD does: half a drift forward,
    dt += T eta dE / (2 beta^2 E), so that the bunch stays matched. dt counts from phase 0 of the
    lower harmonic, and the mean lies in its first turn; single particles may lie outside. With
    harmonics (h, 2h) the particles fill the first of the h buckets.

    Args:
        conditions: one condition.
        count: number of particles, at least 1. Where `captured_fraction` of the matched profile
            is below 1, they stand for that share of the intensity.
        rng: source of randomness.
        intensity_effects: false leaves wake and space charge out.

    Returns:
        dt [s] and dE [eV], each [count].

    Raises:
        BeamError: the condition has no bucket, or its fixed point was not found.
        UsageError: more than one condition, or a count below 1.
    """
    if len(conditions) != 1:
        raise UsageError(f"sample_particles takes one condition, not {len(conditions)}")
    if count < 1 or int(count) != count:
        raise UsageError(f"count is {count}; it must be a whole number, at least 1")
    if not callable(getattr(rng, "random", None)):
        raise UsageError(f"rng is {rng!r}; expected a numpy.random.Generator (default_rng(seed))")
    matched = matched_profiles(conditions, 16, intensity_effects=intensity_effects)
    if not matched.converged[0]:
        raise BeamError(f"no matched bunch: {_why_not(conditions)}")
    left, right = matched.window_rad[0]
    edges = np.linspace(left, right, _POINTS + 1)
    centres = 0.5 * (edges[1:] + edges[:-1])
    height = np.maximum(
        0.0,
        _height(matched.level_vrad[0], conditions, centres)
        - evaluate(matched.wake_potential_vrad, centres)[0],
    )
    cumulative = np.concatenate([[0.0], np.cumsum(height)])
    phase = np.interp(rng.random(count) * cumulative[-1], cumulative, edges)
    # At a given phase f ~ sqrt(y (1 - s^2)), dE = s dE_max, s in (-1, 1): a semicircle, the first
    # coordinate of a point drawn from a disc.
    radius, angle = np.sqrt(rng.random(count)), rng.random(count) * 2.0 * np.pi
    share = np.interp(phase, centres, height)
    if intensity_effects:
        # Space charge makes the well shallower: H0 - U = (1 - kappa / S) (H0 - U').
        kappa = matched.captured_fraction[0] * conditions.space_charge_vrad2[0]
        share = share * (1.0 - kappa / matched.normalisation_vrad2[0])
    largest = np.sqrt(2.0 * share / conditions.kinetic_coefficient_per_ev[0])
    energy = largest * radius * np.cos(angle)
    time = phase / (2.0 * np.pi * conditions.rf_frequency_hz[0])
    drift = conditions.slippage_factor[0] / (
        2.0
        * conditions.revolution_frequency_hz[0]
        * conditions.beta[0] ** 2
        * conditions.energy_ev[0]
    )
    return time + drift * energy, energy


def _why_not(conditions: Conditions) -> str:
    """Why a condition has no matched bunch, and what would help."""
    if np.isnan(bucket_area_evs(conditions)[0]):
        return (
            f"V1 {conditions.v1_v[0]:g} V and V2 {conditions.v2_v[0]:g} V make no bucket at a gain of "
            f"{conditions.energy_gain_ev[0]:.4g} eV a turn; raise the voltage or lower Bdot"
        )
    if matched_profiles(conditions, 16, intensity_effects=False).converged[0]:
        return (
            f"the well breaks apart in the wake of {conditions.intensity[0]:.3g} protons, or no "
            "self-consistent profile was found; lower the intensity or raise the voltage"
        )
    return (
        f"{conditions.emittance_evs[0]:.3g} eV s are fewer than three points of the kernel's grid; "
        "raise the emittance"
    )


def _height(level: float, conditions: Conditions, phase: Array) -> Array:
    """level minus the RF potential, V rad."""
    potential = (
        conditions.v1_v[0] * np.cos(phase)
        + 0.5 * conditions.v2_v[0] * np.cos(2.0 * phase + conditions.phi2_rad[0])
        - conditions.energy_gain_ev[0] * phase
    )
    result: Array = level - potential
    return result
