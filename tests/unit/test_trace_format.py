"""The document of the trace format is enough to read a journal."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import TraceReader, recover
from memrl_ctrl.trace.columns import COLUMNS, GROUPS

DOCUMENT = Path(__file__).parents[2] / "docs" / "trace-format.md"


@pytest.fixture
def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def test_the_documents_reader_reads_a_journal(text: str, tmp_path: Path) -> None:
    """The reader printed in the document, which knows nothing of this project, reads every cycle."""
    path = tmp_path / "trace.journal"
    written = write_sample_journal(path, 6)
    source = re.findall(r"```python\n(import struct.*?)```", text, flags=re.DOTALL)
    assert len(source) == 1
    assert "memrl" not in source[0]
    names: dict[str, Any] = {}
    exec(source[0], names)  # noqa: S102 - the document's own example
    records = list(names["read_journal"](path.read_bytes()))
    kinds = [message["type"] for message, _ in records]
    assert kinds[:4] == ["header", "header", "file", "file"]
    assert kinds[-1] == "end"
    cycles = [(message, arrays) for message, arrays in records if message["type"] == "cycle"]
    assert [message["cycle"] for message, _ in cycles] == [record.cycle for record in written]
    for (_, arrays), record in zip(cycles, written, strict=True):
        np.testing.assert_array_equal(arrays["profile"], record.reading.profile)
        assert ("action" in arrays) == (record.policy is not None)


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_the_documents_reader_reads_hdf5_of_every_version(text: str, version: str) -> None:
    """The functions printed in the document, with h5py and numpy only, give every bit of each golden file."""
    source = re.findall(r"```python\n(import h5py.*?def .*?)```", text, flags=re.DOTALL)
    assert len(source) == 1
    assert "memrl" not in source[0]
    names: dict[str, Any] = {}
    exec(source[0], names)  # noqa: S102 - the document's own example
    golden = DOCUMENT.parents[1] / "tests" / "data" / "traces" / version / "trace.h5"
    with TraceReader(golden) as trace, h5py.File(golden) as file:
        cycles = len(trace)
        for begin, end in ((0, cycles), (1, cycles - 1), (cycles - 1, cycles)):
            found = names["read_profiles"](file, begin, end)
            assert found.tobytes() == trace.array("profile", slice(begin, end)).tobytes()
            for name in file["cycles/memory_in"]:
                found = names["read_memory"](file, name, begin, end)
                wanted = trace.array(f"memory_in/{name}", slice(begin, end))
                assert found.tobytes() == wanted.tobytes()


def test_every_column_stands_in_the_document(text: str, tmp_path: Path) -> None:
    """Each column and attribute of the HDF5 file is named in the document."""
    for path in (*COLUMNS, *GROUPS):
        name = path.rstrip("/").rpartition("/")[2]
        assert f"`{name}" in text, path
    write_sample_journal(tmp_path / "trace.journal", 6)
    with h5py.File(recover(tmp_path).hdf5, "r") as file:
        for name in file.attrs:
            assert f"`{name}`" in text, name


def test_the_trace_needs_neither_torch_nor_blond_nor_matplotlib() -> None:
    """Recording, reading and replaying import none of the heavy optional libraries."""
    code = (
        "import sys\n"
        "for name in ('torch', 'blond', 'matplotlib', 'onnx'):\n"
        "    sys.modules[name] = None\n"
        "import memrl_ctrl.trace, memrl_ctrl.cli.trace, memrl_backends.replay\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
