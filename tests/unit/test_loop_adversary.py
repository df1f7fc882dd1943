"""The online loop on a machine that does not keep its word: what it sends is not what it said it would."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_ctrl.backend import Reading, Receipt
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import OutcomeRecord, TraceReader, verify
from memrl_deploy.modes import Shadow
from memrl_deploy.receiving import BrokenContract
from memrl_deploy.replaying import replay_trace
from memrl_deploy.runtime import Disengaged, Runtime
from memrl_deploy.summary import RunSummary

from .online_loop import Collect, Looker, N, Spy, closed_loop, policy

WORKS = 5
"""Readings that are what was promised."""
Alter = Callable[[Reading], Reading]

POINTWISE = ("setpoint_rad", "applied_rad", "readback_rad", "synchronous_phase_rad", "quality")
OTHER: dict[str, tuple[Alter, str]] = {
    "points": (
        lambda r: replace(
            r, profile=r.profile[:6], **{name: getattr(r, name)[:6] for name in POINTWISE}
        ),
        r"profile of cycle 6 as float32 \[6, 64\], and had described itself with float32 \[8, 64\]",
    ),
    "slices": (lambda r: replace(r, profile=r.profile[:, ::2]), r"as float32 \[8, 32\]"),
    "type": (lambda r: replace(r, profile=r.profile.astype(np.float64)), r"as float64 \[8, 64\]"),
    "applied": (
        lambda r: replace(r, applied_rad=r.applied_rad[:, None]),
        r"applied_rad of cycle 6 as float64 \[8, 1\]",
    ),
    "none": (lambda r: replace(r, readback_rad=None), "readback_rad of cycle 6 as NoneType"),  # type: ignore[arg-type]
    "largest cycle": (lambda r: replace(r, cycle=2**63 - 1), "cycle 9223372036854775807; cycles"),
    "cycle below 0": (lambda r: replace(r, cycle=-1), "cycle -1; cycles count from 0"),
    "stamp": (lambda r: replace(r, stamp_ns=2**63), "stamp_ns 9223372036854775808 with cycle 6"),
}


def from_then_on(alter: Alter) -> Alter:
    """Alter what comes after the readings that work."""
    return lambda reading: alter(reading) if reading.cycle > WORKS else reading


def last_outcome(summary: RunSummary) -> OutcomeRecord | None:
    assert summary.trace is not None
    assert verify(summary.trace).whole
    with TraceReader(summary.trace) as trace:
        assert len(trace) == WORKS
        return trace.outcome(-1)


@pytest.mark.parametrize("what", OTHER)
@pytest.mark.parametrize("shadow", [False, True])
def test_a_machine_that_changes_within_the_run_ends_it(
    what: str, shadow: bool, tmp_path: Path
) -> None:
    """A reading that is not what the description promises ends the run with one sentence and exit code 5;
    the trace is whole to the cycle before, the last function stays."""
    alter, words = OTHER[what]
    machine = Spy(alter=from_then_on(alter))
    runtime = (
        Runtime(Shadow(machine), policy(), records=tmp_path, cycles=20)
        if shadow
        else closed_loop(machine, tmp_path, cycles=20)
    )
    summary = runtime.run()
    assert isinstance(summary.error, BrokenContract)
    assert summary.error.exit_code == 5
    with pytest.raises(BrokenContract, match=words):
        raise summary.error
    assert len(machine.submitted) == (0 if shadow else WORKS)
    outcome = last_outcome(summary)
    assert (outcome is None) == shadow


def test_the_first_reading_is_held_against_the_description_too(tmp_path: Path) -> None:
    """Nothing is begun, and nothing recorded, on a machine that is not what it says."""
    machine = Spy(alter=OTHER["points"][0])
    summary = closed_loop(machine, tmp_path, cycles=3).run()
    assert isinstance(summary.error, BrokenContract)
    assert summary.trace is None
    assert not list(tmp_path.iterdir())


def test_a_description_that_changes_along_does_not_help(tmp_path: Path) -> None:
    """The run keeps to what the machine said when it began, whatever it says of itself later."""
    fake = Spy()
    readings = [fake.observe() for _ in range(WORKS)]
    source = Looker([*readings, OTHER["points"][0](fake.observe())], fake)
    runtime = Runtime(Shadow(source), policy(), records=tmp_path, cycles=20)
    source.description = FakeBackend(points=6, n_slices=N).description
    assert isinstance(runtime.run().error, BrokenContract)


class Receipts(Spy):
    """Gives receipts of its own making."""

    def __init__(self, make: Callable[[Receipt], Any], times: int = 99) -> None:
        super().__init__()
        self._make, self._times = make, times

    def submit(self, phi_hw_rad: np.ndarray, cycle: int, deadline_s: float) -> Receipt:
        receipt = super().submit(phi_hw_rad, cycle, deadline_s)
        made: Receipt = (
            self._make(receipt) if 2 < len(self.submitted) <= 2 + self._times else receipt
        )
        return made


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda r: replace(r, applied_rad=r.applied_rad[:5]), r"a receipt as float64 \[5\]"),
        (lambda r: replace(r, applied_rad=r.applied_rad * np.nan), "is not finite"),
        (lambda r: replace(r, applied_rad=None), "a receipt as NoneType"),
        (lambda r: replace(r, cycle=2**64), "numbers that are none"),
    ],
)
def test_what_is_no_receipt_ends_the_run(
    make: Callable[[Receipt], Receipt], words: str, tmp_path: Path
) -> None:
    """Whether the function was taken is not known: the outcome says so, and the run ends."""
    summary = closed_loop(Receipts(make), tmp_path, cycles=8).run()
    with pytest.raises(BrokenContract, match=words):
        raise summary.error or AssertionError
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        outcome = trace.outcome(-1)
    assert outcome is not None
    assert outcome.reason == "BrokenContract"
    assert [e["cause"] for e in outcome.events if e["kind"] == "mode"] == ["lost"]


@pytest.mark.parametrize(("times", "ends"), [(2, False), (3, True)])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda r: replace(r, cycle=r.cycle + 3), "its receipt is for cycle 9, and the function"),
        (lambda r: replace(r, applied_rad=r.applied_rad + 0.1), "its receipt for cycle 6 has"),
    ],
)
def test_a_machine_that_takes_something_else_is_left_after_three_times(
    make: Callable[[Receipt], Receipt], words: str, times: int, ends: bool, tmp_path: Path
) -> None:
    """A receipt for another function or cycle is told and counted; the third in a row ends the run.

    Where the reading then shows the function that was sent, and not that of the receipt, this is told too.
    """
    view = Collect()
    summary = closed_loop(Receipts(make, times), tmp_path, cycles=12, view=view).run()
    assert isinstance(summary.error, Disengaged) == ends
    assert summary.missed.pop("receipt") == times
    assert summary.missed == ({"not-played": 2} if "has" in words else {})
    if ends:
        assert words in str(summary.error)
        assert "the machine stays at the last applied function" in str(summary.error)
    assert sum("receipt" in note for note in view.notes) >= times
    assert summary.trace is not None
    assert verify(summary.trace).whole


def test_numbers_that_overflow_are_held_without_a_word_of_numpy(tmp_path: Path) -> None:
    """Profiles whose sum no float32 holds are held by the guard, then handed over; the replay repeats it."""
    machine = Spy(alter=from_then_on(lambda r: replace(r, profile=r.profile * np.float32(1e38))))
    summary = closed_loop(machine, tmp_path, cycles=12).run()
    assert summary.error is None
    assert np.isfinite(machine.submitted).all()
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        assert replay_trace(trace).identical


def test_a_readback_that_stands_at_the_snapshot_verifies_nothing(tmp_path: Path) -> None:
    """Restored is what is applied and read back: one that stuck at engage does not end the way back."""
    machine = Spy(alter=from_then_on(lambda r: replace(r, readback_rad=np.zeros(8))))
    summary = closed_loop(machine, tmp_path, cycles=40).run()
    assert np.abs(machine.submitted[WORKS - 1]).max() > np.radians(
        10.0
    )  # where the readback is not
    assert isinstance(summary.error, Disengaged)
    assert "restored, verified by readback" in str(summary.error)
    np.testing.assert_allclose(machine.submitted[-1], 0.0, atol=np.radians(0.1))


@pytest.mark.parametrize("what", ["deleted", "cut"])
def test_a_journal_that_somebody_takes_away_is_a_cycle_that_is_not_recorded(
    what: str, tmp_path: Path
) -> None:
    """Nothing is written any more once the records lie nowhere: the third such cycle ends the run."""
    taken: list[int] = []

    def vandal(reading: Reading) -> Reading:
        if reading.cycle == WORKS + 1:
            (journal,) = tmp_path.glob("*/trace.journal")
            taken.append(len(machine.submitted))
            journal.unlink() if what == "deleted" else os.truncate(journal, 1000)
        return reading

    machine = Spy(alter=vandal)
    summary = closed_loop(machine, tmp_path, cycles=20).run()
    assert isinstance(summary.error, Disengaged)
    assert "3 times 'unrecorded' in a row" in str(summary.error)
    assert "somebody" in str(summary.error)
    assert taken == [WORKS]
    assert len(machine.submitted) == WORKS
    assert summary.trace_problem
