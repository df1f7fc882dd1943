"""A controller drives, is recorded and is replayed by its name, as a policy file is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl import controllers, registry
from memrl_ctrl.backend import MachineDescription
from memrl_ctrl.cli import main
from memrl_ctrl.errors import MismatchError, PolicyError, UnknownNameError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader
from memrl_deploy.asked import asked_again, inform, load_asked

CYCLES = 6


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trace of a run of extremum seeking in closed loop, by the command."""

    def opened(name: str, **_: Any) -> FakeBackend:
        return FakeBackend(points=4, n_slices=128, noise=0.02)

    monkeypatch.setattr(registry, "open_backend", opened)
    words = f"deploy --policy extremum-seeking --backend blond --cycles {CYCLES} --engage-after 1"
    assert main([*words.split(), "--record", str(tmp_path), "--quiet"]) == 0
    return next(tmp_path.glob("*/trace.h5"))


def test_a_controller_is_replayed_to_the_bit(recorded: Path) -> None:
    """What was recorded is name and settings, and every action comes out again."""
    with TraceReader(recorded) as trace:
        assert trace.header.policy_name == "extremum-seeking"
        assert trace.header.policy == controllers.drive("extremum-seeking").data
        assert any(np.any(record.policy.action) for record in trace if record.policy is not None)
    assert main(["replay", str(recorded)]) == 0


def test_a_controller_is_asked_over_anothers_trace(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another controller is asked in open loop, and said to be another."""
    assert main(["replay", str(recorded), "--policy", "hold"]) == 0
    assert "hold, not the recorded policy: asked in open loop" in capsys.readouterr().out


def test_a_controller_that_was_tuned_since_is_not_passed_off(recorded: Path) -> None:
    """Settings that are recorded come back; what they cannot bring back is refused."""
    data = controllers.drive("cobyla").data
    held = json.loads(data)
    held["settings"]["first_step_deg"] = 33.0
    again = asked_again(json.dumps(held, sort_keys=True).encode(), "here")
    assert again.data != data
    held["settings"]["made_up"] = 1.0
    with pytest.raises(PolicyError, match="'cobyla' cannot be had as it was"):
        asked_again(json.dumps(held, sort_keys=True).encode(), "here")
    network = json.loads(controllers.drive("network-kalman").data)
    network["settings"]["network"] = "another"
    with pytest.raises(PolicyError, match="it was tuned or trained again since"):
        asked_again(json.dumps(network, sort_keys=True).encode(), "here")


def test_neither_a_file_nor_a_name_is_refused() -> None:
    """What is neither a file, nor a policy, nor a controller is one sentence."""
    with pytest.raises(PolicyError, match="no such file"):
        load_asked(Path("no-such-thing.onnx"))
    with pytest.raises(UnknownNameError, match="did you mean 'network-kalman'"):
        load_asked(Path("network-kalmann"))


def machine(program: str, ctime_ms: np.ndarray | None) -> MachineDescription:
    return MachineDescription(
        name="psb", program=program, points=3, n_slices=128, limits=PhaseLimits(), period_s=0.0,
        writable=True, ctime_ms=ctime_ms,
    )  # fmt: skip


def test_a_model_is_told_the_machines_points() -> None:
    """The kernel's fit gets the points of the program that the machine names, or says what it lacks."""
    asked = controllers.drive("fit")
    ctime_ms = np.array([300.0, 500.0, 700.0])
    inform(asked, machine("psb-2gev", ctime_ms))
    points = asked.controller.points(3)
    assert np.all(np.diff(points.b_field_t) > 0.0)
    with pytest.raises(MismatchError, match="needs the cycle program that the machine plays: no"):
        inform(asked, machine("unknown-program", ctime_ms))
    remedy = r"name the folder of its file unknown-program\.yaml in the environment variable MEMRL_PROGRAMS"
    with pytest.raises(MismatchError, match=remedy):
        inform(asked, machine("unknown-program", ctime_ms))
    with pytest.raises(MismatchError, match="belong to no cycle"):
        inform(asked, machine("psb-2gev", None))
