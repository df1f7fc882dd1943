"""The controller that does nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.controllers.core import Array, Controller


class Hold(Controller):
    """The function stays as it is: what every controller has to beat."""

    name = "hold"

    def memory_specs(self) -> dict[str, tuple[int, ...]]:
        """Return none."""
        return {}

    def decide(
        self, observation: Array, previous_rad: NDArray[np.float64], memory: dict[str, Array]
    ) -> tuple[NDArray[np.float64], dict[str, Array]]:
        """See `Controller.decide`."""
        return np.zeros(len(observation)), memory
