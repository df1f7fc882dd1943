"""The pictures of the report."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from memrl_deploy.counterfactual import Counterfactual
from memrl_deploy.report.figures import LOOK_BACK, ShadowFigures
from memrl_deploy.report.svg import Series, bars, lines

BINS = 200
"""Places along a picture's time axis at most."""
RED, GREEN, GREY = "#b3382c", "#2d7d46", "#666666"
FloatArray = NDArray[np.float64]


def pictures(figures: ShadowFigures, twin: Counterfactual | None) -> list[str]:
    """Return all pictures as SVG."""
    made = [
        _histogram(figures),
        _along_cycle(figures),
        _over_time(figures),
        _phase_function(figures),
        _asymmetry(figures),
        _latency(figures),
    ]
    if figures.lead.cycles.size:
        made.append(_lead(figures))
    if twin is not None:
        made.append(_twin(twin))
    return made


def _histogram(figures: ShadowFigures) -> str:
    values = figures.difference_deg[np.isfinite(figures.difference_deg)]
    reach = float(np.percentile(np.abs(values), 99.5)) if values.size else 1.0
    counts, edges = np.histogram(np.clip(values, -reach, reach), bins=61)
    share = np.asarray(100.0 * counts / max(values.size, 1), dtype=np.float64)
    return bars(
        "Recommended less applied, all points", "difference [degrees]", "share [%]", edges, share
    )


def _percentiles(values: FloatArray, axis: int, *percents: float) -> list[FloatArray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a point or cycle without any value is NaN
        return [np.asarray(np.nanpercentile(values, p, axis=axis)) for p in percents]


def _along_cycle(figures: ShadowFigures) -> str:
    low, middle, high = _percentiles(figures.difference_deg, 0, 5.0, 50.0, 95.0)
    band = Series(
        x=figures.ctime_ms, y=middle, low=low, high=high, label="median, 5th to 95th percentile"
    )
    return lines("Difference along the cycle", "ctime [ms]", "difference [degrees]", [band])


def _binned(cycle: NDArray[np.int64], values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return places and means of [cycles] in at most `BINS` bins."""
    groups = np.array_split(np.arange(values.size), min(BINS, values.size))
    places = np.array([float(cycle[rows].mean()) for rows in groups])
    means = [
        float(np.nanmean(values[rows])) if np.isfinite(values[rows]).any() else np.nan
        for rows in groups
    ]
    return places, np.array(means)


def _row_means(values: FloatArray) -> FloatArray:
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    number = known.sum(axis=1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _over_time(figures: ShadowFigures) -> str:
    x, y = _binned(figures.cycle, _row_means(np.abs(figures.difference_deg)))
    return lines(
        "Difference over the run",
        "cycle",
        "mean |difference| [degrees]",
        [Series(x=x, y=y)],
    )


def _phase_function(figures: ShadowFigures) -> str:
    return lines(
        f"Functions of cycle {figures.cycle[-1]}",
        "ctime [ms]",
        "phi_hw [degrees]",
        [
            Series(x=figures.ctime_ms, y=figures.applied_deg[-1], label="operators", colour=GREY),
            Series(
                x=figures.ctime_ms,
                y=figures.recommended_deg[-1],
                label="recommended next step",
                colour=RED,
                dots=True,
            ),
        ],
    )


def _asymmetry(figures: ShadowFigures) -> str:
    """Mean |asymmetry| against the difference: does the beam get better towards the recommendation?"""
    size = np.abs(figures.difference_deg).ravel()
    skew = np.abs(figures.asymmetry).ravel()
    known = np.isfinite(size) & np.isfinite(skew)
    size, skew = size[known], skew[known]
    if size.size < 2:
        empty = np.array([np.nan, np.nan])
        x, y, low, high = np.array([0.0, 1.0]), empty, empty, empty
    else:
        groups = np.array_split(np.argsort(size), min(12, size.size))
        x = np.array([size[g].mean() for g in groups])
        y = np.array([skew[g].mean() for g in groups])
        low = np.array([np.percentile(skew[g], 25.0) for g in groups])
        high = np.array([np.percentile(skew[g], 75.0) for g in groups])
    return lines(
        "|Asymmetry| against the difference",
        "|recommended - applied| [degrees]",
        "|asymmetry|",
        [Series(x=x, y=y, low=low, high=high, label="mean, middle half", colour=GREEN)],
    )


def _latency(figures: ShadowFigures) -> str:
    reach = float(np.percentile(figures.decision_ms, 99.9))
    counts, found = np.histogram(np.minimum(figures.decision_ms, reach), bins=50)
    edges = np.asarray(found, dtype=np.float64)
    return bars(
        "Time from reading to decision, recorded",
        "time [ms]",
        "cycles",
        edges,
        counts.astype(np.float64),
    )


def _lead(figures: ShadowFigures) -> str:
    counts = np.bincount(figures.lead.cycles)[1:]
    edges: FloatArray = np.arange(counts.size + 1, dtype=np.float64) + 0.5
    return bars(
        "How long moves had been recommended before",
        f"cycles before the move ({LOOK_BACK}: so many or more)",
        "moves",
        edges,
        counts.astype(np.float64),
    )


def _twin(twin: Counterfactual) -> str:
    x = twin.first_cycle + np.arange(twin.cycles, dtype=np.float64)
    names = ("measured", "model", "model with the policy")
    return lines(
        "Counterfactual",
        "cycle",
        "mean |asymmetry|",
        [
            Series(x=x, y=y, label=name, colour=colour)
            for y, name, colour in zip(twin.by_cycle, names, (GREY, "#1f5fa8", RED), strict=True)
        ],
    )
