"""The exceptions of memrl-ctrl.

Every error that a user can cause derives from `MemrlError`; the command line prints its text as one
sentence and exits with `exit_code`, without a traceback.

```
MemrlError                      exit 1
├── UsageError                  exit 2   an option or a combination of options that cannot work
│   └── UnknownNameError                 a name that is not registered; says which are
├── FileError                   exit 3   a file that cannot be read, with its line where there is one
│   ├── ProgramError                     machine and program files
│   ├── PolicyError                      policy files
│   └── TraceError                       traces and journals
├── MissingExtraError           exit 4   an optional dependency is not installed; says how to get it
├── MachineError                exit 5   the machine, or the way to it
│   ├── ConnectionFailed                 nobody answers, or answers in another protocol
│   ├── ReadingTimeout                   no reading came in time
│   └── Refused                          the machine did not take what was asked for
├── MismatchError               exit 6   two parts that do not fit (policy and machine, trace and policy)
└── BeamError                   exit 7   a condition that has no physical solution
```
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from memrl_ctrl.texts import clean


class MemrlError(Exception):
    """Base of every error that is the user's or the machine's, not the program's."""

    exit_code = 1


class MemrlWarning(UserWarning):
    """Base of every warning: something can be used, but looks wrong. One sentence."""


class UsageError(MemrlError):
    """An option, or a combination of options, that cannot work."""

    exit_code = 2


MOST_NAMES = 40
"""Names that a sentence lists; of more it names those that are most like the one that was given."""


class UnknownNameError(UsageError):
    """A name that is not registered.

    Args:
        kind: what the name stands for, for example "backend".
        name: the name that was given.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        if len(names) > MOST_NAMES:
            near = difflib.get_close_matches(name, names, n=8, cutoff=0.0)
            text = f"no {kind} {name!r} among {len(names)}; the most like it: {', '.join(near)}"
        else:
            text = f"no {kind} {name!r}; there is: {', '.join(names) if names else '(none)'}"
        close = difflib.get_close_matches(name, names, n=1)
        if close:
            text += f"; did you mean {close[0]!r}?"
        super().__init__(text)


class FileError(MemrlError):
    """A file that cannot be read or does not say what it should.

    Args:
        path: the file.
        problem: what is wrong and what was expected.
        line: the line it is in, counted from 1.
    """

    exit_code = 3

    def __init__(self, path: str | Path, problem: str, *, line: int | None = None) -> None:
        self.path = Path(path)
        self.problem = problem
        self.line = line
        shown = clean(str(path))
        where = shown if line is None else f"{shown}, line {line}"
        super().__init__(f"{where}: {problem}")


class ProgramError(FileError):
    """A machine or program file that is wrong."""


class PolicyError(FileError):
    """A policy file that is wrong."""


class TraceError(FileError):
    """A trace or journal that is wrong."""


class MissingExtraError(MemrlError):
    """An optional dependency is not installed.

    Args:
        what: what the user asked for, for example "backend 'blond'".
        library: the missing library's name as people write it.
        extra: the extra of memrl-ctrl that brings it.
    """

    exit_code = 4

    def __init__(self, what: str, library: str, extra: str) -> None:
        super().__init__(f'{what} needs {library}: pip install "memrl-ctrl[{extra}]"')


class MachineError(MemrlError):
    """The machine, or the way to it, failed."""

    exit_code = 5


class ConnectionFailed(MachineError):  # noqa: N818 - a sentence, not a suffix
    """Nobody answers at the endpoint, or answers in another protocol or with another key."""


class ReadingTimeout(MachineError):  # noqa: N818
    """No reading came within the time that was allowed."""


class Standstill(ReadingTimeout):
    """No reading came, from a machine that answers and plays no cycle: it may play on at any time."""


class RefusalReason(StrEnum):
    """Why a setpoint was not taken."""

    LATE = "late"
    FENCED = "fenced"
    LIMIT = "limit"
    STEP = "step"
    SLOPE = "slope"
    RATE = "rate"
    NOT_ARMED = "not-armed"
    UNKNOWN_POINT = "unknown-point"
    STALE = "stale"
    NOT_FINITE = "not-finite"
    READ_ONLY = "read-only"
    INVALID = "invalid"
    MISMATCH = "mismatch"


class Refused(MachineError):  # noqa: N818
    """The machine did not take what was asked for; nothing of it was applied.

    Args:
        reason: the typed reason.
        detail: which value, at which point, and what is allowed.
    """

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"refused ({reason.value}): {detail}")


class MismatchError(MemrlError):
    """Two parts that do not fit together, for example a policy and a machine."""

    exit_code = 6


class BeamError(MemrlError):
    """A beam condition that has no physical solution."""

    exit_code = 7
