"""What a fit is given, checked, and brought into the form that the search takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from memrl_ctrl.beam._fit_model import (
    INTENSITY,
    LOG_EMITTANCE,
    PROTONS,
    TRIGGER,
    compared_harmonics,
    noise_above,
    spectrum,
)
from memrl_ctrl.beam._fit_search import COLUMNS, Box
from memrl_ctrl.beam.conditions import Conditions
from memrl_ctrl.beam.machine import Array, Machine
from memrl_ctrl.beam.profiles import bucket_area_evs
from memrl_ctrl.errors import UsageError

if TYPE_CHECKING:
    from memrl_ctrl.beam.measurement import Monitor
    from memrl_ctrl.program import MachineFile, ProgramPoints

Gaussian: TypeAlias = tuple[float, float]
Trigger: TypeAlias = Literal["auto", "known", "unknown"]
Reasons: TypeAlias = npt.NDArray[np.str_]

TRIGGERS = ("auto", "known", "unknown")
MIN_SLICES = 16
LARGEST_INTENSITY = 1.2e13
"""Upper bound of the intensity for a `Machine`, which does not say its range, protons."""
BEYOND_RANGE = 1.2
"""Upper bound of the intensity per the largest of a machine file's operating range."""
SMALLEST_FILLING, LARGEST_FILLING = 0.03, 1.3
"""Bounds of the emittance per the largest bucket on the circle of phi2, without intensity effects."""
TRIGGER_RAD = math.radians(0.1)
"""Standard deviation of the trigger phase where it is known, unless another is given."""
_VISIBLE_SIGMAS = 10.0
_CIRCLE = 24


@dataclass(frozen=True, kw_only=True)
class FitInput:
    """Points and profiles of a fit."""

    conditions: Conditions
    """The points [n]; phi2, emittance and intensity do not count."""
    profiles: Array
    """Measured [n, n_slices]; rows that cannot be fitted are NaN."""
    phi_hw_rad: Array
    """The knob [n], rad; NaN where it is not known."""
    reasons: Reasons
    """Why a row cannot be fitted [n]; empty where it can."""
    area_evs: Array
    """Area of the largest bare bucket on the circle of phi2 [n]; NaN without one."""
    intensity_max: float
    """Upper bound of the intensity, protons."""


def fit_input(
    profile: npt.ArrayLike,
    machine: Machine | MachineFile,
    point: ProgramPoints | Conditions,
    *,
    phi_hw_rad: npt.ArrayLike | None,
    intensity_max: float | None,
) -> FitInput:
    """Check what was given.

    Raises:
        UsageError: shapes that do not fit, fewer than 16 slices, a bound that is not positive.
    """
    profiles = _profiles(profile)
    conditions, knob = _points(machine, point)
    count = profiles.shape[0]
    if len(conditions) == 1 and count > 1:
        conditions = conditions.take(np.zeros(count, dtype=np.int64))
        knob = np.repeat(knob, count)
    if len(conditions) != count:
        raise UsageError(
            f"{count} profiles and {len(conditions)} points; give one point, or one for each profile"
        )
    if phi_hw_rad is not None:
        given = np.asarray(phi_hw_rad, dtype=np.float64)
        if given.ndim > 1 or given.size not in (1, count):
            raise UsageError(f"phi_hw_rad has shape {given.shape}; expected one value or {count}")
        knob = np.array(np.broadcast_to(given.reshape(-1), (count,)))
    largest = _intensity_max(machine) if intensity_max is None else float(intensity_max)
    if not largest > 0.0 or not math.isfinite(largest):
        raise UsageError(f"intensity_max is {largest}; it must be above 0 protons and finite")
    area = _largest_bucket(conditions)
    reasons = _reasons(profiles)
    reasons[(reasons == "") & ~np.isfinite(area)] = (
        "no bucket at any phi2: the voltage is too low for this Bdot"
    )
    reasons[(reasons == "") & (conditions.v2_v == 0.0)] = "V2 is 0: phi2 has no effect on a profile"
    profiles = np.where((reasons == "")[:, None], profiles, np.nan)
    return FitInput(
        conditions=conditions,
        profiles=profiles,
        phi_hw_rad=knob,
        reasons=reasons,
        area_evs=area,
        intensity_max=largest,
    )


def _profiles(profile: npt.ArrayLike) -> Array:
    try:
        values = np.array(profile, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "a profile must be numbers [n_slices], or a batch [n, n_slices]"
        ) from error
    if values.ndim == 1:
        values = values[None, :]
    if values.ndim != 2 or values.shape[0] == 0:
        raise UsageError(
            f"a profile is [n_slices], or a batch [n, n_slices]; this has shape {np.shape(profile)}"
        )
    if values.shape[1] < MIN_SLICES:
        raise UsageError(f"a profile has {MIN_SLICES} slices at least; this has {values.shape[1]}")
    return values


def _points(
    machine: Machine | MachineFile, point: ProgramPoints | Conditions
) -> tuple[Conditions, Array]:
    from memrl_ctrl.program import MachineFile, ProgramPoints

    ring: Any = machine.ring if isinstance(machine, MachineFile) else machine
    if not isinstance(ring, Machine):
        raise UsageError(
            f"machine must be a beam.Machine or a program.MachineFile, not {type(machine).__name__}"
        )
    if isinstance(point, Conditions):
        conditions = point if point.machine is ring else point.replace(machine=ring)
        return conditions, np.full(len(conditions), np.nan)
    if not isinstance(point, ProgramPoints):
        raise UsageError(
            f"point must be program.ProgramPoints or beam.Conditions, not {type(point).__name__}"
        )
    return point.conditions(ring), np.array(point.phi_hw_rad, dtype=np.float64)


def _intensity_max(machine: Machine | MachineFile) -> float:
    span = getattr(getattr(machine, "operating_range", None), "intensity", None)
    return LARGEST_INTENSITY if span is None else BEYOND_RANGE * float(span[1])


def _largest_bucket(conditions: Conditions) -> Array:
    """Area of the largest bare bucket on the circle of phi2 [n], eV s; NaN without one."""
    count = len(conditions)
    rows = np.repeat(np.arange(count), _CIRCLE)
    phi2 = np.tile(np.arange(_CIRCLE) * (2.0 * np.pi / _CIRCLE), count)
    areas = bucket_area_evs(conditions.take(rows).replace(phi2_rad=phi2)).reshape(count, _CIRCLE)
    largest: Array = np.max(np.where(np.isfinite(areas), areas, -np.inf), axis=1)
    return np.where(largest > 0.0, largest, np.nan)


def _reasons(profiles: Array) -> Reasons:
    """Why rows [n] cannot be fitted; empty where they can."""
    reasons = np.full(profiles.shape[0], "", dtype="U96")
    finite = np.asarray(np.isfinite(profiles).all(axis=1))
    reasons[~finite] = "the profile holds NaN or infinity"
    values = np.where(finite[:, None], profiles, 0.0)
    flat = finite & (
        values.max(axis=1) - values.min(axis=1) <= 1.0e-12 * np.abs(values).max(axis=1)
    )
    reasons[flat] = "the profile is flat: no beam"
    n_slices = profiles.shape[1]
    coefficients = spectrum(values)
    compared = compared_harmonics(n_slices)
    # Noise alone gives 2 a harmonic in these units, with a standard deviation of 2.
    variance = noise_above(coefficients, compared, n_slices) ** 2 / (2.0 * n_slices)
    power = np.sum(np.abs(coefficients[:, :compared]) ** 2, axis=1)
    expected = 2.0 * compared + _VISIBLE_SIGMAS * 2.0 * math.sqrt(compared)
    reasons[(reasons == "") & (power < expected * variance)] = (
        "no bunch stands out of the noise in the profile"
    )
    return reasons


@dataclass(frozen=True, kw_only=True)
class Priors:
    """What is known of the beam beforehand."""

    intensity: Gaussian | None
    """Mean and standard deviation, protons."""
    emittance_evs: Gaussian | None
    """Mean and standard deviation, eV s."""
    trigger: Trigger
    """Whether the profile's phase is the RF phase."""
    trigger_sigma_rad: float
    """Standard deviation of a known trigger phase, rad."""
    jitter_s: float = 0.0
    """Standard deviation of the trigger in time, s; adds to it."""

    def __post_init__(self) -> None:
        for name in ("intensity", "emittance_evs"):
            value = getattr(self, name)
            if value is None:
                continue
            if len(value) != 2 or not all(math.isfinite(v) and v > 0.0 for v in value):
                raise UsageError(
                    f"{name} must be (mean, standard deviation), both above 0, not {value!r}"
                )
        if self.trigger not in TRIGGERS:
            raise UsageError(f"trigger must be one of {', '.join(TRIGGERS)}, not {self.trigger!r}")
        if not self.trigger_sigma_rad > 0.0 or not math.isfinite(self.trigger_sigma_rad):
            raise UsageError(
                f"trigger_sigma_rad is {self.trigger_sigma_rad}; it must be above 0 and finite"
            )

    def box(self, given: FitInput, row: int, *, with_intensity: bool, known: bool) -> Box:
        """Bounds and priors of a point's parameters."""
        priors: list[tuple[int, float, float]] = []
        area = float(given.area_evs[row])
        low, high = math.log(SMALLEST_FILLING * area), math.log(LARGEST_FILLING * area)
        if self.emittance_evs is not None:
            mean, relative = math.log(self.emittance_evs[0]), _relative(self.emittance_evs)
            priors.append((LOG_EMITTANCE, mean, relative))
        largest = given.intensity_max / PROTONS
        free = [0, 1, 3]
        if with_intensity:
            free = [0, 1, 2, 3]
            if self.intensity is not None:
                mean, sigma = self.intensity[0] / PROTONS, self.intensity[1] / PROTONS
                priors.append((INTENSITY, mean, sigma))
                largest = max(largest, mean + 5.0 * sigma)
        if known:
            frequency = float(given.conditions.rf_frequency_hz[row])
            jitter = 2.0 * math.pi * frequency * self.jitter_s
            priors.append((TRIGGER, 0.0, math.hypot(self.trigger_sigma_rad, jitter)))
        whole = 4.0 * math.pi
        return Box(
            low=np.array([-whole, low, 0.0, -whole]),
            high=np.array([whole, high, largest, whole]),
            priors=tuple(priors),
            free=np.array(free),
            fixed=np.zeros(COLUMNS),
        )


def _relative(prior: Gaussian) -> float:
    return prior[1] / prior[0]


def noise_array(noise: npt.ArrayLike | None, count: int) -> Array:
    """Rms noise of a slice for each profile [n]; NaN where it is to be measured.

    Raises:
        UsageError: not one value or n, or one that is not above 0.
    """
    if noise is None:
        return np.full(count, np.nan)
    values = np.asarray(noise, dtype=np.float64)
    if values.ndim > 1 or values.size not in (1, count):
        raise UsageError(f"noise has shape {values.shape}; expected one value or {count}")
    if not np.all(np.isfinite(values) & (values > 0.0)):
        raise UsageError("noise must be above 0 and finite, in units of the profile")
    return np.array(np.broadcast_to(values.reshape(-1), (count,)))


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What lies between the beam and the profile."""

    bandwidth_hz: float = math.inf
    """Upper limit of the monitor (-3 dB, one pole), Hz."""
    low_cutoff_hz: float = 0.0
    """Lower limit of the monitor (-3 dB, one pole), Hz."""
    jitter_s: float = 0.0
    """Standard deviation of the trigger, s."""


def chain_of(monitor: Monitor | None, bandwidth_hz: float | None) -> Chain:
    """The measurement chain of a monitor; the bandwidth that is given counts.

    Raises:
        UsageError: a bandwidth that is not above 0.
    """
    if bandwidth_hz is not None and not bandwidth_hz > 0.0:
        raise UsageError(f"bandwidth_hz is {bandwidth_hz}; it must be above 0")
    if monitor is None:
        return Chain() if bandwidth_hz is None else Chain(bandwidth_hz=bandwidth_hz)

    def middle(value: float | Sequence[float]) -> float:
        return float(np.mean(value))

    return Chain(
        bandwidth_hz=middle(monitor.bandwidth_mhz) * 1e6 if bandwidth_hz is None else bandwidth_hz,
        low_cutoff_hz=middle(monitor.low_cutoff_khz) * 1e3,
        jitter_s=middle(monitor.trigger_jitter_ns) * 1e-9,
    )
