"""What every part of a configuration checks with."""

from __future__ import annotations

from memrl_ctrl.errors import UsageError

Sizes = tuple[int, ...]


class ConfigError(UsageError, ValueError):
    """A configuration that cannot work: the key, what it is, what is allowed."""


def require(holds: bool, sentence: str) -> None:
    """Raise `ConfigError` with the sentence unless the condition holds."""
    if not holds:
        raise ConfigError(sentence)


def require_between(owner: object, low: float, high: float, *names: str) -> None:
    """Refuse fields outside [low, high], by name; NaN is outside."""
    for name in names:
        value = getattr(owner, name)
        require(low <= value <= high, f"{name} must be between {low:g} and {high:g}, not {value}")
