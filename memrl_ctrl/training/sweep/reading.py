"""Reading a sweep: from a shipped name, a YAML file of ours or of Weights & Biases, or a sweep folder.

Everything that can be found out before a trial is: unknown keys, values that the configuration's schema
refuses, environments that cannot be made.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from memrl_ctrl.config import (
    ConfigError,
    TrainingConfig,
    checked,
    from_dict,
    read_override,
    read_yaml,
    resolve,
    to_dict,
)
from memrl_ctrl.errors import FileError, UnknownNameError
from memrl_ctrl.training.sweep import seed_names, wandb_file
from memrl_ctrl.training.sweep.parameters import Drawn, Parameter, parameter_of
from memrl_ctrl.training.sweep.schema import SweepConfig

FILE, BASE = "sweep.yaml", "base.yaml"
"""Names of the files of a sweep folder that say what it is."""
NOT_VARIED = {
    "steps": "trials are compared at the same steps",
    "total_steps": "trials are compared at the same steps",
    "minutes": "trials are compared at the same steps; the sweep's own `minutes` limits it",
    "seed": "give `seeds`; a trial's figure is the mean over them",
    "name": "trials are numbered",
    "device": "give --devices",
}
"""Keys that are no parameters, and what to do instead."""
BESIDE = ("name", "seed", "device", "logging")
"""Keys of a base that may change while a sweep goes on."""
SHORT = ("sampler", "pruner")
"""Groups of which the name alone may be given."""
TRIES = 50
"""Combinations that are tried before a value is refused."""
MOST_ENVIRONMENTS = 12
"""Environments that are made to see whether they can be."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep that has been read and checked."""

    config: SweepConfig
    """What its file holds."""
    base: TrainingConfig
    """What trials begin with, `set` and the budget of a training included."""
    parameters: tuple[Parameter, ...]
    """What is varied."""
    notes: tuple[str, ...] = ()
    """What of the file is left out, in sentences."""

    @property
    def milestones(self) -> int:
        """Environment steps between the evaluations that trials are compared by."""
        return self.base.evaluation.every_steps or self.base.steps

    def settings(self, drawn: Mapping[str, Drawn]) -> dict[str, Any]:
        """Return the settings that drawn values stand for, by the parameters' names."""
        return {one.name: one.value(drawn[one.name]) for one in self.parameters}

    def configuration(self, settings: Mapping[str, Any]) -> TrainingConfig:
        """Return the configuration of a trial.

        Args:
            settings: a value for each parameter, by its name.

        Raises:
            ConfigError: this combination cannot be trained.
        """
        return _changed(self.base, self._keys(settings))

    def _keys(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        if self.config.names == "memrl-ctrl":
            return {key: settings[one.name] for one in self.parameters for key in one.keys}
        keys = seed_names.translated({**self.config.set, **settings}, self.base)
        # Those that are fixed are in the base, and may have been changed there.
        varied = set(seed_names.translated(settings, self.base)) | {"agent.minibatches"}
        return {key: value for key, value in keys.items() if key in varied}

    def tried_first(self) -> dict[str, Drawn] | None:
        """Return what would have to be drawn for the base itself; None where it cannot be."""
        if self.config.names != "memrl-ctrl" or not self.config.try_base:
            return None
        values, found = to_dict(self.base), {}
        try:
            for one in self.parameters:
                first, *others = (_get(values, key) for key in one.keys)
                if any(other != first for other in others):
                    return None
                found[one.name] = one.drawn_from(first)
        except (KeyError, ValueError):
            return None
        return found

    def identity(self) -> dict[str, Any]:
        """Return what must not change while a sweep goes on, as plain values."""
        return {
            "parameters": {one.name: one.as_plain() for one in self.parameters},
            "goal": to_dict(self.config.goal),
            "seeds": list(self.config.seed_numbers),
            "base": comparable(self.base),
        }


def comparable(base: TrainingConfig) -> dict[str, Any]:
    """Return what of a configuration counts when trials are compared, as plain values: not what a run
    writes, nor where it computes."""
    values = to_dict(base)
    return {key: value for key, value in values.items() if key not in BESIDE}


def shipped_sweeps() -> list[str]:
    """Names of the shipped sweep files."""
    folder = files("memrl_ctrl") / "training" / "sweeps"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def read_sweep(
    name_or_file: str | Path,
    *,
    base: str | None = None,
    overrides: Iterable[str] = (),
    **changes: Any,
) -> Sweep:
    """Read a sweep and check it.

    Args:
        name_or_file: a name of `shipped_sweeps()`, a YAML file, or the folder of a sweep.
        base: configuration to begin with, instead of the file's.
        overrides: `key.sub=value` for the base, as `memrl-ctrl train --set` takes them.
        changes: fields of `SweepConfig` that replace the file's; those that are None do not.

    Raises:
        UnknownNameError: no such sweep, configuration, parameter or distribution.
        FileError: a file cannot be read.
        ConfigError: a value that cannot be meant, or that the configuration's schema refuses.
    """
    path = _place(name_or_file)
    values, notes = _values_of(path, base)
    values |= {key: value for key, value in changes.items() if value is not None}
    try:
        config = checked(values, SweepConfig, "a sweep")
        sweep = _resolved(config, dict(read_override(text) for text in overrides))
    except (ConfigError, UnknownNameError) as error:
        raise ConfigError(f"{path.name}: {error}") from error
    return replace(sweep, notes=(*notes, *sweep.notes))


def _place(name_or_file: str | Path) -> Path:
    """Return the file of a sweep."""
    path = Path(name_or_file)
    if (path / FILE).is_file():
        return path / FILE
    if path.is_dir():
        raise FileError(path, f"is no sweep folder: it holds no {FILE}")
    if isinstance(name_or_file, Path) or path.suffix in {".yaml", ".yml"} or path.parent.name:
        return path
    if str(name_or_file) not in shipped_sweeps():
        raise UnknownNameError("sweep", str(name_or_file), shipped_sweeps())
    return Path(str(files("memrl_ctrl") / "training" / "sweeps" / f"{name_or_file}.yaml"))


def _values_of(path: Path, base: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return a file as values of `SweepConfig`, and what of it was left out."""
    values = read_yaml(path, "a sweep")
    notes: list[str] = []
    if base is not None:
        values["base"] = base
    if wandb_file.is_one(values):
        try:
            values, notes = wandb_file.translated(values)
        except ConfigError as error:
            raise ConfigError(f"{path.name}: {error}") from error
    for group in SHORT:
        if isinstance(values.get(group), str):
            values[group] = {"name": values[group]}
    if "name" not in values:
        stem = path.stem if path.name != FILE else path.resolve().parent.name
        values["name"] = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "sweep"
    if base is None and (path.parent / str(values.get("base", ""))).is_file():
        values["base"] = str(path.parent / str(values["base"]))
    return values, notes


def _resolved(config: SweepConfig, overrides: Mapping[str, Any]) -> Sweep:
    """Return the sweep of a file, checked against the configuration's schema."""
    if not config.base:
        raise ConfigError(
            "it names no configuration to begin with; give --base NAME, or `base: NAME` in the file"
        )
    base = resolve(config.base)
    parameters = tuple(parameter_of(str(key), value) for key, value in config.parameters.items())
    notes: list[str] = []
    fixed = dict(config.set)
    if config.names == "ppo_lstm":
        varied = {one.name: len(one.extremes()) > 1 for one in parameters}
        notes += seed_names.check_names({**dict.fromkeys(fixed, False), **varied})
        fixed = seed_names.translated(fixed, base)
        parameters = tuple(
            one for one in parameters if one.name not in seed_names.WITHOUT_COUNTERPART
        )
    fixed |= overrides
    keys = [key for one in parameters for key in one.keys]
    for key in keys:
        if key in fixed or key in config.set:
            raise ConfigError(f"{key} is set and varied; take it out of one of both")
        if key in NOT_VARIED:
            raise ConfigError(f"{key} cannot be varied: {NOT_VARIED[key]}")
        if keys.count(key) > 1:
            raise ConfigError(f"{key} is varied by two parameters; once is enough")
    base = _with_budget(_changed(base, fixed), config, fixed)
    sweep = Sweep(config=config, base=base, parameters=parameters, notes=tuple(notes))
    _check_parameters(sweep)
    return sweep


def _with_budget(
    base: TrainingConfig, config: SweepConfig, fixed: Mapping[str, Any]
) -> TrainingConfig:
    """Return the base with the budget and the evaluations of a training."""
    if base.minutes and not config.steps and "steps" not in fixed:
        raise ConfigError(
            f"{base.name} trains for {base.minutes:g} minutes, which are worth different steps from "
            "trial to trial; give `steps`"
        )
    steps = config.steps or base.steps
    evaluation = base.evaluation
    if "evaluation.stop_at_return" not in fixed:
        # Trials are compared at the same steps.
        evaluation = replace(evaluation, stop_at_return=None)
    if "evaluation.every_steps" not in fixed:
        evaluation = replace(evaluation, every_steps=max(1, -(-steps // config.evaluations)))
    return replace(base, steps=steps, minutes=0.0, evaluation=evaluation)


def _changed(base: TrainingConfig, keys: Mapping[str, Any]) -> TrainingConfig:
    """Return a configuration with settings by dotted key replaced."""
    values = copy.deepcopy(to_dict(base))
    for key, value in keys.items():
        *groups, last = key.split(".")
        target = values
        for depth, group in enumerate(groups):
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                name = ".".join(groups[: depth + 1])
                raise ConfigError(f"{key}: {name} is a value, not a group of keys")
        target[last] = value
    return from_dict(values)


def _get(values: Mapping[str, Any], key: str) -> Any:
    found: Any = values
    for part in key.split("."):
        found = found[part]
    return found


def _check_parameters(sweep: Sweep) -> None:
    """Refuse values that no combination can be trained with.

    Raises:
        ConfigError: names parameter and value, and what the configuration says to it.
    """
    generator = np.random.default_rng(0)
    middle = {one.name: one.extremes()[0] for one in sweep.parameters}
    for one in sweep.parameters:
        for value in one.extremes():
            problem: ConfigError | UnknownNameError | None = None
            for attempt in range(TRIES):
                others = middle if attempt == 0 else _random(sweep, generator)
                try:
                    sweep.configuration({**others, one.name: value})
                except (ConfigError, UnknownNameError) as error:
                    problem = problem or error
                else:
                    break
            else:
                raise ConfigError(f"parameter {one.name!r} cannot be {value!r}: {problem}")


def _random(sweep: Sweep, generator: np.random.Generator) -> dict[str, Any]:
    return {one.name: one.random(generator) for one in sweep.parameters}


def check_environments(sweep: Sweep) -> None:
    """Make the environments of a sweep once, those that differ, so that no trial has to fail for it.

    Raises:
        UsageError: one cannot be made with its options.
        UnknownNameError: there is no such environment.
        MissingExtraError: it needs a library that is not installed.
    """
    from memrl_ctrl.training.environments import make_environment

    first = {one.name: one.extremes()[0] for one in sweep.parameters}
    settings = [first] + [
        {**first, one.name: value} for one in sweep.parameters for value in one.extremes()
    ]
    seen: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for each in settings:
        try:
            environment = sweep.configuration(each).environment
        except ConfigError:
            continue  # possible only together with other values
        seen.setdefault(
            f"{environment.id} {environment.options}", (environment.id, environment.options)
        )
    for name, options in itertools.islice(seen.values(), MOST_ENVIRONMENTS):
        make_environment(name, 1, options).close()


def as_file(sweep: Sweep) -> str:
    """Return a sweep as the YAML of a sweep folder, whose base stands in a file beside it."""
    values = to_dict(sweep.config)
    values |= {"base": BASE, "steps": sweep.base.steps}
    values["parameters"] = {one.name: one.as_plain() for one in sweep.parameters}
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)
    return str(text)


def check_goal(sweep: Sweep, known: Iterable[str]) -> None:
    """Refuse a goal that the runs have no figure of.

    Args:
        sweep: the sweep.
        known: names of the figures that a run has.

    Raises:
        UnknownNameError: says which there are.
    """
    names = {*known} - {"steps"}
    if sweep.config.goal.metric not in names:
        raise UnknownNameError("figure", sweep.config.goal.metric, names)
