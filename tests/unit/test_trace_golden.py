"""Files that earlier releases wrote are read for ever, as they were recorded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from memrl_ctrl.trace import SCHEMA_VERSION, TraceReader, recover, verify
from memrl_ctrl.trace.codec import encode
from memrl_ctrl.trace.records import READABLE_SCHEMAS

GOLDEN = Path(__file__).parents[1] / "data" / "traces"
VERSIONS = sorted(GOLDEN.iterdir())
SIGNED_BY = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
"""Public key of the secret key 00 01 ... 1f (RFC 8032), which signed the golden files from version 2 on."""


def expected(folder: Path) -> dict[str, Any]:
    """What was recorded, as a digest of each record and some plain values."""
    values: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return values


def digest(values: NDArray[Any]) -> dict[str, Any]:
    """What is compared of a column: type, shape, SHA-256 of its bytes, or of its texts as JSON."""
    text = values.dtype == object
    data = json.dumps(values.tolist()).encode() if text else values.tobytes()
    return {
        "type": "str" if text else values.dtype.str,
        "shape": list(values.shape),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_every_readable_version_has_a_golden_file() -> None:
    """A version without a golden file could be lost unseen."""
    assert [folder.name for folder in VERSIONS] == [f"v{number}" for number in READABLE_SCHEMAS]
    assert READABLE_SCHEMAS[-1] == SCHEMA_VERSION


@pytest.mark.parametrize("name", ["trace.journal", "trace.h5"])
@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_golden_files_read_as_they_were_recorded(folder: Path, name: str) -> None:
    """Header, cycles and outcomes of each version come back to the bit, and verify as whole."""
    wanted = expected(folder)
    assert verify(folder / name).whole
    with TraceReader(folder / name) as trace:
        assert hashlib.sha256(encode(trace.header)).hexdigest() == wanted["header_sha256"]
        assert len(trace) == len(wanted["cycles"])
        for index, cycle in enumerate(wanted["cycles"]):
            record, outcome = trace.record(index), trace.outcome(index)
            assert record.cycle == cycle["cycle"]
            assert hashlib.sha256(encode(record)).hexdigest() == cycle["record_sha256"]
            assert (None if outcome is None else outcome.reason or "taken") == cycle["outcome"]
            np.testing.assert_array_equal(record.reading.applied_rad, cycle["applied_rad"])
            row = record.reading.profile[1][: len(cycle["profile_row_1"])]
            np.testing.assert_array_equal(row, np.float32(cycle["profile_row_1"]))


@pytest.mark.parametrize("name", ["trace.journal", "trace.h5"])
@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_golden_columns_are_byte_for_byte_the_same(folder: Path, name: str) -> None:
    """Every column of each version has the names, types, shapes and bytes that it always had."""
    wanted = json.loads((folder / "columns.json").read_text())
    with TraceReader(folder / name) as trace:
        assert {column: digest(trace.array(column)) for column in trace.names} == wanted


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
def test_golden_journals_are_recovered(folder: Path, tmp_path: Path) -> None:
    """From a journal of any version an HDF5 file of this one is made, and it verifies."""
    (tmp_path / "trace.journal").write_bytes((folder / "trace.journal").read_bytes())
    report = verify(recover(tmp_path).hdf5)
    assert report.whole
    assert report.cycles == len(expected(folder)["cycles"])


def test_the_golden_signature_is_valid() -> None:
    """All cycles of the signed golden files are covered by their key, in both forms."""
    for version, cycles in (("v2", 4), ("v3", 6)):
        for name in ("trace.journal", "trace.h5"):
            signed = verify(GOLDEN / version / name).signed
            assert signed is not None
            assert (dict(signed.cycles), signed.unsigned) == ({SIGNED_BY: cycles}, 0)
    unsigned = verify(GOLDEN / "v1" / "trace.h5").signed
    assert unsigned is not None
    assert (dict(unsigned.cycles), unsigned.unsigned) == ({}, 6)


def test_the_golden_file_of_version_3_has_each_way_of_storing() -> None:
    """Steps, several tables of levels, a plain cycle, a plain point, memory from before and its own."""
    with h5py.File(GOLDEN / "v3" / "trace.h5") as file:
        plain = file["cycles/profile_first"][:] < 0
        assert plain.all(axis=1).tolist() == [False, False, True, False, False, False]
        assert np.flatnonzero(plain[4]).tolist() == [0]
        assert file["cycles/memory_from/h_in"][:].tolist() == [-1, 1, 1, -1, -1, 1]
        levels = file["levels/profile"][:]
        assert np.isnan(levels).any()
        assert np.signbit(levels[levels == 0.0]).any()
        first = file["cycles/profile_first"][:]
        assert first[5].min() > first[:4].max()
