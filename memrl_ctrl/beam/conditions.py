"""Everything that decides a matched profile at one point of a cycle, for many points at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from memrl_ctrl.beam.machine import (
    ELEMENTARY_CHARGE_C,
    SPEED_OF_LIGHT_M_PER_S,
    Array,
    ComplexArray,
    Machine,
)
from memrl_ctrl.errors import BeamError

_ARRAYS = (
    "b_field_t",
    "b_dot_t_per_s",
    "v1_v",
    "v2_v",
    "phi2_rad",
    "emittance_evs",
    "intensity",
)
_LOWEST = {"b_field_t": "above 0", "v1_v": "above 0", "emittance_evs": "above 0"}
_NOT_NEGATIVE = {"v2_v", "intensity"}


@dataclass(frozen=True, init=False, eq=False)
class Conditions:
    """Beam conditions, arrays or scalars that broadcast to one dimension [n].

    RF voltage in phase phi of the lower harmonic, which runs with time, below transition:
    V(phi) = V1 sin(phi + pi) + V2 sin(2 phi + pi + phi2). phi2 = 0 is bunch lengthening.

    Raises:
        BeamError: a value that is not finite or out of range, shapes that do not broadcast, or a
            condition at or above transition (eta >= 0), with the row it stands in.
    """

    b_field_t: Array
    """Magnetic field of the main dipoles, T, above 0."""
    b_dot_t_per_s: Array
    """Its time derivative, T/s."""
    v1_v: Array
    """Voltage of the lower harmonic, V, above 0."""
    v2_v: Array
    """Voltage of the higher harmonic, V, at least 0."""
    phi2_rad: Array
    """Phase between the harmonics, rad, any value (periodic in 2 pi)."""
    emittance_evs: Array
    """Area that the bunch's edge encloses in (dt, dE), eV s, above 0."""
    intensity: Array
    """Protons in the ring, at least 0."""
    machine: Machine
    """The ring; the default is `Machine()`."""
    gamma_transition: Array
    """Lorentz factor at transition; the machine's where it is not given."""

    def __init__(
        self,
        *,
        b_field_t: npt.ArrayLike,
        b_dot_t_per_s: npt.ArrayLike,
        v1_v: npt.ArrayLike,
        v2_v: npt.ArrayLike,
        phi2_rad: npt.ArrayLike,
        emittance_evs: npt.ArrayLike,
        intensity: npt.ArrayLike,
        machine: Machine | None = None,
        gamma_transition: npt.ArrayLike | None = None,
    ) -> None:
        ring = Machine() if machine is None else machine
        if not isinstance(ring, Machine):
            raise BeamError(
                f"condition: machine is of type {type(ring).__name__}; expected "
                "memrl_ctrl.beam.Machine (of a machine file: load_machine(name).ring)"
            )
        object.__setattr__(self, "machine", ring)
        given = {
            "b_field_t": b_field_t,
            "b_dot_t_per_s": b_dot_t_per_s,
            "v1_v": v1_v,
            "v2_v": v2_v,
            "phi2_rad": phi2_rad,
            "emittance_evs": emittance_evs,
            "intensity": intensity,
            "gamma_transition": ring.gamma_transition
            if gamma_transition is None
            else gamma_transition,
        }
        values = {}
        for name, value in given.items():
            try:
                values[name] = np.asarray(value, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise BeamError(f"condition: {name} must be numbers") from error
        try:
            shape = np.broadcast_shapes(*(value.shape for value in values.values()))
        except ValueError as error:
            shapes = ", ".join(f"{name} {value.shape}" for name, value in values.items())
            raise BeamError(f"conditions do not broadcast to one length: {shapes}") from error
        if len(shape) > 1:
            raise BeamError(f"conditions have one dimension [n]; these broadcast to {shape}")
        length = shape[0] if shape else 1
        for name, value in values.items():
            full = np.array(np.broadcast_to(value, (length,)))
            self._check(name, full)
            full.setflags(write=False)
            object.__setattr__(self, name, full)
        above = np.flatnonzero(self.slippage_factor >= 0.0)
        if above.size:
            row = int(above[0])
            transition = self.gamma_transition[row]
            raise BeamError(
                f"condition {row}: gamma {self.gamma[row]:.4g} is at or above transition "
                f"({transition:.4g}); only beams below transition are modelled"
            )

    @staticmethod
    def _check(name: str, value: Array) -> None:
        bad = ~np.isfinite(value)
        allowed = "finite"
        if name in _LOWEST:
            bad |= ~(value > 0.0)
            allowed = "above 0 and finite"
        elif name in _NOT_NEGATIVE:
            bad |= ~(value >= 0.0)
            allowed = "at least 0 and finite"
        elif name == "gamma_transition":
            bad |= ~(value > 1.0)
            allowed = "above 1 and finite"
        rows = np.flatnonzero(bad)
        if rows.size:
            row = int(rows[0])
            raise BeamError(f"condition {row}: {name} is {value[row]}; it must be {allowed}")

    def __len__(self) -> int:
        """Number of conditions n."""
        return int(self.b_field_t.shape[0])

    def replace(self, **changes: Any) -> Conditions:
        """The same conditions with some fields changed; scalars and [n] broadcast.

        Another machine brings its own gamma_transition, unless the conditions had values of theirs.
        """
        if "machine" in changes and np.all(self.gamma_transition == self.machine.gamma_transition):
            changes.setdefault("gamma_transition", None)
        return dataclasses.replace(self, **changes)

    def take(self, rows: npt.ArrayLike | slice) -> Conditions:
        """The conditions of some rows (indices, mask or slice)."""
        index = rows if isinstance(rows, slice) else np.atleast_1d(np.asarray(rows))
        picked = {name: getattr(self, name)[index] for name in (*_ARRAYS, "gamma_transition")}
        return dataclasses.replace(self, **picked)

    @cached_property
    def momentum_ev(self) -> Array:
        """Momentum times c, eV, [n]: p c = c B rho."""
        return SPEED_OF_LIGHT_M_PER_S * self.b_field_t * self.machine.bending_radius_m

    @cached_property
    def energy_ev(self) -> Array:
        """Total energy, eV, [n]."""
        return np.hypot(self.momentum_ev, self.machine.mass_ev)

    @cached_property
    def gamma(self) -> Array:
        """Lorentz factor, [n]."""
        return self.energy_ev / self.machine.mass_ev

    @cached_property
    def beta(self) -> Array:
        """Velocity in units of c, [n]."""
        return self.momentum_ev / self.energy_ev

    @cached_property
    def revolution_frequency_hz(self) -> Array:
        """Revolution frequency, Hz, [n]."""
        return self.beta * SPEED_OF_LIGHT_M_PER_S / self.machine.circumference_m

    @cached_property
    def rf_frequency_hz(self) -> Array:
        """Frequency of the lower harmonic, Hz, [n]."""
        return self.revolution_frequency_hz * self.machine.harmonics[0]

    @cached_property
    def slippage_factor(self) -> Array:
        """eta = 1/gamma_t^2 - 1/gamma^2, [n], negative below transition."""
        result: Array = 1.0 / self.gamma_transition**2 - 1.0 / self.gamma**2
        return result

    @cached_property
    def energy_gain_ev(self) -> Array:
        """Energy gain of the synchronous particle, eV a turn, [n]: c C rho Bdot / c."""
        ring = self.machine
        return ring.circumference_m * ring.bending_radius_m * self.b_dot_t_per_s

    @cached_property
    def synchronous_phase_rad(self) -> Array:
        """RF phase at which the lower harmonic alone gives the energy gain, rad, [n].

        pi + asin(energy gain / V1), the value a control system knows without phi2; NaN where V1
        is too low for Bdot.
        """
        ratio = self.energy_gain_ev / self.v1_v
        return np.pi + np.arcsin(np.where(np.abs(ratio) <= 1.0, ratio, np.nan))

    @cached_property
    def kinetic_coefficient_per_ev(self) -> Array:
        """a of H = a dE^2 / 2 + U, per turn, 1/eV, [n]: 2 pi h |eta| / (beta^2 E)."""
        return (
            2.0
            * np.pi
            * self.machine.harmonics[0]
            * np.abs(self.slippage_factor)
            / (self.beta**2 * self.energy_ev)
        )

    @cached_property
    def area_per_root_evs(self) -> Array:
        """Area in eV s per integral of sqrt(H0 - U) over RF phase, [n]: (2/omega) sqrt(2/a)."""
        omega = 2.0 * np.pi * self.rf_frequency_hz
        return 2.0 / omega * np.sqrt(2.0 / self.kinetic_coefficient_per_ev)

    @cached_property
    def peak_current_per_density_a(self) -> Array:
        """Beam current per line density in 1/rad, A, [n]: N e omega / h."""
        bunch = self.intensity / self.machine.harmonics[0]
        return bunch * ELEMENTARY_CHARGE_C * 2.0 * np.pi * self.rf_frequency_hz

    @cached_property
    def space_charge_vrad2(self) -> Array:
        """kappa: potential per line density of all that is proportional to Im(Z/n), V rad^2, [n].

        -Im(Z/n) h N_b e omega, with N_b protons a bunch; positive for space charge.
        """
        total = self.machine.space_charge_z_over_n_ohm(self.beta, self.gamma).imag
        total = total + self.machine.constant_z_over_n_ohm().imag
        return -total * self.machine.harmonics[0] * self.peak_current_per_density_a

    def wake_per_density_vrad(self) -> ComplexArray:
        """Wake potential's Fourier coefficients per those of the line density, V rad.

        [n, harmonics]: U_n = j Z(n f) / n * N e omega / 2 pi * Lambda_n, with
        Lambda_n the integral of lambda exp(-j n phi); U = 2 Re sum U_n exp(j n phi).
        """
        order = np.arange(1, self.machine.wake_harmonics + 1)
        frequency = order * self.rf_frequency_hz[:, None]
        impedance = self.machine.resonant_impedance_ohm(frequency)
        resistive = self.machine.constant_z_over_n_ohm().real * self.machine.harmonics[0]
        impedance = impedance + resistive * order
        scale = self.peak_current_per_density_a[:, None] / (2.0 * np.pi * order)
        result: ComplexArray = 1j * impedance * scale
        return result
