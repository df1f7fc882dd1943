"""Invariants of the simulation along the cycle, for any actions of any size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memrl_ctrl.angles import wrap
from memrl_ctrl.env import BeamCycleVectorEnv

ROWS, POINTS = 6, 7
ENV = BeamCycleVectorEnv(
    num_envs=ROWS, n_slices=64, points=POINTS, filling=(0.3, 1.3), noise=0.0, seed=0
)
"""One for all examples; every example begins with a reset by its own seed."""

actions = st.lists(
    st.lists(st.floats(-1.0, 1.0, width=32), min_size=ROWS, max_size=ROWS),
    min_size=POINTS - 1,
    max_size=POINTS - 1,
)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), steps=actions)
def test_a_bunch_only_loses_and_keeps_its_offset(seed: int, steps: list[list[float]]) -> None:
    """Along a passage nothing is gained, emittance and intensity shrink alike, the offset stays."""
    ENV.reset(seed=seed)
    task = ENV.task
    first = before = task.reading.truth
    assert before is not None
    assert first is not None
    for number, action in enumerate(steps):
        held = task.held_rad()
        task.play(np.array(action))
        truth, reading = task.reading.truth, task.reading
        assert truth is not None
        assert (truth.emittance_evs <= before.emittance_evs).all()
        np.testing.assert_allclose(
            truth.emittance_evs / first.emittance_evs, truth.intensity / first.intensity, rtol=1e-9
        )
        np.testing.assert_array_equal(truth.offset_rad, first.offset_rad)
        np.testing.assert_allclose(task.applied, reading.applied_rad - held)
        np.testing.assert_allclose(
            wrap(truth.phi2_rad + truth.offset_rad - reading.applied_rad), 0.0, atol=1e-9
        )
        limits = task.backend.description.limits
        assert (np.abs(task.applied) <= limits.step_rad + 1e-9).all()
        assert (task.truncated() == (number == POINTS - 2)).all()
        before = truth
