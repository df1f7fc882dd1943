"""Checking a trace of unknown origin: in a process of its own that may use little and change nothing.

HDF5 is a large format read by a large library. What a hostile or a badly damaged file can do to it then
happens to a child process without the right to write a byte, with bounded memory and time; its end is told
in one sentence.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from memrl_ctrl.errors import TraceError
from memrl_ctrl.texts import clean
from memrl_ctrl.trace.folder import looking_at
from memrl_ctrl.trace.records import EndRecord
from memrl_ctrl.trace.recovery import verify
from memrl_ctrl.trace.report import Beside, Damage, Signed, TraceReport
from memrl_ctrl.trace.scan import Progress

MEMORY_BYTES = 4 << 30
"""Address space of the child: a record of the largest size that is allowed, some times over."""
OPEN_FILES = 64
CPU_BASE_S, CPU_S_PER_MB = 60, 1
"""Processor time of the child: a second a megabyte, some twenty times what a whole trace takes."""
LINE_BYTES = 1 << 24
"""Longest line that is taken from the child."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Each thread of a linear algebra library would take address space of its own."""
STEP = 200
"""Progress is told when another 1/200 is done."""


class _Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the child: how far it is, or its result."""

    done: int = 0
    total: int = 0
    problem: str = ""
    name: str = ""
    cycles: int = -1
    first_cycle: int | None = None
    last_cycle: int | None = None
    end: tuple[int, str, str] | None = None
    live: bool = False
    size_bytes: int = 0
    damage: tuple[Damage, ...] = ()
    signed: dict[str, int] = {}
    unsigned: int = 0
    beside: Beside | None = None


def verify_untrusted(path: str | Path, progress: Progress | None = None) -> TraceReport:
    """Check a trace as `verify` does, in a child process with limits.

    Args:
        path: `trace.h5`, `trace.journal`, or the folder that holds them.
        progress: called with the work done and the whole of it.

    Raises:
        TraceError: it cannot be used at all, or the child did not survive it.
    """
    path = Path(path)
    size = _size(path)
    command = [sys.executable, "-I", "-m", __name__, str(path.absolute()), str(size)]
    try:
        answer, code = _ask(command, progress)
    except OSError as error:
        raise TraceError(
            path, f"the process that would check it cannot be started: {error.strerror}"
        ) from error
    if answer is None:
        raise TraceError(path, f"the check of it {_ended(code)}: it cannot be used")
    if answer.problem:
        raise TraceError(path, clean(answer.problem))
    return _report(path, answer)


def _ask(command: list[str], progress: Progress | None) -> tuple[_Answer | None, int]:
    """Run the child; return its result, None without one, and its exit code."""
    with subprocess.Popen(  # noqa: S603 - this interpreter, and a path that is an argument only
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | ONE_THREAD,
    ) as child:
        if child.stdout is None:
            raise RuntimeError("the child has no output")
        try:
            answer = _listen(child.stdout, progress)
        finally:
            if child.poll() is None:
                child.kill()
        return answer, child.wait()


def _listen(output: IO[bytes], progress: Progress | None) -> _Answer | None:
    """Return the child's result; None where it ended without one."""
    decoder = msgspec.json.Decoder(_Answer)
    for line in _lines(output):
        try:
            answer = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if answer.problem or answer.cycles >= 0:
            return answer
        if progress is not None:
            progress(answer.done, answer.total)
    return None


def _lines(output: IO[bytes]) -> Iterator[bytes]:
    while line := output.readline(LINE_BYTES):
        yield line


def _size(path: Path) -> int:
    """Return the bytes that there are to check.

    Raises:
        TraceError: it is neither a file nor a folder, for example a pipe, which would block.
    """
    with looking_at(path):
        if path.is_dir():
            return sum(item.stat().st_size for item in path.iterdir() if item.is_file())
        if path.exists() and not path.is_file():
            raise TraceError(path, "is no file; expected a trace (.h5, .journal) or its folder")
        return path.stat().st_size if path.exists() else 0


def _ended(code: int) -> str:
    if code == -signal.SIGXCPU:
        return "took more time than any trace of its size does"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}" if code else "gave no result"


def _report(path: Path, answer: _Answer) -> TraceReport:
    end = None
    if answer.end is not None:
        cycles, ended, reason = answer.end
        end = EndRecord(cycles=cycles, ended_utc=clean(ended), reason=clean(reason))
    beside = answer.beside
    if beside is not None:
        beside = Beside(name=clean(beside.name), text=clean(beside.text), fault=beside.fault)
    return TraceReport(
        path=path / clean(answer.name) if path.is_dir() else path,
        cycles=answer.cycles,
        first_cycle=answer.first_cycle,
        last_cycle=answer.last_cycle,
        end=end,
        live=answer.live,
        size_bytes=answer.size_bytes,
        damage=tuple(
            msgspec.structs.replace(place, text=clean(place.text)) for place in answer.damage
        ),
        signed=Signed(cycles=answer.signed, unsigned=answer.unsigned),
        beside=beside,
    )


def _limit(size: int) -> None:
    """Take from this process what a check does not need."""
    cpu_s = CPU_BASE_S + CPU_S_PER_MB * (size >> 20)
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        _, hard = resource.getrlimit(what)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def _say(answer: _Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


def _check(path: Path) -> _Answer:
    told = -1

    def progress(done: int, total: int) -> None:
        nonlocal told
        step = done * STEP // max(total, 1)
        if step != told:
            told = step
            _say(_Answer(done=done, total=total))

    try:
        report = verify(path, progress)
    except TraceError as error:
        return _Answer(problem=error.problem)
    except MemoryError:
        return _Answer(problem=f"asks for more than {MEMORY_BYTES >> 30} GB of memory: unusable")
    end, signed = report.end, report.signed
    return _Answer(
        name=report.path.name,
        cycles=report.cycles,
        first_cycle=report.first_cycle,
        last_cycle=report.last_cycle,
        end=None if end is None else (end.cycles, end.ended_utc, end.reason),
        live=report.live,
        size_bytes=report.size_bytes,
        damage=report.damage,
        signed={} if signed is None else dict(signed.cycles),
        unsigned=0 if signed is None else signed.unsigned,
        beside=report.beside,
    )


if __name__ == "__main__":
    _limit(int(sys.argv[2]))
    _say(_check(Path(sys.argv[1])))
