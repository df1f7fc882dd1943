"""However a training ends, what was learnt is not lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from memrl_ctrl.cli import main
from memrl_ctrl.config import TrainingConfig, resolve
from memrl_ctrl.errors import MismatchError
from memrl_ctrl.tasks import recall
from memrl_ctrl.training import evaluate, load_policy, train

FAILING = "memrl-test/Failing-v0"
QUICK = [
    "steps=400",
    "environment.num_envs=4",
    "agent.batch_size=8",
    "agent.start_steps=100",
    "agent.update_after=100",
    "agent.updates_per_round=1",
    "agent.actor.lstm=[8]",
    "logging.tensorboard=false",
    "logging.every_s=0",
    "evaluation.episodes=6",
]


def quick(*overrides: str) -> TrainingConfig:
    return resolve("recall", [*QUICK, *overrides])


def checkpoints_of(folder: Path) -> list[int]:
    return sorted(int(f.stem.partition("-")[2]) for f in (folder / "checkpoints").glob("*.pt"))


class Failing(recall.RecallEnv):
    """Fails at its 60th step."""

    done = 0

    def step(self, action: Any) -> Any:
        self.done += 1
        if self.done == 60:
            raise MismatchError("the environment broke")
        return super().step(action)


@pytest.fixture
def failing() -> Iterator[None]:
    def make(**options: Any) -> Failing:
        return Failing(**options)

    gymnasium.register(FAILING, make)
    yield
    del gymnasium.registry[FAILING]


@pytest.mark.parametrize("overlap", ["true", "false"])
def test_a_training_that_fails_leaves_a_checkpoint(
    failing: None, overlap: str, tmp_path: Path
) -> None:
    """The error comes out as it was, with the place of a checkpoint that can be judged."""
    config = quick(f"environment.id={FAILING}", f"overlap={overlap}")
    with pytest.raises(MismatchError, match="the environment broke") as caught:
        train(config, out=tmp_path / "run")
    (steps,) = checkpoints_of(tmp_path / "run")
    assert 200 <= steps < 240
    assert f"step-{steps:012d}.pt" in caught.value.__notes__[0]
    assert load_policy(tmp_path / "run").manifest.training.steps == steps
    assert evaluate(tmp_path / "run", environment=recall.ID).returns.size == 6


def test_the_command_says_where_the_rescued_checkpoint_is(
    failing: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What failed and where the checkpoint is both reach the user."""
    options = [text for change in QUICK for text in ("--set", change)]
    run = tmp_path / "run"
    code = main(
        ["train", "recall", *options, "--set", f"environment.id={FAILING}", "--out", str(run)]
    )
    text = capsys.readouterr().err
    assert code == MismatchError.exit_code
    assert "the environment broke" in text
    assert str(run / "checkpoints") in text.replace("\n", "")


def test_a_checkpoint_that_cannot_be_written_hides_no_error(
    failing: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the error is still the first one, with a note."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("memrl_ctrl.training.loop.save_run", full)
    with pytest.raises(MismatchError, match="the environment broke") as caught:
        train(quick(f"environment.id={FAILING}"), out=tmp_path / "run")
    assert caught.value.__notes__ == ["No checkpoint could be written: no space left"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_usable_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    """The first Ctrl-C or SIGTERM ends the run in order; both handlers are put back."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    sent: list[int] = []

    def stop(now: Any) -> None:
        if now.steps >= 200 and not sent:
            sent.append(now.steps)
            os.kill(os.getpid(), number)

    result = train(quick("steps=1000000"), out=tmp_path / "run", progress=stop)
    assert result.interrupted
    assert 200 <= result.steps < 10_000
    assert load_policy(result.folder).manifest.training.steps == result.steps
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_checkpoints_by_time_are_pruned_and_those_by_steps_stay(tmp_path: Path) -> None:
    """With a checkpoint each round the last two stay, beside those asked for by steps."""
    config = quick(
        "logging.checkpoint_every_s=1e-9",
        "logging.checkpoint_keep=2",
        "logging.checkpoint_every_steps=100",
    )
    folder = train(config, out=tmp_path / "run").folder
    assert checkpoints_of(folder) == [112, 208, 304, 368, 384, 400]


def test_a_run_that_is_killed_loses_a_minute_at_most() -> None:
    """A configuration that says nothing writes a checkpoint each minute and keeps a few."""
    logging = resolve("psb").logging
    assert logging.checkpoint_every_s == 60.0
    assert logging.checkpoint_keep == 3
