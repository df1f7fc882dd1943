"""From a reading to the vector that a policy sees. The same code trains and serves.

The observation of one control point is its profile, centred on its own mean and rebinned to the
policy's slices so that area is conserved, divided by its mean over the turn, followed by the
synchronous phase / pi. Centring takes the absolute phase out: the hardware's hidden offset cannot be
read off it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.compiling import compiled_exactly
from memrl_ctrl.errors import MismatchError, UsageError

VERSION = 1
"""Version of this definition, kept in every policy's manifest."""
CLIP_LOW, CLIP_HIGH = -4.0, 60.0
"""Bounds of a profile's values in units of its mean over the turn; a bunch at the edge of what the
PSB makes has a peak of 10, noise goes below 0."""

MIN_SLICES, MAX_SLICES = 16, 4096


def check_slices(n_slices: int) -> None:
    """Refuse a number of slices that is no profile.

    Raises:
        UsageError: not 16 to 4096.
    """
    if not MIN_SLICES <= n_slices <= MAX_SLICES:
        raise UsageError(f"n_slices must be {MIN_SLICES} to {MAX_SLICES}, not {n_slices}")


def observation_size(n_slices: int) -> int:
    """Return the length of an observation with a profile of `n_slices` bins."""
    return n_slices + 1


def beam_observation(
    profile: NDArray[np.float32],
    synchronous_phase_rad: NDArray[np.float64],
    n_slices: int,
) -> NDArray[np.float32]:
    """Make the observations of a batch of control points.

    Args:
        profile: line density [batch, n_in], arbitrary units, phase increasing over one turn.
        synchronous_phase_rad: [batch], as the control system knows it, rad.
        n_slices: bins that the policy sees, at most n_in.

    Returns:
        [batch, n_slices + 1] float32, finite. A profile that is not finite or has no area gives
        zeros: it must have been flagged before it reaches a policy.

    Raises:
        MismatchError: the machine has fewer slices than the policy needs.
    """
    n_in = profile.shape[1]
    if n_in < n_slices:
        raise MismatchError(
            f"the policy sees {n_slices} slices a turn and the machine measures only {n_in}: "
            f"use a policy with at most {n_in} slices"
        )
    cos, sin = _turn(n_in)
    out = np.empty((profile.shape[0], n_slices + 1), dtype=np.float32)
    _fill(
        np.ascontiguousarray(profile, dtype=np.float32),
        np.ascontiguousarray(synchronous_phase_rad, dtype=np.float64),
        cos,
        sin,
        out,
    )
    return out


_turns: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}


def _turn(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if n not in _turns:
        phase = 2.0 * np.pi * (np.arange(n) + 0.5) / n
        _turns[n] = (np.cos(phase), np.sin(phase))
    return _turns[n]


@compiled_exactly
def _fill(profile, synchronous_phase_rad, cos, sin, out):  # type: ignore[no-untyped-def]
    batch, n_in = profile.shape
    n_out = out.shape[1] - 1
    cumulative = np.empty(2 * n_in + 1)
    for row in range(batch):
        total, c, s = 0.0, 0.0, 0.0
        cumulative[0] = total
        for i in range(n_in):
            value = float(profile[row, i])
            total += value
            cumulative[i + 1] = total
            c += value * cos[i]
            s += value * sin[i]
        phase = synchronous_phase_rad[row]
        out[row, n_out] = phase / math.pi if math.isfinite(phase) else 0.0
        if not (math.isfinite(total) and total > 0.0 and math.isfinite(c + s)):
            out[row, :n_out] = 0.0
            continue
        # The circular mean goes to the middle of the turn: the window starts half a turn before it.
        start = (math.atan2(s, c) / (2.0 * math.pi) + 0.5) * n_in
        start -= math.floor(start / n_in) * n_in
        index = int(start)
        # The window ends within a turn of where it starts; behind that nothing is looked at.
        running = total
        for i in range(min(index + 2, n_in)):
            running += profile[row, i]
            cumulative[n_in + i + 1] = running
        scale = n_out / total
        width = n_in / n_out
        below = cumulative[index] + (start - index) * (cumulative[index + 1] - cumulative[index])
        for j in range(n_out):
            edge = start + (j + 1) * width
            index = min(int(edge), 2 * n_in - 1)
            above = cumulative[index] + (edge - index) * (cumulative[index + 1] - cumulative[index])
            value = (above - below) * scale
            out[row, j] = min(max(value, CLIP_LOW), CLIP_HIGH)
            below = above
