"""A stretch of a cycle as turn-by-turn tracking takes it: what the machine does in each turn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from memrl_ctrl.beam import Conditions, Machine
from memrl_ctrl.beam.machine import SPEED_OF_LIGHT_M_PER_S
from memrl_ctrl.errors import UsageError
from memrl_ctrl.program import CycleProgram, PiecewiseLinear

FloatArray = NDArray[np.float64]

NODE_SPACING_MS = 0.05
"""Largest distance between nodes, ms: about 50 turns of the PSB, in which momentum and revolution
frequency are straight lines to 1e-9."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What the machine does in consecutive turns. All arrays [turns]."""

    momentum_ev: FloatArray
    """Synchronous momentum times c, eV."""
    energy_gain_ev: FloatArray
    """Energy gain of the synchronous particle in this turn, eV."""
    v1_v: FloatArray
    """Voltage of the lower harmonic, V."""
    v2_v: FloatArray
    """Voltage of the higher harmonic, V."""
    phi2_rad: FloatArray
    """Phase between the harmonics, rad."""
    gamma_transition: FloatArray
    """Lorentz factor at transition."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretch:
    """A stretch of a cycle: functions of the turn number, straight lines between nodes.

    Made by `of_program` or `constant`; the nodes are an implementation's choice.
    """

    machine: Machine
    """The ring."""
    turn: FloatArray
    """Turn number at the nodes [nodes], increasing; not whole numbers, negative before turn 0."""
    ctime_ms: FloatArray
    """ctime of the nodes [nodes], ms."""
    values: Turns
    """What the machine does at the nodes [nodes]."""

    @classmethod
    def constant(cls, conditions: Conditions) -> Stretch:
        """Constant conditions without end: one condition, its Bdot accelerates, B stays.

        The synchronous particle gains energy as Bdot demands, but its momentum is not advanced: the
        bucket stays the one that the bunch was matched to.

        Raises:
            UsageError: more than one condition.
        """
        if len(conditions) != 1:
            raise UsageError(f"a stretch is made of one condition, not {len(conditions)}")
        return cls(
            machine=conditions.machine,
            turn=np.zeros(1),
            ctime_ms=np.zeros(1),
            values=Turns(
                momentum_ev=conditions.momentum_ev,
                energy_gain_ev=conditions.energy_gain_ev,
                v1_v=conditions.v1_v,
                v2_v=conditions.v2_v,
                phi2_rad=conditions.phi2_rad,
                gamma_transition=conditions.gamma_transition,
            ),
        )

    @classmethod
    def of_program(
        cls, program: CycleProgram, start_ms: float, end_ms: float, phi2_rad: PiecewiseLinear
    ) -> Stretch:
        """A stretch of a program, with the physical phase phi_2 as a function of ctime.

        The momentum is that of B at the start, advanced by the program's smoothed Bdot (so that the
        steps of a measured field's resolution do not kick the bunch).

        Args:
            program: the cycle program.
            start_ms: ctime of turn 0, ms.
            end_ms: ctime of the last turn, ms, above `start_ms`.
            phi2_rad: phi_2 over ctime, rad; it must cover the stretch or hold.

        Raises:
            UsageError: a stretch of no length.
            ValueError: a ctime outside the program's or phi_2's functions.
        """
        if not end_ms > start_ms:
            raise UsageError(f"a stretch from {start_ms:g} to {end_ms:g} ms has no length")
        functions = (program.v1_v, program.v2_v, program.machine.gamma_transition, phi2_rad)
        even = np.linspace(
            start_ms, end_ms, 1 + int(np.ceil((end_ms - start_ms) / NODE_SPACING_MS))
        )
        breaks = [f.breakpoints_within(start_ms, end_ms) for f in functions]
        ctime = np.unique(np.concatenate([even, *breaks]))
        ring, points = program.machine.ring, program.at(ctime)
        step_s = 1e-3 * np.diff(ctime)
        per_tesla = SPEED_OF_LIGHT_M_PER_S * ring.bending_radius_m
        momentum = per_tesla * (points.b_field_t[0] + _integral(points.b_dot_t_per_s, step_s))
        beta = momentum / np.hypot(momentum, ring.mass_ev)
        revolution_hz = beta * SPEED_OF_LIGHT_M_PER_S / ring.circumference_m
        return cls(
            machine=ring,
            turn=_integral(revolution_hz, step_s),
            ctime_ms=ctime,
            values=Turns(
                momentum_ev=momentum,
                energy_gain_ev=ring.circumference_m * ring.bending_radius_m * points.b_dot_t_per_s,
                v1_v=points.v1_v,
                v2_v=points.v2_v,
                phi2_rad=phi2_rad.at(ctime),
                gamma_transition=points.gamma_transition,
            ),
        )

    @cached_property
    def length(self) -> int | None:
        """Number of whole turns; None where it has no end."""
        return None if self.turn.size == 1 else int(np.floor(self.turn[-1]))

    def at(self, turn: FloatArray) -> Turns:
        """What the machine does in some turns [turns]; the last node's values hold at the end."""

        def values(nodes: FloatArray) -> FloatArray:
            return np.asarray(np.interp(turn, self.turn, nodes), dtype=np.float64)

        v = self.values
        return Turns(
            momentum_ev=values(v.momentum_ev),
            energy_gain_ev=values(v.energy_gain_ev),
            v1_v=values(v.v1_v),
            v2_v=values(v.v2_v),
            phi2_rad=values(v.phi2_rad),
            gamma_transition=values(v.gamma_transition),
        )

    def turns(self, first: int, count: int) -> Turns:
        """What the machine does in the turns `first` to `first + count - 1`."""
        return self.at(np.arange(first, first + count, dtype=np.float64))

    def turn_at(self, ctime_ms: float) -> int:
        """The last turn that begins at or before a ctime; within the stretch."""
        return int(np.floor(np.interp(ctime_ms, self.ctime_ms, self.turn) + 1e-6))

    def after(self, turn: int) -> Stretch:
        """The same stretch, whose turn 0 is this one's `turn`."""
        return replace(self, turn=self.turn - turn)

    def conditions(
        self, turn: npt.ArrayLike, *, emittance_evs: float, intensity: float
    ) -> Conditions:
        """The conditions of a bunch in one turn or some [n], for the kernel."""
        now = self.at(np.atleast_1d(np.asarray(turn, dtype=np.float64)))
        ring = self.machine
        return Conditions(
            b_field_t=now.momentum_ev / (SPEED_OF_LIGHT_M_PER_S * ring.bending_radius_m),
            b_dot_t_per_s=now.energy_gain_ev / (ring.circumference_m * ring.bending_radius_m),
            v1_v=now.v1_v,
            v2_v=now.v2_v,
            phi2_rad=now.phi2_rad,
            emittance_evs=emittance_evs,
            intensity=intensity,
            machine=ring,
            gamma_transition=now.gamma_transition,
        )


def _integral(values: FloatArray, step: FloatArray) -> FloatArray:
    """Trapezoidal integral from the first node to each [nodes]."""
    mean = 0.5 * (values[1:] + values[:-1])
    return np.concatenate([[0.0], np.cumsum(mean * step)])
