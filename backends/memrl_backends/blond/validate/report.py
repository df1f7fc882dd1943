"""The table of a validation, its verdict, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from memrl_backends.blond.validate.comparison import Comparison
from memrl_ctrl.bench.report import describe_machine


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of one check, over all its conditions."""

    check: str
    """Key of the check."""
    title: str
    """What was compared."""
    conditions: int
    """At how many conditions."""
    figure: str
    """The figure, with its unit."""
    median: float
    """Median over the conditions."""
    worst: float
    """Largest over the conditions; NaN where one has no value."""
    tolerance: float
    """What is allowed."""

    @property
    def passed(self) -> bool:
        """Whether the worst is within the tolerance."""
        return bool(self.worst <= self.tolerance)


def rows(titles: dict[str, str], done: Sequence[Comparison]) -> list[Row]:
    """The table's rows: each check's figures over the comparisons that were made."""
    result = []
    for check, title in titles.items():
        own = [c for c in done if c.check == check]
        if not own:
            continue
        for k, figure in enumerate(own[0].figures):
            values = np.array([c.figures[k].value for c in own])
            result.append(
                Row(
                    check=check,
                    title=title,
                    conditions=len(own),
                    figure=figure.name,
                    median=float(np.median(values)),
                    worst=float(np.max(values)),
                    tolerance=figure.tolerance,
                )
            )
    return result


def print_table(console: Console, table_rows: Sequence[Row], title: str) -> None:
    """Print the rows with their verdicts."""
    table = Table(title=title, title_justify="left")
    for k, column in enumerate(
        ("compared with", "conditions", "figure", "median", "worst", "allowed", "verdict")
    ):
        table.add_column(column, justify="right" if k in (1, 3, 4, 5) else "left")
    previous = ""
    for row in table_rows:
        first = row.check != previous
        if first and previous:
            table.add_section()
        previous = row.check
        table.add_row(
            row.title if first else "",
            str(row.conditions) if first else "",
            row.figure,
            f"{row.median:.3f}",
            f"{row.worst:.3f}",
            f"{row.tolerance:g}",
            "[green]passed[/green]" if row.passed else "[bold red]FAILED[/bold red]",
        )
    console.print(table)


def failures(done: Sequence[Comparison]) -> list[str]:
    """One sentence for each condition that is outside a tolerance."""
    sentences = []
    for comparison in done:
        wrong = [
            f"{f.name} {f.value:.3g} (allowed {f.tolerance:g})"
            for f in comparison.figures
            if not f.passed
        ]
        if wrong:
            sentences.append(f"{comparison.check}, {comparison.what}: {'; '.join(wrong)}")
    return sentences


def as_json(
    *,
    ring: str,
    seed: int,
    quick: bool,
    planned: int,
    seconds: float,
    table_rows: Sequence[Row],
    done: Sequence[Comparison],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Everything that was found, with versions and machine. Numbers that do not exist are null."""
    complete = len(done) == planned
    return {
        "validation": ring,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "seed": seed,
        "quick": quick,
        "complete": complete,
        "passed": complete and all(row.passed for row in table_rows),
        "seconds": round(seconds, 1),
        "rows": [
            {
                "check": row.check,
                "title": row.title,
                "conditions": row.conditions,
                "figure": row.figure,
                "median": _number(row.median),
                "worst": _number(row.worst),
                "tolerance": row.tolerance,
                "passed": row.passed,
            }
            for row in table_rows
        ],
        "comparisons": [
            {
                "check": comparison.check,
                "condition": dict(comparison.condition),
                "passed": comparison.passed,
                "figures": {f.name: _number(f.value) for f in comparison.figures},
            }
            for comparison in done
        ],
        "notes": list(notes),
    }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
