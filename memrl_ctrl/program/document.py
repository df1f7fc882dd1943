"""YAML files read node by node, so that every complaint names its line.

Nothing is converted by YAML's own guesses (`on` is no boolean, `1e11` is a number, a name of digits
stays a name): each field is read by what it is expected to be.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from memrl_ctrl.errors import ProgramError

MAX_BYTES = 64 << 20
"""Largest file that is read, bytes."""
LARGEST = 1e18
"""Numbers beyond this are typing errors; sums and squares of smaller ones cannot overflow."""
SWITCHED_ON, SWITCHED_OFF = frozenset({"on", "true", "yes"}), frozenset({"off", "false", "no"})
"""Words of a switch: `on` and `off`, and what YAML 1.1 and 1.2 write in their place, in any case."""


def read_text(path: Path, expected: str) -> str:
    """Read a UTF-8 text file whole.

    Args:
        path: the file.
        expected: what it should be, for the error's sentence.

    Raises:
        ProgramError: it is missing, a folder, too large, empty, or no text.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ProgramError(path, f"is larger than {MAX_BYTES >> 20} MiB; expected {expected}")
        data = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ProgramError(path, f"cannot be read ({reason}); expected {expected}") from error
    except ValueError as error:  # a null character in the name
        raise ProgramError(path, f"is no name of a file; expected {expected}") from error
    if not data.strip():
        raise ProgramError(path, f"is empty; expected {expected}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProgramError(path, f"is not UTF-8 text; expected {expected}", line=line) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ProgramError(path, f"holds binary data; expected {expected}", line=line)
    return text


def parse_number(text: str) -> float:
    """Return a text as a number; NaN where it is none, not finite, or beyond any quantity here.

    Python's own reading is too generous: it takes `1_000` and digits of other scripts.
    """
    if not text.isascii() or "_" in text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if abs(value) <= LARGEST else math.nan


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" where a known name is close, otherwise nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def open_document(path: Path, expected: str) -> Section:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ProgramError: with file, line and what was expected.
    """
    text = read_text(path, expected)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        problem = error.problem or error.context or "cannot be parsed"
        raise ProgramError(
            path, f"no valid YAML: {problem}; expected {expected}", line=line
        ) from error
    except yaml.YAMLError as error:
        words = " ".join(str(error).split())
        raise ProgramError(path, f"no valid YAML: {words}; expected {expected}") from error
    except RecursionError as error:
        raise ProgramError(path, f"is nested too deeply; expected {expected}") from error
    if not isinstance(node, yaml.MappingNode):
        raise ProgramError(path, f"holds no 'field: value' lines; expected {expected}", line=1)
    return Section(path, "", node)


def relative(item: Item) -> Path:
    """Return the file that a document names, relative to the document's folder."""
    if not item.text().strip():
        raise item.error("expected the name of a file")
    return item.path.parent / item.text()


class Item:
    """One value of a document, with its place.

    Args:
        path: the file.
        name: dotted name of the field, for people.
        node: the parsed value.
    """

    def __init__(self, path: Path, name: str, node: yaml.Node) -> None:
        self.path = path
        self.name = name
        self.node = node

    def error(self, problem: str) -> ProgramError:
        """Return the error that names this place."""
        return ProgramError(
            self.path, f"{self.name}: {problem}", line=self.node.start_mark.line + 1
        )

    @property
    def scalar(self) -> bool:
        """Whether it is a single value."""
        return isinstance(self.node, yaml.ScalarNode)

    @property
    def listed(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, yaml.SequenceNode)

    def text(self) -> str:
        """Return it as text."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error("expected a single line of text")
        return str(self.node.value)

    def choice(self, *allowed: str) -> str:
        """Return it as one of the allowed words."""
        word = self.text()
        if word not in allowed:
            raise self.error(f"{word!r} is not known; allowed: {', '.join(allowed)}")
        return word

    def switch(self) -> bool:
        """Return whether it is on; YAML's other words for that too, which libraries write in their place."""
        word = self.text()
        if word.lower() in SWITCHED_ON | SWITCHED_OFF:
            return word.lower() in SWITCHED_ON
        raise self.error(f"{word!r} is not known; allowed: on, off (also true, false, yes, no)")

    def number(
        self,
        *,
        above: float = -math.inf,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> float:
        """Return it as a finite number.

        Args:
            above: it must be larger than this.
            least: it must be at least this.
            most: it must be at most this.
        """
        word = self.text() if self.scalar else ""
        value = parse_number(word)
        if math.isnan(value):
            raise self.error(f"expected a number, not {word[:40]!r}")
        if not value > above:
            raise self.error(f"{word} is not allowed; it must be above {above:g}")
        if not value >= least:
            raise self.error(f"{word} is not allowed; it must be at least {least:g}")
        if not value <= most:
            raise self.error(f"{word} is not allowed; it must be at most {most:g}")
        return value

    def whole(self, *, least: int, most: int) -> int:
        """Return it as a whole number from `least` to `most`."""
        value = self.number()
        if value != int(value) or not least <= value <= most:
            raise self.error(f"expected a whole number from {least} to {most}, not {self.text()}")
        return int(value)

    def items(self) -> list[Item]:
        """Return the elements of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error("expected a list")
        return [
            Item(self.path, f"{self.name}[{i}]", node) for i, node in enumerate(self.node.value)
        ]

    def numbers(self) -> list[float]:
        """Return a list of finite numbers."""
        return [item.number() for item in self.items()]

    def span(self) -> tuple[float, float]:
        """Return `[low, high]`, low below high."""
        values = self.numbers()
        if len(values) != 2 or not values[0] < values[1]:
            raise self.error(f"expected [lowest, highest], not {values}")
        return values[0], values[1]

    def section(self) -> Section:
        """Return it as fields of its own."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error("expected 'field: value' lines below it")
        return Section(self.path, self.name, self.node)


class Section(Item):
    """Named fields. Those that nobody took are refused by `done`."""

    def __init__(self, path: Path, name: str, node: yaml.MappingNode) -> None:
        super().__init__(path, name or "file", node)
        self._prefix = f"{name}." if name else ""
        self._items: dict[str, Item] = {}
        self._taken: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Item(path, self.name, key).error("expected a field's name before the colon")
            item = Item(path, f"{self._prefix}{key.value}", value)
            if key.value in self._items:
                raise Item(path, item.name, key).error("stands twice; keep one")
            self._items[key.value] = item

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def get(self, name: str) -> Item | None:
        """Return a field that may be absent."""
        self._taken.add(name)
        return self._items.get(name)

    def need(self, name: str) -> Item:
        """Return a field that must be there."""
        item = self.get(name)
        if item is None:
            raise self.error(
                f"field {self._prefix}{name} is missing{suggestion(name, self._unknown())}"
            )
        return item

    def done(self) -> None:
        """Refuse the fields that were not asked for."""
        for name in self._unknown():
            item = self._items[name]
            raise item.error(
                f"is no field here; allowed: {', '.join(sorted(self._taken))}"
                f"{suggestion(name, self._taken)}"
            )

    def _unknown(self) -> list[str]:
        return [name for name in self._items if name not in self._taken]
