"""`memrl-ctrl bench cycles`: closed loops against twins, scored by what only the twins knew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.cli import main
from memrl_deploy.bench_cycles import LATE, Loop, figures_of


def loop(error_deg: np.ndarray, *, handed_over: str = "") -> Loop:
    return Loop(offset_deg=90.0, seed=1, error_deg=error_deg, handed_over=handed_over)


def test_figures_count_points_that_rest_wrongly_and_loops_that_arrive() -> None:
    """Three points: one right, one that rests 30 degrees off, one without a reference in a late cycle."""
    errors = np.full((60, 3), 0.5)
    errors[:, 1] = 30.0
    errors[-3, 2] = np.nan
    arrived = np.full((60, 3), 0.1)
    arrived[-LATE, 0] = 7.0  # an excursion is no rest
    found = figures_of([loop(errors), loop(arrived), loop(arrived[:55], handed_over="operator")])
    assert found["loops"] == 3
    assert found["arrived_share"] == pytest.approx(1 / 3)
    assert found["points"] == 8
    assert found["points_without_reference"] == 1
    assert found["points_resting_beyond_5_deg"] == 1
    assert found["handed_over"] == 1
    assert found["late_largest_deg"] == 30.0
    assert found["late_median_deg"] == pytest.approx(0.1)
    assert found["median_deg_after_10"] == pytest.approx(0.1)
    assert found["share_within_2_deg"] == pytest.approx(132 / 154)


def test_loops_without_any_reference_have_no_figures() -> None:
    """They are counted, and nothing is made up."""
    found = figures_of([loop(np.full((30, 2), np.nan))])
    assert found["points_without_reference"] == 2
    assert found["arrived_share"] == 1.0
    assert all(np.isnan(found[name]) for name in ("late_median_deg", "late_p95_deg"))


def test_every_policy_meets_the_same_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped policy arrives where nothing that moves nothing does; nothing is left on the disk."""
    monkeypatch.chdir(tmp_path)
    options = ["--policy", "psb", "hold", "--cycles", "26", "--offset-deg", "-150", "--intensity"]
    assert main(["bench", "cycles", *options, "6e12", "--json", "out.json"]) == 0
    figures = json.loads(Path("out.json").read_text())["figures"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert figures["psb.loops"] == figures["hold.loops"] == 1
    assert figures["psb.points"] == figures["hold.points"] > 20
    assert figures["psb.arrived_share"] == 1
    assert figures["psb.late_median_deg"] < 1.0
    assert figures["hold.arrived_share"] == 0
    assert figures["hold.points_resting_beyond_5_deg"] == figures["hold.points"]
    said = " ".join(capsys.readouterr().out.split())
    assert "offsets -150 degrees, --intensity 6e+12" in said
    assert "psb: the largest late error" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policy", "pbs"], "no policy or controller 'pbs'"),
        (["--program", "none"], "no program 'none'"),
        (["--loops", "0"], "--loops"),
        (["--scenario", "none", "--loops", "1"], "no scenario 'none'"),
    ],
)
def test_what_is_not_there_is_said_by_name(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first loop where it can be."""
    assert main(["bench", "cycles", *options]) != 0
    assert said in capsys.readouterr().err
