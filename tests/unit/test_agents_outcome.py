"""Critics that see what a phase error becomes by the action."""

from __future__ import annotations

import math

import pytest
import torch

from memrl_ctrl.agents.networks import OUTCOME_DEG, Critic, outcome
from memrl_ctrl.agents.task import TaskSpec, beam_task
from memrl_ctrl.config import LstmTd3Config
from memrl_ctrl.errors import UsageError


def test_it_is_the_circular_error_after_the_change() -> None:
    """170 degrees and 40 more are -150; the scale is logarithmic and ends at 1."""
    change = torch.tensor([[math.radians(40.0)]])
    signed, size = outcome(torch.tensor([[170.0 / 180.0]]), change)[0].tolist()
    expected = math.log1p(150.0 / OUTCOME_DEG) / math.log1p(180.0 / OUTCOME_DEG)
    assert size == pytest.approx(expected, abs=1e-5)
    assert signed == pytest.approx(-expected, abs=1e-5)


def test_it_is_steep_at_the_goal() -> None:
    """Half a degree is a ninth of the whole scale, where it is 1/360 of the error's own."""
    half = outcome(torch.tensor([[0.5 / 180.0]]), torch.zeros(1, 1))[0, 0].item()
    assert half > 0.1


def test_a_task_without_a_phase_is_refused() -> None:
    """The option is the beam's."""
    config = LstmTd3Config(critic_sees_truth=True, critic_sees_outcome=True)
    Critic(beam_task(n_truth=3), config)
    other = TaskSpec(
        environment="Pendulum-v1",
        kind="task",
        n_observation=3,
        action_low=(-1.0,),
        action_high=(1.0,),
        n_truth=3,
    )
    with pytest.raises(UsageError, match="not for 'Pendulum-v1'"):
        Critic(other, config)
