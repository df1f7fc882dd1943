"""Bounds and intervals of the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

LEVEL = 0.95
RESAMPLES = 400
LEAST_BLOCKS = 5
"""Of fewer blocks a bootstrap says nothing of how a figure scatters."""
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number with its interval of 95 %; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often something happened, and what that bounds."""

    events: int
    of: int
    """In so many cases."""
    groups: int | None = None
    """Groups of cases that go together: the limits are those of so many independent ones. All points of a
    cycle have one machine, one beam and one operator. None: each case stands alone."""

    @property
    def value(self) -> float:
        """Share; NaN of no cases."""
        return self.events / self.of if self.of else float("nan")

    @property
    def high(self) -> float:
        """Upper limit of the rate, one-sided at 95 %.

        Clopper and Pearson, Biometrika 26 (1934) 404. Of zero events in n cases it is
        1 - 0.05^(1/n), nearly 3/n: the rule of three (Hanley and Lippman-Hand, JAMA 249 (1983) 1743).
        """
        if self.events >= self.of:
            return 1.0
        number, events = self._independent
        return float(beta.ppf(LEVEL, events + 1, number - events))

    @property
    def low(self) -> float:
        """Lower limit of the rate, one-sided at 95 %."""
        if not self.events:
            return 0.0
        number, events = self._independent
        return float(beta.ppf(1.0 - LEVEL, events, number - events + 1))

    @property
    def _independent(self) -> tuple[int, float]:
        """Independent cases, and the part of them that the events are."""
        number = self.of if self.groups is None else self.groups
        return number, number * self.value


def of_points(events: NDArray[np.bool_], cases: NDArray[np.bool_]) -> Rate:
    """Return a rate over cycles and points [cycles, points]: each cycle with a case counts as one.

    Args:
        events: where it happened; counted among the cases.
        cases: where it could have happened.
    """
    return Rate(
        events=int((events & cases).sum()),
        of=int(cases.sum()),
        groups=int(cases.any(axis=1).sum()),
    )


def bootstrapped(
    values: FloatArray,
    statistic: Callable[[FloatArray], float],
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Figure:
    """Return a statistic with its interval; cycles are drawn anew in blocks.

    Neighbouring cycles are alike: a block is the cube root of the number of cycles long, and at least 10
    (`moving_blocks`). Of fewer than five blocks there is no interval (NaN).

    Args:
        values: [cycles, ...]; NaN where there is none.
        statistic: of such an array; must take NaN.
        rng: draws the blocks.
        resamples: how many.
    """
    nothing = Figure(value=float("nan"), low=float("nan"), high=float("nan"))
    count = values.shape[0]
    if not count or not np.isfinite(values).any():
        return nothing
    block = max(10, round(count ** (1 / 3)))
    if count < LEAST_BLOCKS * block:
        return Figure(value=statistic(values), low=float("nan"), high=float("nan"))
    rows = moving_blocks(rng, count, block, resamples)
    found = np.array([statistic(values[chosen]) for chosen in rows])
    found = found[np.isfinite(found)]
    if not found.size:
        return nothing
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value=statistic(values), low=float(low), high=float(high))


def moving_blocks(
    rng: np.random.Generator, count: int, block: int, resamples: int
) -> NDArray[np.int64]:
    """Return rows drawn anew in blocks of neighbours [resamples, count].

    Kuensch, Ann. Statist. 17 (1989) 1217.

    Args:
        rng: draws where the blocks begin.
        count: rows that there are.
        block: rows of a block, at most `count`.
        resamples: how often.
    """
    starts = rng.integers(0, count - block + 1, (resamples, -(-count // block)))
    chosen = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, :count]
    return np.asarray(chosen, dtype=np.int64)


def of_draws(values: FloatArray, rng: np.random.Generator, resamples: int = 1000) -> Figure:
    """Return the mean of repetitions [draws, cycles] and its interval: draws anew, and blocks of cycles."""
    draws, count = values.shape
    chosen = moving_blocks(rng, count, max(1, round(count ** (1 / 3))), resamples)
    rows = rng.integers(0, draws, resamples)
    means = np.nanmean(values[rows[:, None], chosen], axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value=float(np.nanmean(values)), low=float(low), high=float(high))
