"""A user's own reference phases in the place of the computed optimum."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.errors import ProgramError, UsageError
from memrl_ctrl.program import load_reference
from memrl_ctrl.registry import open_backend

ROWS = "ctime_ms,phi2_deg\n275,170\n500,-170\n805,-150\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "reference.csv"
    path.write_text(ROWS)
    return path


def test_phases_go_the_shorter_way_round(file: Path) -> None:
    """Between 170 and -170 degrees the reference passes 180, not 0; answers lie in (-180, 180]."""
    phases = load_reference(file)
    degrees = np.degrees(phases.at_rad([275.0, 387.5, 500.0, 805.0]))
    assert degrees == pytest.approx([170.0, 180.0, -170.0, -150.0])


def test_a_cycle_is_scored_against_the_users_phases(file: Path) -> None:
    """The simulation's truth holds the file's phases at the control points, not computed ones."""
    backend = open_backend(
        "blond", program="psb-2gev", reference=file, points=5, n_slices=64, seed=1
    )
    truth = backend.start().truth
    assert truth is not None
    expected = load_reference(file).at_rad(backend.description.ctime_ms)
    assert np.array_equal(truth.reference_rad, expected)
    assert np.array_equal(truth.goal_rad, expected)


def test_rows_of_a_program_are_scored_against_the_users_phases(file: Path) -> None:
    """Unrelated conditions from a program take the reference at the ctime that they were drawn at."""
    file.write_text("ctime_ms,phi2_deg\n275,12.5\n805,12.5\n")
    backend = open_backend("blond", program="psb-2gev", reference=file, rows=3, n_slices=64, seed=1)
    truth = backend.start().truth
    assert truth is not None
    assert np.degrees(truth.reference_rad) == pytest.approx(12.5)


def test_a_reference_needs_a_program_and_must_cover_it(file: Path) -> None:
    """A machine without a program has no ctime; a reference that ends early is named with its span."""
    with pytest.raises(UsageError, match="function of ctime: give a program, not a machine"):
        open_backend("blond", machine="psb", rows=2, reference=file)
    file.write_text("ctime_ms,phi2_deg\n300,0\n805,0\n")
    with pytest.raises(ProgramError, match=r"cover ctime 300 to 805 ms; needed is 285 to 805 ms"):
        open_backend("blond", program="psb-2gev", reference=file)
    with pytest.raises(ProgramError, match=r"cover ctime 300 to 805 ms; ctime 299 ms is outside"):
        load_reference(file).at_rad([299.0])


@pytest.mark.parametrize("name", ["table.pkl", "table.csv", "table.npy"])
def test_pickles_are_refused_unread(tmp_path: Path, name: str) -> None:
    """A pickle is refused by its name or by its first byte, in one sentence, and never opened."""
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"phi": [1.0]}))
    with pytest.raises(ProgramError, match="pickles and other binary files are not read") as error:
        load_reference(path)
    assert "ctime_ms,phi2_deg" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ctime_ms,phi2_rad\n275,0\n805,0\n", r"convert radians to degrees \(phi2_deg\)"),
        ("ctime_ms,phi2_deg\n275,0\n275,1\n", r"line 3: ctime_ms goes from 275 to 275"),
        ("ctime_ms,phi2_deg\n275,\n805,1\n", r"line 2: column phi2_deg holds an empty cell"),
        ("ctime_ms,phi_hw_deg\n275,1\n805,1\n", r"column 'phi_hw_deg' is not known"),
    ],
)
def test_a_wrong_table_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """Each mistake is named with its line and what was expected."""
    path = tmp_path / "reference.csv"
    path.write_text(text)
    with pytest.raises(ProgramError, match=sentence):
        load_reference(path)
    with pytest.raises(ProgramError, match="no such file"):
        load_reference(tmp_path / "nowhere.csv")
