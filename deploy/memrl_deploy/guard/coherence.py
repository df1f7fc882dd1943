"""Which way round the circle: the goals of one cycle's points, made consistent with each other.

All points of a cycle share one hidden offset, and their goals form a smooth function of ctime. A policy
that sees one point at a time knows neither. Two things follow: half a turn from the goal, noise decides
which way round a point wants to go (or it wants to go nowhere); and neighbours that went opposite ways
meet at goals a full turn apart, between which no slope limit lets a function pass.

So each point's way to its goal, m in [-2 pi, 2 pi], is chosen for the whole cycle at once, as the
cheapest of

    sum |goal[i+1] - goal[i]|             goal = applied + m: a smooth function
    + sum data(delta[i], m[i])            what the policy said, as far as it can be trusted
    + TRAVEL * sum |m[i]|                 of two equally smooth functions, the nearer

by dynamic programming over the points (Viterbi). What the policy says is trusted within the cap
`DATA_CAP_RAD` where m (taken into one turn) stays away from the point opposite to the goal; beyond
`AMBIGUOUS_RAD`, where a policy cannot know the direction, it counts little.

The goals themselves are not flat: that alone costs a radian or two, however many points there are, and must
not outweigh what a few points say. So fewer than `FEW` points weigh as much as so many.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.cheapest_path import cheapest_path

AMBIGUOUS_RAD = math.radians(150.0)
"""From this distance to the goal on, the policy's answer says little about the direction."""
DIRECTION_WEIGHT = 0.1
"""Weight of the answer's direction there, against 1."""
REST_WEIGHT = 0.25
"""Weight there of an answer that is no large step: most likely the point is at its goal instead."""
DATA_CAP_RAD = 1.0
"""Most that one answer can weigh, rad."""
TRAVEL = 0.02
"""Cost of way against cost of roughness; below 1 / points, so that a whole turn is worth its way."""
FEW = 10
"""Points whose answers weigh enough against the roughness of the goals themselves; with fewer, all of them
were swung round together for ever (2 to 5 % of runs with 2 to 6 points, none with 8 or more)."""
AGREES_RAD = 0.35
"""An answer that is so near to the chosen way is taken as it is, rad."""

TURN = 2.0 * math.pi
WAYS = np.radians(np.arange(-360.0, 361.0, 30.0))
"""Ways that are considered for every point beside its own answer, rad."""

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def coherent(
    delta_rad: FloatArray, applied_rad: FloatArray, max_step_rad: float
) -> tuple[FloatArray, BoolArray]:
    """Return the changes that lead to one smooth function, and which differ from the policy's.

    Args:
        delta_rad: change that the policy asked for [points], rad, finite.
        applied_rad: what is applied now [points], rad, in the order of ctime.
        max_step_rad: the policy's largest change, rad; an answer beyond 0.8 of it means "far".
    """
    own = delta_rad[:, None] + np.array([-TURN, 0.0, TURN])
    ways = np.concatenate([own, np.broadcast_to(WAYS, (delta_rad.size, WAYS.size))], axis=1)
    said = max(1.0, FEW / delta_rad.size) * _data(delta_rad[:, None], ways, max_step_rad)
    cost = said + TRAVEL * np.abs(ways)
    goals = applied_rad[:, None] + ways
    chosen = ways[np.arange(delta_rad.size), cheapest_path(goals, cost)]
    moved = np.clip(chosen, -max_step_rad, max_step_rad)
    differs = np.abs(moved - delta_rad) > AGREES_RAD
    return np.where(differs, moved, delta_rad), differs


def _data(delta: FloatArray, ways: FloatArray, max_step_rad: float) -> FloatArray:
    """How badly an answer fits a way [points, ways], rad."""
    inside = np.pi - np.mod(np.pi - ways, TURN)
    misfit = _capped(delta - np.clip(inside, -max_step_rad, max_step_rad))
    direction = _capped(delta - np.copysign(max_step_rad, ways))
    rest = _capped(np.abs(delta) - max_step_rad)
    unknown = DIRECTION_WEIGHT * direction + REST_WEIGHT * rest
    return np.where(np.abs(inside) > AMBIGUOUS_RAD, unknown, misfit)


def _capped(misfit: FloatArray) -> FloatArray:
    return np.asarray(np.minimum(np.abs(misfit), DATA_CAP_RAD))
