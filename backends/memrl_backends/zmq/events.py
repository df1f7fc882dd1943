"""What a server tells the one who runs it."""

from __future__ import annotations

from dataclasses import dataclass

from memrl_ctrl.backend import Reading


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a server did."""

    cycles: int
    """Cycles that were played, the first one included."""
    commits: int
    """Functions that were taken."""
    refused: int
    """Requests that were refused."""
    refused_keys: int
    """Connections with a key that is not authorized."""
    seconds: float

    def __str__(self) -> str:
        text = (
            f"played {self.cycles} cycles in {self.seconds:.1f} s, took {self.commits} functions, "
            f"refused {self.refused} requests"
        )
        return text + (f" and {self.refused_keys} unknown keys" if self.refused_keys else "")


@dataclass(frozen=True, kw_only=True)
class CycleEvent:
    """What `on_cycle` is told."""

    reading: Reading
    holder: str
    """Who holds the lease, or empty."""
    commits: int
    """Functions that were taken so far."""
