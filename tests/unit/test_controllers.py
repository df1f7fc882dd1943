"""Classical controllers: pure functions of what they see and of their memory."""

from __future__ import annotations

import numpy as np
import pytest

from memrl_ctrl import controllers
from memrl_ctrl.beam import Conditions
from memrl_ctrl.controllers.core import LARGEST_STEP_RAD, N_SLICES, Driven
from memrl_ctrl.errors import MismatchError, UnknownNameError
from memrl_ctrl.program import load_program

NAMES = controllers.available()
QUICK = [name for name in NAMES if name != "fit-damped"]
"""Those that are played: `fit-damped` is `fit` with another number."""
SLOW = ("fit", "fit-damped")


def points(rows: int) -> Conditions:
    """Points of a shipped program, as the control system knows them."""
    program = load_program("psb-2gev")
    at = program.at(np.linspace(300.0, 780.0, rows))
    return at.conditions(program.machine.ring)


def driven_of(name: str, rows: int) -> Driven:
    """A controller with the memory of `rows` rows, told what it needs."""
    driven = controllers.drive(name)
    driven.inform(points(rows))
    driven.reset(rows)
    return driven


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


@pytest.mark.parametrize("name", QUICK)
def test_rows_do_not_touch_each_other(name: str) -> None:
    """A row alone gets the same changes as among others, shot after shot."""
    rows, shots = (3, 1) if name in SLOW else (5, 6)
    many, one = driven_of(name, rows), controllers.drive(name)
    one.inform(points(rows).take(np.array([2])))
    one.reset(1)
    applied = np.zeros((rows, 1), dtype=np.float32)
    for shot in range(shots):
        seen = observations(rows, shot)
        together = many.act(seen, applied)
        alone = one.act(seen[2:3], applied[2:3])
        np.testing.assert_allclose(alone[0], together[2], atol=1e-5)
        applied = 0.9 * together


@pytest.mark.parametrize("name", QUICK)
def test_a_row_that_is_not_shown_neither_moves_nor_learns(name: str) -> None:
    """An observation of zeros brings no change and leaves the memory as it was."""
    driven = driven_of(name, 3)
    applied = driven.act(observations(3, 0), np.zeros((3, 1), dtype=np.float32))
    before = driven.memory
    seen = observations(3, 1)
    seen[1] = 0.0
    action = driven.act(seen, applied)
    assert action[1, 0] == 0.0
    for key, array in driven.memory.items():
        np.testing.assert_array_equal(array[1], before[key][1])


@pytest.mark.parametrize("name", QUICK)
def test_same_memory_brings_the_same_answer(name: str) -> None:
    """Put back to a memory, a controller repeats its answer bit for bit, within its largest step."""
    rows, shots = (2, 1) if name in SLOW else (4, 3)
    driven = driven_of(name, rows)
    applied = np.zeros((rows, 1), dtype=np.float32)
    for shot in range(shots):
        applied = driven.act(observations(rows, shot), applied)
    held = driven.memory
    first = driven.act(observations(rows, 9), applied)
    driven.memory = held
    np.testing.assert_array_equal(driven.act(observations(rows, 9), applied), first)
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


@pytest.mark.parametrize("name", SLOW)
def test_a_model_needs_the_points(name: str) -> None:
    """A controller with a model that was not told the points, or of other ones, says so."""
    driven = controllers.drive(name)
    driven.reset(2)
    none = np.zeros((2, 1), dtype=np.float32)
    with pytest.raises(
        MismatchError, match=f"controller '{name}' works with a model of each point"
    ):
        driven.act(observations(2, 0), none)
    driven.inform(points(3))
    with pytest.raises(MismatchError, match="knows 3 points, and 2 are asked for"):
        driven.act(observations(2, 0), none)
