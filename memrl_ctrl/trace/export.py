"""A trace as CSV, Parquet or MCAP, for other people's tools. Documented in `docs/trace-format.md`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace.codec import json_value
from memrl_ctrl.trace.reader import TraceReader
from memrl_ctrl.trace.records import SCHEMA_VERSION, CycleRecord, OutcomeRecord, Verdict
from memrl_ctrl.trace.scan import Progress

BLOCK_CYCLES = 64
"""Cycles that are written at once."""
OUTCOMES = {None: "", True: "taken", False: "refused"}
MCAP_PROFILE = "memrl-ctrl"


class Form(StrEnum):
    """What a trace can be exported to."""

    CSV = "csv"
    """A row a cycle and control point; text."""
    PARQUET = "parquet"
    """The same rows, typed; needs pyarrow."""
    MCAP = "mcap"
    """Messages in time, for Foxglove; needs mcap."""


def export(
    trace: TraceReader,
    out: str | Path,
    form: Form,
    *,
    profiles: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a trace in another form, and return the number of rows or messages.

    Args:
        trace: the trace, with one cycle at least.
        out: the file.
        form: which form.
        profiles: with the profiles, which are most of a trace.
        progress: called with the cycles done and their number.

    Raises:
        TraceError: the trace has no cycle, or is damaged.
        ModuleNotFoundError: the form's library is not installed.
    """
    if not len(trace):
        raise TraceError(trace.path, "has no cycle; there is nothing to export")
    writer = {Form.CSV: _to_csv, Form.PARQUET: _to_parquet, Form.MCAP: _to_mcap}[form]
    return writer(trace, Path(out), profiles, progress)


def _cycles(
    trace: TraceReader, progress: Progress | None
) -> Iterator[tuple[CycleRecord, OutcomeRecord | None]]:
    for index in range(len(trace)):
        yield trace.record(index), trace.outcome(index)
        if progress is not None:
            progress(index + 1, len(trace))


def table_of(
    trace: TraceReader, record: CycleRecord, outcome: OutcomeRecord | None
) -> dict[str, NDArray[Any]]:
    """Return one cycle as columns of one row a control point, [points] each.

    Args:
        trace: for the control points and the guard's stages.
        record: the cycle.
        outcome: what became of it, if it is known.
    """
    header, reading, points = trace.header, record.reading, record.reading.profile.shape[0]
    nothing = np.full(points, np.nan)

    def same(value: Any, dtype: Any) -> NDArray[Any]:
        return np.full(points, value, dtype=dtype)

    columns: dict[str, NDArray[Any]] = {
        "cycle": same(record.cycle, np.int64),
        "stamp_ns": same(reading.stamp_ns, np.int64),
        "mode": same(record.mode, object),
        "point": np.arange(points),
        "ctime_ms": nothing if header.machine.ctime_ms is None else header.machine.ctime_ms,
        "setpoint_rad": reading.setpoint_rad,
        "applied_rad": reading.applied_rad,
        "readback_rad": reading.readback_rad,
        "synchronous_phase_rad": reading.synchronous_phase_rad,
        "quality": reading.quality.astype(np.int64),
        "action_rad": (
            nothing if record.policy is None else record.policy.action[:, 0].astype(np.float64)
        ),
        "proposed_rad": record.proposed_rad,
        "written_rad": nothing if record.written_rad is None else record.written_rad,
        "outcome": same(OUTCOMES[None if outcome is None else outcome.accepted], object),
        "reason": same("" if outcome is None else outcome.reason, object),
    }
    names = np.array([verdict.name.lower() for verdict in sorted(Verdict)], dtype=object)
    codes = np.array(sorted(Verdict))
    for index, stage in enumerate(header.guard_stages):
        place = np.searchsorted(codes, record.verdicts[:, index])
        columns[f"guard_{stage}"] = names[np.minimum(place, codes.size - 1)]
    for name in header.measures:
        columns[name] = record.measures[name]
    return columns


def _to_csv(trace: TraceReader, out: Path, profiles: bool, progress: Progress | None) -> int:
    """A row a cycle and control point; numbers as the shortest text that gives them back exactly."""
    rows = 0
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for record, outcome in _cycles(trace, progress):
            columns = table_of(trace, record, outcome)
            if not rows:
                slices = [f"slice_{i}" for i in range(trace.header.machine.n_slices)]
                writer.writerow([*columns, *(slices if profiles else ())])
            values = [column.tolist() for column in columns.values()]
            lines = [list(line) for line in zip(*values, strict=True)]
            if profiles:
                for line, profile in zip(lines, record.reading.profile, strict=True):
                    line += [str(value) for value in profile]  # float32 in its own digits
            writer.writerows(lines)
            rows += len(lines)
    return rows


def _to_parquet(trace: TraceReader, out: Path, profiles: bool, progress: Progress | None) -> int:
    """The rows of the CSV with types, a profile as a list of float32; units in the fields' metadata."""
    import pyarrow
    from pyarrow import parquet

    rows, writer, batch = 0, None, []
    try:
        for record, outcome in _cycles(trace, progress):
            columns: dict[str, Any] = {
                name: pyarrow.array(column, from_pandas=False)
                for name, column in table_of(trace, record, outcome).items()
            }
            if profiles:
                flat = pyarrow.array(np.ascontiguousarray(record.reading.profile).ravel())
                n_slices = record.reading.profile.shape[1]
                columns["profile"] = pyarrow.FixedSizeListArray.from_arrays(flat, n_slices)
            batch.append(pyarrow.table(columns))
            rows += len(record.reading.profile)
            if writer is None:
                schema = batch[0].schema.with_metadata(_provenance(trace))
                writer = parquet.ParquetWriter(out, schema, compression="zstd")
            if len(batch) == BLOCK_CYCLES:
                writer.write_table(pyarrow.concat_tables(batch).cast(schema))
                batch = []
        if batch and writer is not None:
            writer.write_table(pyarrow.concat_tables(batch).cast(schema))
    finally:
        if writer is not None:
            writer.close()
    return rows


def _provenance(trace: TraceReader) -> dict[str, str]:
    header = trace.header
    return {
        "format": "memrl-ctrl trace",
        "schema_version": str(SCHEMA_VERSION),
        "run_id": header.run_id,
        "started_utc": header.started_utc,
        "machine": header.machine.name,
        "program": header.program,
        "policy_sha256": header.policy_sha256,
    }


def _to_mcap(trace: TraceReader, out: Path, profiles: bool, progress: Progress | None) -> int:
    """Channels of JSON messages, at the time at which each cycle was played."""
    from mcap.writer import CompressionType, Writer

    messages = 0
    with out.open("wb") as file:
        writer: Any = Writer(file, compression=CompressionType.ZSTD)
        writer.start(profile="", library=MCAP_PROFILE)
        writer.add_metadata("memrl-ctrl trace", _provenance(trace))
        channels: dict[str, int] = {}
        for index, (record, outcome) in enumerate(_cycles(trace, progress)):
            stamp_ns = max(record.reading.stamp_ns, 0)  # MCAP's times are not negative
            for topic, message in _messages(trace, record, outcome, profiles):
                if topic not in channels:
                    channels[topic] = _channel(writer, topic, message)
                writer.add_message(
                    channel_id=channels[topic],
                    log_time=stamp_ns,
                    publish_time=stamp_ns,
                    sequence=index,
                    data=msgspec.json.encode(message),
                )
                messages += 1
        writer.finish()
    return messages


def _messages(
    trace: TraceReader, record: CycleRecord, outcome: OutcomeRecord | None, profiles: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a cycle's messages by topic; NaN becomes null."""
    reading = record.reading
    degrees = {
        name: np.degrees(array).tolist()
        for name, array in (
            ("setpoint_deg", reading.setpoint_rad),
            ("applied_deg", reading.applied_rad),
            ("readback_deg", reading.readback_rad),
            ("proposed_deg", record.proposed_rad),
        )
    }
    yield (
        "/memrl/cycle",
        {
            "cycle": record.cycle,
            "mode": record.mode,
            **degrees,
            "quality": reading.quality.tolist(),
        },
    )
    yield (
        "/memrl/decision",
        {
            "cycle": record.cycle,
            "action_rad": [] if record.policy is None else record.policy.action[:, 0].tolist(),
            "guard": {
                stage: record.verdicts[:, index].tolist()
                for index, stage in enumerate(trace.header.guard_stages)
            },
            "timings_ms": {name: value / 1e6 for name, value in record.timings_ns.items()},
            **{name: values.tolist() for name, values in record.measures.items()},
        },
    )
    if outcome is not None:
        yield (
            "/memrl/outcome",
            {
                "cycle": record.cycle,
                "taken": outcome.accepted,
                "reason": outcome.reason,
                "detail": outcome.detail,
            },
        )
    for event in (*record.events, *(outcome.events if outcome is not None else ())):
        yield (
            "/memrl/event",
            {"cycle": record.cycle, **json_value(msgspec.json.encode(event).decode())},
        )
    if profiles:
        yield "/memrl/profile", {"cycle": record.cycle, "profile": reading.profile.tolist()}


def _channel(writer: Any, topic: str, example: dict[str, Any]) -> int:
    """Register a topic with a JSON schema made from its first message."""
    schema = {
        "type": "object",
        "properties": {key: _schema(value) for key, value in example.items()},
    }
    if topic == "/memrl/event":
        schema = {
            "type": "object",
            "properties": {"cycle": {"type": "integer"}, "kind": {"type": "string"}},
        }
    schema_id = writer.register_schema(
        name=topic.removeprefix("/").replace("/", "."),
        encoding="jsonschema",
        data=msgspec.json.encode(schema),
    )
    return int(writer.register_channel(topic=topic, message_encoding="json", schema_id=schema_id))


def _schema(value: Any) -> dict[str, Any]:
    """Return the JSON schema of a value like this one."""
    if isinstance(value, dict):
        return {"type": "object", "properties": {k: _schema(v) for k, v in value.items()}}
    if isinstance(value, list):
        return {"type": "array", "items": _schema(value[0]) if value else {"type": "number"}}
    names = {bool: "boolean", int: "integer", str: "string"}
    return {"type": names.get(type(value), "number")}
