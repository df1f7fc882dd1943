"""Pictures of an episode: frames that show what changes, and one sentence where there are none."""

import sys

import gymnasium
import numpy as np
import pytest

import memrl_ctrl  # noqa: F401 - registers the environments
from memrl_ctrl.beam import Conditions, Machine, Resonator, matched_profiles
from memrl_ctrl.env import BeamPhaseEnv, BeamPhaseVectorEnv
from memrl_ctrl.env.well import KnowsConditions, potential_well
from memrl_ctrl.errors import MissingExtraError, UsageError
from memrl_ctrl.testing import FakeBackend

MOVE = np.array([0.2], dtype=np.float32)
FILLED = (154, 210, 242)
"""Of the filled well upon white."""


RING = Machine(
    space_charge_g=2.0, impedance=(Resonator(r_shunt_ohm=500.0, frequency_hz=3.0e6, q=0.6),)
)


def pixels_near(frame, colour, within=60):
    return int((np.abs(frame.astype(int) - colour).max(axis=2) < within).sum())


@pytest.mark.parametrize("name", ["memrl/BeamPhase-v0", "memrl/BeamCycle-v0"])
def test_frames_show_the_episode(name):
    """Every frame has one size, and a step changes it; the same state gives the same frame."""
    pytest.importorskip("matplotlib")
    with gymnasium.make(name, n_slices=64, seed=0, render_mode="rgb_array") as env:
        env.reset(seed=1)
        first, again = env.render(), env.render()
        env.step(MOVE)
        second = env.render()
    assert first.shape == second.shape == (480, 640, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    changed = (first != second).any(axis=2)
    # The profile in the upper part and the way in the lower part both changed.
    assert changed[40:220].any()
    assert changed[300:].any()
    # Not an empty sheet: the curves are there, in their two colours.
    for colour in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00]):
        assert (np.abs(second.astype(int) - colour).max(axis=2) < 30).sum() > 50


def test_a_machine_without_truth_is_drawn_too():
    """Where no error is known the way is phi_hw."""
    from dataclasses import replace

    pytest.importorskip("matplotlib")
    backend = FakeBackend(points=2, n_slices=64, alter=lambda r: replace(r, truth=None))
    env = BeamPhaseEnv(backend=backend, n_slices=64, reward="measured", render_mode="rgb_array")
    env.reset()
    env.step(MOVE)
    assert env.render().std() > 0


def test_the_well_is_drawn_where_the_truth_is_known():
    """A simulation shows how far its well is filled; a machine does not know it."""
    from dataclasses import replace

    pytest.importorskip("matplotlib")
    with gymnasium.make(
        "memrl/BeamPhase-v0", n_slices=64, seed=0, render_mode="rgb_array"
    ) as simulation:
        simulation.reset(seed=1)
        assert pixels_near(simulation.render()[240:], FILLED, within=6) > 500
    backend = FakeBackend(points=2, n_slices=64, alter=lambda r: replace(r, truth=None))
    machine = BeamPhaseEnv(backend=backend, n_slices=64, reward="measured", render_mode="rgb_array")
    machine.reset()
    assert pixels_near(machine.render()[240:], FILLED, within=6) < 50


def test_frames_that_were_not_drawn_are_in_the_way_all_the_same():
    """Who draws every tenth step sees the same way as who draws all: nothing depends on drawing."""
    pytest.importorskip("matplotlib")
    frames = []
    for every in (1, 6):
        with gymnasium.make(
            "memrl/BeamPhase-v0", n_slices=64, seed=0, render_mode="rgb_array"
        ) as env:
            env.reset(seed=1)
            for step in range(6):
                env.step(MOVE)
                if (step + 1) % every == 0:
                    frame = env.render()
        frames.append(frame)
    # The title with the figures, and nothing outside of the axes' own limits.
    assert np.array_equal(frames[0][:30], frames[1][:30])
    blue = [pixels_near(frame[260:, 340:], np.array([0x00, 0x72, 0xB2])) for frame in frames]
    assert min(blue) > 60


def test_a_new_episode_begins_with_an_empty_way():
    """What was drawn of the last one is gone: the same seed gives the same first frame."""
    pytest.importorskip("matplotlib")
    with gymnasium.make("memrl/BeamPhase-v0", n_slices=64, seed=0, render_mode="rgb_array") as env:
        env.reset(seed=4)
        first = env.render()
        for _ in range(3):
            env.step(MOVE)
            env.render()
        env.reset(seed=4)
        assert np.array_equal(env.render(), first)


@pytest.mark.parametrize("intensity", [0.0, 8e12])
def test_the_well_is_that_of_the_bunch(intensity):
    """Line density is proportional to how deep the well is filled (lambda ~ H0 - U), with wakes and
    space charge; the RF alone is the textbook's."""
    conditions = Conditions(
        b_field_t=0.4, b_dot_t_per_s=2.0, v1_v=8e3, v2_v=5e3, phi2_rad=0.7,
        emittance_evs=1.0, intensity=intensity, machine=RING,
    )  # fmt: skip
    points = 721
    well = potential_well(conditions, points)
    matched = matched_profiles(conditions, 720)
    depth = np.where(well.filled, well.level_kvrad - well.total_kvrad, 0.0)
    density = depth / (depth[:-1].sum() * 2.0 * np.pi / 720)
    turn = np.radians(well.phase_deg) + matched.mean_phase_rad[0]
    expected = np.interp(
        np.mod(turn, 2.0 * np.pi), matched.phase_rad, matched.line_density[0], period=2.0 * np.pi
    )
    np.testing.assert_allclose(density, expected, atol=2e-3 * expected.max())
    gain = conditions.energy_gain_ev[0]
    rf = (8e3 * np.cos(turn) + 2.5e3 * np.cos(2.0 * turn + 0.7) - gain * turn) / 1e3
    np.testing.assert_allclose(well.rf_kvrad - well.rf_kvrad[0], rf - rf[0], atol=1e-9)
    same = np.allclose(well.total_kvrad, well.rf_kvrad, atol=1e-6)
    assert same == (intensity == 0.0)


def test_where_there_is_no_bucket_there_is_no_well():
    """More energy gain than voltage: nothing to draw."""
    conditions = Conditions(
        b_field_t=0.4, b_dot_t_per_s=8.0, v1_v=1e3, v2_v=0.0, phi2_rad=0.0,
        emittance_evs=1.0, intensity=0.0,
    )  # fmt: skip
    assert potential_well(conditions) is None


@pytest.mark.parametrize("name", ["memrl/BeamPhase-v0", "memrl/BeamCycle-v0"])
def test_the_simulation_says_what_its_reading_was_made_in(name):
    """The matched profile of its conditions is the profile that was measured, without noise."""
    with gymnasium.make(
        name, n_slices=64, seed=0, noise=0.0, monitor="ideal", program="psb-2gev"
    ) as env:
        env.reset(seed=2)
        backend = env.unwrapped.task.backend
        for _ in range(3):
            env.step(MOVE)
        reading = env.unwrapped.task.reading
        conditions = backend.conditions()
        assert isinstance(backend, KnowsConditions)
        np.testing.assert_array_equal(conditions.phi2_rad, reading.truth.phi2_rad)
        expected = matched_profiles(conditions, 64).line_density[0]
        shape = reading.profile[0] / reading.profile[0].sum()
        np.testing.assert_allclose(shape, expected / expected.sum(), atol=2e-3 * shape.max())


def test_without_a_render_mode_nothing_is_drawn():
    """`render` returns None where no pictures were asked for."""
    env = BeamPhaseEnv(n_slices=64, seed=0)
    env.reset()
    assert env.render() is None


def test_pictures_need_the_extra(monkeypatch):
    """Without matplotlib the sentence says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    monkeypatch.delitem(sys.modules, "memrl_ctrl.env.picture", raising=False)
    with pytest.raises(MissingExtraError, match=r"memrl-ctrl\[plot\]"):
        BeamPhaseEnv(n_slices=64, seed=0, render_mode="rgb_array")


def test_many_rows_draw_no_pictures():
    """The vector version refuses a render mode and says what draws."""
    with pytest.raises(UsageError, match=r"gymnasium.make makes the environment that draws"):
        BeamPhaseVectorEnv(num_envs=2, render_mode="rgb_array")


def test_an_unknown_render_mode_is_refused():
    """Only `rgb_array` exists."""
    with pytest.raises(UsageError, match="render_mode must be None or 'rgb_array', not 'ansi'"):
        BeamPhaseEnv(render_mode="ansi")
