"""How the hidden offset moves: kinds drawn an episode, sizes within the given ones, in many rows at once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memrl_backends.blond import open_backend
from memrl_backends.blond.wander import KINDS, Sizes, Wander
from memrl_ctrl.errors import UnknownNameError, UsageError

SIZES = Sizes(jitter_rad=0.02, drift_rad=0.01, step_rad=0.2, step_chance=0.5)
ROWS = np.arange(4_000)


def _moves(kinds: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the jitter and the lasting move of many rows in one shot."""
    rng = np.random.default_rng(0)
    wander = Wander(SIZES, kinds, points=ROWS.size, common=False)
    wander.begin(ROWS, rng)
    full = np.zeros(ROWS.size)
    return full + wander.jitter(ROWS, rng), full + wander.moved(rng)


def test_each_row_has_one_kind() -> None:
    """With all kinds a row never jitters and moves for good, and about a quarter only jitters."""
    jitter, moved = _moves(KINDS)
    assert not ((jitter != 0.0) & (moved != 0.0)).any()
    assert (jitter != 0.0).mean() == pytest.approx(0.25, abs=0.04)
    # Drift always moves, steps in half of the shots.
    assert (moved != 0.0).mean() == pytest.approx(0.375, abs=0.04)


def test_without_kinds_all_moves_are_there_in_full_size() -> None:
    """Jitter, drift and steps at once, with the standard deviations that were given."""
    jitter, moved = _moves(())
    assert jitter.std() == pytest.approx(SIZES.jitter_rad, rel=0.05)
    variance = SIZES.drift_rad**2 + SIZES.step_chance * SIZES.step_rad**2
    assert moved.std() == pytest.approx(math.sqrt(variance), rel=0.05)


def test_a_still_offset_stays() -> None:
    """An episode of the kind still has no move at all, whatever sizes are given."""
    jitter, moved = _moves(("still",))
    assert not jitter.any()
    assert not moved.any()


def test_what_a_correction_can_aim_at_has_no_jitter() -> None:
    """The truth tells the lasting offset apart: it stands still while the shots jitter about it."""
    backend = open_backend(machine="psb", rows=8, n_slices=64, seed=1, offset_jitter_deg=2.0)
    readings = [backend.start(), backend.observe(), backend.observe()]
    truths = [reading.truth for reading in readings if reading.truth is not None]
    lasting = [truth.lasting_offset_rad for truth in truths]
    assert lasting[0] is not None
    for truth, offset in zip(truths, lasting, strict=True):
        np.testing.assert_array_equal(offset, lasting[0])
        aim = truth.aim_error_rad - truth.goal_error_rad
        np.testing.assert_allclose(
            np.angle(np.exp(1j * (aim - truth.offset_rad + offset))), 0.0, atol=1e-12
        )
        assert (truth.offset_rad != offset).all()


def test_an_unknown_kind_is_refused() -> None:
    """The sentence names the kinds that there are."""
    with pytest.raises(UnknownNameError, match="kind of offset"):
        open_backend(offset_kinds=["jiter"])
    with pytest.raises(UsageError, match="offset_step_chance must be 0 to 1"):
        open_backend(offset_step_deg=1.0, offset_step_chance=2.0)
