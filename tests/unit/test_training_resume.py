"""A resumed training goes on with what its checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.config import TrainingConfig, resolve
from memrl_ctrl.errors import UsageError
from memrl_ctrl.training import loop, train
from memrl_ctrl.training.logs import read_metrics
from memrl_ctrl.training.stepper import Start, Stepper

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


def quick(steps: int, *overrides: str) -> TrainingConfig:
    return resolve("recall", [*QUICK, f"steps={steps}", *overrides])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each training began its loop with."""
    runs: list[dict[str, Any]] = []
    go = loop._Run.go

    def spy(run: Any, interrupt: Any) -> None:
        state = {name: array.copy() for name, array in run.learner.replay.state().items()}
        start = run.start.observation.copy()
        runs.append({"run": run, "replay": state, "start": start, "updates": run.agent.updates})
        go(run, interrupt)

    monkeypatch.setattr(loop._Run, "go", spy)
    return runs


def test_the_replay_buffer_comes_back(seen: list[dict[str, Any]], tmp_path: Path) -> None:
    """With another seed the episodes are new: what was stored is there again, unfinished episodes are
    broken off, and learning goes on at once."""
    keep = "logging.checkpoint_replay=always"
    first = train(quick(404, keep), out=tmp_path / "a")
    saved = seen[0]["run"].learner.replay
    second = train(quick(436, keep, "seed=1"), out=tmp_path / "b", resume=first.folder)
    back = seen[1]["replay"]
    for name in ("observation", "previous", "action", "reward", "written"):
        np.testing.assert_array_equal(back[name], saved.state()[name])
    unfinished = np.flatnonzero(saved._age_now > 0)
    assert unfinished.size
    assert back["tail"][unfinished, saved.written[unfinished] - 1].all()
    assert not back["_age_now"].any()
    assert second.updates == first.updates + 2  # rounds of 16 steps


def test_without_a_saved_buffer_learning_waits(seen: list[dict[str, Any]], tmp_path: Path) -> None:
    """`update_after` counts from the resumption where the buffer begins empty."""
    first = train(quick(400), out=tmp_path / "a")
    waited = train(quick(480), out=tmp_path / "b", resume=first.folder)
    assert not seen[1]["replay"]["written"].any()
    assert waited.updates == first.updates
    learnt = train(quick(560), out=tmp_path / "c", resume=first.folder)
    assert learnt.updates > first.updates


def test_a_resumed_run_plays_other_episodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environments are seeded otherwise than at the beginning, by the seed and the steps."""
    seeds: list[int | None] = []
    reset = Stepper.reset

    def spy(stepper: Stepper, seed: int | None = None) -> Start:
        seeds.append(seed)
        return reset(stepper, seed)

    first = train(quick(400), out=tmp_path / "a")
    monkeypatch.setattr(Stepper, "reset", spy)
    drawn = []
    for name, seed in (("b", 0), ("c", 0), ("d", 1)):
        seeds.clear()
        train(quick(416, f"seed={seed}"), out=tmp_path / name, resume=first.folder)
        drawn.append(seeds[1])  # the last is the evaluation's
    assert drawn[0] == drawn[1]
    assert len({0, 1, drawn[0], drawn[2]}) == 4


def test_a_buffer_of_another_size_is_refused(tmp_path: Path) -> None:
    """A saved buffer that does not fit is named, with what to keep, before a folder is made."""
    keep = "logging.checkpoint_replay=always"
    first = train(quick(400, keep), out=tmp_path / "a")
    with pytest.raises(UsageError, match=r"does not fit this configuration.*keep its replay"):
        train(quick(500, "replay.capacity=5000"), out=tmp_path / "b", resume=first.folder)
    assert not (tmp_path / "b").exists()


def test_a_run_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    """Given its own folder, a run goes on there: figures behind its checkpoint are dropped, the rest
    stays, and another configuration is refused with what differs."""
    often = ("logging.every_s=0", "logging.checkpoint_replay=always")
    first = train(quick(400, *often), out=tmp_path / "a")
    before = read_metrics(first.folder)
    with (first.folder / "metrics.jsonl").open("a") as file:
        file.write('{"steps": 4000, "return": 1.0}\n')
    second = train(quick(600, *often), out=first.folder, resume=first.folder)
    after = read_metrics(second.folder)
    assert second.folder == first.folder
    assert after[: len(before)] == before
    assert [row["steps"] for row in after] == sorted(row["steps"] for row in after)
    assert after[-1]["steps"] == second.steps < 4000
    assert "steps: 600" in (second.folder / "config.yaml").read_text()
    with pytest.raises(UsageError, match="another environment; to go on with a changed"):
        train(
            quick(800, *often, "environment.options={length: 9}"),
            out=first.folder,
            resume=first.folder,
        )
