"""What a cycle in a trace costs: bytes, the time until it is durable, and the time to open a day of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
from cyclopts import Parameter

from memrl_ctrl.bench.report import publish
from memrl_ctrl.cli.values import Count, OutputFolder
from memrl_ctrl.errors import FileError
from memrl_ctrl.testing.traces import endless_cycles, sample_header, sample_outcome
from memrl_ctrl.trace import JournalWriter, TraceReader, recover, verify
from memrl_ctrl.trace.codec import encode
from memrl_ctrl.trace.folder import HDF5_NAME, JOURNAL_NAME

POINTS, SLICES = 30, 1000
SMALL_POINTS, SMALL_SLICES = 2, 16
PERIOD_S = 1.2
DAY_CYCLES = round(86_400 / PERIOD_S)
SOURCE_CYCLES = 480
"""Cycles that are recorded to make the day of."""
LARGE_CHUNK_ROWS = 16
"""A column with no more cycles in a chunk is copied chunk by chunk."""
OPENINGS = 7


def run(
    json_path: Path | None = None,
    *,
    cycles: Annotated[Count, Parameter()] = 1000,
    full_day: Annotated[bool, Parameter(negative="")] = False,
    folder: Annotated[OutputFolder | None, Parameter()] = None,
) -> dict[str, Any]:
    """Bytes of a cycle, time until it is durable, and time to open a day of cycles.

    Recorded is what a policy with an LSTM of 128 units does with 30 x 1000 profiles of 10 bits: reading,
    observation, memory in and out, decision. The floor is the same number of bytes, written and synced.

    Args:
        json_path: file for the JSON, or None.
        cycles: cycles that are recorded, each durably, in turn with the floor.
        full_day: the day has full profiles too, about 8 GB on the disk; else 2 x 16 profiles.
        folder: where to write; the disk of that folder is measured.
    """
    place = Path(tempfile.mkdtemp(prefix="memrl-bench-", dir=folder or Path.cwd()))
    try:
        sizes, append_ms, floor_ms = _append(place / "run", cycles)
        recover(place / "run")
        hdf5 = (place / "run" / HDF5_NAME).stat().st_size / cycles
        verify_ms = _timed_ms(lambda: verify(place / "run" / JOURNAL_NAME)) / cycles
        day = _day(_day_source(place / "day", full=full_day), place / "day.h5")
        open_s = [_opened_s(day) for _ in range(OPENINGS)]
    except OSError as error:
        raise FileError(place, f"the benchmark cannot write here: {error.strerror}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    plain, stored = sizes
    figures = {
        "bytes_per_cycle": stored,
        "plain_bytes_per_cycle": plain,
        "hdf5_bytes_per_cycle": hdf5,
        "append_p50_ms": float(np.percentile(append_ms, 50)),
        "append_p99_ms": float(np.percentile(append_ms, 99)),
        "floor_p50_ms": float(np.percentile(floor_ms, 50)),
        "floor_p99_ms": float(np.percentile(floor_ms, 99)),
        "verify_ms_per_cycle": verify_ms,
        "open_day_s": statistics.median(open_s),
        "open_day_first_s": open_s[0],
    }
    rows = [
        {"what": "a cycle in the journal", "value": stored / 1e3, "unit": "kB"},
        {"what": "the same, not packed", "value": plain / 1e3, "unit": "kB"},
        {"what": "a cycle in the HDF5 file", "value": hdf5 / 1e3, "unit": "kB"},
        {"what": "append until durable, median", "value": figures["append_p50_ms"], "unit": "ms"},
        {"what": "append until durable, p99", "value": figures["append_p99_ms"], "unit": "ms"},
        {"what": "bare write + fdatasync, median", "value": figures["floor_p50_ms"], "unit": "ms"},
        {"what": "bare write + fdatasync, p99", "value": figures["floor_p99_ms"], "unit": "ms"},
        {"what": "verify, a cycle", "value": verify_ms, "unit": "ms"},
        {
            "what": f"open a day ({DAY_CYCLES} cycles), median",
            "value": figures["open_day_s"],
            "unit": "s",
        },
    ]
    shape = f"{POINTS} x {SLICES}" if full_day else f"{SMALL_POINTS} x {SMALL_SLICES}"
    return publish(
        name="trace",
        columns=("what", "value", "unit"),
        rows=rows,
        figures=figures,
        json_path=json_path,
        notes=[
            f"{cycles} cycles of {POINTS} x {SLICES} profiles; the day has {shape} profiles.",
            "Opening: header, cycle numbers, the last cycle's profiles; the file is in the page cache.",
        ],
    )


def _append(folder: Path, cycles: int) -> tuple[tuple[float, float], list[float], list[float]]:
    """Return bytes a cycle (plain, stored), times until durable, and those of the floor, ms."""
    folder.mkdir()
    append_ms, floor_ms, plain = [], [], 0
    header = sample_header(points=POINTS, n_slices=SLICES)
    records = endless_cycles(header)
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
    records = endless_cycles(header)
    with JournalWriter(folder / JOURNAL_NAME, header) as journal:
        for _ in range(SOURCE_CYCLES):
            journal.append(next(records), durable=False)
    return recover(folder).hdf5


def _day(source: Path, out: Path) -> Path:
    """Return an HDF5 file of a day of cycles: those of `source`, over and over.

    Chunks of large columns are copied as they are stored: nothing is compressed twice, and the file has the
    layout and the size that a day has.
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
    stored = [column.id.read_direct_chunk((row, *rest))[1] for row in range(0, whole, rows)]
    for index, start in enumerate(range(whole, DAY_CYCLES, rows)):
        column.id.write_direct_chunk((start, *rest), stored[index % len(stored)])


def _opened_s(path: Path) -> float:
    begin = time.perf_counter()
    with TraceReader(path) as trace:
        trace.array("profile", len(trace) - 1)
    return time.perf_counter() - begin
