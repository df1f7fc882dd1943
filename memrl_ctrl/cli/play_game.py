"""The game behind `memrl-ctrl play`: one environment, stepped as training and evaluation do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.cli.values import options_of
from memrl_ctrl.config import resolve
from memrl_ctrl.config.reading import shipped
from memrl_ctrl.errors import MismatchError, UsageError
from memrl_ctrl.policy.catalogue import locate
from memrl_ctrl.tasks.minigrid import GridVector
from memrl_ctrl.training.environments import make_environment, task_of

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from memrl_ctrl.agents.task import TaskSpec
    from memrl_ctrl.tasks.grid_sight import Worlds
    from memrl_ctrl.training.evaluation import Policy

Array = NDArray[np.float32]
RUN_SEED = 1_000_003
"""Episodes that are watched begin with seeds that training never uses."""


class Game:
    """One environment, and how the episode stands.

    Args:
        name: Gymnasium's name of the environment.
        options: its options.
        seed: of the first episode; the next ones count up.
    """

    def __init__(self, name: str, options: Mapping[str, Any], seed: int) -> None:
        self.name = name
        self.env: VectorEnv[Any, Any, Any] = make_environment(name, 1, options)
        try:
            self.task: TaskSpec = task_of(name, self.env)
        except UsageError:
            self.env.close()
            raise
        self._seed = seed
        self.returns: list[float] = []
        """Returns of the episodes that are over."""
        self.observation: Array = np.zeros((1, *self.task.shape), dtype=np.float32)
        self.previous: Array = np.zeros((1, *self.task.action_spec().shape), dtype=np.float32)
        self.steps, self.total, self.reward = 0, 0.0, 0.0

    @property
    def worlds(self) -> Worlds | None:
        """The world, where the task is one of MiniGrid's kind."""
        plain = self.env.unwrapped
        return plain.worlds if isinstance(plain, GridVector) else None

    def begin(self) -> None:
        """Begin an episode."""
        seen, _ = self.env.reset(seed=self._seed)
        self._seed += 1
        self._see(seen)
        self.previous = np.zeros_like(self.previous)
        self.steps, self.total, self.reward = 0, 0.0, 0.0

    def act(self, action: NDArray[Any]) -> bool:
        """Act; return whether the episode goes on.

        Args:
            action: [1, actions] as a policy gives it.
        """
        unit = self.task.unit_of(action)
        seen, reward, terminated, truncated, infos = self.env.step(self.task.to_environment(unit))
        applied = infos.get("applied")
        if applied is None:
            applied = self.task.centre + self.task.half_range * unit
        rows = np.asarray(applied, dtype=np.float32).reshape(1, -1)
        self.previous = self.task.seen_as_previous(rows)
        self._see(seen)
        self.reward = float(reward[0])
        self.total += self.reward
        self.steps += 1
        over = bool(terminated[0] or truncated[0])
        if over:
            self.returns.append(self.total)
        return not over

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _see(self, seen: Any) -> None:
        self.observation = np.asarray(seen, dtype=np.float32).reshape(1, *self.task.shape)


def open_game(
    task: str, *, policy: Path | None, watch: bool, options: Sequence[str], seed: int | None
) -> tuple[Policy | None, Game]:
    """Open what is to be played.

    Args:
        task: name of an environment or configuration, a YAML file, or a run folder or policy.
        policy: run folder or policy that plays.
        watch: whether a policy is to play.
        options: `option=value` of the environment.
        seed: of the first episode.

    Returns:
        The policy that plays, None for a person; and the game.

    Raises:
        FileError: the policy cannot be read.
        MismatchError: the policy is for another task.
        UnknownNameError: there is no such task.
        UsageError: nothing says which task it is; there is no policy to watch.
    """
    wanted = options_of(options)
    place = locate(Path(task))
    is_policy = place.is_dir() or place.suffix == ".onnx"
    source = policy or (place if is_policy else None)
    if watch and source is None:
        raise UsageError(
            f"there is no policy to watch: give one with --policy, or a run folder instead of {task!r}"
        )
    name, base = task, dict[str, Any]()
    if not is_policy and (task in shipped() or Path(task).suffix in {".yaml", ".yml"}):
        config = resolve(task)
        name, base = config.judged_on
    start = RUN_SEED if seed is None else seed
    if source is None:
        return None, Game(name, {**base, **wanted}, start)
    from memrl_ctrl.training.evaluation import load_any, occasion_of

    player = load_any(source)
    occasion = occasion_of(player, environment=None if is_policy else name, options=wanted)
    game = Game(occasion["environment"], {**base, **occasion["options"]}, start)
    try:
        _check(player, game)
    except MismatchError:
        game.close()
        raise
    # A run folder as the task is played by a person, unless it is to be watched.
    return (player if watch or policy is not None else None), game


def _check(player: Policy, game: Game) -> None:
    seen, acts = player.manifest.observation.shape, player.manifest.action
    spec = game.task.action_spec()
    if seen != game.task.shape or acts.shape != spec.shape or acts.choices != spec.choices:
        raise MismatchError(
            f"the policy sees {seen} and acts {acts.shape} {acts.choices or ''}, environment "
            f"{game.name!r} shows {game.task.shape} and takes {spec.shape} {spec.choices or ''}: give "
            "the options that it was trained with, for example --set view_size=3"
        )
