"""Parameters of a sweep: what may be drawn for each, and how a drawn value becomes a setting.

| distribution | keys | what is drawn |
|---|---|---|
| `choice` | `values` | one of them; any YAML, lists of layer sizes too |
| `uniform` | `min`, `max` | a real number |
| `log-uniform` | `min`, `max` | a real number whose logarithm is uniform |
| `integer` | `min`, `max`, `step` (1), `log` | an integer |
| `quantised` | `min`, `max`, `step`, `log` | a multiple of the step, counted from 0 |

A plain list is short for a choice of its items. A name may be several keys with commas, which then all
have the value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from memrl_ctrl.config import ConfigError
from memrl_ctrl.config.checks import require
from memrl_ctrl.errors import UnknownNameError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Distribution = Literal["choice", "uniform", "log-uniform", "integer", "quantised"]
KEYS: dict[str, tuple[str, ...]] = {
    "choice": ("values",),
    "uniform": ("min", "max"),
    "log-uniform": ("min", "max"),
    "integer": ("min", "max", "step", "log"),
    "quantised": ("min", "max", "step", "log"),
}
"""Keys that each distribution has beside `distribution`."""
MOST_GRID_VALUES = 10_000
"""Values of a parameter in a grid that are taken for meant."""
Drawn = str | int | float | bool | None
"""What a sampler draws: a value, or the label of a choice that is no single value."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a sweep."""

    name: str
    """Dotted key of the configuration, several with commas that all get the value, or a name that a table
    of other names translates."""
    distribution: Distribution
    """How it is drawn."""
    values: tuple[Any, ...] = ()
    """`choice`: what is chosen from."""
    low: float = 0.0
    """Smallest value; of `choice` unused, like those below."""
    high: float = 1.0
    """Largest value."""
    step: float = 1.0
    """`integer` and `quantised`: what values are multiples of, counted from the smallest of `integer`
    and from 0 of `quantised`."""
    log: bool = False
    """Whether the logarithm is uniform."""

    def __post_init__(self) -> None:
        """Refuse a distribution that nothing can be drawn from."""
        at = f"parameter {self.name!r}"
        if self.distribution == "choice":
            require(bool(self.values), f"{at} has no values to choose from")
            labels = [json.dumps(value) for value in self.values]
            twice = [label for label in labels if labels.count(label) > 1]
            require(not twice, f"{at} has the value {(twice or [''])[0]} twice")
            return
        for word, value in (("min", self.low), ("max", self.high), ("step", self.step)):
            require(math.isfinite(value), f"{at}: {word} is {value}; it must be finite")
        require(self.low < self.high, f"{at}: min {self.low:g} is not below max {self.high:g}")
        require(not self.log or self.low > 0.0, f"{at}: a logarithmic min must be above 0")
        require(self.step > 0.0, f"{at}: step must be above 0, not {self.step:g}")
        if self.distribution == "integer":
            whole = all(float(one).is_integer() for one in (self.low, self.high, self.step))
            require(whole, f"{at} is of integers; min, max and step must be integers too")
        if self.distribution == "quantised":
            first, last = self._bounds()
            two = first < last
            require(two, f"{at}: no two multiples of {self.step:g} lie between min and max")
            require(not self.log or first > 0.0, f"{at}: give a step below the logarithmic min")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys in its name."""
        return tuple(part.strip() for part in self.name.split(","))

    @property
    def short(self) -> str:
        """Its name without groups, for tables."""
        return ", ".join(key.rpartition(".")[2] for key in self.keys)

    @property
    def whole(self) -> bool:
        """Whether values are integers."""
        return self.distribution == "integer"

    @property
    def real(self) -> bool:
        """Whether what a sampler draws is a real number."""
        return self.distribution in {"uniform", "log-uniform"}

    def _bounds(self) -> tuple[float, float]:
        """Return the smallest and the largest number that a sampler draws: of `quantised` multiples."""
        if self.distribution != "quantised":
            return self.low, self.high
        # A step that divides the bound is not to be lost to the last bit.
        return math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)

    def as_optuna(self) -> BaseDistribution:
        """Return Optuna's distribution of what is drawn."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.distribution == "choice":
            return CategoricalDistribution(self._labels())
        low, high = self._bounds()
        if self.distribution == "quantised":
            return IntDistribution(int(low), int(high), log=self.log)
        if self.whole:
            # Optuna has no step under a logarithm: what is drawn is rounded to it.
            step = 1 if self.log else int(self.step)
            last = high if self.log else low + (high - low) // step * step
            return IntDistribution(int(low), int(last), log=self.log, step=step)
        return FloatDistribution(low, high, log=self.log)

    def _labels(self) -> tuple[Drawn, ...]:
        """Return choices as a sampler and its data base can take them."""
        kinds = {type(value) for value in self.values}
        plain = kinds <= {str} or kinds <= {bool} or kinds <= {int, float}
        return self.values if plain else tuple(json.dumps(value) for value in self.values)

    def value(self, drawn: Drawn) -> Any:
        """Return the setting that a drawn value stands for."""
        if self.distribution == "choice":
            return self.values[self._labels().index(drawn)]
        number = float(drawn)  # type: ignore[arg-type]
        if self.distribution == "quantised":
            return float(f"{number * self.step:.12g}")
        if not self.whole:
            return number
        steps = round((number - self.low) / self.step)
        return int(min(self.low + steps * self.step, self.high))

    def drawn_from(self, value: Any) -> Drawn:
        """Return what a sampler would have to draw for a setting.

        Raises:
            ValueError: it cannot be drawn.
        """
        if self.distribution == "choice":
            same = [json.dumps(one) for one in self.values]
            wanted = json.dumps(list(value) if isinstance(value, tuple) else value)
            return self._labels()[same.index(wanted)]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is no number")
        number = value / self.step if self.distribution == "quantised" else float(value)
        low, high = self._bounds()
        number = number if self.real else round(number)
        if not low <= number <= high or not math.isclose(self.value(number), value, rel_tol=1e-9):
            raise ValueError(f"{value!r} is not among {self.words()}")
        return number

    def extremes(self) -> tuple[Any, ...]:
        """Return the settings that are tried for validity: all choices, or both ends."""
        if self.distribution == "choice":
            return self.values
        return tuple(self.value(bound) for bound in self._bounds())

    def random(self, generator: np.random.Generator) -> Any:
        """Return a setting at random, for trying whether combinations are valid."""
        if self.distribution == "choice":
            return self.values[int(generator.integers(len(self.values)))]
        low, high = self._bounds()
        number = float(generator.uniform(low, high))
        if self.log:
            number = low * math.exp(generator.uniform(0.0, math.log(high / low)))
        return self.value(min(number, high) if self.real else round(number))

    def grid(self) -> tuple[Drawn, ...]:
        """Return everything that can be drawn, in order.

        Raises:
            ConfigError: there is no end of it.
        """
        if self.distribution == "choice":
            return self._labels()
        low, high = self._bounds()
        step = self.step if self.whole else 1.0
        count = (high - low) // step + 1
        if self.real or count > MOST_GRID_VALUES:
            raise ConfigError(
                f"parameter {self.name!r} is {self.words()}; a grid needs choices, or integer or "
                f"quantised values, {MOST_GRID_VALUES:,} at most"
            )
        return tuple(int(low + step * index) for index in range(int(count)))

    def words(self) -> str:
        """Return what can be drawn, for people."""
        if self.distribution == "choice":
            return "one of " + ", ".join(json.dumps(value) for value in self.values)
        words = f"{self.distribution} {self.low:g} to {self.high:g}"
        if self.distribution == "quantised" or self.step != 1.0:
            words += f" in steps of {self.step:g}"
        return words + (", logarithmic" if self.log and self.distribution != "log-uniform" else "")

    def as_plain(self) -> dict[str, Any]:
        """Return it as in a sweep file."""
        if self.distribution == "choice":
            return {"distribution": "choice", "values": list(self.values)}
        ends = [int(one) if self.whole else one for one in (self.low, self.high, self.step)]
        plain = {"distribution": self.distribution, "min": ends[0], "max": ends[1]}
        if "step" in KEYS[self.distribution]:
            plain |= {"step": ends[2]} | ({"log": True} if self.log else {})
        return plain


def parameter_of(name: str, value: Any) -> Parameter:
    """Read a parameter of a sweep file.

    Args:
        name: the parameter's.
        value: what stands behind it: a list of choices, or a group with `distribution`.

    Raises:
        ConfigError: it is neither, or keys are missing, unknown or of the wrong type.
        UnknownNameError: no such distribution.
    """
    at = f"parameter {name!r}"
    if isinstance(value, list):
        value = {"distribution": "choice", "values": value}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{at} is {value!r}; expected a list of choices, or a group with distribution, like "
            "{distribution: uniform, min: 0, max: 1}; a fixed value belongs under `set`"
        )
    if "distribution" not in value:
        raise ConfigError(f"{at} has no distribution; there is: {', '.join(KEYS)}")
    kind = str(value["distribution"])
    if kind not in get_args(Distribution):
        raise UnknownNameError(f"distribution of {at}:", kind, KEYS)
    given = {str(key): one for key, one in value.items() if key != "distribution"}
    for key in given:
        if key not in KEYS[kind]:
            raise ConfigError(f"{at}: {kind} has no key {key!r}; it has: {', '.join(KEYS[kind])}")
    if kind == "choice":
        values = given.get("values")
        require(isinstance(values, list), f"{at}: choice needs `values`, a list")
        return Parameter(name=name, distribution="choice", values=tuple(values or ()))
    needed = ("min", "max", "step") if kind == "quantised" else ("min", "max")
    for key in needed:
        require(key in given, f"{at}: {kind} needs {key}")
    log = given.pop("log", kind == "log-uniform")
    require(isinstance(log, bool), f"{at}: log is {log!r}; it is true or false")
    for key, one in given.items():
        number = isinstance(one, int | float) and not isinstance(one, bool)
        require(number, f"{at}: {key} is {one!r}; expected a number")
    return Parameter(
        name=name,
        distribution=kind,  # type: ignore[arg-type]
        low=float(given["min"]),
        high=float(given["max"]),
        step=float(given.get("step", 1.0)),
        log=log,
    )
