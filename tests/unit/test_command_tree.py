"""What holds for every command of the tree, whoever wrote it: found by walking the tree.

A new command fails here if it takes NaN for a number, or tries an output only after the work; the types
of `memrl_ctrl.cli.values` do both.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cyclopts
import pytest

from memrl_ctrl.cli import _plain, _with_all_commands
from memrl_ctrl.errors import FileError

OUTPUTS = ("--out", "--json", "--plot", "--record", "--truth-log", "--reference-out", "--pictures")
"""Options that name what is written."""
THEMSELVES = {
    "export --out",  # after the run that it is made from was found
    "program import --out",  # several files, before the first is written
    "program export --out",
    "program edit --out",
    "program plot --out",
}
"""Outputs that the command itself tries; they take no time to make."""
NOWHERE = "/proc/new/x"

TREE = _with_all_commands()


def commands(app: cyclopts.App, chain: tuple[str, ...] = ()) -> Iterator[tuple[str, cyclopts.App]]:
    """Walk the tree: words and app of every command that does something."""
    for name in app:
        if name.startswith("-"):
            continue
        below = app[name]
        words = (*chain, name)
        if below.default_command is not None:
            yield " ".join(words), below
        yield from commands(below, words)


def kind(hint: Any) -> Any:
    """The type of an option, None and annotations left out."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint, *_) = [kind(part) for part in typing.get_args(hint) if part is not type(None)]
    return hint


COMMANDS = dict(commands(TREE))
OPTIONS = [
    (name, argument.name, kind(argument.hint))
    for name, app in COMMANDS.items()
    for argument in app.assemble_argument_collection()
]


def line(name: str, option: str, value: str) -> list[str]:
    """A command line with one value that matters, and something for whatever else is required."""
    words = name.split()
    for argument in COMMANDS[name].assemble_argument_collection():
        if argument.required and argument.name != option:
            filler = "1" if kind(argument.hint) in (int, float) else "something"
            words += [argument.name, filler] if argument.name.startswith("--") else [filler]
    return [*words, option, value] if option.startswith("--") else [*words, value]


def parse(words: list[str]) -> None:
    """Read a command line without running the command."""
    TREE.parse_args(words, exit_on_error=False, print_error=False)


def test_the_walk_finds_the_commands() -> None:
    """The tests below look at something."""
    assert {"train", "deploy", "machine", "trace plot", "program check"} <= set(COMMANDS)
    assert ("deploy", "--cycles", int) in OPTIONS
    assert ("machine", "--noise", float) in OPTIONS
    assert ("bench", "--json", Path) in OPTIONS


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "much"])
@pytest.mark.parametrize(("name", "option"), [(n, o) for n, o, k in OPTIONS if k in (int, float)])
def test_a_number_is_a_finite_number(name: str, option: str, value: str) -> None:
    """NaN, infinity and words are refused by the name of the option."""
    with pytest.raises(cyclopts.CycloptsError) as refused:
        parse(line(name, option, value))
    assert option in _plain(refused.value)


@pytest.mark.parametrize("value", ["0", "-1", "1.5"])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        (n, o)
        for n, o, k in OPTIONS
        if k is int and o in ("--cycles", "--episodes", "--steps", "--slices", "--points")
    ],
)
def test_a_number_of_things_is_a_whole_one_above_0(name: str, option: str, value: str) -> None:
    """Zero, negative and broken numbers of cycles, episodes, steps, slices and points are refused."""
    with pytest.raises(cyclopts.CycloptsError) as refused:
        parse(line(name, option, value))
    assert option in _plain(refused.value)


@pytest.mark.parametrize("value", ["-1", "4294967296"])
@pytest.mark.parametrize("name", [n for n, o, _ in OPTIONS if o == "--seed"])
def test_a_seed_is_one_that_every_generator_takes(name: str, value: str) -> None:
    """Seeds are refused below 0 and from 2**32."""
    with pytest.raises(cyclopts.CycloptsError, match="--seed"):
        parse(line(name, "--seed", value))


@pytest.mark.parametrize(
    ("name", "option"),
    [(n, o) for n, o, _ in OPTIONS if o in OUTPUTS and f"{n} {o}" not in THEMSELVES],
)
def test_an_output_is_tried_before_the_work(name: str, option: str, tmp_path: Path) -> None:
    """A place where nothing can be written is refused while the options are read."""
    with pytest.raises(FileError, match=f"{NOWHERE}: cannot be written"):
        parse(line(name, option, NOWHERE))
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="file is a file, not a folder"):
        parse(line(name, option, str(tmp_path / "file" / "x")))


def test_what_the_commands_try_themselves_exists() -> None:
    """The list of exceptions holds no command that is gone."""
    assert {f"{n} {o}" for n, o, _ in OPTIONS} >= THEMSELVES
