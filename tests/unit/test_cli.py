"""The command line's root."""

import re

import pytest

from memrl_ctrl import registry
from memrl_ctrl.cli import main


def test_unknown_command_is_one_sentence_with_a_suggestion(capsys):
    """A command that does not exist is answered with those that do."""
    assert main(["dploy"]) == 2
    said = capsys.readouterr().err
    assert "no command 'dploy'" in said
    assert "did you mean 'deploy'?" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", sorted(registry.points(registry.COMMANDS)))
def test_every_command_has_help(name, capsys):
    """Every registered command loads and explains itself."""
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage" in said
    assert len(re.sub(r"\W", "", said)) > 60


def test_root_help_lists_every_command_and_none_is_broken(capsys):
    """The root's help names every command."""
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name in registry.points(registry.COMMANDS):
        assert name in said
    assert "cannot be loaded" not in said


def test_unknown_option_is_one_sentence(capsys):
    """An option that does not exist is one sentence and exit code 2."""
    assert main(["doctor", "--fast"]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "--fast" in said


def test_doctor_is_healthy_here(capsys):
    """With everything installed the doctor finds nothing wrong."""
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "Ready." in said
    assert "mirrors itself" in said


def test_bench_without_a_name_lists_the_benchmarks(capsys):
    """`bench` alone says what can be measured."""
    assert main(["bench"]) == 0
    assert "kernel" in capsys.readouterr().out
