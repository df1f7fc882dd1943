"""Searches that know no model: extremum seeking, and COBYLA point by point.

Both lower a cost of the measured profile, squared skewness less a weight times the bunching factor: the
long, flat, symmetric bunch has the lowest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from memrl_ctrl.controllers.core import LARGEST_STEP_RAD, Array, Controller
from memrl_ctrl.metrics import measure

Floats = NDArray[np.float64]

WORST_COST = 10.0
"""Where a profile shows no bunch."""


def cost(observation: Array, bunching_weight: float) -> Floats:
    """Return the cost of each profile [rows]; see above."""
    metrics = measure(observation[:, :-1])
    value = metrics.asymmetry**2 - bunching_weight * metrics.bunching_factor
    return np.where(np.isfinite(value), value, WORST_COST)


@dataclass(eq=False)
class ExtremumSeeking(Controller):
    """A sine on the phase, demodulated from the cost (Krstic, Wang, Automatica 36 (2000) 595).

    Args:
        amplitude_deg: of the sine, degrees.
        gain_deg: degrees a shot at a demodulated cost of 1.
        period_shots: of the sine.
        average: share of the new cost in the running mean that is taken off (the high-pass filter).
        bunching_weight: of the bunching factor in the cost.
    """

    name = "extremum-seeking"
    ranges = MappingProxyType(
        {
            "amplitude_deg": (1.0, 30.0, "log"),
            "gain_deg": (10.0, 2000.0, "log"),
            "period_shots": (2.5, 8.0, "linear"),
            "average": (0.1, 1.0, "linear"),
            "bunching_weight": (0.1, 10.0, "log"),
        }
    )

    amplitude_deg: float = 8.0
    gain_deg: float = 200.0
    period_shots: float = 4.0
    average: float = 0.5
    bunching_weight: float = 3.0

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return shots and the running mean of the cost."""
        return {"shots": (1,), "mean": (1,)}

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        shots = memory["shots"][:, 0].astype(np.float64)
        value = cost(observation, self.bunching_weight)
        mean = np.where(shots == 0.0, value, memory["mean"][:, 0])
        turn = 2.0 * math.pi / self.period_shots
        now, coming = np.sin(turn * shots), np.sin(turn * (shots + 1.0))
        descent = -self.gain_deg * (value - mean) * now
        wanted = descent + self.amplitude_deg * (coming - now)
        mean = mean + self.average * (value - mean)
        memory["shots"] = (shots + 1.0).astype(np.float32)[:, None]
        memory["mean"] = mean.astype(np.float32)[:, None]
        return np.radians(wanted), memory


class _NextPoint(Exception):  # noqa: N818 - no error: the search asks for a measurement
    """The search wants to know its cost at a point that was not measured yet."""

    def __init__(self, where: float) -> None:
        super().__init__()
        self.where = where


@dataclass(eq=False)
class Cobyla(Controller):
    """COBYLA (M. J. D. Powell, 1994; scipy's), one evaluation a shot.

    The memory holds the costs that were measured. In every shot the search runs again from its
    beginning over them, and the first point without a cost is where it wants to go: it is
    deterministic, so no search has to be kept alive between shots. At its end, or when the memory is
    full, it goes to the best point and stays.

    Args:
        first_step_deg: initial size of the simplex, degrees.
        last_step_deg: final one, degrees.
        bunching_weight: of the bunching factor in the cost.
    """

    name = "cobyla"
    ranges = MappingProxyType(
        {
            "first_step_deg": (20.0, 90.0, "linear"),
            "last_step_deg": (0.3, 5.0, "log"),
            "bunching_weight": (0.1, 10.0, "log"),
        }
    )
    MOST = 40
    """Costs that are kept."""

    first_step_deg: float = 60.0
    last_step_deg: float = 1.0
    bunching_weight: float = 3.0

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return costs so far, their number, where the phase is, and whether and where it ended."""
        return {
            "costs": (self.MOST,),
            "count": (1,),
            "at_rad": (1,),
            "ended": (1,),
            "best_rad": (1,),
        }

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        value = cost(observation, self.bunching_weight)
        at = memory["at_rad"][:, 0] + previous_rad
        wanted = np.zeros(len(at))
        for row in range(len(at)):
            if memory["ended"][row, 0] == 0.0:
                count = int(memory["count"][row, 0])
                memory["costs"][row, count] = value[row]
                memory["count"][row] = count + 1
                place, ended = self._next(memory["costs"][row, : count + 1])
                memory["best_rad"][row], memory["ended"][row] = place, float(ended)
            wanted[row] = memory["best_rad"][row, 0] - at[row]
        memory["at_rad"] = at.astype(np.float32)[:, None]
        return np.clip(wanted, -LARGEST_STEP_RAD, LARGEST_STEP_RAD), memory

    def _next(self, costs: Array) -> tuple[float, bool]:
        """Return where the search goes after these costs, rad from where it began, and whether to stay."""
        asked: list[float] = []

        def measured(x: Floats) -> float:
            if len(asked) == len(costs):
                raise _NextPoint(float(x[0]))
            asked.append(float(x[0]))
            return float(costs[len(asked) - 1])

        try:
            minimize(
                measured,
                np.zeros(1),
                method="COBYLA",
                tol=math.radians(self.last_step_deg),
                options={"rhobeg": math.radians(self.first_step_deg)},
            )
        except _NextPoint as point:
            if len(costs) < self.MOST:
                return point.where, False
        return asked[int(np.argmin(costs[: len(asked)]))], True
