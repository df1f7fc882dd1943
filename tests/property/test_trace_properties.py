"""Traces of any content come back exactly, and damaged ones never surprise."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memrl_ctrl.backend import Reading, Receipt
from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import sample_header, write_sample_journal
from memrl_ctrl.trace import (
    CycleRecord,
    JournalWriter,
    OutcomeRecord,
    PolicyStep,
    TraceReader,
    read_journal,
    recover,
    verify,
)
from memrl_ctrl.trace.codec import decode, encode

POINTS, SLICES = 2, 8
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=20)
NAMES = st.text(min_size=1, max_size=10).filter(lambda text: "\0" not in text)
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
EVENTS = st.lists(
    st.dictionaries(TEXT, JSON, max_size=3).map(lambda rest: {**rest, "kind": "x"}), max_size=2
)
TIMINGS = st.dictionaries(NAMES, st.integers(0, 2**63 - 1), max_size=3)


def bits(dtype: Any, *shape: int) -> st.SearchStrategy[Any]:
    """Arrays of any bit pattern, every kind of NaN included."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return st.binary(min_size=size, max_size=size).map(
        lambda data: np.frombuffer(data, dtype=dtype).reshape(shape)
    )


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    """Readings of any content."""
    return Reading(
        cycle=draw(INT64),
        stamp_ns=draw(INT64),
        received_ns=draw(INT64),
        profile=draw(bits(np.float32, POINTS, SLICES)),
        setpoint_rad=draw(bits(np.float64, POINTS)),
        applied_rad=draw(bits(np.float64, POINTS)),
        readback_rad=draw(bits(np.float64, POINTS)),
        synchronous_phase_rad=draw(bits(np.float64, POINTS)),
        quality=draw(bits(np.uint16, POINTS)),
    )


@st.composite
def cycles(draw: st.DrawFn) -> CycleRecord:
    """Cycles of any content for a run of three stages without measures."""
    step = None
    if draw(st.booleans()):
        step = PolicyStep(
            observation=draw(bits(np.float32, POINTS, 3)),
            previous_applied=draw(bits(np.float32, POINTS, 1)),
            memory_in={"h/in": draw(bits(np.float32, POINTS, 2, 1))},
            action=draw(bits(np.float32, POINTS, 1)),
            memory_out={".": draw(bits(np.int64, POINTS, 2))},
        )
    writes = draw(st.booleans())
    return CycleRecord(
        reading=draw(readings()),
        mode=draw(TEXT),
        policy=step,
        verdicts=draw(bits(np.uint8, POINTS, 3)),
        proposed_rad=draw(bits(np.float64, POINTS)),
        written_rad=draw(bits(np.float64, POINTS)) if writes else None,
        target_cycle=draw(st.integers(0, 2**63 - 1)) if writes else None,
        timings_ns=draw(TIMINGS),
        events=tuple(draw(EVENTS)),
    )


@st.composite
def outcomes(draw: st.DrawFn, cycle: int) -> OutcomeRecord:
    """Outcomes of any content for a cycle."""
    receipt = None
    if draw(st.booleans()):
        receipt = Receipt(
            cycle=draw(INT64),
            applied_rad=draw(bits(np.float64, POINTS)),
            committed_ns=draw(INT64),
            fence=draw(INT64),
        )
    return OutcomeRecord(
        cycle=cycle,
        receipt=receipt,
        reason="" if receipt else "late",
        detail=draw(TEXT),
        timings_ns=draw(TIMINGS),
        events=tuple(draw(EVENTS)),
    )


@given(record=cycles())
def test_a_cycle_comes_back_from_its_bytes(record: CycleRecord) -> None:
    """Encoding what was decoded gives the same bytes, whatever the bits."""
    payload = encode(record)
    back = decode(payload)
    assert encode(back) == payload
    assert isinstance(back, CycleRecord)
    assert back.events == record.events
    assert back.timings_ns == record.timings_ns


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_run_comes_back_from_journal_and_hdf5(data: st.DataObject) -> None:
    """Any sequence of cycles and outcomes comes back from both forms, and both verify."""
    header = dataclasses.replace(sample_header(points=POINTS, n_slices=SLICES), measures={})
    records = data.draw(st.lists(cycles(), max_size=4))
    ends: list[OutcomeRecord | None] = [
        data.draw(st.none() | outcomes(record.cycle)) for record in records
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.journal"
        with JournalWriter(path, header) as journal:
            for record, outcome in zip(records, ends, strict=True):
                journal.append(record, durable=False)
                if outcome is not None:
                    journal.append(outcome, durable=False)
        assert recover(path).report.whole
        with TraceReader(Path(folder) / "trace.h5") as trace:
            assert [encode(r) for r in trace] == [encode(r) for r in records]
            for index, outcome in enumerate(ends):
                found = trace.outcome(index)
                assert (found and encode(found)) == (outcome and encode(outcome))
        assert verify(path).whole
        assert verify(Path(folder) / "trace.h5").whole


def _sample() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.journal"
        write_sample_journal(path, 3, sample_header(points=1, n_slices=8))
        return path.read_bytes()


SAMPLE = _sample()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_journal_never_surprises(data: st.DataObject) -> None:
    """Whatever is cut, changed, inserted or repeated: a report or a TraceError; no false cycle."""
    start = data.draw(st.integers(0, len(SAMPLE)))
    end = data.draw(st.integers(start, min(len(SAMPLE), start + 200)))
    middle = data.draw(st.binary(max_size=50) | st.just(SAMPLE[start:end] * 2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.journal"
        path.write_bytes(SAMPLE)
        with read_journal(path) as reader:
            true = [encode(record) for record in reader if isinstance(record, CycleRecord)]
        path.write_bytes(SAMPLE[:start] + middle + SAMPLE[end:])
        try:
            with read_journal(path) as reader:
                found = [encode(record) for record in reader if isinstance(record, CycleRecord)]
                damage = reader.damage
            recovered = recover(path).report.cycles
        except TraceError:
            return
        assert found == [record for record in true if record in found]
        assert recovered == len(found)
        if path.read_bytes() != SAMPLE[: path.stat().st_size]:
            assert damage


@given(shape=hnp.array_shapes(min_dims=1, max_dims=1, min_side=0, max_side=400), data=st.data())
def test_random_bytes_are_no_journal(shape: tuple[int, ...], data: st.DataObject) -> None:
    """Random bytes end in a TraceError."""
    content = data.draw(st.binary(min_size=shape[0], max_size=shape[0]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.journal"
        path.write_bytes(content)
        try:
            read_journal(path).close()
        except TraceError as error:
            message = str(error)
        assert "no trace journal" in message
