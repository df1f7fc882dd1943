"""Whatever a run records comes back to the bit from the HDF5 file, however it is stored there."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import sample_cycle, sample_header
from memrl_ctrl.trace import CycleRecord, JournalWriter, PolicyStep, TraceReader, recover, verify
from memrl_ctrl.trace.codec import encode
from memrl_ctrl.trace.coder import Coder
from memrl_ctrl.trace.columns import LEVELS, MEMORY_FROM, PROFILE_FIRST, PROFILE_STEP

POINTS, SLICES = 3, 12
SPECIAL = np.array(
    [0x00000000, 0x80000000, 0x7FC00000, 0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 1], "<u4"
).view("<f4")
"""Zero with both signs, NaN of three kinds, both infinities, the smallest number."""
HEADER = dataclasses.replace(sample_header(POINTS, SLICES), measures={}, guard_stages=())
SLICE = st.slices(20)


@st.composite
def digitised(draw: st.DrawFn) -> NDArray[np.float32]:
    """Profiles of few values: a grid, moved and stretched, and sometimes what is no number."""
    levels = np.float32(draw(st.sampled_from([0.1, 0.0034, -3.0]))) * np.arange(
        draw(st.integers(1, 9)), dtype=np.float32
    )
    special = draw(st.lists(st.sampled_from(range(len(SPECIAL))), max_size=3))
    levels = np.concatenate([levels, SPECIAL[special]])
    within = st.integers(0, len(levels) - 1)
    places: NDArray[np.intp] = draw(hnp.arrays(np.intp, (POINTS, SLICES), elements=within))
    found: NDArray[np.float32] = levels[places]
    return found


@st.composite
def any_bits(draw: st.DrawFn) -> NDArray[np.float32]:
    """Profiles of any bits."""
    data = draw(st.binary(min_size=4 * POINTS * SLICES, max_size=4 * POINTS * SLICES))
    return np.frombuffer(data, "<f4").reshape(POINTS, SLICES)


MEMORY = hnp.arrays("<u4", (POINTS, 2), elements=st.sampled_from([0, 1, 0x80000000, 0x7FC00001]))


@st.composite
def runs(draw: st.DrawFn) -> list[CycleRecord]:
    """Runs whose memory goes in as it came out before, or not, or with other types."""
    records: list[CycleRecord] = []
    for number in range(draw(st.integers(1, 6))):
        step = None
        if draw(st.integers(0, 4)):
            step = _step(draw, records[-1].policy if records else None)
        sample = sample_cycle(HEADER, 100 + number)
        profile = draw(digitised() | digitised() | any_bits())
        records.append(
            dataclasses.replace(
                sample,
                reading=dataclasses.replace(sample.reading, profile=profile),
                policy=step,
                measures={},
                verdicts=np.zeros((POINTS, 0), dtype=np.uint8),
            )
        )
    return records


def _step(draw: st.DrawFn, before: PolicyStep | None) -> PolicyStep:
    out = {
        "a": draw(MEMORY).view("<f4"),
        "b.c": draw(MEMORY).view("<f4"),
        "n": draw(MEMORY).view("<i4"),
        "none": np.empty((POINTS, 0), dtype="<f4"),
    }
    earlier: dict[str, NDArray[Any]] = {} if before is None else dict(before.memory_out)
    like = {"x": "a", "y": "b.c", "k": "n", "z": "none"}
    taken = {
        name: earlier[draw(st.sampled_from(["a", "b.c", "n"]))].view(out[source].dtype)
        if earlier and out[source].size and draw(st.booleans())
        else draw(MEMORY).view(out[source].dtype)[:, : out[source].shape[1]]
        for name, source in like.items()
    }
    column = np.zeros((POINTS, 1), dtype=np.float32)
    return PolicyStep(
        observation=column,
        previous_applied=column,
        memory_in=taken,
        action=column,
        memory_out=out,
    )


@contextmanager
def recorded(records: list[CycleRecord]) -> Iterator[Path]:
    """A folder with both forms of a run."""
    with tempfile.TemporaryDirectory() as folder:
        with JournalWriter(Path(folder) / "trace.journal", HEADER) as journal:
            for record in records:
                journal.append(record, durable=False)
        recover(folder)
        yield Path(folder)


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Whether two arrays are the same to the bit."""
    if left.dtype == object:
        return bool(left.tolist() == right.tolist())
    alike = left.dtype == right.dtype and left.shape == right.shape
    return alike and left.tobytes() == right.tobytes()


@settings(max_examples=40, deadline=None)
@given(records=runs(), rows=SLICE, index=st.integers(-6, 5))
def test_a_run_comes_back_to_the_bit(records: list[CycleRecord], rows: slice, index: int) -> None:
    """Records, whole columns and any rows of them are the journal's, whatever was coded."""
    with recorded(records) as folder:
        with h5py.File(folder / "trace.h5") as file:
            event(f"steps: {PROFILE_STEP in file}, memory: {MEMORY_FROM[:-1] in file}")
        assert verify(folder / "trace.h5").whole
        with TraceReader(folder / "trace.h5") as found:
            assert [encode(record) for record in found] == [encode(record) for record in records]
            with TraceReader(folder / "trace.journal") as wanted:
                assert found.names == wanted.names
                for name in wanted.names:
                    assert same(found.array(name), wanted.array(name)), name
                    assert same(found.array(name, rows), wanted.array(name)[rows].copy()), name
                    if -len(records) <= index < len(records):
                        assert same(found.array(name, index), wanted.array(name, index)), name


@settings(max_examples=40, deadline=None)
@given(records=runs(), data=st.data())
def test_a_tampered_number_is_found(records: list[CycleRecord], data: st.DataObject) -> None:
    """Any other number where a value is told to stand: damage that is located, or a sentence."""
    with recorded(records) as folder:
        with h5py.File(folder / "trace.h5", "r+") as file:
            names = [PROFILE_FIRST, PROFILE_STEP, LEVELS]
            names += [MEMORY_FROM + name for name in file.get(MEMORY_FROM, ())]
            there = [name for name in names if name in file]
            if not there:
                return
            column = file[data.draw(st.sampled_from(there))]
            place = tuple(data.draw(st.integers(0, n - 1)) for n in column.shape)
            before = column[()]
            column[place] = data.draw(hnp.from_dtype(column.dtype))
            if column[()].tobytes() == before.tobytes():
                return
        try:
            report = verify(folder / "trace.h5")
            with TraceReader(folder / "trace.h5") as found:
                back = [encode(record) for record in found]
        except TraceError:
            event("refused")
            return
        # A step of a profile that stands elsewhere, and a level of no profile, mean nothing.
        assert not report.whole or back == [encode(record) for record in records]


@settings(max_examples=100)
@given(profiles=st.lists(digitised(), min_size=1, max_size=8))
def test_levels_are_few_and_places_within(profiles: list[NDArray[np.float32]]) -> None:
    """Levels stand in tables that rise, and what is coded names levels that are there."""
    rows = [{"cycles/profile": profile} for profile in profiles]
    levels = Coder().replace(rows)
    for row, profile in zip(rows, profiles, strict=True):
        if PROFILE_FIRST not in row:
            assert same(row["cycles/profile"], profile)
            continue
        first, step = row[PROFILE_FIRST], row[PROFILE_STEP]
        coded = first >= 0
        places = first[coded][:, None] + np.cumsum(step[coded], axis=1, dtype=np.int64)
        assert same(levels[places], profile[coded])
        assert not step[coded][:, 0].any()
        assert coded.all() == ("cycles/profile" not in row)
