"""How far long work inside a backend has come, for whoever shows it.

A command listens (`listening`), whatever works for long reports (`report`), and neither knows the
other. Nobody needs to listen. A listener that wants no more of the work raises `Cancelled`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[int, int], None]
"""Called with the work done and the whole of it, in a unit of the reporter's; both the same at the end."""

_listeners: list[Listener] = []


class Cancelled(Exception):  # noqa: N818 - no error: what was asked for
    """Work ended before it was done, because whoever listened wanted no more of it."""


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have `listener` called by `report`, in this process, while the context is open."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def report(done: int, total: int) -> None:
    """Tell every listener how much of some work is done.

    Raises:
        Cancelled: a listener wants no more of it; the work ends there.
    """
    for listener in tuple(_listeners):
        listener(done, total)
