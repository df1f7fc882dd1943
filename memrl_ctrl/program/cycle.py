"""Cycle programs: what a machine does in a cycle, as functions of ctime.

The format is described in `docs/programs.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.program.functions import PiecewiseLinear
from memrl_ctrl.program.machine import MachineFile

if TYPE_CHECKING:
    from memrl_ctrl.beam import Conditions, Machine

FloatArray = NDArray[np.float64]

FUNCTIONS = ("b_field_t", "v1_v", "v2_v", "phi_hw_deg")
"""The functions of a program: names of its fields, of the fields in its file and of CSV columns."""
B_DOT_WINDOW_MS = 4.0
"""Full width of the window in which the field's slope is fitted, ms, unless a program says other."""
WINDOW_RANGE_MS = (0.01, 1000.0)
"""Smallest and largest window that is accepted, ms."""
SMALLEST_SPACING_MS = 1e-3
"""Control points must be this far apart, ms."""


def check_device(name: str, device: str) -> None:
    """Refuse a device of no function, or one whose name cannot stand in a CSV header.

    Raises:
        ValueError: says which and what is allowed.
    """
    if name not in FUNCTIONS:
        raise ValueError(f"no function {name!r} for a device; there is: {', '.join(FUNCTIONS)}")
    if (
        not device
        or not device.isprintable()
        or set(device) & set(',"')
        or device != device.strip()
    ):
        raise ValueError(
            f"device {device[:60]!r} of {name} is no name like BA3.FGVRFH1/Settings#amplitudes "
            "(no commas, quotes, line ends or blanks around it)"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ProgramPoints:
    """A program's values at some ctimes. All arrays [n]."""

    ctime_ms: FloatArray
    """Where, ms."""
    b_field_t: FloatArray
    """Magnetic field, T."""
    b_dot_t_per_s: FloatArray
    """Its smoothed time derivative, T/s."""
    v1_v: FloatArray
    """Voltage of the lower harmonic, V."""
    v2_v: FloatArray
    """Voltage of the higher harmonic, V."""
    phi_hw_rad: FloatArray
    """The knob as the program sets it, rad, unwrapped."""
    gamma_transition: FloatArray
    """Lorentz factor at transition."""
    synchronous_phase_rad: FloatArray
    """asin(C rho Bdot / V1), rad; NaN where V1 is too low for the Bdot."""

    def __len__(self) -> int:
        return int(self.ctime_ms.size)

    def conditions(
        self,
        ring: Machine,
        *,
        phi2_rad: Any = 0.0,
        emittance_evs: Any = 1.0,
        intensity: Any = 0.0,
    ) -> Conditions:
        """Return the beam model's conditions at these points [n]; by default no bunch is chosen yet.

        Args:
            ring: the ring, for example `program.machine.ring`.
            phi2_rad: phi_2, rad.
            emittance_evs: longitudinal emittance, eV s.
            intensity: protons in the ring.

        Raises:
            BeamError: a value that the model does not take.
        """
        from memrl_ctrl.beam import Conditions

        return Conditions(
            b_field_t=self.b_field_t,
            b_dot_t_per_s=self.b_dot_t_per_s,
            v1_v=self.v1_v,
            v2_v=self.v2_v,
            phi2_rad=phi2_rad,
            emittance_evs=emittance_evs,
            intensity=intensity,
            machine=ring,
            gamma_transition=self.gamma_transition,
        )


@dataclass(frozen=True, kw_only=True)
class CycleProgram:
    """What a machine does in a cycle.

    Raises:
        ValueError: a function that does not cover injection to extraction, control points outside
            or not increasing, or a device of no function or of a name that no export can hold.
    """

    name: str
    """Identity, for example `psb-2gev`."""
    machine: MachineFile
    """The machine that plays it."""
    b_field_t: PiecewiseLinear
    """Magnetic field, T."""
    v1_v: PiecewiseLinear
    """Voltage of the lower harmonic, V."""
    v2_v: PiecewiseLinear
    """Voltage of the higher harmonic, V."""
    phi_hw_deg: PiecewiseLinear
    """The knob phi_hw, degrees (as function generators have it), unwrapped."""
    listed_points_ms: tuple[float, ...] | None = None
    """Control points that the program lists itself, ms; None takes the machine's."""
    b_dot_window_ms: float = B_DOT_WINDOW_MS
    """Full width of the window in which the field's slope is fitted, ms."""
    description: str = ""
    """What it is."""
    source: str = ""
    """Where the functions come from."""
    devices: Mapping[str, str] = field(default_factory=dict)
    """The device/property#field of the control system that plays each function, by its name in
    `FUNCTIONS`, where it is known."""
    phase_sign: int = 1
    """1, or -1 where the control system counts the phase against phi_2: its value is then -phi_hw. In
    this project phi_hw always runs with phi_2 (phi_hw = offset + phi_2); the sign is applied where
    functions are imported and exported."""
    path: Path | None = field(default=None, compare=False)
    """File it was read from."""

    def __post_init__(self) -> None:
        low, high = self.beam_ms
        for name in FUNCTIONS:
            function = getattr(self, name)
            if function.start_ms > low or function.end_ms < high:
                raise ValueError(
                    f"{name} covers ctime {function.start_ms:g} to {function.end_ms:g} ms; expected "
                    f"{low:g} to {high:g} ms (injection to extraction of machine {self.machine.name})"
                )
        for name, device in self.devices.items():
            check_device(name, device)
        if self.phase_sign not in (1, -1):
            raise ValueError(f"phase_sign is {self.phase_sign}; it is 1 or -1")
        low_window, high_window = WINDOW_RANGE_MS
        if not low_window <= self.b_dot_window_ms <= high_window:
            raise ValueError(
                f"b_dot_window_ms is {self.b_dot_window_ms:g}; allowed is {low_window:g} to "
                f"{high_window:g} ms"
            )
        points = self.control_points_ms
        if points.ndim != 1 or not points.size or not np.isfinite(points).all():
            raise ValueError("control_points_ms must be a list of at least one ctime")
        if not (np.diff(points) >= SMALLEST_SPACING_MS).all():
            raise ValueError(
                f"control_points_ms must increase, by at least {SMALLEST_SPACING_MS:g} ms"
            )
        if points[0] < low or points[-1] > high:
            raise ValueError(
                f"control_points_ms reach from {points[0]:g} to {points[-1]:g} ms; allowed is "
                f"{low:g} to {high:g} ms (injection to extraction)"
            )

    @property
    def beam_ms(self) -> tuple[float, float]:
        """Injection and extraction, ms."""
        return self.machine.injection_ctime_ms, self.machine.extraction_ctime_ms

    @cached_property
    def control_points_ms(self) -> FloatArray:
        """Control points [points], ms."""
        if self.listed_points_ms is None:
            points = self.machine.default_control_points_ms()
        else:
            points = np.array(self.listed_points_ms, dtype=np.float64)
        points.setflags(write=False)
        return points

    def at(self, ctime_ms: Any = None) -> ProgramPoints:
        """Return the program's values at some ctimes [n]; by default at the control points.

        The field's derivative is that of `PiecewiseLinear.slope_per_s` over `b_dot_window_ms`.

        Raises:
            ValueError: a ctime outside a function.
        """
        where = self.control_points_ms if ctime_ms is None else ctime_ms
        time = np.atleast_1d(np.asarray(where, dtype=np.float64))
        b_dot = self.b_field_t.slope_per_s(time, self.b_dot_window_ms)
        v1 = self.v1_v.at(time)
        return ProgramPoints(
            ctime_ms=time,
            b_field_t=self.b_field_t.at(time),
            b_dot_t_per_s=b_dot,
            v1_v=v1,
            v2_v=self.v2_v.at(time),
            phi_hw_rad=np.radians(self.phi_hw_deg.at(time)),
            gamma_transition=self.machine.gamma_transition.at(time),
            synchronous_phase_rad=self.machine.synchronous_phase_rad(b_dot, v1),
        )
