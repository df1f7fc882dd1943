"""The demo: everything is made, and success is never faked."""

import json
import subprocess
import sys

import pytest

from memrl_deploy.exporter import MOST_ROUNDING

PICTURES = ("learning_curve", "phase_function", "phase_error", "profiles")


def demo(out, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "memrl_ctrl", "demo", "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def check_made(out, cycles):
    report = json.loads((out / "report.json").read_text())
    assert report["cycles"] == cycles
    assert report["replay_identical"] is True
    assert report["parity_max_abs_diff"] <= MOST_ROUNDING
    for name in PICTURES:
        assert (out / f"{name}.png").stat().st_size > 5_000
    return report["phase_error_deg"]


def test_demo_without_training_says_that_it_failed(tmp_path):
    """A policy that learnt nothing makes the demo fail, with everything made and said.

    With cycles much shorter than these a busy machine is late three times in a row, which leaves the loop.
    """
    out = tmp_path / "demo"
    done = demo(out, "--minutes", "0.01", "--cycles", "11", "--period", "0.2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "shrank only by a factor" in done.stdout, done.stdout + done.stderr
    error = check_made(out, 11)
    assert error["before"]["median"] < 10.0 * error["after"]["median"]


def test_demo_keeps_its_hands_off_a_folder_that_is_not_its_own(tmp_path):
    """A folder with other files is refused, and nothing in it changes."""
    (tmp_path / "mine.txt").write_text("mine")
    done = demo(tmp_path)
    assert done.returncode == 2
    assert "is no earlier demo's folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_demo_succeeds(tmp_path):
    """Ninety seconds of training shrink the median phase error tenfold."""
    out = tmp_path / "demo"
    done = demo(out, "--minutes", "1.5", "--cycles", "25")
    assert done.returncode == 0, done.stdout + done.stderr
    error = check_made(out, 25)
    assert error["before"]["median"] >= 10.0 * error["after"]["median"]
