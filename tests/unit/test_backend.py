"""The contract's own types."""

import math

import numpy as np
import pytest

from memrl_ctrl.backend import MachineDescription, Quality, Reading, Truth
from memrl_ctrl.limits import PhaseLimits


def reading(quality):
    points = len(quality)
    zero = np.zeros(points)
    return Reading(
        cycle=1,
        stamp_ns=0,
        received_ns=0,
        profile=np.ones((points, 16), dtype=np.float32),
        setpoint_rad=zero,
        applied_rad=zero,
        readback_rad=zero,
        synchronous_phase_rad=zero,
        quality=np.array(quality, dtype=np.uint16),
    )


def test_every_flag_but_a_simulations_own_keeps_a_point_from_the_policy():
    """NO_MATCH alone leaves a point usable, anything else does not, also beside it."""
    for flag in Quality:
        both = int(flag | Quality.NO_MATCH)
        assert reading([0, flag, both]).usable.tolist() == [
            True,
            flag in (Quality.OK, Quality.NO_MATCH),
            flag in (Quality.OK, Quality.NO_MATCH),
        ]


def truth(phi2, reference, goal=None):
    zero = np.zeros(len(phi2))
    return Truth(
        reference_rad=np.array(reference),
        offset_rad=zero,
        phi2_rad=np.array(phi2),
        emittance_evs=zero,
        intensity=zero,
        goal_rad=None if goal is None else np.array(goal),
    )


def test_phase_error_is_circular():
    """The phase error lies in (-pi, pi], whatever turns phi_2 has made."""
    error = truth([6.0 * math.pi + 0.1, math.pi, -3.1], [0.0, 0.0, 3.1]).phase_error_rad
    assert error == pytest.approx([0.1, math.pi, 2.0 * math.pi - 6.2])


def test_goal_stands_in_only_where_there_is_no_reference():
    """The score is undefined without a reference; the goal of training is not."""
    known = truth([0.5, 0.5], [0.2, math.nan], goal=[0.2, 0.1])
    assert known.phase_error_rad[0] == known.goal_error_rad[0] == pytest.approx(0.3)
    assert math.isnan(known.phase_error_rad[1])
    assert known.goal_error_rad[1] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points": 0}, "points must be at least 1"),
        ({"n_slices": 4}, "n_slices must be at least 8"),
        ({"ctime_ms": np.zeros(3)}, "ctime_ms has shape"),
        ({"ctime_ms": np.array([1.0, 1.0])}, "ctime_ms must be finite and increase"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(changes, words):
    """A machine's description is checked when it is made."""
    fields = {
        "name": "m",
        "program": "p",
        "points": 2,
        "n_slices": 64,
        "limits": PhaseLimits(),
        "period_s": 1.2,
        "writable": True,
    }
    with pytest.raises(ValueError, match=words):
        MachineDescription(**{**fields, **changes})
