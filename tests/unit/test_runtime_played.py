"""The online loop on machines that acknowledge one function and play another: it notices, counts, leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memrl_ctrl.backend import Receipt
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader, verify
from memrl_deploy.endings import leaving_cycles
from memrl_deploy.receiving import PLAYED_RAD, check_played
from memrl_deploy.replaying import replay_trace
from memrl_deploy.runtime import Disengaged

from .online_loop import Collect, Spy, closed_loop

Plays = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


class Disobedient(Spy):
    """Acknowledges what it is sent, and plays something else, which its readings say.

    Args:
        plays: from what is applied, what was sent and its cycle, what it plays.
    """

    def __init__(self, plays: Plays) -> None:
        super().__init__(noise=0.02, offset_rad=1.2)
        self._plays = plays
        self.sent: list[np.ndarray] = []

    def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
        self.sent.append(np.array(phi_hw_rad))
        played = self._plays(self._setpoint.copy(), np.array(phi_hw_rad), cycle)
        receipt = super().submit(played, cycle, deadline_s)
        return replace(receipt, applied_rad=np.array(phi_hw_rad))


def inverted(applied: np.ndarray, sent: np.ndarray, cycle: int) -> np.ndarray:
    return np.asarray(applied - (sent - applied))


def creeping(applied: np.ndarray, sent: np.ndarray, cycle: int) -> np.ndarray:
    return np.asarray(applied + np.radians(8.0))


def standing(applied: np.ndarray, sent: np.ndarray, cycle: int) -> np.ndarray:
    return applied


def half_deaf(applied: np.ndarray, sent: np.ndarray, cycle: int) -> np.ndarray:
    return np.where(np.arange(sent.size) % 2 == 1, sent, applied)


@pytest.mark.parametrize("plays", [inverted, creeping, standing, half_deaf])
def test_a_machine_that_plays_something_else_is_left_after_three_readings(
    plays: Plays, tmp_path: Path
) -> None:
    """Exit code 5, one sentence with the worst point, and the reading that ended it is in the trace."""
    backend, view = Disobedient(plays), Collect()
    summary = closed_loop(backend, tmp_path, cycles=60, view=view).run()
    assert isinstance(summary.error, Disengaged)
    assert summary.error.exit_code == 5
    assert summary.missed == {"not-played": 3}
    assert len(backend.submitted) == 3
    last = view.cycles[-1]
    assert (last.mode, last.cycle) == ("manual", 4)
    apart = np.abs(last.applied_rad - backend.sent[-1])
    point = int(apart.argmax())
    assert (
        f"3 times 'not-played' in a row: cycle 4 plays {np.degrees(last.applied_rad[point]):.2f}° at "
        f"point {point}, and {np.degrees(backend.sent[-1][point]):.2f}° was acknowledged for cycle 4 ("
    ) in str(summary.error)
    assert sum(note.startswith("not-played: ") for note in view.notes) == 3
    assert summary.trace is not None
    assert verify(summary.trace).whole
    with TraceReader(summary.trace) as trace:
        events = [event for record in trace for event in record.events]
        assert replay_trace(trace).identical
        np.testing.assert_array_equal(np.flatnonzero(leaving_cycles(trace)), [3])
    assert sum(event["kind"] == "not-played" for event in events) == 3
    assert [(e["to"], e["cause"]) for e in events if e["kind"] == "mode"][-1] == (
        "manual",
        "missed",
    )


def test_two_in_a_row_are_told_and_followed(tmp_path: Path) -> None:
    """A knob that is turned twice, again and again, is counted; the loop goes on from what is applied."""

    def turned(applied: np.ndarray, sent: np.ndarray, cycle: int) -> np.ndarray:
        return np.asarray(sent + np.radians(10.0 if cycle % 3 else 0.0))

    summary = closed_loop(Disobedient(turned), tmp_path, cycles=30).run()
    assert summary.error is None
    assert summary.written == 30
    assert summary.missed == {"not-played": 19}
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical
        assert not leaving_cycles(trace).any()


def test_readings_of_cycles_for_which_nothing_was_taken_neither_count_nor_clear(
    tmp_path: Path,
) -> None:
    """Held cycles lie between the contradictions: what moves meanwhile is nobody's broken word."""

    class Interrupted(Disobedient):
        def observe(self, timeout_s: float | None = None):  # type: ignore[no-untyped-def]
            reading = super().observe(timeout_s)
            if reading.cycle % 2:
                return reading
            moved = reading.applied_rad + 0.5  # of a reading that is not finite nothing is written
            return replace(
                reading, profile=np.full_like(reading.profile, np.nan), applied_rad=moved
            )

    summary = closed_loop(Interrupted(standing), tmp_path, cycles=12).run()
    assert summary.missed == {"not-played": 3}
    assert isinstance(summary.error, Disengaged)


def test_somebody_at_the_keys_goes_on_in_manual(tmp_path: Path) -> None:
    """Nothing more is written until `e`; then the row begins anew."""
    backend, view = Disobedient(standing), Collect()
    runtime = closed_loop(backend, tmp_path, cycles=16, view=view)
    keys = iter([*[""] * 7, "e"])
    runtime.listen(lambda: next(keys, ""))
    summary = runtime.run()
    modes = [cycle.mode for cycle in view.cycles]
    assert modes[:3] == ["transition", *["closed-loop"] * 2]
    assert modes[3:7] == ["manual"] * 4
    assert summary.missed == {"not-played": 6}
    assert len(backend.submitted) == 6
    assert isinstance(summary.error, Disengaged)  # it ended handed over
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical


def test_a_reading_that_went_missing_does_not_hide_what_plays(tmp_path: Path) -> None:
    """The first reading behind the cycle is held against the receipt: a machine holds what it took."""

    class Skipping(Disobedient):
        def observe(self, timeout_s: float | None = None):  # type: ignore[no-untyped-def]
            super().observe(timeout_s)
            return super().observe(timeout_s)

    summary = closed_loop(Skipping(inverted), tmp_path, cycles=20).run()
    assert summary.missed == {"not-played": 3}
    assert isinstance(summary.error, Disengaged)


@given(
    applied=arrays(np.float64, 8, elements=st.floats(-13.0, 13.0)),
    apart=arrays(
        np.float64, 8, elements=st.floats(-2.0 * PLAYED_RAD, 2.0 * PLAYED_RAD) | st.just(np.nan)
    ),
)
def test_what_is_within_a_degree_plays_what_was_acknowledged(
    applied: np.ndarray, apart: np.ndarray
) -> None:
    """Only a finite difference of more than a degree is one, and the sentence counts the points."""
    reading = replace(FakeBackend(points=8, n_slices=16).start(), applied_rad=applied + apart)
    receipt = Receipt(cycle=reading.cycle, applied_rad=applied, committed_ns=1, fence=0)
    found = check_played(receipt, reading)
    count = int((np.abs(reading.applied_rad - applied) > PLAYED_RAD).sum())
    assert bool(found) is (count > 0)
    assert not found or f"({count} of 8 points differ by more than 1°)" in found
