"""What every benchmark leaves behind: a printed table, and the same as JSON with the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memrl_ctrl.errors import FileError

PACKAGES = ("memrl-ctrl", "numpy", "scipy", "numba", "blond", "torch", "onnxruntime", "pyzmq")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, operating system, Python and the packages that decide a speed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _processor(),
        "cores": usable,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


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
        json_path: file to write, or None.
        notes: sentences printed under the table.
        console: where to print; standard output if None.

    Returns:
        What was written: name, time, machine, rows, figures, notes.

    Raises:
        FileError: the file cannot be written.
    """
    console = console or Console()
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
        "figures": dict(figures),
        "notes": list(notes),
    }
    if json_path is not None:
        try:
            json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise FileError(json_path, f"cannot be written: {error.strerror}") from error
        console.print(f"written: {json_path}", highlight=False)
    return result


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100.0 else f"{value:.4g}"
    return str(value)
