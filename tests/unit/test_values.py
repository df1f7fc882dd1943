"""Options refuse what cannot be meant, in one sentence, before the command begins."""

from __future__ import annotations

from pathlib import Path

import cyclopts
import pytest

from memrl_ctrl import cli
from memrl_ctrl.cli.values import FINITE, Count, JsonFile, Seconds, Seed, SomeSeconds


def command(
    *,
    count: Count | None = None,
    seed: Seed = 1,
    time: Seconds | None = None,
    wait: SomeSeconds = 1.0,
    plain: float | None = None,
    json: JsonFile | None = None,
) -> list[object]:
    """Take some values."""
    return [count, seed, time, wait, plain, json]


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> cyclopts.App:
    """A command tree with one command that only takes values."""
    app = cyclopts.App(default_parameter=FINITE)
    app.command(command, name="take")
    monkeypatch.setattr(cli, "_with_command", lambda name: app)
    return app


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--count", "0", "--count must be at least 1, not 0"),
        ("--count", "-1", "--count must be at least 1, not -1"),
        ("--count", "2.5", "2.5 is no integer"),
        ("--count", "nan", "nan is no integer"),
        ("--count", "many", "many is no integer"),
        ("--seed", "-1", "--seed must be between 0 and 4294967295, not -1"),
        ("--time", "-1", "--time must be between 0 and 86400 s, not -1"),
        ("--time", "nan", "--time must be between 0 and 86400 s, not nan"),
        ("--wait", "0", "--wait must be above 0 and at most 86400 s, not 0"),
        ("--plain", "nan", "--plain must be a finite number, not nan"),
        ("--plain", "-inf", "--plain must be a finite number, not -inf"),
        ("--json", "/proc/new/x", "/proc/new/x: cannot be written"),
        ("--json", "--count", "needs the name of a file"),
    ],
)
def test_a_value_that_cannot_be_meant_is_one_sentence(
    capsys: pytest.CaptureFixture[str], option: str, value: str, said: str
) -> None:
    """Option, what is allowed and what was given; exit code 2 or 3; the command does not run."""
    assert cli.main(["take", option, value]) in (2, 3)
    text = capsys.readouterr().err
    assert said in text
    assert len(text.splitlines()) == 1


def test_good_values_arrive(root: cyclopts.App, tmp_path: Path) -> None:
    """Integers may be written as 1e3 or 1_000; `-` is standard output."""
    words = ["take", "--count", "1e3", "--seed", "1_000", "--time", "0", "--json", "-"]
    got = root([*words, "--plain", "-2.5"], result_action="return_value")
    assert got == [1000, 1000, 0.0, 1.0, -2.5, Path("-")]
