"""What `memrl-ctrl play` shows, and which keys do what. Needs no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from memrl_ctrl.cli.play_game import Game

Floats = NDArray[np.float64]

COLOURS = ("red", "green", "blue", "magenta", "yellow", "bright_black")
"""Of MiniGrid's red, green, blue, purple, yellow and grey."""
LOOKS = {
    0: "░░", 1: "  ", 2: "██", 3: "··", 5: "¶ ", 6: "● ", 7: "■ ", 8: "◎ ", 9: "≈≈", 10: "▶ ",
}  # fmt: skip
"""Two columns for what a cell holds, by MiniGrid's number; doors by their state."""
DOORS = ("╎ ", "▒▒", "▓▓")
ARROWS = ("▶ ", "▼ ", "◀ ", "▲ ")
AGENT, DOOR = 10, 4
MOST_ROWS = 16
"""Numbers of an observation that are listed; more are drawn as a curve."""
CURVE_COLUMNS = 64
BARS = " ▁▂▃▄▅▆▇█"
BAR_COLUMNS = 30
GRID_KEYS = {
    "left": (0, "←", "turn left"), "right": (1, "→", "turn right"), "up": (2, "↑", "forward"),
    "p": (3, "p", "pick up"), "d": (4, "d", "drop"), "space": (5, "space", "open"), "enter": (6, "⏎", "done"),
}  # fmt: skip
STEP = 0.1
"""How much of its half range a continuous action changes with a key."""


class Hand(Protocol):
    """Turns keys into actions."""

    def take(self, key: str) -> NDArray[Any] | None:
        """Return an action [1, actions] where the key completes one."""
        ...

    def legend(self) -> str:
        """Say which keys do what."""
        ...


class GridHand:
    """MiniGrid's actions.

    Args:
        actions: how many of them there are.
    """

    def __init__(self, actions: int) -> None:
        self._keys = {key: row for key, row in GRID_KEYS.items() if row[0] < actions}

    def take(self, key: str) -> NDArray[Any] | None:
        """See `Hand`."""
        found = self._keys.get(key)
        return None if found is None else np.array([[found[0]]])

    def legend(self) -> str:
        """See `Hand`."""
        return "   ".join(f"{sign} {words}" for _, sign, words in self._keys.values())


class ChoiceHand:
    """Choices by their digits, one after the other; of two the arrows too.

    Args:
        choices: how many choices each action has.
    """

    def __init__(self, choices: tuple[int, ...]) -> None:
        self._choices = choices
        self._made: list[int] = []

    def take(self, key: str) -> NDArray[Any] | None:
        """See `Hand`."""
        if self._choices == (2,):
            key = {"left": "0", "right": "1"}.get(key, key)
        if len(key) != 1 or not key.isascii() or not key.isdigit():
            return None
        if int(key) >= self._choices[len(self._made)]:
            return None
        self._made.append(int(key))
        if len(self._made) < len(self._choices):
            return None
        action = np.array([self._made])
        self._made = []
        return action

    def legend(self) -> str:
        """See `Hand`."""
        if self._choices == (2,):
            return "← or 0   → or 1"
        if len(self._choices) == 1:
            return f"0 to {self._choices[0] - 1}"
        made = " ".join(map(str, self._made)) or "none yet"
        sizes = ", ".join(f"0 to {n - 1}" for n in self._choices)
        return f"one digit after the other: {sizes} (chosen: {made})"


class NumberHand:
    """Numbers that are moved and then sent.

    Args:
        low, high: limits [actions].
    """

    def __init__(self, low: Floats, high: Floats) -> None:
        self._low, self._high = low, high
        self._value = 0.5 * (low + high)
        self._at = 0

    def take(self, key: str) -> NDArray[Any] | None:
        """See `Hand`."""
        if key in {"left", "right"}:
            sign = 1.0 if key == "right" else -1.0
            half = 0.5 * (self._high - self._low)[self._at]
            moved = self._value[self._at] + sign * STEP * half
            self._value[self._at] = np.clip(moved, self._low[self._at], self._high[self._at])
        elif key in {"up", "down"}:
            step = 1 if key == "down" else -1
            self._at = (self._at + step) % len(self._value)
        elif key == "0":
            self._value = 0.5 * (self._low + self._high)
        return self._value[None].copy() if key in {"enter", "space"} else None

    def legend(self) -> str:
        """See `Hand`."""
        values = [
            f"[{value:+.3g}]" if i == self._at and len(self._value) > 1 else f"{value:+.3g}"
            for i, value in enumerate(self._value)
        ]
        choose = "   ↑ ↓ which" if len(values) > 1 else ""
        return f"← → change{choose}   0 middle   ⏎ act      action {' '.join(values)}"


def hand_of(game: Game) -> Hand:
    """Return what turns keys into a game's actions."""
    task = game.task
    if game.worlds is not None:
        return GridHand(task.choices[0])
    if task.choices:
        return ChoiceHand(task.choices)
    low, high = (np.array(v, dtype=np.float64) for v in (task.action_low, task.action_high))
    return NumberHand(low, high)


def draw(game: Game, hand: Hand, *, watching: bool, note: str = "") -> RenderableType:
    """Draw how a game stands.

    Args:
        game: the game.
        hand: what turns keys into its actions.
        watching: whether a policy plays.
        note: a line below.
    """
    keys = "space pauses   q stops" if watching else f"{hand.legend()}   q stops"
    line = (
        f"step {game.steps}   reward {game.reward:+.3g}   return {game.total:+.4g}   "
        f"episodes over {len(game.returns)}"
    )
    worlds = game.worlds
    if worlds is None:
        body: RenderableType = numbers(game)
    else:
        side = game.task.shape[0] if len(game.task.shape) == 3 else 0
        view = getattr(game.env.unwrapped, "sight", None)
        size = side if view is None else view.view_size
        parts = [Panel(cells(worlds.from_above()[0]), title="the world", expand=False)]
        if size:
            seen = worlds.views(size)[0]
            if seen[size // 2, -1, 0] == 1:  # the agent itself, where it holds nothing
                seen[size // 2, -1] = (AGENT, 0, 3)
            parts.append(Panel(cells(seen), title="what it sees", expand=False))
        body = Columns(parts)
    return Group(
        Text(game.name, style="bold"), body, Text(line), Text(keys, style="dim"), Text(note)
    )


def cells(grid: NDArray[np.uint8]) -> Text:
    """Draw cells [width, height, (object, colour, state)] as lines of text, two columns a cell."""
    lines = Text()
    for row in grid.swapaxes(0, 1).tolist():
        for what, colour, state in row:
            look = LOOKS.get(what, "? ")
            style = COLOURS[colour] if colour < len(COLOURS) else "white"
            if what == DOOR:
                look = DOORS[min(state, len(DOORS) - 1)]
            elif what == AGENT:
                look, style = ARROWS[state % 4], "bold red"
            lines.append(look, "dim" if what == 0 else style)
        lines.append("\n")
    lines.right_crop(1)
    return lines


def numbers(game: Game) -> RenderableType:
    """Draw an observation of numbers: each with a bar, or a curve where there are many."""
    values = game.observation.ravel().astype(np.float64)
    if len(game.task.shape) == 3:
        return Text(f"(a picture of {game.task.shape}; `evaluate --render` draws it)")
    if len(values) > MOST_ROWS:
        return Panel(Text("\n".join(_curve(values))), title="observation", expand=False)
    space: Any = game.env.single_observation_space
    table = Table(show_header=False, box=None)
    for number, value in enumerate(values):
        low, high = float(space.low[number]), float(space.high[number])
        if not (abs(low) < 1e6 and abs(high) < 1e6):
            low, high = -max(1.0, abs(value)), max(1.0, abs(value))
        share = (value - low) / (high - low) if high > low else 0.5
        at = round(min(max(share, 0.0), 1.0) * (BAR_COLUMNS - 1))
        table.add_row(
            f"{number}", f"{value:+.4f}", Text("─" * at + "●" + "─" * (BAR_COLUMNS - 1 - at))
        )
    return table


def _curve(values: Floats, lines: int = 6) -> list[str]:
    """Draw values as columns of blocks, the highest line first."""
    edges = np.linspace(0, len(values), min(CURVE_COLUMNS, len(values)) + 1).astype(int)
    means = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    low, high = float(means.min()), float(means.max())
    height = (means - low) / (high - low or 1.0) * lines * (len(BARS) - 1)
    eighths = [np.clip(height - line * (len(BARS) - 1), 0, len(BARS) - 1) for line in range(lines)]
    drawn = ["".join(BARS[int(e)] for e in line) for line in reversed(eighths)]
    return [f"{high:.4g}", *drawn, f"{low:.4g}"]
