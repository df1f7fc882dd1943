"""Bayesian optimisation of the phase, each control point by itself.

A Gaussian process (scikit-learn's; C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine
Learning, MIT Press 2006) of the measured cost over the circle of phi_hw, and the lower confidence bound
(N. Srinivas et al., ICML 2010) that says where to measure next. The kernel is periodic (D. J. C.
MacKay, 1998), so that both ends of the circle are the same place; in one dimension the bound is
minimised over a fine grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.angles import wrap
from memrl_ctrl.controllers.core import LARGEST_STEP_RAD, Array, Controller
from memrl_ctrl.controllers.search import cost

Floats = NDArray[np.float64]

GRID = 720
"""Phases at which the bound is computed: half a degree apart."""


@dataclass(eq=False)
class Bayesian(Controller):
    """Goes where a Gaussian process of the measured cost promises the lowest.

    Args:
        explore: standard deviations that the bound lies below the mean; halved every `halving` shots.
        halving: shots.
        length: length scale of the periodic kernel (of 2 sin(half the distance)).
        cost_noise: standard deviation of the measured cost over that of the process.
        bunching_weight: of the bunching factor in the cost.
    """

    name = "bayesian"
    ranges = MappingProxyType(
        {
            "explore": (0.3, 5.0, "log"),
            "halving": (1.0, 12.0, "log"),
            "length": (0.3, 2.0, "log"),
            "cost_noise": (0.003, 0.3, "log"),
            "bunching_weight": (0.1, 10.0, "log"),
        }
    )
    MOST = 60
    """Measurements that are kept; the oldest are forgotten."""

    explore: float = 2.0
    halving: float = 4.0
    length: float = 0.7
    cost_noise: float = 0.02
    bunching_weight: float = 3.0

    def __post_init__(self) -> None:
        """Say at once that a library is missing."""
        _ = self._kernel
        self._grid = np.linspace(-math.pi, math.pi, GRID, endpoint=False)

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return phases and costs measured so far, their number, and where the phase is now."""
        return {
            "phases_rad": (self.MOST,),
            "costs": (self.MOST,),
            "count": (1,),
            "at_rad": (1,),
        }

    @cached_property
    def _kernel(self) -> Any:
        from sklearn.gaussian_process.kernels import ExpSineSquared

        return ExpSineSquared(length_scale=self.length, periodicity=2.0 * math.pi)

    def decide(
        self, observation: Array, previous_rad: Floats, memory: dict[str, Array]
    ) -> tuple[Floats, dict[str, Array]]:
        """See `Controller.decide`."""
        value = cost(observation, self.bunching_weight)
        at = memory["at_rad"][:, 0] + previous_rad
        memory["at_rad"] = at.astype(np.float32)[:, None]
        wanted = np.zeros(len(at))
        for row in np.flatnonzero(observation[:, :-1].any(axis=1)):
            count = int(memory["count"][row, 0])
            place = count % self.MOST
            memory["phases_rad"][row, place] = at[row]
            memory["costs"][row, place] = value[row]
            memory["count"][row] = count + 1
            held = min(count + 1, self.MOST)
            best = self._next(memory["phases_rad"][row, :held], memory["costs"][row, :held], count)
            wanted[row] = wrap(np.array(best - at[row]))
        return np.clip(wanted, -LARGEST_STEP_RAD, LARGEST_STEP_RAD), memory

    def _next(self, phases_rad: Array, costs: Array, shots: int) -> float:
        """Return the phase on the grid with the lowest bound, rad from where the search began."""
        from sklearn import config_context
        from sklearn.gaussian_process import GaussianProcessRegressor

        spread = max(float(np.std(costs)), 1e-3)
        process = GaussianProcessRegressor(self._kernel, alpha=self.cost_noise**2, optimizer=None)
        scaled = (costs - costs.mean()).astype(np.float64) / spread
        with config_context(assume_finite=True, skip_parameter_validation=True):
            process.fit(phases_rad.astype(np.float64)[:, None], scaled)
            mean, deviation = process.predict(self._grid[:, None], return_std=True)
        explore = self.explore * 0.5 ** (shots / self.halving)
        return float(self._grid[np.argmin(mean - explore * deviation)])
