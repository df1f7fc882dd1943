"""Files that a command leaves behind: tried before the work, written whole or not at all after it.

A command that takes the name of an output calls `check_output_file` (or `check_output_folder`) before
it does anything that takes time, so that a typing mistake costs a second and not the result of a
night. Afterwards it writes with `write_output`, `write_json`, or, for a library that wants a path,
inside `output_file`. All of them make the folders that are missing, as `mkdir -p` does. On the command
line the annotated types of `memrl_ctrl.cli.values` do the first half while the options are read.

None of them replaces a trace, which may be all that is left of a run, nor the digest of one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from memrl_ctrl import signatures
from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.texts import clean

STDOUT = "-"
"""As the name of a JSON file: standard output."""
TRACE_BEGINNINGS = (signatures.HDF5, signatures.JOURNAL)
TRACE_ENDINGS = (signatures.HDF5_ENDING, signatures.JOURNAL_ENDING)
"""A file of such a name counts as a trace too: its beginning may be damaged."""


def check_output_file(path: str | Path, *, replace: bool = True) -> Path:
    """Try, before the work, whether a file can be written after it; leaves nothing behind.

    Args:
        path: the file; folders that are missing are no fault, they are made when it is written.
        replace: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        UsageError: the file exists and may not be replaced.
        FileError: it is a folder or a trace, or it cannot be written there; says why.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise FileError(path, "is a folder: give the name of a file")
        _refuse_trace(path)
        if path.exists():
            if not replace:
                raise UsageError(
                    f"{clean(str(path))} exists: give another name, or --force to replace it"
                )
            if _written_in_place(path):
                if not os.access(path, os.W_OK):
                    raise FileError(path, "cannot be written: Permission denied")
                return path
        _try_folder(path.resolve().parent, path)
    except OSError as error:
        raise _problem(path, error) from error
    return path


def check_output_folder(path: str | Path) -> Path:
    """Try, before the work, whether files can be written in a folder; leaves nothing behind.

    Args:
        path: the folder; it and its parents may be missing.

    Returns:
        The path.

    Raises:
        FileError: it is a file, or nothing can be written there; says why.
    """
    path = Path(path)
    try:
        _try_folder(path.resolve(), path)
    except OSError as error:
        raise _problem(path, error) from error
    return path


@contextmanager
def output_file(path: str | Path) -> Iterator[Path]:
    """Give another path to write to; at the end of the block the file takes its place.

    The other path has the same suffix and lies in the same folder, which is made where it is missing.
    A block that raises leaves what was there before.

    Args:
        path: the file; what a symbolic link points to is replaced, not the link.

    Raises:
        FileError: it cannot be written, or is a trace; also for an `OSError` in the block.
    """
    path = Path(path)
    try:
        _refuse_trace(path)
        if _written_in_place(path):
            with tempfile.TemporaryDirectory() as folder:
                partial = Path(folder) / f"partial{path.suffix}"
                yield partial
                with partial.open("rb") as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            return
        place = path.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{secrets.token_hex(8)}.partial{place.suffix}")
        try:
            yield partial
            if place.exists():
                shutil.copymode(place, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _problem(path, error) from error


def write_output(path: str | Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, and the folders it needs; text as UTF-8.

    Returns:
        The path.

    Raises:
        FileError: it cannot be written, or is a trace; what was there is still there.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with output_file(path) as partial:
        partial.write_bytes(data)
    return Path(path)


def write_json(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write an object as indented JSON, like `write_output`; `-` is standard output.

    Raises:
        FileError: it cannot be written.
    """
    text = json.dumps(values, indent=2) + "\n"
    if str(path) == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_output(path, text)


@contextmanager
def scratch_folder(within: Path | None) -> Iterator[Path]:
    """Give a new folder for a while: what is in it is taken away at the end of the block.

    Args:
        within: the folder that it is made in, which is made where it is missing; None is the current one.

    Raises:
        FileError: it cannot be made there.
    """
    place = within or Path.cwd()
    try:
        place.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="memrl-", dir=place))
    except OSError as error:
        raise _problem(place, error) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _refuse_trace(path: Path) -> None:
    """Refuse to write where a trace is, or its digest.

    Raises:
        FileError: one is there.
        OSError: it may not be looked at.
    """
    digested = path.with_name(path.name.removesuffix(signatures.DIGEST_ENDING) or path.name)
    if not path.is_file() or not _is_trace(digested):
        return
    what = "a trace" if digested == path else f"the digest of {digested.name}"
    raise FileError(
        path, f"is {clean(what)}, which is not replaced by an output: give another name"
    )


def _is_trace(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix in TRACE_ENDINGS or path.resolve().suffix in TRACE_ENDINGS:
        return True
    with path.open("rb") as file:
        return file.read(max(map(len, TRACE_BEGINNINGS))).startswith(TRACE_BEGINNINGS)


def _written_in_place(path: Path) -> bool:
    """Whether a path is a device or a pipe, which must not be replaced by a file."""
    return path.absolute().is_relative_to("/dev") or (path.exists() and not path.is_file())


def _try_folder(folder: Path, output: Path) -> None:
    """Make the folder and a file in it, and take both away again.

    Raises:
        FileError: a part of the way is a file.
        OSError: it cannot be done.
    """
    missing = []
    for place in (folder, *folder.parents):
        if place.exists():
            if not place.is_dir():
                raise FileError(
                    output, f"cannot be written: {clean(str(place))} is a file, not a folder"
                )
            break
        missing.append(place)
    made = []
    try:
        for place in reversed(missing):
            place.mkdir(exist_ok=True)
            made.append(place)
        with tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for place in reversed(made):
            with suppress(OSError):
                place.rmdir()


def _problem(path: Path, error: OSError) -> FileError:
    return FileError(path, f"cannot be written: {error.strerror or error}")
