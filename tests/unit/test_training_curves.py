"""Curves of several runs: who belongs together, what stands in the middle, how sure that is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from memrl_ctrl.cli import main
from memrl_ctrl.errors import FileError, UnknownNameError
from memrl_ctrl.training.curves import confidence_interval, curves, find_runs, interquartile_mean


def run_folder(
    folder: Path,
    values: list[float],
    *,
    name: str = "a",
    seed: int = 0,
    step: int = 100,
    extra: str = "",
) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: {name}\nseed: {seed}\n{extra}")
    rows = [
        {"steps": step * (k + 1), "seconds": 30.0 * (k + 1), "return": value}
        for k, value in enumerate(values)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_seeds_of_one_configuration_make_one_curve(tmp_path: Path) -> None:
    """Runs that differ in the seed only stand together; other settings stand apart, by their folder."""
    for seed in range(4):
        run_folder(tmp_path / f"s{seed}", [1.0 + seed, 2.0 + seed], seed=seed)
    run_folder(tmp_path / "other", [5.0, 6.0], name="b")
    run_folder(tmp_path / "c1", [0.0, 0.0], name="c", extra="steps: 1\n")
    run_folder(tmp_path / "c2", [0.0, 0.0], name="c", extra="steps: 2\n")
    found = {curve.label: curve for curve in curves([tmp_path])}
    assert len(found) == 4
    assert len(found["a"].runs) == 4
    # The middle half of 2, 3, 4, 5 is 3 and 4.
    assert_allclose(found["a"].middle[-1], 3.5)
    assert found["a"].low is not None
    assert found["a"].high is not None
    assert 2.0 <= found["a"].low[-1] < 3.5 < found["a"].high[-1] <= 5.0
    assert found["b"].low is None
    assert {label for label in found if label.startswith("c (")} == {
        f"c ({tmp_path.name}/c1)", f"c ({tmp_path.name}/c2)"
    }  # fmt: skip


def test_the_mean_is_where_all_runs_are(tmp_path: Path) -> None:
    """A run that was shorter ends the curve, instead of changing over whom the mean is."""
    run_folder(tmp_path / "long", [0.0, 0.0, 0.0, 100.0], seed=0)
    run_folder(tmp_path / "short", [2.0, 2.0], seed=1)
    (curve,) = curves([tmp_path])
    assert curve.x[-1] == 200.0
    assert_allclose(curve.middle, 1.0)


def test_time_is_in_minutes_and_smoothing_averages(tmp_path: Path) -> None:
    """The axis of time is minutes of training; a moving average keeps a constant at the ends too."""
    run_folder(tmp_path / "a", [3.0, 3.0, 3.0, 3.0, 3.0])
    (curve,) = curves([tmp_path / "a"], x="time", smooth=3)
    assert_allclose(curve.x, [0.5, 1.0, 1.5, 2.0, 2.5])
    assert_allclose(curve.middle, 3.0)
    run_folder(tmp_path / "b", [0.0, 3.0, 0.0, 3.0, 0.0], name="b")
    (curve,) = curves([tmp_path / "b"], smooth=3)
    assert_allclose(curve.middle, [1.5, 1.0, 2.0, 1.0, 1.5])


def test_the_interval_covers_the_middle() -> None:
    """Of many sets of ten runs, about as many intervals as said hold the true middle."""
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(100):
        low, high = confidence_interval(rng.normal(7.0, 1.0, (10, 1)))
        inside += int(low[0] <= 7.0 <= high[0])
    # The percentile bootstrap of ten runs is somewhat too narrow.
    assert 80 <= inside <= 99
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    """No run, no such figure, no such axis: one sentence each."""
    with pytest.raises(FileError, match="is no run folder and holds none"):
        find_runs([tmp_path])
    with pytest.raises(FileError, match="does not exist"):
        find_runs([tmp_path / "nowhere"])
    run_folder(tmp_path / "a", [1.0])
    with pytest.raises(UnknownNameError, match=r"no figure 'retrun'.*return"):
        curves([tmp_path], "retrun")


def test_the_command_draws_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`plot` writes the picture and the last points."""
    for seed in range(2):
        run_folder(tmp_path / f"s{seed}", [1.0, 2.0 + seed], seed=seed)
    picture, figures = tmp_path / "new" / "c.png", tmp_path / "c.json"
    assert main(["plot", str(tmp_path), "--out", str(picture), "--json", str(figures)]) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    (curve,) = json.loads(figures.read_text())["curves"]
    assert curve["interquartile_mean"] == 2.5
    assert curve["of_each_run"] == [2.0, 3.0]
    assert "2.5" in capsys.readouterr().out
    assert main(["plot"]) == 2
    assert "needs a run" in capsys.readouterr().err
