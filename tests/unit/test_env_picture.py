"""Pictures of an episode: frames that show what changes, and one sentence where there are none."""

import sys

import gymnasium
import numpy as np
import pytest

import memrl_ctrl  # noqa: F401 - registers the environments
from memrl_ctrl.env import BeamPhaseEnv, BeamPhaseVectorEnv
from memrl_ctrl.errors import MissingExtraError, UsageError
from memrl_ctrl.testing import FakeBackend

MOVE = np.array([0.2], dtype=np.float32)


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
