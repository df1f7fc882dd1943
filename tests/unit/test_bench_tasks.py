"""The table of benchmark tasks: its cells, what is kept, its figures, and options of a benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import pytest
from cyclopts import Parameter

from memrl_ctrl import registry
from memrl_ctrl.cli import main
from memrl_ctrl.cli.bench import app
from memrl_ctrl.config import resolve
from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.tasks import bullet
from memrl_ctrl.training import several
from memrl_ctrl.training.benchmarks import tasks

BASE = resolve("lstm-td3-inverted-pendulum", ["steps=4000", "evaluation.every_steps=1000"])


def finished(folder: Path, returns: list[float], steps: int = 6000) -> None:
    """Leave a run folder as a finished training does."""
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"steps": 1000 * (k + 1), "seconds": k, "evaluation_return": value})
        for k, value in enumerate(returns)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(f"name: {folder.name.partition('-seed')[0]}\n")
    values = {"interrupted": False, "steps": steps, "seconds": 4.0}
    (folder / "result.json").write_text(json.dumps(values))


def test_an_algorithm_differs_from_the_others_by_its_memory_only() -> None:
    """TD3 has none, a window as observation, or the networks' own; learning rates and layers are shared."""
    made = {
        name: tasks.config_of(BASE, "Hopper", "position_only", name) for name in tasks.ALGORITHMS
    }
    agents = {name: config.agent for name, config in made.items()}
    assert agents["td3"].history_length == agents["td3-window"].history_length == 0
    assert agents["lstm-td3"].history_length == BASE.agent.history_length
    assert agents["lstm-td3-sequence"].memory == "sequence"
    assert made["td3"].environment.options == {"pomdp": "position_only"}
    assert made["td3-window"].environment.options == {
        "pomdp": "position_only", "window_observation": BASE.agent.history_length,
    }  # fmt: skip
    assert {config.environment.id for config in made.values()} == {"HopperBulletEnv-v0"}
    for shared in ("actor_lr", "critic_lr", "actor", "critic", "gamma", "exploration_noise"):
        assert {getattr(agent, shared) for agent in agents.values()} == {
            getattr(BASE.agent, shared)
        }


def test_the_full_version_is_the_task_itself() -> None:
    """Whatever the shared configuration sees of its own task."""
    assert tasks.config_of(BASE, "Ant", "full", "lstm-td3").environment.options == {}


@pytest.mark.parametrize("version", tasks.VERSIONS)
@pytest.mark.parametrize("name", bullet.ROBOTS)
def test_every_cell_has_a_folder_of_its_own(name: str, version: str) -> None:
    """Names are folder names, and no two cells share one."""
    names = [tasks.config_of(BASE, name, version, algorithm).name for algorithm in tasks.ALGORITHMS]
    assert len(set(names)) == len(tasks.ALGORITHMS)


def test_figures_of_a_run_are_its_last_and_its_best_evaluations(tmp_path: Path) -> None:
    """The mean of the last three, and the largest of all; a step that is judged twice counts once."""
    finished(tmp_path / "x-seed0", [1.0, 9.0, 4.0, 5.0, 6.0])
    assert tasks.score_of(tmp_path / "x-seed0") == (5.0, 9.0)
    with (tmp_path / "x-seed0" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"steps": 5000, "seconds": 5, "evaluation_return": 6.0}) + "\n")
    assert tasks.score_of(tmp_path / "x-seed0") == (5.0, 9.0)


def test_statistics_over_seeds() -> None:
    """Interquartile mean without the outer quarters; an interval from two seeds on, around it."""
    found = tasks.statistics_of(np.array([0.0, 10.0, 12.0, 100.0]))
    assert (found["mean"], found["median"], found["IQM"]) == (30.5, 11.0, 11.0)
    low, high = found["interval"]
    assert low <= 11.0 <= high
    assert tasks.statistics_of(np.array([3.0]))["interval"] is None
    assert tasks.statistics_of(np.array([3.0, 3.0]))["interval"] == [3.0, 3.0]


def test_what_is_finished_is_kept_and_the_rest_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only cells that have not spent their budget are started; the table holds both."""
    kept = tmp_path / "InvertedPendulum-full-td3-seed0"
    finished(kept, [10.0, 20.0, 30.0, 40.0])
    started: list[str] = []

    def start(job: several.Job) -> several.Job:
        started.append(job.folder.name)
        finished(job.folder, [50.0, 60.0, 70.0, 80.0])

        class Ended:
            def poll(self) -> int:
                return 0

        job.process = Ended()  # type: ignore[assignment]
        job.state = "running"
        return job

    monkeypatch.setattr(several, "start", start)
    monkeypatch.setattr(several, "POLL_S", 0.0)
    words = ["--tasks", "InvertedPendulum", "--versions", "full,remove_velocity"]
    words += ["--algorithms", "td3", "--seeds", "0:2", "--steps", "6000", "--out", str(tmp_path)]
    words += ["--config", "lstm-td3-inverted-pendulum", "--json", str(tmp_path / "t.json")]
    assert main(["bench", "tasks", *words]) == 0
    assert sorted(started) == [
        "InvertedPendulum-full-td3-seed1",
        "InvertedPendulum-remove_velocity-td3-seed0",
        "InvertedPendulum-remove_velocity-td3-seed1",
    ]
    table = json.loads((tmp_path / "t.json").read_text())
    assert table["rows"][0]["returns"] == [30.0, 70.0]
    assert table["figures"]["return_InvertedPendulum_full_td3"] == 50.0
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == table["rows"]
    assert (tmp_path / "learning_curves.png").stat().st_size > 10_000
    started.clear()
    assert main(["bench", "tasks", *words, "--table-only"]) == 0
    assert not started
    assert "2 of 2" in capsys.readouterr().out


def test_a_table_without_runs_is_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing finished: lines without figures, no picture, no error."""
    words = ["--table-only", "--tasks", "Hopper", "--out", str(tmp_path)]
    assert main(["bench", "tasks", *words]) == 0
    assert "0 of 3" in capsys.readouterr().out
    assert not (tmp_path / "learning_curves.png").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--suite", "meng"], "no suite 'meng'; there is: meng2021"),
        (["--tasks", "Hoper"], "no task 'Hoper'.*did you mean 'Hopper'"),
        (["--versions", ","], "no version ','"),
        (["--algorithms", "ppo"], "no algorithm 'ppo'"),
        (["--seeds", "3:1"], "seeds '3:1' hold no seed"),
        (["--config", "recall"], "evaluation.every_steps of 'recall' is 0"),
        (["--steps", "100"], "within the 100 steps"),
        (["--sets", "x"], "Unknown option: --sets"),
        (["--steps", "0"], "--steps must be at least 1"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake in an option of the benchmark's own: exit code 2, and what is allowed."""
    assert main(["bench", "tasks", "--table-only", "--out", str(tmp_path), *words]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("memrl-ctrl: ")
    assert re.search(sentence, error)


def test_a_task_may_be_given_by_its_whole_name() -> None:
    """`HopperBulletEnv-v0` is `Hopper`; `all` are all; nothing is there twice."""
    assert tasks.chosen("task", "HopperBulletEnv-v0, Ant,Hopper", bullet.ROBOTS) == [
        "Hopper",
        "Ant",
    ]
    assert tasks.chosen("version", "all", tasks.VERSIONS) == list(tasks.VERSIONS)
    with pytest.raises(UnknownNameError):
        tasks.chosen("task", "", bullet.ROBOTS)


# --- options of a benchmark -------------------------------------------------------------------------


def with_options(
    *,
    json_path: Annotated[Path | None, Parameter(parse=False)] = None,
    count: Annotated[int, Parameter()] = 3,
) -> None:
    """Count something.

    Parameters
    ----------
    json_path
        File.
    count
        How many of it.
    """
    received.update(json_path=json_path, count=count)


def without_options(json_path: Path | None = None, *, cases: tuple[object, ...] = ()) -> None:
    """Count nothing."""
    received.update(json_path=json_path)


received: dict[str, Any] = {}


@pytest.fixture
def two_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"some": with_options, "none": without_options}
    monkeypatch.setattr(registry, "load", lambda group, kind, name: known[name])
    monkeypatch.setattr("memrl_ctrl.cli._with_command", _only_bench)
    received.clear()


def _only_bench(name: str) -> Any:
    root = cyclopts.App(name="memrl-ctrl")
    root.command(app, name="bench")
    return root


@pytest.mark.usefixtures("two_benchmarks")
def test_a_benchmark_has_options_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are read before or after `--json`, and shown by `--help`."""
    path = tmp_path / "x.json"
    assert main(["bench", "some", "--count", "5", "--json", str(path)]) == 0
    assert received == {"json_path": path, "count": 5}
    assert main(["bench", "some", "--json", str(path), "--count", "6"]) == 0
    assert received["count"] == 6
    assert main(["bench", "some"]) == 0
    assert received == {"json_path": None, "count": 3}
    assert main(["bench", "some", "--help"]) == 0
    help_text = capsys.readouterr().out
    assert "--count" in help_text
    assert "How many of it" in help_text
    assert "json-path" not in help_text.lower()
    assert "--json FILE" in help_text


@pytest.mark.usefixtures("two_benchmarks")
def test_a_benchmark_without_options_refuses_them(capsys: pytest.CaptureFixture[str]) -> None:
    """What no one reads is not swallowed."""
    assert main(["bench", "none"]) == 0
    assert main(["bench", "none", "--count", "5"]) == 2
    assert "'none' has no options of its own: --count 5" in capsys.readouterr().err


def test_base_keeps_whole_checkpoints() -> None:
    """A run of the table that is killed goes on exactly too."""
    base = tasks.base_of("lstm-td3-meng2021", 50_000)
    assert base.logging.checkpoint_replay == "always"
    assert base.steps == 50_000
    with pytest.raises(UsageError, match="within the 10 steps"):
        tasks.base_of("lstm-td3-meng2021", 10)
