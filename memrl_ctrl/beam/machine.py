"""A ring as the beam model sees it: geometry, optics and impedance.

Impedances follow the convention exp(+j omega t): a voltage of -Z I acts on the beam, an inductance
has a positive imaginary part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from memrl_ctrl.errors import BeamError

Array: TypeAlias = npt.NDArray[np.float64]
ComplexArray: TypeAlias = npt.NDArray[np.complexfloating[Any, Any]]

SPEED_OF_LIGHT_M_PER_S = 299_792_458.0
ELEMENTARY_CHARGE_C = 1.602176634e-19
VACUUM_IMPEDANCE_OHM = 376.730313668
VACUUM_PERMEABILITY_H_PER_M = VACUUM_IMPEDANCE_OHM / SPEED_OF_LIGHT_M_PER_S
PROTON_MASS_EV = 938.27208816e6


@dataclass(frozen=True)
class Resonator:
    """A resonant impedance, Z(f) = R / (1 + j Q (f / f_r - f_r / f)).

    Source: A. W. Chao, Physics of Collective Beam Instabilities (Wiley, 1993), section 2.3.
    """

    r_shunt_ohm: float
    """Shunt impedance of one item, ohm, at least 0."""
    frequency_hz: float
    """Resonance frequency f_r, Hz, above 0."""
    q: float
    """Quality factor, above 0."""
    count: float = 1.0
    """How many such items the ring has."""

    def __post_init__(self) -> None:
        if not self.r_shunt_ohm >= 0.0 or not np.isfinite(self.r_shunt_ohm):
            raise BeamError(f"resonator: r_shunt_ohm is {self.r_shunt_ohm}; it must be at least 0")
        for name in ("frequency_hz", "q", "count"):
            value = getattr(self, name)
            if not value > 0.0 or not np.isfinite(value):
                raise BeamError(f"resonator: {name} is {value}; it must be above 0 and finite")

    def impedance_ohm(self, frequency_hz: Array) -> ComplexArray:
        """Impedance of all items, ohm, at positive frequencies of any shape."""
        detuning = frequency_hz / self.frequency_hz - self.frequency_hz / frequency_hz
        result: ComplexArray = self.count * self.r_shunt_ohm / (1.0 + 1j * self.q * detuning)
        return result


@dataclass(frozen=True, eq=False)
class ImpedanceTable:
    """A tabulated impedance, interpolated linearly in real and imaginary part.

    Below the first frequency the first value holds; above the last one the impedance is 0 (as
    BLonD's `InputTable` has it).
    """

    frequency_hz: Array
    """Frequencies, Hz, [rows], at least 0 and increasing."""
    impedance_ohm: ComplexArray
    """Complex impedance of one item, ohm, [rows]."""
    count: float = 1.0
    """How many such items the ring has."""

    def __post_init__(self) -> None:
        frequency = np.array(self.frequency_hz, dtype=np.float64)
        impedance = np.array(self.impedance_ohm, dtype=np.complex128)
        if frequency.ndim != 1 or frequency.shape != impedance.shape or frequency.size < 2:
            raise BeamError(
                f"impedance table: {frequency.shape} frequencies and {impedance.shape} impedances; "
                "both must be one column of the same length, 2 rows at least"
            )
        if not np.all(np.isfinite(frequency)) or not np.all(np.isfinite(impedance)):
            row = int(np.argmax(~(np.isfinite(frequency) & np.isfinite(impedance))))
            raise BeamError(
                f"impedance table: row {row + 1} has a gap (a value that is not finite)"
            )
        if frequency[0] < 0.0:
            raise BeamError(
                f"impedance table: the first frequency is {frequency[0]:g} Hz; give positive ones"
            )
        falls = np.flatnonzero(np.diff(frequency) <= 0.0)
        if falls.size:
            raise BeamError(
                f"impedance table: frequencies must increase; row {int(falls[0]) + 2} does not"
            )
        if not self.count > 0.0:
            raise BeamError(f"impedance table: count is {self.count}; it must be above 0")
        frequency.setflags(write=False)
        impedance.setflags(write=False)
        object.__setattr__(self, "frequency_hz", frequency)
        object.__setattr__(self, "impedance_ohm", impedance)

    def table_at(self, frequency_hz: Array) -> ComplexArray:
        """Impedance of all items, ohm, at positive frequencies of any shape."""
        known, z = self.frequency_hz, self.impedance_ohm
        result = np.zeros(np.shape(frequency_hz), dtype=np.complex128)
        result.real = np.interp(frequency_hz, known, np.real(z), right=0.0)
        result.imag = np.interp(frequency_hz, known, np.imag(z), right=0.0)
        result *= self.count
        return result


@dataclass(frozen=True)
class ConstantZn:
    """An impedance proportional to the harmonic number, Z(n) = n (Z/n): steps, bellows, small cavities.

    Below their resonances steps are an inductance, Z/n = j omega_0 L. For a resistive wall, whose
    Z/n falls with the root of the frequency, it is an estimate at one frequency: `ResistiveWall` has
    the whole of it. The imaginary part acts as the line density's derivative, like space charge of
    the other sign, and is treated as exactly; the real part acts through the harmonics of the wake.
    """

    z_over_n_ohm: complex
    """Z/n, ohm; n counts revolution harmonics."""
    count: float = 1.0
    """How many such items the ring has."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.z_over_n_ohm) or complex(self.z_over_n_ohm).real < 0.0:
            raise BeamError(
                f"Z/n is {self.z_over_n_ohm}; it must be finite, its real part at least 0"
            )
        if not self.count > 0.0:
            raise BeamError(f"Z/n: count is {self.count}; it must be above 0")


@dataclass(frozen=True)
class ResistiveWall:
    """The resistive wall of a round pipe, Z(f) = (1 + j) length resistivity / (2 pi radius depth).

    The skin depth is depth = sqrt(resistivity / (pi f mu0 permeability)), so that Z grows with the
    root of f and Z/n falls with it: with length = C this is Z/n = (1 + j) beta Z0 depth / (2 radius).
    Source: A. W. Chao, Physics of Collective Beam Instabilities (Wiley, 1993), chapter 2.

    Left out: walls thinner than the skin depth (below some 100 kHz in a ring), the ends of the
    frequency range (below c / (radius Z0 sigma), near and above the pipe's cutoff), and pipes that
    are not round.
    """

    length_m: float
    """Length of one item along the orbit, m, above 0."""
    radius_m: float
    """Inner radius of the pipe, m, above 0."""
    resistivity_ohm_m: float
    """Resistivity of the wall, ohm m, above 0 (stainless steel: 7.4e-7)."""
    relative_permeability: float = 1.0
    """Of the wall, above 0."""
    count: float = 1.0
    """How many such items the ring has."""

    def __post_init__(self) -> None:
        for name in (
            "length_m",
            "radius_m",
            "resistivity_ohm_m",
            "relative_permeability",
            "count",
        ):
            value = getattr(self, name)
            if not value > 0.0 or not np.isfinite(value):
                raise BeamError(f"resistive wall: {name} is {value}; it must be above 0 and finite")

    def skin_depth_m(self, frequency_hz: Array) -> Array:
        """Skin depth, m, at positive frequencies of any shape."""
        permeability = self.relative_permeability * VACUUM_PERMEABILITY_H_PER_M
        result: Array = np.sqrt(self.resistivity_ohm_m / (np.pi * frequency_hz * permeability))
        return result

    def impedance_ohm(self, frequency_hz: Array) -> ComplexArray:
        """Impedance of all items, ohm, at positive frequencies of any shape."""
        surface = self.resistivity_ohm_m / self.skin_depth_m(frequency_hz)
        around = 2.0 * np.pi * self.radius_m
        result: ComplexArray = (1.0 + 1.0j) * (self.count * self.length_m / around * surface)
        return result


Impedance: TypeAlias = Resonator | ImpedanceTable | ConstantZn | ResistiveWall


@dataclass(frozen=True, kw_only=True, eq=False)
class Machine:
    """A double-harmonic ring below transition; the default geometry is CERN's PS Booster.

    Sources: circumference and bending radius from the PSB parameter list (mean radius 25 m,
    rho = 8.239 m); gamma_transition 4.4 is that of BLonD's PSB example.
    """

    circumference_m: float = 157.08
    """Length of the reference orbit, m."""
    bending_radius_m: float = 8.239
    """Bending radius of the main dipoles, m."""
    gamma_transition: float = 4.4
    """Lorentz factor at transition, where a condition does not give its own."""
    space_charge_g: float = 0.0
    """Geometry factor g of Z/n = -j Z0 g / (2 beta gamma^2); 0 leaves space charge out."""
    impedance: tuple[Impedance, ...] = ()
    """Resonators, tables, resistive walls and constant Z/n of the ring."""
    harmonics: tuple[int, int] = (1, 2)
    """Harmonic numbers of the two RF systems, the second twice the first; alike in all buckets."""
    mass_ev: float = PROTON_MASS_EV
    """Rest energy of a particle of charge +e, eV."""
    wake_harmonics: int = 24
    """At how many harmonics of the bunch frequency the wake acts; even, 2 to 96."""

    def __post_init__(self) -> None:
        for name in ("circumference_m", "bending_radius_m", "mass_ev"):
            value = getattr(self, name)
            if not value > 0.0 or not np.isfinite(value):
                raise BeamError(f"machine: {name} is {value}; it must be above 0 and finite")
        if not self.gamma_transition > 1.0:
            raise BeamError(f"machine: gamma_transition is {self.gamma_transition}; it is above 1")
        if not self.space_charge_g >= 0.0 or not np.isfinite(self.space_charge_g):
            raise BeamError(
                f"machine: space_charge_g is {self.space_charge_g}; it must be at least 0"
            )
        first, second = self.harmonics
        if first < 1 or second != 2 * first:
            raise BeamError(
                f"machine: harmonics are {self.harmonics}; the second must be twice the first"
            )
        if self.wake_harmonics % 2 or not 2 <= self.wake_harmonics <= 96:
            raise BeamError(
                f"machine: wake_harmonics is {self.wake_harmonics}; an even number, 2 to 96"
            )
        items = self.impedance
        object.__setattr__(
            self, "impedance", (items,) if isinstance(items, Impedance) else tuple(items)
        )
        for item in self.impedance:
            if not isinstance(item, Impedance):
                raise BeamError(
                    f"machine: an impedance is a Resonator, ImpedanceTable, ResistiveWall or "
                    f"ConstantZn, not {type(item).__name__}"
                )

    def impedance_ohm(self, frequency_hz: Any, revolution_frequency_hz: Any) -> ComplexArray:
        """Impedance of the ring without space charge, ohm, at positive frequencies.

        Args:
            frequency_hz: frequencies, any shape.
            revolution_frequency_hz: f_rev, broadcast against them (for the items given as Z/n).
        """
        frequency = np.asarray(frequency_hz, dtype=np.float64)
        result = self.resonant_impedance_ohm(frequency)
        revolution = np.asarray(revolution_frequency_hz, dtype=np.float64)
        return result + self.constant_z_over_n_ohm() * (frequency / revolution)

    def resonant_impedance_ohm(self, frequency_hz: Array) -> ComplexArray:
        """Impedance of all but the items given as Z/n, ohm, at positive frequencies."""
        result = np.zeros(np.shape(frequency_hz), dtype=np.complex128)
        for item in self.impedance:
            if isinstance(item, Resonator | ResistiveWall):
                result += item.impedance_ohm(frequency_hz)
            elif isinstance(item, ImpedanceTable):
                result += item.table_at(frequency_hz)
        return result

    def constant_z_over_n_ohm(self) -> complex:
        """Sum of the items given as Z/n, ohm, without space charge."""
        items = (item for item in self.impedance if isinstance(item, ConstantZn))
        return complex(sum((item.z_over_n_ohm * item.count for item in items), 0j))

    def space_charge_z_over_n_ohm(self, beta: Any, gamma: Any) -> ComplexArray:
        """Z/n of space charge, -j Z0 g / (2 beta gamma^2), ohm; beta and gamma broadcast."""
        magnitude = VACUUM_IMPEDANCE_OHM * self.space_charge_g / (2.0 * beta * gamma**2)
        result: ComplexArray = -1j * np.asarray(magnitude)
        return result
