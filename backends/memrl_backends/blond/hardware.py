"""The low-level RF of the second harmonic: what becomes of phi_hw on its way to the cavity.

In the order of the signal: the function generator has steps of phase and a largest slope; the loops
behind it follow from cycle to cycle (what learns from one cycle for the next) and along the cycle
(a closed loop's bandwidth), each as a first-order lag; what the cavity then has is read back, with the
noise of the reading.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import UsageError
from memrl_ctrl.ranges import Range

FloatArray = NDArray[np.float64]

POSSIBLE = {
    "phase_resolution_deg": (0.0, 90.0, "degrees"),
    "generator_slope_deg_per_ms": (1e-3, math.inf, "degrees per ms (or infinity)"),
    "settling_cycles": (0.0, 1e3, "cycles"),
    "settling_ms": (0.0, 1e3, "ms"),
    "readback_noise_deg": (0.0, 90.0, "degrees"),
}
"""What a low-level RF can have at all."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The way from the applied function to the phase at the cavity; the default is perfect.

    Raises:
        UsageError: a value out of its range, by name.
    """

    phase_resolution_deg: float = 0.0
    """Step of the function generator and of the readback, degrees; 0 for none. 16 bits over a turn
    have 0.0055 degrees."""
    generator_slope_deg_per_ms: float = math.inf
    """Largest slope that the generator plays along the cycle, degrees per ms. It follows a steeper
    function as fast as it can; the machine's own limit, which refuses such a function, is another."""
    settling_cycles: float | Range = 0.0
    """Time constant of the lag from cycle to cycle, cycles; 0 follows at once. After n cycles
    exp(-n / settling_cycles) of a change is still to come. Of a range each episode draws its own, all points
    of a cycle the same."""
    settling_ms: float = 0.0
    """Time constant of the lag along the cycle, ms; 0 follows at once."""
    readback_noise_deg: float = 0.0
    """Standard deviation of the readback's noise, each point of each cycle, degrees."""

    def __post_init__(self) -> None:
        """Refuse a hardware that cannot be."""
        for name, (low, high, unit) in POSSIBLE.items():
            value = getattr(self, name)
            ends = value if name == "settling_cycles" and isinstance(value, tuple) else (value,)
            numbers = all(
                isinstance(end, int | float) and not isinstance(end, bool) for end in ends
            )
            if not numbers or not low <= min(ends) <= max(ends) <= high:
                allowed = f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
                raise UsageError(f"{name} must be {allowed} {unit}, not {value!r}")

    @property
    def perfect(self) -> bool:
        """Whether the cavity has what was applied, and the readback says so."""
        return self == PERFECT

    def left(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Return what of a change is still to come one cycle later, 0 to 1 [count], for an episode.

        Draws only where there is a range.
        """
        if isinstance(self.settling_cycles, tuple):
            cycles = rng.uniform(*self.settling_cycles, count)
        else:
            cycles = np.full(count, float(self.settling_cycles))
        lags = cycles > 0.0
        return np.where(lags, np.exp(-1.0 / np.where(lags, cycles, 1.0)), 0.0)

    def settled(
        self, applied_rad: FloatArray, before_rad: FloatArray, left: FloatArray
    ) -> FloatArray:
        """Return the function [points] that the loops have arrived at in this cycle, rad.

        Args:
            applied_rad: what plays in this cycle [points].
            before_rad: where the loops had arrived in the cycle before [points].
            left: see `left` [points].
        """
        target = self._stepped(applied_rad)
        return target + left * (before_rad - target)

    def at_cavity(self, settled_rad: FloatArray, ctime_ms: FloatArray | None) -> FloatArray:
        """Return the phase at the cavity [points], rad.

        Args:
            settled_rad: see `settled` [points]; linear between the points, steady before the first.
            ctime_ms: control points [points]; None where the rows are unrelated, which have no slope
                and no lag along the cycle.
        """
        if ctime_ms is None or ctime_ms.size < 2:
            return settled_rad
        played = self._sloped(settled_rad, ctime_ms)
        return played if self.settling_ms <= 0.0 else lagged(played, ctime_ms, self.settling_ms)

    def read_back(self, at_cavity_rad: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return what the hardware reports [points], rad; draws only where there is noise."""
        if self.readback_noise_deg > 0.0:
            sigma = math.radians(self.readback_noise_deg)
            at_cavity_rad = at_cavity_rad + rng.normal(0.0, sigma, at_cavity_rad.size)
        return self._stepped(at_cavity_rad)

    def _stepped(self, phase_rad: FloatArray) -> FloatArray:
        if self.phase_resolution_deg <= 0.0:
            return phase_rad
        step = math.radians(self.phase_resolution_deg)
        return np.asarray(np.round(phase_rad / step) * step)

    def _sloped(self, wanted_rad: FloatArray, ctime_ms: FloatArray) -> FloatArray:
        """Follow a function no faster than the generator can."""
        reach = math.radians(self.generator_slope_deg_per_ms) * np.diff(ctime_ms)
        if (np.abs(np.diff(wanted_rad)) <= reach).all():
            return wanted_rad
        played = wanted_rad.tolist()
        for i, most in enumerate(reach.tolist(), start=1):  # each point begins where the last ended
            played[i] = played[i - 1] + max(-most, min(most, played[i] - played[i - 1]))
        return np.array(played)


PERFECT = Hardware()
"""The cavity has what was applied, at once and exactly."""


def lagged(function_rad: FloatArray, ctime_ms: FloatArray, time_constant_ms: float) -> FloatArray:
    """Return the exact answer of a first-order lag to a function that is linear between its points.

    With slope s and lag time T the answer y to x obeys, over an interval h,
    y(h) = x(h) - s T + (y(0) - x(0) + s T) exp(-h / T); before the first point it is steady.

    Args:
        function_rad: [points].
        ctime_ms: where [points], increasing, ms.
        time_constant_ms: T, above 0, ms.
    """
    spacing = np.diff(ctime_ms)
    behind = np.diff(function_rad) / spacing * time_constant_ms
    # The lag behind the function, x - y, is a sum over all intervals before: each adds
    # s T (1 - exp(-h/T)), which then decays. Written as one product, so that no loop is needed.
    decay = np.exp(-np.maximum(ctime_ms[:, None] - ctime_ms[None, 1:], 0.0) / time_constant_ms)
    before = ctime_ms[:, None] >= ctime_ms[None, 1:]
    lag = (decay * before) @ (-behind * np.expm1(-spacing / time_constant_ms))
    return np.asarray(function_rad - lag)
