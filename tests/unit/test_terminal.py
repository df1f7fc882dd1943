"""Output into files and pipes: nothing is cut, and a reader may go away."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table

from memrl_ctrl.terminal import Terminal


def unread() -> io.TextIOWrapper:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def test_a_table_in_a_pipe_is_as_wide_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word of 200 letters arrives whole; COLUMNS would still be obeyed."""
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("name", "other")
    table.add_row("x" * 200, "y" * 200)
    file = io.StringIO()
    Terminal(file=file).print(table)
    assert "x" * 200 in file.getvalue()
    monkeypatch.setenv("COLUMNS", "60")
    narrow = io.StringIO()
    Terminal(file=narrow).print(table)
    assert max(map(len, narrow.getvalue().splitlines())) <= 60


def test_a_command_goes_on_when_its_reader_has_gone() -> None:
    """Nothing is raised, the owner is told once, and the stream can still be closed."""
    told = []
    with unread() as file:
        terminal = Terminal(file=file, on_gone=lambda: told.append(1))
        for _ in range(3):
            terminal.print("to nobody")
    assert told == [1]


def test_a_closed_terminal_is_a_reader_that_has_gone() -> None:
    """Writing to a terminal that was closed is an input/output error: no reason to end either."""
    master, slave = os.openpty()
    told = []
    with os.fdopen(slave, "w") as file:
        terminal = Terminal(file=file, on_gone=lambda: told.append(1))
        terminal.print("to somebody")
        os.close(master)
        for _ in range(3):
            terminal.print("to nobody")
    assert told == [1]


def test_a_plain_console_would_end_the_process() -> None:
    """What `Terminal` avoids is really what rich does."""
    code = (
        "import os, sys; from rich.console import Console; r, w = os.pipe(); os.close(r);"
        "f = os.fdopen(w, 'w'); Console(file=f).print('x'); print('on')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
    assert issubclass(Terminal, Console)


@pytest.mark.parametrize("words", ["--help", "program list", "doctor --help", "bench"])
def test_a_short_command_ends_quietly_without_its_reader(words: str) -> None:
    """`memrl-ctrl … | head -1`: no message, exit code 0."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "memrl_ctrl", *words.split()],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 0
