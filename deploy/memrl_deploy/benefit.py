"""Whether the beam is worse than where a person engaged the loop: told, and left to people.

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
LESS_BUNCHING = 0.8
"""A mean bunching factor below this share is worse; at the other zero of the asymmetry it is about 0.6."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Worse:
    """How the beam compares, in means over the points that were seen then and now."""

    asymmetry: float
    """Mean |asymmetry|."""
    asymmetry_before: float
    bunching_factor: float
    bunching_factor_before: float

    def event(self, cycle: int) -> dict[str, Any]:
        """Return it as an event of a cycle's record."""
        return {"kind": KIND, "cycle": cycle, **{k: round(v, 4) for k, v in vars(self).items()}}

    @property
    def numbers(self) -> str:
        """What was measured, in words."""
        return (
            f"mean |asymmetry| {self.asymmetry:.3f} (then {self.asymmetry_before:.3f}), bunching factor "
            f"{self.bunching_factor:.3f} (then {self.bunching_factor_before:.3f})"
        )

    def __str__(self) -> str:
        """Return it as a sentence for those who can take over."""
        return (
            f"the beam is worse than when the loop was engaged, for {CYCLES} cycles now: {self.numbers}; "
            "key m, or `memrl-ctrl operator take-over`, takes the machine from the loop"
        )


class Benefit:
    """Holds every cycle against those before a person engaged the loop."""

    def __init__(self) -> None:
        self._before: deque[Floats] = deque(maxlen=BEFORE)
        self._then: Floats | None = None
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
            self._then, self._worse = None, 0
            return None
        if self._then is None:
            self._then = mean_known(np.stack(self._before or [now]), axis=0)
            self._before.clear()
        both = np.isfinite(now).all(axis=0) & np.isfinite(self._then).all(axis=0)
        if not both.any():
            return None
        leans, fills = now[:, both].mean(axis=1)
        leant, filled = self._then[:, both].mean(axis=1)
        worse = leans > leant + MORE_ASYMMETRY or fills < LESS_BUNCHING * filled
        self._worse = self._worse + 1 if worse else 0
        if self._worse != CYCLES:
            return None
        return Worse(
            asymmetry=float(leans),
            asymmetry_before=float(leant),
            bunching_factor=float(fills),
            bunching_factor_before=float(filled),
        )
