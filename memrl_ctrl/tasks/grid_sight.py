"""What is seen of MiniGrid's worlds, for many rows in one call.

MiniGrid (Chevalier-Boisvert et al. 2023, arXiv 2306.13831) builds each observation in Python, cell by cell,
which takes most of the time of a step. Here the contents of all worlds are kept as one array that is
corrected where something changes; the views of all rows are then cut out of it by one compiled function
that follows MiniGrid's rules, also those of what hides behind walls and doors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from memrl_ctrl.compiling import compiled
from memrl_ctrl.errors import UsageError

if TYPE_CHECKING:
    from minigrid.minigrid_env import MiniGridEnv

Cells = NDArray[np.uint8]
Seen = NDArray[np.float32]

OBJECTS, COLOURS, STATES = 11, 6, 4
"""Kinds of what a cell holds; states are those of doors (0 to 2), or the agent's direction."""
VISIBLE_STATES = 3
"""States that a view of the agent's can hold."""
WALL, DOOR, AGENT = 2, 4, 10
LARGEST_VIEW = 99
LARGEST_TILE_PX = 64
MOST_ACTIONS = 7
FIRST_HANDLING = 3
"""Actions from this one on (pickup, drop, toggle) change what is in front of the agent."""


@dataclass(frozen=True, kw_only=True)
class Sight:
    """How much of a world is seen, and in which form."""

    view_size: int = 7
    """Cells of the agent's square view on a side, odd; 0: the whole world from above."""
    one_hot: bool = True
    """Whether object, colour and state are each a vector with a 1; otherwise MiniGrid's three numbers."""
    pixels: bool = False
    """Whether it is a picture, values from 0 to 1."""
    tile_px: int = 8
    """Pixels of a cell on a side, for pictures."""
    direction: bool = False
    """Whether the agent's direction is seen too, as further channels: a compass."""
    actions: int = MOST_ACTIONS
    """How many of MiniGrid's actions there are: 3 for left, right and forward; 6 with pickup, drop and
    toggle."""

    def __post_init__(self) -> None:
        """Refuse what MiniGrid cannot show."""
        size = self.view_size
        odd = _is_whole(size) and 3 <= size <= LARGEST_VIEW and size % 2 == 1
        if not odd and not (_is_whole(size) and size == 0):
            raise UsageError(
                f"view_size must be an odd number from 3 to {LARGEST_VIEW}, so that the agent is in its "
                f"middle, or 0 to see everything; not {size!r}"
            )
        for name in ("one_hot", "pixels", "direction"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be true or false, not {getattr(self, name)!r}")
        for name, low, high in (("tile_px", 4, LARGEST_TILE_PX), ("actions", 1, MOST_ACTIONS)):
            value = getattr(self, name)
            if not _is_whole(value) or not low <= value <= high:
                raise UsageError(f"{name} must be from {low} to {high}, not {value!r}")
        if self.direction and self.pixels:
            raise UsageError(
                "direction cannot be had of pictures: leave it out, or set pixels: false"
            )
        if self.direction and not size:
            raise UsageError(
                "direction is seen with view_size: 0 anyway, where the agent stands: leave it out"
            )

    @property
    def channels(self) -> int:
        """Values of each cell, or of each pixel."""
        if self.pixels:
            return 3
        if not self.one_hot:
            return 3 + self.direction
        states = VISIBLE_STATES if self.view_size else STATES
        return OBJECTS + COLOURS + states + STATES * self.direction

    def space(self, width: int, height: int) -> Box[np.float32]:
        """Return the space of what is seen of worlds of this size, in cells."""
        across, down = (self.view_size, self.view_size) if self.view_size else (width, height)
        if self.pixels:
            shape: tuple[int, ...] = (down * self.tile_px, across * self.tile_px, 3)
        else:
            shape = (across, down, self.channels)
        highest = 1.0 if self.one_hot or self.pixels else float(AGENT)
        return Box(0.0, highest, shape, dtype=np.float32)

    def meaning(self) -> dict[str, Any]:
        """Return what the numbers of an observation are, in words and in MiniGrid's codes."""
        from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

        if self.pixels:
            return {
                "axes": ["y", "x", "channel"],
                "channels": ["red", "green", "blue"],
                "highest": 1.0,
            }
        codes = {"object": OBJECT_TO_IDX, "colour": COLOR_TO_IDX, "state": STATE_TO_IDX}
        plain = {
            name: {word: int(code) for word, code in known.items()} for name, known in codes.items()
        }
        channels = list(plain)
        if self.one_hot:
            states = VISIBLE_STATES if self.view_size else STATES
            counts = {"object": OBJECTS, "colour": COLOURS, "state": states}
            channels = [f"{name} is {code}" for name, n in counts.items() for code in range(n)]
            if self.direction:
                channels += [f"direction is {code}" for code in range(STATES)]
        elif self.direction:
            channels.append("direction")
        return {
            "axes": ["x", "y", "channel"],
            "channels": channels,
            "codes": plain,
            "view_size": self.view_size,
        }


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Worlds:
    """The contents of the worlds of all rows, as arrays.

    Args:
        envs: MiniGrid's environments, one for each row; they no longer make observations themselves.
        width, height: of the largest of the worlds, cells.
    """

    def __init__(self, envs: Sequence[MiniGridEnv], width: int, height: int) -> None:
        rows = len(envs)
        self.envs = envs
        self.cells: Cells = np.zeros((rows, width, height, 3), dtype=np.uint8)
        self.size = np.zeros((rows, 2), dtype=np.int64)
        self.pose = np.zeros((rows, 3), dtype=np.int64)
        """Place and direction of the agents [rows, (x, y, direction)]."""
        self.carried: Cells = np.zeros((rows, 3), dtype=np.uint8)
        self.through = np.zeros(rows, dtype=np.bool_)
        self._grids: list[Any] = [None] * rows
        self._changed: list[list[tuple[int, int]]] = [[] for _ in envs]
        for env in envs:
            vars(env)["gen_obs"] = _nothing

    def begin(self, row: int) -> None:
        """Take up the world of a new episode."""
        env, changed = self.envs[row], self._changed[row]
        grid = env.grid
        self._grids[row] = grid
        width, height = grid.width, grid.height
        codes = [(1, 0, 0) if cell is None else cell.encode() for cell in grid.grid]
        self.cells[row] = 0
        self.cells[row, :width, :height] = (
            np.array(codes, np.uint8).reshape(height, width, 3).swapaxes(0, 1)
        )
        self.size[row] = width, height
        self.through[row] = env.see_through_walls
        changed.clear()
        vars(grid)["set"] = partial(_set_and_note, grid, changed)
        self._note_agent(row, env)

    def after(self, row: int, action: int) -> None:
        """Take up what an action changed."""
        env, changed = self.envs[row], self._changed[row]
        if env.grid is not self._grids[row]:
            self.begin(row)
            return
        if action >= FIRST_HANDLING:
            x, y = env.front_pos
            changed.append((int(x), int(y)))
        if changed:
            for x, y in changed:
                cell = env.grid.get(x, y)
                self.cells[row, x, y] = (1, 0, 0) if cell is None else cell.encode()
            changed.clear()
        self._note_agent(row, env)

    def _note_agent(self, row: int, env: MiniGridEnv) -> None:
        x, y = env.agent_pos
        self.pose[row] = x, y, env.agent_dir
        self.carried[row] = 0 if env.carrying is None else env.carrying.encode()

    def views(self, view_size: int) -> Cells:
        """Return what the agents see, as MiniGrid encodes it [rows, view_size, view_size, 3]."""
        out = np.zeros((len(self.envs), view_size, view_size, 3), dtype=np.uint8)
        _look(self.cells, self.size, self.pose, self.carried, self.through, out)
        return out

    def from_above(self) -> Cells:
        """Return the whole worlds with their agents [rows, width, height, 3], as MiniGrid encodes them."""
        out = self.cells.copy()
        rows = np.arange(len(self.envs))
        out[rows, self.pose[:, 0], self.pose[:, 1]] = 0
        out[rows, self.pose[:, 0], self.pose[:, 1], 0] = AGENT
        out[rows, self.pose[:, 0], self.pose[:, 1], 2] = self.pose[:, 2]
        return out


def _nothing() -> dict[str, Any]:
    """Stands for MiniGrid's own making of observations."""
    return {}


def _set_and_note(grid: Any, changed: list[tuple[int, int]], x: int, y: int, content: Any) -> None:
    type(grid).set(grid, x, y, content)
    changed.append((int(x), int(y)))


class Eyes:
    """Turns worlds into observations.

    Args:
        sight: what is seen.
        worlds: of all rows.
    """

    def __init__(self, sight: Sight, worlds: Worlds) -> None:
        self._sight, self._worlds = sight, worlds
        states = VISIBLE_STATES if sight.view_size else STATES
        objects, colours, states_of = np.unravel_index(
            np.arange(OBJECTS * COLOURS * STATES), (OBJECTS, COLOURS, STATES)
        )
        parts = (np.eye(OBJECTS)[objects], np.eye(COLOURS)[colours], np.eye(STATES)[states_of])
        hot = np.concatenate([*parts[:2], parts[2][:, :states]], axis=1)
        self._hot: Seen = hot.astype(np.float32)
        # Pictures of cells, by what they hold and how they are looked at; made when first needed.
        self._slot = np.full((2, STATES + 1, len(hot)), -1, dtype=np.int64)
        self._tiles = np.zeros((0, sight.tile_px, sight.tile_px, 3), dtype=np.float32)

    def __call__(self) -> Seen:
        """Return what is seen in all rows."""
        sight = self._sight
        image = self._worlds.views(sight.view_size) if sight.view_size else None
        if image is None:
            image = self._worlds.from_above()
        if sight.pixels:
            return self._picture(image)
        seen = self._hot[_codes(image)] if sight.one_hot else image.astype(np.float32)
        if not sight.direction:
            return seen
        facing = self._worlds.pose[:, 2]
        compass = np.eye(STATES, dtype=np.float32)[facing] if sight.one_hot else facing[:, None]
        planes = np.broadcast_to(
            compass[:, None, None].astype(np.float32), (*seen.shape[:3], compass.shape[1])
        )
        return np.concatenate([seen, planes], axis=-1)

    def _picture(self, image: Cells) -> Seen:
        """Put the pictures of cells together: [rows, height, width, 3]."""
        codes, facing = _codes(image), np.zeros(image.shape[:3], dtype=np.int64)
        if self._sight.view_size:
            # The agent looks up from the middle of the lowest line; what it sees is a little brighter.
            facing[:, image.shape[1] // 2, -1] = 1 + 3
            lit = (image[..., 0] > 0).astype(np.int64)
        else:
            rows, (x, y, direction) = np.arange(len(image)), self._worlds.pose.T
            codes[rows, x, y] = _codes(self._worlds.cells[rows, x, y])
            facing[rows, x, y] = 1 + direction
            lit = np.zeros_like(facing)
        slots = self._slot[lit, facing, codes]
        if (slots < 0).any():
            self._draw(lit[slots < 0], facing[slots < 0], codes[slots < 0])
            slots = self._slot[lit, facing, codes]
        px = self._sight.tile_px
        tiles = self._tiles[slots]
        across, down = image.shape[1:3]
        return np.ascontiguousarray(tiles.transpose(0, 2, 3, 1, 4, 5)).reshape(
            len(image), down * px, across * px, 3
        )

    def _draw(
        self, lit: NDArray[np.int64], facing: NDArray[np.int64], codes: NDArray[np.int64]
    ) -> None:
        """Draw the cells that were not seen before."""
        from minigrid.core.grid import Grid
        from minigrid.core.world_object import WorldObj

        new: list[Seen] = []
        for bright, agent, code in np.unique(np.stack([lit, facing, codes]), axis=1).T.tolist():
            parts = np.unravel_index(code, (OBJECTS, COLOURS, STATES))
            content = WorldObj.decode(*(int(part) for part in parts))
            tile = Grid.render_tile(
                content, agent - 1 if agent else None, bool(bright), self._sight.tile_px
            )
            self._slot[bright, agent, code] = len(self._tiles) + len(new)
            # Whole numbers, as in MiniGrid's own pictures.
            new.append(tile.astype(np.uint8).astype(np.float32) / 255.0)
        self._tiles = np.concatenate([self._tiles, np.stack(new)])


def _codes(image: Cells) -> NDArray[np.int64]:
    """Return one number for each cell's object, colour and state."""
    numbers = image.astype(np.int64)
    return (numbers[..., 0] * COLOURS + numbers[..., 1]) * STATES + numbers[..., 2]


@compiled
def _look(  # noqa: PLR0917 - the arrays of one compiled call
    cells: Any, size: Any, pose: Any, carried: Any, through: Any, out: Any
) -> None:
    """Cut the agents' views out of their worlds: ahead is up, the agent in the middle of the lowest line."""
    side = out.shape[1]
    half = side // 2
    seen = np.zeros((side, side), dtype=np.bool_)
    for row in range(out.shape[0]):
        x, y, direction = pose[row, 0], pose[row, 1], pose[row, 2]
        ahead_x = 1 if direction == 0 else (-1 if direction == 2 else 0)
        ahead_y = 1 if direction == 1 else (-1 if direction == 3 else 0)
        view = out[row]
        for i in range(side):
            for j in range(side):
                forward, right = side - 1 - j, i - half
                at_x = x + forward * ahead_x - right * ahead_y
                at_y = y + forward * ahead_y + right * ahead_x
                if 0 <= at_x < size[row, 0] and 0 <= at_y < size[row, 1]:
                    view[i, j] = cells[row, at_x, at_y]
                else:  # beyond its edge MiniGrid shows grey walls
                    view[i, j, 0], view[i, j, 1], view[i, j, 2] = WALL, 5, 0
        if not through[row]:
            _find_visible(view, seen, half)
            for i in range(side):
                for j in range(side):
                    if not seen[i, j]:
                        view[i, j] = 0
        if carried[row, 0]:
            view[half, side - 1] = carried[row]
        else:
            view[half, side - 1, 0], view[half, side - 1, 1], view[half, side - 1, 2] = 1, 0, 0


@compiled
def _find_visible(view: Any, seen: Any, half: int) -> None:
    """Spread sight from the agent, line by line away from it, first to the right and then to the left."""
    side = view.shape[0]
    seen[:] = False
    seen[half, side - 1] = True
    for j in range(side - 1, -1, -1):
        for step in range(2 * (side - 1)):
            to_right = step < side - 1
            i = step if to_right else 2 * (side - 1) - step
            blocked = view[i, j, 0] == WALL or (view[i, j, 0] == DOOR and view[i, j, 2] != 0)
            if not seen[i, j] or blocked:
                continue
            beside = i + 1 if to_right else i - 1
            seen[beside, j] = True
            if j > 0:
                seen[beside, j - 1] = True
                seen[i, j - 1] = True
