"""Control by a model: every profile is fitted with the matched kernel, and the phase set right.

The fit needs what the control system knows of each point (field, voltages, the ring): see
`Controller.inform`. It does not know emittance, intensity, nor where the bunch lies in RF phase.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.angles import wrap
from memrl_ctrl.beam import Conditions, least_skewed
from memrl_ctrl.beam._fit_model import compared_harmonics
from memrl_ctrl.beam.fit import ProfileFit, fit_profile, suggest_delta_rad
from memrl_ctrl.controllers.core import Array, Controller
from memrl_ctrl.errors import BeamError

Floats = NDArray[np.float64]

SHIFTS = np.linspace(0.0, 0.5, 51)[:-1]
"""Parts of a slice by which an observation may have been shifted; beyond a half they mirror."""
NOTHING = 1.0e-30
"""Power of noise below which there is none."""
LEAST_GAIN = 0.02
"""Of a harmonic's power; what is smaller is not brought back."""


@dataclass(eq=False)
class Fit(Controller):
    """Moves by a share of what `fit_profile` says, the first shot by all of it.

    The fit begins from several minima of a scan over the whole circle of phi_2, in every shot anew, and
    can still end in the wrong one: damping then limits the damage. Where no reference optimum exists at
    the fitted bunch, the goal is where its profile leans least; where nothing can be fitted, the phase
    is held.

    Args:
        gain: share from the second shot on.
    """

    name = "fit"
    needs_points = True

    gain: float = 1.0

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return the number of shots."""
        return {"shots": (1,)}

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        points = self.points(len(observation))
        wanted = np.zeros(len(observation))
        seen = np.flatnonzero(observation[:, :-1].any(axis=1))
        if seen.size:
            wanted[seen] = fitted_correction(observation[seen, :-1], points.take(seen))
        share = np.where(memory["shots"][:, 0] == 0.0, 1.0, self.gain)
        memory["shots"] = memory["shots"] + np.float32(1.0)
        return share * wanted, memory


def fitted_correction(profile: Array, points: Conditions) -> Floats:
    """Return the change of phi_hw that a fit of each profile asks for [rows], rad; 0 without one.

    Args:
        profile: [rows, n_slices], centred on itself: its phase says nothing.
        points: what is known of each row; phi_2, emittance and intensity do not count.
    """
    try:
        fit = fit_profile(unsmoothed(profile), points.machine, points, trigger="unknown")
    except BeamError:  # not one of them can be fitted, and a controller then holds
        return np.zeros(len(profile))
    wanted = np.asarray(suggest_delta_rad(fit), dtype=np.float64)
    wanted = np.where(np.isfinite(wanted), wanted, _to_the_least_skewed(fit))
    return np.nan_to_num(wanted, nan=0.0)


def unsmoothed(profile: Array) -> Floats:
    """Return centred profiles as they were before they were shifted by a part of a slice.

    `beam_observation` shifts a profile so that area is conserved: of as many slices as were measured,
    each becomes f of its neighbour and 1 - f of its own. White noise has then the power
    1 - 2 f (1 - f) (1 - cos(2 pi k / n)) in harmonic k, least in the highest, by which `fit_profile`
    measures it: too little, so that right solutions look poor. f is the mean over its likelihood in
    those harmonics (no bunch reaches them); the shift itself is not undone.

    Args:
        profile: [rows, n_slices].
    """
    n_slices = profile.shape[1]
    coefficients = np.fft.rfft(profile, axis=1)
    cosine = np.cos(2.0 * np.pi * np.arange(coefficients.shape[1]) / n_slices)
    mixed = 2.0 * SHIFTS * (1.0 - SHIFTS)
    above = slice(compared_harmonics(n_slices) + 1, (n_slices + 1) // 2)
    gain = 1.0 - mixed[:, None] * (1.0 - cosine[above])
    white = (np.abs(coefficients[:, None, above]) ** 2 / gain).mean(axis=2)
    likelihood = -gain.shape[1] * np.log(np.maximum(white, NOTHING)) - np.log(gain).sum(axis=1)
    weight = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
    found = (weight @ mixed) / weight.sum(axis=1)
    power = np.maximum(1.0 - found[:, None] * (1.0 - cosine), LEAST_GAIN)
    return np.fft.irfft(coefficients / np.sqrt(power), n_slices, axis=1)


def _to_the_least_skewed(fit: ProfileFit) -> Floats:
    """Return the change to the profile that leans least [rows], rad; NaN where there is no fit."""
    return np.where(fit.fitted, wrap(least_skewed(fit.conditions) - fit.phi2_rad), np.nan)


@dataclass(eq=False)
class DampedFit(Fit):
    """As `Fit`, with the tuned gain."""

    name = "fit-damped"
    ranges = MappingProxyType({"gain": (0.1, 1.0, "linear")})

    gain: float = 0.5
