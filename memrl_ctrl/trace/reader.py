"""Reading a trace: the cycles as they were decided, and whole columns as arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace.codec import json_value
from memrl_ctrl.trace.columns import CYCLES, OUTCOMES
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME
from memrl_ctrl.trace.hdf5 import EMPTY, FORMAT, fill
from memrl_ctrl.trace.records import SCHEMA_VERSION, CycleRecord, OutcomeRecord
from memrl_ctrl.trace.report import Damage
from memrl_ctrl.trace.rows import cycle_of, header_of, outcome_of, report_of
from memrl_ctrl.trace.scan import JournalReader, Progress

BLOCK_CYCLES = 16
"""Cycles that are read at once."""
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class TraceReader:
    """A trace, from its HDF5 file, from its journal, or from the folder of the run.

    A journal is indexed in memory. In a folder the HDF5 file counts, unless the journal has grown
    since it was made.

    Args:
        path: `trace.h5`, `trace.journal`, or the folder that holds them.
        progress: called with bytes done and bytes in all while a journal is indexed.

    Raises:
        TraceError: it cannot be read, is no trace, or of another schema version.
    """

    def __init__(self, path: str | Path, progress: Progress | None = None) -> None:
        self.path = find_trace(path)
        self._block: tuple[int, dict[str, Any]] = (-1, {})
        self._file = _open(self.path) if is_hdf5(self.path) else _indexed(self.path, progress)
        try:
            with self._reading():
                self._check_format()
                self.header = header_of(self._file)
                self.report = report_of(self._file, self.path)
                self._empty = json_value(self._file["cycles"].attrs[EMPTY])
                self.cycles = self._cycles()
                self._columns = sorted(_datasets(self._file))
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

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
        return tuple(self._columns)

    def array(self, name: str, rows: slice | int = slice(None)) -> NDArray[Any]:
        """Return a column, or some of its rows, with the cycles as first dimension.

        Args:
            name: path in the file, for example `cycles/profile`; `cycles/` may be left out.
            rows: which cycles, by index.

        Raises:
            TraceError: there is no such column, or it is damaged.
        """
        path = name if name in self._columns else CYCLES + name
        if path not in self._columns:
            raise TraceError(self.path, f"no column {name!r}; there is: {', '.join(self.names)}")
        with self._reading():
            return np.asarray(_decoded(self._file[path])[rows])

    def record(self, index: int) -> CycleRecord:
        """Return a cycle exactly as it was recorded; its arrays are read-only.

        Args:
            index: which cycle, from 0; negative counts from the end.

        Raises:
            IndexError: there is no such cycle.
            TraceError: the file is damaged there.
        """
        row = self._row(index)
        with self._reading(index):
            return cycle_of(row, self.header)

    def outcome(self, index: int) -> OutcomeRecord | None:
        """Return what became of a cycle's setpoint; None where it is not known.

        Args:
            index: which cycle, from 0; negative counts from the end.

        Raises:
            IndexError: there is no such cycle.
            TraceError: the file is damaged there.
        """
        row = self._row(index)
        with self._reading(index):
            return outcome_of(row)

    def heads(self) -> NDArray[np.uint8]:
        """Return the heads of the journal's records [records, bytes]."""
        with self._reading():
            return np.asarray(self._file["journal/heads"][:], dtype=np.uint8)

    def _row(self, index: int) -> dict[str, Any]:
        """Return the values of one cycle by column."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"cycle index {index}; the trace has {count} cycles")
        index %= count
        start = index - index % BLOCK_CYCLES
        if self._block[0] != start:
            self._block = (-1, {})
            with self._reading(start):
                end = min(start + BLOCK_CYCLES, count)
                self._block = (start, self._rows(start, end))
        return {name: values[index - start] for name, values in self._block[1].items()}

    def _rows(self, start: int, end: int) -> dict[str, Any]:
        block = {name: _decoded(self._file[name])[start:end] for name in self._columns}
        for name, (dtype, shape) in self._empty.items():
            block[name] = np.empty((end - start, *shape), dtype=dtype)
        for values in block.values():
            values.flags.writeable = False
        return block

    def _cycles(self) -> NDArray[np.int64]:
        if "cycle" not in self._file["cycles"]:
            return np.empty(0, dtype=np.int64)
        return np.asarray(self._file["cycles/cycle"][:], dtype=np.int64)

    def _check_format(self) -> None:
        if self._file.attrs.get("format") != FORMAT:
            raise TraceError(self.path, "is HDF5, but no trace of memrl-ctrl")
        version = int(self._file.attrs["schema_version"])
        if version != SCHEMA_VERSION:
            raise TraceError(
                self.path, f"schema version {version}; this release reads {SCHEMA_VERSION}"
            )

    @contextlib.contextmanager
    def _reading(self, index: int | None = None) -> Iterator[None]:
        """Turn what h5py says of a damaged file into a sentence."""
        try:
            yield
        except (
            OSError,
            KeyError,
            ValueError,
            TypeError,
            RuntimeError,
            msgspec.MsgspecError,
        ) as error:
            where = "" if index is None else f" at cycle index {index}"
            raise TraceError(self.path, f"damaged{where}: {error}") from error


def find_trace(path: str | Path) -> Path:
    """Return the file to read for a path that may be a run's folder.

    Raises:
        TraceError: there is none.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            raise TraceError(path, "does not exist; expected a trace (.h5, .journal) or its folder")
        return path
    journal, hdf5 = path / JOURNAL_NAME, path / HDF5_NAME
    if hdf5.is_file() and not (journal.is_file() and stale(hdf5, journal)):
        return hdf5
    if journal.is_file():
        return journal
    raise TraceError(path, f"holds no trace: neither {HDF5_NAME} nor {JOURNAL_NAME}")


def stale(hdf5: Path, journal: Path) -> bool:
    """Whether a journal has grown since its HDF5 file was made, or that file cannot be opened."""
    try:
        with h5py.File(hdf5, "r") as file:
            return int(file.attrs.get("journal_bytes", -1)) != journal.stat().st_size
    except OSError:
        return True


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does, or has its ending.

    Raises:
        TraceError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE or path.suffix == ".h5"
    except OSError as error:
        raise TraceError(path, f"cannot be read: {error.strerror}") from error


def _open(path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise TraceError(path, f"cannot be opened as HDF5: {error}") from error


def _indexed(path: Path, progress: Progress | None) -> Any:
    """Return a journal as an HDF5 file in memory."""
    with JournalReader(path) as journal:
        file = h5py.File(f"{path}.h5", "w", driver="core", backing_store=False)
        try:
            fill(file, journal, progress)
        except BaseException:
            file.close()
            raise
    return file


def _datasets(file: Any) -> list[str]:
    """Return the paths of all columns."""
    paths: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            paths.append(name)

    for group in (CYCLES, OUTCOMES):
        file[group].visititems(lambda name, item, group=group: visit(group + name, item))
    return paths


def _decoded(dataset: Any) -> Any:
    """Return a dataset whose strings, if it has any, come as str."""
    return dataset.asstr() if h5py.check_string_dtype(dataset.dtype) else dataset
