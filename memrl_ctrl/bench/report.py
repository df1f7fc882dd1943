"""What every benchmark leaves behind: a printed table, and the same as JSON with the machine."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memrl_ctrl.installed import library_versions, processor
from memrl_ctrl.outputs import STDOUT, write_json
from memrl_ctrl.terminal import Terminal

PACKAGES = ("memrl-ctrl", "numpy", "scipy", "numba", "blond", "torch", "onnxruntime", "pyzmq")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, operating system, Python and the packages that decide a speed."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": processor()[0],
        "cores": usable,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": library_versions(PACKAGES),
    }


def publish(
    *,
    name: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, float],
    json_path: Path | None = None,
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Print a benchmark's table and write its JSON.

    Args:
        name: the benchmark's name, as `memrl-ctrl bench` takes it.
        columns: headings of the table, which are the keys of its rows.
        rows: what was measured, one mapping a row.
        figures: flat object of numbers, explained in `docs/benchmarks/README.md`.
        json_path: file to write, `-` for standard output, or None.
        notes: sentences printed under the table.
        console: where to print; standard output if None, or standard error where the JSON goes there.

    Returns:
        What was written: name, time, machine, rows, figures, notes.

    Raises:
        FileError: the file cannot be written.
    """
    console = console or Terminal(stderr=str(json_path) == STDOUT)
    machine = describe_machine()
    table = Table(
        title=f"bench {name}: {machine['cpu']}, {machine['cores']} cores", title_justify="left"
    )
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 else "right")
    for row in rows:
        table.add_row(*(_text(row.get(column, "")) for column in columns))
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)
    result = {
        "benchmark": name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "rows": [dict(row) for row in rows],
        # JSON knows no number that is none: what could not be measured is null.
        "figures": {key: value if math.isfinite(value) else None for key, value in figures.items()},
        "notes": list(notes),
    }
    if json_path is not None:
        write_json(json_path, result)
        console.print(f"written: {json_path}", highlight=False)
    return result


def as_markdown(rows: Sequence[Mapping[str, Any]], notes: Sequence[str], group: str) -> str:
    """Return the rows as Markdown: a table for each value of the column `group`, then the notes."""
    tables = []
    for value in dict.fromkeys(row[group] for row in rows):
        some = [row for row in rows if row[group] == value]
        columns = [name for name in some[0] if name != group]
        lines = [
            f"### {value}\n",
            "| " + " | ".join(columns) + " |",
            "|" + "---|" * len(columns),
            *("| " + " | ".join(_text(row[name]) for name in columns) + " |" for row in some),
        ]
        tables.append("\n".join(lines))
    said = "\n".join(f"- {note}" for note in notes)
    return "\n\n".join([*tables, said]) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100.0 else f"{value:.4g}"
    return str(value)
