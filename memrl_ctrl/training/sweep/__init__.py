"""Sweeps: trying many settings of a training, and saying which are best (extra `sweep`).

`read_sweep(name)` reads and checks a sweep file, `run_sweep(sweep, folder)` runs what is left of it,
`write_report(make_report(sweep, folder))` says what was found. Optuna is imported with the first of them
that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memrl_ctrl.training.sweep.reading import Sweep, read_sweep, shipped_sweeps
    from memrl_ctrl.training.sweep.report import make_report, write_report
    from memrl_ctrl.training.sweep.running import run_sweep

__all__ = [
    "Sweep",
    "make_report",
    "read_sweep",
    "run_sweep",
    "shipped_sweeps",
    "write_report",
]

_HOME = {
    "Sweep": "reading",
    "read_sweep": "reading",
    "shipped_sweeps": "reading",
    "make_report": "report",
    "write_report": "report",
    "run_sweep": "running",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
