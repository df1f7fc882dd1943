"""Reading a trace: the cycles as they were decided, and whole columns as arrays."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any, SupportsIndex

import h5py
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.signatures import HDF5, HDF5_ENDING
from memrl_ctrl.trace.columns import CYCLES
from memrl_ctrl.trace.datasets import DAMAGE, attribute
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME, looking_at
from memrl_ctrl.trace.records import CycleRecord, OutcomeRecord, SignatureRecord
from memrl_ctrl.trace.report import Damage
from memrl_ctrl.trace.scan import JournalReader, Progress
from memrl_ctrl.trace.store import Hdf5Store, JournalStore, Store


class TraceReader:
    """A trace, from its HDF5 file, from its journal, or from the folder of the run.

    An HDF5 file is read where it is asked for. A journal is gone through when it is opened, and then read
    where it is asked for. In a folder the HDF5 file counts, unless the journal has grown since it was made
    and can be used.

    Args:
        path: `trace.h5`, `trace.journal`, or the folder that holds them.
        progress: called with bytes done and bytes in all while a journal is indexed.

    Raises:
        TraceError: it cannot be read, is no trace, or of another schema version.
    """

    def __init__(self, path: str | Path, progress: Progress | None = None) -> None:
        self.path = find_trace(path)
        with self._reading():
            self._store: Store = (
                Hdf5Store(self.path) if is_hdf5(self.path) else JournalStore(self.path, progress)
            )
        self.header = self._store.header
        self.report = self._store.report
        self.cycles = self._store.cycles
        """Numbers of the cycles [cycles]."""

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._store.close()

    def __enter__(self) -> TraceReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of cycles."""
        return self.cycles.size

    def __iter__(self) -> Iterator[CycleRecord]:
        return (self.record(index) for index in range(len(self)))

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What was lost of the journal."""
        return self.report.damage

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, as `array` takes them."""
        return self._store.names

    def array(self, name: str, rows: slice | SupportsIndex = slice(None)) -> NDArray[Any]:
        """Return a column, or some of its rows, with the cycles as first dimension.

        Args:
            name: path in the file, for example `cycles/profile`; `cycles/` may be left out.
            rows: which cycles, by index: one, negative counts from the end, or a slice as of a list.

        Raises:
            IndexError: there is no such cycle.
            TypeError: `rows` is neither a whole number nor a slice.
            ValueError: the step of the slice is 0.
            TraceError: there is no such column, or it is damaged.
        """
        if isinstance(rows, slice):
            rows.indices(len(self))  # says what is wrong with it, if anything is
            wanted: slice | int = rows
        else:
            wanted = self._checked(_whole(rows))
        path = name if name in self.names else CYCLES + name
        if path not in self.names:
            raise TraceError(self.path, f"no column {name!r}; there is: {', '.join(self.names)}")
        with self._reading():
            return self._store.column(path, wanted)

    def record(self, index: int) -> CycleRecord:
        """Return a cycle exactly as it was recorded; its arrays are read-only.

        Args:
            index: which cycle, from 0; negative counts from the end.

        Raises:
            IndexError: there is no such cycle.
            TraceError: the file is damaged there.
        """
        index = self._checked(index)
        with self._reading(index):
            return self._store.record(index)

    def outcome(self, index: int) -> OutcomeRecord | None:
        """Return what became of a cycle's setpoint; None where it is not known.

        Args:
            index: which cycle, from 0; negative counts from the end.

        Raises:
            IndexError: there is no such cycle.
            TraceError: the file is damaged there.
        """
        index = self._checked(index)
        with self._reading(index):
            return self._store.outcome(index)

    def heads(self) -> NDArray[np.uint8]:
        """Return the heads of the journal's records, in their plain form [records, bytes]."""
        with self._reading():
            return self._store.heads()

    def signatures(self) -> list[SignatureRecord]:
        """Return the signature records, in their order."""
        with self._reading():
            return self._store.signatures()

    def _checked(self, index: int) -> int:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"cycle index {index}; the trace has {count} cycles")
        return index % count

    @contextlib.contextmanager
    def _reading(self, index: int | None = None) -> Iterator[None]:
        """Turn what h5py says of a damaged file into a sentence."""
        try:
            yield
        except DAMAGE as error:
            where = "" if index is None else f" at cycle index {index}"
            raise TraceError(self.path, f"damaged{where}: {error}") from error


def _whole(rows: Any) -> int:
    try:
        return operator.index(rows)
    except TypeError as error:
        what = type(rows).__name__
        raise TypeError(f"rows must be a whole number or a slice, not {what}") from error


def find_trace(path: str | Path) -> Path:
    """Return the file to read for a path that may be a run's folder.

    Raises:
        TraceError: there is none.
    """
    path = Path(path)
    with looking_at(path):
        if path.is_dir():
            return _in_folder(path)
        if not path.exists():
            raise TraceError(path, "does not exist; expected a trace (.h5, .journal) or its folder")
        if not path.is_file():  # a pipe would block whoever opens it
            raise TraceError(path, "is no file; expected a trace (.h5, .journal) or its folder")
    return path


def _in_folder(folder: Path) -> Path:
    journal, hdf5 = folder / JOURNAL_NAME, folder / HDF5_NAME
    if hdf5.is_file() and journal.is_file():
        return journal if stale(hdf5, journal) and _counts(journal, hdf5) else hdf5
    for path in (hdf5, journal):
        if path.is_file():
            return path
    raise TraceError(folder, f"holds no trace: neither {HDF5_NAME} nor {JOURNAL_NAME}")


def _counts(journal: Path, hdf5: Path) -> bool:
    """Whether a journal can be used, or else the HDF5 file cannot be either."""
    try:
        JournalReader(journal).close()
    except TraceError:
        try:
            h5py.File(hdf5, "r").close()
        except (OSError, RuntimeError):
            return True
        return False
    return True


def stale(hdf5: Path, journal: Path) -> bool:
    """Whether a journal has grown since its HDF5 file was made, or that file cannot be opened."""
    try:
        with h5py.File(hdf5, "r") as file:
            return attribute(file, "journal_bytes", int) < journal.stat().st_size
    except DAMAGE:
        return True


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does, or has its ending.

    Raises:
        TraceError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5)) == HDF5 or path.suffix == HDF5_ENDING
    except OSError as error:
        raise TraceError(path, f"cannot be read: {error.strerror}") from error
