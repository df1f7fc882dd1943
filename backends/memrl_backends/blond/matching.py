"""Fidelity `blond`: profiles from BLonD's own matching, with the induced voltage converged.

BLonD's `matched_from_distribution_function` works on a grid of phase space (`parabolic_line`:
f(H) ~ sqrt(1 - H/H0)) and adds the induced voltage from its second iteration on. Its own iteration
has no test of convergence, and its potential is cut off at the ends of the bucket. Here BLonD does
the matching in a given induced voltage (its `extra_voltage_dict`), and the voltage is iterated
outside: a turn is periodic, the impedance enters at multiples of f_rev, as in the kernel.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from memrl_backends.blond._import import BlondMachine, blond, contained
from memrl_ctrl.beam import Conditions, MatchedProfiles, matched_profiles
from memrl_ctrl.errors import UsageError

Array = npt.NDArray[np.float64]

_TURN_POINTS = 1024
_DAMPING = 0.7


class _NoWake:
    """Stands for an induced voltage of zero, so that BLonD takes the extra voltage everywhere."""

    def __init__(self, profile: Any) -> None:
        self.profile = profile
        self.induced_voltage: Array = np.zeros(0)

    def reprocess(self) -> None:
        self.induced_voltage = np.zeros(self.profile.n_slices)

    def induced_voltage_sum(self) -> None:
        self.induced_voltage = np.zeros(self.profile.n_slices)


class _Fixed:
    """The quantities of one condition that stay fixed during its iteration."""

    def __init__(self, conditions: Conditions, intensity_effects: bool, grid: int) -> None:
        self.conditions = conditions
        self.grid = grid
        self.machine = BlondMachine(conditions, 1000)
        self.omega = 2.0 * np.pi * conditions.rf_frequency_hz[0]
        self.phase: Array = np.asarray(np.arange(_TURN_POINTS) + 0.5) * (2.0 * np.pi / _TURN_POINTS)
        self.order = np.arange(1, conditions.machine.wake_harmonics + 1)
        self.waves = np.exp(-1j * self.order[:, None] * self.phase)
        self.intensity_effects = intensity_effects and conditions.intensity[0] > 0.0
        self.wake = conditions.wake_per_density_vrad()[0] * self.intensity_effects
        self.kappa = float(conditions.space_charge_vrad2[0]) * self.intensity_effects

    def voltage(self, density: Array) -> tuple[Array, npt.NDArray[np.complex128]]:
        """Induced voltage [points], V, and the wake potential's coefficients, of a density."""
        step = 2.0 * np.pi / _TURN_POINTS
        coefficients = self.wake * (self.waves @ density) * step
        wake = 2.0 * ((1j * self.order * coefficients) @ self.waves.conj()).real
        slope = (np.roll(density, -1) - np.roll(density, 1)) / (2.0 * step)
        return wake + self.kappa * slope, coefficients

    def match(self, voltage: Array | None) -> tuple[Array, Array]:
        """BLonD's matching in a given induced voltage: phases and line density of its frame."""
        library = blond()
        options: dict[str, Any] = {}
        if voltage is not None:
            turn = 2.0 * np.pi / self.omega
            # Two turns more than BLonD's frame, which reaches beyond one turn.
            options = {
                "extra_voltage_dict": {
                    "time_array": np.concatenate(
                        [self.phase / self.omega + k * turn for k in (-1, 0, 1)]
                    ),
                    "voltage_array": np.tile(voltage, 3),
                },
                "total_induced_voltage": _NoWake(self.machine.profile(self.grid)),
                "n_iterations": 2,
            }
        with contained():
            result = library.matched_from_distribution_function(
                self.machine.beam,
                self.machine.full_ring(),
                distribution_type="parabolic_line",
                emittance=float(self.conditions.emittance_evs[0]),
                n_points_grid=self.grid,
                seed=1,
                **options,
            )
        time_s, density = result[0] if voltage is not None else result
        return np.asarray(time_s) * self.omega, np.asarray(density)

    def on_turn(self, phase: Array, density: Array, target: Array) -> Array:
        """A line density on BLonD's frame, at phases of one turn, with integral 1."""
        total = np.zeros_like(target)
        for k in (-1.0, 0.0, 1.0):
            total += np.interp(target + 2.0 * np.pi * k, phase, density, left=0.0, right=0.0)
        return np.asarray(total / (total.sum() * 2.0 * np.pi / target.size))

    def area(self, phase: Array, voltage: Array) -> float:
        """Area of the bucket in BLonD's frame, eV s, with an induced voltage."""
        c = self.conditions
        full = (
            -c.v1_v[0] * np.sin(phase)
            - c.v2_v[0] * np.sin(2.0 * phase + c.phi2_rad[0])
            - c.energy_gain_ev[0]
            + np.interp(phase, self.phase, voltage, period=2.0 * np.pi)
        )
        step = phase[1] - phase[0]
        potential = np.concatenate([[0.0], np.cumsum(0.5 * (full[1:] + full[:-1]) * step)])
        edge = min(potential[0], potential[-1])
        roots = np.sqrt(np.maximum(0.0, edge - potential))
        return float(roots.sum() * step * c.area_per_root_evs[0])


def _iterate(
    fixed: _Fixed, iterations: int, tolerance: float, guess: Array | None
) -> dict[str, Any]:
    """The fixed point of BLonD's matching and the induced voltage of what it gives."""
    emittance = float(fixed.conditions.emittance_evs[0])
    if not fixed.intensity_effects:
        phase, density = fixed.match(None)
        area = fixed.area(phase, np.zeros(_TURN_POINTS))
        return {
            "phase": phase,
            "density": density,
            "area": area,
            "captured": min(1.0, area / emittance),
            "converged": True,
            "iterations": 1,
            "coefficients": 0.0 * fixed.wake,
        }
    held = guess if guess is not None else fixed.on_turn(*fixed.match(None), fixed.phase)
    captured, change, damping = 1.0, np.inf, _DAMPING
    phase, density, area, count = fixed.phase, held, 0.0, 0
    while change >= tolerance and count < iterations:
        count += 1
        voltage = captured * fixed.voltage(held)[0]
        phase, density = fixed.match(voltage)
        area = fixed.area(phase, voltage)
        following = min(1.0, area / emittance)
        profile = fixed.on_turn(phase, density, fixed.phase)
        before = change
        change = float(np.abs(profile - held).max() / profile.max()) + abs(following - captured)
        if change > 0.9 * before:  # it swings: space charge is close to what the well can hold
            damping *= 0.6
        held = held + damping * (profile - held)
        captured += damping / _DAMPING * (following - captured)
    return {
        "phase": phase,
        "density": density,
        "area": area,
        "captured": captured,
        "converged": change < tolerance,
        "iterations": count,
        "coefficients": captured * fixed.voltage(held)[1],
    }


def blond_profiles(
    conditions: Conditions,
    n_slices: int = 1000,
    *,
    intensity_effects: bool = True,
    iterations: int = 25,
    tolerance: float = 5.0e-3,
    n_points_grid: int = 500,
    start_from_kernel: bool = True,
) -> MatchedProfiles:
    """Profiles from BLonD's own matching; the same result as `matched_profiles`, in seconds each.

    Args:
        conditions: the conditions, [n].
        n_slices: bins over one turn, at least 16.
        intensity_effects: false leaves wake and space charge out.
        iterations: largest number of BLonD's matchings of one condition.
        tolerance: largest change of the profile, per peak, at which the iteration ends.
        n_points_grid: points of BLonD's phase space grid in each direction.
        start_from_kernel: begin with the kernel's profile, which saves iterations; the fixed point
            is that of BLonD's matching all the same.

    Returns:
        The profiles. Where BLonD finds no bucket, or the iteration does not end, `converged` is
        false; without a bucket the profile is NaN.

    Raises:
        MissingExtraError: BLonD is not installed.
        UsageError: n_slices below 16.
    """
    if n_slices < 16:
        raise UsageError(f"n_slices is {n_slices}; it must be at least 16")
    start = None
    if start_from_kernel and intensity_effects:
        start = matched_profiles(conditions, _TURN_POINTS).line_density.astype(np.float64)
    count, harmonics = len(conditions), conditions.machine.wake_harmonics
    phase: Array = np.asarray(np.arange(n_slices) + 0.5) * (2.0 * np.pi / n_slices)
    out: dict[str, Any] = {
        name: np.full(count, np.nan)
        for name in (
            "asymmetry",
            "bunching_factor",
            "bunch_length_s",
            "mean_phase_rad",
            "bucket_area_evs",
            "captured_fraction",
            "level_vrad",
            "normalisation_vrad2",
        )
    }
    out["line_density"] = np.full((count, n_slices), np.nan, dtype=np.float32)
    out["window_rad"] = np.full((count, 2), np.nan)
    out["wake_potential_vrad"] = np.zeros((count, harmonics), dtype=np.complex128)
    out["converged"] = np.zeros(count, dtype=np.bool_)
    out["iterations"] = np.zeros(count, dtype=np.int64)
    for k in range(count):
        fixed = _Fixed(conditions.take([k]), intensity_effects, n_points_grid)
        guess = start[k] if start is not None and np.isfinite(start[k, 0]) else None
        try:
            answer = _iterate(fixed, iterations, tolerance, guess)
        except (RuntimeError, IndexError):
            continue  # BLonD's ways of saying that there is no bucket: the row stays NaN
        _fill_row(out, k, fixed, answer, phase)
    return MatchedProfiles(
        conditions=conditions,
        phase_rad=phase,
        synchronous_phase_rad=conditions.synchronous_phase_rad,
        intensity_effects=intensity_effects,
        **out,
    )


def _fill_row(
    out: dict[str, Any], k: int, fixed: _Fixed, answer: dict[str, Any], target: Array
) -> None:
    frame, density = answer["phase"], answer["density"]
    weights = density / density.sum()
    mean = float(weights @ frame)
    second = float(weights @ (frame - mean) ** 2)
    third = float(weights @ (frame - mean) ** 3)
    step = float(frame[1] - frame[0])
    away = 2.0 * np.pi * np.floor(mean / (2.0 * np.pi))
    out["line_density"][k] = fixed.on_turn(frame, density, target)
    out["asymmetry"][k] = third / second**1.5
    out["bunching_factor"][k] = step / (2.0 * np.pi * weights.max())
    out["bunch_length_s"][k] = 4.0 * np.sqrt(second) / fixed.omega
    out["mean_phase_rad"][k] = mean - away
    out["bucket_area_evs"][k] = answer["area"]
    out["captured_fraction"][k] = answer["captured"]
    out["window_rad"][k] = frame[[0, -1]] - away
    out["converged"][k] = answer["converged"]
    out["iterations"][k] = answer["iterations"]
    coefficients = answer["coefficients"]
    out["wake_potential_vrad"][k] = coefficients
    # Inside the bunch U' = H0 - S lambda: a straight line through BLonD's points.
    place = frame - away
    c = fixed.conditions
    potential = (
        c.v1_v[0] * np.cos(place)
        + 0.5 * c.v2_v[0] * np.cos(2.0 * place + c.phi2_rad[0])
        - c.energy_gain_ev[0] * place
        + 2.0 * (coefficients @ np.exp(1j * fixed.order[:, None] * place)).real
    )
    inside = weights > 0.1 * weights.max()
    slope, level = np.polyfit(weights[inside] / step, potential[inside], 1)
    out["normalisation_vrad2"][k] = -slope
    out["level_vrad"][k] = level


def benchmark_matching(
    conditions: Conditions, *, macroparticles: int = 1_000_000, repetitions: int = 3
) -> dict[str, float]:
    """Time BLonD's matching as it stands, for the benchmark `kernel`.

    Args:
        conditions: conditions to match, one after the other; those where BLonD fails are left out.
        macroparticles: macroparticles that it draws.
        repetitions: repetitions of each.

    Returns:
        `seconds_1_iteration` (no intensity effects) and `seconds_converged` (10 iterations with
        the induced voltage): medians, seconds a profile; `profiles`: how many were timed;
        `macroparticles`.
    """
    library = blond()

    def once(one: Conditions, iterations: int) -> float:
        machine = BlondMachine(one, macroparticles)
        options: dict[str, Any] = {}
        with contained():
            if iterations > 1:
                options["total_induced_voltage"] = machine.induced_voltage(machine.profile(1000))
                options["n_iterations"] = iterations
            begin = time.perf_counter()
            library.matched_from_distribution_function(
                machine.beam,
                machine.full_ring(),
                distribution_type="parabolic_line",
                emittance=float(one.emittance_evs[0]),
                seed=1,
                **options,
            )
            return time.perf_counter() - begin

    def timed(work: Callable[[Conditions], float], times: int) -> list[float]:
        seconds: list[float] = []
        for k in range(len(conditions)):
            try:
                seconds += [work(conditions.take([k])) for _ in range(times)]
            except (RuntimeError, IndexError):
                continue  # no bucket for BLonD
        return seconds

    single = timed(lambda one: once(one, 1), repetitions)
    converged = timed(lambda one: once(one, 10), 1)
    return {
        "seconds_1_iteration": statistics.median(single),
        "seconds_converged": statistics.median(converged),
        "profiles": float(len(single) // repetitions),
        "macroparticles": float(macroparticles),
    }
