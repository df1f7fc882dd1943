"""Single keys from a terminal, as they are pressed."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Any

NAMES = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left",
    b"\x1bOA": "up", b"\x1bOB": "down", b"\x1bOC": "right", b"\x1bOD": "left",
    b" ": "space", b"\r": "enter", b"\n": "enter", b"\t": "tab", b"\x1b": "q",
}  # fmt: skip
"""What the bytes of keys without a letter mean; Escape is as good as q."""


class Keys:
    """Reads keys from standard input; while it is open they are not shown and need no Enter."""

    def __init__(self) -> None:
        self._file = sys.stdin.fileno()
        self._before: list[Any] = []

    def __enter__(self) -> Keys:
        self._before = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float | None) -> str:
        """Return the next key, in lower case; '' where none comes in time.

        Args:
            seconds: how long to wait; None: as long as it takes.
        """
        ready, _, _ = select.select([self._file], [], [], seconds)
        if not ready:
            return ""
        data = os.read(self._file, 1)
        if not data:  # the terminal is gone
            return "q"
        if data == b"\x1b" and select.select([self._file], [], [], 0.02)[0]:
            data += os.read(self._file, 2)
        return NAMES.get(data, data.decode("utf-8", "replace").lower())
