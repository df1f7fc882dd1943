"""Where commands say something: a rich console that is kind to pipes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rich.console import Console

WIDE = 4096
"""Columns where the output is no terminal: nothing is cut for want of room."""


class Terminal(Console):
    """A console for output that may go into a file or a pipe.

    Outside a terminal lines are as long as they need to be (unless COLUMNS says otherwise), so that
    `grep` and `cut` find whole names. When the reader of a pipe goes away (`head`, `less`) or a terminal
    is closed, what is written later goes nowhere, and the command goes on and ends with its own exit code.

    Args:
        on_gone: called once when the reader has gone; a command that runs until it is stopped ends
            itself here.
        options: of `rich.console.Console`.
    """

    def __init__(self, *, on_gone: Callable[[], None] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.on_gone = on_gone
        if not self.is_terminal and "width" not in options and "COLUMNS" not in os.environ:
            self.width = WIDE

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except OSError as error:
            if error.errno != errno.EIO:  # what a terminal gives that was closed
                raise
            raise BrokenPipeError from error

    def on_broken_pipe(self) -> None:
        """Say no more; rich would end the process with exit code 1."""
        self.quiet = True
        # The interpreter writes what is left in the stream at its end: that must not fail either.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)
        if self.on_gone is not None:
            self.on_gone()
