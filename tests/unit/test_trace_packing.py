"""Packed payloads come back as they were, take little room, and a lost neighbour costs one part only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.frames import FrameError
from memrl_ctrl.testing.traces import digitised_cycle, sample_header
from memrl_ctrl.trace import (
    CycleRecord,
    JournalWriter,
    TraceReader,
    read_journal,
    recover,
    verify,
)
from memrl_ctrl.trace.codec import decode, encode
from memrl_ctrl.trace.levels import MAX_LEVELS, find_levels
from memrl_ctrl.trace.packing import Earlier, packed, parsed, unpacked
from memrl_ctrl.trace.planes import folded_levels, split_planes

LIMIT = 1 << 28


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A journal of five cycles of 30 x 1000 digitised profiles whose policy carries memory on."""
    header = sample_header(points=30, n_slices=1000)
    before: CycleRecord | None = None
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        for cycle in range(100, 105):
            before = digitised_cycle(header, cycle, before)
            journal.append(before, durable=False)
    return tmp_path


def cycles_of(run: Path) -> list[tuple[int, int, bytes]]:
    """Offset, size and plain payload of each cycle."""
    with read_journal(run / "trace.journal") as reader:
        return [
            (entry.offset, entry.size, entry.payload)
            for entry in reader.entries()
            if isinstance(entry.record, CycleRecord)
        ]


def test_a_digitised_cycle_takes_less_than_60_kb(run: Path) -> None:
    """30 x 1000 profiles of 10 bits, observation and memory of an LSTM with them, take under 60 kB."""
    entries = cycles_of(run)
    assert all(len(payload) > 190_000 for _, _, payload in entries)
    assert all(size < 60_000 for _, size, _ in entries[1:])
    assert entries[0][1] < 90_000  # its memory stands in no cycle before it


def test_packed_cycles_come_back_to_the_bit(run: Path) -> None:
    """What is read from the journal and from the HDF5 file is what was recorded."""
    header = sample_header(points=30, n_slices=1000)
    expected, before = [], None
    for cycle in range(100, 105):
        before = digitised_cycle(header, cycle, before)
        expected.append(encode(before))
    assert [payload for _, _, payload in cycles_of(run)] == expected
    for path in (run / "trace.journal", recover(run).hdf5):
        with TraceReader(path) as trace:
            assert [encode(record) for record in trace] == expected
            assert encode(trace.record(3)) == expected[3]
    assert verify(run / "trace.h5").whole


def test_a_lost_cycle_costs_the_next_one_its_memory_only(run: Path) -> None:
    """The cycle behind a damaged one is kept, with NaN where its memory stood in the damaged one."""
    entries = cycles_of(run)
    data = bytearray((run / "trace.journal").read_bytes())
    data[entries[2][0] + 5_000] ^= 1
    (run / "trace.journal").write_bytes(data)
    report = verify(run)
    assert report.cycles == 4
    assert [(place.kind, place.after_cycle) for place in report.damage] == [
        ("damaged", 101),
        ("memory", 101),
    ]
    assert report.lost_bytes == entries[2][1]
    for path in (run / "trace.journal", recover(run).hdf5):
        with TraceReader(path) as trace:
            assert trace.cycles.tolist() == [100, 101, 103, 104]
            kept, whole = trace.record(2), decode(entries[3][2])
            assert isinstance(whole, CycleRecord)
            assert kept.policy is not None
            assert whole.policy is not None
            assert np.isnan(kept.policy.memory_in["h_in"]).all()
            assert kept.reading.profile.tobytes() == whole.reading.profile.tobytes()
            np.testing.assert_array_equal(
                kept.policy.memory_out["h_out"], whole.policy.memory_out["h_out"]
            )
            assert encode(trace.record(3)) == entries[4][2]
    found = verify(run / "trace.h5")
    assert [place.kind for place in found.damage] == ["damaged", "memory"]


def test_any_values_come_back(run: Path) -> None:
    """Arrays of NaN, infinity, -0, few and many levels are packed and unpacked to the same bytes."""
    record = decode(cycles_of(run)[1][2])
    assert isinstance(record, CycleRecord)
    rng = np.random.default_rng(1)
    shape = record.reading.profile.shape
    few = rng.choice(np.array([np.nan, -np.inf, -0.0, 0.0, 1e-42, 3.5], np.float32), shape)
    for profile in (
        few,
        np.zeros(shape, np.float32),
        np.full(shape, np.nan, np.float32),
        rng.normal(size=shape).astype(np.float32),
        rng.integers(-2048, 2047, shape).astype(np.float32),
        rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32),
    ):
        changed = dataclasses.replace(
            record, reading=dataclasses.replace(record.reading, profile=profile)
        )
        payload = encode(changed)
        small = packed(payload, 0)
        assert small is not None
        assert unpacked(parsed(small, LIMIT), None) == payload


def test_levels_are_in_rising_order_and_exact() -> None:
    """Levels are the different bit patterns by rising value, and give each element back."""
    step = np.float32(0.0025)
    codes = np.random.default_rng(0).integers(0, 1024, 5000)
    values = np.float32(-0.07) + step * codes.astype(np.float32)
    found = find_levels(values.view(np.uint32), 2000)
    assert found is not None
    levels, places = found
    assert np.all(np.diff(levels.view(np.float32)) > 0)
    assert levels[places].tobytes() == values.tobytes()
    assert find_levels(np.arange(MAX_LEVELS + 1, dtype=np.uint32), 10**6) is None
    assert find_levels(np.arange(10, dtype=np.uint32), 9) is None


def test_memory_is_taken_from_the_record_that_is_named_and_no_other(run: Path) -> None:
    """Without the earlier record, or with another one, unpacking refuses or is found out by the CRC."""
    (_, _, first), (_, _, second) = cycles_of(run)[:2]
    small = packed(second, 7, Earlier.of(5, first))
    assert small is not None
    assert parsed(small, LIMIT).earlier == 5
    assert unpacked(parsed(small, LIMIT), first) == second
    assert unpacked(parsed(small, LIMIT), second) != second
    with pytest.raises(FrameError, match="stands in an earlier record that is not there"):
        unpacked(parsed(small, LIMIT), None)


@pytest.mark.parametrize("cut", [0, 10, 24, 30, 2000, -1])
def test_a_cut_payload_is_refused(run: Path, cut: int) -> None:
    """A packed payload that ends too early is a FrameError."""
    payload = cycles_of(run)[1][2]
    small = packed(payload, 0)
    assert small is not None
    with pytest.raises(FrameError):
        unpacked(parsed(small[:cut], LIMIT), None)


def test_a_payload_that_would_fill_the_memory_is_refused(run: Path) -> None:
    """An announced length beyond the limit, and a stream far longer than announced, are refused."""
    import struct

    import zstandard

    small = packed(cycles_of(run)[1][2], 0)
    assert small is not None
    with pytest.raises(FrameError, match="at most 1000"):
        parsed(small, 1000)
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    data = struct.pack("<IIIIQ", 1000, 0, len(bomb), 0, 0) + bomb
    with pytest.raises(FrameError, match="the packed stream has 67108864 bytes"):
        unpacked(parsed(data, LIMIT), None)


def test_small_payloads_stay_as_they_are() -> None:
    """A payload that packing does not make shorter is stored plain."""
    assert packed(bytes(100), 0) is None


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_planes_hold_the_first_bytes_then_the_second(itemsize: int) -> None:
    """Byte k of element i stands in plane k at place i, whatever the element's size."""
    octets = np.random.default_rng(3).integers(0, 256, 24 * itemsize, dtype=np.uint8)
    planes = split_planes(octets.tobytes(), itemsize)
    assert planes.shape == (itemsize, 24)
    for k in range(itemsize):
        assert (planes[k] == octets[k::itemsize]).all()


def test_steps_between_levels_fold_signs_and_wrap() -> None:
    """The folded step is what the format says, over the whole range of codes."""
    values = np.arange(MAX_LEVELS, dtype=np.float32) - 17.0
    chosen = np.random.default_rng(4).integers(0, MAX_LEVELS, 5 * MAX_LEVELS)
    chosen[:MAX_LEVELS] = np.arange(MAX_LEVELS)
    found = folded_levels(values[chosen].tobytes(), MAX_LEVELS)
    assert found is not None
    levels, planes = found
    assert (levels.view(np.float32) == values).all()
    steps = np.diff(chosen.astype(np.uint16), prepend=np.uint16(0)).view(np.int16)
    folded = ((steps << 1) ^ (steps >> 15)).view(np.uint16)
    assert (planes[0] == folded & 0xFF).all()
    assert (planes[1] == folded >> 8).all()
    assert folded_levels(values[chosen].tobytes(), MAX_LEVELS - 1) is None
