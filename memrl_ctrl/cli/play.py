"""`memrl-ctrl play`: a person plays a task in the terminal, or watches a trained policy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter
from rich.live import Live

from memrl_ctrl import registry
from memrl_ctrl.cli.keyboard import Keys
from memrl_ctrl.cli.play_view import Hand, draw, hand_of
from memrl_ctrl.cli.values import Count, Seed, real
from memrl_ctrl.errors import UsageError
from memrl_ctrl.terminal import Terminal

if TYPE_CHECKING:
    from memrl_ctrl.cli.play_game import Game
    from memrl_ctrl.training.evaluation import Policy

QUIT, PAUSE = ("q",), "space"


def play(
    task: str,
    *,
    policy: Path | None = None,
    watch: bool = False,
    episodes: Count | None = None,
    speed: Annotated[float, real(0.0, 1000.0, above=True, unit="steps a second")] = 5.0,
    seed: Seed | None = None,
    set_: Annotated[
        list[str] | None,
        Parameter(name="--set", negative="", help="`option=value` of the environment."),
    ] = None,
) -> None:
    """Play a task in the terminal, or watch a trained policy play it.

    Parameters
    ----------
    task
        Gymnasium's name of an environment, the name of a shipped configuration or a YAML file; to watch
        also a run folder or an ONNX file.
    policy
        Run folder or ONNX file whose policy plays.
    watch
        Watch instead of playing; needs `--policy`, or a run or policy file as the task.
    episodes
        Episodes to play; without it until `q` is pressed.
    speed
        Steps a second of what is watched.
    seed
        Of the first episode; the next ones follow.
    """
    console = Terminal(highlight=False)
    if not (console.is_terminal and sys.stdin.isatty()):
        raise UsageError(
            "play needs a terminal to draw in and to read keys from; without one `memrl-ctrl evaluate "
            "POLICY --render FILE.mp4` films a policy"
        )
    try:
        from memrl_ctrl.cli.play_game import open_game
    except ModuleNotFoundError as error:
        raise registry.missing_extra("play", error) from error

    player, game = open_game(task, policy=policy, watch=watch, options=set_ or (), seed=seed)
    try:
        _play(console, game, player, episodes, 1.0 / speed)
    finally:
        game.close()
    if game.returns:
        mean = float(np.mean(game.returns))
        console.print(f"{len(game.returns)} episodes, mean return {mean:.4g}")


def _play(
    console: Terminal, game: Game, player: Policy | None, episodes: int | None, period_s: float
) -> None:
    """Play until the episodes are over or the player wants no more."""
    hand = hand_of(game)
    with Keys() as keys, Live(console=console, auto_refresh=False, screen=True) as live:

        def show(note: str = "") -> None:
            live.update(draw(game, hand, watching=player is not None, note=note), refresh=True)

        while episodes is None or len(game.returns) < episodes:
            game.begin()
            if player is not None:
                player.reset(1)
            show()
            going = True
            while going:
                action = (
                    _chosen(hand, keys, show)
                    if player is None
                    else _decided(game, player, keys, period_s, show)
                )
                if action is None:
                    return
                going = game.act(action)
                show()
            show("The episode is over: any key for the next one, q to stop.")
            wait_s = None if player is None else 1.0
            if keys.wait(wait_s) in QUIT:
                return


def _chosen(hand: Hand, keys: Keys, show: Callable[[], None]) -> Any:
    """Return what a person wants to do; None to stop."""
    while True:
        key = keys.wait(None)
        if key in QUIT:
            return None
        action = hand.take(key)
        if action is not None:
            return action
        show()


def _decided(
    game: Game, player: Policy, keys: Keys, period_s: float, show: Callable[[str], None]
) -> Any:
    """Return what a policy wants to do, after some time; None where the one who watches has enough."""
    until = time.monotonic() + period_s
    while (left := until - time.monotonic()) > 0.0:
        key = keys.wait(left)
        if key in QUIT:
            return None
        if key == PAUSE:
            show("Paused: any key goes on.")
            if keys.wait(None) in QUIT:
                return None
            break
    return player.act(game.observation, game.previous)
