"""What a cycle in a trace costs: bytes, the time until it is durable, and the time to open a day of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
from cyclopts import Parameter

from memrl_ctrl.bench.report import publish
from memrl_ctrl.cli.values import Count, OutputFolder
from memrl_ctrl.errors import FileError
from memrl_ctrl.outputs import scratch_folder
from memrl_ctrl.testing.traces import digitised_cycle, sample_header, sample_outcome
from memrl_ctrl.trace import (
    CycleRecord,
    JournalWriter,
    TraceHeader,
    TraceReader,
    recover,
    verify,
)
from memrl_ctrl.trace.codec import encode
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME

POINTS, SLICES, HIDDEN = 30, 1000, 128
SMALL_POINTS, SMALL_SLICES, SMALL_HIDDEN = 4, 600, 16
PERIOD_S = 1.2
DAY_CYCLES = round(86_400 / PERIOD_S)
SOURCE_CYCLES = 512
"""Cycles that are recorded to make the day of; whole chunks of every column that is copied by them."""
LARGE_CHUNK_ROWS = 64
"""A column with no more cycles in a chunk is copied chunk by chunk."""
OPENINGS = 7
TABLE = (
    ("bytes_per_cycle", "a cycle in the journal", "kB"),
    ("plain_bytes_per_cycle", "the same, not packed", "kB"),
    ("hdf5_bytes_per_cycle", "a cycle in the HDF5 file", "kB"),
    ("append_p50_ms", "append until durable, median", "ms"),
    ("append_p99_ms", "append until durable, p99", "ms"),
    ("floor_p50_ms", "bare write + fdatasync, median", "ms"),
    ("floor_p99_ms", "bare write + fdatasync, p99", "ms"),
    ("recover_ms_per_cycle", "journal to HDF5, a cycle", "ms"),
    ("recover_cpu_ms_per_cycle", "the same, processor time", "ms"),
    ("verify_ms_per_cycle", "verify the journal, a cycle", "ms"),
    ("verify_hdf5_ms_per_cycle", "verify the HDF5 file, a cycle", "ms"),
    ("open_day_s", f"open a day ({DAY_CYCLES} cycles), median", "s"),
    ("open_day_first_s", "the same, the first time", "s"),
)
"""Rows of the table: figure, what it is, unit."""


def run(
    json_path: Path | None = None,
    *,
    cycles: Annotated[Count, Parameter()] = 1000,
    full_day: Annotated[bool, Parameter(negative="")] = False,
    folder: Annotated[OutputFolder | None, Parameter()] = None,
) -> dict[str, Any]:
    """Bytes of a cycle, time until it is durable, and time to open a day of cycles.

    Recorded is what a policy with an LSTM of 128 units does with 30 x 1000 profiles of 10 bits: reading,
    observation, memory in and out, decision, each cycle with other numbers. The floor is the same number of
    bytes, written and synced. The day is 512 recorded cycles over and over, in the file's own chunks.

    Args:
        json_path: file for the JSON, or None.
        cycles: cycles that are recorded, each durably, in turn with the floor.
        full_day: the day has full profiles too, about 4 GB on the disk; else 4 x 600 profiles.
        folder: where to write; the disk of that folder is measured.
    """
    with scratch_folder(folder) as place:
        try:
            figures = _recorded(place / "run", cycles) | _opened(place / "day", full=full_day)
        except OSError as error:
            raise FileError(place, f"the benchmark cannot write here: {error.strerror}") from error
    shape = (POINTS, SLICES) if full_day else (SMALL_POINTS, SMALL_SLICES)
    return publish(
        name="trace",
        columns=("what", "value", "unit"),
        rows=[
            {"what": what, "value": figures[name] / (1e3 if unit == "kB" else 1.0), "unit": unit}
            for name, what, unit in TABLE
        ],
        figures=figures,
        json_path=json_path,
        notes=[
            f"{cycles} cycles of {POINTS} x {SLICES} profiles; the day has {shape[0]} x {shape[1]}.",
            "Opening: header, cycle numbers, the last cycle's profiles; the file is in the page cache.",
        ],
    )


def _recorded(folder: Path, cycles: int) -> dict[str, float]:
    """Return the figures of a run that is recorded, converted and verified."""
    (plain, stored), append_ms, floor_ms = _append(folder, cycles)
    begin_s = time.process_time()
    recover_ms = _timed_ms(lambda: recover(folder)) / cycles
    recover_cpu_ms = 1e3 * (time.process_time() - begin_s) / cycles
    return {
        "bytes_per_cycle": stored,
        "plain_bytes_per_cycle": plain,
        "hdf5_bytes_per_cycle": (folder / HDF5_NAME).stat().st_size / cycles,
        "append_p50_ms": float(np.percentile(append_ms, 50)),
        "append_p99_ms": float(np.percentile(append_ms, 99)),
        "floor_p50_ms": float(np.percentile(floor_ms, 50)),
        "floor_p99_ms": float(np.percentile(floor_ms, 99)),
        "recover_ms_per_cycle": recover_ms,
        "recover_cpu_ms_per_cycle": recover_cpu_ms,
        "verify_ms_per_cycle": _timed_ms(lambda: verify(folder / JOURNAL_NAME)) / cycles,
        "verify_hdf5_ms_per_cycle": _timed_ms(lambda: verify(folder / HDF5_NAME)) / cycles,
    }


def _opened(folder: Path, *, full: bool) -> dict[str, float]:
    """Return the figures of opening a day."""
    day = _day(_day_source(folder, full=full), folder / "day.h5")
    open_s = [_opened_s(day) for _ in range(OPENINGS)]
    return {
        "open_day_s": statistics.median(open_s),
        "open_day_first_s": open_s[0],
        "day_bytes": float(day.stat().st_size),
    }


def _cycles(header: TraceHeader, hidden: int = HIDDEN) -> Iterator[CycleRecord]:
    """Yield cycles of a digitiser and an LSTM policy for ever, none of them like another."""
    record: CycleRecord | None = None
    for cycle in itertools.count():
        record = digitised_cycle(header, cycle, record, hidden=hidden)
        yield record


def _append(folder: Path, cycles: int) -> tuple[tuple[float, float], list[float], list[float]]:
    """Return bytes a cycle (plain, stored), times until durable, and those of the floor, ms."""
    folder.mkdir()
    append_ms, floor_ms, plain = [], [], 0
    header = sample_header(points=POINTS, n_slices=SLICES)
    records = _cycles(header)
    bare = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    with contextlib.closing(JournalWriter(folder / JOURNAL_NAME, header)) as journal:
        begin = journal.size_bytes
        for _ in range(cycles):
            record = next(records)
            plain += len(encode(record))
            before = journal.size_bytes
            append_ms.append(_timed_ms(lambda record=record: journal.append(record)))
            size = journal.size_bytes - before
            outcome = sample_outcome(record)
            if outcome is not None:
                journal.append(outcome, durable=False)
            floor_ms.append(_timed_ms(lambda size=size: _write(bare, size)))
        stored = (journal.size_bytes - begin) / cycles
    os.close(bare)
    (folder / "floor").unlink()
    return (plain / cycles, stored), append_ms, floor_ms


def _write(file: int, size: int) -> None:
    os.write(file, bytes(size))
    os.fdatasync(file)


def _timed_ms(work: Any) -> float:
    begin = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - begin)


def _day_source(folder: Path, *, full: bool) -> Path:
    folder.mkdir()
    points, slices = (POINTS, SLICES) if full else (SMALL_POINTS, SMALL_SLICES)
    header = sample_header(points, slices)
    records = _cycles(header, HIDDEN if full else SMALL_HIDDEN)
    with JournalWriter(folder / JOURNAL_NAME, header) as journal:
        for _ in range(SOURCE_CYCLES):
            journal.append(next(records), durable=False)
    return recover(folder).hdf5


def _day(source: Path, out: Path) -> Path:
    """Return an HDF5 file of a day of cycles: those of `source`, over and over.

    Chunks of large columns are copied as they are stored: nothing is compressed twice, and the file has the
    layout and the size that a day has. Row i of every column is row i modulo that of `source`.
    """
    shutil.copyfile(source, out)
    with h5py.File(out, "r+") as file:
        there = file["cycles/cycle"].shape[0]
        for group in ("cycles", "outcomes"):
            columns: list[Any] = []
            file[group].visititems(
                lambda _name, item, columns=columns: (
                    columns.append(item) if isinstance(item, h5py.Dataset) else None
                )
            )
            for column in columns:
                _repeated(column, there)
        file["cycles/cycle"][:] = np.arange(DAY_CYCLES)
        file.attrs["cycles"] = np.int64(DAY_CYCLES)
    return out


def _repeated(column: Any, there: int) -> None:
    rows = column.chunks[0]
    column.resize(DAY_CYCLES, axis=0)
    whole = there - there % rows
    if rows > LARGE_CHUNK_ROWS or not whole:
        first = column[:there]
        for start in range(there, DAY_CYCLES, there):
            end = min(start + there, DAY_CYCLES)
            column[start:end] = first[: end - start]
        return
    rest = (0,) * (len(column.shape) - 1)
    stored = [_chunk(column, (row, *rest)) for row in range(0, whole, rows)]
    for index, start in enumerate(range(whole, DAY_CYCLES, rows)):
        chunk = stored[index % len(stored)]
        if chunk is not None:
            column.id.write_direct_chunk((start, *rest), chunk)


def _chunk(column: Any, place: tuple[int, ...]) -> bytes | None:
    """Return a chunk as it is stored; None where it has no value."""
    if column.id.get_chunk_info_by_coord(place).byte_offset is None:
        return None
    return bytes(column.id.read_direct_chunk(place)[1])


def _opened_s(path: Path) -> float:
    begin = time.perf_counter()
    with TraceReader(path) as trace:
        trace.array("profile", len(trace) - 1)
    return time.perf_counter() - begin
