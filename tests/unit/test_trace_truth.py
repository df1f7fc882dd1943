"""What the simulated machine knew is put beside the right cycles, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.cli.trace import app
from memrl_ctrl.errors import FileError
from memrl_ctrl.testing.traces import write_sample_journal
from memrl_ctrl.trace import TraceReader, recover
from memrl_ctrl.trace.plot import next_to
from memrl_ctrl.trace.truth import offset_of_cycle, truth_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of six cycles."""
    write_sample_journal(tmp_path / "trace.journal")
    recover(tmp_path)
    return tmp_path


def log(run: Path, **changes: Any) -> Path:
    """A truth log of the run's cycles and others, newest first; the second point has no reference."""
    with TraceReader(run) as trace:
        cycles = [int(c) for c in trace.array("cycle")]
        points = trace.header.machine.points
    lines = []
    for cycle in reversed([*cycles, max(cycles) + 1, max(cycles) + 2]):
        row: dict[str, Any] = {
            "cycle": cycle,
            "phase_error_rad": [None if p == 1 else 0.001 * cycle for p in range(points)],
            "reference_rad": [None if p == 1 else 0.5 for p in range(points)],
            "offset_rad": [0.25] * points,
        }
        lines.append(json.dumps({**row, **changes}))
    path = run / "truth.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_each_cycle_gets_its_own(run: Path) -> None:
    """Rows are matched by cycle, whatever their order; null is NaN; the offset is in the function."""
    with TraceReader(run) as trace:
        truth = truth_of(trace, log(run))
        cycles = trace.array("cycle")
    assert truth.phase_error_rad[:, 0] == pytest.approx(0.001 * cycles)
    assert np.isnan(truth.phase_error_rad[:, 1]).all()
    assert truth.reference_hw_rad[:, 0] == pytest.approx(0.75)
    points = truth.phase_error_rad.shape[1]
    one = offset_of_cycle(log(run), int(cycles[2]), points)
    assert one == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cycle": 3}, "knows nothing of cycle"),
        ({"phase_error_rad": [0.1] * 77}, "has 77 points"),
        ({"reference_rad": "far"}, "is no truth log"),
    ],
)
def test_another_machines_truth_is_refused(run: Path, changes: dict[str, Any], said: str) -> None:
    """A cycle that is missing, other points and no numbers are one sentence each."""
    path = log(run, **changes)
    with TraceReader(run) as trace, pytest.raises(FileError, match=said):
        truth_of(trace, path)


def test_what_is_no_log_is_refused(run: Path) -> None:
    """With the line where it stops being one; and a file that is not there."""
    path = log(run)
    path.write_text(path.read_text() + "{torn")
    with TraceReader(run) as trace, pytest.raises(FileError, match=r"line 9.*is no truth log"):
        truth_of(trace, path)
    with TraceReader(run) as trace, pytest.raises(FileError, match="cannot be read"):
        truth_of(trace, run / "none.jsonl")


def test_a_reference_is_drawn_next_to_what_was_applied() -> None:
    """Whole turns are taken out of it, jumps at 180 degrees too; what is missing stays missing."""
    reference = np.array([-170.0, np.nan, 175.0, 170.0])
    near = next_to(reference, np.array([185.0, 180.0, 176.0, 171.0]))
    assert near[2:] == pytest.approx([175.0, 170.0])
    assert near[0] == pytest.approx(190.0)
    assert np.isnan(near[1])


def test_a_truth_adds_a_picture(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`trace plot --truth` draws the phase error as well."""
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plot'")
    words = ["plot", str(run), "--out", str(run / "pictures"), "--truth", str(log(run))]
    app(words, result_action="return_value", exit_on_error=False, print_error=False)
    assert (run / "pictures" / "phase_error.png").read_bytes().startswith(b"\x89PNG")
    assert "phase_error.png" in capsys.readouterr().out
