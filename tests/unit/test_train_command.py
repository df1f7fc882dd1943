"""`memrl-ctrl train` and `evaluate` as commands: what they refuse, what they say, what they draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from memrl_ctrl.cli import main
from memrl_ctrl.training.logs import METRICS, draw_learning_curve

QUICK = [
    "environment.num_envs=4",
    "agent.batch_size=8",
    "agent.start_steps=100",
    "agent.update_after=100",
    "agent.updates_per_round=1",
    "agent.actor.lstm=[8]",
    "logging.tensorboard=false",
    "evaluation.episodes=2",
]
OPTIONS = ["recall", *(word for change in QUICK for word in ("--set", change))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 200 steps."""
    folder = tmp_path_factory.mktemp("train") / "run"
    assert main(["train", *OPTIONS, "--steps", "200", "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--steps", "0"], "--steps must be at least 1, not 0"),
        (["train", "--minutes", "nan"], "--minutes must be above 0"),
        (["train", "--minutes", "inf"], "--minutes must be above 0"),
        (["train", "--seed", "-1"], "--seed must be between 0"),
        (["train", "--json", "/proc/new/x"], "/proc/new/x: cannot be written"),
        (["train", "--out", "/proc/new"], "/proc/new: cannot be written"),
        (["train", "--resume", "nope"], "nope: does not exist"),
        (["evaluate", "RUN", "--episodes", "0"], "--episodes must be at least 1, not 0"),
        (["evaluate", "RUN", "--seed", "-1"], "--seed must be between 0"),
        (["evaluate", "RUN", "--json", "/proc/new/x"], "/proc/new/x: cannot be written"),
        (["evaluate", "RUN", "--json", "RUN"], "is a folder: give the name of a file"),
        (["evaluate", "RUN", "--checkpoint", "-1"], "--checkpoint must be at least 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_work(
    words: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence; neither training nor evaluation begins."""
    assert main([word.replace("RUN", str(run)) for word in words]) in (2, 3)
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_json_on_standard_output_is_all_there_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--json -` can be piped into a program that reads JSON."""
    assert main(["evaluate", str(run), "--episodes", "3", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 3


def test_the_budget_of_a_resumed_run_counts_both_parts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said so at the beginning and the end; a budget that is spent already is refused."""
    more = ["train", *OPTIONS, "--resume", str(run)]
    assert main([*more, "--steps", "200", "--out", str(tmp_path / "a")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "nothing is left to do" in said
    assert "has trained 200 steps" in said
    assert not (tmp_path / "a").exists()
    assert main([*more, "--minutes", "0.0001", "--out", str(tmp_path / "a")]) == 2
    assert "and 0.0001 minutes counts them too" in " ".join(capsys.readouterr().err.split())
    assert main([*more, "--steps", "240", "--out", str(tmp_path / "a")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "what it has trained counts: 240 steps in all" in said
    assert "Trained after 240 steps" in said
    assert "Steps and time are those of both parts" in said


def test_held_out_figures_stand_beside_those_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One panel for returns and one for phase errors; no panel of its own for the one evaluation."""
    rows = [
        {"steps": 1000.0 * k, "return": 1.0 * k, "phase_error_deg_median": 50.0 / k}
        for k in range(1, 9)
    ]
    judged = {"steps": 8000.0, "evaluation_return": 9.0, "evaluation_phase_error_deg_median": 1.0}
    (tmp_path / METRICS).write_text("".join(json.dumps(row) + "\n" for row in [*rows, judged]))
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    path = draw_learning_curve(tmp_path)
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert [len(axis.lines[0].get_xdata()) for axis in figure.axes] == [8, 8]
    assert [list(axis.lines[1].get_ydata()) for axis in figure.axes] == [[9.0], [1.0]]
