"""Files stay short enough to be read in one go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST = 500
BUILT = {"build", "dist", "node_modules", "__pycache__"}


def sources(root: Path) -> Iterator[Path]:
    """Every .py file below a folder, without what is built or installed there, or hidden."""
    for folder, below, files in os.walk(root):
        below[:] = [
            name
            for name in below
            if name not in BUILT
            and not name.startswith(".")
            and not (Path(folder, name) / "pyvenv.cfg").exists()
        ]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def too_long(root: Path) -> list[str]:
    """Name the files of more than 500 lines, with their number of lines."""
    counted = {path: path.read_bytes().count(b"\n") for path in sources(root)}
    return sorted(
        f"{path.relative_to(root)}: {lines} lines"
        for path, lines in counted.items()
        if lines > LONGEST
    )


def test_no_file_is_longer_than_500_lines() -> None:
    """A file of more than 500 lines is to be split by subject."""
    assert {"memrl_ctrl", "backends", "programs", "deploy", "tests"} <= {
        path.relative_to(ROOT).parts[0] for path in sources(ROOT)
    }
    assert too_long(ROOT) == []


def test_a_longer_file_is_named(tmp_path: Path) -> None:
    """One line too many is found, also in a new folder; what is built, hidden or installed is not."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "fits.py").write_text("x = 1\n" * 500)
    (tmp_path / "new" / "long.py").write_text("x = 1\n" * 501)
    for folder in ("build", ".cache", "python"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "long.py").write_text("x = 1\n" * 501)
    (tmp_path / "python" / "pyvenv.cfg").touch()
    assert too_long(tmp_path) == ["new/long.py: 501 lines"]
