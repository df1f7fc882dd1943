"""Sweep files in Weights & Biases' YAML, as values of our own.

Read are `method`, `metric`, `parameters`, `early_terminate`, `run_cap` and `name`
(https://docs.wandb.ai/guides/sweeps/sweep-config-keys); what starts a program is left out, with a note.
Parameters have dotted keys of our configuration, or the names of `seed_names`. Beside them the file may
hold `base`, `trials`, `steps`, `minutes`, `seeds`, `evaluations` and `set` as in a file of our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from memrl_ctrl.config import ConfigError
from memrl_ctrl.config.checks import require
from memrl_ctrl.errors import UnknownNameError
from memrl_ctrl.training.logs import GROUPS
from memrl_ctrl.training.sweep import seed_names

METHODS = {"bayes": "tpe", "random": "random", "grid": "grid"}
GOALS = ("maximize", "minimize")
OURS = ("base", "trials", "steps", "minutes", "seeds", "evaluations", "set", "try_base")
LEFT_OUT = (
    "program",
    "command",
    "project",
    "entity",
    "description",
    "controller",
    "job",
    "image_uri",
)
READ = ("method", "metric", "parameters", "early_terminate", "run_cap", "name")
REAL = {
    "uniform": "uniform",
    "log_uniform_values": "log-uniform",
    "log_uniform": "log-uniform",
    "int_uniform": "integer",
    "q_uniform": "quantised",
    "q_log_uniform_values": "quantised",
    "q_log_uniform": "quantised",
}
"""Distributions with two ends, and ours."""
CHOICES = ("categorical", "constant")


def is_one(values: Mapping[str, Any]) -> bool:
    """Whether the values of a YAML file are a sweep of Weights & Biases."""
    return "method" in values or "program" in values or "early_terminate" in values


def translated(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return values of `SweepConfig`, and what was left out, in sentences.

    Raises:
        ConfigError: a key or distribution that is unknown or cannot be had here.
    """
    for key in values:
        if key not in (*READ, *LEFT_OUT, *OURS):
            raise ConfigError(str(UnknownNameError("key", str(key), (*READ, *LEFT_OUT, *OURS))))
    notes = [f"{key} is left out: memrl-ctrl itself trains" for key in LEFT_OUT if key in values]
    method = values.get("method", "bayes")
    if method not in METHODS:
        raise ConfigError(str(UnknownNameError("method", str(method), METHODS)))
    ours: dict[str, Any] = {key: values[key] for key in OURS if key in values}
    if "name" in values:
        ours["name"] = "-".join(str(values["name"]).split())
    if "run_cap" in values:
        ours.setdefault("trials", values["run_cap"])
    ours |= {"names": "ppo_lstm", "sampler": {"name": METHODS[method]}}
    ours["goal"] = _goal(values.get("metric"), method, notes)
    ours["pruner"] = _pruner(values.get("early_terminate"))
    fixed, varied = _parameters(values.get("parameters"), "")
    seeds = fixed.pop("seed", None) if "seed" in fixed else varied.pop("seed", None)
    if seeds is not None:
        choices = seeds.get("values") if isinstance(seeds, dict) else [seeds]
        require(choices is not None, "parameter 'seed' must be a value, or values to choose from")
        ours.setdefault("seeds", choices)
        notes.append(
            "seed is no parameter: each trial trains with each of them, and the mean counts"
        )
    if "base" not in ours and any("." not in name for name in (*fixed, *varied)):
        ours["base"] = seed_names.BASE
        notes.append(f"trials begin with {seed_names.BASE}; --base names another configuration")
    ours["set"] = {**fixed, **ours.get("set", {})}
    ours["parameters"] = varied
    return ours, notes


def _goal(metric: Any, method: str, notes: list[str]) -> dict[str, Any]:
    if metric is None and method != "bayes":
        return {}
    require(
        isinstance(metric, Mapping) and "name" in metric,
        "it has no metric; give metric: {name: evaluation_return, goal: maximize}",
    )
    others = [key for key in metric if key not in {"name", "goal"}]
    notes.extend(f"metric.{key} is left out: the best trial counts" for key in others)
    goal = metric.get("goal", "minimize")
    require(goal in GOALS, f"metric.goal {goal!r} is neither maximize nor minimize")
    return {"metric": _figure(str(metric["name"])), "direction": goal}


def _figure(name: str) -> str:
    """Return the name that a figure has in metrics.jsonl."""
    if name in seed_names.METRICS:
        return seed_names.METRICS[name]
    group, slash, rest = name.partition("/")
    if not slash:
        return name
    if group == "learning_rates":
        return rest if rest == "lr" else f"{rest}_lr"
    # What is logged as evaluation/return is evaluation_return, train/return is return.
    prefixed = f"{group}_{rest}"
    return prefixed if any(prefixed.startswith(start) for start in GROUPS) else rest


def _pruner(early: Any) -> dict[str, Any]:
    """Return the pruner of `early_terminate`; without one trials are not ended early, as there."""
    if early is None:
        return {"name": "none"}
    kind = early.get("type") if isinstance(early, Mapping) else early
    require(kind == "hyperband", f"early_terminate {kind!r} is unknown; there is: hyperband")
    eta = early.get("eta", 3)
    whole = isinstance(eta, int | float) and not isinstance(eta, bool) and float(eta).is_integer()
    require(whole and eta >= 2, f"early_terminate.eta {eta!r} is no integer of 2 or more")
    pruner = {"name": "hyperband", "reduction": int(eta)}
    first = early.get("min_iter", 1)
    if "max_iter" in early and "s" in early:
        first = early["max_iter"] / eta ** early["s"]
    # Their iterations are the evaluations of a training.
    return {**pruner, "first_evaluation": max(1, math.ceil(first))}


def _parameters(given: Any, above: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is fixed and what is varied, nested parameters by their dotted keys."""
    require(isinstance(given, Mapping), f"{above}parameters must be a group of names")
    fixed: dict[str, Any] = {}
    varied: dict[str, Any] = {}
    for key, value in given.items():
        name = f"{above}{key}"
        require(isinstance(value, Mapping), f"parameter {name!r} is {value!r}, no group of keys")
        if "parameters" in value:
            inner = _parameters(value["parameters"], f"{name}.")
            fixed, varied = fixed | inner[0], varied | inner[1]
        elif "value" in value:
            fixed[name] = value["value"]
        elif len(value.get("values", ())) == 1:
            fixed[name] = value["values"][0]
        else:
            varied[name] = _parameter(name, value)
    return fixed, varied


def _parameter(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return one of our distributions for one of theirs."""
    at = f"parameter {name!r}"
    require("probabilities" not in value, f"{at}: choices with probabilities are not supported")
    kind = value.get("distribution")
    if kind is None:
        if "values" not in value:
            require({"min", "max"} <= set(value), f"{at} needs values, value, or min and max")
        ends = [value.get("min"), value.get("max")]
        whole = all(isinstance(end, int) for end in ends)
        kind = "categorical" if "values" in value else "int_uniform" if whole else "uniform"
    if kind in CHOICES:
        return {"distribution": "choice", "values": value.get("values")}
    if kind not in REAL:
        raise ConfigError(
            f"{at}: distribution {kind!r} is not supported; there is: {', '.join((*CHOICES, *REAL))}"
        )
    for key in ("min", "max"):
        number = isinstance(value.get(key), int | float)
        require(number, f"{at}: {kind} needs {key}, a number")
    low, high = float(value["min"]), float(value["max"])
    if kind in {"log_uniform", "q_log_uniform"}:
        # There the ends are exponents of e.
        low, high = math.exp(low), math.exp(high)
    ours: dict[str, Any] = {"distribution": REAL[kind], "min": low, "max": high}
    if REAL[kind] == "quantised":
        ours |= {"step": value.get("q", 1), "log": "log" in kind}
    return ours
