"""Checking a trace of unknown origin: in a process of its own that may use little and change nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from memrl_ctrl.errors import TraceError
from memrl_ctrl.texts import clean
from memrl_ctrl.trace.child import MEMORY_BYTES, ask, limit
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME, looking_at
from memrl_ctrl.trace.records import EndRecord
from memrl_ctrl.trace.recovery import verify
from memrl_ctrl.trace.report import Beside, Damage, Signed, TraceReport
from memrl_ctrl.trace.scan import Progress

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
    answer, ended = _asked(path, progress)
    if answer is None:
        report = _without_hdf5(path, ended, progress)
        if report is None:
            raise TraceError(path, f"the check of it {ended}: it cannot be used")
        return report
    if answer.problem:
        raise TraceError(path, clean(answer.problem))
    return _report(path, answer)


def _asked(path: Path, progress: Progress | None) -> tuple[_Answer | None, str]:
    """Return the child's result, or None and how it ended.

    Raises:
        TraceError: it cannot be started, or there is nothing that it could check.
    """
    size = _size(path)

    def listen(lines: Iterator[bytes]) -> _Answer | None:
        return _heard(lines, progress)

    try:
        return ask(__name__, path, size, listen)
    except OSError as error:
        raise TraceError(
            path, f"the process that would check it cannot be started: {error.strerror}"
        ) from error


def _without_hdf5(path: Path, ended: str, progress: Progress | None) -> TraceReport | None:
    """Return the report on the journal of a folder whose HDF5 file the child did not survive.

    Returns:
        None where there are not both files, or the journal cannot be used either.
    """
    journal = path / JOURNAL_NAME
    with looking_at(path):
        if not (journal.is_file() and (path / HDF5_NAME).is_file()):
            return None
    answer, _ = _asked(journal, progress)
    if answer is None or answer.problem:
        return None
    unusable = Beside(name=HDF5_NAME, text=f"is unusable: the check of it {ended}", fault=True)
    return replace(_report(journal, answer), beside=unusable)


def _heard(lines: Iterator[bytes], progress: Progress | None) -> _Answer | None:
    """Return the child's result; None where it ended without one."""
    decoder = msgspec.json.Decoder(_Answer)
    for line in lines:
        try:
            answer = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if answer.problem or answer.cycles >= 0:
            return answer
        if progress is not None:
            progress(answer.done, answer.total)
    return None


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
        return _Answer(problem=_utf8(error.problem))
    except MemoryError:
        return _Answer(problem=f"asks for more than {MEMORY_BYTES >> 30} GB of memory: unusable")
    end, signed = report.end, report.signed
    return _Answer(
        name=_utf8(report.path.name),
        cycles=report.cycles,
        first_cycle=report.first_cycle,
        last_cycle=report.last_cycle,
        end=None if end is None else (end.cycles, end.ended_utc, end.reason),
        live=report.live,
        size_bytes=report.size_bytes,
        damage=tuple(
            msgspec.structs.replace(place, text=_utf8(place.text)) for place in report.damage
        ),
        signed={} if signed is None else dict(signed.cycles),
        unsigned=0 if signed is None else signed.unsigned,
        beside=report.beside,
    )


def _utf8(text: str) -> str:
    """Return a text with what UTF-8 cannot say, as in the name of a file, made visible."""
    return text.encode("utf-8", "backslashreplace").decode()


if __name__ == "__main__":
    limit(int(sys.argv[2]))
    _say(_check(Path(sys.argv[1])))
