"""Fit of a measured profile: phi2, emittance and intensity, with what is not known of them.

The method is explained in `docs/fit.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from memrl_ctrl.angles import wrap
from memrl_ctrl.beam._fit_input import (
    TRIGGER_RAD,
    FitInput,
    Gaussian,
    Priors,
    Reasons,
    Trigger,
    chain_of,
    fit_input,
    noise_array,
)
from memrl_ctrl.beam._fit_model import (
    INTENSITY,
    LOG_EMITTANCE,
    PHI2,
    PROTONS,
    TRIGGER,
    FitModel,
)
from memrl_ctrl.beam._fit_row import NOT_FITTED, Row, fit_row, verdict_of
from memrl_ctrl.beam.conditions import Conditions
from memrl_ctrl.beam.machine import Array, Machine
from memrl_ctrl.beam.optimum import Criterion, reference_optimum
from memrl_ctrl.errors import BeamError, UsageError

if TYPE_CHECKING:
    from memrl_ctrl.beam.measurement import Monitor
    from memrl_ctrl.program import MachineFile, ProgramPoints

_LEAST_EVS = 1.0e-3
"""Smallest emittance about which an optimum is looked for, eV s."""
_JURY = 4
"""In a batch of so many profiles, most of them decide for all whether the trigger is known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileFit:
    """Fitted profiles [n]. Where `reason` is not empty, the numbers are NaN.

    Values and uncertainties are mean and standard deviation of the posterior about the best
    solution: likelihood times the priors given, flat within the bounds. Where a bunch fills its
    bucket, emittance and intensity are those that the bucket holds.
    """

    phi2_rad: Array
    """Phase between the harmonics, rad, in (-pi, pi], [n]."""
    phi2_sigma_rad: Array
    """Its 1-sigma uncertainty, and that of the offset, rad, [n]."""
    phi_hw_rad: Array
    """The knob, rad, [n]; NaN where it was not given."""
    offset_rad: Array
    """Hardware offset phi_hw - phi2, rad, in (-pi, pi], [n]."""
    emittance_evs: Array
    """Emittance, eV s, [n]."""
    emittance_sigma_evs: Array
    """Its 1-sigma uncertainty, eV s, [n]."""
    intensity: Array
    """Protons, [n]; NaN where the ring has no intensity effects: a profile does not show it."""
    intensity_sigma: Array
    """Its 1-sigma uncertainty, protons, [n]."""
    trigger_rad: Array
    """By how much the profile is moved to larger phase against RF phase, rad, in (-pi, pi], [n]."""
    trigger_sigma_rad: Array
    """Its 1-sigma uncertainty, rad, [n]."""
    trigger_known: npt.NDArray[np.bool_]
    """Whether the profile's phase was taken for the RF phase, [n]."""
    correlation: Array
    """Correlations of phi2, emittance, intensity and trigger, [n, 4, 4]."""
    noise: Array
    """Rms noise of a slice, units of the profile, [n]."""
    amplitude: Array
    """Area of the bunch, units of the profile times rad, [n]."""
    baseline: Array
    """Baseline, units of the profile, [n]."""
    chi2_reduced: Array
    """Chi2 per degree of freedom of the best solution, [n]."""
    p_value: Array
    """Probability of a larger chi2, [n]; below 1e-3 the fit is poor."""
    second_phi2_rad: Array
    """phi2 of the second-best solution where it is not excluded, else NaN, [n]."""
    second_chi2_above: Array
    """By how much its chi2 lies above the best, [n]."""
    verdict: npt.NDArray[np.str_]
    """`good`, `poor` (not this model), `ambiguous` (a second solution is not excluded), `weak`
    (phi2 uncertain by more than 20 degrees) or `not fitted`, [n]."""
    reason: Reasons
    """Why a profile could not be fitted, one sentence; else empty, [n]."""
    profile: Array
    """The profiles that were fitted, [n, n_slices]."""
    model: Array
    """The best solution's profiles, baseline and amplitude included, [n, n_slices]."""
    conditions: Conditions
    """The fitted conditions [n]; phi2 0, emittance 1 eV s and intensity 0 where not fitted."""

    def __len__(self) -> int:
        """Number of profiles n."""
        return int(self.phi2_rad.size)

    @property
    def fitted(self) -> npt.NDArray[np.bool_]:
        """Which profiles have a fit, [n]."""
        return np.asarray(self.reason == "", dtype=np.bool_)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be fitted, ready for the search."""

    given: FitInput
    """Points and profiles [n]."""
    rows: npt.NDArray[np.int64]
    """Rows that can be fitted."""
    model: FitModel
    """The forward model of those rows."""
    priors: Priors
    """What is known beforehand."""

    def result(self) -> ProfileFit:
        """Fit each profile by itself."""
        model, rows = self.model, self.rows
        solved = [
            fit_row(model, k, self.given, int(rows[k]), self.priors) for k in range(rows.size)
        ]
        if self.priors.trigger == "auto" and rows.size >= _JURY:
            solved = _of_one_kind(self, solved)
        return _result(self.given, model, rows, solved)


def fit_profile(
    profile: npt.ArrayLike,
    machine: Machine | MachineFile,
    point: ProgramPoints | Conditions,
    *,
    phi_hw_rad: npt.ArrayLike | None = None,
    intensity: Gaussian | None = None,
    emittance_evs: Gaussian | None = None,
    trigger: Trigger = "auto",
    trigger_sigma_rad: float = TRIGGER_RAD,
    noise: npt.ArrayLike | None = None,
    monitor: Monitor | None = None,
    bandwidth_hz: float | None = None,
    intensity_max: float | None = None,
    threads: int = 1,
) -> ProfileFit:
    """Estimate phi2, emittance and intensity from measured profiles.

    Args:
        profile: [n_slices], or a batch [n, n_slices]: a turn of the lower harmonic, earlier phase
            first, in any units, with a baseline and noise; at least 16 slices.
        machine: the ring. A machine file with `intensity_effects: off` fits without them.
        point: where in the cycle: one row, or one for each profile. Of conditions, phi2, emittance
            and intensity do not count.
        phi_hw_rad: the knob, one value or [n]; by default that of the program's points. Without it
            there is no offset.
        intensity: what is known of it: mean and standard deviation, protons.
        emittance_evs: what is known of it: mean and standard deviation, eV s.
        trigger: whether slice 0 begins at RF phase 0: `known`, `unknown` (the bunch may be anywhere
            on the turn), or `auto`: known where that describes the profile as well as a free
            trigger does (in a batch of four or more, most profiles decide for all).
        trigger_sigma_rad: how well it is known, rad; the monitor's jitter adds to it.
        noise: rms noise of a slice in units of the profile, one value or [n]; by default it is
            measured from the harmonics of the profile that no bunch reaches.
        monitor: whose bandwidth, lower limit and trigger jitter are allowed for
            (`memrl_ctrl.beam.measurement`; a simulation's default is `WCM`).
        bandwidth_hz: upper limit (-3 dB, one pole), in the place of the monitor's.
        intensity_max: upper bound, protons; by default 1.2 times the operating range's, 1.2e13 for
            a `Machine`.
        threads: threads of the kernel.

    Raises:
        UsageError: options or shapes that cannot be.
        BeamError: no profile can be fitted. Of a batch, rows that cannot be have a `reason`.
    """
    return task(
        profile,
        machine,
        point,
        phi_hw_rad=phi_hw_rad,
        intensity=intensity,
        emittance_evs=emittance_evs,
        trigger=trigger,
        trigger_sigma_rad=trigger_sigma_rad,
        noise=noise,
        monitor=monitor,
        bandwidth_hz=bandwidth_hz,
        intensity_max=intensity_max,
        threads=threads,
    ).result()


def task(
    profile: npt.ArrayLike,
    machine: Machine | MachineFile,
    point: ProgramPoints | Conditions,
    *,
    phi_hw_rad: npt.ArrayLike | None,
    intensity: Gaussian | None,
    emittance_evs: Gaussian | None,
    trigger: Trigger,
    trigger_sigma_rad: float,
    noise: npt.ArrayLike | None,
    monitor: Monitor | None,
    bandwidth_hz: float | None,
    intensity_max: float | None,
    threads: int,
) -> Task:
    """Check and prepare; arguments and errors as those of `fit_profile`."""
    chain = chain_of(monitor, bandwidth_hz)
    given = fit_input(profile, machine, point, phi_hw_rad=phi_hw_rad, intensity_max=intensity_max)
    priors = Priors(
        intensity=intensity,
        emittance_evs=emittance_evs,
        trigger=trigger,
        trigger_sigma_rad=trigger_sigma_rad,
        jitter_s=chain.jitter_s,
    )
    rms = noise_array(noise, len(given.conditions))
    rows = np.flatnonzero(given.reasons == "")
    if rows.size == 0:
        others = f" (and {given.reasons.size - 1} more)" if given.reasons.size > 1 else ""
        raise BeamError(f"profile 0: {given.reasons[0]}{others}")
    model = FitModel(
        given.conditions.take(rows),
        given.profiles[rows],
        noise=rms[rows],
        bandwidth_hz=chain.bandwidth_hz,
        low_cutoff_hz=chain.low_cutoff_hz,
        threads=threads,
    )
    return Task(given=given, rows=rows, model=model, priors=priors)


def _of_one_kind(job: Task, solved: list[Row | None]) -> list[Row | None]:
    """The same with one answer on the trigger for the whole batch: that of most profiles."""
    answers = [one.known for one in solved if one is not None]
    known = 2 * sum(answers) >= len(answers)
    chosen = replace(job.priors, trigger="known" if known else "unknown")
    return [
        fit_row(job.model, k, job.given, int(job.rows[k]), chosen)
        if one is not None and one.known is not known
        else one
        for k, one in enumerate(solved)
    ]


def _result(
    given: FitInput, model: FitModel, rows: npt.NDArray[np.int64], solved: list[Row | None]
) -> ProfileFit:
    """The public result; rows that were not fitted are NaN."""
    count = given.profiles.shape[0]
    mean, best = np.full((2, count, 4), np.nan)
    covariance = np.full((count, 4, 4), np.nan)
    reduced, p_value, second, above = np.full((4, count), np.nan)
    known = np.zeros(count, dtype=np.bool_)
    verdict = np.full(count, NOT_FITTED, dtype="U12")
    reasons = given.reasons.copy()
    for row, one in zip(rows, solved, strict=True):
        if one is None:
            reasons[row] = "no matched bunch at any phi2"
            continue
        mean[row], covariance[row] = one.moments.mean, one.moments.covariance
        best[row], known[row] = one.best.parameters, one.known
        reduced[row], p_value[row] = one.reduced, one.p_value
        if one.second is not None:
            second[row] = wrap(one.second.parameters[[PHI2]])[0]
            above[row] = one.second.cost - one.best.cost
        verdict[row] = verdict_of(one)
    drawn, amplitude = np.full(given.profiles.shape, np.nan), np.full(count, np.nan)
    index = np.flatnonzero(np.isfinite(best[rows]).all(axis=1))
    at = rows[index]
    drawn[at], amplitude[at] = model.drawn(index, best[at], given.profiles[at])
    sigma = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    noise, with_intensity = np.full(count, np.nan), np.zeros(count, dtype=np.bool_)
    noise[rows], with_intensity[rows] = model.noise, model.depends_on_intensity
    emittance = np.exp(mean[:, LOG_EMITTANCE])
    protons = np.where(with_intensity, mean[:, INTENSITY] * PROTONS, np.nan)
    return ProfileFit(
        phi2_rad=wrap(mean[:, PHI2]),
        phi2_sigma_rad=sigma[:, PHI2],
        phi_hw_rad=given.phi_hw_rad,
        offset_rad=wrap(given.phi_hw_rad - mean[:, PHI2]),
        emittance_evs=emittance,
        emittance_sigma_evs=emittance * sigma[:, LOG_EMITTANCE],
        intensity=protons,
        intensity_sigma=np.where(with_intensity, sigma[:, INTENSITY] * PROTONS, np.nan),
        trigger_rad=mean[:, TRIGGER],
        trigger_sigma_rad=sigma[:, TRIGGER],
        trigger_known=known,
        correlation=_correlation(covariance, sigma),
        noise=noise,
        amplitude=amplitude,
        baseline=given.profiles.mean(axis=1) - amplitude / (2.0 * np.pi),
        chi2_reduced=reduced,
        p_value=p_value,
        second_phi2_rad=second,
        second_chi2_above=above,
        verdict=verdict,
        reason=reasons,
        profile=given.profiles,
        model=drawn,
        conditions=given.conditions.replace(
            phi2_rad=np.nan_to_num(wrap(mean[:, PHI2])),
            emittance_evs=np.nan_to_num(emittance, nan=1.0),
            intensity=np.nan_to_num(protons),
        ),
    )


def _correlation(covariance: Array, sigma: Array) -> Array:
    scale = np.where(sigma > 0.0, sigma, 1.0)
    result: Array = covariance / (scale[:, :, None] * scale[:, None, :])
    return result


def suggest_delta_rad(
    fit: ProfileFit, conditions: Conditions | None = None, *, criterion: Criterion = "symmetry"
) -> Array:
    """The change of phi_hw that a model-based controller would make: reference less fitted phi2.

    Args:
        fit: fitted profiles [n].
        conditions: the points whose optimum is wanted [n] or [1]; their phi2, emittance and
            intensity do not count. By default those of the fit.
        criterion: of `reference_optimum`.

    Returns:
        rad, in (-pi, pi], [n]; NaN where there is no fit or no reference optimum.

    Raises:
        UsageError: another number of conditions than of profiles.
        UnknownNameError: no such criterion.
    """
    points = fit.conditions
    if conditions is not None:
        if len(conditions) not in (1, len(fit)):
            raise UsageError(
                f"{len(conditions)} conditions and {len(fit)} fitted profiles; give one condition, "
                "or one for each profile"
            )
        points = conditions.take(np.zeros(len(fit), dtype=np.int64) + np.arange(len(conditions)))
        points = points.replace(
            emittance_evs=fit.conditions.emittance_evs, intensity=fit.conditions.intensity
        )
    return np.where(fit.fitted, wrap(reference_optimum(points, criterion) - fit.phi2_rad), np.nan)


def suggested_sigma_rad(fit: ProfileFit, *, criterion: Criterion = "symmetry") -> Array:
    """The 1-sigma uncertainty of `suggest_delta_rad`.

    The optimum follows emittance and intensity, and what the fit does not know of them goes together with
    what it does not know of phi2: the change that is wanted is often known much better than phi2 itself.
    The optimum is taken as linear within half a standard deviation of the fit.

    Args:
        fit: fitted profiles [n].
        criterion: of `reference_optimum`.

    Returns:
        rad, [n]; NaN where there is no fit, or no reference optimum within half a standard deviation.

    Raises:
        UnknownNameError: no such criterion.
    """
    found = fit.conditions
    slopes = [-fit.phi2_sigma_rad]
    for name, sigma, least in (
        ("emittance_evs", fit.emittance_sigma_evs, _LEAST_EVS),
        ("intensity", fit.intensity_sigma, 0.0),
    ):
        value, half = getattr(found, name), 0.5 * np.nan_to_num(sigma)
        above = found.replace(**{name: value + half})
        below = found.replace(**{name: np.maximum(value - half, least)})
        slopes.append(
            wrap(reference_optimum(above, criterion) - reference_optimum(below, criterion))
        )
    slope = np.stack(slopes, axis=1)
    variance = np.einsum("ni,nij,nj->n", slope, fit.correlation[:, :TRIGGER, :TRIGGER], slope)
    result: Array = np.sqrt(np.maximum(variance, 0.0))
    return result
