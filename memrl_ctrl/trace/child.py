"""A process of its own for a file of unknown origin: it may use little, change nothing, and ends in time.

HDF5 is a large format read by a large library. What a hostile or a badly damaged file can do to it then
happens to a child process without the right to write a byte, with bounded memory and time; its end is told
in one sentence.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

MEMORY_BYTES = 4 << 30
"""Address space of the child: a record of the largest size that is allowed, some times over."""
OPEN_FILES = 64
CPU_BASE_S, CPU_S_PER_MB = 60, 1
"""Processor time of the child: a second a megabyte, some twenty times what a whole trace takes."""
CPU_GRACE_S = 5
"""From the signal that says so to the end."""
SILENCE_BASE_S, SILENCE_MB_PER_S = 60.0, 16
"""The child is ended when it says nothing for so long: what a slow disk takes for the file is added."""
LINE_BYTES = 1 << 24
"""Longest line that is taken from the child."""
READ_BYTES = 1 << 16
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Each thread of a linear algebra library would take address space of its own."""

T = TypeVar("T")


def ask(
    module: str, path: Path, size: int, listen: Callable[[Iterator[bytes]], T | None]
) -> tuple[T | None, str]:
    """Run a module as a child, with a path and a number of bytes as arguments.

    Args:
        module: it calls `limit` before it does anything else.
        path: of the file or folder.
        size: bytes that there are to read.
        listen: takes the lines of the child as they come, and returns its result; None where there is none.

    Returns:
        The result; or None, and how the child ended, in words that follow what it was to do.

    Raises:
        OSError: the child cannot be started.
    """
    silence_s = SILENCE_BASE_S + (size >> 20) / SILENCE_MB_PER_S
    with subprocess.Popen(  # noqa: S603 - this interpreter, and a path that is an argument only
        [sys.executable, "-I", "-m", module, str(path.absolute()), str(size)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | ONE_THREAD,
    ) as child:
        if child.stdout is None:
            raise RuntimeError("the child has no output")
        try:
            result = listen(_lines(child.stdout, silence_s))
        except TimeoutError:
            return None, f"said nothing for {silence_s:.0f} s"
        finally:
            if child.poll() is None:
                child.kill()
        return result, _ended(child.wait())


def limit(size: int) -> None:
    """Take from this process what it does not need to read some bytes."""
    cpu_s = CPU_BASE_S + CPU_S_PER_MB * (size >> 20)
    for what, most, grace in (
        (resource.RLIMIT_AS, MEMORY_BYTES, 0),
        (resource.RLIMIT_CPU, cpu_s, CPU_GRACE_S),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES, 0),
    ):
        _, hard = resource.getrlimit(what)
        most_ever = most + grace
        allowed = most_ever if hard == resource.RLIM_INFINITY else min(most_ever, hard)
        resource.setrlimit(what, (min(most, allowed), allowed))


def _lines(output: IO[bytes], silence_s: float) -> Iterator[bytes]:
    """Yield the whole lines of a child.

    Raises:
        TimeoutError: it said nothing for too long.
    """
    poll = select.poll()
    poll.register(output, select.POLLIN)
    begun = b""
    while len(begun) <= LINE_BYTES:
        if not poll.poll(1000.0 * silence_s):
            raise TimeoutError
        data = os.read(output.fileno(), READ_BYTES)
        if not data:
            return
        if b"\n" not in data:
            begun += data
            continue
        *lines, begun = (begun + data).split(b"\n")
        yield from lines


def _ended(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "took more time than any trace of its size does"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}" if code else "gave no result"
