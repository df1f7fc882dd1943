# ruff: noqa: PLR0912, PLR0915, PLR0917 - compiled code: one loop nest, arrays handed in place
# mypy: disable-error-code="no-untyped-def"
"""The fixed point of one matched bunch, compiled.

All quantities here are those of one RF period of the lower harmonic, phase phi in rad, on a grid of
`GRID` points phi_i = (i + 1/2) h, h = 2 pi / GRID. Potentials are in V rad. Where the RF potential
falls towards larger phase (tilt >= 0) the bucket's edge is a local maximum to its right; the other
sign is mirrored by the caller.

The potential without space charge is

    U'(phi) = sum_n [C_n cos(n phi) + S_n sin(n phi)] - tilt phi,

with the RF in n = 1, 2 and the wake in all n. For f(H) ~ sqrt(H0 - H) the line density is
lambda = max(0, H0 - U') / S, S the integral of the numerator; space charge (potential kappa lambda)
only scales the area inside H0 by sqrt(1 - kappa / S).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from memrl_ctrl.beam._anderson import HISTORY, mix
from memrl_ctrl.beam._fourier import analyse, synthesise
from memrl_ctrl.compiling import compiled

GRID = 256
QUARTER = GRID // 4
STEP = 2.0 * math.pi / GRID
DAMPING = 0.9
PATIENCE = 16
MAX_ITERATIONS = 80

# Columns of a condition's parameters.
P_C1, P_C2, P_S2, P_TILT, P_KAPPA, P_TARGET = range(6)
N_PARAMETERS = 6
# Columns of a condition's result.
(
    R_LEVEL,
    R_CAPTURED,
    R_NORM,
    R_LEFT,
    R_RIGHT,
    R_MEAN,
    R_VARIANCE,
    R_SKEWNESS,
    R_PEAK,
    R_BUCKET,
    R_STATUS,
    R_ITERATIONS,
) = range(12)
N_RESULTS = 12
# Values of R_STATUS.
CONVERGED, NOT_CONVERGED, NO_BUCKET = 0.0, 1.0, 2.0


def workspace(harmonics: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Scratch memory for `solve`: one per thread."""
    rows = 9 + 2 * HISTORY
    return np.zeros((rows, max(2 * GRID + 2, 2 * harmonics + 2)))


@compiled
def _bucket_of_maximum(u, top):
    """The bucket left of the local maximum at index `top`: (left index, edge, offset of the top).

    It is all of the turn before the maximum that lies below it. Where the barrier between two wells
    stands above this edge, both are filled to the same level all the same: so nothing jumps when the
    barrier passes the edge. The edge's height and place come from the parabola through three points.
    """
    below, here, above = u[top - 1], u[top], u[top + 1]
    curvature = below - 2.0 * here + above
    offset = 0.0
    edge = here
    if curvature < 0.0:
        offset = 0.5 * (below - above) / curvature
        edge = here - 0.25 * (below - above) * offset
    left = top - GRID
    while left < top - 2 and u[left + 1] >= edge:
        left += 1
    return left, edge, offset


@compiled
def _root_area(u, left, right, level):
    total = 0.0
    for i in range(left + 1, right + 1):
        total += math.sqrt(max(0.0, level - u[i]))
    return total


@compiled
def find_bucket(u):
    """The largest bucket: (left, right, edge, offset of its place); left < 0 if there is none.

    `u` is the potential on the turn before (points 0 to GRID - 1), on the turn itself, and at one
    point more.
    """
    first = -1
    count = 0
    for i in range(GRID, 2 * GRID):
        if u[i] > u[i - 1] and u[i] >= u[i + 1]:
            count += 1
            if first < 0 or u[i] > u[first]:
                first = i
    if count == 0:
        return -1, -1, 0.0, 0.0
    left, edge, offset = _bucket_of_maximum(u, first)
    if count == 1:
        return left, first, edge, offset
    best_left, best_right, best_edge, best_offset = left, first, edge, offset
    best_area = _root_area(u, left, first, edge)
    for i in range(GRID, 2 * GRID):
        if i == first or not (u[i] > u[i - 1] and u[i] >= u[i + 1]):
            continue
        if (left < i < first and u[i] < edge) or (left < i - GRID < first and u[i - GRID] < edge):
            continue  # an inner maximum of the first bucket: what it holds is part of that
        other_left, other_edge, other_offset = _bucket_of_maximum(u, i)
        area = _root_area(u, other_left, i, other_edge)
        if area > best_area:
            best_area = area
            best_left, best_right = other_left, i
            best_edge, best_offset = other_edge, other_offset
    return best_left, best_right, best_edge, best_offset


@compiled
def _edge_terms(inside, outside):
    """What the grid sums of sqrt(y), 1/sqrt(y) and y lack at a crossing of zero between two points.

    y falls from `inside` > 0 to `outside` <= 0. Near it y is linear, the sums are those of
    sqrt(k + theta), and the generalised Euler-Maclaurin formula gives the difference from the
    integral as Hurwitz zeta functions of 1 + theta (here polynomials, error 2e-5); the point next
    to the crossing is taken out of the sum. For y itself, -zeta(-1, theta) is Bernoulli's polynomial
    B2(theta) / 2.
    """
    slope = inside - outside
    theta = inside / slope
    root = math.sqrt(slope)
    zeta = -0.20786215 + theta * (
        -0.73097509 + theta * (-0.32032677 + theta * (0.06413508 - 0.01287584 * theta))
    )
    own = math.sqrt(inside)
    derivative = (1.4605 + theta * (1.3011 - theta * (0.4627 - 0.1613 * theta))) / root
    bernoulli = 0.5 * (theta * (theta - 1.0) + 1.0 / 6.0)
    return -zeta * root - own, derivative - 1.0 / own, bernoulli * slope


@compiled
def area_inside(u, left, right, level):
    """Sums over the bucket with y = max(0, level - u): sqrt(y), y, its derivative terms.

    Returns (integral of sqrt(y), integral of y, measure of y > 0, integral of 1/sqrt(y)), all
    in units of the grid step.
    """
    roots, total, width, inverse = 0.0, 0.0, 0.0, 0.0
    for i in range(left + 1, right + 1):
        y = level - u[i]
        if y > 0.0:
            root = math.sqrt(y)
            roots += root
            total += y
            width += 1.0
            inverse += 1.0 / root
    if width == 0.0:
        return 0.0, 0.0, 0.0, 0.0
    first = left + 1
    while level - u[first] <= 0.0:
        first += 1
    last = right
    while level - u[last] <= 0.0:
        last -= 1
    if first > left + 1 or level < u[left]:
        a, b, c = _edge_terms(level - u[first], level - u[first - 1])
        roots += a
        inverse += b
        total += c
    if last < right or level < u[right + 1]:
        a, b, c = _edge_terms(level - u[last], level - u[last + 1])
        roots += a
        inverse += b
        total += c
    if width < last - first + 1:  # an inner barrier stands above the level
        for i in range(first, last):
            here, there = level - u[i], level - u[i + 1]
            if here > 0.0 and there <= 0.0:
                a, b, c = _edge_terms(here, there)
                roots += a
                inverse += b
                total += c
            elif here <= 0.0 and there > 0.0:
                a, b, c = _edge_terms(there, here)
                roots += a
                inverse += b
                total += c
    return roots, total, width, inverse


@compiled
def _edge_fill(u, left, right, edge, kappa, target):
    """The share c of the emittance that the full bucket holds.

    With area a (in units of the emittance) before space charge and only c of the intensity left,
    c^2 = (1 - c kappa / S) a^2.
    """
    roots, total, _, _ = area_inside(u, left, right, edge)
    if total <= 0.0:
        return 0.0
    a2 = (roots / target) ** 2
    p = a2 * kappa / total
    return 0.5 * (math.sqrt(p * p + 4.0 * a2) - p)


@compiled
def fill(u, left, right, edge, kappa, target, guess):
    """The level H0 that encloses `target`, and the captured share: (level, share, bottom).

    `kappa` and `target` are in units of the grid step; `guess` is the level's height over the
    bottom in units of the edge's, of a similar potential, or negative.
    """
    bottom = edge
    for i in range(left + 1, right + 1):
        bottom = min(bottom, u[i])
    depth = edge - bottom
    low, high = bottom, edge
    known = False  # whether the edge is known to hold the target
    if guess <= 0.0:
        share = _edge_fill(u, left, right, edge, kappa, target)
        if share < 1.0:
            return edge, share, bottom
        known = True
        ratio = 1.0 / share
        guess = ratio * (1.27 - 0.27 * ratio)
    level = bottom + min(guess, 0.999) * depth
    for _ in range(40):
        roots, total, width, inverse = area_inside(u, left, right, level)
        if total <= 0.0:
            value, slope = -1.0, 0.0
        else:
            factor = 1.0 - kappa / total
            ratio = (roots / target) ** 2
            value = ratio * factor - 1.0
            slope = roots * inverse / (target * target) * factor + ratio * kappa * width / (
                total * total
            )
        if abs(value) < 2.0e-6:
            break
        if value > 0.0:
            high = level
            known = True
        else:
            low = level
        step = value / slope if slope > 0.0 else 0.0
        following = level - step
        if (step == 0.0 or following >= high) and not known:
            share = _edge_fill(u, left, right, edge, kappa, target)
            if share < 1.0:
                return edge, share, bottom
            known = True
        if step == 0.0 or following <= low or following >= high:
            following = 0.5 * (low + high)
        if abs(following - level) < 1.0e-12 * depth:
            break
        level = following
    return level, 1.0, bottom


@compiled
def _end_terms(here, there, i, shift):
    """What grid sums of y and its moments lack where y crosses zero between the points i and i + 1.

    y is `here` and `there`. Returns the terms for y, y d, y d^2 and y d^3, d the index less `shift`.
    Near the crossing y = slope t, t the distance from it; the integral of y t^j exceeds its sum by
    slope B_(j+2)(theta) / (j+2), with Bernoulli's polynomials (see `_edge_terms`).
    """
    inside, outside = (here, there) if here > 0.0 else (there, here)
    slope = inside - outside
    theta = inside / slope
    inwards = -1.0 if here > 0.0 else 1.0
    d = (i + theta if here > 0.0 else i + 1.0 - theta) - shift
    square = theta * (theta - 1.0)
    second = 0.5 * (square + 1.0 / 6.0) * slope
    third = inwards * square * (theta - 0.5) / 3.0 * slope
    fourth = 0.25 * (square * square - 1.0 / 30.0) * slope
    return (
        second,
        second * d + third,
        second * d * d + 2.0 * third * d + fourth,
        second * d * d * d + 3.0 * third * d * d + 3.0 * fourth * d,
    )


@compiled
def _moments(u, left, right, level, result):
    """Normalisation, mean, variance, skewness and peak of the profile, into `result`.

    The sums over the grid are corrected where the profile begins and ends between points, and the
    peak is that of the parabola through three points: so that bunches of a few points are measured
    well.
    """
    first, last, points, top = -1, -1, 0, left + 1
    m0, m1, m2, m3 = 0.0, 0.0, 0.0, 0.0
    middle = 0.5 * (left + right)
    for i in range(left + 1, right + 1):
        y = level - u[i]
        if y > 0.0:
            if first < 0:
                first = i
            last = i
            points += 1
            d = i - middle
            m0 += y
            m1 += y * d
            m2 += y * d * d
            m3 += y * d * d * d
            if u[i] < u[top]:
                top = i
    i = first - 1
    while i <= last:
        here, there = level - u[i], level - u[i + 1]
        # A bunch that reaches the bucket's top ends there in a parabola, which needs no term.
        if (here > 0.0) != (there > 0.0) and i < right:
            c0, c1, c2, c3 = _end_terms(here, there, i, middle)
            m0, m1, m2, m3 = m0 + c0, m1 + c1, m2 + c2, m3 + c3
        i = last if i < first and points == last - first + 1 else i + 1
    mean = m1 / m0
    variance = m2 / m0 - mean * mean
    third = m3 / m0 - 3.0 * mean * variance - mean**3
    peak = level - u[top]
    below, above = u[top - 1] - u[top], u[top + 1] - u[top]
    if below + above > 0.0:
        peak += 0.125 * (below - above) ** 2 / (below + above)
    result[R_NORM] = m0 * STEP
    result[R_MEAN] = (mean + middle + 0.5 - GRID) * STEP
    result[R_VARIANCE] = variance * STEP * STEP
    result[R_SKEWNESS] = third / (variance * math.sqrt(variance))
    result[R_PEAK] = peak / (m0 * STEP)


@compiled
def _total_bucket(u, left, right, edge, level, kappa, norm, total_u):
    """Integral of sqrt(edge - U), U with space charge (kappa: potential per line density).

    `norm` is the integral of the profile, `total_u` scratch memory for U.
    """
    if kappa == 0.0:
        roots, _, _, _ = area_inside(u, left, right, edge)
        return roots * STEP
    factor = kappa / norm
    gap = edge - level
    total_u[right + 1] = u[right + 1]
    for i in range(left, right + 1):
        y = level - u[i]
        total_u[i] = u[i]
        if y > 0.0:
            total_u[i] += factor * y
        elif y < -gap:
            # Where the bunch fills the bucket, U goes on beyond their common end as it does inside of
            # it, or the crossing is misplaced; it does not where the bunch ends well before.
            total_u[i] += factor * (1.0 + gap / y) * (edge - u[i])
    roots, _, _, _ = area_inside(total_u, left, right, edge)
    return roots * STEP


@compiled
def solve(parameters, wake, x, table, ws, tolerance, limit, result):
    """Solve one condition.

    Args:
        parameters: [N_PARAMETERS], see the names P_.
        wake: [2, harmonics], real and imaginary part of the wake potential per Fourier coefficient
            of the line density; empty without a wake.
        x: [2 harmonics], the wake potential's coefficients: the first guess, and the answer.
        table: `tables(GRID, harmonics)`.
        ws: `workspace(harmonics)`; row 2 holds the potential on return.
        tolerance: largest residual, in units of the depth of the filled well.
        limit: largest number of iterations.
        result: [N_RESULTS], see the names R_.
    """
    harmonics = x.shape[0] // 2
    size = 2 * harmonics
    with_wake = wake.shape[1] > 0
    tilt = parameters[P_TILT]
    turn = 2.0 * math.pi * tilt
    kappa, target = parameters[P_KAPPA] / STEP, parameters[P_TARGET] / STEP
    scratch, u, density = ws[0:2], ws[2], ws[3]
    spectrum, residual, coefficients = ws[4], ws[5], ws[6]
    mixing = ws[7:]
    result[:] = np.nan
    result[R_STATUS] = NOT_CONVERGED
    count, guess = 0, -1.0
    left, right, edge, offset, level, share = -1, -1, 0.0, 0.0, 0.0, 0.0
    iteration, damping = 0, DAMPING
    while True:
        for j in range(size):
            coefficients[j] = x[j]
        coefficients[0] += parameters[P_C1]
        coefficients[1] += parameters[P_C2]
        coefficients[harmonics + 1] += parameters[P_S2]
        synthesise(coefficients, harmonics, table, tilt, scratch, u[GRID:])
        for i in range(GRID):
            u[i] = u[GRID + i] + turn
        u[2 * GRID] = u[GRID] - turn
        left, right, edge, offset = find_bucket(u)
        iteration += 1
        if left < 0:
            biggest = 0.0
            for j in range(size):
                biggest = max(biggest, abs(x[j]))
                x[j] *= 0.5
            count, guess = 0, -1.0
            if biggest < 1.0e-3 or iteration >= limit:
                result[R_STATUS] = NO_BUCKET
                result[R_ITERATIONS] = iteration
                return
            continue
        level, share, bottom = fill(u, left, right, edge, kappa, target, guess)
        total, points = 0.0, 0
        for i in range(left + 1, right + 1):
            y = level - u[i]
            if y > 0.0:
                total += y
                points += 1
        if points < 3:  # a bucket, or a bunch, that falls between the points of the grid
            result[R_STATUS] = NO_BUCKET
            result[R_ITERATIONS] = iteration
            return
        if not with_wake:
            result[R_STATUS] = CONVERGED
            break
        depth = level - bottom
        guess = depth / (edge - bottom)
        density[:GRID] = 0.0
        for i in range(left + 1, right + 1):
            y = max(0.0, level - u[i])
            density[i if i < GRID else i - GRID] = y
        analyse(density, harmonics, table, scratch, spectrum)
        factor = 2.0 * share / total
        norm = 0.0
        for n in range(harmonics):
            re, im = spectrum[n], -spectrum[harmonics + n]
            residual[n] = factor * (wake[0, n] * re - wake[1, n] * im) - x[n]
            residual[harmonics + n] = (
                -factor * (wake[0, n] * im + wake[1, n] * re) - x[harmonics + n]
            )
            norm += residual[n] ** 2 + residual[harmonics + n] ** 2
        if math.sqrt(norm) < tolerance * depth:
            result[R_STATUS] = CONVERGED
            break
        if iteration >= limit:
            break
        if iteration % PATIENCE == 0:
            # Slower and with a fresh memory: the bucket's shape changed on the way, or the wake is
            # close to what a bunch can stand.
            count = 0
            damping *= 0.5
        count = mix(x, residual, mixing, count, size, damping)
    result[R_LEVEL] = level
    result[R_CAPTURED] = share
    result[R_LEFT] = (left + 0.5 - GRID) * STEP
    result[R_RIGHT] = (right + 0.5 + offset - GRID) * STEP
    result[R_ITERATIONS] = iteration
    _moments(u, left, right, level, result)
    result[R_BUCKET] = _total_bucket(
        u, left, right, edge, level, parameters[P_KAPPA] * share, result[R_NORM], density
    )
