"""The HDF5 file of a trace, made from its journal. The layout stands in `docs/trace-format.md`.

Plain HDF5: no SWMR, no newest features, only gzip and shuffle, so that h5py, h5dump and MATLAB read
it. It holds everything that the journal's whole records hold: from it the same bytes can be made.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.trace.blocks import column_of, filler
from memrl_ctrl.trace.chunks import write_chunks
from memrl_ctrl.trace.codec import json_text
from memrl_ctrl.trace.coder import Coder
from memrl_ctrl.trace.columns import LEVELS, PROFILE, cycle_row, described, outcome_row, unquoted
from memrl_ctrl.trace.digest import digest_path, file_digest, write_digest
from memrl_ctrl.trace.folder import sync_folder
from memrl_ctrl.trace.layout import Layout
from memrl_ctrl.trace.records import (
    SCHEMA_VERSION,
    SIGNATURE_BYTES,
    CycleRecord,
    OutcomeRecord,
    SignatureRecord,
    TraceHeader,
)
from memrl_ctrl.trace.report import TraceReport
from memrl_ctrl.trace.scan import JournalReader, Progress
from memrl_ctrl.trace.sink import PatientFile
from memrl_ctrl.trace.summary import Summary

FORMAT = "memrl-ctrl trace"
BLOCK_CYCLES = 64
"""Cycles that are gathered before they are written."""
CHUNK_BYTES = 1 << 17
"""Wanted size of a chunk; one cycle of profiles is about that."""
CHUNK_ROWS = 1024
"""Most cycles in a chunk."""
LEVEL_ROWS = 4096
"""Levels of a digitiser in a chunk."""
GZIP_LEVEL = 1
SAMPLE_FROM_BYTES = 1024
"""A row of a column from this length on is tried with and without shuffle; shorter ones are shuffled."""
EMPTY = "empty_json"
"""Attribute of `/cycles` that names the columns without any element."""


def build_hdf5(
    journal: str | Path,
    out: str | Path,
    progress: Progress | None = None,
    check: Callable[[Path], None] | None = None,
) -> TraceReport:
    """Make the HDF5 file of a journal: under another name first, then renamed, durable; and its digest.

    An HDF5 file of that name is replaced; the journal stays. `recover` replaces one only where nothing of
    it is lost.

    Args:
        journal: the journal, whole or damaged.
        out: the HDF5 file.
        progress: called with the bytes done and the bytes of the journal.
        check: called with the new file before it takes its name; what it raises leaves all as it was.

    Returns:
        What is in it, and what was lost.

    Raises:
        TraceError: the journal cannot be used, or the file cannot be written.
    """
    out = Path(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    with JournalReader(journal) as reader:
        try:
            report = _written(part, reader, progress)
            with part.open("rb") as whole:
                os.fsync(whole.fileno())
            if check is not None:
                check(part)
            digest = file_digest(part)
            # In between there is none, which says nothing, and never that of another file.
            digest_path(out).unlink(missing_ok=True)
            part.replace(out)
            write_digest(out, digest)
            sync_folder(out.parent)
        except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
            why = getattr(error, "strerror", None) or str(error)
            raise TraceError(out, f"cannot be written: {why}") from error
        finally:
            part.unlink(missing_ok=True)
    return report


def _written(part: Path, reader: JournalReader, progress: Progress | None) -> TraceReport:
    """Write the HDF5 file of a journal under another name.

    Raises:
        OSError: the disk is full, or fails.
    """
    with contextlib.closing(PatientFile(part)) as sink:

        def watch(done: int, total: int) -> None:
            if sink.error is not None:
                raise sink.error
            if progress is not None:
                progress(done, total)

        options = {"driver": "fileobj", "fileobj": sink, "libver": ("earliest", "v110")}
        with h5py.File(part.name, "w", **options) as file:
            report = fill(file, reader, watch)
        if sink.error is not None:
            raise sink.error
    return report


def fill(file: Any, journal: JournalReader, progress: Progress | None = None) -> TraceReport:
    """Write a journal's whole records into an open, empty HDF5 file.

    Args:
        file: `h5py.File`, open for writing.
        journal: the journal.
        progress: called with the bytes done and the bytes of the journal.

    Raises:
        TraceError: the records contradict each other.
    """
    summary, columns, heads = Summary(journal), _Columns(file), bytearray()
    signatures = bytearray()
    head_size = 0
    layout = Layout(journal.header)
    cycle: CycleRecord | None = None
    _write_header(file, journal.header)
    try:
        for entry in journal.entries():
            record = entry.record
            if isinstance(record, CycleRecord):
                layout.check(record)
                columns.add(cycle_row(record))
                cycle = record
            elif isinstance(record, OutcomeRecord):
                if cycle is None or cycle.cycle != record.cycle:
                    continue  # its cycle was lost
                layout.check_outcome(record)
                columns.amend(outcome_row(record))
                cycle = None
            elif isinstance(record, SignatureRecord):
                signatures += record.public_key + record.signature
            summary.add(entry)
            heads += entry.head
            head_size = len(entry.head)
            if progress is not None:
                progress(entry.offset + entry.size, journal.size)
        columns.finish()
    except ValueError as error:
        raise TraceError(journal.path, f"the records contradict each other: {error}") from error
    rows = np.frombuffer(bytes(heads), dtype=np.uint8).reshape(-1, head_size)
    _dataset(file, "journal/heads", rows, "heads of the journal's records, as they stood there")
    signed = np.frombuffer(bytes(signatures), dtype=np.uint8).reshape(-1, SIGNATURE_BYTES)
    _dataset(
        file, "journal/signatures", signed, "public key and signature of each signature record"
    )
    report = summary.report()
    _write_state(file, report)
    return report


class _Columns:
    """Gathers rows and writes them to resizable datasets, a block at a time."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._rows: list[dict[str, Any]] = []
        self._coder = Coder()
        self._written = 0
        self._names: dict[str, Any] = {}
        self._empty: dict[str, tuple[str, list[int]]] = {}

    def add(self, row: dict[str, Any]) -> None:
        """Take the next cycle."""
        if len(self._rows) >= BLOCK_CYCLES:
            self._flush()
        self._rows.append(row)

    def amend(self, row: dict[str, Any]) -> None:
        """Add values to the last cycle."""
        self._rows[-1].update(row)

    def finish(self) -> None:
        """Write what is left and give all columns the same length."""
        self._flush()
        for dataset in self._names.values():
            dataset.resize(self._written, axis=0)
        self._file.require_group("cycles").attrs[EMPTY] = json_text(self._empty)
        self._file.require_group("outcomes")

    def _flush(self) -> None:
        known = self._values()
        levels = self._coder.replace(self._rows)
        stored = self._values()
        end = self._written + len(self._rows)
        for name, example in (known | stored).items():
            array = np.asarray(example)
            if array.size == 0:
                self._empty[name] = (array.dtype.str, list(array.shape))
                continue
            dataset = self._names.get(name)
            if dataset is None:
                dataset = _create(self._file, name, example, stored.get(name))
                self._names[name] = dataset
            dataset.resize(end, axis=0)
            if name in stored:
                self._write(dataset, name, example)
        _append_levels(self._file, levels)
        self._written = end
        self._rows.clear()

    def _values(self) -> dict[str, Any]:
        """Return a value of each column that the rows have."""
        return {name: value for row in self._rows for name, value in row.items()}

    def _write(self, dataset: Any, name: str, example: Any) -> None:
        block = column_of(self._rows, name, example)
        if block.dtype == object or BLOCK_CYCLES % dataset.chunks[0]:
            dataset[self._written :] = block
            return
        held = np.array([name in row for row in self._rows])
        write_chunks(dataset, self._written, block, held, GZIP_LEVEL)


def _create(file: Any, path: str, example: Any, stored: Any) -> Any:
    """Make the resizable dataset of a column.

    Args:
        file: `h5py.File`, open for writing.
        path: of the column.
        example: one of its values, for element type and shape.
        stored: one that is stored as it is; None where the first ones are stored otherwise.
    """
    options: dict[str, Any]
    if isinstance(example, str):
        shape: tuple[int, ...] = ()
        options = {"dtype": h5py.string_dtype("utf-8"), "chunks": (256,)}
    else:
        array = np.asarray(example)
        shape = array.shape
        rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // array.nbytes))
        rows = 1 << (
            rows.bit_length() - 1
        )  # whole chunks in a block of cycles, or the other way round
        options = {
            "dtype": array.dtype.newbyteorder("<"),
            "chunks": (rows, *shape),
            "fillvalue": filler(array.dtype),
            "compression": "gzip",
            "compression_opts": GZIP_LEVEL,
            "shuffle": array.dtype.itemsize > 1
            and (stored is None or _shuffled_is_shorter(np.asarray(stored))),
        }
    dataset = file.create_dataset(path, shape=(0, *shape), maxshape=(None, *shape), **options)
    column = described(path)
    units = column.units
    if path.startswith("cycles/measures/"):
        units = file["header/measures"].attrs.get(unquoted(path.rpartition("/")[2]), units)
    dataset.attrs["units"] = units
    dataset.attrs["dimensions"] = column.dimensions
    dataset.attrs["description"] = column.description
    return dataset


def _append_levels(file: Any, levels: NDArray[np.float32]) -> None:
    """Put levels behind those that there are already."""
    if not levels.size:
        return
    if LEVELS not in file:
        dataset = file.create_dataset(
            LEVELS,
            shape=(0,),
            maxshape=(None,),
            dtype="<f4",
            chunks=(LEVEL_ROWS,),
            compression="gzip",
            compression_opts=GZIP_LEVEL,
            shuffle=True,
        )
        dataset.attrs["units"] = described(PROFILE).units
        dataset.attrs["description"] = (
            "values of a digitiser's levels, table after table, each rising"
        )
    dataset = file[LEVELS]
    dataset.resize(dataset.shape[0] + levels.size, axis=0)
    dataset[-levels.size :] = levels


def _shuffled_is_shorter(array: NDArray[Any]) -> bool:
    """Whether gzip makes more of an array's bytes in planes than of the bytes as they stand.

    Numbers of a digitiser repeat whole; all others have only sign and exponent in common.
    """
    data = np.ascontiguousarray(array)
    if data.nbytes < SAMPLE_FROM_BYTES:
        return True
    planes = data.view(np.uint8).reshape(-1, data.itemsize).T
    plain = zlib.compress(data.tobytes(), GZIP_LEVEL)
    return len(zlib.compress(planes.tobytes(), GZIP_LEVEL)) < len(plain)


def _dataset(file: Any, path: str, data: Any, description: str, units: str = "") -> None:
    dataset = file.create_dataset(path, data=data)
    dataset.attrs["description"] = description
    if units:
        dataset.attrs["units"] = units


def _text(file: Any, path: str, text: str, description: str) -> None:
    dataset = file.create_dataset(path, data=text, dtype=h5py.string_dtype("utf-8"))
    dataset.attrs["description"] = description


def _write_header(file: Any, header: TraceHeader) -> None:
    machine = header.machine
    file.attrs.update(
        {
            "format": FORMAT,
            "schema_version": np.int32(SCHEMA_VERSION),
            "run_id": header.run_id,
            "started_utc": header.started_utc,
            "mode": header.mode,
            "machine": machine.name,
            "program": machine.program,
            "backend": machine.backend,
            "fidelity": machine.fidelity,
            "points": np.int64(machine.points),
            "n_slices": np.int64(machine.n_slices),
            "period_s": np.float64(machine.period_s),
            "writable": np.uint8(machine.writable),
            "policy_name": header.policy_name,
            "policy_sha256": header.policy_sha256,
        }
    )
    _write_limits(file.create_group("header/limits"), header.limits)
    _write_limits(file.create_group("header/machine_limits"), machine.limits)
    if machine.ctime_ms is not None:
        ctime = np.asarray(machine.ctime_ms, dtype=np.float64)
        _dataset(file, "header/ctime_ms", ctime, "control points in the cycle", "ms")
    file["header"].create_dataset(
        "guard_stages",
        data=np.array(header.guard_stages, dtype=object),
        dtype=h5py.string_dtype("utf-8"),
    )
    measures = file.create_group("header/measures")
    file["header"].attrs["measures_json"] = json_text(list(header.measures))
    for name, units in header.measures.items():
        measures.attrs[name] = units
    _text(file, "header/manifest_json", header.manifest_json, "manifest of the policy")
    for name, what in (
        ("configuration", "whole resolved configuration of the run"),
        ("versions", "versions of the libraries"),
        ("fingerprint", "what must be equal for a replay to be identical to the bit"),
    ):
        _text(file, f"header/{name}_json", json_text(getattr(header, name)), what)
    files = file.create_group("files")
    files.attrs["order_json"] = json_text(list(header.files))
    for index, (name, data) in enumerate(header.files.items()):
        _dataset(files, str(index), np.frombuffer(data, dtype=np.uint8), name)


def _write_limits(group: Any, limits: PhaseLimits) -> None:
    for name in ("min_rad", "max_rad", "step_rad", "slope_rad_per_ms"):
        group.attrs[name] = np.float64(getattr(limits, name))


def _write_state(file: Any, report: TraceReport) -> None:
    end = report.end
    file.attrs.update(
        {
            "cycles": np.int64(report.cycles),
            "ended": np.uint8(end is not None),
            "ended_utc": "" if end is None else end.ended_utc,
            "end_reason": "" if end is None else end.reason,
            "end_cycles": np.int64(-1 if end is None else end.cycles),
            "journal_bytes": np.int64(report.size_bytes),
            "lost_bytes": np.int64(report.lost_bytes),
        }
    )
    damage = msgspec.json.encode(report.damage).decode()
    _text(file, "journal/damage_json", damage, "what is lost of the journal, and where")
