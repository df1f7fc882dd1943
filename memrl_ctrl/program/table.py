"""CSV files with a header of column names that carry their units."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.errors import ProgramError
from memrl_ctrl.program.document import parse_number, read_text, suggestion

FloatArray = NDArray[np.float64]
TIME = "ctime_ms"
UNIT_WORDS = {
    "ms": "ms", "s": "seconds", "t": "tesla", "gauss": "gauss", "g": "gauss", "v": "volt",
    "kv": "kilovolt", "deg": "degrees", "rad": "radians", "hz": "hertz", "ohm": "ohm",
}  # fmt: skip
"""Last part of a column's name: the unit in words."""


def csv_rows(path: Path, expected: str) -> list[tuple[int, list[str]]]:
    """Return the lines of a CSV file that are not blank: number and stripped cells.

    Raises:
        ProgramError: it cannot be read or is no CSV.
    """
    reader = csv.reader(io.StringIO(read_text(path, expected)), strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise ProgramError(
            path, f"no valid CSV ({error}); expected {expected}", line=reader.line_num
        ) from error
    return [(line, cells) for line, cells in rows if any(cells)]


def read_columns(
    path: Path, wanted: Sequence[str], allowed: Sequence[str], *, increasing: str
) -> dict[str, FloatArray]:
    """Read columns of numbers.

    Lines that begin with `#` are comments; the first other line names the columns.

    Args:
        path: the file.
        wanted: columns that must be there.
        allowed: all columns that may be there.
        increasing: the column whose values must increase from row to row.

    Returns:
        The wanted columns by name [rows], at least 2 rows.

    Raises:
        ProgramError: with the line and what was expected.
    """
    expected = f"a header line {','.join(wanted)} and rows of numbers"
    rows = [row for row in csv_rows(path, expected) if not row[1][0].startswith("#")]
    if not rows:
        raise ProgramError(path, f"holds only comments; expected {expected}")
    line, header = rows[0]
    names = _header(path, line, header, wanted, allowed)
    body = rows[1:]
    if len(body) < 2:
        raise ProgramError(path, f"has {len(body)} rows of numbers; expected at least 2", line=line)
    values = np.empty((len(body), len(names)))
    for i, (line, cells) in enumerate(body):
        if len(cells) != len(names):
            raise ProgramError(
                path,
                f"has {len(cells)} columns; expected {len(names)}: {','.join(names)}",
                line=line,
            )
        for j, cell in enumerate(cells):
            values[i, j] = number(path, line, names[j], cell)
    lines = [line for line, _ in body]
    check_increasing(path, lines, values[:, names.index(increasing)], increasing)
    return {name: values[:, names.index(name)].copy() for name in wanted}


def number(path: Path, line: int, column: str, cell: str) -> float:
    """Return a cell as a finite number, or say where it is not one."""
    value = parse_number(cell)
    if math.isnan(value):
        what = repr(cell.strip()[:40]) if cell.strip() else "an empty cell"
        raise ProgramError(path, f"column {column} holds {what}; expected a number", line=line)
    return value


def check_increasing(path: Path, lines: Sequence[int], values: FloatArray, column: str) -> None:
    """Refuse values that do not increase from row to row; `lines` are their lines in the file."""
    falls = np.flatnonzero(np.diff(values) <= 0)
    if falls.size:
        i = int(falls[0])
        raise ProgramError(
            path,
            f"{column} goes from {values[i]:g} to {values[i + 1]:g}; it must increase",
            line=lines[i + 1],
        )


def format_columns(columns: Mapping[str, FloatArray]) -> str:
    """Return columns as CSV text; every number reads back bit for bit."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(repr, row)) for row in rows)]) + "\n"


def _header(
    path: Path, line: int, names: list[str], wanted: Sequence[str], allowed: Sequence[str]
) -> list[str]:
    expected = f"expected the columns {','.join(wanted)}"
    if not any(math.isnan(parse_number(name)) for name in names):
        raise ProgramError(path, f"begins with numbers; {expected} named first", line=line)
    for name in names:
        if name not in allowed:
            hint = _unit_hint(name, allowed) or suggestion(name, allowed)
            raise ProgramError(
                path, f"column {name[:40]!r} is not known; {expected}{hint}", line=line
            )
        if names.count(name) > 1:
            raise ProgramError(path, f"column {name} stands twice; {expected}", line=line)
    for name in wanted:
        if name not in names:
            raise ProgramError(path, f"column {name} is missing; {expected}", line=line)
    return names


def _unit_hint(name: str, allowed: Sequence[str]) -> str:
    quantity, _, unit = name.rpartition("_")
    for known in allowed:
        stem, _, right = known.rpartition("_")
        if quantity == stem and unit in UNIT_WORDS:
            return (
                f"; its unit is wrong: convert {UNIT_WORDS[unit]} to {UNIT_WORDS[right]} ({known})"
            )
    return ""
