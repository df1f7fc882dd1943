"""The backend `replay` keeps the contract and serves what was recorded, to the bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from memrl_backends.replay import open_backend
from memrl_ctrl.backend import BeamBackend
from memrl_ctrl.errors import (
    MachineError,
    ReadingTimeout,
    TraceError,
    UnknownNameError,
    UsageError,
)
from memrl_ctrl.testing import BackendContract
from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import recover
from memrl_ctrl.trace.records import READING_ARRAYS


class TestReplayOfHdf5(BackendContract):
    """A recorded run, from its HDF5 file."""

    registered_as = "replay"

    def make_backend(self) -> BeamBackend:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        write_sample_journal(folder / "trace.journal", 12)
        return open_backend(recover(folder).hdf5)

    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path


class TestReplayOfJournal(BackendContract):
    """A recorded run, straight from its journal."""

    def make_backend(self) -> BeamBackend:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        write_sample_journal(folder / "trace.journal", 12)
        return open_backend(folder)

    @pytest.fixture(autouse=True)
    def _in_a_folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path


def test_readings_come_in_order_and_to_the_bit(tmp_path: Path) -> None:
    """Every recorded reading is served once, unchanged but for the receive time, then an error."""
    written = write_sample_journal(tmp_path / "trace.journal", 20)
    backend = open_backend(str(tmp_path))
    for record in written:
        reading = backend.observe()
        assert (reading.cycle, reading.stamp_ns) == (record.cycle, record.reading.stamp_ns)
        for name, _, _ in READING_ARRAYS:
            assert getattr(reading, name).tobytes() == getattr(record.reading, name).tobytes()
    with pytest.raises(ReadingTimeout, match="is at its end: all 20 cycles have been served"):
        backend.observe()
    assert backend.start().cycle == written[0].cycle
    backend.close()
    with pytest.raises(MachineError, match="has been closed"):
        backend.observe()


def test_description_is_the_recorded_machine(tmp_path: Path) -> None:
    """The machine is described as it was, but as one that cannot be written to."""
    write_sample_journal(tmp_path / "trace.journal", 2)
    backend = open_backend(tmp_path)
    description = backend.description
    assert (description.name, description.program, description.backend) == (
        "psb",
        "made-up",
        "replay",
    )
    assert not description.writable
    assert description.period_s == 0.0
    assert description.ctime_ms is not None
    np.testing.assert_array_equal(description.ctime_ms, [275.0, 540.0, 805.0])
    backend.close()


def test_it_can_begin_later(tmp_path: Path) -> None:
    """`first` chooses the cycle that is served first, and a rewind goes back to it."""
    write_sample_journal(tmp_path / "trace.journal", 5)
    backend = open_backend(tmp_path, first=3)
    assert backend.observe().cycle == 103
    assert backend.observe().cycle == 104
    assert backend.start().cycle == 103
    backend.close()
    with pytest.raises(UsageError, match="allowed is 0 to 4"):
        open_backend(tmp_path, first=5)


def test_wrong_files_and_options_are_sentences(tmp_path: Path) -> None:
    """A missing trace and an option that does not exist are named."""
    with pytest.raises(TraceError, match="does not exist"):
        open_backend(tmp_path / "none.h5")
    write_sample_journal(tmp_path / "trace.journal", 2)
    backend = open_backend(tmp_path)
    with pytest.raises(UnknownNameError, match="speed"):
        backend.start(options={"speed": 2})
    backend.close()
