"""`memrl-ctrl deploy` and `shadow` as commands: what they refuse, how they end, what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memrl_ctrl import registry
from memrl_ctrl.backend import FloatArray, Reading, Receipt
from memrl_ctrl.cli import main
from memrl_ctrl.errors import ConnectionFailed, MachineError
from memrl_ctrl.policy.write import proportional_policy, write_file
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader
from memrl_deploy import cli

N = 64


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(
        tmp_path_factory.mktemp("policy") / "p.onnx", proportional_policy(n_slices=N, gain_rad=1.5)
    )


def played_by(
    monkeypatch: pytest.MonkeyPatch, kind: type[FakeBackend] = FakeBackend, **options: Any
) -> None:
    """Have every backend be a fake one."""

    def opened(name: str, **_: Any) -> FakeBackend:
        return kind(points=4, n_slices=N, offset_rad=0.5, **options)

    monkeypatch.setattr(registry, "open_backend", opened)
    monkeypatch.setattr(registry, "open_source", opened)


class Mute(FakeBackend):
    """A machine that never begins."""

    def start(self, *_: Any, **__: Any) -> Reading:
        raise MachineError("the machine is switched off")


class Failing(FakeBackend):
    """A machine whose link breaks at the third function."""

    def submit(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        if cycle > 3:
            raise ConnectionFailed("the link is gone")
        return super().submit(phi_hw_rad, cycle, deadline_s)


def test_a_refused_run_is_one_sentence(
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where nothing was done there is no table of what was done."""
    played_by(monkeypatch, Mute)
    code = main(["deploy", "--policy", str(policy), "--record", str(tmp_path), "--cycles", "3"])
    captured = capsys.readouterr()
    assert code == MachineError.exit_code
    assert captured.out == ""
    assert captured.err == "memrl-ctrl: the machine is switched off\n"


def test_a_run_that_breaks_off_says_once_why(
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The table says what was done, the sentence after it why it ended; the trace keeps it."""
    played_by(monkeypatch, Failing)
    words = ["deploy", "--policy", str(policy), "--record", str(tmp_path), "--cycles", "9"]
    assert main([*words, "--quiet"]) == MachineError.exit_code
    captured = capsys.readouterr()
    assert "the link is gone" not in captured.out
    assert "functions written" in captured.out
    assert captured.err == "memrl-ctrl: the link is gone\n"
    (trace,) = tmp_path.glob("*/trace.h5")
    with TraceReader(trace) as reader:
        assert reader.report.end is not None
        assert reader.report.end.reason == "the link is gone"


@pytest.mark.parametrize("command", ["deploy", "shadow"])
def test_an_unpaced_simulation_has_an_end(
    command: str,
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without --cycles and --period it ends by itself, and says what would let it go on."""
    played_by(monkeypatch)
    monkeypatch.setattr(cli, "UNPACED_CYCLES", 3)
    assert main([command, "--policy", str(policy), "--record", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the run ends after 3 cycles" in said
    assert "--cycles N" in said
    assert "--period S" in said
    (trace,) = tmp_path.glob("*/trace.h5")
    with TraceReader(trace) as reader:
        assert len(reader) == 3


@pytest.mark.parametrize(
    ("options", "period_s", "backend", "limited"),
    [
        ({}, 0.0, "blond", True),
        ({"cycles": 5000}, 0.0, "blond", False),
        ({"period": 0.0}, 0.0, "blond", False),
        ({"period": 1.2}, 0.0, "blond", False),
        ({}, 1.2, "zmq", False),
        ({}, 0.0, "replay", False),
    ],
)
def test_only_what_nothing_limits_is_limited(
    options: dict[str, Any], period_s: float, backend: str, limited: bool
) -> None:
    """A number of cycles, a pace, a machine's period or a recording's end are limits already."""
    described = FakeBackend(points=2, period_s=period_s).description
    object.__setattr__(described, "backend", backend)
    given = cli.RunOptions(**options)
    cycles, notice = given.limit(described)
    assert (cycles == cli.UNPACED_CYCLES, bool(notice)) == (limited, limited)
    assert limited or cycles == given.cycles


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cycles", "0"], "--cycles must be at least 1"),
        (["--period", "nan"], "--period must be between 0"),
        (["--timeout", "0"], "--timeout must be above 0"),
        (["--seed", "-1"], "--seed must be between 0"),
        (["--record", "/proc/new"], "/proc/new: cannot be written"),
        (["--set", "noise"], "--set takes NAME=VALUE"),
    ],
)
@pytest.mark.parametrize("command", ["deploy", "shadow"])
def test_an_option_that_cannot_be_meant_is_one_sentence(
    command: str, words: list[str], said: str, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is opened or recorded before it is refused."""
    assert main([command, "--policy", str(policy), "--backend", "blond", *words]) in (2, 3)
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_export_names_the_run_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that does not exist is what is wrong, whatever lies where the file would go."""
    monkeypatch.chdir(tmp_path)
    Path("beam.onnx").write_bytes(b"mine")
    assert main(["export", "nope"]) == 3
    assert capsys.readouterr().err.startswith("memrl-ctrl: nope: is no run folder")
    Path("run").mkdir()
    assert main(["export", "run", "--out", "/proc/new/x.onnx"]) == 3
    assert "/proc/new/x.onnx: cannot be written" in capsys.readouterr().err
