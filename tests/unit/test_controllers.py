"""Classical controllers: pure functions of what they see and of their memory."""

from __future__ import annotations

import numpy as np
import pytest

from memrl_ctrl import controllers
from memrl_ctrl.controllers.core import LARGEST_STEP_RAD, N_SLICES, Driven
from memrl_ctrl.errors import UnknownNameError

NAMES = controllers.available()


def observations(rows: int, seed: int) -> np.ndarray:
    """Bunches of some widths and skews, with noise."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(-np.pi, np.pi, N_SLICES)
    width = rng.uniform(0.6, 1.2, (rows, 1))
    skew = rng.uniform(-0.5, 0.5, (rows, 1))
    profile = np.maximum(0.0, 1.0 - (phase / width / 1.5) ** 2) * (1.0 + skew * phase)
    profile += rng.normal(0.0, 0.02, profile.shape)
    profile /= profile.mean(axis=1, keepdims=True)
    return np.concatenate([profile, np.full((rows, 1), 0.1)], axis=1).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_touch_each_other(name: str) -> None:
    """A row alone gets the same changes as among others, shot after shot."""
    many, one = controllers.drive(name), controllers.drive(name)
    many.reset(5)
    one.reset(1)
    applied = np.zeros((5, 1), dtype=np.float32)
    for shot in range(6):
        seen = observations(5, shot)
        together = many.act(seen, applied)
        alone = one.act(seen[2:3], applied[2:3])
        np.testing.assert_allclose(alone[0], together[2], atol=1e-5)
        applied = 0.9 * together


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_is_not_shown_neither_moves_nor_learns(name: str) -> None:
    """An observation of zeros brings no change and leaves the memory as it was."""
    driven = controllers.drive(name)
    driven.reset(3)
    applied = driven.act(observations(3, 0), np.zeros((3, 1), dtype=np.float32))
    before = driven.memory
    seen = observations(3, 1)
    seen[1] = 0.0
    action = driven.act(seen, applied)
    assert action[1, 0] == 0.0
    for key, array in driven.memory.items():
        np.testing.assert_array_equal(array[1], before[key][1])


@pytest.mark.parametrize("name", NAMES)
def test_same_memory_brings_the_same_answer(name: str) -> None:
    """Put back to a memory, a controller repeats its answer bit for bit, within its largest step."""
    driven = controllers.drive(name)
    driven.reset(4)
    applied = np.zeros((4, 1), dtype=np.float32)
    for shot in range(3):
        applied = driven.act(observations(4, shot), applied)
    held = driven.memory
    first = driven.act(observations(4, 9), applied)
    driven.memory = held
    np.testing.assert_array_equal(driven.act(observations(4, 9), applied), first)
    assert np.abs(first).max() <= np.float32(LARGEST_STEP_RAD)


def test_settings_decide_the_digest() -> None:
    """The same controller with another gain is another one."""
    from memrl_ctrl.controllers.network import ConstantGain

    assert Driven(ConstantGain(gain=0.4)).digest != Driven(ConstantGain(gain=0.5)).digest


def test_unknown_controller_is_named() -> None:
    """A controller that does not exist is refused with those that do."""
    with pytest.raises(UnknownNameError, match=r"no controller 'hodl'.*did you mean 'hold'"):
        controllers.make("hodl")


def test_kalman_weighs_by_what_is_known() -> None:
    """The first measurement counts whole; a standing phase is then averaged, not followed."""
    driven = controllers.drive("network-kalman")
    driven.reset(1)
    none = np.zeros((1, 1), dtype=np.float32)
    seen = observations(1, 3)
    first = driven.act(seen, none)
    direct = controllers.drive("network-decaying")
    direct.reset(1)
    np.testing.assert_allclose(first, direct.act(seen, none), atol=1e-6)
    precision = driven.memory["precision_in"][0, 0]
    driven.act(seen, none)
    assert driven.memory["precision_in"][0, 0] > precision
