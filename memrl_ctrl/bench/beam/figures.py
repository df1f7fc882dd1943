"""From phase errors to the figures of the table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.bench.beam.play import Floats, Played

AFTER = 5
"""Shots after which the specification speaks of median and 95th percentile."""
AFTER_SHARE = 10
"""Shots after which it speaks of the share within 2 degrees."""
WITHIN_DEG = 2.0
FAR_DEG = 5.0
"""An excursion that must not happen once a bunch is in place."""
LATE = 5
"""The last so many shots of an episode are late ones."""
TURNING_DEG, TURNING_SHOTS = 10.0, 10
"""Not still where no phase is right: a larger change in one of the last so many shots."""
RESAMPLES = 1000
LEVEL = 0.95


def figures(played: Played, seed: int = 0) -> dict[str, float]:
    """Return the figures of one controller in one condition.

    Phase errors are sizes, without episodes that have no reference optimum at their start (`episodes`,
    `without_reference`): of those there is the share that does not come to rest
    (`share_turning_without_reference`). Keys ending in `_low` and `_high` are the ends of 95 % bootstrap
    intervals over episodes.

    Args:
        played: what happened.
        seed: of the bootstrap.
    """
    known = np.isfinite(played.error_deg).all(axis=0)
    error = np.abs(played.error_deg[:, known])
    applied = np.abs(played.applied_deg[:, known])
    found: dict[str, float] = {
        "episodes": float(known.sum()),
        "without_reference": float((~known).sum()),
        "decision_us": float(np.median(played.decide_s) * 1e6),
        "decision_us_a_row": float(np.median(played.decide_s / played.rows) * 1e6),
    }
    if not known.all():
        last = np.abs(played.applied_deg[-TURNING_SHOTS:, ~known])
        turning = (last > TURNING_DEG).any(axis=0)
        found["share_turning_without_reference"] = float(np.mean(turning))
    if not known.any():
        return found
    shots = len(applied)
    after, share_after = min(AFTER, shots), min(AFTER_SHARE, shots)
    late = slice(max(shots - LATE, 0) + 1, None)
    first, stays = _shots_to(error)
    found |= {
        f"median_deg_after_{AFTER}": float(np.median(error[after])),
        f"p95_deg_after_{AFTER}": float(np.percentile(error[after], 95)),
        f"share_within_2_deg_after_{AFTER_SHARE}": float(np.mean(error[share_after] <= WITHIN_DEG)),
        "late_median_deg": float(np.median(error[late])),
        "late_p95_deg": float(np.percentile(error[late], 95)),
        "late_worst_deg": float(error[late].max()),
        "late_move_median_deg": float(np.median(applied[-LATE:])),
        "late_move_p95_deg": float(np.percentile(applied[-LATE:], 95)),
        "share_resting_beyond_5_deg": float(np.mean(np.median(error[late], axis=0) > FAR_DEG)),
        "share_beyond_5_deg_after_10": float(np.mean((error[share_after:] > FAR_DEG).any(axis=0))),
        "largest_deg_after_10": float(error[share_after:].max()),
        "shots_to_2_deg": float(np.median(first)),
        "shots_to_stay": float(np.median(stays)),
        "share_never": float(np.mean(np.isinf(stays))),
        "worst_step_deg": float(applied[after:].max(initial=0.0)),
    }
    return found | _intervals(error[after], error[share_after], error[late], seed)


def _shots_to(error: Floats) -> tuple[Floats, Floats]:
    """Return shots until within 2 degrees for the first time, and for good [episodes]; inf: never."""
    within = error <= WITHIN_DEG
    first = np.where(within.any(axis=0), within.argmax(axis=0), np.inf)
    outside_last = len(error) - 1 - (~within)[::-1].argmax(axis=0)
    stays = np.where(within.all(axis=0), 0.0, outside_last + 1.0)
    return first, np.where(within[-1], stays, np.inf)


def _intervals(after: Floats, share: Floats, late: Floats, seed: int) -> dict[str, float]:
    """Return bootstrap intervals over episodes."""
    rng = np.random.default_rng(seed)
    count = after.size
    picks = rng.integers(0, count, (RESAMPLES, count))
    resampled = after[picks]
    samples: dict[str, NDArray[np.float64]] = {
        f"median_deg_after_{AFTER}": np.median(resampled, axis=1),
        f"p95_deg_after_{AFTER}": np.percentile(resampled, 95, axis=1),
        f"share_within_2_deg_after_{AFTER_SHARE}": np.mean(share[picks] <= WITHIN_DEG, axis=1),
    }
    # Shots of an episode belong together: whole episodes are drawn, each with its own late median.
    samples["late_median_deg"] = np.median(np.median(late, axis=0)[picks], axis=1)
    ends = [50.0 * (1.0 - LEVEL), 50.0 * (1.0 + LEVEL)]
    found: dict[str, float] = {}
    for name, values in samples.items():
        low, high = np.percentile(values, ends)
        found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def curves(played: Played) -> dict[str, Any]:
    """Return phase error by shot: lists `median_deg` and `p95_deg` [shots + 1]."""
    known = np.isfinite(played.error_deg).all(axis=0)
    if not known.any():
        return {"median_deg": [], "p95_deg": []}
    error = np.abs(played.error_deg[:, known])
    return {
        "median_deg": np.median(error, axis=1).tolist(),
        "p95_deg": np.percentile(error, 95, axis=1).tolist(),
    }
