"""Machine files: a double-harmonic ring, its RF systems, its impedance and its limits.

The format is described in `docs/programs.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import BeamError, MemrlWarning, ProgramError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.program.functions import PiecewiseLinear

if TYPE_CHECKING:
    from memrl_ctrl.beam import Impedance, Machine

FloatArray = NDArray[np.float64]
Span = tuple[float, float]


class MachineWarning(MemrlWarning):
    """A machine file that can be used, with something in it that looks wrong."""


@dataclass(frozen=True, kw_only=True)
class HardwareRange:
    """What power converters and RF systems can do; a program must keep it while there is beam."""

    b_field_t: Span
    """Lowest and highest field, T."""
    b_dot_t_per_s: Span
    """Lowest and highest time derivative of the field, T/s."""
    v1_v: Span
    """Lowest and highest voltage of the lower harmonic, V."""
    v2_v: Span
    """Lowest and highest voltage of the higher harmonic, V."""
    v_sum_max_v: float
    """Highest sum of both voltages, V."""


@dataclass(frozen=True, kw_only=True)
class OperatingRange:
    """From where to where the conditions of training are drawn."""

    b_field_t: Span
    """Field, T."""
    b_dot_t_per_s: Span
    """Time derivative of the field, T/s."""
    v1_v: Span
    """Voltage of the lower harmonic, V."""
    v2_over_v1: Span
    """Ratio of the voltages."""
    intensity: Span
    """Protons in the ring."""


@dataclass(frozen=True, kw_only=True)
class Assumption:
    """A field whose value is not published, and why it is what it is."""

    field: str
    """Dotted name of the field in the machine file."""
    why: str
    """One sentence."""


@dataclass(frozen=True, kw_only=True)
class ImpedanceItem:
    """One impedance as the machine file has it: resonator, table, constant Z/n or resistive wall."""

    kind: str
    """`resonator`, `table`, `z_over_n` or `resistive_wall`."""
    label: str
    """What it is, for people."""
    count: float
    """How many such items the ring has."""
    r_shunt_ohm: float = math.nan
    """Resonator: shunt impedance of one item, ohm."""
    frequency_hz: float = math.nan
    """Resonator: resonance frequency, Hz."""
    q: float = math.nan
    """Resonator: quality factor."""
    table_hz: tuple[float, ...] = ()
    """Table: frequencies, Hz."""
    table_ohm: tuple[complex, ...] = ()
    """Table: impedance of one item, ohm."""
    z_over_n_ohm: complex = 0j
    """Constant Z/n of one item, ohm."""
    length_m: float = math.nan
    """Resistive wall: length of one item, m."""
    radius_m: float = math.nan
    """Resistive wall: inner radius of the pipe, m."""
    resistivity_ohm_m: float = math.nan
    """Resistive wall: resistivity, ohm m."""
    relative_permeability: float = 1.0
    """Resistive wall: relative permeability."""

    def beam(self) -> Impedance:
        """Return it for the beam model."""
        from memrl_ctrl.beam import ConstantZn, ImpedanceTable, ResistiveWall, Resonator

        if self.kind == "resonator":
            return Resonator(
                r_shunt_ohm=self.r_shunt_ohm,
                frequency_hz=self.frequency_hz,
                q=self.q,
                count=self.count,
            )
        if self.kind == "table":
            return ImpedanceTable(
                frequency_hz=np.array(self.table_hz),
                impedance_ohm=np.array(self.table_ohm),
                count=self.count,
            )
        if self.kind == "resistive_wall":
            return ResistiveWall(
                length_m=self.length_m,
                radius_m=self.radius_m,
                resistivity_ohm_m=self.resistivity_ohm_m,
                relative_permeability=self.relative_permeability,
                count=self.count,
            )
        return ConstantZn(z_over_n_ohm=self.z_over_n_ohm, count=self.count)


@dataclass(frozen=True, kw_only=True)
class MachineFile:
    """A ring with everything that does not change from cycle to cycle."""

    name: str
    """Identity, for example `psb`."""
    description: str = ""
    """What it is and where the numbers come from."""
    circumference_m: float
    """Length of the reference orbit, m."""
    bending_radius_m: float
    """Bending radius of the main dipoles, m."""
    gamma_transition: PiecewiseLinear
    """Lorentz factor at transition over ctime; holds its first and last value."""
    harmonics: tuple[int, int] = (1, 2)
    """Harmonic numbers of the two RF systems."""
    space_charge_g: float = 0.0
    """Geometry factor g of Z/n = -j Z0 g / (2 beta gamma^2)."""
    impedance: tuple[ImpedanceItem, ...] = ()
    """Everything else that the beam induces voltage in."""
    intensity_effects: bool = True
    """Whether space charge and impedance act on the beam; off compares with bare RF buckets."""
    injection_ctime_ms: float
    """Injection, ms."""
    extraction_ctime_ms: float
    """Extraction, ms."""
    period_s: float
    """Time from one cycle to the next, s."""
    control_points: int
    """Number of control points, where a program does not list its own."""
    first_point_after_injection_ms: float
    """From injection to the first of them, ms."""
    last_point_before_extraction_ms: float
    """From the last of them to extraction, ms."""
    hardware: HardwareRange
    """Limits of field and voltages."""
    phase_limits: PhaseLimits
    """Limits of phi_hw that the machine enforces, rad (degrees in the file)."""
    operating_range: OperatingRange
    """From where to where the conditions of training are drawn."""
    assumptions: tuple[Assumption, ...] = ()
    """The fields that are assumptions."""
    path: Path | None = field(default=None, compare=False)
    """File it was read from."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a person should look at, one sentence each: impedance tables that look wrong."""

    @cached_property
    def ring(self) -> Machine:
        """The ring as the beam model takes it; bare where `intensity_effects` is off.

        Its gamma_transition is the one in the middle between injection and extraction; give
        `Conditions` that of the point (`ProgramPoints.gamma_transition`).

        Raises:
            ProgramError: the beam model does not take the ring; says why.
        """
        from memrl_ctrl.beam import Machine

        middle = 0.5 * (self.injection_ctime_ms + self.extraction_ctime_ms)
        try:
            return Machine(
                circumference_m=self.circumference_m,
                bending_radius_m=self.bending_radius_m,
                gamma_transition=float(self.gamma_transition.at(middle)),
                harmonics=self.harmonics,
                space_charge_g=self.space_charge_g if self.intensity_effects else 0.0,
                impedance=tuple(i.beam() for i in self.impedance) if self.intensity_effects else (),
            )
        except BeamError as error:
            raise ProgramError(self.path or self.name, str(error)) from error

    def synchronous_phase_rad(self, b_dot_t_per_s: FloatArray, v1_v: FloatArray) -> FloatArray:
        """Return asin(C rho Bdot / V1) [n]; NaN where V1 is too low for the Bdot.

        C rho Bdot is the energy that a charge e gains in a turn on a constant orbit, eV.
        """
        gain = self.circumference_m * self.bending_radius_m * np.asarray(b_dot_t_per_s)
        gain, voltage = np.broadcast_arrays(gain, np.asarray(v1_v, dtype=np.float64))
        ratio = np.full(gain.shape, np.nan)
        np.divide(gain, voltage, out=ratio, where=(voltage > 0) & (np.abs(gain) <= voltage))
        return np.asarray(np.arcsin(ratio), dtype=np.float64)

    def default_control_points_ms(self) -> FloatArray:
        """Return evenly spaced control points [control_points], ms."""
        return np.linspace(
            self.injection_ctime_ms + self.first_point_after_injection_ms,
            self.extraction_ctime_ms - self.last_point_before_extraction_ms,
            self.control_points,
        )
