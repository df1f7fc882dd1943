"""Training and evaluation.

`train(config)` trains and returns where the run is; `load_policy(run)` brings its policy back;
`evaluate(run_or_file)` judges it. torch is imported with the first of them that is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memrl_ctrl.training.evaluation import Evaluation, evaluate
    from memrl_ctrl.training.loop import RunResult, Snapshot, train
    from memrl_ctrl.training.runs import load_policy

__all__ = ["Evaluation", "RunResult", "Snapshot", "evaluate", "load_policy", "train"]

_HOME = {
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "RunResult": "loop",
    "Snapshot": "loop",
    "train": "loop",
    "load_policy": "runs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
