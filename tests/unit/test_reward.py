"""Rewards as sums of named terms."""

import math

import numpy as np
import pytest

from memrl_ctrl import registry, reward
from memrl_ctrl.errors import UnknownNameError, UsageError
from memrl_ctrl.reward import Shot

DEGREE = math.pi / 180.0


def shot(error_deg, previous_deg=10.0, delta_deg=0.0, number=0):
    return Shot(
        error_rad=np.array([error_deg * DEGREE]),
        previous_error_rad=np.array([previous_deg * DEGREE]),
        delta_rad=np.array([delta_deg * DEGREE]),
        asymmetry=np.array([0.3]),
        bunching_factor=np.array([0.4]),
        shot=np.array([number]),
    )


def test_seed_shaped_by_hand():
    """The shaped reward equals the published formula, worked by hand."""
    # From +3 to +0.25 degrees by -2.75 degrees in the second shot.
    value = reward.seed_shaped(shot(0.25, previous_deg=3.0, delta_deg=-2.75, number=1))[0]
    distance = -2.0 * 0.25 / 180.0
    progress = math.tanh(2.75 / 45.0)
    movement = -0.1 * 2.75 / 180.0
    fine = 10.0 / ((1.0 + 0.25) * 2)
    converged = 20.0 * math.exp(-10.0 * 0.25 * DEGREE)
    assert value == pytest.approx(distance + progress + movement + fine + converged)


def test_seed_simple_by_hand():
    """The simplified reward is the distance, and a bonus for staying by a right correction."""
    right = reward.seed_simple(shot(0.25, previous_deg=0.4, delta_deg=-0.15, number=3))[0]
    wrong = reward.seed_simple(shot(0.25, previous_deg=0.1, delta_deg=0.15, number=3))[0]
    distance = -2.0 * 0.25 / 180.0
    assert right == pytest.approx(distance + 20.0 * math.exp(-2.5 * DEGREE) / 4)
    assert wrong == pytest.approx(distance)


def test_log_error_by_hand():
    """The logarithmic reward equals its formula."""
    assert reward.log_error(shot(6.0))[0] == pytest.approx(-math.log(4.0) - 0.1)


def test_fine_error_by_hand():
    """The fine reward equals its formula, and a tenth of a degree counts at the end."""
    assert reward.fine_error(shot(6.0))[0] == pytest.approx(-math.log(21.0) - 0.6)
    last = reward.fine_error(shot(0.0))[0] - reward.fine_error(shot(0.1))[0]
    assert last > 5.0 * (reward.log_error(shot(0.0))[0] - reward.log_error(shot(0.1))[0])


def test_measured_needs_no_truth():
    """The measured reward is finite where the error is not known."""
    value = reward.measured(shot(math.nan, previous_deg=math.nan))[0]
    assert value == pytest.approx(-0.3 + 2.0 * 0.4)
    assert not reward.measured.needs_truth


@pytest.mark.parametrize("name", ["seed-shaped", "seed-simple", "log-error", "fine-error"])
def test_undefined_error_gives_zero(name):
    """Where no reference exists a truth-based reward is 0, never NaN."""
    chosen = registry.load(registry.REWARDS, "reward", name)
    assert chosen.needs_truth
    assert chosen(shot(math.nan, previous_deg=math.nan))[0] == 0.0


@pytest.mark.parametrize("name", ["seed-shaped", "seed-simple", "log-error", "fine-error"])
def test_nearer_is_better(name):
    """The reward falls as the error grows, all else equal."""
    chosen = registry.load(registry.REWARDS, "reward", name)
    values = [chosen(shot(e, previous_deg=170.0))[0] for e in (0.1, 1.0, 10.0, 90.0, 170.0)]
    assert values == sorted(values, reverse=True)


def test_weights_can_be_changed_and_wrong_ones_are_refused():
    """Weights are replaced by name; an unknown name is refused with a suggestion."""
    doubled = reward.log_error.with_weights({"log_distance": 2.0})
    assert doubled(shot(6.0))[0] == pytest.approx(2.0 * reward.log_error(shot(6.0))[0])
    with pytest.raises(UnknownNameError, match="did you mean 'log_distance'"):
        reward.log_error.with_weights({"log_distanc": 2.0})
    with pytest.raises(UsageError, match="must be finite"):
        reward.log_error.with_weights({"log_distance": math.inf})


def test_unknown_reward_is_refused_with_suggestion():
    """A reward that is not registered is refused, the known ones are named."""
    with pytest.raises(UnknownNameError, match="did you mean 'measured'"):
        registry.load(registry.REWARDS, "reward", "mesured")
