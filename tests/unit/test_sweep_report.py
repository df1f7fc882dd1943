"""The report of a sweep: tables, pictures, the best configuration, and the command around it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from numpy.typing import NDArray
from optuna.trial import TrialState

from memrl_ctrl.cli import main
from memrl_ctrl.cli.sweep import cuda_devices
from memrl_ctrl.cli.sweep_view import standing_shown
from memrl_ctrl.config import dump, resolve
from memrl_ctrl.errors import UsageError
from memrl_ctrl.terminal import Terminal
from memrl_ctrl.training.sweep import make_report, read_sweep, write_report
from memrl_ctrl.training.sweep.reading import Sweep, as_file
from memrl_ctrl.training.sweep.report import Report
from memrl_ctrl.training.sweep.running import Standing
from memrl_ctrl.training.sweep.study import FIGURES, REASON, open_study, quiet, sqlite_url

SPACE = {
    "agent.learning_rate": {"distribution": "log-uniform", "min": 1e-4, "max": 1e-2},
    "agent.lstm": [[8], [16, 16]],
    "agent.epochs": {"distribution": "integer", "min": 1, "max": 8},
    "agent.gamma": {"distribution": "quantised", "min": 0.9, "max": 0.99, "step": 0.01},
}


def sweep_in(folder: Path, count: int = 20, **more: Any) -> tuple[Sweep, Path]:
    """Make the folder of a sweep whose figure is the logarithm of the learning rate, nearly."""
    values = {"base": "ppo-lstm-cartpole-no-vel", "steps": 100, "parameters": SPACE, **more}
    path = folder / "made.yaml"
    path.write_text(yaml.safe_dump(values))
    sweep, out = read_sweep(path), folder / "out"
    out.mkdir()
    (out / "sweep.yaml").write_text(as_file(sweep))
    (out / "base.yaml").write_text(dump(sweep.base))
    study = open_study(sweep, sqlite_url(out))
    generator = np.random.default_rng(1)
    for number in range(count):
        settings = {one.name: one.random(generator) for one in sweep.parameters}
        rate = settings["agent.learning_rate"]
        value = float(np.log10(rate) + 0.02 * settings["agent.epochs"])
        state = TrialState.PRUNED if number % 4 == 3 else TrialState.COMPLETE
        if number == 6:
            state = TrialState.FAIL
        study.add_trial(
            optuna.create_trial(
                state=state,
                value=value if state == TrialState.COMPLETE else None,
                params={one.name: one.drawn_from(settings[one.name]) for one in sweep.parameters},
                distributions={one.name: one.as_optuna() for one in sweep.parameters},
                intermediate_values={20: value - 1.0, 50: value - 0.5},
                user_attrs={REASON: "it went wrong"} if number == 6 else {FIGURES: [value]},
            )
        )
    return sweep, out


@pytest.fixture(autouse=True)
def _silence() -> Any:
    with quiet():
        yield


def test_the_best_trials_lead_the_report(tmp_path: Path) -> None:
    """Complete trials only, the best first, whichever way is better; counts add up."""
    sweep, out = sweep_in(tmp_path)
    report = make_report(sweep, out)
    values = [trial.value for trial in report.ranked()]
    assert values == sorted(values, reverse=True)
    assert len(values) == 14
    counts = report.as_json()["counts"]
    assert counts == {"complete": 14, "ended early": 5, "failed": 1, "cut off": 0, "waiting": 0}
    (tmp_path / "less").mkdir()
    less, out = sweep_in(tmp_path / "less", goal={"direction": "minimize"})
    values = [trial.value for trial in make_report(less, out).ranked()]
    assert values == sorted(values)


def test_what_counts_is_found(tmp_path: Path) -> None:
    """A figure that is made of one parameter has it as the most important, and as correlated."""
    sweep, out = sweep_in(tmp_path, 60)
    figures = make_report(sweep, out).as_json()
    assert next(iter(figures["importances"])) == "agent.learning_rate"
    assert figures["importances"]["agent.learning_rate"] > 0.5
    assert sum(figures["importances"].values()) == pytest.approx(1.0)
    assert figures["rank_correlations"]["agent.learning_rate"] > 0.9
    assert figures["rank_correlations"]["agent.lstm"] is None


def test_the_best_configuration_trains(tmp_path: Path) -> None:
    """best.yaml is a configuration that `train` takes: the base with the best trial's settings."""
    sweep, out = sweep_in(tmp_path)
    report = make_report(sweep, out)
    written = write_report(report)
    assert [path.name for path in written] == [
        "report.md", "report.json", "best.yaml",
        "history.png", "importances.png", "slices.png", "parallel.png",
    ]  # fmt: skip
    settings = report.settings(report.ranked()[0])
    best = resolve(out / "best.yaml")
    assert best == sweep.configuration(settings)
    assert best.ppo_lstm.learning_rate == settings["agent.learning_rate"]


def test_the_text_says_everything(tmp_path: Path) -> None:
    """Goal, counts, best trials, importances with their method, failures with their reason, pictures."""
    sweep, out = sweep_in(tmp_path)
    write_report(make_report(sweep, out))
    text = (out / "report.md").read_text()
    for part in (
        "# Sweep made",
        "Goal: maximize `evaluation_return`",
        "14 complete, 5 ended early, 1 failed",
        "PED-ANOVA",
        "- trial 6: it went wrong",
        f"memrl-ctrl train {out / 'best.yaml'}",
        "![slices](slices.png)",
        "[16, 16]",
    ):
        assert part in text
    figures = json.loads((out / "report.json").read_text())
    assert len(figures["trials"]) == 20
    assert figures["trials"][3]["state"] == "ended early"


def pixels(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_pictures_show_the_trials(tmp_path: Path) -> None:
    """Each picture has the colour of the best trial (the end of the palette), and is no blank sheet."""
    sweep, out = sweep_in(tmp_path)
    write_report(make_report(sweep, out))
    best = np.array([253, 231, 36])  # viridis' last colour
    for name in ("history", "parallel"):
        picture = pixels(out / f"{name}.png")
        assert (np.abs(picture.astype(int) - best).max(axis=2) < 6).sum() > 100, name
    for name in ("history", "parallel", "slices", "importances"):
        assert (pixels(out / f"{name}.png") < 200).mean() > 0.005, name


def test_few_trials_make_a_report_too(tmp_path: Path) -> None:
    """Without importances, and without any complete trial without pictures and best configuration."""
    sweep, out = sweep_in(tmp_path, 2)
    names = [path.name for path in write_report(make_report(sweep, out))]
    assert names == [
        "report.md", "report.json", "best.yaml", "history.png", "slices.png", "parallel.png"
    ]  # fmt: skip
    assert "Not computed: 2 complete trials, 5 are needed." in (out / "report.md").read_text()
    (tmp_path / "none").mkdir()
    sweep, out = sweep_in(tmp_path / "none", 0)
    assert len(write_report(make_report(sweep, out))) == 2
    assert "No trial is complete." in (out / "report.md").read_text()


def test_figures_that_are_all_alike_have_no_importances(tmp_path: Path) -> None:
    """Where no setting made a difference, none is called important."""
    sweep, out = sweep_in(tmp_path, 0)
    study = open_study(sweep, sqlite_url(out))
    for seed in range(8):
        generator = np.random.default_rng(seed)
        drawn = {one.name: one.drawn_from(one.random(generator)) for one in sweep.parameters}
        distributions = {one.name: one.as_optuna() for one in sweep.parameters}
        study.add_trial(optuna.create_trial(value=1.0, params=drawn, distributions=distributions))
    report: Report = make_report(sweep, out)
    assert report.importances == {}
    assert len(write_report(report)) == 6


# --- the command ----------------------------------------------------------------------------------------


def test_the_report_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--report-only` on a sweep folder trains nothing, writes the report, and shows the best."""
    _, out = sweep_in(tmp_path)
    assert main(["sweep", str(out), "--report-only", "--json", str(tmp_path / "figures.json")]) == 0
    said = capsys.readouterr()
    assert "Best of 14 complete trials" in said.out
    assert "learning_rate" in said.out
    assert f"memrl-ctrl train {out / 'best.yaml'}" in said.err.replace("\n", " ")
    assert json.loads((tmp_path / "figures.json").read_text())["counts"]["complete"] == 14


def test_mistakes_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one sentence, with the exit code of wrong use or of a file."""
    monkeypatch.chdir(tmp_path)
    for arguments, code, sentence in (
        (["nosuch"], 2, "no sweep 'nosuch'"),
        (["psb", "--report-only"], 3, "sweeps/psb: is no sweep folder; give it with --out"),
        (["psb", "--set", "agent.actr_lr=1"], 2, "no key 'agent.actr_lr'"),
        (["psb", "--seeds", "3:1"], 2, "hold no seed of 0 or more"),
        (["psb", "--workers", "0"], 2, "--workers must be at least 1"),
        (["psb", "--devices", "a"], 2, "devices 'a' cannot be read"),
    ):
        assert main(["sweep", *arguments]) == code, arguments
        assert sentence in capsys.readouterr().err


def test_progress_says_how_it_stands() -> None:
    """In a terminal a bar for the sweep and one for each trial, elsewhere a line: counts, best, time."""
    sweep = read_sweep("ppo-lstm-cartpole-no-vel")
    settings = {one.name: one.extremes()[0] for one in sweep.parameters}
    run: Any = SimpleNamespace(
        trial=SimpleNamespace(number=7), fraction=0.3, settings=settings, value=21.4, sweep=sweep
    )
    now = Standing(
        folder=Path("x"), budget=24, complete=5, pruned=2, failed=1, best=369.93, best_trial=1,
        seconds=3700.0, remaining_s=555.0, running=[run],
    )  # fmt: skip
    for terminal in (True, False):
        file = io.StringIO()
        with standing_shown(Terminal(force_terminal=terminal, width=150, file=file)) as show:
            show(now)
        said = file.getvalue()
        for part in (
            "best 369.9 (trial 1), 2 ended early, 1 failed, 1:01:40, about 9:15 left",
            "trial 7",
        ):
            assert part in said
        assert ("8/24 trials" if terminal else "8 of 24 trials") in said
        assert ("21.4  learning_rate 0.0002" in said) is terminal


def test_devices_are_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers count what this process sees; where only some are visible, theirs are passed on."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cuda_devices("0,1", 2) == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f6d")
    assert cuda_devices("1, 0", 2) == ("GPU-8f6d", "3")
    for text, count, sentence in (
        ("0,0", 2, "give numbers of CUDA devices"),
        ("-1", 2, "give numbers of CUDA devices"),
        ("2", 2, "there is no CUDA device 2; there is: 0 to 1"),
        ("1", 1, "there is no CUDA device 1; there is: 0$"),
        ("0", 0, "torch sees no CUDA device here; leave out --devices"),
    ):
        with pytest.raises(UsageError, match=sentence):
            cuda_devices(text, count)
