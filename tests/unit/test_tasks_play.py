"""`memrl-ctrl play`: keys become actions, worlds become text, and it needs a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from memrl_ctrl.cli import main
from memrl_ctrl.cli.play_game import Game, open_game
from memrl_ctrl.cli.play_view import ChoiceHand, GridHand, NumberHand, cells, draw, hand_of
from memrl_ctrl.config import resolve
from memrl_ctrl.errors import MismatchError, UnknownNameError, UsageError
from memrl_ctrl.training import train


def text_of(drawn: Any) -> str:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(drawn)
    console.file.close()
    return console.export_text()


def test_keys_of_a_grid() -> None:
    """Arrows turn and move; what a task's actions leave out has no key."""
    hand = GridHand(3)
    assert [hand.take(key) for key in ("left", "right", "up")] == [[[0]], [[1]], [[2]]]
    assert hand.take("p") is None
    assert GridHand(6).take("p") == [[3]]
    assert "pick up" in GridHand(6).legend()
    assert "pick up" not in hand.legend()


def test_keys_of_choices() -> None:
    """Digits choose, one after the other where there are several; others are left alone."""
    hand = ChoiceHand((2,))
    assert (hand.take("left"), hand.take("1"), hand.take("7")) == ([[0]], [[1]], None)
    several = ChoiceHand((3, 4))
    assert several.take("2") is None
    assert several.take("9") is None
    assert "chosen: 2" in several.legend()
    np.testing.assert_array_equal(several.take("3"), [[2, 3]])


def test_keys_of_numbers() -> None:
    """Arrows move a number by a twentieth of its range within its limits; Enter sends it."""
    hand = NumberHand(np.array([-2.0, 0.0]), np.array([2.0, 1.0]))
    assert hand.take("right") is None
    np.testing.assert_allclose(hand.take("enter"), [[0.2, 0.5]])
    for key in ["down"] + ["left"] * 30:
        hand.take(key)
    np.testing.assert_allclose(hand.take("space"), [[0.2, 0.0]])
    hand.take("0")
    np.testing.assert_allclose(hand.take("enter"), [[0.0, 0.5]])


def test_a_world_as_text() -> None:
    """Cells are two columns wide: walls, doors by their state, and the agent as an arrow."""
    grid = np.zeros((3, 2, 3), dtype=np.uint8)
    grid[:, 0] = (2, 5, 0)
    grid[0, 1], grid[1, 1], grid[2, 1] = (10, 0, 1), (4, 4, 1), (6, 2, 0)
    assert cells(grid).plain == "██████\n▼ ▒▒● "


@pytest.mark.parametrize(
    ("name", "options", "shown"),
    [
        ("memrl/Maze-S8-v0", {"view_size": 3}, ("the world", "what it sees", "turn left")),
        ("memrl/CartPoleNoVel-v0", {}, ("●", "return +1")),
        ("memrl/BeamPhase-v0", {}, ("observation", "█", "action")),
        ("memrl/Recall-v0", {}, ("─", "⏎ act")),
    ],
)
def test_games_are_drawn_and_played(
    name: str, options: dict[str, Any], shown: tuple[str, ...]
) -> None:
    """Worlds, numbers and profiles are drawn; what the hand gives can be played to the end."""
    game = Game(name, options, 3)
    hand = hand_of(game)
    game.begin()
    going, drawn = True, ""
    while going and game.steps < 40:
        action = hand.take("right")
        action = hand.take("enter") if action is None else action
        assert action is not None
        going = game.act(action)
        drawn = drawn or text_of(draw(game, hand, watching=False))
    for part in shown:
        assert part in drawn
    assert going or game.returns == [game.total]
    game.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("play") / "run"
    settings = [
        "steps=128",
        "environment.num_envs=8",
        "agent.rollout_steps=16",
        "logging.tensorboard=false",
    ]
    quick = ["evaluation.episodes=2", "evaluation.every_steps=0", "evaluation.stop_at_return=null"]
    train(resolve("ppo-lstm-cartpole-no-vel", [*settings, *quick]), out=folder)
    return folder


def test_what_is_opened(run: Path) -> None:
    """A task is played by a person; with a policy, or a run folder to watch, by that."""
    for task, policy, watch, plays in (
        ("ppo-lstm-cartpole-no-vel", None, False, False),
        ("memrl/CartPoleNoVel-v0", run, False, True),
        (str(run), None, True, True),
        (str(run), None, False, False),
    ):
        player, game = open_game(task, policy=policy, watch=watch, options=[], seed=None)
        assert (player is not None) is plays
        assert game.name == "memrl/CartPoleNoVel-v0"
        game.begin()
        if player is not None:
            player.reset(1)
            while game.act(player.act(game.observation, game.previous)):
                pass
            assert game.previous.shape == (1, 1)
        game.close()


def test_what_cannot_be_played_is_said(run: Path) -> None:
    """A policy of another task, an unknown task, nothing to watch: one sentence each."""
    more: dict[str, Any] = {"watch": False, "options": [], "seed": None}
    with pytest.raises(MismatchError, match="the policy sees"):
        open_game("memrl/Maze-S8-v0", policy=run, **more)
    with pytest.raises(UnknownNameError, match="did you mean 'CartPole-v1'"):
        open_game("CartPole-v2", policy=None, **more)
    with pytest.raises(UsageError, match="no policy to watch: give one with --policy"):
        open_game("memrl/Maze-S8-v0", policy=None, **{**more, "watch": True})
    with pytest.raises(UsageError, match="is not of the form option=value"):
        open_game("memrl/Maze-S8-v0", policy=None, **{**more, "options": ["view_size"]})


def test_without_a_terminal_it_says_so(capsys: Any) -> None:
    """In a pipe nothing is drawn: one sentence, with what films instead."""
    assert main(["play", "memrl/Maze-S8-v0"]) == 2
    assert "needs a terminal" in capsys.readouterr().err


def in_a_terminal(arguments: list[str], keys: bytes, until: str) -> tuple[int, str]:
    """Run the command in a terminal of its own, press keys once it draws, return code and output."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "memrl_ctrl", "play", *arguments],
        stdin=slave, stdout=slave, stderr=slave, close_fds=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
    )  # fmt: skip
    os.close(slave)
    said, pressed, deadline = b"", False, time.monotonic() + 120.0
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    said += os.read(master, 65536)
                except OSError:
                    break
            if not pressed and until.encode() in said:
                pressed = True
                for key in keys.split(b","):
                    os.write(master, key)
                    time.sleep(0.05)
        return process.wait(20.0), said.decode("utf-8", "replace")
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_person_plays() -> None:
    """In a terminal arrow keys move the agent, and q leaves with the terminal as it was."""
    code, said = in_a_terminal(
        ["memrl/Maze-S8-v0", "--seed", "1", "--set", "view_size=3"],
        b"\x1b[C,\x1b[A,\x1b[D,q",
        "step 0",
    )
    assert code == 0
    assert "step 3" in said
    assert "\x1b[?1049l" in said  # back from the other screen


def test_a_policy_is_watched(run: Path) -> None:
    """With --policy the episodes go by themselves, and the mean return is said."""
    code, said = in_a_terminal(
        ["memrl/CartPoleNoVel-v0", "--policy", str(run), "--episodes", "1", "--speed", "1000"],
        b" ",
        "the next",
    )
    assert code == 0
    assert "1 episodes, mean return" in said
