"""The command `memrl-ctrl`.

Each command, or family of commands, is an entry point of the group `memrl_ctrl.commands`. Only the
one that is called is imported; for the root's help all are, and one that cannot be is named there with
its reason. Commands raise; here a `MemrlError` becomes one sentence and an exit code
(`memrl_ctrl.errors`).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import cyclopts
import cyclopts.config

from memrl_ctrl import __version__, registry
from memrl_ctrl.cli.values import FINITE
from memrl_ctrl.errors import (
    FileError,
    MemrlError,
    MemrlWarning,
    MissingExtraError,
    UsageError,
)
from memrl_ctrl.terminal import Terminal

INTERRUPTED = 130
"""Exit code after Ctrl-C, by the shell's convention (128 + SIGINT)."""
WRONG_USE = 2
"""Exit code for options that cannot be read."""

HELP = """Control the second-harmonic RF phase with memory-based reinforcement learning.

Train against the simulation, export the policy, run it beside the operators or in closed loop.
"""

GROUPS = {
    "First steps": ("demo", "doctor"),
    "Offline": (
        "program",
        "fit",
        "train",
        "sweep",
        "evaluate",
        "memory",
        "video",
        "play",
        "export",
        "check-agent",
        "bench",
        "validate",
    ),
    "Online": (
        "machine",
        "machine-epics",
        "scenario",
        "keys",
        "operator",
        "deploy",
        "shadow",
        "replay",
        "trace",
    ),
}
"""Titles of the root's help, and which commands stand under them."""


def _root() -> cyclopts.App:
    return cyclopts.App(
        name="memrl-ctrl",
        help=HELP,
        version=f"memrl-ctrl {__version__}",
        default_parameter=FINITE,
    )


def _with_command(name: str) -> cyclopts.App:
    """Return the command tree with one command in it."""
    app = _root()
    app.command(registry.load(registry.COMMANDS, "command", name), name=name)
    return app


@lru_cache
def _group(title: str) -> cyclopts.Group:
    """Return the one group of a title: commands keep theirs from tree to tree."""
    titles = list(GROUPS)
    return cyclopts.Group(title, sort_key=titles.index(title) if title in titles else len(titles))


def _with_all_commands() -> cyclopts.App:
    """Return the whole command tree; a command that cannot be loaded says why in its help."""
    app = _root()
    group_of = {name: _group(title) for title, names in GROUPS.items() for name in names}
    other = _group("Others")
    for name, point in sorted(registry.points(registry.COMMANDS).items()):
        try:
            command = point.load()
        except (ImportError, AttributeError) as error:
            command = cyclopts.App(help=f"(cannot be loaded: {error})")
        group = group_of.get(name, other)
        if isinstance(command, cyclopts.App):
            command.group = group
            app.command(command, name=name)
        else:
            app.command(command, name=name, group=group)
    return app


CONFIGURED = ("deploy", "shadow")
"""Commands whose options may stand in a file, `--config FILE`: each option's name to its value."""


def _configured(tokens: Sequence[str]) -> tuple[list[str], str | None]:
    """Take `--config FILE` out of a command's words; return the others and the file.

    Raises:
        UsageError: there is no file behind it.
    """
    words, path = list(tokens), None
    for index, word in enumerate(words):
        if word == "--config" or word.startswith("--config="):
            _, equals, path = word.partition("=")
            end = index + 1
            if not equals:
                path = words[end] if end < len(words) else ""
                end += 1
            if not path:
                raise UsageError("--config takes a YAML file with the command's options")
            return [*words[:index], *words[end:]], path
    return words, None


def _options_file(path: str) -> cyclopts.config.Yaml:
    """Return what reads a command's options from a file; options of the command line win.

    Raises:
        FileError: it cannot be read, or is no YAML file with names and values.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise FileError(path, f"cannot be read: {why}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise FileError(path, "holds no options; expected lines such as `policy: beam.onnx`")
    return cyclopts.config.Yaml(path, use_commands_as_keys=False, must_exist=True)


def _run(tokens: Sequence[str], errors: Terminal) -> object:
    of_the_root = not tokens or tokens[0].startswith("-")
    app = _with_all_commands() if of_the_root else _with_command(tokens[0])
    if tokens and tokens[0] in CONFIGURED:
        tokens, path = _configured(tokens)
        if path is not None:
            app.config = (_options_file(path),)
    return app(
        tokens,
        result_action="return_value",
        error_console=errors,
        exit_on_error=False,
        print_error=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    errors = Terminal(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        with _plain_warnings():
            result = _run(tokens, errors)
    except cyclopts.CycloptsError as error:
        errors.print(
            f"memrl-ctrl: {_plain(error)} (see: memrl-ctrl {tokens[0]} --help)", style="red"
        )
        return WRONG_USE
    except MemrlError as error:
        errors.print(f"memrl-ctrl: {error}", style="red")
        return error.exit_code
    except ModuleNotFoundError as error:
        problem = registry.missing_extra(f"command {tokens[0]!r}", error)
        errors.print(f"memrl-ctrl: {problem}", style="red")
        return MissingExtraError.exit_code
    except KeyboardInterrupt:
        errors.print("memrl-ctrl: interrupted")
        return INTERRUPTED
    except (BrokenPipeError, SystemExit) as end:
        # A console that is no `Terminal` raises SystemExit when its reader has gone.
        if not isinstance(end, BrokenPipeError) and not isinstance(
            end.__context__, BrokenPipeError
        ):
            raise
        _say_no_more()
        return 0
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Have this project's warnings read as one line of a person's words, without a place in the code."""
    usual = warnings.formatwarning

    def plain(message: Any, category: type[Warning], *place: Any, **source: Any) -> str:
        if issubclass(category, MemrlWarning):
            return f"memrl-ctrl: note: {message}\n"
        return usual(message, category, *place, **source)

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _say_no_more() -> None:
    """The reader of our output (head, less) has gone: the interpreter must not complain at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _plain(error: cyclopts.CycloptsError) -> str:
    """Return cyclopts' message as one line, in our words where an option's value is not allowed."""
    if isinstance(error, cyclopts.ValidationError) and error.argument is not None:
        name, value = error.argument.name, error.argument.value
        if error.argument.tokens:
            name, value = error.argument.tokens[0].keyword or name, error.argument.tokens[-1].value
        return f"{name} {error.exception_message}, not {value}"
    return " ".join(str(error).split())
