"""The study of a sweep: Optuna's data base of trials, its samplers and pruners.

One process asks for trials and tells how they ended. A trial that is `RUNNING` when a study is opened was
cut off with its sweep: it goes on.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy.exc
from optuna.trial import FrozenTrial, TrialState

from memrl_ctrl.config import ConfigError, from_dict
from memrl_ctrl.errors import FileError, UnknownNameError, UsageError
from memrl_ctrl.training.sweep.parameters import Drawn, Parameter
from memrl_ctrl.training.sweep.reading import Sweep, comparable

Direction = Literal["maximize", "minimize"]
DATABASE = "study.db"
BUSY_S = 60
"""How long a locked SQLite data base is waited for, s."""
IDENTITY, SECONDS = "identity", "seconds"
"""Attributes of a study: what must not change, and the wall time it took so far, s."""
RETRY_OF, REASON, FIGURES = "retry_of", "reason", "figures"
"""Attributes of a trial: number of the failed one that it repeats, why it failed, figure of each seed."""
DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError, ValueError)


def sqlite_url(folder: Path) -> str:
    """Return the address of a sweep folder's own data base."""
    return f"sqlite:///{(folder / DATABASE).resolve()}"


def open_study(sweep: Sweep, url: str) -> optuna.Study:
    """Open the study of a sweep, or begin it.

    Raises:
        UsageError: it was begun with another search space; says what changed.
        FileError: the data base cannot be opened.
    """
    study = load_study(sweep.config.name, url, direction=sweep.config.goal.direction)
    identity = sweep.identity()
    before = study.user_attrs.get(IDENTITY)
    if before is None:
        study.set_user_attr(IDENTITY, identity)
    elif changed := differences(_of_today(before), json.loads(json.dumps(identity))):
        raise UsageError(
            f"sweep {sweep.config.name!r} was begun with another search space: {'; '.join(changed)}; "
            "its trials cannot be compared with new ones: give another --out, or the sweep folder in "
            "place of the file to go on as it was begun"
        )
    trials = study.get_trials(deepcopy=False)
    study.sampler = _sampler(sweep, len(trials))
    study.pruner = _pruner(sweep)
    return study


def _of_today(identity: dict[str, Any]) -> dict[str, Any]:
    """Return what a sweep was begun with, settings that there were not then with their defaults."""
    try:
        base = comparable(from_dict(identity["base"]))
    except (KeyError, ConfigError, UnknownNameError):
        return identity  # what is not understood any more is named as a difference
    return {**identity, "base": json.loads(json.dumps(base))}


def load_study(name: str, url: str, *, direction: Direction | None = None) -> optuna.Study:
    """Open a study by its name; begin it where a direction says so.

    Raises:
        FileError: the data base cannot be opened, or has no such study.
    """
    arguments = {"connect_args": {"timeout": BUSY_S}} if url.startswith("sqlite") else {}
    try:
        with quiet():
            storage = optuna.storages.RDBStorage(url, engine_kwargs=arguments)
            if direction is None:
                return optuna.load_study(study_name=name, storage=storage)
            return optuna.create_study(
                study_name=name, storage=storage, direction=direction, load_if_exists=True
            )
    except KeyError as error:
        raise FileError(_shown(url), f"holds no sweep {name!r}") from error
    except DATABASE_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise FileError(
            _shown(url), f"cannot be opened as a sweep's data base: {reason}"
        ) from error


def _shown(url: str) -> str:
    """Return an address without a password."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}…@{rest.rpartition('@')[2]}" if "@" in rest else rest.lstrip("/") or url


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from saying what the command says itself."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def differences(before: Any, after: Any, at: str = "") -> list[str]:
    """Return in words what differs between nested plain values."""
    if isinstance(before, dict) and isinstance(after, dict) and "distribution" not in before:
        found = []
        for key in dict.fromkeys((*before, *after)):
            # Groups of a sweep's identity are no part of the names that people know.
            here = f"{at}.{key}" if at else ("" if key in {"base", "parameters"} else str(key))
            if key not in after:
                found.append(f"{here or key} is gone")
            elif key not in before:
                found.append(f"{here or key} is new")
            else:
                found += differences(before[key], after[key], here)
        return found
    if before == after:
        return []
    return [f"{at} was {_words(at, before)}, now {_words(at, after)}"]


def _words(name: str, value: Any) -> str:
    if isinstance(value, dict) and "distribution" in value:
        from memrl_ctrl.training.sweep.parameters import parameter_of

        return parameter_of(name, value).words()
    return json.dumps(value)


def _sampler(sweep: Sweep, count: int) -> optuna.samplers.BaseSampler:
    """Return a sampler that goes on where `count` trials were drawn, not with the first ones again."""
    config = sweep.config.sampler
    seed = (config.seed + 7919 * count) % 2**31
    if config.name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=config.startup_trials)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    config, every = sweep.config.pruner, sweep.milestones
    if config.name == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=config.startup_trials,
            n_warmup_steps=config.warmup_evaluations * every,
        )
    if config.name == "hyperband":
        first = config.first_evaluation * every
        whole = sweep.base.steps * len(sweep.config.seed_numbers)
        return optuna.pruners.HyperbandPruner(
            min_resource=first,
            max_resource=max(first, whole),
            reduction_factor=config.reduction,
        )
    return optuna.pruners.NopPruner()


class Trials:
    """The trials of a study, as a sweep asks for them.

    Args:
        sweep: what is varied.
        study: its study.
    """

    def __init__(self, sweep: Sweep, study: optuna.Study) -> None:
        self.sweep, self.study = sweep, study
        self.distributions = {one.name: one.as_optuna() for one in sweep.parameters}
        self.cut_off = [trial.number for trial in self.all() if trial.state == TrialState.RUNNING]

    def all(self) -> list[FrozenTrial]:
        """Return all trials, in their order."""
        return self.study.get_trials(deepcopy=False)

    def budget(self) -> int:
        """Return how many trials there can be in all."""
        if self.sweep.config.sampler.name != "grid":
            return self.sweep.config.trials
        size = 1
        for one in self.sweep.parameters:
            size *= len(one.grid())
        return min(size, self.sweep.config.trials)

    def counted(self) -> list[FrozenTrial]:
        """Return the trials that count in the budget: not those that were tried again."""
        repeated = {trial.user_attrs.get(RETRY_OF) for trial in self.all()}
        return [trial for trial in self.all() if trial.number not in repeated]

    def next(self) -> optuna.Trial | None:
        """Return a trial to begin, or to go on with; None where the budget is spent."""
        with quiet():
            if self.cut_off:
                frozen = self.all()[self.cut_off.pop(0)]
                return optuna.Trial(self.study, frozen._trial_id)
            waiting = [trial for trial in self.all() if trial.state == TrialState.WAITING]
            if not waiting and len(self.counted()) >= self.budget():
                return None
            if not waiting:
                self._enqueue_next()
            return self.study.ask(fixed_distributions=self.distributions)

    def _enqueue_next(self) -> None:
        """Say what the next trial draws, where it is not the sampler's to say."""
        if self.sweep.config.sampler.name == "grid":
            self.study.enqueue_trial(self._next_of_grid())
        elif not self.all() and (first := self.sweep.tried_first()) is not None:
            self.study.enqueue_trial(first)

    def _next_of_grid(self) -> dict[str, Drawn]:
        """Return the first combination that no trial has drawn."""
        parameters = self.sweep.parameters
        seen = {_key(trial.params, parameters) for trial in self.all()}
        for values in itertools.product(*(one.grid() for one in parameters)):
            drawn = dict(zip((one.name for one in parameters), values, strict=True))
            if _key(drawn, parameters) not in seen:
                return drawn
        raise RuntimeError("the grid has fewer combinations than its budget")

    def retry_failed(self) -> int:
        """Have failed trials tried again; return how many."""
        failed = [trial for trial in self.counted() if trial.state == TrialState.FAIL]
        for trial in failed:
            self.study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})
        return len(failed)

    def best(self) -> FrozenTrial | None:
        """Return the best trial that is complete."""
        done = [trial for trial in self.all() if trial.state == TrialState.COMPLETE]
        sign = 1.0 if self.sweep.config.goal.direction == "maximize" else -1.0
        return max(done, key=lambda trial: sign * float(trial.value or 0.0), default=None)


def _key(drawn: Mapping[str, Any], parameters: Sequence[Parameter]) -> tuple[str, ...]:
    return tuple(json.dumps(drawn.get(one.name)) for one in parameters)
