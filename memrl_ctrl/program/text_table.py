"""Tables of numbers as instruments and other codes write them: any separator, named columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program.document import parse_number, read_text, suggestion

FloatArray = NDArray[np.float64]

EXPECTED = "a table of numbers with a header line"
COMMENTS = ("#", "%", "!")
_SEPARATORS = ("\t", ";", ",")


@dataclass(frozen=True)
class TextTable:
    """Columns of a text file, as text until they are asked for."""

    path: Path
    """The file."""
    names: tuple[str, ...]
    """Names of the columns; `1`, `2`, … where the file has no header line."""
    lines: tuple[int, ...]
    """Line of each row, counted from 1."""
    cells: tuple[tuple[str, ...], ...]
    """Cells of each row."""

    def named(self, wanted: str) -> str:
        """Return the name of a column that is given by its name or its number, counted from 1.

        Raises:
            KeyError: there is none; the sentence says which there are.
        """
        text = wanted.strip()
        if text in self.names:
            if self.names.count(text) > 1:
                raise KeyError(f"{self.path} has several columns {text!r}; give its number, from 1")
            return text
        if text.isdecimal() and 1 <= int(text) <= len(self.names):
            name = self.names[int(text) - 1]
            # A name that stands twice is no way to find it again.
            return name if self.names.count(name) == 1 else text
        known = ", ".join(map(repr, self.names))
        raise KeyError(
            f"{self.path} has no column {text!r}; there is: {known}{suggestion(text, self.names)}"
        )

    def column(self, name: str) -> FloatArray:
        """Return a column [rows].

        Raises:
            ProgramError: a gap or a text among its numbers, with its line.
        """
        index = self.names.index(name) if name in self.names else int(name) - 1
        values = np.empty(len(self.cells))
        for i, (line, row) in enumerate(zip(self.lines, self.cells, strict=True)):
            value = parse_number(row[index])
            if math.isnan(value):
                what = f"holds {row[index][:40]!r}" if row[index] else "has a gap"
                raise ProgramError(
                    self.path, f"column {name!r} {what}; expected a number", line=line
                )
            values[i] = value
        return values

    def refuse(self, bad: NDArray[np.bool_], name: str, why: str) -> None:
        """Refuse the first row [rows] of a column that is bad."""
        if bad.any():
            row = int(np.argmax(bad))
            index = self.names.index(name) if name in self.names else int(name) - 1
            cell = self.cells[row][index]
            raise ProgramError(self.path, f"column {name!r}: {cell} {why}", line=self.lines[row])


def read_text_table(path: Path) -> TextTable:
    """Read a table: cells between tabs, semicolons, commas or blanks, whichever its first line has.

    Blank lines (also of separators alone) and lines that begin with `#`, `%` or `!` are left out. The
    first other line names the columns, unless it holds numbers only.

    Raises:
        ProgramError: it cannot be read, has fewer than 2 rows, or a row has another number of cells.
    """
    rows: list[tuple[int, tuple[str, ...]]] = []
    separator: str | None = None
    for line, text in enumerate(read_text(path, EXPECTED).splitlines(), start=1):
        if not text.strip("\t ;,") or text.lstrip().startswith(COMMENTS):
            continue
        if not rows:
            separator = next((mark for mark in _SEPARATORS if mark in text), None)
        cells = tuple(cell.strip().strip('"').strip() for cell in text.split(separator))
        rows.append((line, cells))
    if not rows:
        raise ProgramError(path, f"holds no numbers; expected {EXPECTED}")
    line, header = rows[0]
    if all(not math.isnan(parse_number(cell)) for cell in header):
        names = tuple(str(number) for number in range(1, len(header) + 1))
    else:
        names, rows = header, rows[1:]
    if len(rows) < 2:
        raise ProgramError(path, f"has {len(rows)} rows of numbers; expected at least 2", line=line)
    for line, cells in rows:
        if len(cells) != len(names):
            raise ProgramError(
                path, f"has {len(cells)} columns; expected {len(names)} as above it", line=line
            )
    return TextTable(
        path=path,
        names=names,
        lines=tuple(line for line, _ in rows),
        cells=tuple(cells for _, cells in rows),
    )
