"""The gate: limits that the server enforces by itself, whatever the client or the backend thinks.

A file of the server's own (YAML) narrows what the backend allows:

```yaml
min_rad: -6.3             # smallest value
max_rad: 6.3              # largest value
step_rad: 0.5             # largest change of a point from one cycle to the next
slope_rad_per_ms: 0.05    # largest change along the cycle
rate:                     # over a window
  travel_rad: 3.0         # how far a point may travel, forth and back added up, ...
  cycles: 20              # ... in so many cycles in a row
```

Each may be left out. Where file and backend differ, the narrower one holds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from memrl_ctrl.backend import FloatArray, MachineDescription
from memrl_ctrl.errors import FileError, RefusalReason, Refused, UnknownNameError
from memrl_ctrl.limits import TOLERANCE_RAD, PhaseLimits, RateLimit


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """What a file of limits says; None where it says nothing."""

    min_rad: float | None = None
    max_rad: float | None = None
    step_rad: float | None = None
    slope_rad_per_ms: float | None = None
    rate: RateLimit | None = None

    def within(self, limits: PhaseLimits) -> PhaseLimits:
        """Return the narrower of these and a backend's limits.

        Raises:
            ValueError: nothing is left.
        """

        def narrower(name: str, choose: Any) -> float:
            own, given = getattr(self, name), getattr(limits, name)
            return given if own is None else float(choose(own, given))

        return PhaseLimits(
            min_rad=narrower("min_rad", max),
            max_rad=narrower("max_rad", min),
            step_rad=narrower("step_rad", min),
            slope_rad_per_ms=narrower("slope_rad_per_ms", min),
        )


def load_limits(path: Path) -> GateLimits:
    """Read a file of limits.

    Raises:
        FileError: absent, no YAML, an unknown name, or a value that is none.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(path, f"these limits cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise FileError(path, "this is no YAML: " + " ".join(str(error).split())) from error
    if not isinstance(given, dict) or not given:
        raise FileError(path, f"limits are names and values, as step_rad: 0.5; names: {_names()}")
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == "rate":
            values[name] = _rate(path, value)
        elif name in _names():
            values[name] = _number(path, str(name), value)
        else:
            raise FileError(path, str(UnknownNameError("limit", str(name), _names())))
    return GateLimits(**values)


def _names() -> list[str]:
    return [field.name for field in fields(GateLimits)]


def _number(path: Path, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise FileError(path, f"{name} is {value!r}; a finite number is needed")
    if name not in {"min_rad", "max_rad"} and value <= 0:
        raise FileError(path, f"{name} is {value!r}; it must be above 0")
    return float(value)


def _rate(path: Path, value: Any) -> RateLimit:
    if not isinstance(value, dict) or set(value) != {"travel_rad", "cycles"}:
        raise FileError(path, "rate needs travel_rad and cycles, and nothing else")
    cycles = value["cycles"]
    if isinstance(cycles, bool) or not isinstance(cycles, int) or not 1 <= cycles <= 10_000:
        raise FileError(path, f"cycles of rate is {cycles!r}; it must be 1 to 10000")
    return RateLimit(travel_rad=_number(path, "travel_rad", value["travel_rad"]), cycles=cycles)


class Gate:
    """Checks functions before a backend gets them; remembers what was applied.

    Args:
        description: of the backend; its limits are narrowed.
        own: the server's own limits.

    Raises:
        ValueError: no function can keep both.
    """

    def __init__(self, description: MachineDescription, own: GateLimits | None = None) -> None:
        own = own or GateLimits()
        self.limits = own.within(description.limits)
        self.rate = own.rate
        self._ctime_ms = description.ctime_ms
        self._last: FloatArray | None = None
        # Changes of the cycles that share a window with the next one.
        window = self.rate.cycles - 1 if self.rate else 0
        self._changes: deque[FloatArray] = deque(maxlen=window)
        self._travelled = np.zeros(description.points)

    def played(self, applied_rad: FloatArray) -> None:
        """Note what a cycle applied [points], rad."""
        if self.rate is not None and self._last is not None:
            change = np.abs(applied_rad - self._last)
            if self._changes.maxlen:
                self._changes.append(change)
                self._travelled = np.sum(self._changes, axis=0)
        self._last = applied_rad

    def check(self, phi_hw_rad: FloatArray, applied_rad: FloatArray) -> None:
        """Refuse a function for the next cycle that breaks a limit.

        Args:
            phi_hw_rad: what is asked for [points], rad.
            applied_rad: what is applied now [points], rad.

        Raises:
            Refused: with the reason, the point and what is allowed.
        """
        self.limits.check(phi_hw_rad, applied_rad, self._ctime_ms)
        if self.rate is None:
            return
        travel = self._travelled + np.abs(phi_hw_rad - applied_rad)
        if travel.max() > self.rate.travel_rad + TOLERANCE_RAD:
            i = int(np.argmax(travel))
            raise Refused(
                RefusalReason.RATE,
                f"point {i} would have travelled {travel[i]:.4f} rad in {self.rate.cycles} cycles; "
                f"allowed is {self.rate.travel_rad:.4f} rad",
            )


def gate_for(description: MachineDescription, file: Path | None) -> Gate:
    """Make a machine's gate, with a file of limits of the server's own if there is one.

    Raises:
        FileError: the file is absent or wrong, or no function can keep both it and the machine's limits.
    """
    own = GateLimits() if file is None else load_limits(file)
    try:
        return Gate(description, own)
    except ValueError as error:
        raise FileError(
            file or "limits", f"nothing keeps these and the machine's: {error}"
        ) from error
