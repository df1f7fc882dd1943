"""`memrl-ctrl memory` writes what there is to see, and refuses in one sentence what there is not."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.agents.lstm_td3 import LstmTd3
from memrl_ctrl.agents.ppo_lstm import PpoLstm
from memrl_ctrl.cli import main
from memrl_ctrl.cli.memory import folder_for
from memrl_ctrl.config import resolve
from memrl_ctrl.training.environments import make_environment, task_of
from memrl_ctrl.training.memory.insight import open_insight
from memrl_ctrl.training.memory.study import Wanted, study
from memrl_ctrl.training.runs import save_run

pytest.importorskip("matplotlib")
imageio = pytest.importorskip("imageio.v3")


def saved(folder: Path, name: str, *changes: str) -> Path:
    """A run folder with an untrained agent."""
    config = resolve(name, changes)
    env = make_environment(config.environment.id, 1, config.environment.options)
    task = task_of(config.environment.id, env)
    env.close()
    kind: Any = PpoLstm if config.algorithm == "ppo-lstm" else LstmTd3
    agent = kind(task, config.agent, seed=0)
    folder.mkdir()
    save_run(folder, config=config, task=task, agent=agent, steps=5, seconds=1.0, rest={})
    return folder


@pytest.fixture(scope="module")
def recall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("a") / "run", "recall")


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("minigrid")
    return saved(
        tmp_path_factory.mktemp("b") / "run",
        "ppo-lstm-minigrid-memory-s7",
        "environment.options.max_steps=7",
        "agent.lstm=[12]",
    )


def table(path: Path) -> dict[str, list[float]]:
    """Read a CSV of numbers by its columns."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def test_everything_is_written_and_agrees(
    grid: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Film, pictures, arrays and tables of an episode; the table says what the arrays say."""
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "new" / "out"
    words = ["--runs", "2", "--episodes", "20", "--gif", "--frames", "--out", str(out)]
    assert main(["memory", str(grid), *words]) == 0
    said = capsys.readouterr().out
    assert "memory cut at every step" in said
    assert "object at the start" in said
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    both = {f"episode-0{n}{end}" for n in (1, 2) for end in (".png", "-sheet.png", ".npz", ".csv")}
    assert both | {"memory.gif", "summary.json", "probe.png", "probe.csv"} <= names
    arrays, columns = np.load(out / "episode-01.npz"), table(out / "episode-01.csv")
    steps = len(arrays["step"])
    assert arrays["observation"].shape == (steps, 3, 3, 20)
    assert arrays["state"].shape == (steps, 24)
    assert arrays["unit_block"].tolist() == 12 * ["actor h1"] + 12 * ["actor c1"]
    assert sorted(arrays["unit_order"]) == list(range(24))
    assert arrays["action_names"].tolist() == ["left", "right", "forward"]
    np.testing.assert_allclose(columns["p(forward)"], arrays["probabilities"][:, 2], rtol=1e-5)
    np.testing.assert_allclose(columns["value"], arrays["value"], rtol=1e-5)
    np.testing.assert_allclose(columns["return"], np.cumsum(arrays["reward"]), atol=1e-6)
    np.testing.assert_allclose(columns["component 2"], arrays["components"][:, 1], atol=1e-5)
    np.testing.assert_array_equal(columns["object at the start: lag"], arrays["lag"][:, 0])
    shares = [columns[f"memory says: object at the start: p({kind})"] for kind in ("key", "ball")]
    np.testing.assert_allclose(np.sum(shares, axis=0), 1.0, rtol=1e-5)
    frames = sorted((out / "frames" / "episode-01").iterdir())
    assert len(frames) == steps + 1
    first = imageio.imread(frames[0])
    assert first.shape == (720, 1280, 3)
    assert np.any(first != imageio.imread(frames[-1]))
    figures = json.loads((out / "summary.json").read_text())
    assert figures["with_memory"]["episodes"] == 20
    assert figures["ablation"]["without_memory"]["success_rate"] is not None
    assert figures["probes"][0]["episodes_fitted"] + figures["probes"][0]["episodes_tested"] == 20
    assert figures["units"] == {"actor h1": 12, "actor c1": 12}
    assert imageio.improps(out / "memory.gif").n_images > steps


def test_where_nothing_is_drawn_the_rest_is_shown(
    recall: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No pictures of the world: one note, and a film of the state all the same; no comparison wanted."""
    out = tmp_path / "out"
    words = ["--runs", "1", "--episodes", "12", "--no-ablation", "--gif", "--out", str(out)]
    assert main(["memory", str(recall), *words]) == 0
    said = capsys.readouterr().out
    assert "Note: no pictures of the world: environment 'memrl/Recall-v0' draws no pictures" in said
    assert "memory cut" not in said
    assert not (out / "episode-01-sheet.png").exists()
    assert (out / "memory.gif").exists()
    assert np.load(out / "episode-01.npz")["seed"] == 1_000_003


def test_without_episodes_there_is_neither_probe_nor_comparison(
    recall: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures only, of the seed that is given."""
    out = tmp_path / "out"
    words = [
        "--runs",
        "1",
        "--no-probe",
        "--no-ablation",
        "--no-video",
        "--seed",
        "4",
        "--out",
        str(out),
    ]
    assert main(["memory", str(recall), *words]) == 0
    assert json.loads((out / "summary.json").read_text())["probes"] == []
    assert {p.suffix for p in out.iterdir()} == {".png", ".npz", ".csv", ".json"}
    assert np.load(out / "episode-01.npz")["seed"] == 4


def test_a_policy_file_says_what_it_does_not_hold(grid: Path, tmp_path: Path) -> None:
    """No value in its arrays; probabilities are there."""
    exporter = pytest.importorskip("memrl_deploy.exporter")
    from memrl_ctrl.training.runs import load_policy

    exporter.export_policy(load_policy(grid), tmp_path / "p.onnx", plan=((2, 5),))
    out = tmp_path / "out"
    found = study(tmp_path / "p.onnx", out, Wanted(runs=1, probe=False, ablation=False, video=None))
    assert any("holds no critic" in note for note in found.notes)
    arrays = np.load(out / "episode-01.npz")
    assert "value" not in arrays
    np.testing.assert_allclose(arrays["probabilities"].sum(axis=1), 1.0, rtol=1e-5)


def test_a_long_episode_has_fewer_pictures_and_all_its_steps(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second step is drawn, and the end; the arrays hold every step."""
    from memrl_ctrl.training.memory import episode
    from memrl_ctrl.training.memory.secrets import secrets_of

    monkeypatch.setattr(episode, "MOST_PICTURES", 4)
    stage = episode.Stage(
        open_insight(grid), "MiniGrid-MemoryS7-v0", {"view_size": 3, "actions": 3, "max_steps": 7}
    )
    played = stage.play(1, 0, secrets_of)
    stage.close()
    if played.steps == 7:
        assert played.stride == 2
        assert len(played.worlds) == len(played.agents) == 5
    assert played.moments.step.tolist() == list(range(played.steps))


def test_nothing_is_overwritten(recall: Path, tmp_path: Path) -> None:
    """Without a name each study has a folder of its own."""
    assert folder_for(recall) == recall / "memory"
    (tmp_path / "p-memory").mkdir()
    assert folder_for(tmp_path / "p.onnx") == tmp_path / "p-memory-2"


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["RUN/none"], "no such file; `memrl-ctrl export RUN --out FILE` writes one", 3),
        (["TMP"], "has no checkpoints; it is no run folder", 3),
        (["RUN", "--runs", "0"], "--runs must be at least 1, not 0", 2),
        (
            ["RUN", "--episodes", "5"],
            "it needs 10 or more, not 5; or go without it (--no-probe)",
            2,
        ),
        (["RUN", "--checkpoint", "7"], "has no checkpoint at step 7; there is: 5", 2),
        (["RUN", "--env", "memrl/Recal-v0"], "no environment 'memrl/Recal-v0'", 2),
        (
            ["RUN", "--env", "memrl/CartPoleNoVel-v0"],
            "the policy sees (3,) and acts (1,), environment",
            6,
        ),
        (["RUN", "--set", "length"], "--set 'length' is not of the form option=value", 2),
        (["RUN", "--set", "lenght=4"], "has no option 'lenght'", 2),
        (["RUN", "--label", "town"], "no info of environment 'memrl/Recall-v0' 'town'", 2),
        (
            ["RUN", "--out", "TMP/full"],
            "exists and is not empty: choose another folder with --out",
            2,
        ),
        (["RUN", "--out", "/proc/new"], "/proc/new: cannot be written", 3),
        (["RUN", "--label", "x", "--no-probe"], "leave out --no-probe", 2),
        (["RUN", "--fps", "0"], "--fps must be above 0 and at most 1000 steps a second", 2),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    *,
    words: list[str],
    said: str,
    code: int,
    recall: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before any work; nothing is written."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").touch()
    given = [word.replace("RUN", str(recall)).replace("TMP", str(tmp_path)) for word in words]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "out")]
    assert main(["memory", *given]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_a_policy_without_memory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence says which command shows it."""
    run = saved(tmp_path / "run", "recall", "agent.history_length=0")
    assert main(["memory", str(run)]) == 2
    said = capsys.readouterr().err
    assert "has no memory, so that there is nothing to see of it" in said
    assert "evaluate --render" in said


@pytest.mark.parametrize(
    ("library", "said"),
    [("matplotlib", "memory needs matplotlib"), ("imageio_ffmpeg", "needs imageio-ffmpeg")],
)
def test_a_missing_library_is_named(
    *,
    library: str,
    said: str,
    recall: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the line that installs it."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == library else found(name)
    )
    assert main(["memory", str(recall), "--out", str(tmp_path / "out")]) == 4
    assert said in capsys.readouterr().err


def test_what_a_task_hides_may_not_be_known(tmp_path: Path) -> None:
    """Then a note says how to name it, and the rest is made."""
    from memrl_ctrl.training.memory import secrets

    run = saved(tmp_path / "run", "recall")
    hidden, secrets.FINDERS = secrets.FINDERS, ()
    try:
        found = study(run, tmp_path / "out", Wanted(runs=1, episodes=10, video=None))
    finally:
        secrets.FINDERS = hidden
    assert any("name an info of the environment with --label" in note for note in found.notes)
    assert found.probes == ()
    assert found.compared is not None
