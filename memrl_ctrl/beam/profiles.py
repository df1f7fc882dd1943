"""Matched profiles: the stationary line density of a bunch in its own wake."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from memrl_ctrl.beam import _prepare, _solver
from memrl_ctrl.beam.conditions import Conditions
from memrl_ctrl.beam.machine import Array, ComplexArray
from memrl_ctrl.errors import UsageError

_MORE_THAN_ANY_BUCKET_EVS = 1.0e9


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedProfiles:
    """Matched profiles of conditions [n] on `n_slices` bins of one RF turn.

    The distribution is f(H) ~ sqrt(H0 - H) in the total potential; the line density follows as
    lambda ~ max(0, H0 - U). Where no bucket exists the row is NaN and `converged` is false.
    """

    conditions: Conditions
    """The conditions these profiles belong to."""
    phase_rad: Array
    """Bin centres, RF phase of the lower harmonic, rad, [n_slices], from 0 to 2 pi."""
    line_density: npt.NDArray[np.float32]
    """Line density, 1/rad, [n, n_slices]; its integral over a turn is 1."""
    asymmetry: Array
    """Skewness of the profile in RF phase increasing with time, [n]."""
    bunching_factor: Array
    """Mean over peak of the line density, over one turn, [n]."""
    bunch_length_s: Array
    """Four times the rms length, s, [n]."""
    mean_phase_rad: Array
    """Mean RF phase of the bunch, rad in [0, 2 pi), [n]."""
    bucket_area_evs: Array
    """Area of the bucket in the total potential, intensity effects included, eV s, [n]."""
    synchronous_phase_rad: Array
    """Phase at which the lower harmonic alone gives the energy gain, rad, [n]; NaN if none."""
    converged: npt.NDArray[np.bool_]
    """Whether a bucket exists and the fixed point was found, [n]."""
    captured_fraction: Array
    """Share of the emittance, and of the intensity, that the bucket holds, [n]; at most 1."""
    iterations: npt.NDArray[np.int64]
    """Iterations of the fixed point, [n]."""
    wake_potential_vrad: ComplexArray
    """Fourier coefficients U_k of the wake potential, k = 1.., V rad, [n, harmonics]:
    U = 2 Re sum U_k exp(j k phi). Space charge is not in them."""
    level_vrad: Array
    """H0: the potential without space charge at the bunch's edge, V rad, [n], on the scale of
    V1 cos(phi) + V2/2 cos(2 phi + phi2) - energy_gain phi + wake within `window_rad`."""
    window_rad: Array
    """Left and right end of the bucket, rad, [n, 2], around the mean: one may lie outside the turn."""
    normalisation_vrad2: Array
    """S: integral of max(0, H0 - U') over RF phase, V rad^2, [n]."""
    intensity_effects: bool
    """Whether wake and space charge were taken into account."""

    def __len__(self) -> int:
        """Number of conditions n."""
        return int(self.line_density.shape[0])

    @cached_property
    def induced_voltage_v(self) -> Array:
        """Voltage that wake and space charge add a turn, V, [n, n_slices], at the bin centres."""
        conditions = self.conditions
        order = np.arange(1, self.wake_potential_vrad.shape[1] + 1)
        wake: Array = evaluate(1j * order * self.wake_potential_vrad, self.phase_rad)
        if not self.intensity_effects:
            return wake
        phase = self.phase_rad[None, :]
        total = (
            wake
            - conditions.v1_v[:, None] * np.sin(phase)
            - conditions.v2_v[:, None] * np.sin(2.0 * phase + conditions.phi2_rad[:, None])
            - conditions.energy_gain_ev[:, None]
        )
        kappa = self.captured_fraction * conditions.space_charge_vrad2
        # Inside the bunch lambda = (H0 - U') / S, so its slope is minus that of U' over S.
        slope = -total / self.normalisation_vrad2[:, None]
        inside = np.where(self.line_density > 0.0, slope, 0.0)
        result: Array = wake + kappa[:, None] * inside
        result[np.isnan(self.level_vrad)] = np.nan
        return result


def evaluate(coefficients: ComplexArray, phase_rad: Array) -> Array:
    """2 Re sum_k c_k exp(j k phi): [n, points] from [n, harmonics] and [points]."""
    order = np.arange(1, coefficients.shape[1] + 1)[:, None]
    waves = np.exp(1j * order * phase_rad)
    result: Array = np.asarray(2.0 * (coefficients @ waves).real, dtype=np.float64)
    return result


def matched_profiles(
    conditions: Conditions,
    n_slices: int = 1000,
    *,
    intensity_effects: bool = True,
    threads: int = 1,
) -> MatchedProfiles:
    """Matched profiles of all conditions.

    Args:
        conditions: the conditions, [n].
        n_slices: bins over one RF turn, at least 16; multiples of 4 are quicker.
        intensity_effects: false leaves wake and space charge out, whatever the intensity.
        threads: threads to share the conditions among.

    Returns:
        Profiles and their metrics. Where the bucket does not hold the emittance it is filled to
        its edge with the share `captured_fraction` of emittance and intensity.

    The kernel's grid has 256 points a turn. Bunch lengths are good to 1e-4 from a thirtieth of the
    bucket up, to 0.1 % at a hundredth and to 4 % at a thousandth; a bunch of fewer than three points is
    not solved, and `converged` is false.

    Raises:
        UsageError: n_slices or threads out of range, or no condition at all.
    """
    if n_slices < 16 or int(n_slices) != n_slices:
        raise UsageError(f"n_slices is {n_slices}; it must be a whole number, at least 16")
    if not len(conditions):
        raise UsageError("conditions are empty; give at least one")
    prepared = _prepare.prepare(conditions, intensity_effects=intensity_effects)
    solved = _prepare.solve(prepared, int(n_slices), threads=threads)
    return package(conditions, prepared, solved, intensity_effects=intensity_effects)


def package(
    conditions: Conditions,
    prepared: _prepare.Prepared,
    solved: _prepare.Solved,
    *,
    intensity_effects: bool,
) -> MatchedProfiles:
    """The public result from the solver's arrays."""
    result = solved.results
    n_slices = solved.profiles.shape[1]
    mirrored = prepared.mirrored
    turn = 2.0 * np.pi
    gain = conditions.energy_gain_ev
    mean = np.where(mirrored, turn - result[:, _solver.R_MEAN], result[:, _solver.R_MEAN])
    window = result[:, [_solver.R_LEFT, _solver.R_RIGHT]]
    window = np.where(mirrored[:, None], turn - window[:, ::-1], window)
    # Mirrored, the gain's potential counts from the other end of the turn.
    level = result[:, _solver.R_LEVEL] - np.where(mirrored, turn * gain, 0.0)
    # The solver's bucket may lie in the turn before: moved to where its bunch is in this turn.
    away = np.floor(mean / turn)
    mean = mean - turn * away
    window = window - turn * away[:, None]
    level = level + turn * gain * away
    harmonics = prepared.harmonics
    cosine = solved.coefficients[:, :harmonics]
    sine = solved.coefficients[:, harmonics:]
    wake = np.empty(cosine.shape, dtype=np.complex128)
    wake.real = 0.5 * cosine
    wake.imag = np.where(mirrored[:, None], 0.5 * sine, -0.5 * sine)
    skewness = result[:, _solver.R_SKEWNESS]
    omega = turn * conditions.rf_frequency_hz
    return MatchedProfiles(
        conditions=conditions,
        phase_rad=(np.arange(n_slices) + 0.5) * (turn / n_slices),
        line_density=solved.profiles,
        asymmetry=np.where(mirrored, -skewness, skewness),
        bunching_factor=1.0 / (turn * result[:, _solver.R_PEAK]),
        bunch_length_s=4.0 * np.sqrt(result[:, _solver.R_VARIANCE]) / omega,
        mean_phase_rad=mean,
        bucket_area_evs=result[:, _solver.R_BUCKET] * conditions.area_per_root_evs,
        synchronous_phase_rad=conditions.synchronous_phase_rad,
        converged=result[:, _solver.R_STATUS] == _solver.CONVERGED,
        captured_fraction=result[:, _solver.R_CAPTURED],
        iterations=result[:, _solver.R_ITERATIONS].astype(np.int64),
        wake_potential_vrad=wake,
        level_vrad=level,
        window_rad=window,
        normalisation_vrad2=result[:, _solver.R_NORM],
        intensity_effects=intensity_effects,
    )


def bucket_area_evs(conditions: Conditions, *, threads: int = 1) -> Array:
    """Area of the bare RF bucket (no intensity effects) of each condition, eV s, [n].

    NaN where no bucket exists. Emittance and intensity of the conditions do not enter.
    """
    # Filled to the edge, so that a bunch too small for the grid does not hide its bucket.
    full = conditions.replace(emittance_evs=_MORE_THAN_ANY_BUCKET_EVS)
    prepared = _prepare.prepare(full, intensity_effects=False)
    solved = _prepare.solve(prepared, 0, threads=threads)
    result: Array = solved.results[:, _solver.R_BUCKET] * conditions.area_per_root_evs
    return result


def filling_to_emittance(conditions: Conditions, filling: npt.ArrayLike) -> Array:
    """Emittance that fills a given part of the bare RF bucket, eV s, [n].

    The emittance is `filling` times the area of the bucket that V1, V2, phi2 and Bdot of the
    condition make without intensity effects; the condition's own emittance and intensity do not
    enter. The bucket depends on phi2: give the phi2 at which the filling is meant (for example the
    reference optimum). Above 1 the bucket is overfilled.

    Args:
        conditions: the conditions, [n].
        filling: filling factor, above 0, broadcast to [n].

    Returns:
        Emittance, NaN where the condition has no bucket.
    """
    result: Array = np.asarray(filling, dtype=np.float64) * bucket_area_evs(conditions)
    return result
