"""Reading a training configuration: from YAML, with single keys changed by `--set key.sub=value`."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import yaml

from memrl_ctrl.config.checks import ConfigError
from memrl_ctrl.config.schema import AGENT_CONFIGS, TrainingConfig
from memrl_ctrl.errors import FileError, UnknownNameError


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: 1e-3 is a number, `off` and `yes` are words. A key stands once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that comes again: whoever wrote it would not know which of the two counts."""
        seen: set[str] = set()
        for key, _ in getattr(node, "value", ()):
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    problem = f"{key.value!r} stands there a second time"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if not tag.endswith((":bool", ":float"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.?\d+[eE][-+]?\d+|\.\d+|\.inf|\.nan)$"),
    list("-+.0123456789"),
)


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def shipped() -> list[str]:
    """Names of the shipped configurations."""
    folder = files("memrl_ctrl") / "training" / "configs"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def resolve(name_or_file: str | Path, overrides: Iterable[str] = ()) -> TrainingConfig:
    """Read a configuration by its shipped name or from a file, and change single keys.

    Args:
        name_or_file: a name of `shipped()`, or a YAML file (it has a suffix or a folder).
        overrides: `key.sub=value`, the value as in YAML.

    Raises:
        UnknownNameError: no such configuration, or no such key.
        FileError: the file cannot be read.
        ConfigError: a value of the wrong type, or a combination that cannot work.
    """
    values = _read(name_or_file)
    for text in overrides:
        _override(values, text)
    return from_dict(values)


def from_dict(values: Mapping[str, Any]) -> TrainingConfig:
    """Make a configuration from nested plain values.

    Raises:
        UnknownNameError: a key that does not exist; names it with its path and the nearest one.
        ConfigError: a value of the wrong type, or a combination that cannot work.
    """
    algorithm = values.get("algorithm", "lstm-td3")
    if not isinstance(algorithm, str) or algorithm not in AGENT_CONFIGS:
        raise UnknownNameError("algorithm", str(algorithm), AGENT_CONFIGS)
    kinds: Kinds = {TrainingConfig: {"agent": AGENT_CONFIGS[algorithm]}}
    _check_keys(values, TrainingConfig, (), kinds)
    made: TrainingConfig = _make(values, TrainingConfig, (), kinds)
    return made


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values, every default filled in."""
    values = msgspec.to_builtins(dataclasses.asdict(config))
    return {str(key): value for key, value in values.items()}


def dump(config: Any) -> str:
    """Return a configuration as YAML, every default filled in; `resolve` reads it back equal."""
    text = yaml.safe_dump(to_dict(config), sort_keys=False, default_flow_style=None, width=100)
    return str(text)


def _read(name_or_file: str | Path) -> dict[str, Any]:
    path = Path(name_or_file)
    is_file = isinstance(name_or_file, Path) or path.suffix in {".yaml", ".yml"} or path.parent.name
    if is_file:
        return read_yaml(path, "a configuration")
    name = str(name_or_file)
    if name not in shipped():
        raise UnknownNameError("configuration", name, shipped())
    place = files("memrl_ctrl") / "training" / "configs" / f"{name}.yaml"
    return _mapping(place.read_text(encoding="utf-8"), path)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file that holds keys with values, by the rules of YAML 1.2.

    Args:
        path: the file.
        what: what it should be, for the sentence, for example "a configuration".

    Raises:
        FileError: it cannot be read, is no YAML, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise FileError(path, f"cannot be read as {what}: {reason}") from error
    return _mapping(text, path)


def _mapping(text: str, path: Path) -> dict[str, Any]:
    try:
        values = _parse(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "cannot be parsed"
        line = None if mark is None else mark.line + 1
        raise FileError(path, f"is no YAML: {problem}", line=line) from error
    if not isinstance(values, dict):
        raise FileError(path, f"holds {_words(values)}; expected keys with values, like `seed: 0`")
    return values


def checked(values: Mapping[str, Any], kind: type, what: str) -> Any:
    """Make a dataclass of settings from nested plain values, refused as a configuration's are.

    Args:
        values: by the names of the dataclass' fields.
        kind: the dataclass.
        what: what it is, for the sentence, for example "a sweep".

    Raises:
        ConfigError: a key that does not exist, a value of the wrong type, or one that cannot work.
    """
    _check_keys(values, kind, (), {}, what)
    return _make(values, kind, (), {})


def _override(values: dict[str, Any], text: str) -> None:
    """Set one `key.sub=value` in nested plain values."""
    key, value = read_override(text)
    parts = key.split(".")
    target = values
    for depth, part in enumerate(parts[:-1]):
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise ConfigError(
                f"--set {text!r}: {'.'.join(parts[: depth + 1])} is a value, not a group of keys"
            )
    target[parts[-1]] = value


def read_override(text: str) -> tuple[str, Any]:
    """Return key and value of one `key.sub=value`, the value as in YAML.

    Raises:
        ConfigError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"--set {text!r} is not of the form key.sub=value")
    try:
        return key.strip(), _parse(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is no YAML") from error


Kinds = Mapping[type, Mapping[str, type]]
"""For a dataclass the fields whose own dataclass depends on other values."""


def _types(kind: type, kinds: Kinds) -> dict[str, Any]:
    """Return the types of a dataclass' fields by name."""
    hints = typing.get_type_hints(kind)
    known = {item.name: hints[item.name] for item in dataclasses.fields(kind)}
    return known | dict(kinds.get(kind, {}))


def _check_keys(
    values: Mapping[str, Any],
    kind: type,
    path: tuple[str, ...],
    kinds: Kinds,
    what: str = "a configuration",
) -> None:
    """Refuse keys and choices that the dataclass does not have, at every depth."""
    known = _types(kind, kinds)
    for key, value in values.items():
        here = ".".join((*path, str(key)))
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {'.'.join((*path, close[0]))!r}?" if close else ";"
            where = ".".join(path) or what
            raise ConfigError(f"no key {here!r}{hint} {where} has: {', '.join(known)}")
        expected = known[key]
        if typing.get_origin(expected) is typing.Literal:
            allowed = typing.get_args(expected)
            if value not in allowed:
                choices = ", ".join(sorted(str(choice) for choice in allowed))
                raise ConfigError(f"{here} cannot be {value!r}; it is one of: {choices}")
        if dataclasses.is_dataclass(expected):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{here} is {_words(value)}; expected a group of keys")
            _check_keys(value, typing.cast("type", expected), (*path, str(key)), kinds)


def _make(values: Mapping[str, Any], kind: type, path: tuple[str, ...], kinds: Kinds) -> Any:
    """Make a dataclass; what is wrong is named with its path."""
    known = _types(kind, kinds)
    fields = {}
    for key, expected in known.items():
        if dataclasses.is_dataclass(expected):
            if key in values or key in kinds.get(kind, {}):
                part = typing.cast("type", expected)
                fields[key] = _make(values.get(key, {}), part, (*path, key), kinds)
        elif key in values:
            fields[key] = _convert(values[key], expected, ".".join((*path, key)))
    try:
        return kind(**fields)
    except ConfigError as error:
        raise ConfigError(f"{'.'.join(path)}: {error}" if path else str(error)) from error


def _convert(value: Any, kind: Any, path: str) -> Any:
    """Convert a plain value; what is wrong is named with its path."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = re.fullmatch(r"(.*?)(?: - at `\$\.?([^`]*)`)?", str(error), re.DOTALL)
        sentence, inside = (found.group(1), found.group(2) or "") if found else (str(error), "")
        if sentence.startswith("Expected"):
            sentence = sentence.replace("`", "").replace("Expected", "expected")
        raise ConfigError(f"{path}{inside}: {sentence}") from error


def _words(value: Any) -> str:
    """Say what a YAML value is."""
    if value is None:
        return "nothing"
    return {str: "text", list: "a list", bool: "a truth value"}.get(type(value), f"{value!r}")
