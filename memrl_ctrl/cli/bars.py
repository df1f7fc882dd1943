"""A bar for long work inside a backend: shown when the work reports, and only then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from memrl_ctrl.progress import listening

LINE_EVERY_S = 10.0
"""Where there is no terminal, a line in this time, s."""


@contextmanager
def work_bar(console: Console, words: str, *, quiet: bool = False) -> Iterator[None]:
    """Show how far reported work has come: a bar with the remaining time, or lines in a file.

    Args:
        console: where; on a terminal the bar goes when the work is done.
        words: what is being done.
        quiet: show nothing.
    """
    if quiet:
        yield
        return
    bar = _Bar(console, words)
    try:
        with listening(bar.show):
            yield
    finally:
        bar.stop()


class _Bar:
    def __init__(self, console: Console, words: str) -> None:
        self._console = console
        self._words = words
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._began_s = self._said_s = 0.0
        self._last = 0

    def show(self, done: int, total: int) -> None:
        """Show the state of some work; less done than before is the next piece of work."""
        now = time.monotonic()
        if done < self._last or not self._began_s:
            self.stop()
            self._began_s = self._said_s = now
        self._last = done
        if self._console.is_terminal:
            self._draw(done, total)
        elif now - self._said_s >= LINE_EVERY_S and 0 < done < total:
            self._said_s = now
            left = round((now - self._began_s) * (total - done) / done)
            self._console.print(
                f"{self._words}: {100 * done / total:.0f} %, {left // 60}:{left % 60:02d} left",
                markup=False,
            )
        if done >= total:
            self.stop()

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(self._words, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._began_s, self._last = 0.0, 0
