"""MiniGrid's tasks with observations that networks take, one at a time or many together (extra `bench`).

Every environment of MiniGrid has an observation here that is one array: the agent's view or the whole world,
as vectors with a 1 for object, colour and state, as MiniGrid's numbers, or as a picture (see
`memrl_ctrl.tasks.grid_sight.Sight` for the options). The mission's text is left out; in tasks where it says
what to do (Fetch, GoToDoor, GoToObject, PutNear, most of BabyAI) a policy cannot know it.

| name | what |
|---|---|
| `MiniGrid-…-v0`, `BabyAI-…-v0` | MiniGrid's own, in configurations and commands |
| `memrl/MemoryS7-v0`, `S9`, `S11`, `S13`, `S13Random`, `S17Random` | MiniGrid's memory tasks |
| `memrl/Maze-S4-v0` to `S24`, `memrl/MazeRandom-…`, `memrl/MazeObstructed-…` | mazes of our own |
| `MiniGrid-CustomMaze-S8-v0`, `MiniGrid-CustomMazeRandomS15` | the same mazes by their older names |
| `memrl/MiniGrid-v0` | any of them, by the option `task` |
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.registry import missing_extra
from memrl_ctrl.tasks.grid_sight import Eyes, Seen, Sight, Worlds
from memrl_ctrl.tasks.rows import Floats, Mask, RowsVector, Seeds

if TYPE_CHECKING:
    from minigrid.minigrid_env import MiniGridEnv

ID = "memrl/MiniGrid-v0"
MEMORY = ("S7", "S9", "S11", "S13", "S13Random", "S17Random")
"""The memory tasks that MiniGrid has; a fixed S17 is not among them."""
MAZES = {"Maze": {}, "MazeRandom": {"smallest": 6}, "MazeObstructed": {"obstacles": 2, "doors": 1}}
"""Kinds of mazes and what they stand for."""
SIZES = range(4, 25)
"""Sides of the mazes that have a name."""
LIMIT = "max_episode_steps"

_MAZE = re.compile(r"(?:memrl/|MiniGrid-Custom)(Maze(?:Random|Obstructed)?)-?S(\d+)(?:-v0)?")
_LIBRARY = re.compile(r"(?:MiniGrid|BabyAI)-.+")


def is_grid(name: str) -> bool:
    """Whether a name is of a task of MiniGrid's kind, in MiniGrid or here."""
    ours = name in gymnasium.registry and name != ID and _entry(name) is not None
    return ours or bool(_MAZE.fullmatch(name) or _LIBRARY.fullmatch(name))


def _entry(name: str) -> str | None:
    """Return which task a registered name of ours stands for; None where it is not ours."""
    spec = gymnasium.registry[name]
    task = spec.kwargs.get("task") if spec.entry_point == _ONE else None
    return str(task) if task is not None else None


_ONE = "memrl_ctrl.tasks.minigrid:SeenGrid"
_MANY = "memrl_ctrl.tasks.minigrid:GridVector"


def register() -> None:
    """Make the tasks known to Gymnasium; a second call does nothing. MiniGrid itself is not imported."""
    if ID in gymnasium.registry:
        return
    tasks: dict[str, dict[str, Any]] = {ID: {}}
    tasks |= {f"memrl/Memory{size}-v0": {"task": f"MiniGrid-Memory{size}-v0"} for size in MEMORY}
    for kind in MAZES:
        names = [f"memrl/{kind}-S{size}-v0" for size in SIZES]
        tasks |= {name: {"task": name} for name in names}
    for name, options in tasks.items():
        gymnasium.register(
            name, entry_point=_ONE, vector_entry_point=_MANY, kwargs=options, order_enforce=False
        )


def known() -> set[str]:
    """Return the names of all tasks of this kind.

    Raises:
        MissingExtraError: MiniGrid is not installed.
    """
    _library("the tasks of MiniGrid")
    register()
    ours = {name for name in gymnasium.registry if name != ID and _entry(name) is not None}
    return ours | {name for name in gymnasium.registry if _LIBRARY.fullmatch(name)}


def make_raw(task: str, **options: Any) -> MiniGridEnv:
    """Make MiniGrid's environment of a task, without any wrapper.

    Args:
        task: one of the names above.
        options: of the environment; `max_episode_steps` is MiniGrid's `max_steps`.

    Raises:
        MissingExtraError: MiniGrid is not installed.
        UnknownNameError: there is no such task.
    """
    _library(f"environment {task!r}")
    if not task:
        raise UsageError(
            f"environment {ID!r} needs the option task, for example MiniGrid-Empty-5x5-v0"
        )
    if LIMIT in options:
        options["max_steps"] = options.pop(LIMIT)
    maze = _MAZE.fullmatch(task)
    if maze is not None:
        from memrl_ctrl.tasks.mazes import MazeEnv

        return MazeEnv(**{"size": int(maze[2]), **MAZES[maze[1]], **options})
    if task in gymnasium.registry and (stands_for := _entry(task)) is not None:
        return make_raw(stands_for, **options)
    if task not in gymnasium.registry or not _LIBRARY.fullmatch(task):
        # There are nearly 300.
        near = difflib.get_close_matches(task, known(), n=6, cutoff=0.0)
        raise UnknownNameError("MiniGrid task", task, near)
    if task.startswith("MiniGrid-WFC-"):
        raise UsageError(
            f"environment {task!r} needs pictures that MiniGrid's package leaves out; mazes of its kind "
            "are memrl/Maze-S12-v0 and others"
        )
    with _said_in_words(task):
        env = gymnasium.make(task, disable_env_checker=True, **options).unwrapped
    return env  # type: ignore[return-value]


@contextmanager
def _said_in_words(task: str) -> Iterator[None]:
    """MiniGrid asserts what its options must be."""
    try:
        yield
    except AssertionError as error:
        why = str(error) or "MiniGrid refuses one of its options"
        raise UsageError(f"environment {task!r} cannot be made so: {why}") from error


def _library(what: str) -> None:
    try:
        import minigrid  # noqa: F401 - registers its tasks
    except ModuleNotFoundError as error:
        raise missing_extra(what, error) from error


def _parted(task: str, options: dict[str, Any]) -> tuple[Sight, dict[str, Any]]:
    """Part options into those of what is seen and those of the environment."""
    names = {field.name for field in fields(Sight)}
    sight = {key: value for key, value in options.items() if key in names}
    if "actions" not in sight and (maze := _MAZE.fullmatch(task)):
        # A maze is walked through; only where something is in the way there is more to do.
        handles = {**MAZES[maze[1]], **options}
        sight["actions"] = 6 if handles.get("obstacles") or handles.get("doors") else 3
    return Sight(**sight), {key: value for key, value in options.items() if key not in names}


class SeenGrid(gymnasium.Env[Seen, np.int64]):
    """One task, seen as `Sight` says.

    Args:
        task: name of the task.
        render_mode: as MiniGrid has them: `human`, `rgb_array`.
        options: of `Sight`, and of the task's environment.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - typed so by the base class
        "render_modes": ["human", "rgb_array"],
        "render_fps": 10,
    }

    def __init__(self, *, task: str = "", render_mode: str | None = None, **options: Any) -> None:
        self.sight, others = _parted(task, options)
        self.raw = make_raw(task, render_mode=render_mode, **others)
        with _said_in_words(task):
            self.raw.reset(seed=0)
        if self.sight.view_size:
            # What a picture of the world shows as seen.
            self.raw.agent_view_size = self.sight.view_size
        self.render_mode = render_mode
        self.worlds = Worlds([self.raw], self.raw.width, self.raw.height)
        self._eyes = Eyes(self.sight, self.worlds)
        self.observation_space = self.sight.space(self.raw.width, self.raw.height)
        self.action_space = Discrete(self.sight.actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.raw.reset(seed=seed, options=options)
        self.worlds.begin(0)
        return self._eyes()[0], {}

    def step(self, action: np.int64 | int) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Act."""
        action = int(action)
        _, reward, terminated, truncated, _ = self.raw.step(action)
        self.worlds.after(0, action)
        return self._eyes()[0], float(reward), bool(terminated), bool(truncated), {}

    def render(self) -> Any:
        """Draw the world, as MiniGrid does."""
        return self.raw.render()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close MiniGrid's window, where there is one."""
        self.raw.close()  # type: ignore[no-untyped-call]


class GridVector(RowsVector):
    """The same for many rows; what they see is made in one call.

    Args:
        task: name of the task.
        num_envs: rows.
        render_mode: None; see `RowsVector`.
        autoreset: see `RowsVector`.
        options: of `Sight`, and of the task's environment.

    Raises:
        MissingExtraError: MiniGrid is not installed.
        UsageError: an option that cannot be had, or an unknown task.
    """

    def __init__(
        self,
        *,
        task: str = "",
        num_envs: int = 1,
        render_mode: str | None = None,
        autoreset: bool = True,
        **options: Any,
    ) -> None:
        self.sight, others = _parted(task, options)
        self._envs = [make_raw(task, **others) for _ in range(num_envs)]
        with _said_in_words(task):
            self._envs[0].reset(seed=0)
        width, height = self._envs[0].width, self._envs[0].height
        self.worlds = Worlds(self._envs, width, height)
        self._eyes = Eyes(self.sight, self.worlds)
        self.observation_meaning = self.sight.meaning()
        names = (action.name for action in self._envs[0].actions)
        self.action_names = tuple(names)[: self.sight.actions]
        super().__init__(
            num_envs=num_envs,
            observation_space=self.sight.space(width, height),
            action_space=Discrete(self.sight.actions),
            render_mode=render_mode,
            autoreset=autoreset,
        )

    def close_extras(self, **kwargs: Any) -> None:
        """Close the rows."""
        for env in self._envs:
            env.close()  # type: ignore[no-untyped-call]

    def _begin(self, mask: Mask, seeds: Seeds) -> None:
        for row in np.flatnonzero(mask).tolist():
            self._envs[row].reset(seed=None if seeds is None else seeds[row])
            self.worlds.begin(row)

    def _act(self, actions: NDArray[Any]) -> tuple[Floats, Mask, Mask]:
        after, results = self.worlds.after, []
        for row, (env, action) in enumerate(zip(self._envs, actions.tolist(), strict=True)):
            results.append(env.step(action)[1:4])
            after(row, action)
        reward, terminated, truncated = (np.array(column) for column in zip(*results, strict=True))
        return reward.astype(np.float64), terminated.astype(np.bool_), truncated.astype(np.bool_)

    def _seen(self) -> Seen:
        return self._eyes()
