"""The contract between the control loop and whatever stands in for the machine.

The native unit is one cycle at all control points. One point, or a training batch of several hundred
unrelated conditions, is the same call with another first dimension.

`BeamSource` only looks: it is all that shadow and replay ever hold. `BeamBackend` may also write.
`memrl_ctrl.testing.BackendContract` checks an implementation against what is promised here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.angles import wrap
from memrl_ctrl.errors import ReadingTimeout, RefusalReason, Refused, Standstill
from memrl_ctrl.limits import PhaseLimits

__all__ = [
    "AlongCycle",
    "BeamBackend",
    "BeamSource",
    "BoolArray",
    "FloatArray",
    "MachineDescription",
    "Quality",
    "Reading",
    "ReadingTimeout",
    "Receipt",
    "RefusalReason",
    "Refused",
    "Standstill",
    "Truth",
]

FloatArray = NDArray[np.float64]
ProfileArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
QualityArray = NDArray[np.uint16]


class Quality(IntFlag):
    """What is wrong with a profile; 0 means nothing is known to be."""

    OK = 0
    MISSING = 1
    """No profile arrived for this point."""
    STALE = 2
    """The profile belongs to an earlier cycle."""
    NOT_FINITE = 4
    """The profile holds NaN or infinity."""
    DEAD = 8
    """The profile is flat: the pick-up shows no beam."""
    SATURATED = 16
    """The profile is cut at the digitiser's limit."""
    LATE = 32
    """The profile arrived after the time it was expected."""
    NO_MATCH = 64
    """A simulation found no matched bunch for this condition; the profile is the nearest it came to
    one. No machine says so, and it does not keep a policy from seeing the profile."""


@dataclass(frozen=True, kw_only=True)
class MachineDescription:
    """What a source or backend says of itself, once, before the first reading."""

    name: str
    """Identity of the machine, for example `psb`."""
    program: str
    """Name of the cycle program that is played, or what the conditions are drawn from."""
    points: int
    """Number of control points (rows of every reading)."""
    n_slices: int
    """Bins of a profile over one turn."""
    limits: PhaseLimits
    """Hardware limits of phi_hw that the machine enforces."""
    period_s: float
    """Time between cycles; 0 where the next cycle comes as soon as it is asked for."""
    writable: bool
    """Whether `submit` can succeed at all."""
    ctime_ms: FloatArray | None = None
    """Control points in the cycle [points], increasing; None where the rows are unrelated."""
    backend: str = ""
    """Registered name of the backend, for provenance."""
    fidelity: str = ""
    """Fidelity of a simulation, empty for a machine."""

    def __post_init__(self) -> None:
        """Refuse a description that contradicts itself."""
        if self.points < 1:
            raise ValueError(f"points must be at least 1, not {self.points}")
        if self.n_slices < 8:
            raise ValueError(f"n_slices must be at least 8, not {self.n_slices}")
        if self.ctime_ms is not None:
            if self.ctime_ms.shape != (self.points,):
                raise ValueError(f"ctime_ms has shape {self.ctime_ms.shape}, not ({self.points},)")
            rises = np.isfinite(self.ctime_ms).all() and (np.diff(self.ctime_ms) > 0).all()
            if not rises:
                raise ValueError("ctime_ms must be finite and increase")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What only a simulation knows. Never part of an observation. All arrays [points]."""

    reference_rad: FloatArray
    """Reference optimum of phi_2; NaN where none exists."""
    offset_rad: FloatArray
    """Hidden hardware offset: phi_2 = phi_hw - offset."""
    phi2_rad: FloatArray
    """The physical phase that made the profile."""
    emittance_evs: FloatArray
    """Longitudinal emittance, area in eV s."""
    intensity: FloatArray
    """Protons in the ring."""
    goal_rad: FloatArray | None = None
    """What a policy is trained towards: the reference optimum, and where none exists the phi_2 at which
    the profile leans least. None where it is the reference everywhere. Never used for scoring."""
    lasting_offset_rad: FloatArray | None = None
    """The offset without what is gone in the next shot (jitter): what a correction can aim at. None
    where it is the offset itself. Never used for scoring."""

    @property
    def phase_error_rad(self) -> FloatArray:
        """Circular difference between phi_2 and the reference optimum, in (-pi, pi] [points]."""
        return wrap(self.phi2_rad - self.reference_rad)

    @property
    def goal_error_rad(self) -> FloatArray:
        """Circular difference between phi_2 and the goal of training, in (-pi, pi] [points]."""
        goal = self.reference_rad if self.goal_rad is None else self.goal_rad
        return wrap(self.phi2_rad - goal)

    @property
    def aim_error_rad(self) -> FloatArray:
        """As `goal_error_rad`, without the part of the offset that is gone in the next shot [points]."""
        if self.lasting_offset_rad is None:
            return self.goal_error_rad
        return wrap(self.goal_error_rad + self.offset_rad - self.lasting_offset_rad)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one cycle returns. Arrays must not be written to."""

    cycle: int
    """Number of the cycle; increases, with a hole where cycles were missed."""
    stamp_ns: int
    """When the cycle was played, ns since 1970 (UTC)."""
    received_ns: int
    """When the reading reached this process, monotonic clock, ns."""
    profile: ProfileArray
    """Line density against RF phase [points, n_slices], arbitrary units, earlier phase first."""
    setpoint_rad: FloatArray
    """phi_hw that was asked for in this cycle [points]."""
    applied_rad: FloatArray
    """phi_hw that the limits let through [points]."""
    readback_rad: FloatArray
    """phi_hw that the hardware reports [points]."""
    synchronous_phase_rad: FloatArray
    """asin(energy gain a turn / V1) as the control system knows it [points]; 0 at Bdot = 0."""
    quality: QualityArray
    """`Quality` flags [points]."""
    truth: Truth | None = field(default=None, repr=False)
    """Only from a simulation in the same process."""

    @property
    def usable(self) -> BoolArray:
        """Which points may be shown to a policy [points]: nothing but `NO_MATCH` is against them."""
        blocking = self.quality & np.uint16(0xFFFF ^ Quality.NO_MATCH)
        return np.asarray(blocking == 0, dtype=np.bool_)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """The machine's word that a function was taken, whole."""

    cycle: int
    """Cycle from which the function plays."""
    applied_rad: FloatArray
    """phi_hw that will be played [points]."""
    committed_ns: int
    """When the commit was acknowledged, monotonic clock, ns."""
    fence: int = 0
    """Fencing number under which it was written; 0 where there is no lease."""
    sent_ns: int = field(default=0, compare=False)
    """When the commit was sent, monotonic clock, ns; 0 where nothing is sent, or it is not known. Not part of
    a record: the section `answer` of its timings begins there."""


@runtime_checkable
class BeamSource(Protocol):
    """Looks at cycles and can write nothing."""

    @property
    def description(self) -> MachineDescription:
        """Control points, slices, limits, identity."""
        ...

    def observe(self, timeout_s: float | None = None) -> Reading:
        """Return the next cycle's reading.

        Args:
            timeout_s: how long to wait; None waits as long as the machine's period suggests is
                reasonable (several periods), not for ever.

        Raises:
            Standstill: nothing came in time from a machine that is known to be there; shadow waits on.
            ReadingTimeout: nothing came in time.
        """
        ...

    def close(self) -> None:
        """Release everything; may be called twice."""
        ...


@runtime_checkable
class BeamBackend(BeamSource, Protocol):
    """Looks at cycles and may write the phase function."""

    def start(
        self,
        seed: int | None = None,
        mask: BoolArray | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Reading:
        """Begin an episode and return its first reading.

        On a simulation this draws new conditions, for all rows or those in `mask` [points]. On a
        machine it changes nothing and only reads.

        Args:
            seed: reseeds the backend's generator; None goes on with it.
            mask: rows to begin anew; None is all.
            options: backend specific; unknown names are refused.
        """
        ...

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Set the phase function from `cycle` on, whole or not at all.

        Args:
            phi_hw_rad: phi_hw [points], radians, unwrapped.
            cycle: first cycle that plays it; later than the last reading's.
            deadline_s: seconds from now after which the machine must not take it any more.

        Raises:
            Refused: typed; nothing was applied.
        """
        ...

    def play(self, phi_hw_rad: FloatArray) -> Reading:
        """`submit` for the next cycle, then `observe` that cycle."""
        ...


@runtime_checkable
class AlongCycle(BeamBackend, Protocol):
    """A backend with control inside the cycle: each row is a bunch at a control point of its own.

    Every play takes all rows to their next control points, and a bunch's emittance, intensity and
    offset along. What is set at one point is measured there, before the next is set. phi_hw is a
    function of the cycle plus what it was corrected by so far: without a submission the correction
    holds, and phi_hw moves on with the function.
    """

    @property
    def held_rad(self) -> FloatArray:
        """phi_hw [points] that plays at the next control points unless another is submitted, rad."""
        ...

    @property
    def held_goal_error_rad(self) -> FloatArray | None:
        """`Truth.goal_error_rad` that `held_rad` will have there [points]; None without a truth."""
        ...

    @property
    def points_left(self) -> NDArray[np.int64]:
        """Control points that each row's cycle still has ahead [points]."""
        ...

    @property
    def row_ctime_ms(self) -> FloatArray:
        """ctime at which each row was measured last [points], ms."""
        ...
