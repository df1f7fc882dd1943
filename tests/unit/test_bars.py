"""Progress of long work inside a backend, as commands show it."""

import io

import pytest
from rich.console import Console

from memrl_ctrl.cli import bars
from memrl_ctrl.cli.bars import work_bar
from memrl_ctrl.progress import listening, report


def test_nobody_needs_to_listen_and_a_listener_hears_only_while_it_listens():
    """Reports go to whoever listens at the time, also when that ends with an error."""
    heard = []
    report(1, 10)

    def fail():
        with listening(lambda done, total: heard.append((done, total))):
            report(2, 10)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    report(3, 10)
    assert heard == [(2, 10)]


def test_a_file_gets_lines_with_the_time_that_is_left(monkeypatch):
    """Where there is no terminal a line says now and then how far it is."""
    clock = iter([100.0, 120.0, 121.0, 140.0, 141.0])
    monkeypatch.setattr(bars.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    with work_bar(Console(file=out), "tracking"):
        report(0, 400)
        report(100, 400)
        report(104, 400)
        report(200, 400)
        report(400, 400)
    assert out.getvalue().splitlines() == ["tracking: 25 %, 1:00 left", "tracking: 50 %, 0:40 left"]


def test_a_terminal_gets_a_bar_and_is_left_clean():
    """On a terminal there is a bar with the words, and it goes when the work is done."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with work_bar(console, "tracking the cycle"):
        report(10, 40)
        report(40, 40)
        report(5, 40)
    assert "tracking the cycle" in out.getvalue()
    assert out.getvalue().rstrip().endswith("\x1b[2K")


def test_quiet_shows_nothing():
    """Quiet means quiet."""
    out = io.StringIO()
    with work_bar(Console(file=out, force_terminal=True), "tracking", quiet=True):
        report(1, 2)
    assert out.getvalue() == ""
