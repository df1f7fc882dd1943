"""The potential that holds a bunch, for pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.beam import Conditions, matched_profiles
from memrl_ctrl.beam.profiles import evaluate

Floats = NDArray[np.float64]

POINTS = 241
"""Places over one RF turn."""


@runtime_checkable
class KnowsConditions(Protocol):
    """A backend that can say what its last reading was made in: a simulation in this process."""

    def conditions(self) -> Conditions | None:
        """Return the conditions of the last reading [points]; None before the first."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Well:
    """The potential over one RF turn around the bunch's mean; energies per charge, kV rad."""

    phase_deg: Floats
    """RF phase from the bunch's mean, degrees [points]."""
    total_kvrad: Floats
    """RF and induced potential (wakes and space charge), 0 at its lowest place in the bunch [points]."""
    rf_kvrad: Floats
    """The RF's alone, from the same zero [points]."""
    level_kvrad: float
    """Up to where the well is filled: the potential at the bunch's edge."""
    filled: NDArray[np.bool_]
    """Where the bunch is [points]."""


def potential_well(conditions: Conditions, points: int = POINTS) -> Well | None:
    """Return the potential of the matched bunch in one condition; None where there is none.

    U_rf = V1 cos(phi) + V2 / 2 cos(2 phi + phi2) - energy gain phi (`docs/physics.md`). Inside the bunch
    space charge makes the well shallower: H0 - U = (1 - kappa / S) (H0 - U_rf - U_wake).

    Args:
        conditions: one condition, its phi2 that of the bunch.
        points: places over one RF turn.
    """
    matched = matched_profiles(conditions, 16)
    mean = float(matched.mean_phase_rad[0])
    if not (matched.converged[0] and np.isfinite(mean)):
        return None
    away = np.linspace(-np.pi, np.pi, points)
    phase = mean + away
    rf = (
        conditions.v1_v[0] * np.cos(phase)
        + 0.5 * conditions.v2_v[0] * np.cos(2.0 * phase + conditions.phi2_rad[0])
        - conditions.energy_gain_ev[0] * phase
    )
    total = rf + evaluate(matched.wake_potential_vrad, phase)[0]
    level = float(matched.level_vrad[0])
    left, right = matched.window_rad[0]
    filled = (phase >= left) & (phase <= right) & (total < level)
    kappa = matched.captured_fraction[0] * conditions.space_charge_vrad2[0]
    share = 1.0 - kappa / matched.normalisation_vrad2[0]
    total = np.where(filled, level - share * (level - total), total)
    lowest = float(total[filled].min()) if filled.any() else level
    return Well(
        phase_deg=np.degrees(away),
        total_kvrad=(total - lowest) / 1e3,
        rf_kvrad=(rf - lowest) / 1e3,
        level_kvrad=(level - lowest) / 1e3,
        filled=filled,
    )
