"""Processes beside a run that end with it, however it ends: killed in the middle too.

Whoever starts one gives it a pipe as standard input and writes nothing to it. The pipe ends when the last
process that holds its other end is gone, which the kernel sees to.

`python -m memrl_deploy.companion ARGUMENT ...` is `memrl-ctrl ARGUMENT ...` in such a process.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time
from collections.abc import Callable

STDIN = 0
"""File descriptor of standard input."""
CLEAN_S = 30.0
"""How long a process may take to end cleanly once its parent is gone, s."""


def end_with_parent(end: Callable[[], None]) -> None:
    """Have this process call something in a thread of its own when whoever started it is gone.

    Args:
        end: ends the process, in the midst of its work too.
    """

    def wait() -> None:
        # Not sys.stdin: its lock, held by this thread, would break the interpreter's own end.
        while os.read(STDIN, 4096):
            pass
        end()

    threading.Thread(target=wait, daemon=True).start()


def _terminate() -> None:
    """End as by SIGTERM, and if that takes too long, at once."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CLEAN_S)
    os._exit(1)


if __name__ == "__main__":
    end_with_parent(_terminate)
    runpy.run_module("memrl_ctrl", run_name="__main__", alter_sys=True)
