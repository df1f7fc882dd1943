"""How a run is asked to end: after the cycle that is being decided, or at once while it waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class StopRequestedError(Exception):
    """Ends the wait for a reading."""


class Stopping:
    """Whether, and why, a run was asked to end; may be asked from a signal handler of its thread."""

    def __init__(self) -> None:
        self.cause = ""
        """Why; empty while nobody asked."""
        self._waiting = False

    def ask(self, cause: str) -> None:
        """End: at once if the run waits for a reading."""
        self.cause = cause
        if self._waiting:
            raise StopRequestedError

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Wait within: who asks meanwhile, or asked before, ends the wait.

        Raises:
            StopRequestedError: somebody did.
        """
        # In this order: a stop that comes in between is then seen by one of the two.
        self._waiting = True
        try:
            if self.cause:
                raise StopRequestedError
            yield
        finally:
            self._waiting = False

    def over(self) -> None:
        """Nothing is interrupted any more: the run is being ended."""
        self._waiting = False
