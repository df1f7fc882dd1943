"""What the guard can be told: every threshold, with its unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

SHARES = ("saturated_share", "lookahead_loss", "lookahead_passing_loss", "wide_share")
"""Fields that are shares of a whole."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Thresholds of the guard; the limits themselves come from the machine."""

    coherence_fraction: float = 0.8
    """A point that asks for this fraction of the policy's largest step, or more, is far from its goal:
    the directions of all points are then looked at together."""
    dead_score: float = 8.0
    """A profile whose sum is at most so many times the noise of a sum is a dead pick-up's (pure noise
    reaches 3.4, a bunch in a burst of noise 13.8, a clean one 213)."""
    saturated_share: float = 0.03
    """A flat top of so large a share of the slices, at exactly the largest value, is a clipped profile."""
    frozen_noise_share: float = 5e-3
    """A profile that comes again to the bit is frozen if its noise is at least this share of its peak:
    without noise a bunch at rest repeats itself."""
    frozen_readings: int = 200
    """A profile is held against those of so many readings before: some monitors serve two or more old ones
    in turn, a file that is played in a loop hundreds."""
    distribution_factor: float = 1.5
    """A reading is unlike the training where a score is beyond the training's 99.9 % quantile times
    this factor."""
    readback_rad: float = math.radians(10.0)
    """A point whose readback is further from what is applied does not do what it is told, and holds, rad."""
    readback_hard_rad: float = math.radians(90.0)
    """At this distance of a readback the agent is to fall back at once, rad."""
    rate_cycles: int = 10
    """Number of changes in a row over which a point's travel is summed."""
    rate_travel_rad: float = 4.0 * math.pi
    """Largest travel of a point over these changes, forth and back added up, rad."""
    drift_rad: float = 3.0 * math.pi
    """Largest distance of a point from where it was at engage, rad."""
    lookahead_loss: float = 0.2
    """Share of the bunch that may be lost where a step leads, beyond what no phase avoids, by the model that
    was fitted to a recent reading."""
    lookahead_passing_loss: float = 0.5
    """The same of the phases in between, over which a fallback may come back: most of the bunch."""
    lookahead_age_cycles: int = 10
    """A fit to a reading that is more cycles old is not looked at."""
    lookahead_asymmetry: float = 0.1
    """A fit from which the measured asymmetries differ by more, in the median of the points, does not
    describe the machine any more, and nothing is cut for it."""
    answer_factor: float = 1.01
    """A change beyond the largest that the policy declares, times this factor, is a hard excess."""
    repeats: int = 5
    """So many cycles in a row with small excess of one persistent kind make a hard one."""
    wide_share: float = 0.5
    """Share of the points that must hold, for want of health or of likeness to the training, before a
    cycle counts among these."""

    def __post_init__(self) -> None:
        """Refuse thresholds that mean nothing, or under which the guard would fight the policy.

        Raises:
            ValueError: with the field and what is allowed.
        """
        if not self.coherence_fraction >= 0.5:
            raise ValueError(
                f"coherence_fraction must be 0.5 or more, not {self.coherence_fraction}"
            )
        for one in fields(self):
            value = getattr(self, one.name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{one.name} must be a positive number, not {value}")
        for name in SHARES:
            if getattr(self, name) > 1.0:
                raise ValueError(f"{name} is a share, at most 1, not {getattr(self, name)}")
        if self.lookahead_passing_loss < self.lookahead_loss:
            raise ValueError(
                f"lookahead_passing_loss {self.lookahead_passing_loss} must not be below lookahead_loss "
                f"{self.lookahead_loss}"
            )
        if self.readback_hard_rad < self.readback_rad:
            raise ValueError(
                f"readback_hard_rad {self.readback_hard_rad} must not be below readback_rad "
                f"{self.readback_rad}"
            )
