"""The text of an edit: `v2=0.9@600..805`, `phi_hw=+12deg`, `v1=5ms`, `phi_hw=300,350,400`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from memrl_ctrl.errors import UsageError
from memrl_ctrl.program.document import parse_number
from memrl_ctrl.program.units import UNITS, find_unit, function_name, short_name

TAPER_MS = 2.0
"""Over how much time an edit of a range fades at its ends, ms, unless another is given."""
EXAMPLES = {
    "scale": "v2=0.9",
    "shift": "phi_hw=+12deg",
    "smooth": "v1=5ms",
    "insert": "phi_hw=300,350,400",
    "resample": "b_field=1ms",
}
"""The edits, each with an example."""
_TEXT = re.compile(r"(?P<functions>[^=@]+)=(?P<amount>[^=@]+)(@(?P<within>[^@]*))?")
_NUMBER = re.compile(r"(?P<number>[-+]?[0-9.]+(e[-+]?[0-9]+)?)\s*(?P<unit>[a-z]*)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Within:
    """The range of ctime that an edit acts in.

    Raises:
        UsageError: it ends before it begins, or its taper is negative.
    """

    low_ms: float = -math.inf
    """Begin, ms; minus infinity where it has none."""
    high_ms: float = math.inf
    """End, ms; infinity where it has none."""
    taper_ms: float = TAPER_MS
    """Time over which the edit fades outside its begin and end, ms."""

    def __post_init__(self) -> None:
        if not self.low_ms <= self.high_ms:
            raise UsageError(f"the range {self.text} ends before it begins")
        if not 0.0 < self.taper_ms < math.inf:
            raise UsageError(f"an edit cannot fade over {self.taper_ms:g} ms; give more than 0")

    @property
    def text(self) -> str:
        """As it is written behind `@`; empty for no range."""
        if (self.low_ms, self.high_ms) == (-math.inf, math.inf):
            return ""
        low = "" if self.low_ms == -math.inf else _plain(self.low_ms)
        high = "" if self.high_ms == math.inf else _plain(self.high_ms)
        taper = "" if self.taper_ms == TAPER_MS else f"~{_plain(self.taper_ms)}ms"
        return f"{low}..{high}{taper}"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One edit of one or more functions."""

    verb: str
    """`scale`, `shift`, `smooth`, `insert` or `resample`."""
    functions: tuple[str, ...]
    """Functions, by their names in `FUNCTIONS`."""
    amounts: tuple[float, ...]
    """A factor; an amount in the unit of the function; a time, width or step in ms; or ctimes in ms."""
    of_time: bool = False
    """Whether a shift moves times rather than values."""
    within: Within = Within()
    """Where it acts."""
    words: str
    """It in words, as given on the command line behind the verb; written into a program's source."""

    @property
    def text(self) -> str:
        """As it is given on the command line, without the dashes."""
        return f"{self.verb} {self.words}"


def parse_edit(verb: str, text: str) -> Edit:
    """Read an edit.

    ```
    scale     FUNCTION=FACTOR        v2=0.9
    shift     FUNCTION=AMOUNT        phi_hw=+12deg  v1=-0.5kV  b_field=3G  v2=+4ms (in time)
    smooth    FUNCTION=WIDTH         v1=5ms
    insert    FUNCTION=CTIMES        phi_hw=300,350,400
    resample  FUNCTION=STEP          b_field=1ms
    ```

    FUNCTION is phi_hw, v1, v2 or b_field, or several with commas. All but insert take a range of ctime:
    `@600..700`, `@600..`, `@..400`, with the time over which the edit fades outside it: `@600..700~10ms`.

    Raises:
        UsageError: it is not understood; says what is expected.
    """
    if verb not in EXAMPLES:
        raise UsageError(f"no edit {verb!r}; there is: {', '.join(EXAMPLES)}")
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise _unclear(verb, text)
    functions = tuple(function_name(name.strip()) for name in match["functions"].split(","))
    if len(set(functions)) != len(functions):
        raise UsageError(f"--{verb} {text}: a function stands twice")
    of_time = False
    if verb == "scale":
        amounts: tuple[float, ...] = (_number(verb, text, match["amount"], "")[0],)
    elif verb == "insert":
        amounts = tuple(_time(verb, text, part) for part in match["amount"].split(","))
    elif verb == "shift":
        amount, of_time = _amount(verb, text, match["amount"], functions)
        amounts = (amount,)
    else:
        amounts = (_time(verb, text, match["amount"], bare=False),)
    within = Within() if match["within"] is None else _within(verb, text, match["within"])
    if verb == "insert" and match["within"] is not None:
        raise UsageError(f"--insert {text}: breakpoints have no range; leave @ out")
    return Edit(
        verb=verb,
        functions=functions,
        amounts=amounts,
        of_time=of_time,
        within=within,
        words=text.strip(),
    )


def _unclear(verb: str, text: str) -> UsageError:
    return UsageError(
        f"--{verb} {text!r} is not understood; expected for example --{verb} {EXAMPLES[verb]}"
    )


def _number(verb: str, text: str, part: str, unit: str | None) -> tuple[float, str]:
    """Return a number and its unit; `unit` names the only one allowed, None allows any."""
    match = _NUMBER.fullmatch(part.strip())
    value = parse_number(match["number"]) if match else math.nan
    if match is None or math.isnan(value) or (unit is not None and match["unit"] != unit):
        raise _unclear(verb, text)
    return value, match["unit"]


def _time(verb: str, text: str, part: str, *, bare: bool = True) -> float:
    """Return a time in ms; `bare` allows it to have no unit."""
    value, unit = _number(verb, text, part, None)
    if not unit and bare:
        return value
    if unit not in ("ms", "s"):
        raise UsageError(f"--{verb} {text}: {part.strip()} is no time; expected for example 5ms")
    return value if unit == "ms" else _scaled(value, 3)


def _amount(verb: str, text: str, part: str, functions: tuple[str, ...]) -> tuple[float, bool]:
    """Return by how much to shift, in the unit of the functions or in ms, and whether in time."""
    value, unit = _number(verb, text, part, None)
    if unit in ("ms", "s"):
        return _time(verb, text, part), True
    amounts = set()
    for function in functions:
        names = [known.name for known in UNITS[function]]
        if not unit or unit.lower() not in (name.lower() for name in names):
            raise UsageError(
                f"--{verb} {text}: {part.strip()} has no unit of {short_name(function)}; expected "
                f"one of {', '.join(names)} (or ms, to shift in time)"
            )
        exponent = find_unit(function, unit).exponent
        amounts.add(math.degrees(value) if exponent is None else _scaled(value, exponent))
    return amounts.pop(), False


def _scaled(value: float, exponent: int) -> float:
    return float(Decimal(repr(value)).scaleb(exponent))


def _within(verb: str, text: str, part: str) -> Within:
    span, tilde, taper = part.partition("~")
    low, dots, high = span.partition("..")
    if not dots or not (low.strip() or high.strip()):
        raise UsageError(
            f"--{verb} {text}: the range {part!r} is not understood; expected for example @600..700, "
            "@600.. or @..400, with ~10ms behind it for a longer fading"
        )
    return Within(
        low_ms=_time(verb, text, low) if low.strip() else -math.inf,
        high_ms=_time(verb, text, high) if high.strip() else math.inf,
        taper_ms=_time(verb, text, taper) if tilde else TAPER_MS,
    )


def _plain(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(value)
