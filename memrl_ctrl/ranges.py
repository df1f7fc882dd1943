"""Options that are a number, a range from which every episode draws its own, or values by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml

from memrl_ctrl.errors import UsageError

Range = tuple[float, float]
"""(low, high); equal where nothing is drawn."""


def as_range(name: str, value: float | Sequence[float], *, infinite: bool = False) -> Range:
    """Return (low, high) from a number or a pair; equal for a number.

    Args:
        name: what it is called in the error.
        value: a number, or two in order.
        infinite: whether a single infinity is allowed, for a limit that there is not.

    Raises:
        UsageError: not one or two finite numbers in order.
    """
    if _number(value):
        low = high = float(value)  # type: ignore[arg-type]
    elif isinstance(value, Sequence) and len(value) == 2 and all(_number(v) for v in value):
        low, high = (float(v) for v in value)
    else:
        raise UsageError(f"{name} must be a number or a pair (low, high), not {value!r}")
    allowed = infinite and low == high and math.isinf(low)
    if not (allowed or (math.isfinite(low) and math.isfinite(high) and low <= high)):
        raise UsageError(f"{name} must be finite and in order, not {value!r}")
    return low, high


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def named_values(flag: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return values by name from what stands on a command line.

    Args:
        flag: the option, for errors.
        texts: `name=number`, `name=[low, high]`, or a single word, which is the value of `preset`;
            the last of a name counts.

    Raises:
        UsageError: a value that is neither a number nor a list.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            values["preset"] = text
            continue
        try:
            parsed = yaml.safe_load(value)
            values[name] = [_read(v) for v in parsed] if isinstance(parsed, list) else _read(parsed)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise UsageError(
                f"{flag} {text!r} is not of the form name=number or name=[low, high]"
            ) from error
    return values


def _read(value: Any) -> int | float:
    """Return a number; YAML takes 1e-3 and inf for words."""
    return value if isinstance(value, int | float) else float(value)
