"""How far long work inside a backend has come, for whoever shows it.

A command listens (`listening`), whatever works for long reports (`report`), and neither knows the
other. Nobody needs to listen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[int, int], None]
"""Called with the work done and the whole of it, in a unit of the reporter's; both the same at the end."""

_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `listener` called by `report`, in this process, while the context is open."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(done: int, total: int) -> None:
    """Tell every listener how much of some work is done."""
    for listener in tuple(_listeners):
        listener(done, total)
