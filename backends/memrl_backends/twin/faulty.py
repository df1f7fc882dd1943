"""Faults around any backend: what a scenario says goes wrong, goes wrong here and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memrl_backends.twin.faults import (
    Affected,
    CavityTrip,
    Fault,
    KnobFault,
    LateReading,
    MissingReading,
    OffsetJump,
    Operator,
    ReadingFault,
    SetpointIgnored,
)
from memrl_backends.twin.schedule import Schedule
from memrl_ctrl.backend import (
    AlongCycle,
    BeamBackend,
    BoolArray,
    FloatArray,
    MachineDescription,
    Reading,
    Receipt,
)
from memrl_ctrl.errors import RefusalReason, Refused, UsageError

IntArray = NDArray[np.int64]


@runtime_checkable
class Disturbable(Protocol):
    """A simulated machine whose RF can be disturbed."""

    def disturb(self, *, offset_rad: FloatArray, v2_factor: FloatArray) -> None:
        """From the next cycle on, until told otherwise.

        Args:
            offset_rad: added to the hidden offset [points], rad.
            v2_factor: what is left of the second harmonic's voltage [points].
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When things come in a cycle that takes its time."""

    period_s: float
    """Time between cycles, s."""
    reading_at_s: float = 0.0
    """When in its cycle a reading comes, s after its beginning; 0: as soon as it is there."""
    now_s: Callable[[], float] = time.monotonic
    """Clock, s."""
    sleep: Callable[[float], None] = time.sleep
    """Waits for so many seconds."""

    def wait_until(self, due_s: float) -> None:
        """Wait, if that time is still to come."""
        left_s = due_s - self.now_s()
        if left_s > 0.0:
            self.sleep(left_s)


class FaultyBackend:
    """A backend to which faults happen; without faults it is the backend itself.

    Args:
        backend: what they happen to; closed with this one.
        faults: in the order in which they happen within a cycle.
        seed: of what is random in them; a `start` with a seed sets it anew.
        timing: None delivers everything at once, a late reading too.

    Raises:
        UsageError: a fault of a control point that does not exist, or one of the RF for a backend
            that is not a simulation.
    """

    def __init__(
        self,
        backend: BeamBackend,
        faults: Sequence[Fault],
        *,
        seed: int = 0,
        timing: Timing | None = None,
    ) -> None:
        self._backend = backend
        self._faults = tuple(faults)
        self._timing = timing
        described = backend.description
        check_faults(self._faults, backend)
        self._related = described.ctime_ms is not None
        self._schedule = Schedule(
            self._faults, rows=described.points, common=self._related, seed=seed
        )
        self._reading_faults = _of_kind(self._faults, ReadingFault)
        self._knob_faults = _of_kind(self._faults, KnobFault)
        # What each fault has found when it began, [points, n_slices] (a frozen profile comes again).
        self._before: dict[int, NDArray[np.float32]] = {}
        self._raw: NDArray[np.float32] | None = None
        self._last: Reading | None = None
        self._asked: FloatArray | None = None

    @property
    def description(self) -> MachineDescription:
        """The backend's own."""
        return self._backend.description

    @property
    def backend(self) -> BeamBackend:
        """What the faults happen to."""
        return self._backend

    @property
    def repeats(self) -> bool:
        """Whether the same seed and the same functions bring the same readings."""
        return bool(getattr(self._backend, "repeats", False))

    def conditions(self) -> Any:
        """Return what a simulation says of the last reading's bunches; None where there is none."""
        told = getattr(self._backend, "conditions", None)
        return None if told is None else told()

    def start(
        self,
        seed: int | None = None,
        mask: BoolArray | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Reading:
        """Begin an episode; see `BeamBackend.start`. On a simulation cycles count from 1 again."""
        rows = np.arange(self.description.points)
        if mask is not None and self._last is not None:
            rows = np.flatnonzero(mask)
        simulated = self._last is None or self._last.truth is not None
        if rows.size and simulated:
            self._schedule.restart(rows, seed)
            self._schedule.advance(rows)
            self._disturb()
        reading = self._backend.start(seed=seed, mask=mask, options=options)
        if not simulated:
            self._count(reading)
            rows = np.arange(self.description.points)
        self._asked = None
        return self._seen(reading, rows)

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Set the phase function of the next cycle; see `BeamBackend.submit`."""
        function = np.array(phi_hw_rad, dtype=np.float64)
        if self._knob_faults and self._last is not None and cycle > self._last.cycle + 1:
            raise Refused(
                RefusalReason.INVALID,
                f"cycle {cycle} is too far ahead; only cycle {self._last.cycle + 1} can be set now",
            )
        receipt = self._backend.submit(function, cycle, deadline_s)
        self._asked = function
        return receipt

    def observe(self, timeout_s: float | None = None) -> Reading:
        """Return the next cycle's reading; a cycle whose reading is missing leaves a hole."""
        if self._last is None and isinstance(self._backend, Disturbable):
            return self.start()  # only of a simulation: to start on a machine is to take control
        while True:
            began_s = 0.0 if self._timing is None else self._timing.now_s()
            rows = np.arange(self.description.points)
            self._schedule.advance(rows)
            self._disturb()
            asked = self._override()
            reading = self._backend.observe(timeout_s)
            self._asked = None
            self._count(reading, advanced=True)
            if asked is not None:
                reading = replace(reading, setpoint_rad=asked)
            missing = self._missing()
            delivered = self._seen(reading, rows)
            self._wait(began_s, missing=missing)
            if not missing:
                return self._now(delivered)

    def play(self, phi_hw_rad: FloatArray) -> Reading:
        """Submit for the next cycle, then observe that cycle, or the next one that is seen."""
        if self._last is None:
            self.start()
        cycle = 1 if self._last is None else self._last.cycle + 1
        self.submit(phi_hw_rad, cycle, deadline_s=1.0)
        return self.observe()

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    # Counting

    def _count(self, reading: Reading, *, advanced: bool = False) -> None:
        """Count the cycles up to a reading: a machine may have played some that nobody saw."""
        cycles = 0 if self._last is None else reading.cycle - self._last.cycle
        unseen = cycles - 1 if advanced else cycles
        if unseen > 0:
            self._schedule.catch_up(unseen)

    # What the RF does

    def _disturb(self) -> None:
        """Tell a simulation what is wrong with its RF in the cycle that comes."""
        offsets = [(i, f) for i, f in self._knob_faults if isinstance(f, OffsetJump)]
        trips = [(i, f) for i, f in self._knob_faults if isinstance(f, CavityTrip)]
        if not (offsets or trips) or not isinstance(self._backend, Disturbable):
            return
        points = self.description.points
        offset, factor = np.zeros(points), np.ones(points)
        for index, jump in offsets:
            offset = offset + jump.offset_rad(self._schedule.age(index))
        for index, trip in trips:
            factor = factor * trip.v2_factor(self._schedule.age(index))
        self._backend.disturb(offset_rad=offset, v2_factor=factor)

    def _override(self) -> FloatArray | None:
        """Have another function play than what was asked for, where faults say so.

        Returns:
            What was asked for [points] where the machine ignores it, otherwise None.
        """
        last = self._last
        if not self._knob_faults or last is None:
            return None
        held = held_rad(self._backend, last)
        plays, asked = held if self._asked is None else self._asked, None
        wanted = plays
        for index, fault in self._knob_faults:
            here = self._schedule.age(index) >= 0
            if isinstance(fault, SetpointIgnored) and self._asked is not None and here.any():
                wanted, asked = np.where(here, held, wanted), self._asked
            elif isinstance(fault, Operator) and here.any():
                wanted = wanted + np.where(here, np.radians(fault.change_deg), 0.0)
        if wanted is not plays:
            description = self.description
            allowed = description.limits.restrict(wanted, held, description.ctime_ms)
            self._backend.submit(allowed.phi_hw_rad, last.cycle + 1, 1.0)
        return asked

    # What is seen

    def _missing(self) -> bool:
        """Whether no reading comes of this cycle: where rows share a cycle, and all of them miss it."""
        return self._related and any(
            fault.points is None and (self._schedule.age(index) >= 0).all()
            for index, fault in self._reading_faults
            if isinstance(fault, MissingReading)
        )

    def _seen(self, reading: Reading, rows: IntArray) -> Reading:
        """Return what is seen of a reading; the faults of `rows` happen, others stay as last seen."""
        last, before = self._last, self._raw
        self._last, self._raw = reading, reading.profile
        if not self._reading_faults:
            return reading
        fresh = np.zeros(self.description.points, dtype=np.bool_)
        fresh[rows] = True
        profile, quality = reading.profile.copy(), reading.quality.copy()
        if last is not None and not fresh.all():
            profile[~fresh], quality[~fresh] = last.profile[~fresh], last.quality[~fresh]
        for index, fault in self._reading_faults:
            age = np.where(fresh, self._schedule.age(index), -1)
            chosen = np.flatnonzero(age >= 0)
            if not chosen.size:
                continue
            begins = age == 0
            if index not in self._before:
                self._before[index] = reading.profile.copy()
            if before is not None and begins.any():
                self._before[index][begins] = before[begins]
            fault.alter(
                Affected(
                    profile=profile,
                    quality=quality,
                    rows=chosen,
                    rng=self._schedule.generator(index),
                    before=self._before[index],
                )
            )
        self._last = replace(reading, profile=profile, quality=quality)
        return self._last

    # Time

    def _wait(self, began_s: float, *, missing: bool) -> None:
        timing = self._timing
        if timing is None:
            return
        due_s = timing.period_s if missing else timing.reading_at_s
        if not missing:
            late = [
                fault.delay_s
                for index, fault in self._reading_faults
                if isinstance(fault, LateReading) and (self._schedule.age(index) >= 0).any()
            ]
            due_s += max(late, default=0.0)
        timing.wait_until(began_s + due_s)

    def _now(self, reading: Reading) -> Reading:
        """Return a reading as received now, where it was waited for."""
        if self._timing is None:
            return reading
        self._last = replace(reading, received_ns=time.monotonic_ns())
        return self._last


class FaultyAlongCycle(FaultyBackend):
    """The same around a backend with control inside the cycle."""

    _backend: AlongCycle

    @property
    def held_rad(self) -> FloatArray:
        """See `AlongCycle.held_rad`."""
        return self._backend.held_rad

    @property
    def held_goal_error_rad(self) -> FloatArray | None:
        """See `AlongCycle.held_goal_error_rad`; of faults that have begun."""
        return self._backend.held_goal_error_rad

    @property
    def points_left(self) -> IntArray:
        """See `AlongCycle.points_left`."""
        return self._backend.points_left

    @property
    def row_ctime_ms(self) -> FloatArray:
        """See `AlongCycle.row_ctime_ms`."""
        return self._backend.row_ctime_ms


def with_faults(
    backend: BeamBackend,
    faults: Sequence[Fault],
    *,
    seed: int = 0,
    timing: Timing | None = None,
) -> FaultyBackend:
    """Put faults around a backend; see `FaultyBackend`."""
    kind = FaultyAlongCycle if isinstance(backend, AlongCycle) else FaultyBackend
    return kind(backend, faults, seed=seed, timing=timing)


def check_faults(faults: Sequence[Fault], backend: BeamBackend) -> None:
    """Refuse faults that cannot happen to a backend.

    Raises:
        UsageError: which, and why.
    """
    described = backend.description
    for number, fault in enumerate(faults, start=1):
        if fault.points is not None and max(fault.points) >= described.points:
            raise UsageError(
                f"fault {number} ({fault.kind}) is at point {max(fault.points)}; there are "
                f"{described.points}, counted from 0"
            )
        if isinstance(fault, KnobFault) and not isinstance(backend, Disturbable):
            raise UsageError(
                f"fault {number} ({fault.kind}) is one of the RF, which only a simulation has to "
                f"disturb (blond), not backend {described.backend!r}"
            )
        first = isinstance(fault, MissingReading) and fault.points is None and 1 in fault.at_cycle
        if first and described.ctime_ms is not None:
            raise UsageError(
                f"fault {number} ({fault.kind}) begins at cycle 1: a run begins with its first "
                "reading; give at_cycle from 2 on"
            )


def held_rad(backend: BeamBackend, last: Reading) -> FloatArray:
    """Return phi_hw [points] that plays next unless a function is submitted, rad."""
    return backend.held_rad if isinstance(backend, AlongCycle) else last.applied_rad


def _of_kind(faults: Sequence[Fault], kind: type[Any]) -> list[tuple[int, Any]]:
    return [(index, fault) for index, fault in enumerate(faults) if isinstance(fault, kind)]
