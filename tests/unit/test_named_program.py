"""What a machine says of its program is a name: it opens no file, and its points lie within it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.backend import MachineDescription
from memrl_ctrl.errors import MismatchError, UnknownNameError
from memrl_ctrl.program import load_program
from memrl_ctrl.registry import open_backend
from memrl_deploy.asked import program_of
from memrl_deploy.foreseeing import make_foresight


@pytest.fixture(scope="module")
def machine() -> MachineDescription:
    with_points = open_backend("blond", program="psb-2gev", points=8, n_slices=64, seed=1)
    return replace(with_points.description, period_s=1.2)


def test_a_name_with_a_folder_in_it_opens_nothing(
    machine: MachineDescription, tmp_path: Path
) -> None:
    """A pipe would block whoever opens it; a file of one's own is no program of the machine's."""
    pipe = tmp_path / "program.yaml"
    os.mkfifo(pipe)
    for name in (str(pipe), "/etc/passwd", "/dev/zero"):
        lying = replace(machine, program=name)
        with pytest.raises(UnknownNameError):
            program_of(lying)
        foresight, said = make_foresight(lying, None, pace_s=0.0)
        assert foresight is None
        assert "the guard does not look ahead" in said
    assert program_of(machine).name == "psb-2gev"
    with pytest.raises(UnknownNameError):
        load_program(str(pipe), by_name=True)


def test_a_program_that_does_not_reach_the_points_is_said(machine: MachineDescription) -> None:
    """The run goes on without looking ahead; where the program was named by a person it is refused."""
    early = replace(machine, ctime_ms=np.linspace(1.0, 9.0, machine.points))
    foresight, said = make_foresight(early, None, pace_s=0.0)
    assert foresight is None
    assert "'psb-2gev' is not that of the points of" in said
    with pytest.raises(MismatchError, match="is not that of the points"):
        make_foresight(early, "psb-2gev", pace_s=0.0)


@pytest.mark.parametrize("ends", [(np.inf, 1.0), (0.0, np.inf), (-np.inf, 1.0), (0.0, np.nan)])
def test_a_point_at_no_time_is_refused(
    machine: MachineDescription, ends: tuple[float, float]
) -> None:
    """Infinite or not a number: no point of a cycle."""
    ctime = np.linspace(1.0, 9.0, machine.points)
    ctime[0], ctime[-1] = ends
    with pytest.raises(ValueError, match="must be finite and increase"):
        replace(machine, ctime_ms=ctime)
