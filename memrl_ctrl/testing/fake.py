"""A backend without physics: deterministic, quick, and as strict as a machine.

The line density is a tilted parabola whose tilt and width follow the phase error, so that its
skewness falls with phi_2 at the reference and has one such zero on the circle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from memrl_ctrl.backend import (
    BoolArray,
    FloatArray,
    MachineDescription,
    Quality,
    Reading,
    Receipt,
    RefusalReason,
    Refused,
    Truth,
)
from memrl_ctrl.errors import ConnectionFailed, UnknownNameError
from memrl_ctrl.limits import PhaseLimits

INJECTION_MS, EXTRACTION_MS = 275.0, 805.0
"""First and last control point of the imitated cycle (PSB), ms."""
START_OPTIONS = ("offset_rad",)


class FakeBackend:
    """A simulated machine in this process; `observe` plays the next cycle at once.

    Args:
        points: number of control points.
        n_slices: bins of a profile.
        seed: of everything that is drawn.
        offset_rad: hidden offset, phi_2 = phi_hw - offset; None draws it uniformly at each start.
        noise: standard deviation of each slice, relative to the profile's peak.
        limits: of phi_hw; they are enforced as a machine does.
        related: whether the rows are control points of one cycle (one offset, a ctime axis) or
            unrelated conditions (an offset each, no ctime axis).
        writable: false makes every `submit` a typed refusal.
        period_s: what the description says; the fake itself never waits.
        alter: called with every reading, returns what is delivered instead: for faults.
    """

    def __init__(
        self,
        *,
        points: int = 30,
        n_slices: int = 128,
        seed: int = 0,
        offset_rad: float | None = None,
        noise: float = 0.0,
        limits: PhaseLimits | None = None,
        related: bool = True,
        writable: bool = True,
        period_s: float = 0.0,
        alter: Callable[[Reading], Reading] | None = None,
    ) -> None:
        self.description = MachineDescription(
            name="fake",
            program="fake-ramp",
            points=points,
            n_slices=n_slices,
            limits=limits or PhaseLimits(),
            period_s=period_s,
            writable=writable,
            ctime_ms=np.linspace(INJECTION_MS, EXTRACTION_MS, points) if related else None,
            backend="fake",
            fidelity="fake",
        )
        self._random = np.random.default_rng(seed)
        self._noise = noise
        self._fixed_offset = offset_rad
        self._alter = alter
        along = np.linspace(0.0, 1.0, points)
        self._reference = 0.5 * np.sin(2.0 * math.pi * along)
        self._synchronous = 0.3 * np.sin(math.pi * along)
        self._rf_phase = (np.arange(n_slices) + 0.5) / n_slices * 2.0 * math.pi - math.pi
        self._setpoint: FloatArray = np.zeros(points)
        self._offset: FloatArray = np.zeros(points)
        self._emittance: FloatArray = np.ones(points)
        self._intensity: FloatArray = np.full(points, 1e12)
        self._disturbed_offset: FloatArray = np.zeros(points)
        self._second: FloatArray = np.ones(points)
        self._pending: FloatArray | None = None
        self._cycle = 0
        self._closed = False
        self._draw(np.ones(points, dtype=np.bool_), None)

    def start(
        self,
        seed: int | None = None,
        mask: BoolArray | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Reading:
        """Draw offset, emittance and intensity anew, put phi_hw to 0, and play one cycle.

        Args:
            seed: reseeds the generator; None goes on with it.
            mask: rows to begin anew [points]; None is all.
            options: `offset_rad` sets the hidden offset of the rows instead of drawing it.

        Raises:
            UnknownNameError: another option.
        """
        given = dict(options or {})
        for name in given:
            if name not in START_OPTIONS:
                raise UnknownNameError("start option", name, START_OPTIONS)
        if seed is not None:
            self._random = np.random.default_rng(seed)
        rows = np.ones(self.description.points, dtype=np.bool_) if mask is None else mask
        self._draw(rows, given.get("offset_rad"))
        self._setpoint = np.where(rows, 0.0, self._setpoint)
        self._pending = None
        return self._next_reading()

    def observe(self, timeout_s: float | None = None) -> Reading:
        """Play the next cycle, with what was submitted for it or holding, and return it."""
        del timeout_s  # it never takes long
        if self._pending is not None:
            self._setpoint, self._pending = self._pending, None
        return self._next_reading()

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Take a function for the next cycle, whole or not at all.

        Raises:
            Refused: read-only, late, not the next cycle, or outside a limit.
        """
        self._refuse_closed()
        if not self.description.writable:
            raise Refused(RefusalReason.READ_ONLY, "this machine takes no setpoints")
        if cycle <= self._cycle or deadline_s <= 0:
            raise Refused(
                RefusalReason.LATE,
                f"cycle {cycle} with {deadline_s:.3f} s left; the next is {self._cycle + 1}",
            )
        if cycle > self._cycle + 1:
            raise Refused(
                RefusalReason.INVALID,
                f"cycle {cycle} is too far ahead; only cycle {self._cycle + 1} can be set now",
            )
        wanted = np.array(phi_hw_rad, dtype=np.float64)
        description = self.description
        description.limits.check(wanted, self._setpoint, description.ctime_ms)
        self._pending = wanted
        return Receipt(
            cycle=cycle, applied_rad=wanted.copy(), committed_ns=time.monotonic_ns(), fence=0
        )

    def play(self, phi_hw_rad: FloatArray) -> Reading:
        """Submit for the next cycle and observe it.

        Raises:
            Refused: see `submit`.
        """
        self.submit(phi_hw_rad, self._cycle + 1, deadline_s=1.0)
        return self.observe()

    def disturb(self, *, offset_rad: FloatArray, v2_factor: FloatArray) -> None:
        """Disturb the RF from the next cycle on, until told otherwise.

        Args:
            offset_rad: added to the hidden offset [points], rad.
            v2_factor: what is left of the second harmonic [points], 0 to 1.
        """
        self._disturbed_offset, self._second = offset_rad.copy(), v2_factor.copy()

    def close(self) -> None:
        """Take no more calls."""
        self._closed = True

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ConnectionFailed("the fake backend is closed")

    def _draw(self, rows: BoolArray, offset_rad: float | None) -> None:
        points = self.description.points
        unrelated = self.description.ctime_ms is None
        count = points if unrelated else 1
        # Everything is drawn whatever is fixed, so that fixing one leaves the others' draws alone.
        offset = self._random.uniform(-math.pi, math.pi, count)
        emittance = self._random.uniform(0.8, 1.2, count)
        intensity = self._random.uniform(1e11, 9e12, count)
        fixed = self._fixed_offset if offset_rad is None else offset_rad
        if fixed is not None:
            offset = np.full(count, fixed)
        self._offset = np.where(rows, offset, self._offset)
        self._emittance = np.where(rows, emittance, self._emittance)
        self._intensity = np.where(rows, intensity, self._intensity)

    def _next_reading(self) -> Reading:
        self._refuse_closed()
        self._cycle += 1
        offset = self._offset + self._disturbed_offset
        phi2 = self._setpoint - offset
        reading = Reading(
            cycle=self._cycle,
            stamp_ns=time.time_ns(),
            received_ns=time.monotonic_ns(),
            profile=self._profiles(phi2),
            setpoint_rad=self._setpoint.copy(),
            applied_rad=self._setpoint.copy(),
            readback_rad=self._setpoint.copy(),
            synchronous_phase_rad=self._synchronous.copy(),
            quality=np.full(self.description.points, Quality.OK, dtype=np.uint16),
            truth=Truth(
                reference_rad=self._reference.copy(),
                offset_rad=offset,
                phi2_rad=phi2,
                emittance_evs=self._emittance.copy(),
                intensity=self._intensity.copy(),
            ),
        )
        return reading if self._alter is None else self._alter(reading)

    def _profiles(self, phi2: FloatArray) -> np.ndarray[Any, np.dtype[np.float32]]:
        error = (phi2 - self._reference)[:, None]
        second = self._second[:, None]
        width = np.sqrt(self._emittance)[:, None] * (1.6 + 0.4 * second * np.cos(error))
        place = self._rf_phase[None, :] / width
        tilt = 0.8 * second * np.sin(error)
        density = np.maximum(0.0, 1.0 - place**2) * (1.0 + tilt * place)
        if self._noise:
            density = density + self._noise * self._random.standard_normal(density.shape)
        return density.astype(np.float32)
