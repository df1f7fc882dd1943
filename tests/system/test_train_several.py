"""Several runs at once: each in a process and folder of its own, and none done twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memrl_ctrl.config import resolve
from memrl_ctrl.errors import UsageError
from memrl_ctrl.training.several import Job, plan, seeds_of

SMALL = [
    "evaluation.episodes=2", "agent.actor.lstm=[4]", "agent.updates_per_round=1",
    "logging.tensorboard=false", "logging.every_s=0",
]  # fmt: skip


def command(out: Path, *more: str) -> list[str]:
    sets = [part for text in SMALL for part in ("--set", text)]
    return [
        sys.executable, "-m", "memrl_ctrl", "train", "recall", "--seeds", "0:2", "--jobs", "2",
        "--out", str(out), *sets, *more,
    ]  # fmt: skip


def test_interrupted_runs_go_on_and_finished_ones_are_left_alone(tmp_path: Path) -> None:
    """Ctrl-C ends all runs with checkpoints; the same command goes on with them in their folders; once
    more, nothing is left to do."""
    out = tmp_path / "runs"
    long = command(out, "--steps", "30000")
    process = subprocess.Popen(long, stderr=subprocess.PIPE, text=True)
    metrics = [out / f"recall-seed{seed}" / "metrics.jsonl" for seed in (0, 1)]
    until = time.monotonic() + 120.0
    while not all(path.exists() and path.stat().st_size for path in metrics):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    first = json.loads((out / "recall-seed0" / "result.json").read_text())
    assert first["interrupted"]
    assert first["steps"] < 30000
    second = json.loads((out / "recall-seed1" / "result.json").read_text())
    enough = str(max(first["steps"], second["steps"]) + 400)
    figures = tmp_path / "figures.json"
    short = command(out, "--steps", enough, "--json", str(figures))
    done = subprocess.run(short, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    runs = json.loads(figures.read_text())["runs"]
    assert [run["state"] for run in runs] == ["done", "done"]
    assert runs[0]["result"]["resumed"] == "exactly where it stood"
    logs = [(out / f"recall-seed{seed}.log").stat().st_size for seed in (0, 1)]
    again = subprocess.run(short, capture_output=True, text=True, check=False, timeout=60)
    assert again.returncode == 0
    assert logs == [(out / f"recall-seed{seed}.log").stat().st_size for seed in (0, 1)]


def test_a_run_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    """One bad run does not stop the others' table; the exit code says that one failed."""
    bad = command(tmp_path / "runs", "--steps", "60", "--set", "environment.options={lenght: 3}")
    done = subprocess.run(bad, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "recall, seed 0 failed; why is in" in done.stderr
    assert "lenght" in (tmp_path / "runs" / "recall-seed0.log").read_text()


def test_seeds_are_read() -> None:
    """A range, a list, a number; anything else says what is expected."""
    assert seeds_of("0:3") == [0, 1, 2]
    assert seeds_of("4,2") == [4, 2]
    assert seeds_of("7") == [7]
    for wrong in ("a", "3:1", "-1", "1:2:3", ""):
        with pytest.raises(UsageError, match="seeds"):
            seeds_of(wrong)


def test_runs_have_folders_of_their_own(tmp_path: Path) -> None:
    """Configurations times seeds; the same folder twice is refused."""
    configs = [resolve("recall"), resolve("psb")]
    jobs = plan(configs, [1, 2], tmp_path)
    assert [job.folder.name for job in jobs] == [
        "recall-seed1", "recall-seed2", "psb-seed1", "psb-seed2",
    ]  # fmt: skip
    assert jobs[1].config.seed == 2
    with pytest.raises(UsageError, match="share the folder recall-seed1"):
        plan(configs, [1, 1], tmp_path)


def test_what_is_no_run_is_not_cleared(tmp_path: Path) -> None:
    """A folder that holds something of another kind is left alone."""
    from memrl_ctrl.training.several import run_all

    job = Job(config=resolve("recall"), folder=tmp_path / "x")
    job.folder.mkdir()
    (job.folder / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match=r"holds thesis\.tex, which is of no run"):
        run_all([job], 1)
    assert (job.folder / "thesis.tex").read_text() == "precious"
