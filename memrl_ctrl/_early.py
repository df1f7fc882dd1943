"""Signals that reach `memrl-ctrl deploy` or `shadow` while the program is still being loaded.

Loading takes about a second. Without this, SIGUSR1 or SIGUSR2 would kill the process in it, and SIGTERM
would look like a crash. Nothing has been done to a machine by then: SIGTERM ends with 0, Ctrl-C with 130, and
what the operator asked for is kept for the run. Only the program installs them, no import of the library.
"""

import os
import signal
import sys
from types import FrameType

RUNS = ("deploy", "shadow")
"""Commands that listen to these signals."""

asked: list[int] = []
"""SIGUSR1 and SIGUSR2 that came so far, in their order."""


def _note(number: int, _frame: FrameType | None) -> None:
    asked.append(number)


def _end(number: int, _frame: FrameType | None) -> None:
    # SystemExit could be swallowed in the middle of an import; nothing is open that has to be closed.
    os._exit(130 if number == signal.SIGINT else 0)


def install() -> None:
    """Listen from now on, if this process is the program with one of these commands."""
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    module = sys.orig_argv[-len(sys.argv) :][:1] == ["memrl_ctrl"] and program == "-m"
    if not (program == "memrl-ctrl" or module) or sys.argv[1:2] not in ([run] for run in RUNS):
        return
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, _note)
    for number, usual in (
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) is usual:  # ignored from the start stays ignored
            signal.signal(number, _end)
