"""Proportional-integral control on the measured asymmetry, with a probing step for the sign."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.controllers.core import Array, Controller
from memrl_ctrl.metrics import asymmetry

Floats = NDArray[np.float64]


@dataclass(eq=False)
class AsymmetryPI(Controller):
    """Drives the skewness of the measured profile to zero.

    Skewness has two zeros on the circle; where it falls with phi_2 the bunch is long, where it rises it
    is short. The first shot moves by a probing step, and its effect on the skewness says on which side
    the loop stands: where skewness rises, it walks on with the same sign until it falls.

    Args:
        proportional_deg: degrees a shot at a skewness of 1.
        integral_deg: degrees a shot at a sum of skewness of 1.
        probe_deg: probing step, degrees.
    """

    name = "asymmetry-pi"
    ranges = MappingProxyType(
        {
            "proportional_deg": (10.0, 200.0, "log"),
            "integral_deg": (0.1, 50.0, "log"),
            "probe_deg": (5.0, 60.0, "linear"),
        }
    )

    proportional_deg: float = 40.0
    integral_deg: float = 0.1
    probe_deg: float = 15.0

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return the last skewness, their sum, shots, and whether the falling side was found."""
        return {"last": (1,), "sum": (1,), "shots": (1,), "falling": (1,)}

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        skewness = np.nan_to_num(asymmetry(observation[:, :-1]))
        first = memory["shots"][:, 0] == 0.0
        slope = (skewness - memory["last"][:, 0]) * np.sign(previous_rad)
        moved = np.abs(previous_rad) >= 0.5 * math.radians(self.probe_deg)
        falling = np.where(moved & ~first, slope < 0.0, memory["falling"][:, 0] > 0.0)
        total = np.where(falling, memory["sum"][:, 0] + skewness, 0.0)
        correction = self.proportional_deg * skewness + self.integral_deg * total
        side = np.where(skewness >= 0.0, 1.0, -1.0)
        onward = np.where(previous_rad == 0.0, side, np.sign(previous_rad)) * self.probe_deg
        wanted = np.where(falling, correction, onward)
        for name, value in (
            ("last", skewness),
            ("sum", total),
            ("falling", falling),
            ("shots", memory["shots"][:, 0] + 1.0),
        ):
            memory[name] = value.astype(np.float32)[:, None]
        return np.radians(wanted), memory
