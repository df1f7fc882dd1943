"""How the HDF5 file stores a digitiser's profiles and a policy's memory, and what a false file can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import endless_cycles, sample_header, sample_outcome
from memrl_ctrl.trace import CycleRecord, JournalWriter, TraceReader, recover, verify
from memrl_ctrl.trace.codec import encode
from memrl_ctrl.trace.columns import LEVELS, MEMORY_FROM, PROFILE, PROFILE_FIRST, PROFILE_STEP
from memrl_ctrl.trace.prune import Drop, prune
from memrl_ctrl.trace.untrusted import verify_untrusted

POINTS, SLICES = 4, 600
HEADER = sample_header(points=POINTS, n_slices=SLICES)
H_IN = MEMORY_FROM + "h_in"


def digitised(count: int) -> list[CycleRecord]:
    """Cycles from a digitiser with a policy whose memory goes from one to the next."""
    return list(islice(endless_cycles(HEADER), count))


def with_profile(record: CycleRecord, profile: Any) -> CycleRecord:
    """The same cycle with other profiles."""
    return dataclasses.replace(
        record, reading=dataclasses.replace(record.reading, profile=profile.astype(np.float32))
    )


def written(folder: Path, records: list[CycleRecord]) -> Path:
    """Record cycles with their outcomes, and return the HDF5 file."""
    with JournalWriter(folder / "trace.journal", HEADER) as journal:
        for record in records:
            journal.append(record, durable=False)
            outcome = sample_outcome(record)
            if outcome is not None:
                journal.append(outcome, durable=False)
    return recover(folder).hdf5


def give_back(path: Path, records: list[CycleRecord]) -> None:
    """Hold a file's records against what was recorded."""
    with TraceReader(path) as trace:
        assert [encode(record) for record in trace] == [encode(record) for record in records]
    assert verify(path).whole


def test_a_digitisers_cycle_takes_less_than_60_kb(tmp_path: Path) -> None:
    """30 x 1000 profiles of 10 bits with all that belongs to a cycle; none of them stands as it is."""
    header = sample_header(points=30, n_slices=1000)
    records = list(islice(endless_cycles(header), 16))
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        for record in records:
            journal.append(record, durable=False)
    path = recover(tmp_path).hdf5
    give_back(path, records)
    with h5py.File(path) as file:
        sizes: list[int] = []
        file.visititems(
            lambda _, item: (
                sizes.append(item.id.get_storage_size()) if isinstance(item, h5py.Dataset) else None
            )
        )
        assert file[PROFILE].id.get_storage_size() == 0
        assert file[PROFILE_STEP].dtype == np.int8
    assert sum(sizes) / len(records) < 60_000


def test_what_fits_neither_stands_as_it_is(tmp_path: Path) -> None:
    """Noise, a glitch at one point, a policy that was not asked: each where it happens, and only there."""
    records = digitised(80)
    rng = np.random.default_rng(1)
    records[3] = with_profile(records[3], rng.normal(size=(POINTS, SLICES)))
    glitch = np.array(records[70].reading.profile)
    glitch[2, 100] = 40.0
    records[70] = with_profile(records[70], np.where(np.isfinite(glitch), glitch, 0.0))
    records[5] = dataclasses.replace(records[5], policy=None)
    path = written(tmp_path, records)
    give_back(path, records)
    with h5py.File(path) as file:
        plain = file[PROFILE_FIRST][:] < 0
        assert np.argwhere(plain.all(axis=1)).ravel().tolist() == [3]
        wide = np.abs(np.diff(np.searchsorted(np.unique(glitch), glitch), axis=1)).max(axis=1) > 127
        assert np.array_equal(plain[70], wide)
        assert np.isnan(file[PROFILE][:][~plain]).all()
        assert np.argwhere(file[H_IN][:] < 0).ravel().tolist() == [0, 5, 6]
        assert np.isnan(file["cycles/memory_in/h_in"][:][1:5]).all()


def test_another_range_has_a_table_of_its_own(tmp_path: Path) -> None:
    """When the digitiser's gain changes within a run, steps stay short and nothing falls back."""
    records = digitised(40)
    records[20:] = [with_profile(r, 1.37 * r.reading.profile) for r in records[20:]]
    path = written(tmp_path, records)
    give_back(path, records)
    with h5py.File(path) as file:
        first, levels = file[PROFILE_FIRST][:], file[LEVELS][:]
        falls = np.flatnonzero(np.diff(levels) < 0) + 1
        assert falls.size
        assert (first[:20] < falls[-1]).all()
        assert (first[20:] >= falls[0]).all()
        assert (first >= 0).all()


def test_a_finer_digitiser_has_steps_of_two_bytes(tmp_path: Path) -> None:
    """Where most steps do not fit into a byte, the file's steps have two."""
    rng = np.random.default_rng(0)
    records = [
        with_profile(record, rng.integers(0, 180, (POINTS, SLICES)) / 64.0)
        for record in digitised(4)
    ]
    path = written(tmp_path, records)
    give_back(path, records)
    with h5py.File(path) as file:
        assert file[PROFILE_STEP].dtype == np.int16
        assert (file[PROFILE_FIRST][:] >= 0).all()


def test_any_rows_are_those_of_the_journal(tmp_path: Path) -> None:
    """Single rows, strides, and slices that run backwards give what the journal gives."""
    records = digitised(70)
    records[4] = with_profile(records[4], np.random.default_rng(0).normal(size=(POINTS, SLICES)))
    path = written(tmp_path, records)
    some = (slice(None, None, -2), slice(60, 2, -7), slice(2, 69, 3), slice(5, 5), slice(9, 3), -70)
    with TraceReader(tmp_path / "trace.journal") as left, TraceReader(path) as right:
        assert left.names == right.names
        for name in ("profile", "memory_in/h_in", "applied_rad", "mode", "outcomes/state"):
            for rows in (*some, 69, np.int64(3)):
                wanted, found = left.array(name, rows), right.array(name, rows)
                assert (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
                assert wanted.tolist() == found.tolist() or wanted.tobytes() == found.tobytes()


@pytest.mark.parametrize("name", ["trace.h5", "trace.journal"])
def test_rows_that_cannot_be_are_sentences(tmp_path: Path, name: str) -> None:
    """A cycle that is not there, a step of 0 and what is no row are told as Python tells them of a list."""
    written(tmp_path, digitised(3))
    with TraceReader(tmp_path / name) as trace:
        for index in (3, -4):
            with pytest.raises(IndexError, match=f"cycle index {index}; the trace has 3 cycles"):
                trace.array("profile", index)
        with pytest.raises(ValueError, match="step cannot be zero"):
            trace.array("profile", slice(None, None, 0))
        with pytest.raises(TypeError, match="rows must be a whole number or a slice, not list"):
            trace.array("profile", [0, 1])  # type: ignore[arg-type]


CHANGES: dict[str, tuple[str, Any, int]] = {
    "a step": (PROFILE_STEP, (2, 1, 50), 1),
    "a first place": (PROFILE_FIRST, (2, 1), 1),
    "where a memory came from": (H_IN, (2,), -1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_number_is_located(tmp_path: Path, what: str) -> None:
    """What was changed afterwards is found, in the cycle that it belongs to, by the child too."""
    path = written(tmp_path, digitised(6))
    column, place, by = CHANGES[what]
    with h5py.File(path, "r+") as file:
        file[column][place] = file[column][place] + by
    for report in (verify(path), verify_untrusted(path)):
        assert [(d.kind, d.after_cycle) for d in report.damage] == [("altered", 1)]


def test_a_changed_level_is_located_in_the_cycles_that_use_it(tmp_path: Path) -> None:
    """One level that is another value: every cycle that had it is altered, and no other."""
    records = digitised(6)
    path = written(tmp_path, records)
    with h5py.File(path, "r+") as file:
        old = file[LEVELS][-1]
        file[LEVELS][-1] = old + np.float32(1.0)
    uses = [i for i, r in enumerate(records) if (r.reading.profile == old).any()]
    assert 0 < len(uses) < len(records)
    with TraceReader(path) as trace:
        altered = [i for i, r in enumerate(trace) if encode(r) != encode(records[i])]
    assert altered == uses
    assert len(verify(path).damage) == len(uses)


def _no_such_level(file: Any) -> None:
    file[PROFILE_FIRST][1, 0] = 1 << 30


def _before_the_levels(file: Any) -> None:
    file[PROFILE_FIRST][1, 0] = -2


def _first_cycle_from_before(file: Any) -> None:
    file[H_IN][0] = 1


def _no_such_memory(file: Any) -> None:
    file[H_IN][1] = 100


def _no_levels(file: Any) -> None:
    del file[LEVELS]


def _levels_are_a_group(file: Any) -> None:
    del file[LEVELS]
    file.create_group(LEVELS)


def _levels_of_terabytes(file: Any) -> None:
    del file[LEVELS]
    file.create_dataset(LEVELS, shape=(1 << 31,), dtype="<f4", chunks=(1 << 20,))
    file[PROFILE_FIRST][:] = np.where(np.arange(POINTS) % 2, (1 << 31) - SLICES - 1000, 1000)
    file[PROFILE_STEP][:] = 0


def _steps_are_floats(file: Any) -> None:
    shape = file[PROFILE_STEP].shape
    del file[PROFILE_STEP]
    file.create_dataset(PROFILE_STEP, shape=shape, dtype="<f8", fillvalue=np.nan)


def _steps_of_fewer_cycles(file: Any) -> None:
    file[PROFILE_STEP].resize(2, axis=0)


def _profiles_of_terabytes(file: Any) -> None:
    for path, row in ((PROFILE, (POINTS, 1 << 33)), (PROFILE_STEP, (POINTS, 1 << 33))):
        kind, cycles = file[path].dtype, file[path].shape[0]
        del file[path]
        file.create_dataset(path, shape=(cycles, *row), dtype=kind, chunks=(1, 1, 1 << 20))


FALSE: list[Callable[[Any], None]] = [
    _no_such_level,
    _before_the_levels,
    _no_levels,
    _levels_are_a_group,
    _levels_of_terabytes,
    _steps_are_floats,
    _steps_of_fewer_cycles,
    _profiles_of_terabytes,
]


@pytest.mark.parametrize("change", [*FALSE, _first_cycle_from_before, _no_such_memory])
def test_a_false_file_is_damage_not_memory_or_a_crash(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    """Numbers that lead outside and claims without end: a sentence here, damage for the child."""
    path = written(tmp_path, digitised(4))
    with h5py.File(path, "r+") as file:
        change(file)
    name = "profile" if change in FALSE else "memory_in/h_in"
    with TraceReader(path) as trace:
        with pytest.raises(TraceError, match=r"damaged: .*(there|missing|fit|claims|than any)"):
            trace.array(name)
        assert trace.array("applied_rad").shape == (4, POINTS)
    report = verify_untrusted(path)
    assert report.cycles == 4
    assert report.damage


def test_a_dataset_that_claims_more_than_its_bytes_hold_is_refused(tmp_path: Path) -> None:
    """What is read whole when a file is opened has to stand in the file."""
    path = written(tmp_path, digitised(2))
    with h5py.File(path, "r+") as file:
        del file["cycles/cycle"]
        file.create_dataset("cycles/cycle", shape=(1 << 40,), dtype="<i8", chunks=(1 << 20,))
    with pytest.raises(TraceError, match="claims 8796093022208 bytes, more than it can hold"):
        TraceReader(path)


def test_a_coded_run_is_recovered_exported_and_pruned(tmp_path: Path) -> None:
    """The HDF5 file alone gives the same rows, and is enough for the journal to be pruned."""
    from memrl_ctrl.trace.export import Form, export

    run = tmp_path / "run"
    run.mkdir()
    path = written(run, digitised(5))
    tables = []
    for name in ("trace.h5", "trace.journal"):
        with TraceReader(run / name) as trace:
            export(trace, tmp_path / "out.csv", Form.CSV, profiles=True)
        tables.append((tmp_path / "out.csv").read_bytes())
    assert tables[0] == tables[1]
    (pruned,) = prune(run, drop=Drop.JOURNAL)
    assert not pruned.kept
    assert sorted(item.name for item in run.iterdir()) == [path.name, f"{path.name}.sha256"]
    assert verify(run).whole
