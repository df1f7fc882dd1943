"""Mazes: every place can be reached, sizes and places are what was asked for, seeds repeat them."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.errors import UsageError

pytest.importorskip("minigrid")

from memrl_ctrl.tasks.mazes import MazeEnv, carve, distances

SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1))


def reached_from(free: Any, start: tuple[int, int]) -> dict[tuple[int, int], int]:
    """Breadth-first search: the steps to every cell that can be reached."""
    steps, waiting = {start: 0}, deque([start])
    while waiting:
        x, y = waiting.popleft()
        for dx, dy in SIDES:
            there = (x + dx, y + dy)
            if free[there] and there not in steps:
                steps[there] = steps[x, y] + 1
                waiting.append(there)
    return steps


@settings(max_examples=60)
@given(st.integers(4, 30), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.0]))
def test_every_place_can_be_reached(size: int, seed: int, openings: float) -> None:
    """From any free cell all others are reached; without openings there is one way between two of them
    (a tree has one connection less than cells), and each opening adds one; the outside is walled."""
    free, between = carve(size, np.random.default_rng(seed), openings)
    cells = [(int(x), int(y)) for x, y in np.argwhere(free)]
    steps = reached_from(free, cells[0])
    assert set(steps) == set(cells)
    pairs = int((free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum())
    across = (size - 1) // 2
    closed = 2 * across * (across - 1) - (across**2 - 1)
    assert pairs - (len(cells) - 1) == round(openings * closed)
    assert not free[[0, -1]].any()
    assert not free[:, [0, -1]].any()
    assert not (between & ~free).any()
    away = distances(free, cells[0])
    assert all(away[cell] == steps[cell] for cell in cells)
    assert np.isinf(away[~free]).all()


@settings(max_examples=40)
@given(st.integers(4, 24), st.integers(0, 2**31), st.integers(0, 8), st.integers(0, 8))
def test_it_can_be_solved(size: int, seed: int, obstacles: int, doors: int) -> None:
    """Start and goal are two free cells; doors stand between crossings and balls upon them, so that what
    is carried can always be put down behind: no door or ball has one beside it that blocks that."""
    env = MazeEnv(size=size, obstacles=obstacles, doors=doors)
    env.reset(seed=seed)
    assert env.start != env.goal
    assert env.goal in reached_from(env.free, env.start)
    assert env.grid.get(*env.goal).type == "goal"
    assert env.grid.get(*env.start) is None
    things = {
        (x, y): env.grid.get(x, y).type
        for x, y in np.argwhere(env.free).tolist()
        if env.grid.get(x, y) is not None and (x, y) != env.goal
    }
    for (x, y), thing in things.items():
        assert (x % 2 == 1 and y % 2 == 1) == (thing == "ball")
        beside = {things.get((x + dx, y + dy)) for dx, dy in SIDES}
        assert thing not in beside
    # MiniGrid's walls stand where nothing is free.
    walls = env.grid.encode()[..., 0] == 2
    np.testing.assert_array_equal(walls, ~env.free)


def world(env: MazeEnv) -> tuple[Any, ...]:
    return env.grid.encode().tolist(), tuple(map(int, env.agent_pos)), int(env.agent_dir)


def test_a_seed_repeats_a_maze() -> None:
    """The same seed brings the same maze in another environment, another seed another one."""
    first, second = MazeEnv(size=12, obstacles=2, doors=2), MazeEnv(size=12, obstacles=2, doors=2)
    first.reset(seed=1)
    first.reset(seed=7)
    second.reset(seed=7)
    assert world(first) == world(second)
    second.reset(seed=8)
    assert world(first) != world(second)


def test_random_sizes_are_within_their_limits() -> None:
    """Sizes are drawn between the smallest and the largest, both included."""
    env = MazeEnv(size=9, smallest=6)
    sizes = set()
    for seed in range(60):
        env.reset(seed=seed)
        sizes.add(env.grid.width)
    assert sizes == {6, 7, 8, 9}


def test_a_fixed_layout_stays_while_start_and_goal_move() -> None:
    """With layout_seed the walls are always the same."""
    env = MazeEnv(size=10, layout_seed=4)
    frees, starts = [], set()
    for seed in range(20):
        env.reset(seed=seed)
        frees.append(env.free)
        starts.add(env.start)
    assert all((free == frees[0]).all() for free in frees)
    assert len(starts) > 3


def test_start_and_goal_as_asked_for() -> None:
    """Corners, places and the furthest place; a place in a wall stands for the nearest free one."""
    env = MazeEnv(size=11, start="corner", goal="corner", start_direction=2)
    env.reset(seed=0)
    assert (env.start, env.goal, env.agent_dir) == ((1, 1), (9, 9), 2)
    env = MazeEnv(size=11, start=[3, 5], goal="far")
    env.reset(seed=0)
    steps = reached_from(env.free, (3, 5))
    assert steps[env.goal] == max(steps.values())
    env = MazeEnv(size=11, start=[2, 2], goal=[9, 9])
    env.reset(seed=0)
    assert abs(env.start[0] - 2) + abs(env.start[1] - 2) == 1
    for seed in range(30):
        small = MazeEnv(size=4, start="corner", goal=[1, 2])
        small.reset(seed=seed)
        assert small.start != small.goal


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 3}, "size of a maze must be from 4 to 99, not 3"),
        ({"size": 8, "smallest": 2}, "smallest of a maze must be from 4 to 99, not 2"),
        ({"openings": 1.5}, "openings of a maze must be from 0.0 to 1.0, not 1.5"),
        ({"obstacles": -1}, "obstacles of a maze must be from 0"),
        (
            {"start": "far"},
            r"start of a maze must be random, corner or a place \[x, y\], not 'far'",
        ),
        ({"goal": "nowhere"}, "goal of a maze must be random, corner, far or a place"),
        ({"goal": [1, 7]}, r"goal of a maze must be \[x, y\] with both from 1 to 6, not \[1, 7\]"),
        ({"size": "big"}, "size of a maze must be from 4 to 99, not 'big'"),
        ({"start": 3}, r"start of a maze must be \[x, y\] with both from 1 to 6, not 3"),
        ({"start": [1, 1], "goal": [1, 1]}, "they must differ"),
        ({"start_direction": 5}, "start_direction of a maze must be 0"),
    ],
)
def test_what_no_maze_has_is_said(options: dict[str, Any], sentence: str) -> None:
    """A wrong option is one sentence."""
    with pytest.raises(UsageError, match=sentence):
        MazeEnv(**options)
