"""What can go wrong in a cycle, as data; `memrl_backends.twin.faulty` makes it happen to any backend.

```
Fault
├── ReadingFault          changes what is seen; any backend
│   ├── missing_reading   ├── late_reading   ├── frozen_profile     ├── nan_profile
│   └── noise_burst       └── dead_pickup    └── flipped_polarity
└── KnobFault             changes what the RF does; a simulated machine only
    ├── offset_jump       ├── cavity_trip
    └── setpoint_ignored  └── operator
```

Faults that are named in a scenario happen in the order in which they stand there.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Quality
from memrl_ctrl.errors import UsageError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
ProfileArray = NDArray[np.float32]

MOST_CYCLES = 10**9
LONGEST_DELAY_S = 60.0
"""Longest delay of a reading, s; longer is missing."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """When and where something goes wrong; the kinds say what.

    Cycles are counted from 1, the first reading of a run or, where rows are unrelated, of a row's
    episode. Along a cycle (`along_cycle`) what is counted is plays.

    Raises:
        UsageError: values that cannot be, by name.
    """

    kind: ClassVar[str]
    """Its name in a scenario."""
    lasts: ClassVar[bool] = False
    """Whether it stays to the end unless `for_cycles` says otherwise."""

    at_cycle: tuple[int, ...] = ()
    """Cycles at which it begins."""
    every_cycles: int = 0
    """Repeat it after so many cycles; 0: it is not repeated."""
    probability: float = 0.0
    """Instead of `at_cycle`: probability in each cycle that it begins, where it is not there already."""
    for_cycles: int | None = None
    """For how many cycles it stays; without, one, or to the end for what lasts."""
    points: tuple[int, ...] | None = None
    """Control points (rows) that it concerns, counted from 0; without, all."""

    def __post_init__(self) -> None:
        """Refuse what never happens or cannot be."""
        if bool(self.at_cycle) == (self.probability > 0.0):
            raise UsageError("give either at_cycle or a probability above 0")
        if not 0.0 <= self.probability <= 1.0:
            raise UsageError(f"probability must be between 0 and 1, not {self.probability:g}")
        for cycle in self.at_cycle:
            if not 1 <= cycle <= MOST_CYCLES:
                raise UsageError(f"at_cycle counts from 1, the first reading; {cycle} is none")
        if self.for_cycles is not None and not 1 <= self.for_cycles <= MOST_CYCLES:
            raise UsageError(f"for_cycles must be at least 1, not {self.for_cycles}")
        if self.every_cycles and not self.at_cycle:
            raise UsageError("every_cycles repeats what at_cycle begins: give at_cycle as well")
        if self.every_cycles < 0 or (self.span or 1) > self.every_cycles > 0:
            raise UsageError(
                f"every_cycles {self.every_cycles} is shorter than the fault itself "
                f"({self.span or 1} cycles)"
            )
        if self.points is not None and (not self.points or min(self.points) < 0):
            raise UsageError(f"points must be control points from 0 on, not {list(self.points)}")

    @property
    def span(self) -> int | None:
        """Cycles until nothing of it is left; None: never."""
        if self.for_cycles is None:
            return None if self.lasts else 1
        return self.for_cycles

    def require(self, good: bool, sentence: str) -> None:
        """Refuse a value of this kind of fault."""
        if not good:
            raise UsageError(sentence)

    def rows(self, count: int) -> BoolArray:
        """Return which of `count` control points it concerns [count]."""
        if self.points is None:
            return np.ones(count, dtype=np.bool_)
        mask = np.zeros(count, dtype=np.bool_)
        mask[list(self.points)] = True
        return mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Affected:
    """A reading that a fault changes in place."""

    profile: ProfileArray
    """[points, n_slices]."""
    quality: NDArray[np.uint16]
    """`Quality` flags [points]."""
    rows: NDArray[np.int64]
    """Which points, not empty."""
    rng: np.random.Generator
    """Of this fault in this cycle."""
    before: ProfileArray
    """The profiles [points, n_slices] of the cycle before it began."""


@dataclass(frozen=True, kw_only=True)
class ReadingFault(Fault):
    """Changes what is seen, not what is."""

    def alter(self, seen: Affected) -> None:
        """Change the rows of a reading in place."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class MissingReading(ReadingFault):
    """No reading comes; with `points`, none of these points."""

    kind: ClassVar[str] = "missing_reading"

    def alter(self, seen: Affected) -> None:  # noqa: D102 - see the base class
        seen.profile[seen.rows] = np.nan
        seen.quality[seen.rows] |= np.uint16(Quality.MISSING | Quality.NOT_FINITE)


@dataclass(frozen=True, kw_only=True)
class LateReading(ReadingFault):
    """The reading comes later than expected, and says so."""

    kind: ClassVar[str] = "late_reading"
    delay_s: float = 0.5
    """By how much, s; waited for where cycles have a period."""

    def __post_init__(self) -> None:
        """Refuse a delay that is none."""
        super().__post_init__()
        good = 0.0 < self.delay_s <= LONGEST_DELAY_S
        self.require(
            good, f"delay_s must be above 0, to {LONGEST_DELAY_S:g} s, not {self.delay_s:g}"
        )

    def alter(self, seen: Affected) -> None:  # noqa: D102 - see the base class
        seen.quality[seen.rows] |= np.uint16(Quality.LATE)


@dataclass(frozen=True, kw_only=True)
class FrozenProfile(ReadingFault):
    """The profiles of the cycle before it come again and again."""

    kind: ClassVar[str] = "frozen_profile"
    flagged: bool = False
    """Whether the machine notices and flags them as stale."""

    def alter(self, seen: Affected) -> None:  # noqa: D102 - see the base class
        seen.profile[seen.rows] = seen.before[seen.rows]
        if self.flagged:
            seen.quality[seen.rows] |= np.uint16(Quality.STALE)


@dataclass(frozen=True, kw_only=True)
class NanProfile(ReadingFault):
    """Slices are NaN; flagged, as every backend has to."""

    kind: ClassVar[str] = "nan_profile"
    share: float = 1.0
    """Share of a profile's slices, chosen at random, at least one."""

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        super().__post_init__()
        self.require(0.0 < self.share <= 1.0, f"share must be above 0, to 1, not {self.share:g}")

    def alter(self, seen: Affected) -> None:  # noqa: D102 - see the base class
        n_slices = seen.profile.shape[1]
        lost = max(1, round(self.share * n_slices))
        order = seen.rng.permuted(np.tile(np.arange(n_slices), (seen.rows.size, 1)), axis=1)[
            :, :lost
        ]
        seen.profile[seen.rows[:, None], order] = np.nan
        seen.quality[seen.rows] |= np.uint16(Quality.NOT_FINITE)


@dataclass(frozen=True, kw_only=True)
class NoiseBurst(ReadingFault):
    """White noise on top of what the profiles have already."""

    kind: ClassVar[str] = "noise_burst"
    noise: float = 0.3
    """Standard deviation of a slice, fraction of the profile's peak."""

    def __post_init__(self) -> None:
        """Refuse a noise that is none."""
        super().__post_init__()
        self.require(
            0.0 < self.noise <= 1e3, f"noise must be above 0, to 1000 peaks, not {self.noise:g}"
        )

    def alter(self, seen: Affected) -> None:  # noqa: D102 - see the base class
        seen.profile[seen.rows] += noise_like(seen.profile[seen.rows], self.noise, seen.rng)


@dataclass(frozen=True, kw_only=True)
class DeadPickup(ReadingFault):
    """The pick-up shows no beam: a flat line with some noise."""

    kind: ClassVar[str] = "dead_pickup"
    noise: float = 0.02
    """Standard deviation of a slice, fraction of the peak that the profile would have had."""
    flagged: bool = False
    """Whether the machine notices and says so."""

    def __post_init__(self) -> None:
        """Refuse a noise that cannot be."""
        super().__post_init__()
        self.require(0.0 <= self.noise <= 1e3, f"noise must be 0 to 1000 peaks, not {self.noise:g}")

    def alter(self, seen: Affected) -> None:  # noqa: D102 - see the base class
        seen.profile[seen.rows] = noise_like(seen.profile[seen.rows], self.noise, seen.rng)
        if self.flagged:
            seen.quality[seen.rows] |= np.uint16(Quality.DEAD)


@dataclass(frozen=True, kw_only=True)
class FlippedPolarity(ReadingFault):
    """The pick-up's signal has the wrong sign."""

    kind: ClassVar[str] = "flipped_polarity"

    def alter(self, seen: Affected) -> None:  # noqa: D102 - see the base class
        seen.profile[seen.rows] = -seen.profile[seen.rows]


@dataclass(frozen=True, kw_only=True)
class KnobFault(Fault):
    """Changes what the RF does, or what is asked of it."""


@dataclass(frozen=True, kw_only=True)
class OffsetJump(KnobFault):
    """The hidden offset is another one from one cycle to the next."""

    kind: ClassVar[str] = "offset_jump"
    lasts: ClassVar[bool] = True
    offset_deg: float = 30.0
    """By how much, degrees."""

    def __post_init__(self) -> None:
        """Refuse an offset that cannot be."""
        super().__post_init__()
        good = 0.0 < abs(self.offset_deg) <= 3600.0
        self.require(good, f"offset_deg must be up to 3600 and not 0, not {self.offset_deg:g}")

    def offset_rad(self, age: NDArray[np.int64]) -> FloatArray:
        """Return what is added to the offset [points], rad; `age` counts cycles, -1 before."""
        return np.where(age >= 0, math.radians(self.offset_deg), 0.0)


@dataclass(frozen=True, kw_only=True)
class CavityTrip(KnobFault):
    """The second harmonic's cavity has no voltage, then comes back."""

    kind: ClassVar[str] = "cavity_trip"
    recovery_cycles: int = 3
    """Cycles after the trip in which the voltage rises again, by equal steps."""

    def __post_init__(self) -> None:
        """Refuse a recovery that cannot be."""
        self.require(
            0 <= self.recovery_cycles <= MOST_CYCLES,
            f"recovery_cycles must be at least 0, not {self.recovery_cycles}",
        )
        super().__post_init__()

    @property
    def span(self) -> int:
        """Cycles of the trip and the recovery."""
        return (self.for_cycles or 1) + self.recovery_cycles

    def v2_factor(self, age: NDArray[np.int64]) -> FloatArray:
        """Return what is left of the voltage [points]; `age` counts cycles, -1 before."""
        risen = (age - (self.for_cycles or 1) + 1) / (self.recovery_cycles + 1)
        return np.where(age >= 0, np.clip(risen, 0.0, 1.0), 1.0)


@dataclass(frozen=True, kw_only=True)
class SetpointIgnored(KnobFault):
    """The machine takes a function and goes on playing the one before."""

    kind: ClassVar[str] = "setpoint_ignored"


@dataclass(frozen=True, kw_only=True)
class Operator(KnobFault):
    """An operator turns the knob at the same time, within the machine's limits."""

    kind: ClassVar[str] = "operator"
    change_deg: float = 10.0
    """Added in each of the cycles to whatever plays then, degrees."""

    def __post_init__(self) -> None:
        """Refuse a change that cannot be."""
        super().__post_init__()
        good = 0.0 < abs(self.change_deg) <= 180.0
        self.require(good, f"change_deg must be up to 180 and not 0, not {self.change_deg:g}")


KINDS: dict[str, type[Fault]] = {
    made.kind: made
    for made in (
        MissingReading, LateReading, FrozenProfile, NanProfile, NoiseBurst, DeadPickup,
        FlippedPolarity, OffsetJump, CavityTrip, SetpointIgnored, Operator,
    )
}  # fmt: skip
"""Every kind of fault by its name."""


def noise_like(
    profile: ProfileArray, noise: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return white noise [n, n_slices] of so many peaks of each profile; none where it is not finite."""
    finite = np.where(np.isfinite(profile), profile, np.float32(0.0))
    peak = np.abs(finite).max(axis=1, keepdims=True)
    drawn = rng.standard_normal(profile.shape, dtype=np.float32)
    return np.asarray(drawn * (np.float32(noise) * peak), dtype=np.float32)


def as_values(fault: Fault) -> dict[str, Any]:
    """Return a fault as plain values that differ from its defaults, its kind first."""
    values: dict[str, Any] = {"fault": fault.kind}
    for field in dataclasses.fields(fault):
        value = getattr(fault, field.name)
        if value != field.default:
            values[field.name] = list(value) if isinstance(value, tuple) else value
    return values
