"""A program against its machine's hardware limits, between injection and extraction."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.program.cycle import CycleProgram, ProgramPoints

FloatArray = NDArray[np.float64]

GRID_MS = 0.5
"""Spacing at which what is not piecewise linear is checked, ms."""
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class RangeCheck:
    """One quantity between injection and extraction."""

    quantity: str
    """What, for people."""
    unit: str
    """Unit of all numbers."""
    lowest: float
    """Smallest value; NaN where it does not exist."""
    lowest_ctime_ms: float
    """Where, ms."""
    highest: float
    """Largest value; NaN where it does not exist."""
    highest_ctime_ms: float
    """Where, ms."""
    allowed: tuple[float, float]
    """What the hardware can do."""
    broken_words: str = ""
    """The sentence for a broken limit, where it is not the usual one."""

    @property
    def ok(self) -> bool:
        """Whether the machine can do it."""
        slack = _ROUNDING * max(1.0, abs(self.allowed[0]), abs(self.allowed[1]))
        return self.lowest >= self.allowed[0] - slack and self.highest <= self.allowed[1] + slack

    @property
    def sentence(self) -> str:
        """What is wrong; empty where nothing is."""
        if self.ok:
            return ""
        if self.broken_words:
            return self.broken_words
        low, high = self.allowed
        unit = f" {self.unit}" if self.unit else ""
        below = not self.lowest >= low - _ROUNDING
        value, time = (
            (self.lowest, self.lowest_ctime_ms) if below else (self.highest, self.highest_ctime_ms)
        )
        return (
            f"{self.quantity} is {value:.6g}{unit} at ctime {time:g} ms; "
            f"the machine allows {low:g} to {high:g}{unit}"
        )


def check_ranges(program: CycleProgram) -> list[RangeCheck]:
    """Compare a program with its machine's limits.

    Linear functions are looked at in their breakpoints, so nothing between them is missed; the
    field's derivative and the synchronous phase every 0.5 ms; the slope of phi_hw from control point
    to control point, as the machine checks it.
    """
    low, high = program.beam_ms
    hardware, limits = program.machine.hardware, program.machine.phase_limits
    functions = (
        ("field B", "T", program.b_field_t, hardware.b_field_t),
        ("voltage V1", "V", program.v1_v, hardware.v1_v),
        ("voltage V2", "V", program.v2_v, hardware.v2_v),
    )
    checks = []
    for quantity, unit, function, allowed in functions:
        time = function.breakpoints_within(low, high)
        checks.append(_check(quantity, unit, time, function.at(time), allowed))
    time = np.union1d(
        program.v1_v.breakpoints_within(low, high), program.v2_v.breakpoints_within(low, high)
    )
    total = program.v1_v.at(time) + program.v2_v.at(time)
    checks.append(_check("sum V1 + V2", "V", time, total, (0.0, hardware.v_sum_max_v)))
    time = np.union1d(np.linspace(low, high, 1 + round((high - low) / GRID_MS)), time)
    points = program.at(time)
    checks.insert(1, _check("ramp Bdot", "T/s", time, points.b_dot_t_per_s, hardware.b_dot_t_per_s))
    checks.append(_gain_check(program, points))
    time = program.phi_hw_deg.breakpoints_within(low, high)
    phase_span = (math.degrees(limits.min_rad), math.degrees(limits.max_rad))
    checks.append(_check("phase phi_hw", "deg", time, program.phi_hw_deg.at(time), phase_span))
    time = program.control_points_ms
    if time.size > 1:
        slope = np.diff(program.phi_hw_deg.at(time)) / np.diff(time)
        most = math.degrees(limits.slope_rad_per_ms)
        checks.append(_check("slope of phi_hw", "deg/ms", time[:-1], slope, (-most, most)))
    return checks


def _gain_check(program: CycleProgram, points: ProgramPoints) -> RangeCheck:
    """Compare V1 with the energy gain a turn, C rho Bdot: less than that accelerates nothing."""
    machine = program.machine
    gain = np.abs(machine.circumference_m * machine.bending_radius_m * points.b_dot_t_per_s)
    share = np.full_like(gain, np.inf)
    np.divide(gain, points.v1_v, out=share, where=points.v1_v > 0)
    check = _check("energy gain / V1", "", points.ctime_ms, share, (0.0, 1.0))
    worst = int(np.argmax(share))
    words = (
        f"voltage V1 is {points.v1_v[worst]:.6g} V at ctime {points.ctime_ms[worst]:g} ms, too low "
        f"for the Bdot of {points.b_dot_t_per_s[worst]:.4g} T/s there, which needs more than "
        f"{gain[worst]:.6g} V (C rho Bdot)"
    )
    return dataclasses.replace(check, broken_words=words)


def _check(
    quantity: str, unit: str, time: FloatArray, value: FloatArray, allowed: tuple[float, float]
) -> RangeCheck:
    low, high = int(np.argmin(value)), int(np.argmax(value))
    return RangeCheck(
        quantity=quantity,
        unit=unit,
        lowest=float(value[low]),
        lowest_ctime_ms=float(time[low]),
        highest=float(value[high]),
        highest_ctime_ms=float(time[high]),
        allowed=allowed,
    )
