"""Outputs are tried before the work and written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.outputs import (
    check_output_file,
    check_output_folder,
    output_file,
    scratch_folder,
    write_json,
    write_output,
)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("check", [check_output_file, check_output_folder])
def test_trying_leaves_nothing_behind(tmp_path: Path, check: Callable[[Path], Path]) -> None:
    """A place that does not exist yet is found good, and still does not exist afterwards."""
    assert check(tmp_path / "a" / "b" / "c") == tmp_path / "a" / "b" / "c"
    assert names(tmp_path) == []


@pytest.mark.parametrize("check", [check_output_file, check_output_folder])
def test_a_way_through_a_file_is_refused_by_its_name(
    tmp_path: Path, check: Callable[[Path], Path]
) -> None:
    """Where a folder of the path is a file, the sentence names that file."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match=r"file is a file, not a folder"):
        check(tmp_path / "file" / "x" / "y")


def test_a_folder_is_no_file_and_the_reverse(tmp_path: Path) -> None:
    """Each kind is refused where the other is wanted."""
    with pytest.raises(FileError, match="is a folder: give the name of a file"):
        check_output_file(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileError, match="is a file, not a folder"):
        check_output_folder(tmp_path / "file")


def test_a_place_where_nothing_can_be_made_is_refused() -> None:
    """The system's reason is told (not even root makes files in /proc)."""
    with pytest.raises(FileError, match="/proc/new/x: cannot be written: "):
        check_output_file("/proc/new/x")
    with pytest.raises(FileError, match="cannot be written: File name too long"):
        check_output_file(Path("/tmp") / ("x" * 300))  # noqa: S108 - nothing is made


def test_an_existing_file_is_replaced_only_where_that_is_allowed(tmp_path: Path) -> None:
    """`replace=False` names the way out."""
    path = write_output(tmp_path / "x", "old")
    assert check_output_file(path) == path
    with pytest.raises(UsageError, match=r"x exists: give another name, or --force"):
        check_output_file(path, replace=False)


def test_writing_makes_the_folders(tmp_path: Path) -> None:
    """As `mkdir -p` does; and nothing else is left."""
    write_json(tmp_path / "a" / "b" / "x.json", {"n": 1})
    assert json.loads((tmp_path / "a" / "b" / "x.json").read_text()) == {"n": 1}
    assert names(tmp_path) == ["a", "a/b", "a/b/x.json"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """Half a file never takes the old one's place, and no partial file stays."""
    path = write_output(tmp_path / "x.txt", "old")

    def write_half() -> None:
        with output_file(path) as partial:
            partial.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_a_new_file_obeys_the_umask_and_a_replaced_one_keeps_its_mode(tmp_path: Path) -> None:
    """Permissions are those that a plain `open` would give."""
    path = write_output(tmp_path / "x", b"1")
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    write_output(path, b"2")
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What it points to is replaced."""
    target = write_output(tmp_path / "target", "old")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_output(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    """A device or a named pipe gets the bytes and stays what it is."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert check_output_file(pipe) == pipe
        write_output(pipe, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_json_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """`-` is standard output."""
    write_json("-", {"n": 1})
    assert json.loads(capsys.readouterr().out) == {"n": 1}


def test_a_scratch_folder_is_made_with_its_parents_and_taken_away(tmp_path: Path) -> None:
    """Folders that are missing are made; a file in the way is one sentence."""
    within = tmp_path / "not" / "there"
    with scratch_folder(within) as place:
        assert place.parent == within
        (place / "some").write_text("thing")
    assert list(within.iterdir()) == []
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FileError, match="file: cannot be written: "),
        scratch_folder(tmp_path / "file"),
    ):
        pass
