# ruff: noqa: PLR0912, PLR0917 - compiled code: one loop nest, arrays handed in place
# mypy: disable-error-code="no-untyped-def"
"""Many matched bunches, compiled: from parameters to profiles on the caller's slices."""

from __future__ import annotations

import math

import numpy as np

from memrl_ctrl.beam._fourier import synthesise, synthesise_any
from memrl_ctrl.beam._solver import (
    NO_BUCKET,
    P_C1,
    P_C2,
    P_S2,
    P_TILT,
    R_LEFT,
    R_LEVEL,
    R_MEAN,
    R_RIGHT,
    R_STATUS,
    solve,
)
from memrl_ctrl.compiling import compiled


@compiled
def render(parameters, x, solved, table, scratch, potential, mirrored, out):
    """Write the line density at the bin centres of a turn to `out` [n_slices], integral 1."""
    points = out.shape[0]
    if solved[R_STATUS] == NO_BUCKET:
        out[:] = np.nan
        return
    harmonics = x.shape[0] // 2
    coefficients = scratch[2]
    for j in range(2 * harmonics):
        coefficients[j] = x[j]
    coefficients[0] += parameters[P_C1]
    coefficients[1] += parameters[P_C2]
    coefficients[harmonics + 1] += parameters[P_S2]
    tilt = parameters[P_TILT]
    if points % 4 == 0:
        synthesise(coefficients, harmonics, table, tilt, scratch, potential)
    else:
        synthesise_any(coefficients, harmonics, table, tilt, potential)
    width = 2.0 * math.pi / points
    level = solved[R_LEVEL]
    first = math.ceil(solved[R_LEFT] / width - 0.5)
    last = min(points - 1, math.floor(solved[R_RIGHT] / width - 0.5))
    total = 0.0
    for j in range(max(0, first), last + 1):
        y = max(0.0, level - potential[j])
        potential[j] = y
        total += y
    second = points  # where the part of the bunch that began in the turn before starts
    if first < 0:
        second = max(first + points, last + 1)
        level -= 2.0 * math.pi * tilt
        for j in range(second, points):
            y = max(0.0, level - potential[j])
            potential[j] = y
            total += y
    for j in range(max(0, first)):
        potential[j] = 0.0
    for j in range(last + 1, second):
        potential[j] = 0.0
    if total <= 0.0:  # the bunch is shorter than a slice
        centre = math.floor(solved[R_MEAN] / width) % points
        potential[centre] = 1.0
        total = 1.0
    scale = 1.0 / (total * width)
    if mirrored:
        for j in range(points):
            out[points - 1 - j] = potential[j] * scale
    else:
        for j in range(points):
            out[j] = potential[j] * scale


@compiled
def solve_batch(
    parameters, wake, mirrored, x, table, slices, ws, tolerance, limit, solved, profiles
):
    """Solve and render conditions [n] one after the other.

    Args:
        parameters: [n, N_PARAMETERS].
        wake: [n, 2, harmonics], or [n, 2, 0] where no wake acts.
        mirrored: [n], whether the condition was mirrored to have tilt >= 0.
        x: [n, 2 harmonics], first guesses and answers.
        table, slices: trigonometric tables of the grid and of the profile.
        ws: workspace of `solve`.
        tolerance, limit: of the fixed point.
        solved: [n, N_RESULTS], written.
        profiles: [n, n_slices], written; n_slices may be 0.
    """
    points = profiles.shape[1]
    scratch = np.zeros((3, max(points, x.shape[1] + 2)))
    potential = np.empty(max(points, 1))
    for k in range(parameters.shape[0]):
        solve(parameters[k], wake[k], x[k], table, ws, tolerance, limit, solved[k])
        if points > 0:
            render(
                parameters[k], x[k], solved[k], slices, scratch, potential, mirrored[k], profiles[k]
            )
