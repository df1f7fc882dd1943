"""Engaging without a bump: when the policy may begin to write, and how fast it comes in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_deploy.guard import Decision

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class EngageConfig:
    """How a run engages."""

    after_cycles: int = 1
    """Cycles in a row that have to agree."""
    blend_cycles: int = 0
    """Functions over which the policy comes in; the first of them is what is applied already."""
    tolerance_rad: float = math.radians(20.0)
    """Two phases that are no further apart on the circle agree, rad."""
    share: float = 0.8
    """Part of the answered points that has to agree."""

    def __post_init__(self) -> None:
        """Refuse what could not engage, or would without looking."""
        if self.after_cycles < 1 or self.blend_cycles < 0:
            raise ValueError(
                f"after_cycles must be 1 or more and blend_cycles 0 or more, not "
                f"{self.after_cycles} and {self.blend_cycles}"
            )
        if not (0.0 < self.tolerance_rad < math.pi and 0.0 < self.share <= 1.0):
            raise ValueError("tolerance_rad must be between 0 and pi, share above 0 and at most 1")


class Agreement:
    """Counts the cycles in a row in which the recommendations agree.

    A point agrees where the recommendation is near what is applied. Far from its goal it cannot be, as
    long as nobody moves the machine: there it agrees where the recommendation is near that of the cycle
    before. The first cycle has none before: it agrees if the guard lets it through.
    """

    def __init__(self, config: EngageConfig) -> None:
        self._config = config
        self._before: FloatArray | None = None
        self.cycles = 0
        self.seen = ""
        """What the last cycle said of engaging, in words; empty before the first."""

    def reset(self) -> None:
        """Begin to count anew."""
        self._before = None
        self.cycles, self.seen = 0, ""

    @property
    def reached(self) -> bool:
        """Whether enough cycles agreed."""
        return self.cycles >= self._config.after_cycles

    def see(self, decision: Decision, applied_rad: FloatArray) -> None:
        """Count a cycle, or begin anew.

        Args:
            decision: what the guard made of the recommendation.
            applied_rad: what is applied [points], rad.
        """
        answered = ~decision.held & decision.in_distribution
        now, before = decision.phi_hw_rad, self._before
        if not decision.write or not answered.any():
            self.reset()
            let_through = decision.reason or "the guard let nothing through"
            self.seen = "no answered point is in distribution" if decision.write else let_through
            return
        agrees = decision.in_distribution.copy() if before is None else self._near(now, before)
        agrees |= self._near(now, applied_rad)
        self._before = now.copy()
        share = float(agrees[answered].mean()) * float(decision.in_distribution.mean())
        self.cycles = self.cycles + 1 if share >= self._config.share else 0
        self.seen = (
            f"{100.0 * share:.0f} % of the points agreed ({100.0 * self._config.share:.0f} % are asked for), "
            f"{self.cycles} cycles in a row (of {self._config.after_cycles})"
        )

    def _near(self, a: FloatArray, b: FloatArray) -> BoolArray:
        difference = np.abs(np.angle(np.exp(1j * (a - b))))
        return np.asarray(difference <= self._config.tolerance_rad)


def blended(applied_rad: FloatArray, wanted_rad: FloatArray, factor: float) -> FloatArray:
    """Return the part `factor` of a change [points], rad.

    Range, step and slope are convex: what lies between two functions that keep them keeps them too.
    """
    if factor >= 1.0:
        return wanted_rad
    return applied_rad + factor * (wanted_rad - applied_rad)
