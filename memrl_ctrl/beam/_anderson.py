# ruff: noqa: PLR0912, PLR0917 - compiled code: one loop nest, arrays handed in place
# mypy: disable-error-code="no-untyped-def"
"""Anderson acceleration of a fixed point, compiled.

Source: D. G. Anderson, J. ACM 12 (1965) 547; as least squares over the last steps, H. F. Walker and
P. Ni, SIAM J. Numer. Anal. 49 (2011) 1715.
"""

from __future__ import annotations

import numpy as np

from memrl_ctrl.compiling import compiled

HISTORY = 8
"""Steps that are remembered."""


@compiled
def mix(x, residual, scratch, count, size, damping):
    """One step of Anderson acceleration, in place on `x`; returns the number of steps made.

    Rows of `scratch`: the last x and residual, then HISTORY differences of each.
    """
    old_x, old_residual = scratch[0], scratch[1]
    if count > 0:
        slot = (count - 1) % HISTORY
        for j in range(size):
            scratch[2 + slot, j] = x[j] - old_x[j]
            scratch[2 + HISTORY + slot, j] = residual[j] - old_residual[j]
    for j in range(size):
        old_x[j] = x[j]
        old_residual[j] = residual[j]
    depth = min(count, HISTORY)
    normal = np.zeros((HISTORY, HISTORY + 1))
    for a in range(depth):
        for b in range(a + 1):
            dot = 0.0
            for j in range(size):
                dot += scratch[2 + HISTORY + a, j] * scratch[2 + HISTORY + b, j]
            normal[a, b] = dot
            normal[b, a] = dot
        dot = 0.0
        for j in range(size):
            dot += scratch[2 + HISTORY + a, j] * residual[j]
        normal[a, HISTORY] = dot
    for a in range(depth):
        normal[a, a] *= 1.0 + 1.0e-10
        normal[a, a] += 1.0e-300
    for a in range(depth):  # the matrix is positive: no pivoting
        for b in range(a + 1, depth):
            factor = normal[b, a] / normal[a, a]
            for k in range(a, depth):
                normal[b, k] -= factor * normal[a, k]
            normal[b, HISTORY] -= factor * normal[a, HISTORY]
    for a in range(depth - 1, -1, -1):
        for b in range(a + 1, depth):
            normal[a, HISTORY] -= normal[a, b] * normal[b, HISTORY]
        normal[a, HISTORY] /= normal[a, a]
    for j in range(size):
        x[j] += damping * residual[j]
    for a in range(depth):
        weight = normal[a, HISTORY]
        for j in range(size):
            x[j] -= weight * (scratch[2 + a, j] + damping * scratch[2 + HISTORY + a, j])
    return count + 1
