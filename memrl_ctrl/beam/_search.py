# ruff: noqa: PLR0917 - compiled code: one loop nest, arrays handed in place
# mypy: disable-error-code="no-untyped-def"
"""The search for the reference optimum of one condition, compiled."""

from __future__ import annotations

import math

import numpy as np

from memrl_ctrl.beam._solver import (
    GRID,
    NO_BUCKET,
    P_C2,
    P_S2,
    R_PEAK,
    R_SKEWNESS,
    R_STATUS,
    solve,
)
from memrl_ctrl.compiling import compiled

SYMMETRY, EQUAL_WELLS, BUNCHING_FACTOR, LEAST_SKEWNESS = 0, 1, 2, 3
FOUND, REASON_NO_BUCKET, REASON_NO_ZERO, REASON_JUMP, REASON_NO_WELLS = 0, 1, 2, 3, 4

SCAN_TOLERANCE = 1.0e-3
FINE_TOLERANCE = 3.0e-6
ITERATIONS = 30
ACCURACY_RAD = 1.0e-6
_GOLDEN = 0.5 * (3.0 - math.sqrt(5.0))


@compiled
def _outer_maximum(u):
    """Index of the maximum that ends the turn with the lowest barrier in it; -1 if there is none.

    Lowest compared with the maximum itself: between the wells left of it lies the inner barrier.
    """
    best, lowest = -1, np.inf
    for i in range(GRID, 2 * GRID):
        if not (u[i] > u[i - 1] and u[i] >= u[i + 1]):
            continue
        inner = -np.inf
        for j in range(i - GRID + 1, i):
            if u[j] > inner and u[j] > u[j - 1] and u[j] >= u[j + 1]:
                inner = u[j]
        if inner > -np.inf and inner - u[i] < lowest:
            best, lowest = i, inner - u[i]
    return best


@compiled
def _wells(u):
    """Depth of the left minus depth of the right of the two inner wells.

    Wells are minima of the potential without space charge, which shares them: inside the bunch the
    total potential is an increasing function of it. NaN with fewer than two.
    """
    top = _outer_maximum(u)
    if top < 0:
        return np.nan
    first, second = np.inf, np.inf
    first_at, second_at = -1, -1
    for i in range(top - GRID + 1, top):
        below, here, above = u[i - 1], u[i], u[i + 1]
        if here < below and here <= above:
            value = here - 0.125 * (below - above) ** 2 / (below - 2.0 * here + above)
            if value < first:
                second, second_at = first, first_at
                first, first_at = value, i
            elif value < second:
                second, second_at = value, i
    if second_at < 0:
        return np.nan
    return first - second if first_at < second_at else second - first


@compiled
def _figure(criterion, phi2, half_v2, parameters, wake, x, table, ws, tolerance, result):
    """The criterion at one phi2: at the optimum it falls through zero, or is largest."""
    parameters[P_C2] = half_v2 * math.cos(phi2)
    parameters[P_S2] = -half_v2 * math.sin(phi2)
    solve(parameters, wake, x, table, ws, tolerance, ITERATIONS, result)
    if result[R_STATUS] == NO_BUCKET:
        x[:] = 0.0
        return np.nan
    if criterion == SYMMETRY:
        return result[R_SKEWNESS]
    if criterion == LEAST_SKEWNESS:
        return -abs(result[R_SKEWNESS])
    if criterion == EQUAL_WELLS:
        return -_wells(ws[2]) / half_v2
    return 1.0 / (2.0 * math.pi * result[R_PEAK])


@compiled
def _zero(criterion, a, fa, b, fb, half_v2, parameters, wake, x, table, ws, result):
    """Zero between a and b by false position with Illinois steps; returns (phi2, value there)."""
    side = 0
    phi2, value = 0.5 * (a + b), np.inf
    for k in range(60):
        phi2 = (a * fb - b * fa) / (fb - fa) if k % 8 != 7 else 0.5 * (a + b)
        value = _figure(
            criterion, phi2, half_v2, parameters, wake, x, table, ws, FINE_TOLERANCE, result
        )
        if np.isnan(value) or abs(value) < 1.0e-7 or abs(b - a) < ACCURACY_RAD:
            break
        if (value > 0.0) == (fa > 0.0):
            change = abs(phi2 - a)
            a, fa = phi2, value
            if side == 1:
                fb *= 0.5
            side = 1
        else:
            change = abs(phi2 - b)
            b, fb = phi2, value
            if side == -1:
                fa *= 0.5
            side = -1
        if change < ACCURACY_RAD and abs(value) < 1.0e-5:
            break
    return phi2, value


@compiled
def _highest(criterion, a, b, half_v2, parameters, wake, x, table, ws, result):
    """Place of the largest value between a and b, by golden section."""
    c, d = a + _GOLDEN * (b - a), b - _GOLDEN * (b - a)
    fc = _figure(criterion, c, half_v2, parameters, wake, x, table, ws, FINE_TOLERANCE, result)
    fd = _figure(criterion, d, half_v2, parameters, wake, x, table, ws, FINE_TOLERANCE, result)
    while b - a > 1.0e-4:
        if fc > fd or np.isnan(fd):
            b, d, fd = d, c, fc
            c = a + _GOLDEN * (b - a)
            fc = _figure(
                criterion, c, half_v2, parameters, wake, x, table, ws, FINE_TOLERANCE, result
            )
        else:
            a, c, fc = c, d, fd
            d = b - _GOLDEN * (b - a)
            fd = _figure(
                criterion, d, half_v2, parameters, wake, x, table, ws, FINE_TOLERANCE, result
            )
    return 0.5 * (a + b)


@compiled
def _search(criterion, half_v2, parameters, wake, x, table, ws, result, values):
    """The optimum of one condition from a scan of len(values) points: (phi2, reason)."""
    points = values.shape[0]
    step = 2.0 * math.pi / points
    buckets = 0
    best, best_value = -1, -np.inf
    for k in range(points):
        values[k] = _figure(
            criterion, k * step, half_v2, parameters, wake, x, table, ws, SCAN_TOLERANCE, result
        )
        if result[R_STATUS] != NO_BUCKET:
            buckets += 1
        if values[k] > best_value:
            best, best_value = k, values[k]
    if buckets == 0:
        return np.nan, REASON_NO_BUCKET
    if criterion in (BUNCHING_FACTOR, LEAST_SKEWNESS):
        a, b = (best - 1) * step, (best + 1) * step
        return _highest(criterion, a, b, half_v2, parameters, wake, x, table, ws, result), FOUND
    if best < 0:
        return np.nan, REASON_NO_WELLS
    answer, reason, flattest = np.nan, REASON_NO_ZERO, np.inf
    for k in range(points):
        a, b = k * step, (k + 1) * step
        fa, fb = values[k], values[(k + 1) % points]
        if not (fa > 0.0 and fb <= 0.0):
            continue
        phi2, value = _zero(
            criterion, a, fa, b, fb, half_v2, parameters, wake, x, table, ws, result
        )
        if not abs(value) < 1.0e-3:  # another bucket or well took over: no zero
            if reason == REASON_NO_ZERO:
                reason = REASON_JUMP
        elif result[R_PEAK] < flattest:
            answer, reason, flattest = phi2, FOUND, result[R_PEAK]
    return answer, reason


@compiled
def search_batch(criterion, half_v2, parameters, wake, table, ws, scans, result, answers, reasons):
    """Search for conditions [n]; writes phi2 of the mirrored frame and reasons.

    `scans` holds the numbers of points of the scan: a finer one follows where the first found
    no optimum, though there is a bucket.
    """
    x = np.zeros(2 * table.shape[1])
    values = np.empty(max(scans))
    for k in range(parameters.shape[0]):
        for points in scans:
            x[:] = 0.0
            answers[k], reasons[k] = _search(
                criterion, half_v2[k], parameters[k], wake[k], x, table, ws, result, values[:points]
            )
            if reasons[k] == FOUND or reasons[k] == REASON_NO_BUCKET:
                break
