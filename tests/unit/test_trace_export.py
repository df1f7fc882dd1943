"""Exported files say what the trace says, to readers that know nothing of this project."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import sample_header, write_sample_journal
from memrl_ctrl.trace import CycleRecord, JournalWriter, TraceReader
from memrl_ctrl.trace.export import Form, export


@pytest.fixture
def written(tmp_path: Path) -> list[CycleRecord]:
    return write_sample_journal(tmp_path / "trace.journal", 8)


def test_csv_gives_back_every_number(tmp_path: Path, written: list[CycleRecord]) -> None:
    """A row a cycle and point; floats read from the text are the recorded ones, bit for bit."""
    out = tmp_path / "trace.csv"
    with TraceReader(tmp_path) as trace:
        assert export(trace, out, Form.CSV, profiles=True) == 24
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    for record in written:
        mine = [row for row in rows if int(row["cycle"]) == record.cycle]
        applied = np.array([float(row["applied_rad"]) for row in mine])
        assert applied.tobytes() == record.reading.applied_rad.tobytes()
        profile = np.array([[float(row[f"slice_{i}"]) for i in range(16)] for row in mine])
        np.testing.assert_array_equal(profile.astype(np.float32), record.reading.profile)
        assert mine[0]["guard_step"] in ("passed", "altered", "held", "refused", "not_run")
        assert (mine[0]["written_rad"] == "nan") == (record.written_rad is None)
    assert {row["outcome"] for row in rows} == {"", "taken", "refused"}


def test_parquet_has_types_profiles_and_provenance(
    tmp_path: Path, written: list[CycleRecord]
) -> None:
    """pyarrow reads the same rows with their types, profiles as lists, and the run's identity."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'export'")
    out = tmp_path / "trace.parquet"
    with TraceReader(tmp_path) as trace:
        assert export(trace, out, Form.PARQUET, profiles=True) == 24
        run_id = trace.header.run_id
    table = parquet.read_table(out)
    assert table.schema.metadata[b"run_id"] == run_id.encode()
    assert str(table.schema.field("cycle").type) == "int64"
    assert str(table.schema.field("applied_rad").type) == "double"
    applied = table["applied_rad"].to_numpy().reshape(8, 3)
    profile = np.array(table["profile"].to_pylist(), dtype=np.float32).reshape(8, 3, 16)
    for index, record in enumerate(written):
        np.testing.assert_array_equal(applied[index], record.reading.applied_rad)
        np.testing.assert_array_equal(profile[index], record.reading.profile)


def test_mcap_has_a_message_a_cycle_at_its_time(tmp_path: Path, written: list[CycleRecord]) -> None:
    """mcap's own reader finds each topic with its schema, at the time at which the cycle was played."""
    reader = pytest.importorskip("mcap.reader", reason="needs the extra 'export'")
    out = tmp_path / "trace.mcap"
    with TraceReader(tmp_path) as trace:
        count = export(trace, out, Form.MCAP)
    found: dict[str, list[tuple[int, dict[str, object]]]] = {}
    with out.open("rb") as file:
        for schema, channel, message in reader.make_reader(file).iter_messages():
            assert schema.encoding == "jsonschema"
            assert json.loads(schema.data)["type"] == "object"
            found.setdefault(channel.topic, []).append((message.log_time, json.loads(message.data)))
    assert sum(map(len, found.values())) == count
    cycles = found["/memrl/cycle"]
    assert [stamp for stamp, _ in cycles] == [record.reading.stamp_ns for record in written]
    for (_, message), record in zip(cycles, written, strict=True):
        np.testing.assert_allclose(
            message["applied_deg"], np.degrees(record.reading.applied_rad), rtol=1e-15
        )
    assert {message["reason"] for _, message in found["/memrl/outcome"]} == {"", "late"}
    assert {message["kind"] for _, message in found["/memrl/event"]} == {"operator", "refused"}
    assert "/memrl/profile" not in found


def test_a_trace_without_cycles_is_not_exported(tmp_path: Path) -> None:
    """There is nothing to write, and that is said."""
    with JournalWriter(tmp_path / "trace.journal", sample_header()):
        pass
    with (
        TraceReader(tmp_path) as trace,
        pytest.raises(TraceError, match="has no cycle; there is nothing to export"),
    ):
        export(trace, tmp_path / "x.csv", Form.CSV)
