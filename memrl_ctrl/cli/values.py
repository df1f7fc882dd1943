"""Types of options: what is allowed is said once, and refused in one sentence before anything begins.

```
def command(*, cycles: Count | None = None, period: Seconds | None = None, json: JsonFile | None = None)
```

Every other float of the command tree is finite (`FINITE` is the root's default). Outputs are tried when
the options are read (`memrl_ctrl.outputs`), so that work is not lost to a wrong path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.outputs import STDOUT, check_output_file, check_output_folder

DAY_S = 86_400.0
"""Longest time that is taken for meant, s."""
SEEDS = 2**32
"""Seeds are below this."""

PREFIX = "environment.options."
"""What `train --set` has before an option of the environment; others may have it too."""

Validator = Callable[[Any, Any], None]


def within(
    low: float = -math.inf, high: float = math.inf, *, above: bool = False, unit: str = ""
) -> Validator:
    """Return a validator of one number or of several; NaN and infinity are always refused.

    Args:
        low: least value that is allowed.
        high: largest value that is allowed.
        above: `low` itself is not allowed.
        unit: for the sentence.
    """
    allowed = _words(low, high, above=above, unit=unit)

    def check(_type: Any, value: Any) -> None:
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            inside = math.isfinite(number) and low <= number <= high
            if not inside or (above and number == low):
                raise ValueError(f"must be {allowed}")

    return check


def _words(low: float, high: float, *, above: bool, unit: str) -> str:
    unit = unit and f" {unit}"
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    if math.isinf(high):
        return f"{'above' if above else 'at least'} {low:g}{unit}"
    if above:
        return f"above {low:g} and at most {high:.10g}{unit}"
    return f"between {low:g} and {high:.10g}{unit}"


def _integer(_type: Any, tokens: Sequence[Token]) -> int:
    """Read 30, 1_000 or 1e6; a fraction is no integer."""
    text = tokens[0].value
    try:
        return int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
    if not value.is_integer():
        raise ValueError(f"{text} is no integer")
    return int(value)


def _json(_type: Any, value: Path | None) -> None:
    if value is None or str(value) == STDOUT:
        return
    if str(value).startswith("-"):
        raise ValueError(f"needs the name of a file (./{value} for one with that name)")
    check_output_file(value)


def _file(_type: Any, value: Path | None) -> None:
    if value is not None:
        check_output_file(value)


def _folder(_type: Any, value: Path | None) -> None:
    if value is not None:
        check_output_folder(value)


def _existing(_type: Any, value: Path | None) -> None:
    if value is not None and not value.exists():
        raise FileError(value, "does not exist")


def whole(low: int, high: float = math.inf, *, unit: str = "") -> Parameter:
    """Return the parameter of an integer within bounds."""
    return Parameter(validator=within(low, high, unit=unit), converter=_integer)


def real(
    low: float = -math.inf, high: float = math.inf, *, above: bool = False, unit: str = ""
) -> Parameter:
    """Return the parameter of a finite number within bounds; see `within`."""
    return Parameter(validator=within(low, high, above=above, unit=unit))


FINITE = Parameter(validator=within())
"""Default of the whole command tree."""

Count = Annotated[int, whole(1)]
"""How many of something: 1 or more."""
Steps = Annotated[int, whole(0)]
"""Steps so far: 0 or more."""
Seed = Annotated[int, whole(0, SEEDS - 1)]
"""Seed of a random generator."""
Seconds = Annotated[float, real(0.0, DAY_S, unit="s")]
"""A time that may be 0."""
SomeSeconds = Annotated[float, real(0.0, DAY_S, above=True, unit="s")]
"""A time above 0."""
JsonFile = Annotated[Path, Parameter(validator=_json, allow_leading_hyphen=True)]
"""A JSON file that is written at the end; `-` is standard output."""
OutputFile = Annotated[Path, Parameter(validator=_file)]
"""A file that is written at the end; replaced where it exists."""
OutputFolder = Annotated[Path, Parameter(validator=_folder)]
"""A folder in which files are made."""
ExistingPath = Annotated[Path, Parameter(validator=_existing)]
"""A file or folder that must be there."""


def options_of(texts: Sequence[str] | None) -> dict[str, Any]:
    """Read `option=value` of an environment, with or without `environment.options.` before it.

    Raises:
        UsageError: it is not of that form.
    """
    import yaml

    options: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--set {text!r} is not of the form option=value")
        try:
            options[name.removeprefix(PREFIX)] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text!r} has no value that can be read") from error
    return options
