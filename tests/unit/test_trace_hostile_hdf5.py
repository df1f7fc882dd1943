"""An HDF5 file from anywhere costs a sentence: no traceback, no hang, no memory, no other file's values."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from memrl_ctrl.cli import trace as commands
from memrl_ctrl.errors import TraceError
from memrl_ctrl.testing.traces import digitised_cycle, sample_header, write_sample_journal
from memrl_ctrl.trace import CycleRecord, JournalWriter, TraceReader, child, recover, verify
from memrl_ctrl.trace.reader import find_trace, stale
from memrl_ctrl.trace.untrusted import verify_untrusted

CYCLES = 20
Change = Callable[[Any], None]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with both files."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample_journal(folder / "trace.journal", CYCLES)
    recover(folder)
    return folder


@pytest.fixture
def run(sample: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(sample, tmp_path / "run"))


def changed(run: Path, change: Change) -> Path:
    with h5py.File(run / "trace.h5", "r+") as file:
        change(file)
    return run / "trace.h5"


def attribute(path: str, name: str, value: Any) -> Change:
    def change(file: Any) -> None:
        del file[path].attrs[name]
        file[path].attrs[name] = value

    return change


def values(path: str, value: Any) -> Change:
    """Another dataset in the place of one."""

    def change(file: Any) -> None:
        del file[path]
        file[path] = value

    return change


def text(path: str, value: str) -> Change:
    def change(file: Any) -> None:
        file[path][()] = value

    return change


def named_type(file: Any) -> None:
    del file["journal"]
    file["journal"] = np.dtype("<f8")


UNUSABLE: dict[str, tuple[Change, str]] = {
    "points": (attribute("/", "points", np.inf), "attribute points is not a whole number"),
    "bytes": (attribute("/", "journal_bytes", np.inf), "attribute journal_bytes is not a whole"),
    "schema": (attribute("/", "schema_version", np.inf), "attribute schema_version is not a whole"),
    "array": (attribute("/", "period_s", [1.0, 2.0]), "attribute period_s is not a number"),
    "utf8": (
        attribute("/", "machine", np.array(b"psb\xff", dtype=h5py.string_dtype())),
        "attribute machine is not text",
    ),
    "journal": (values("journal", np.arange(3)), "damage_json|journal is missing"),
    "type": (named_type, "journal is missing"),
    "empty list": (attribute("cycles", "empty_json", "[]"), "empty_json: .*[Ee]xpected `object`"),
    "empty number": (attribute("cycles", "empty_json", "3"), "empty_json: .*[Ee]xpected `object`"),
    "configuration": (text("header/configuration_json", "[]"), "configuration_json: .*`object`"),
    "deep": (text("header/configuration_json", "[" * 200_000), "configuration_json: .*"),
    "versions": (text("header/versions_json", "[]"), "versions_json: .*`object`"),
    "fingerprint": (
        text("header/fingerprint_json", '{"cpu_model":[1]}'),
        "fingerprint_json: .*`str`",
    ),
    "truncated": (text("header/versions_json", "{"), "versions_json: .*Input data was truncated"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_header_that_is_false_is_named_and_costs_the_file_only(
    run: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opening says which part it is; the journal beside it counts, and the file is made anew from it."""
    change, said = UNUSABLE[what]
    hdf5 = changed(run, change)
    with pytest.raises(TraceError, match=f"damaged: .*({said})"):
        TraceReader(hdf5)
    stale(hdf5, run / "trace.journal")
    commands.ls(run)
    assert "trace.journal" in capsys.readouterr().out or find_trace(run).exists()
    report = verify(run)
    assert report.path.name == "trace.journal"
    assert report.whole
    assert report.beside is not None
    assert report.beside.fault
    recover(run)
    assert verify(run).sentences()[-1] == "nothing is lost"


def floats(path: str) -> Change:
    return values(path, np.full(CYCLES, np.inf))


FALSE: dict[str, tuple[Change, str]] = {
    "timing": (floats("cycles/timings_ns/receive"), "cycles/timings_ns/receive"),
    "target": (floats("cycles/target_cycle"), "cycles/target_cycle"),
    "stamp": (floats("cycles/stamp_ns"), "cycles/stamp_ns"),
    "state": (floats("outcomes/state"), "outcomes/state"),
    "verdicts": (values("cycles/verdicts", np.zeros((CYCLES, 3, 2), "u1")), "cycles/verdicts"),
    "ran": (values("cycles/policy_ran", np.zeros((CYCLES, 3), "u1")), "cycles/policy_ran"),
    "setpoint": (values("cycles/setpoint_rad", np.zeros((CYCLES, 9))), "cycles/setpoint_rad"),
    "mode": (values("cycles/mode", np.full((CYCLES, 2), "x", dtype=object)), "cycles/mode"),
    "action": (values("cycles/action", np.zeros((CYCLES, 3, 0), "f4")), "cycles/action"),
}


@pytest.mark.parametrize("what", FALSE)
def test_a_column_that_is_false_is_refused_and_costs_no_other(run: Path, what: str) -> None:
    """Type and shape follow from the header: whoever reads a column can rely on them."""
    change, name = FALSE[what]
    with TraceReader(changed(run, change)) as trace:
        with pytest.raises(TraceError, match=f"damaged: {name} is .*which does not fit"):
            trace.array(name)
        with pytest.raises(TraceError, match=f"damaged at cycle index 0: {name} is"):
            trace.record(0)
        assert trace.array("applied_rad").shape == (CYCLES, 3)
    report = verify(run / "trace.h5")
    assert report.cycles == CYCLES
    assert not report.whole


@pytest.mark.parametrize("events", ["[3]", "3", "null", '[{"a":1}]', "[" * 200_000, "["])
@pytest.mark.parametrize("name", ["cycles/events_json", "outcomes/events_json"])
def test_events_are_objects_wherever_they_are_read(run: Path, name: str, events: str) -> None:
    """As a column and in a cycle: the column is named, and the other cycles are there."""

    def change(file: Any) -> None:
        file[name][5] = events

    with TraceReader(changed(run, change)) as trace:
        with pytest.raises(TraceError, match=f"damaged: {name}: "):
            trace.array(name)
        with pytest.raises(TraceError, match=f"damaged at cycle index 5: {name}: "):
            trace.record(5)
        assert trace.record(4).cycle == 104


def test_a_column_that_is_missing_is_named(run: Path) -> None:
    """A record that lacks one says so in words."""

    def change(file: Any) -> None:
        del file["cycles/profile"]

    with (
        TraceReader(changed(run, change)) as trace,
        pytest.raises(TraceError, match="at cycle index 0: cycles/profile is missing"),
    ):
        trace.record(0)


def read_all(hdf5: Path) -> None:
    with TraceReader(hdf5) as trace:
        trace.heads()
        trace.record(0)


def pipe_in(run: Path) -> str:
    os.mkfifo(run.parent / "pipe")
    return str(run.parent / "pipe")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "path", ["cycles/cycle", "cycles", "header", "journal/heads", "cycles/mode", "cycles/memory_in"]
)
def test_a_link_to_a_pipe_is_not_opened(run: Path, path: str) -> None:
    """An external link is seen before it is followed: nothing waits for the pipe."""
    pipe = pipe_in(run)

    def change(file: Any) -> None:
        del file[path]
        file[path] = h5py.ExternalLink(pipe, "x")

    hdf5 = changed(run, change)
    with pytest.raises(TraceError, match=r"damaged.*lies in another file"):
        read_all(hdf5)
    commands.ls(run)
    assert verify_untrusted(run).cycles == CYCLES
    recover(run)
    assert verify(run).sentences()[-1] == "nothing is lost"


@pytest.mark.timeout(60)
def test_a_virtual_dataset_from_a_pipe_is_not_opened(run: Path) -> None:
    """One without an end asks its source for its shape: it is refused before."""
    pipe = pipe_in(run)

    def change(file: Any) -> None:
        del file["cycles/cycle"]
        layout = h5py.VirtualLayout(shape=(CYCLES,), dtype="<i8", maxshape=(None,))
        source = h5py.VirtualSource(pipe, "x", shape=(CYCLES,), dtype="<i8", maxshape=(None,))
        layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
        file.create_virtual_dataset("cycles/cycle", layout)

    with pytest.raises(TraceError, match="cycles/cycle lies in another file"):
        TraceReader(changed(run, change))


@pytest.mark.parametrize("path", ["header", "header/limits", "header/measures", "files", "journal"])
def test_a_header_in_another_file_is_damage(run: Path, path: str) -> None:
    """What another file says is never shown as the trace's own, and no such trace is whole."""
    shutil.copy(run / "trace.h5", run.parent / "secret.h5")

    def change(file: Any) -> None:
        del file[path]
        file[path] = h5py.ExternalLink(str(run.parent / "secret.h5"), path)

    hdf5 = changed(run, change)
    with pytest.raises(TraceError, match="lies in another file"):
        TraceReader(hdf5)
    with pytest.raises(TraceError, match="lies in another file"):
        verify(hdf5)


def test_points_that_no_byte_stands_for_are_refused(run: Path) -> None:
    """A file of some kilobytes cannot have its reader take gigabytes, whatever it says of its points."""
    points = 33_000_000

    def change(file: Any) -> None:
        file.attrs["points"] = points
        for name in ("setpoint_rad", "applied_rad", "proposed_rad"):
            del file[f"cycles/{name}"]
            shape, chunks = (CYCLES, points), (1, 1 << 20)
            file.create_dataset(f"cycles/{name}", shape=shape, dtype="<f8", chunks=chunks)

    def only_shapes(file: Any) -> None:
        change(file)
        file.attrs["points"] = 3

    for done, said in ((change, "claims 5280000000 bytes"), (only_shapes, "does not fit")):
        hdf5 = run / "trace.h5"
        recover(run)
        changed(run, lambda file: file["header"].pop("ctime_ms"))
        changed(run, done)
        with TraceReader(hdf5) as trace, pytest.raises(TraceError, match=said):
            trace.array("setpoint_rad", 0)


def test_chunks_and_filters_that_no_trace_has_are_refused(run: Path) -> None:
    """What few bytes become is known for the filters of a trace only, and for chunks of a record's size."""

    def change(file: Any) -> None:
        for name, options in (
            ("applied_rad", {"compression": "lzf"}),
            ("setpoint_rad", {"chunks": (1 << 26, 3), "maxshape": (None, 3)}),
        ):
            values_ = file[f"cycles/{name}"][:]
            del file[f"cycles/{name}"]
            file.create_dataset(f"cycles/{name}", data=values_, **options)

    with TraceReader(changed(run, change)) as trace:
        with pytest.raises(TraceError, match="packed by filters that a trace does not have"):
            trace.array("applied_rad")
        with pytest.raises(TraceError, match=r"has chunks of .*more than any record has"):
            trace.array("setpoint_rad")


def test_one_value_that_leads_outside_costs_its_cycle_only(run: Path) -> None:
    """A block that cannot be read is read cycle by cycle."""

    def change(file: Any) -> None:
        file["cycles/events_json"][7] = "["

    with TraceReader(changed(run, change)) as trace:
        for index in range(CYCLES):
            if index != 7:
                assert trace.record(index).cycle == 100 + index
        with pytest.raises(TraceError, match="damaged at cycle index 7"):
            trace.record(7)
    (place,) = verify(run / "trace.h5").damage
    assert "the record cannot be made again: damaged at cycle index 7" in place.text
    assert place.after_cycle == 106


def test_a_level_that_is_not_there_costs_its_cycle_only(tmp_path: Path) -> None:
    """One place of one profile that leads outside: one record is told, of all that are read at once."""
    header = sample_header(points=4, n_slices=1000)
    before: CycleRecord | None = None
    with JournalWriter(tmp_path / "trace.journal", header) as journal:
        for cycle in range(100, 100 + CYCLES):
            before = digitised_cycle(header, cycle, before, hidden=16)
            journal.append(before, durable=False)
    hdf5 = recover(tmp_path).hdf5
    with h5py.File(hdf5, "r+") as file:
        assert file["cycles/profile_first"][7, 3] >= 0
        file["cycles/profile_first"][7, 3] = 1 << 30
    (place,) = verify(hdf5).damage
    assert place.after_cycle == 106
    assert "damaged at cycle index 7: a profile names a level that is not there" in place.text


def zeroed_heap(run: Path) -> Path:
    """Zeros at the beginning of the heap of variable-length texts: HDF5 goes round in it for ever."""
    hdf5 = run / "trace.h5"
    data = bytearray(hdf5.read_bytes())
    at = data.index(b"GCOL")
    data[at + 16 : at + 80] = bytes(64)
    hdf5.write_bytes(data)
    return hdf5


@pytest.mark.timeout(120)
def test_a_file_that_is_read_for_ever_costs_the_journal_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check ends in time, the journal is checked alone, and the file is replaced without being opened."""
    hdf5 = zeroed_heap(run)
    monkeypatch.setattr(child, "SILENCE_BASE_S", 5.0)
    report = verify_untrusted(run)
    assert (report.path.name, report.cycles, report.whole) == ("trace.journal", CYCLES, True)
    assert report.beside is not None
    assert report.beside.fault
    assert report.beside.text == "is unusable: the check of it said nothing for 5 s"
    with pytest.raises(TraceError, match="the check of it said nothing for 5 s: it cannot be used"):
        verify_untrusted(hdf5)
    recover(run)
    assert verify(run).sentences()[-1] == "nothing is lost"


def test_a_child_that_takes_too_long_is_told_so() -> None:
    """The signal that ends it for its processor time comes before the one that gives no reason."""
    code = (
        "import resource; from memrl_ctrl.trace.child import limit; limit(10 << 20); "
        "print(*resource.getrlimit(resource.RLIMIT_CPU))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert done.split() == ["70", "75"]
    assert child._ended(-signal.SIGXCPU) == "took more time than any trace of its size does"


def test_names_that_are_no_text_are_checked_and_recovered(sample: Path, tmp_path: Path) -> None:
    """A file name is bytes: the check says what it finds, and the digest names the file as it is."""
    journal = Path(os.fsdecode(os.fsencode(tmp_path) + b"/tr\xffce.journal"))
    shutil.copy(sample / "trace.journal", journal)
    made = recover(journal).hdf5
    assert made.with_name(made.name + ".sha256").read_bytes().endswith(b"  tr\xffce.h5\n")
    for path in (journal, made):
        assert verify_untrusted(path).whole
    with h5py.File(made, "r+") as file:
        file["cycles/applied_rad"].attrs["units"] = "deg"
    assert "tr\\udcffce.h5.sha256" in verify_untrusted(made).damage[0].text
