"""Whether the beam is worse than where a person engaged the loop, or than the loop had it: told, no more.

The guard judges each function by what it may do to the machine. A loop that keeps every limit can still
make the beam worse, and go on: a cavity that turns the other way, a pick-up wired backwards, a policy for
another machine. Two measures together see that: |asymmetry| grows where the profile leans more, and at the
other zero of the asymmetry, half a turn away, the bunch is short and its bunching factor small.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.metrics import ProfileMetrics, mean_known

KIND = "worse"
BEFORE = 10
"""Cycles before the engagement whose mean the beam is held against."""
CYCLES = 20
"""So many cycles in a row must be worse: longer than a policy takes to follow a step of the offset."""
MORE_ASYMMETRY = 0.1
"""Mean |asymmetry| larger by more than this is worse; 2 % noise in each of 128 slices makes 0.005 of it."""
MORE_AT_A_POINT = 0.3
"""And so, at a single point: some 50 degrees of phase."""
LESS_BUNCHING = 0.8
"""A mean bunching factor below this share is worse; at the other zero of the asymmetry it is about 0.6."""

ENGAGED = "when the loop was engaged"
LED = "the loop had it before"
"""What a cycle is compared with."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Worse:
    """How the beam compares, in means over the points that were seen then and now."""

    since: str
    """What it is compared with."""
    asymmetry: float
    """Mean |asymmetry|."""
    asymmetry_before: float
    more_at_a_point: float
    """How much larger |asymmetry| is, at the point where it grew most."""
    bunching_factor: float
    bunching_factor_before: float

    def event(self, cycle: int) -> dict[str, Any]:
        """Return it as an event of a cycle's record."""
        numbers = {k: round(v, 4) for k, v in vars(self).items() if k != "since"}
        return {"kind": KIND, "cycle": cycle, "since": self.since, **numbers}

    @property
    def numbers(self) -> str:
        """What was measured, in words."""
        return (
            f"mean |asymmetry| {self.asymmetry:.3f} (then {self.asymmetry_before:.3f}; at one point "
            f"{self.more_at_a_point:+.3f}), bunching factor "
            f"{self.bunching_factor:.3f} (then {self.bunching_factor_before:.3f})"
        )

    def __str__(self) -> str:
        """Return it as a sentence for those who can take over."""
        return (
            f"the beam is worse than {self.since}, for {CYCLES} cycles now: {self.numbers}; "
            "key m, or `memrl-ctrl operator take-over`, takes the machine from the loop"
        )


class Benefit:
    """Holds every cycle against those before a person engaged the loop, and against the loop's own best."""

    def __init__(self) -> None:
        self._before: deque[Floats] = deque(maxlen=BEFORE)
        self._recent: deque[Floats] = deque(maxlen=BEFORE)
        self._then: Floats | None = None
        self._best: Floats | None = None
        self._worse = 0

    def see(
        self, metrics: ProfileMetrics, usable: NDArray[np.bool_], *, engaged: bool
    ) -> Worse | None:
        """Look at a cycle; return how it compares in the `CYCLES`th that is worse, once each time.

        Args:
            metrics: of the cycle's profiles [points].
            usable: points whose reading is one [points].
            engaged: whether the loop leads, or led since a person engaged it; what it led to in a fallback
                is its doing too.
        """
        now = np.where(usable, [np.abs(metrics.asymmetry), metrics.bunching_factor], np.nan)
        if not engaged:
            self._before.append(now)
            self._recent.clear()
            self._then, self._best, self._worse = None, None, 0
            return None
        if self._then is None:
            self._then = mean_known(np.stack(self._before or [now]), axis=0)
            self._before.clear()
        found = _worse(now, self._then, ENGAGED)
        if found is None and self._best is not None:
            found = _worse(now, self._best, LED)
        self._note_best(now)
        self._worse = self._worse + 1 if found is not None else 0
        return found if self._worse == CYCLES else None

    def _note_best(self, now: Floats) -> None:
        """Keep the ten cycles in a row in which the beam leant least, of those that the loop led."""
        self._recent.append(now)
        if len(self._recent) < BEFORE:
            return
        mean = mean_known(np.stack(self._recent), axis=0)
        if not np.isfinite(mean[0]).any():
            return
        if self._best is None or mean_known(mean[0]) < mean_known(self._best[0]):
            self._best = mean


def _worse(now: Floats, then: Floats, since: str) -> Worse | None:
    """Return how a cycle compares where it is worse, else None."""
    both = np.isfinite(now).all(axis=0) & np.isfinite(then).all(axis=0)
    if not both.any():
        return None
    leans, fills = now[:, both].mean(axis=1)
    leant, filled = then[:, both].mean(axis=1)
    point = float((now[0, both] - then[0, both]).max())
    if (
        leans <= leant + MORE_ASYMMETRY
        and point <= MORE_AT_A_POINT
        and fills >= LESS_BUNCHING * filled
    ):
        return None
    return Worse(
        since=since,
        asymmetry=float(leans),
        asymmetry_before=float(leant),
        more_at_a_point=point,
        bunching_factor=float(fills),
        bunching_factor_before=float(filled),
    )
