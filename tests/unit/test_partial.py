"""What limits let through of a setpoint in training: cut to a largest change, or not taken at all."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memrl_backends.blond import open_backend
from memrl_backends.blond.backend import SimulationBackend
from memrl_ctrl.env.task import BeamPhase
from memrl_ctrl.errors import UsageError

ROWS = 400


def opened(**options: object) -> SimulationBackend:
    """Open unrelated conditions with few slices."""
    return open_backend(machine="psb", rows=ROWS, n_slices=32, seed=3, distinct=5, **options)


def moved_deg(backend: SimulationBackend, asked_deg: float) -> np.ndarray:
    """Ask every row for a change and return what was applied of it."""
    before = backend.held_rad
    return np.degrees(backend.play(before + math.radians(asked_deg)).applied_rad - before)


def test_a_slew_limit_cuts_in_its_share_of_the_episodes() -> None:
    """Rows without it get all, the others what they drew within the range: the same in every shot."""
    backend = opened(slew_share=0.25, slew_deg=[5.0, 40.0])
    backend.start()
    first, second = moved_deg(backend, 60.0), moved_deg(backend, -60.0)
    cut = first < 59.999
    assert cut.mean() == pytest.approx(0.25, abs=0.06)
    np.testing.assert_allclose(first[~cut], 60.0)
    assert first[cut].min() >= 5.0
    assert first[cut].max() <= 40.0
    np.testing.assert_allclose(second, -first)
    # Evenly in the logarithm: half of them below the geometric mean.
    assert (first[cut] < math.sqrt(5.0 * 40.0)).mean() == pytest.approx(0.5, abs=0.15)


def test_rows_that_begin_anew_draw_anew() -> None:
    """The others keep theirs."""
    backend = opened(slew_share=1.0, slew_deg=[5.0, 40.0])
    backend.start()
    before = moved_deg(backend, 60.0)
    mask = np.arange(ROWS) < 50
    backend.start(mask=mask)
    after = moved_deg(backend, 60.0)
    np.testing.assert_allclose(after[~mask], before[~mask])
    assert (np.abs(after[mask] - before[mask]) > 1e-3).mean() > 0.9


def test_a_held_setpoint_changes_nothing_and_the_next_one_is_taken() -> None:
    """Each shot is drawn for itself."""
    backend = opened(hold_chance=0.3)
    backend.start()
    first, second = moved_deg(backend, 30.0), moved_deg(backend, 30.0)
    for moved in (first, second):
        assert (moved == 0.0).mean() == pytest.approx(0.3, abs=0.08)
        np.testing.assert_allclose(moved[moved != 0.0], 30.0)
    assert ((first == 0.0) & (second == 0.0)).mean() == pytest.approx(0.09, abs=0.05)


def test_what_others_play_is_not_what_was_asked_for() -> None:
    """In its share of the shots another change is applied, evenly within the given size."""
    backend = opened(other_chance=0.4, other_deg=45.0)
    backend.start()
    moved = moved_deg(backend, 80.0)
    others = np.abs(moved - 80.0) > 1e-6
    assert others.mean() == pytest.approx(0.4, abs=0.08)
    assert np.abs(moved[others]).max() <= 45.0
    assert moved[others].std() == pytest.approx(45.0 / math.sqrt(3.0), rel=0.15)


def test_others_may_be_of_all_sizes() -> None:
    """A range of sizes is drawn evenly in its logarithm, to both sides alike."""
    backend = opened(other_chance=1.0, other_deg=[0.5, 128.0])
    backend.start()
    moved = moved_deg(backend, 0.0)
    assert np.abs(moved).min() >= 0.5 - 1e-9
    assert np.abs(moved).max() <= 128.0 + 1e-9
    assert (np.abs(moved) < 8.0).mean() == pytest.approx(0.5, abs=0.1)  # the geometric middle
    assert (moved > 0.0).mean() == pytest.approx(0.5, abs=0.1)


def test_others_keep_the_limits_of_the_machine() -> None:
    """However long they move it about, what is applied is in range, so that the next setpoint is taken."""
    backend = opened(other_chance=1.0, other_deg=180.0)
    backend.start()
    limits = backend.description.limits
    for _ in range(30):
        applied = backend.play(backend.held_rad).applied_rad
        assert (applied >= limits.min_rad).all()
        assert (applied <= limits.max_rad).all()
    assert np.ptp(applied) > math.pi


def test_the_policy_is_told_what_was_applied() -> None:
    """`applied` of the task is what took effect, and so is the error that the truth knows."""
    task = BeamPhase(ROWS, machine="psb", n_slices=32, distinct=5, slew_share=1.0, slew_deg=7.0)
    task.start(1, None)
    before = task.aim_error_rad()
    task.play(np.full(ROWS, 0.5))  # of 90 degrees
    np.testing.assert_allclose(np.degrees(task.applied), 7.0)
    change = np.angle(np.exp(1j * (task.aim_error_rad() - before)))
    np.testing.assert_allclose(np.degrees(change), 7.0, atol=1e-6)


def test_flat_parts_are_drawn_in_their_share() -> None:
    """A third of the conditions more lies in the lowest tenth of the field's derivative."""
    ramp = []
    for share in (0.0, 0.33):
        backend = open_backend(
            machine="psb", rows=ROWS, n_slices=32, seed=3, flat_share=share, require_reference=False
        )
        backend.start()
        conditions = backend.conditions()
        assert conditions is not None
        ramp.append(np.asarray(conditions.b_dot_t_per_s))
    low = [(each < 0.37).mean() for each in ramp]
    assert low[0] == pytest.approx(0.1, abs=0.06)
    assert low[1] == pytest.approx(0.33 + 0.67 * 0.1, abs=0.09)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"slew_share": 1.5}, "slew_share must be 0 to 1, not 1.5"),
        ({"other_chance": 2.0}, "other_chance must be 0 to 1"),
        ({"other_deg": 200.0}, "other_deg must be 0 to 180 degrees"),
        ({"other_deg": [5.0, 200.0]}, "other_deg must be 0 to 180 degrees, not 5 to 200"),
        ({"other_deg": [0.0, 20.0]}, "must begin above 0"),
        ({"flat_share": 1.5}, "flat_share must be 0 to 1, not 1.5"),
        (
            {"flat_share": 0.5, "machine": None, "program": "psb-2gev"},
            "flat_share is for conditions of a machine",
        ),
        ({"one_bunch": True}, "one_bunch is for unrelated conditions of a program"),
        ({"hold_chance": -0.1}, "hold_chance must be 0 to 1"),
        ({"slew_share": 0.5, "slew_deg": [0.0, 5.0]}, "slew_deg must be above 0 and at most 180"),
        ({"slew_share": 0.5, "slew_deg": [5.0, 181.0]}, "slew_deg must be above 0 and at most 180"),
        ({"slew_deg": [50.0, 5.0]}, "slew_deg"),
        ({"rows": None, "machine": None, "hold_chance": 0.1}, "for unrelated conditions"),
        (
            {"machine": None, "program": "psb-2gev", "along_cycle": True, "slew_share": 0.1},
            "for unrelated conditions",
        ),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], sentence: str) -> None:
    """By the option's own name, with what is allowed."""
    with pytest.raises(UsageError, match=sentence):
        open_backend(**{"machine": "psb", "rows": 4, "n_slices": 32, **options})
