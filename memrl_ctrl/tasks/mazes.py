"""Mazes for MiniGrid: walled worlds with one way between any two places, a start and a goal.

A maze is a spanning tree of a lattice, found by Kruskal's algorithm (Kruskal 1956, Proc. AMS 7, 48) with
random weights of the connections. Lattice points are the cells with odd coordinates; a connection is the cell
between two of them. In a world of even side the last line and column beside the outer wall hold dead ends of
one cell, so that no part of it is out of use. Every place can be reached from every other one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Ball, Door, Goal, Wall, WorldObj
from minigrid.minigrid_env import MiniGridEnv
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path

from memrl_ctrl.errors import UsageError

Free = NDArray[np.bool_]
Place = tuple[int, int]

SMALLEST, LARGEST = 4, 99
"""Sides of a world, outer walls included, cells."""
BALL_COLOUR, DOOR_COLOUR = "blue", "yellow"


def carve(size: int, rng: np.random.Generator, openings: float = 0.0) -> tuple[Free, Free]:
    """Draw a maze.

    Args:
        size: side of the world, outer walls included.
        rng: draws the weights.
        openings: share of the remaining walls between lattice points that are opened too; with 0 there is
            exactly one way between two places.

    Returns:
        Which cells are free [size, size], and which of them are connections (odd and even coordinate).
    """
    inside = size - 2
    across = (inside + 1) // 2
    number = np.arange(across * across).reshape(across, across)
    # Pairs of neighbouring lattice points: along x, then along y.
    first = np.concatenate([number[:-1].ravel(), number[:, :-1].ravel()])
    second = np.concatenate([number[1:].ravel(), number[:, 1:].ravel()])
    weight = 1.0 + rng.permutation(len(first))
    tree = minimum_spanning_tree(csr_array((weight, (first, second)), shape=(across**2,) * 2))
    opened = np.isin(weight, tree.data)
    closed = np.flatnonzero(~opened)
    more = rng.permutation(closed)[: round(openings * len(closed))]
    opened[more] = True
    free = np.zeros((size, size), dtype=np.bool_)
    free[1:-1:2, 1:-1:2] = True
    x, y = np.divmod(first[opened], across)
    x2, y2 = np.divmod(second[opened], across)
    between = np.zeros_like(free)
    between[1 + x + x2, 1 + y + y2] = True
    if inside % 2 == 0:
        between[size - 2, 1:-1:2] = True
        between[1:-1:2, size - 2] = True
    return free | between, between


def distances(free: Free, start: Place) -> NDArray[np.float64]:
    """Return the steps from a place to every cell [size, size]; infinite where there is no way."""
    size = len(free)
    number = np.arange(size * size).reshape(size, size)
    pairs = [(number[:-1][both], number[1:][both]) for both in (free[:-1] & free[1:],)] + [
        (number[:, :-1][both], number[:, 1:][both]) for both in (free[:, :-1] & free[:, 1:],)
    ]
    first = np.concatenate([pair[0] for pair in pairs])
    second = np.concatenate([pair[1] for pair in pairs])
    graph = csr_array((np.ones(len(first)), (first, second)), shape=(size * size,) * 2)
    steps = shortest_path(graph, directed=False, unweighted=True, indices=int(number[start]))
    return np.asarray(steps, dtype=np.float64).reshape(size, size)


class MazeEnv(MiniGridEnv):
    """Find the goal in a maze.

    The reward is MiniGrid's: 1 - 0.9 steps / max_steps at the goal, which ends the episode, else 0.

    Args:
        size: side of the world, outer walls included; the largest where sizes are random.
        smallest: smallest side, where each episode's is drawn; 0: always `size`.
        start, goal: `random`, `corner` (the first and the last corner), `far` (the goal only: the place
            furthest from the start), or a place [x, y].
        start_direction: of the agent: 0 right, 1 down, 2 left, 3 up, or `random`.
        layout_seed: the maze is always the one of this seed; None: a new one in each episode.
        openings: share of the remaining walls that are opened too, 0 to 1.
        obstacles: balls on crossings, which must be picked up and put away.
        doors: closed doors on the way.
        see_through_walls: whether walls hide nothing.
        max_steps: after which an episode is cut off; None: 4 size^2.
        options: of `MiniGridEnv`.

    Raises:
        UsageError: an option that cannot be had.
    """

    def __init__(
        self,
        *,
        size: int = 8,
        smallest: int = 0,
        start: str | list[int] = "random",
        goal: str | list[int] = "random",
        start_direction: int | str = "random",
        layout_seed: int | None = None,
        openings: float = 0.0,
        obstacles: int = 0,
        doors: int = 0,
        see_through_walls: bool = False,
        max_steps: int | None = None,
        **options: Any,
    ) -> None:
        for name, value, low, high in (
            ("size", size, SMALLEST, LARGEST),
            ("smallest", smallest, SMALLEST if smallest else 0, LARGEST),
            ("obstacles", obstacles, 0, LARGEST**2),
            ("doors", doors, 0, LARGEST**2),
            ("openings", openings, 0.0, 1.0),
        ):
            numeric = isinstance(value, float if name == "openings" else int) or value in {0, 1}
            if not numeric or isinstance(value, bool) or not low <= value <= high:
                raise UsageError(f"{name} of a maze must be from {low} to {high}, not {value!r}")
        _check_places(start, goal, start_direction, size if not smallest else min(size, smallest))
        self._smallest, self._largest = (min(smallest, size) if smallest else size), size
        self._start, self._goal, self._direction = start, goal, start_direction
        self._layout_seed, self._openings = layout_seed, openings
        self._obstacles, self._doors = obstacles, doors
        super().__init__(
            mission_space=MissionSpace(mission_func=_mission),
            grid_size=size,
            max_steps=4 * size**2 if max_steps is None else max_steps,
            see_through_walls=see_through_walls,
            **options,
        )

    def _gen_grid(self, width: int, height: int) -> None:
        """Make the world of an episode."""
        rng = self.np_random
        if self._layout_seed is not None:
            rng = np.random.default_rng(self._layout_seed)
        size = int(rng.integers(self._smallest, self._largest + 1))
        self.free, between = carve(size, rng, self._openings)
        self.grid = Grid(size, size)
        for x, y in np.argwhere(~self.free).tolist():
            self.grid.set(x, y, Wall())
        self.start, self.goal = self._places(size)
        self.grid.set(*self.goal, Goal())
        self.agent_pos = self.start
        drawn = int(self.np_random.integers(4))
        self.agent_dir = drawn if self._direction == "random" else int(self._direction)
        self._obstruct(rng, between)
        self.mission = _mission()

    def _places(self, size: int) -> tuple[Place, Place]:
        """Return start and goal of an episode."""
        places: list[Place] = [(x, y) for x, y in np.argwhere(self.free).tolist()]
        last = size - 2 - (size % 2 == 0)
        corners = {"start": (1, 1), "goal": (last, last) if last > 1 else places[-1]}
        goal = self._fixed(self._goal, corners["goal"])
        start = self._fixed(self._start, corners["start"])
        if start is None:
            others = [place for place in places if place != goal]
            start = others[int(self.np_random.integers(len(others)))]
        if self._goal == "far":
            steps = np.where(self.free, distances(self.free, start), -1.0)
            x, y = np.unravel_index(int(steps.argmax()), steps.shape)
            goal = (int(x), int(y))
        if goal is None or goal == start:
            others = [place for place in places if place != start]
            goal = others[int(self.np_random.integers(len(others)))]
        return start, goal

    def _fixed(self, wanted: str | list[int], corner: Place) -> Place | None:
        """Return a place that is not drawn; a wall stands for the next free cell beside it."""
        if wanted == "corner":
            return corner
        if isinstance(wanted, str):
            return None
        away = np.abs(np.argwhere(self.free) - np.array(wanted)).sum(axis=1)
        x, y = np.argwhere(self.free)[int(away.argmin())].tolist()
        return x, y

    def _obstruct(self, rng: np.random.Generator, between: Free) -> None:
        """Put balls on lattice points and doors into connections.

        Who carries a ball and stands before another one stands in a connection, with a lattice point that
        is free behind: there the first can be put. So the way is never blocked for good.
        """
        taken = np.zeros_like(self.free)
        taken[self.start], taken[self.goal] = True, True
        crossings, connections = (
            np.argwhere(self.free & kind & ~taken) for kind in (~between, between)
        )
        for places, wanted, thing in (
            (crossings, self._obstacles, _ball),
            (connections, self._doors, _door),
        ):
            for x, y in rng.permutation(places)[:wanted].tolist():
                self.grid.set(x, y, thing())


def _ball() -> WorldObj:
    return Ball(BALL_COLOUR)  # type: ignore[no-untyped-call]


def _door() -> WorldObj:
    return Door(DOOR_COLOUR)


def _mission() -> str:
    return "get to the goal"


def _check_places(
    start: str | list[int], goal: str | list[int], direction: int | str, size: int
) -> None:
    """Refuse places that are none."""
    allowed: tuple[tuple[str, str | list[int], tuple[str, ...]], ...] = (
        ("start", start, ("random", "corner")),
        ("goal", goal, ("random", "corner", "far")),
    )
    for name, place, words in allowed:
        if isinstance(place, str):
            if place not in words:
                raise UsageError(
                    f"{name} of a maze must be {', '.join(words)} or a place [x, y], not {place!r}"
                )
        elif (
            not isinstance(place, list | tuple)
            or len(place) != 2
            or not all(isinstance(at, int) and 1 <= at <= size - 2 for at in place)
        ):
            raise UsageError(
                f"{name} of a maze must be [x, y] with both from 1 to {size - 2}, not {place!r}"
            )
    if not isinstance(start, str) and not isinstance(goal, str) and list(start) == list(goal):
        raise UsageError(f"start and goal of a maze are both {list(start)}; they must differ")
    if direction != "random" and direction not in range(4):
        raise UsageError(
            f"start_direction of a maze must be 0 (right), 1 (down), 2 (left), 3 (up) or random, not "
            f"{direction!r}"
        )
