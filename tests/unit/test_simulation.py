"""The simulation backend beside its contract: what it draws, and what a partial start leaves alone."""

import math

import numpy as np
import pytest

from memrl_ctrl.beam import matched_profiles
from memrl_ctrl.env import BeamPhaseVectorEnv
from memrl_ctrl.errors import UsageError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.registry import open_backend
from memrl_ctrl.testing import FakeBackend


def batch(**options):
    return open_backend("blond", **{"rows": 6, "n_slices": 64, "seed": 3, **options})


def test_partial_start_touches_only_its_rows():
    """Rows that are not begun anew keep offset, noise, drift, profile and setpoint to the bit."""
    backend = batch(offset_drift_deg=1.0, offset_jitter_deg=1.0)
    before = backend.start()
    before = backend.play(before.applied_rad + 0.3)
    mask = np.array([False, True, False, False, True, False])
    after = backend.start(mask=mask)
    for name in ("profile", "applied_rad", "quality", "synchronous_phase_rad"):
        old, new = getattr(before, name), getattr(after, name)
        assert np.array_equal(old[~mask], new[~mask])
    for name in ("offset_rad", "phi2_rad", "reference_rad", "emittance_evs"):
        old, new = getattr(before.truth, name), getattr(after.truth, name)
        assert np.array_equal(old[~mask], new[~mask])
        assert not np.isclose(old[mask], new[mask]).any()
    assert np.array_equal(after.applied_rad[mask], np.zeros(2))
    assert after.cycle == before.cycle + 1


def test_start_of_no_row_changes_nothing():
    """An empty mask returns the last reading."""
    backend = batch()
    first = backend.start()
    assert backend.start(mask=np.zeros(6, dtype=bool)) is first


def test_part_of_a_cycle_cannot_begin_anew():
    """The points of a cycle share one bunch: a partial start is refused, whole ones are not."""
    backend = open_backend("blond", program="psb-2gev", points=4, n_slices=64, seed=1)
    backend.start()
    mask = np.array([True, False, False, False])
    with pytest.raises(UsageError, match="share one bunch and one offset"):
        backend.start(mask=mask)
    backend.start(mask=np.ones(4, dtype=bool))


def test_points_of_a_cycle_share_bunch_and_offset():
    """Emittance, intensity and offset are the same at all control points, drift and jitter too."""
    backend = open_backend(
        "blond",
        program="psb-2gev",
        n_slices=64,
        seed=1,
        offset_drift_deg=2.0,
        offset_jitter_deg=2.0,
    )
    first = backend.start().truth
    later = backend.observe().truth
    for truth in (first, later):
        for name in ("emittance_evs", "intensity", "offset_rad"):
            assert np.ptp(getattr(truth, name)) == 0.0
    assert later.offset_rad[0] != first.offset_rad[0]
    assert later.intensity[0] == first.intensity[0]


def test_phi2_is_the_knob_less_the_offset():
    """The convention of the whole project: phi_2 = phi_hw - offset."""
    backend = open_backend("blond", program="psb-2gev", n_slices=64, seed=1, offset_deg=33.0)
    reading = backend.start()
    assert np.allclose(reading.truth.phi2_rad, reading.applied_rad - math.radians(33.0))


def test_conditions_without_a_reference_have_the_least_skewed_profile_as_goal():
    """Where no reference exists the goal is what leans least; where one exists they are the same."""
    backend = batch(rows=64, machine="psb", require_reference=False, intensity=1e13)
    truth = backend.start().truth
    missing = np.isnan(truth.reference_rad)
    assert 0 < missing.sum() < 64
    assert np.isfinite(truth.goal_rad).all()
    conditions = backend.conditions()
    assert conditions is not None
    leans = matched_profiles(conditions.replace(phi2_rad=truth.goal_rad))
    for turned in (-0.3, 0.3, math.pi):
        other = matched_profiles(conditions.replace(phi2_rad=truth.goal_rad + turned))
        assert (np.abs(leans.asymmetry) < np.abs(other.asymmetry))[missing].all()
    assert np.array_equal(truth.goal_rad[~missing], truth.reference_rad[~missing])


def test_environment_reports_what_was_applied_not_what_was_asked_for():
    """Where a limit cuts a step, `applied` is the cut one."""
    backend = FakeBackend(
        points=3, n_slices=64, seed=0, related=False, limits=PhaseLimits(step_rad=0.2)
    )
    env = BeamPhaseVectorEnv(num_envs=3, backend=backend, n_slices=64)
    env.reset()
    asked = np.array([[1.0], [-1.0], [0.05]], dtype=np.float32)
    *_, infos = env.step(asked)
    expected = [0.2, -0.2, 0.05 * math.pi / 2]
    assert infos["applied"][:, 0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"intensity": 1e20}, r"intensity must be 0 to 1e\+15 protons, not 1e\+20"),
        ({"intensity": (1e12, 1e20)}, r"intensity must be 0 to 1e\+15 protons, not 1e\+20"),
        ({"intensity": -1.0}, r"intensity must be 0 to 1e\+15 protons, not -1"),
        ({"emittance_evs": 1e6}, r"emittance_evs must be 0.0001 to 1000 eV s, not 1e\+06"),
        ({"emittance_evs": 0.0}, r"emittance_evs must be 0.0001 to 1000 eV s, not 0"),
        ({"noise": 50.0}, "noise must be 0 to 10 of a profile's peak, not 50"),
        ({"filling": math.inf}, "filling must be above 0 and finite"),
        ({"offset_deg": math.nan}, "offset_deg must be within 3600 degrees, not nan"),
        ({"offset_deg": 1e300}, r"offset_deg must be within 3600 degrees, not 1e\+300"),
        ({"offset_drift_deg": math.inf}, "offset_drift_rad must be at least 0 and finite"),
        ({"points": 1_000_000}, "points must be 1 to 10000, not 1000000"),
    ],
)
def test_what_no_ring_can_hold_is_one_sentence(options, said):
    """Physically absurd values are refused by name, with what is possible, before any work."""
    with pytest.raises(UsageError, match=said):
        open_backend("blond", **options)
