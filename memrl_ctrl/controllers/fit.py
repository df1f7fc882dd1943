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
from memrl_ctrl.beam.fit import ProfileFit, fit_profile, suggest_delta_rad
from memrl_ctrl.controllers.core import Array, Controller
from memrl_ctrl.errors import BeamError

Floats = NDArray[np.float64]


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
        fit = fit_profile(profile, points.machine, points, trigger="unknown")
    except BeamError:  # not one of them can be fitted, and a controller then holds
        return np.zeros(len(profile))
    wanted = np.asarray(suggest_delta_rad(fit), dtype=np.float64)
    wanted = np.where(np.isfinite(wanted), wanted, _to_the_least_skewed(fit))
    return np.nan_to_num(wanted, nan=0.0)


def _to_the_least_skewed(fit: ProfileFit) -> Floats:
    """Return the change to the profile that leans least [rows], rad; NaN where there is no fit."""
    return np.where(fit.fitted, wrap(least_skewed(fit.conditions) - fit.phi2_rad), np.nan)


@dataclass(eq=False)
class DampedFit(Fit):
    """As `Fit`, with the tuned gain."""

    name = "fit-damped"
    ranges = MappingProxyType({"gain": (0.1, 1.0, "linear")})

    gain: float = 0.5
