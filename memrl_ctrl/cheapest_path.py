"""The cheapest way through a row of choices, by dynamic programming.

Source: A. J. Viterbi, IEEE Transactions on Information Theory 13 (1967) 260.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.compiling import compiled_exactly

FloatArray = NDArray[np.float64]


def cheapest_path(places: FloatArray, cost: FloatArray) -> NDArray[np.intp]:
    """Return the choice of each step [steps] for which the path is cheapest.

    A path costs what its choices cost, and the distances from place to place. Of equally cheap choices the
    first is taken.

    Args:
        places: where each choice stands [steps, choices].
        cost: of each choice [steps, choices].
    """
    path = np.empty(len(places), dtype=np.intp)
    came_from = np.empty(places.shape, dtype=np.intp)
    _trace(np.ascontiguousarray(places), np.ascontiguousarray(cost), came_from, path)
    return path


@compiled_exactly
def _trace(places: Any, cost: Any, came_from: Any, path: Any) -> None:
    steps, choices = places.shape
    arrived, spent = cost[0].copy(), np.empty(choices)
    for i in range(1, steps):
        for here in range(choices):
            least, nearest = np.inf, 0
            for there in range(choices):
                total = arrived[there] + abs(places[i, here] - places[i - 1, there])
                if total < least:
                    least, nearest = total, there
            spent[here], came_from[i, here] = least + cost[i, here], nearest
        arrived[:] = spent
    path[steps - 1] = np.argmin(arrived)
    for i in range(steps - 1, 0, -1):
        path[i - 1] = came_from[i, path[i]]
