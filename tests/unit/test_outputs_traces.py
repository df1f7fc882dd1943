"""An output never takes the place of a trace, whichever command is asked for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memrl_ctrl.cli.trace import export
from memrl_ctrl.errors import FileError
from memrl_ctrl.outputs import check_output_file, output_file, write_json, write_output
from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import recover, verify

FILES = ("trace.h5", "trace.h5.sha256", "trace.journal")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished run, with both its files."""
    write_sample_journal(tmp_path / "trace.journal")
    recover(tmp_path)
    return tmp_path


def write_through(path: Path) -> None:
    with output_file(path) as partial:
        partial.write_text("ours now")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "use",
    [
        check_output_file,
        write_through,
        lambda path: write_output(path, "ours now"),
        lambda path: write_json(path, {"ours": "now"}),
    ],
    ids=["check", "file", "text", "json"],
)
def test_no_output_replaces_a_trace(run: Path, name: str, use: Callable[[Path], object]) -> None:
    """Neither file of a run, nor the digest, by any of the ways in which outputs are written."""
    before = (run / name).read_bytes()
    what = r"is the digest of trace\.h5" if name.endswith("sha256") else "is a trace"
    with pytest.raises(
        FileError, match=f"{what}, which is not replaced by an output: give another"
    ):
        use(run / name)
    assert (run / name).read_bytes() == before
    assert sorted(path.name for path in run.iterdir()) == list(FILES)


@pytest.mark.parametrize("name", ["trace.h5", "trace.journal"])
def test_a_trace_is_known_by_its_first_bytes_or_its_name(run: Path, name: str) -> None:
    """A copy under another name, a link to one and one whose beginning is damaged are traces too."""
    copy, link = run / "t.json", run / "link.html"
    copy.write_bytes((run / name).read_bytes())
    link.symlink_to(run / name)
    damaged = bytearray((run / name).read_bytes())
    damaged[:64] = bytes(64)
    (run / name).write_bytes(damaged)
    for path in (copy, link, run / name):
        with pytest.raises(FileError, match="is a trace"):
            write_output(path, "ours now")


def test_what_is_no_trace_is_replaced(tmp_path: Path) -> None:
    """An earlier output, an empty file and a digest of something else are no traces."""
    for name in ("x.html", "empty", "x.html.sha256", ".sha256"):
        (tmp_path / name).write_text("" if name == "empty" else "MRL, old")
        write_output(tmp_path / name, "new")
        assert (tmp_path / name).read_text() == "new"


def test_an_export_onto_its_own_trace_leaves_the_trace(run: Path) -> None:
    """Exported or recovered before: the run is still whole, and `recover` still replaces its own file."""
    for name in FILES:
        with pytest.raises(FileError, match="is not replaced by an output"):
            export(run, out=run / name)
    assert verify(run).whole
    assert recover(run).report.whole
