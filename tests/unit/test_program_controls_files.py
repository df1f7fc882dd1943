"""Import of controls-system exports: files and folders that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program import import_controls_export

from .controls_export import DEVICES, complete


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A complete export."""
    return complete(tmp_path / "my export")


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((5, 3)), r"has shape \(5, 3\); expected an array of shape \(2, n\)"),
        (np.array([[0.0, 0.0], [1.0, 2.0]]), "does not increase at column 1"),
        (np.array([[0.0, 1.0], [1.0, np.nan]]), "column 1 is not finite"),
        (np.array([["a", "b"], ["c", "d"]]), "holds 2 <U1"),
        (np.array([[0.0, 1.0], [1.0, 1e300]]), "column 1 is not finite, or too large"),
        (np.zeros((3, 2)), r"has shape \(3, 2\); expected .* \(save its transpose\)"),
        (np.array([[{}, None], [None, None]]), r"holds Python objects: pickles are not read"),
    ],
)
def test_wrong_npy(export: Path, array: np.ndarray, sentence: str) -> None:
    """A wrong field array is one sentence; nothing is unpickled."""
    (export / "B.csv").unlink()
    np.save(export / "B.npy", array, allow_pickle=True)
    with pytest.raises(ProgramError, match=sentence):
        import_controls_export(export)


def test_a_gap_in_the_columns(export: Path) -> None:
    """Empty cells before further breakpoints are named with both lines."""
    rows = ["D,D,E,E", "X,Y,X,Y", "0,1,0,1", ",,1,2", "2,3,2,3"]
    (export / "V1A.csv").write_text("\n".join(rows).replace("D", DEVICES["V1A"]))
    with pytest.raises(
        ProgramError, match=r"V1A.csv, line 4: BA3.* has empty cells, but goes on in line 5; fill"
    ):
        import_controls_export(export)


def test_a_gap_in_the_samples(export: Path) -> None:
    """A stretch without samples in a field that is sampled densely is remarked on."""
    time = np.r_[0.0, np.arange(270.0, 400.0), np.arange(440.0, 811.0), 1200.0]
    field = np.interp(time, [0.0, 270.0, 807.0, 1200.0], [0.0, 2320.0, 8627.0, 0.0])
    np.save(export / "field.npy", np.stack([time, field]))
    notes = import_controls_export(export, field_file=export / "field.npy").notes
    assert [note for note in notes if "no samples" in note] == [
        "b_field: no samples between ctime 399 and 440 ms in field.npy, where there is beam; a "
        "straight line is taken"
    ]


def test_pickles_are_left_out(export: Path, tmp_path: Path) -> None:
    """A pickle in the folder is named as left out; a folder of nothing else is refused."""
    (export / "phases.pkl").write_bytes(b"\x80\x04N.")
    notes = import_controls_export(export).notes
    assert "phases.pkl: left out, pickles are not read: they can run any code" in notes
    (tmp_path / "p.pickle").write_bytes(b"\x80\x04N.")
    with pytest.raises(ProgramError, match=r"holds no .csv or .npy file \(p.pickle: pickles are"):
        import_controls_export(tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"V1A.csv: is empty; expected device names in the first line"),
        ("D,D\n", r"has 1 line; expected device names"),
        ("D\nX\n1\n", r"line 1: has 1 columns; expected pairs"),
        ("D,D\nY,X\n1,2\n", r"line 2: reads 'Y,X'; expected X,Y"),
        ("D,E\nX,Y\n1,2\n", r"line 1: columns 1 and 2 are named 'D' and 'E'; expected one device"),
        ("D,D\nX,Y\n0,1\n1,2,3\n", r"line 4: has 3 columns; expected 2"),
        ("D,D\nX,Y\n0,1\n1,\n", r"line 4: column Y of D holds an empty cell; expected a number"),
        ("D,D\nX,Y\n0,1\n0,2\n", r"line 4: X of D goes from 0 to 0; it must increase"),
        ("D,D\nX,Y\n0,1\n1,inf\n", r"line 4: column Y of D holds 'inf'"),
        ("D,D\nX,Y\n0,1\n", r"line 1: D has 1 breakpoints; expected at least 2"),
        ("D;D\nX;Y\n0;1\n", r"line 1: has 1 columns.*; save it with commas between the cells"),
        ("D,D\nX,Y\n0,1\n1,8 kV\n", r"line 4: column Y of D holds '8 kV'; expected a number"),
        ("D,D\nX,Y\n5,1\n1,2\n", r"line 4: X of D goes from 5 to 1; it must increase"),
        ("\x00\x01\x02", r"line 1: holds binary data"),
    ],
)
def test_wrong_export_files(export: Path, text: str, sentence: str) -> None:
    """Each kind of wrong export is named with file, line and what was expected."""
    (export / "V1A.csv").write_text(text)
    with pytest.raises(ProgramError, match=sentence):
        import_controls_export(export)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_wrong_encodings(export: Path, encoding: str) -> None:
    """Text that is not UTF-8 is named as such; a spreadsheet's byte order mark is no fault."""
    text = (export / "V1A.csv").read_text()
    (export / "V1A.csv").write_text("Gerät," + text, encoding=encoding)
    with pytest.raises(ProgramError, match=r"V1A.csv, line 1: is not UTF-8 text"):
        import_controls_export(export)
    (export / "V1A.csv").write_text(text.replace("\n", "\r\n"), encoding="utf-8-sig")
    assert import_controls_export(export).program.v1_v.value[2] == 9000.0


def test_wrong_folders(tmp_path: Path) -> None:
    """A folder that is missing, empty or a file is named."""
    with pytest.raises(ProgramError, match="nowhere: does not exist; expected a folder"):
        import_controls_export(tmp_path / "nowhere")
    with pytest.raises(ProgramError, match=r"holds no \.csv or \.npy file"):
        import_controls_export(tmp_path)
    (tmp_path / "x").write_text("")
    with pytest.raises(ProgramError, match="x: is no folder"):
        import_controls_export(tmp_path / "x")
