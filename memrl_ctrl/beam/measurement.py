# ruff: noqa: PLR0917 - the compiled functions take a row's numbers one by one
"""What a wall-current monitor and its digitiser make of a line density.

The chain, in the order of the signal: the trigger comes a little early or late; the pick-up and its
cables pass neither the highest nor the lowest frequencies; gain and baseline are not quite one and
zero; every slice has noise; the digitiser has steps and an end.

Every filter is the exact response of a single pole to a periodic signal that is constant within a
slice, averaged over the slice: area is conserved, and nothing overshoots.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memrl_ctrl.backend import Quality
from memrl_ctrl.compiling import compiled
from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.ranges import Range, as_range

Array = NDArray[np.float64]
ProfileArray = NDArray[np.float32]
FlagArray = NDArray[np.uint16]

MAX_BITS = 24
FOOT = 0.1
"""Part of the digitiser's range that lies below zero, as a fraction of what lies above (assumption:
an operator leaves a tenth for undershoot and noise)."""
FOOT_SHARE = 0.01
"""Part of a profile's slices that may be cut at the foot without a flag: the lowest of the noise, next to
nothing of what a profile says. Cut at the top, one slice is enough."""
TINY = 1.0e-30
"""Keeps the tail that a pole leaves out of the subnormal numbers, which are slow; a peak that is not
above it is no beam."""
POSSIBLE = {
    "bandwidth_mhz": (1.0, 1e6, "MHz"),
    "low_cutoff_khz": (0.0, 1e3, "kHz"),
    "noise": (0.0, 10.0, "of a profile's peak"),
    "baseline": (0.0, 1.0, "of a profile's peak"),
    "trigger_jitter_ns": (0.0, 1e3, "ns"),
    "gain": (1e-3, 1e3, "times the nominal gain"),
    "full_scale": (1e-2, 1e3, "times the reference peak"),
}
"""What an instrument can be at all, for what may be given as a range."""
_UNLIMITED = {"bandwidth_mhz", "full_scale"}


@dataclass(frozen=True, kw_only=True, eq=False)
class MonitorState:
    """One instrument a row, as drawn for an episode; arrays [n]."""

    bandwidth_hz: Array
    """Upper limit, -3 dB, Hz; infinity where there is none."""
    low_cutoff_hz: Array
    """Lower limit, -3 dB, Hz."""
    noise: Array
    """Standard deviation of a slice, fraction of the peak."""
    baseline: Array
    """Standard deviation of a profile's baseline, fraction of the peak."""
    trigger_jitter_s: Array
    """Standard deviation of the trigger, s."""
    gain: Array
    """Gain at this shot."""
    full_scale: Array
    """Top of the digitiser's range over the reference peak; infinity where there is none."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.gain.size

    def take(self, rows: NDArray[np.int64]) -> MonitorState:
        """Return some of the rows, in the order given; a row may come more than once."""
        return MonitorState(**{name: values[rows] for name, values in self._items()})

    def merged(self, new: MonitorState, rows: NDArray[np.int64]) -> MonitorState:
        """Return these instruments with the given rows replaced by `new`'s, in order."""
        result = {name: values.copy() for name, values in self._items()}
        for name, values in new._items():
            result[name][rows] = values
        return MonitorState(**result)

    def _items(self) -> list[tuple[str, Array]]:
        return [(item.name, getattr(self, item.name)) for item in dataclasses.fields(self)]


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """A wall-current monitor with its digitiser.

    What is a number may be a pair (low, high): every episode then draws its own instrument from
    that range. The defaults are those of a good instrument and are assumptions where no source is
    named (`WCM`); `IDEAL` has noise and nothing else.

    Raises:
        UsageError: a value out of its range, by name.
    """

    bandwidth_mhz: Range = (100.0, 100.0)
    """Upper limit (-3 dB, one pole), MHz; infinity for none. The pick-up itself reaches GHz (CERN
    PS, cern.ch/psring/psring/misc/wcm.html); assumed is what cables and digitiser leave."""
    low_cutoff_khz: Range = (1.0, 1.0)
    """Lower limit (-3 dB, one pole), kHz; 0 for none. The droop tilts the baseline by
    2 pi low_cutoff / f of the profile's mean over a turn. A bare monitor has about 100 kHz (same
    source), which nobody uses without correction (for the correction see A. D'Elia, R. Fandos,
    L. Soby, CERN, EuroTeV 2008); assumed is what such a correction leaves."""
    noise: Range = (0.02, 0.02)
    """Standard deviation of a slice's white noise, fraction of the profile's peak."""
    baseline: Range = (0.005, 0.005)
    """Standard deviation of the baseline's error, drawn anew for every profile, fraction of the
    peak. The mean that a transformer takes away is restored; this is what is left."""
    trigger_jitter_ns: Range = (1.0, 1.0)
    """Standard deviation of the trigger against the RF, drawn for every profile, ns."""
    gain: Range = (0.95, 1.05)
    """Gain of the chain against the nominal one."""
    gain_drift: float = 0.001
    """Standard deviation of the gain's random walk, relative, a shot."""
    bits: int = 10
    """Bits of the digitiser (effective); 0 for no steps."""
    full_scale: Range = (2.5, 2.5)
    """Top of the digitiser's range over the reference peak, that of an episode's first profiles at
    gain 1; infinity for none. 2.5 leaves room for the shortest bunch where the first was flat."""

    def __post_init__(self) -> None:
        """Refuse an instrument that cannot be."""
        for name, (low, high, unit) in POSSIBLE.items():
            endless = name in _UNLIMITED
            given = as_range(name, getattr(self, name), infinite=endless)
            if not (low <= given[0] <= given[1] <= high or (endless and given[0] == math.inf)):
                wrong = given[0] if not low <= given[0] <= high else given[1]
                end = " (or infinity)" if endless else ""
                raise UsageError(f"{name} must be {low:g} to {high:g}{end} {unit}, not {wrong:g}")
            object.__setattr__(self, name, given)
        if not (isinstance(self.gain_drift, int | float) and 0.0 <= self.gain_drift < 1.0):
            raise UsageError(f"gain_drift must be at least 0 and below 1, not {self.gain_drift!r}")
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise UsageError(f"bits must be a whole number, not {self.bits!r}")
        if not (self.bits == 0 or 2 <= self.bits <= MAX_BITS):
            raise UsageError(f"bits must be 0 (no steps) or 2 to {MAX_BITS}, not {self.bits}")
        if self.bits and math.isinf(self.full_scale[0]):
            raise UsageError(
                f"{self.bits} bits have to be spread over a range: give full_scale, or bits=0"
            )
        if self.bandwidth_mhz[0] * 1e3 <= self.low_cutoff_khz[1]:
            raise UsageError(
                f"low_cutoff_khz ({self.low_cutoff_khz[1]:g} kHz) must be below bandwidth_mhz "
                f"({self.bandwidth_mhz[0]:g} MHz)"
            )

    def draw(self, count: int, rng: np.random.Generator) -> MonitorState:
        """Draw `count` instruments for an episode; any monitor takes as many draws from `rng`."""

        def drawn(limits: Range, factor: float = 1.0) -> Array:
            low, high = limits
            share = rng.random(count)
            return factor * (low + (high - low) * share if high > low else np.full(count, low))

        return MonitorState(
            bandwidth_hz=drawn(self.bandwidth_mhz, 1e6),
            low_cutoff_hz=drawn(self.low_cutoff_khz, 1e3),
            noise=drawn(self.noise),
            baseline=drawn(self.baseline),
            trigger_jitter_s=drawn(self.trigger_jitter_ns, 1e-9),
            gain=drawn(self.gain),
            full_scale=drawn(self.full_scale),
        )

    def drifted(
        self, state: MonitorState, rng: np.random.Generator, *, common: bool = False
    ) -> MonitorState:
        """Return the instruments one shot later.

        Args:
            state: the instruments now.
            rng: generator.
            common: whether the rows are one instrument that drifts as one.
        """
        step = self.gain_drift * rng.standard_normal(1 if common else len(state))
        return dataclasses.replace(state, gain=state.gain * np.exp(step))

    def measure(
        self,
        line_density: NDArray[Any],
        rf_frequency_hz: ArrayLike,
        rng: np.random.Generator,
        *,
        state: MonitorState | None = None,
        reference_peak: ArrayLike | None = None,
    ) -> tuple[ProfileArray, FlagArray]:
        """Return what the monitor shows of line densities.

        Args:
            line_density: [n, n_slices] over one turn, phase increasing with time, any unit.
            rf_frequency_hz: frequency of that turn (the lower harmonic's) [n], Hz.
            rng: generator of noise, baseline and trigger.
            state: the instruments [n]; new ones are drawn where it is not given.
            reference_peak: peak that the digitiser's range was set for [n], unit of the line
                density; each profile's own where it is not given, not finite or not above 0.

        Returns:
            Profiles [n, n_slices] float32 in the line density's unit, and flags [n]:
            `Quality.SATURATED` where a slice was cut. A row that is not finite comes back as NaN,
            without a flag.

        Raises:
            UsageError: shapes that do not fit, or a frequency that is not above 0.
        """
        density = np.ascontiguousarray(line_density, dtype=np.float32)
        if density.ndim != 2 or density.shape[1] < 2:
            raise UsageError(f"line_density must be [n, n_slices], not of shape {density.shape}")
        count, n_slices = density.shape
        frequency = np.broadcast_to(np.asarray(rf_frequency_hz, dtype=np.float64), (count,))
        if not (np.isfinite(frequency).all() and (frequency > 0.0).all()):
            raise UsageError("rf_frequency_hz must be finite and above 0")
        drawn = self.draw(count, rng) if state is None else state
        if len(drawn) != count:
            raise UsageError(f"{len(drawn)} instruments for {count} profiles")
        # All draws are made whatever the values, so that a seed's noise is the same with any monitor.
        result = rng.standard_normal(density.shape, dtype=np.float32)
        early, offset = rng.standard_normal((2, count))
        peak = density.max(axis=1).astype(np.float64)
        top = np.where(np.isfinite(peak) & (peak > TINY), peak, 1.0)
        if reference_peak is not None:
            given = np.broadcast_to(np.asarray(reference_peak, dtype=np.float64), (count,))
            top = np.where(np.isfinite(given) & (given > TINY), given, top)
        amplitude = peak * drawn.gain
        slice_s = 1.0 / (frequency * n_slices)
        flags = np.zeros(count, dtype=np.uint16)
        _acquire(
            density,
            2.0 * np.pi * drawn.bandwidth_hz * slice_s,
            2.0 * np.pi * drawn.low_cutoff_hz * slice_s,
            early * drawn.trigger_jitter_s / slice_s,
            drawn.gain,
            offset * drawn.baseline * amplitude,
            drawn.noise * amplitude,
            drawn.full_scale * top,
            float(2**self.bits - 1) if self.bits else 0.0,
            np.uint16(Quality.SATURATED),
            result,
            flags,
        )
        return result, flags


WCM = Monitor()
"""A good instrument."""
IDEAL = Monitor(
    bandwidth_mhz=(math.inf, math.inf),
    low_cutoff_khz=(0.0, 0.0),
    baseline=(0.0, 0.0),
    trigger_jitter_ns=(0.0, 0.0),
    gain=(1.0, 1.0),
    gain_drift=0.0,
    bits=0,
    full_scale=(math.inf, math.inf),
)
"""Noise, and nothing else."""
PRESETS: Mapping[str, Monitor] = {"wcm": WCM, "ideal": IDEAL}
"""Monitors by name."""
DEFAULT_PRESET = "wcm"


def monitor_from(option: str | Mapping[str, Any] | Monitor | None) -> Monitor:
    """Return the monitor that an option asks for.

    Args:
        option: a preset's name (`wcm`, `ideal`), or a mapping of `Monitor`'s fields, a `preset` to
            begin with among them; None is the preset `wcm`. The noise has an option of its own.

    Raises:
        UsageError: an unknown preset or field, or a value out of range.
    """
    if option is None:
        return PRESETS[DEFAULT_PRESET]
    if isinstance(option, Monitor):
        return option
    if isinstance(option, str):
        if option not in PRESETS:
            raise UnknownNameError("monitor", option, PRESETS)
        return PRESETS[option]
    if not isinstance(option, Mapping):
        raise UsageError(
            f"monitor must be one of {', '.join(sorted(PRESETS))}, or values by name, "
            f"not {option!r}"
        )
    values = dict(option)
    begin = monitor_from(str(values.pop("preset", DEFAULT_PRESET)))
    known = {item.name for item in dataclasses.fields(Monitor)} - {"noise"}
    for name in values:
        if name == "noise":
            raise UsageError(
                "the noise of a slice is an option of its own, noise, not the monitor's"
            )
        if name not in known:
            raise UnknownNameError("value of a monitor:", str(name), known | {"preset"})
    return dataclasses.replace(begin, **values)


@compiled
def _acquire(
    density: Any,
    high: Any,
    low: Any,
    shift: Any,
    gain: Any,
    offset: Any,
    sigma: Any,
    top: Any,
    levels: Any,
    flag: Any,
    result: Any,
    flags: Any,
) -> None:
    """Pass density [n, n_slices] through the chain; `result` comes in as normal noise.

    high, low: slice over time constant of the two poles [n]. shift: slices to later times [n].
    levels: highest code of the digitiser, 0 for none.
    """
    count, slices = density.shape
    values = np.empty(slices, dtype=np.float32)
    state = np.empty(slices, dtype=np.float32)
    for row in range(count):
        _rolled(density[row], shift[row], values)
        if high[row] < np.inf:
            _low_pass(values, high[row], state)
        if low[row] > 0.0:
            _droop(values, low[row], state)
        cut = _digitise(values, result[row], gain[row], offset[row], sigma[row], top[row], levels)
        if cut:
            flags[row] |= flag


@compiled
def _rolled(profile: Any, shift: Any, values: Any) -> None:
    """Move a profile to later times by a number of slices, parts of one by linear interpolation."""
    slices = profile.shape[0]
    whole = math.floor(shift)
    part = np.float32(shift - whole)
    stay = np.float32(1.0) - part
    start = int(whole) % slices
    # values[j] takes from profile[j - start] and its neighbour before it, around the turn.
    values[start] = stay * profile[0] + part * profile[slices - 1]
    for i in range(1, slices - start):
        values[i + start] = stay * profile[i] + part * profile[i - 1]
    for i in range(start):
        here = slices - start + i
        values[i] = stay * profile[here] + part * profile[here - 1]


@compiled
def _low_pass(values: Any, ratio: Any, state: Any) -> None:
    """One pole in the periodic state; `ratio` is a slice over the time constant."""
    slices = values.shape[0]
    keep = math.exp(-ratio)
    rest = -math.expm1(-ratio)
    # What came before the turn is its own end; after 37 time constants the rest is below rounding.
    reach = slices
    if ratio * slices > 37.0:
        reach = int(37.0 / ratio) + 1
    level = 0.0
    for i in range(slices - min(reach, slices), slices):
        level = keep * level + rest * values[i]
    level /= -math.expm1(-ratio * reach)
    # Four at a time: one by one each slice waits for the one before it.
    keep2, keep3, keep4 = keep**2, keep**3, keep**4
    i = 0
    while i + 4 <= slices:
        a, b = rest * values[i] + TINY, rest * values[i + 1]
        c, d = rest * values[i + 2], rest * values[i + 3]
        ab = keep * a + b
        state[i] = level
        state[i + 1] = keep * level + a
        state[i + 2] = keep2 * level + ab
        state[i + 3] = keep3 * level + (keep * ab + c)
        level = keep4 * level + (keep2 * ab + (keep * c + d))
        i += 4
    while i < slices:
        state[i] = level
        level = keep * level + rest * values[i]
        i += 1
    share = np.float32(rest / ratio)
    for k in range(slices):
        values[k] -= share * (values[k] - state[k])


@compiled
def _droop(values: Any, ratio: Any, state: Any) -> None:
    """Take a low pole's response away, but for its mean (the restored baseline).

    The response is slow: it is followed in steps of a few slices, and is a straight line in them.
    """
    slices = values.shape[0]
    step = 8
    while step > 1 and (slices % step != 0 or slices // step < 64):
        step //= 2
    blocks = slices // step
    rest = -math.expm1(-ratio * step)
    level, total = 0.0, 0.0
    for block in range(blocks):
        mean = np.float32(0.0)
        for i in range(block * step, block * step + step):
            mean += values[i]
        state[block] = mean / step
        level += rest * (state[block] - level)
        total += state[block]
    level /= -math.expm1(-ratio * slices)
    total /= blocks
    for block in range(blocks):
        following = level + rest * (state[block] - level)
        slope = np.float32((following - level) / step)
        start = np.float32(level - total) + np.float32(0.5) * slope
        for i in range(step):
            values[block * step + i] -= start + slope * np.float32(i)
        level = following


@compiled
def _digitise(
    values: Any, result: Any, gain: Any, offset: Any, sigma: Any, top: Any, levels: Any
) -> Any:
    """Amplify, add noise (in `result`) and digitise; return whether the range was too small."""
    slices = values.shape[0]
    bottom = -FOOT * top
    most, above, below = FOOT_SHARE * slices, 0, 0
    if levels > 0.0:
        step = (top - bottom) / levels
        a, b = np.float32(gain / step), np.float32(sigma / step)
        c = np.float32((offset - bottom) / step + 0.5)
        step, low, high = np.float32(step), np.float32(bottom), np.float32(levels)
        zero = np.float32(0.0)
        for i in range(slices):
            code = np.floor(a * values[i] + b * result[i] + c)
            below += code < zero
            above += code > high
            result[i] = low + step * min(max(code, zero), high)
        return above > 0 or below > most
    a, b, c = np.float32(gain), np.float32(sigma), np.float32(offset)
    low, high = np.float32(bottom), np.float32(top)
    for i in range(slices):
        value = a * values[i] + b * result[i] + c
        below += value < low
        above += value > high
        result[i] = min(max(value, low), high)
    return above > 0 or below > most
