"""Fit of a whole cycle: one offset, one emittance and one intensity behind all its profiles.

Each profile alone leaves phi2, emittance and intensity entangled, differently at each point of the
cycle; together they do not: the common offset is known several times better than that of any point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, fdtrc

from memrl_ctrl.angles import wrap
from memrl_ctrl.beam._fit_input import TRIGGER_RAD, Gaussian, Trigger
from memrl_ctrl.beam._fit_model import (
    INTENSITY,
    LOG_EMITTANCE,
    PHI2,
    PROTONS,
    TRIGGER,
    FitModel,
)
from memrl_ctrl.beam._fit_row import EXCLUDED_ABOVE, POOR_BELOW
from memrl_ctrl.beam._fit_search import COLUMNS, STEPS, Box
from memrl_ctrl.beam.fit import ProfileFit, task
from memrl_ctrl.beam.machine import Array, Machine
from memrl_ctrl.errors import UsageError

if TYPE_CHECKING:
    from memrl_ctrl.beam.conditions import Conditions
    from memrl_ctrl.beam.measurement import Monitor
    from memrl_ctrl.program import MachineFile, ProgramPoints

_STARTS = 3
_APART_RAD = 0.1
_SHARED = 3
"""Offset, ln(emittance), intensity: the parameters that all points share, before the triggers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CycleFit:
    """One offset, emittance and intensity for the profiles of a cycle."""

    offset_rad: float
    """Hardware offset phi_hw - phi2, rad, in (-pi, pi]."""
    offset_sigma_rad: float
    """Its 1-sigma uncertainty, rad."""
    emittance_evs: float
    """Emittance, eV s."""
    emittance_sigma_evs: float
    """Its 1-sigma uncertainty, eV s."""
    intensity: float
    """Protons; NaN where the ring has no intensity effects."""
    intensity_sigma: float
    """Its 1-sigma uncertainty."""
    chi2_reduced: float
    """Chi2 per degree of freedom over all profiles."""
    p_value: float
    """Probability of a larger chi2; where it is below 1e-3, offset, emittance or intensity are not
    the same at all points (or single profiles are poor), and the uncertainties have grown with it."""
    second_offset_rad: float
    """The second-best offset where it is not excluded, else NaN."""
    verdict: str
    """`good`, `poor` or `ambiguous`."""
    model: Array
    """Fitted profiles [n, n_slices]; NaN where a profile could not be used."""
    points: ProfileFit
    """Each profile by itself [n]."""

    @property
    def phi2_rad(self) -> Array:
        """phi2 at each point, rad, in (-pi, pi], [n]."""
        return wrap(self.points.phi_hw_rad - self.offset_rad)

    def doubt(self, largest_chi2_reduced: float) -> str:
        """Return why it says nothing of the bunch, in words; empty where it does.

        One that is poor by its probability alone may well say something: of many slices the smallest
        misfit is improbable, and the uncertainties have grown with it.

        Args:
            largest_chi2_reduced: of a fit that is believed.
        """
        if np.isfinite(self.second_offset_rad):
            return "another offset fits as well"
        if not self.chi2_reduced <= largest_chi2_reduced:
            return f"reduced chi2 {self.chi2_reduced:.2g}"
        return ""


def fit_cycle(
    profiles: npt.ArrayLike,
    machine: Machine | MachineFile,
    points: ProgramPoints | Conditions,
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
) -> CycleFit:
    """Estimate one offset, emittance and intensity from the profiles of a cycle [n, n_slices].

    Arguments and errors are those of `fit_profile`; each point has a trigger phase of its own. The
    phi_hw of all points must be known.

    Raises:
        UsageError: options or shapes that cannot be; no phi_hw.
        BeamError: no profile can be fitted.
    """
    job = task(
        profiles,
        machine,
        points,
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
    )
    if not np.isfinite(job.given.phi_hw_rad).all():
        raise UsageError(
            "a cycle's common offset needs phi_hw_rad at every point; it was not given"
        )
    alone = job.result()
    with_intensity = bool(job.model.depends_on_intensity.any())
    boxes = [
        job.priors.box(
            job.given,
            int(row),
            with_intensity=with_intensity,
            known=bool(alone.trigger_known[row]),
        )
        for row in job.rows
    ]
    joint = _Joint(job.model, job.given.phi_hw_rad[job.rows], boxes, with_intensity)
    found = [joint.refine(start) for start in joint.starts(alone, job.rows)]
    found.sort(key=lambda one: one.cost)
    return _result(joint, found, alone, job.rows)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A minimum of the joint chi2."""

    values: Array
    """Offset, ln(emittance), intensity / PROTONS, then each point's trigger."""
    chi2: float
    cost: float
    covariance: Array
    """Of `values`; 0 for the intensity where it is not fitted."""


class _Joint:
    """The joint chi2 of some points."""

    def __init__(
        self, model: FitModel, phi_hw_rad: Array, boxes: list[Box], with_intensity: bool
    ) -> None:
        self.model = model
        self.phi_hw = phi_hw_rad
        self.count = len(model)
        self.rows = np.arange(self.count)
        size = _SHARED + self.count
        self.low, self.high = np.full(size, -4.0 * np.pi), np.full(size, 4.0 * np.pi)
        self.low[1] = min(box.low[LOG_EMITTANCE] for box in boxes)
        self.high[1] = max(box.high[LOG_EMITTANCE] for box in boxes)
        self.low[2], self.high[2] = 0.0, max(box.high[INTENSITY] for box in boxes)
        shared = {c: (mean, s) for c, mean, s in boxes[0].priors if c != TRIGGER}
        self.priors = [(c, *shared[c]) for c in sorted(shared)]
        for k, box in enumerate(boxes):
            self.priors += [(_SHARED + k, mean, s) for c, mean, s in box.priors if c == TRIGGER]
        self.free = np.array([i for i in range(size) if i != 2 or with_intensity])
        if not with_intensity:
            self.low[2], self.high[2] = -1.0, 1.0

    def parameters(self, values: Array) -> Array:
        """Parameters of the points [n, 4]."""
        result = np.empty((self.count, COLUMNS))
        result[:, PHI2] = self.phi_hw - values[0]
        result[:, LOG_EMITTANCE], result[:, INTENSITY] = values[1], values[2]
        result[:, TRIGGER] = values[_SHARED:]
        return result

    def starts(self, alone: ProfileFit, rows: npt.NDArray[np.int64]) -> list[Array]:
        """Values to begin with: offsets that single points give, the best for all points first."""
        weight = 1.0 / np.maximum(alone.emittance_sigma_evs[rows] / alone.emittance_evs[rows], 1e-3)
        usable = np.isfinite(weight)
        weight = np.where(usable, weight, 0.0) ** 2
        emittance = np.exp(
            np.sum(weight * np.log(np.where(usable, alone.emittance_evs[rows], 1.0))) / weight.sum()
        )
        protons = 0.0
        if 2 in self.free:
            sharp = np.where(usable, alone.intensity_sigma[rows], np.inf) ** -2.0
            protons = float(
                np.sum(sharp * np.where(usable, alone.intensity[rows], 0.0)) / sharp.sum() / PROTONS
            )
        offsets = np.concatenate(
            [alone.offset_rad[rows], self.phi_hw - alone.second_phi2_rad[rows]]
        )
        offsets = wrap(offsets[np.isfinite(offsets)])
        known = {c - _SHARED for c, _, _ in self.priors if c >= _SHARED}
        tries: list[tuple[float, Array]] = []
        for offset in offsets:
            values = np.zeros(_SHARED + self.count)
            values[:_SHARED] = offset, np.log(emittance), protons
            spectra, _ = self.model.spectra(self.rows, self.parameters(values))
            total = 0.0
            for k in range(self.count):
                chi2, shift = self.model.scan_triggers(k, spectra[k : k + 1], known=k in known)
                total += float(chi2[0])
                values[_SHARED + k] = shift[0]
            tries.append((total, values))
        tries.sort(key=lambda one: one[0])
        chosen: list[Array] = []
        for _, values in tries:
            gaps = [abs(float(wrap(np.array(values[0] - one[0])))) for one in chosen]
            if all(gap > _APART_RAD for gap in gaps) and len(chosen) < _STARTS:
                chosen.append(values)
        return chosen

    def _priors(self, values: Array) -> Array:
        return np.array([(values[c] - mean) / sigma for c, mean, sigma in self.priors])

    def residuals(self, values: Array) -> Array:
        """Normalised residuals, points one after the other, then priors."""
        parameters = self.parameters(values)
        spectra, _ = self.model.spectra(self.rows, parameters)
        data = self.model.residuals(self.rows, self.model.moved(spectra, parameters[:, TRIGGER]))
        return np.concatenate([data.ravel(), self._priors(values)])

    def jacobian(self, values: Array) -> Array:
        """Jacobian of the residuals by differences, one kernel call: [residuals, free]."""
        model, count = self.model, self.count
        base = self.parameters(values)
        columns = [c for c in (PHI2, LOG_EMITTANCE, INTENSITY) if c != INTENSITY or 2 in self.free]
        shifted = []
        for column in columns:
            for sign in (1.0, -1.0):
                step = base.copy()
                step[:, column] += sign * STEPS[column]
                step[:, INTENSITY] = np.maximum(step[:, INTENSITY], 0.0)
                shifted.append(step)
        beam = np.concatenate([*shifted, base])
        spectra, _ = model.spectra(np.tile(self.rows, len(shifted) + 1), beam)
        tiled = np.tile(self.rows, len(shifted))
        moved = model.moved(spectra[:-count], beam[:-count, TRIGGER])
        each = model.residuals(tiled, moved).reshape(len(shifted), count, -1)
        size = each.shape[2]
        result = np.zeros((count * size + len(self.priors), _SHARED + count))
        for k, column in enumerate(columns):
            width = (shifted[2 * k] - shifted[2 * k + 1])[0, column]
            # phi2 = phi_hw - offset: the other way round.
            slope = (each[2 * k] - each[2 * k + 1]) / (-width if column == PHI2 else width)
            result[: count * size, k if column != INTENSITY else 2] = slope.ravel()
        sides = [
            model.residuals(
                self.rows, model.moved(spectra[-count:], base[:, TRIGGER] + sign * STEPS[TRIGGER])
            )
            for sign in (1.0, -1.0)
        ]
        slope = (sides[0] - sides[1]) / (2.0 * STEPS[TRIGGER])
        for k in range(count):
            result[k * size : (k + 1) * size, _SHARED + k] = slope[k]
        for k, (column, _, sigma) in enumerate(self.priors):
            result[count * size + k, column] = 1.0 / sigma
        return result[:, self.free]

    def refine(self, start: Array) -> _Found:
        """The minimum that least squares reach from a start."""
        from scipy.optimize import least_squares  # heavy: only who fits imports it

        free = self.free
        margin = 1.0e-6 * (self.high - self.low)[free]
        low, high = self.low[free], self.high[free]

        def full(values: Array) -> Array:
            whole = start.copy()
            whole[free] = values
            return whole

        def residuals(values: Array) -> Array:
            return self.residuals(full(values))

        def jacobian(values: Array) -> Array:
            return self.jacobian(full(values))

        scales = np.full(start.size, 0.05)
        scales[2] = 1.0
        found = least_squares(
            residuals,
            np.clip(start[free], low + margin, high - margin),
            jac=jacobian,
            bounds=(low, high),
            x_scale=scales[free],
            ftol=1.0e-6,
            xtol=1.0e-6,
            max_nfev=30,
        )
        fun, jac = np.asarray(found.fun), np.asarray(found.jac)
        width = (high - low) / np.sqrt(12.0)
        covariance = np.zeros((start.size, start.size))
        covariance[np.ix_(free, free)] = np.linalg.inv(jac.T @ jac + np.diag(width**-2.0))
        data = fun[: fun.size - len(self.priors)]
        return _Found(
            values=full(np.asarray(found.x, dtype=np.float64)),
            chi2=float(np.sum(data**2)),
            cost=float(np.sum(fun**2)),
            covariance=covariance,
        )


def _result(
    joint: _Joint, found: list[_Found], alone: ProfileFit, rows: npt.NDArray[np.int64]
) -> CycleFit:
    """The public result."""
    best, model = found[0], joint.model
    compared = 2 * model.count * joint.count
    freedom = compared - 2 * joint.count - (joint.free.size - joint.count)
    reduced = best.chi2 / freedom
    if model.noise_known.all():
        probability = float(chdtrc(freedom, best.chi2))
    else:
        probability = float(fdtrc(freedom, model.noise_dof * joint.count, reduced))
    poor = probability < POOR_BELOW
    spread = max(1.0, reduced) if poor else 1.0
    second = np.nan
    for other in found[1:]:
        apart = abs(float(wrap(np.array(other.values[0] - best.values[0]))))
        if apart > _APART_RAD and (other.cost - best.cost) / spread < EXCLUDED_ABOVE:
            second = float(wrap(np.array(other.values[0])))
            break
    sigma = np.sqrt(np.diag(best.covariance) * spread)
    emittance = float(np.exp(best.values[1]))
    with_intensity = 2 in joint.free
    drawn = np.full(alone.profile.shape, np.nan)
    drawn[rows] = model.drawn(joint.rows, joint.parameters(best.values), alone.profile[rows])[0]
    return CycleFit(
        offset_rad=float(wrap(np.array(best.values[0]))),
        offset_sigma_rad=float(sigma[0]),
        emittance_evs=emittance,
        emittance_sigma_evs=emittance * float(sigma[1]),
        intensity=float(best.values[2]) * PROTONS if with_intensity else np.nan,
        intensity_sigma=float(sigma[2]) * PROTONS if with_intensity else np.nan,
        chi2_reduced=reduced,
        p_value=probability,
        second_offset_rad=second,
        verdict="poor" if poor else "good" if np.isnan(second) else "ambiguous",
        model=drawn,
        points=alone,
    )
