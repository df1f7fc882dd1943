"""Signals of a run: some end it, one gives the machine to the operator, one engages again."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from memrl_ctrl import _early

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run."""


class Signalled(Protocol):
    """A run, as signals see it."""

    def stop(self, cause: str) -> None:
        """End."""
        ...

    def take_over(self) -> None:
        """Give the machine to the operator."""
        ...

    def engage_again(self) -> None:
        """Leave manual."""
        ...


@contextmanager
def stopped_by_signals(runtime: Signalled) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end a run cleanly; a second one ends it at once.

    A closed terminal is no reason where SIGHUP is ignored from the start (`nohup`). SIGUSR1 gives the
    machine to the operator, SIGUSR2 engages again, also where they came while the program was loaded.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        runtime.stop(f"stopped by {signal.Signals(number).name}")

    def operator(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            runtime.take_over()
        else:
            runtime.engage_again()

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    ending = [number for number in ENDING if not (number is signal.SIGHUP and ignored)]
    before = {number: signal.signal(number, handle) for number in ending}
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        before[number] = signal.signal(number, operator)
    for early in _early.asked:  # while the program was being loaded
        operator(early, None)
    _early.asked.clear()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
