"""A beam that is worse than where a person engaged the loop is told, once, and recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.backend import Reading
from memrl_ctrl.metrics import ProfileMetrics, measure
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.trace import TraceReader
from memrl_deploy.benefit import BEFORE, CYCLES, Benefit, Worse

from .online_loop import Collect, Spy, closed_loop, policy

POINTS, N = 4, 64
ALL = np.ones(POINTS, dtype=np.bool_)
MEASURED = measure(Spy(points=POINTS).start().profile)


def metrics(asymmetry: float | np.ndarray, bunching: float | np.ndarray = 0.5) -> ProfileMetrics:
    return replace(
        MEASURED,
        asymmetry=np.broadcast_to(asymmetry, POINTS),
        bunching_factor=np.broadcast_to(bunching, POINTS),
    )


def engaged(before: float = 0.05, bunching: float = 0.5) -> Benefit:
    subject = Benefit()
    for _ in range(3):
        assert subject.see(metrics(before, bunching), ALL, engaged=False) is None
    return subject


def told(subject: Benefit, seen: ProfileMetrics, cycles: int) -> list[Worse | None]:
    return [subject.see(seen, ALL, engaged=True) for _ in range(cycles)]


@pytest.mark.parametrize(
    ("asymmetry", "bunching", "worse"),
    [
        (0.16, 0.5, True),
        (-0.16, 0.5, True),
        (0.14, 0.5, False),
        (0.0, 0.39, True),
        (0.0, 0.41, False),
        (0.0, 0.9, False),
    ],
)
def test_twenty_cycles_that_lean_more_or_are_shorter_are_told_once(
    asymmetry: float, bunching: float, *, worse: bool
) -> None:
    """By 0.1 more than then, whichever way, or at less than 0.8 of the bunching factor of then."""
    found = told(engaged(), metrics(asymmetry, bunching), 3 * CYCLES)
    assert [k for k, each in enumerate(found) if each is not None] == (
        [CYCLES - 1] if worse else []
    )
    if worse:
        (said,) = (each for each in found if each is not None)
        then = (said.asymmetry_before, said.bunching_factor_before)
        assert then == pytest.approx((0.05, 0.5))
        assert (said.asymmetry, said.bunching_factor) == pytest.approx((abs(asymmetry), bunching))
        assert f"mean |asymmetry| {abs(asymmetry):.3f} (then 0.050; at one point " in str(said)


def test_a_good_cycle_begins_the_count_anew_and_a_second_spell_is_told_too() -> None:
    """Nineteen, a good one, twenty: told at the last; a good one, twenty: told again."""
    subject, bad, good = engaged(), metrics(0.3), metrics(0.05)
    assert told(subject, bad, CYCLES - 1)[-1] is None
    assert told(subject, good, 1) == [None]
    for _ in range(2):
        assert [each is not None for each in told(subject, bad, CYCLES)] == [False] * 19 + [True]
        assert told(subject, good, 1) == [None]


def test_a_person_who_engages_again_sets_what_it_is_held_against() -> None:
    """What was bad before an engagement is no reproach to it; only the last cycles before it count."""
    subject = engaged()
    told(subject, metrics(0.3), CYCLES - 1)
    for _ in range(2 * BEFORE):
        subject.see(metrics(0.05), ALL, engaged=False)
    for _ in range(BEFORE):
        subject.see(metrics(0.3), ALL, engaged=False)
    assert told(subject, metrics(0.3), 2 * CYCLES) == [None] * 2 * CYCLES
    assert any(told(subject, metrics(0.41), CYCLES))


def test_points_are_held_against_themselves() -> None:
    """A point that was not seen then, or is not now, does not count; without any, nothing is told."""
    subject, first = Benefit(), ALL.copy()
    first[0] = False
    leaning = np.array([0.9, 0.05, np.nan, 0.05])
    subject.see(metrics(0.05), first, engaged=False)
    assert told(subject, metrics(leaning), CYCLES) == [None] * CYCLES
    only = ~first
    assert all(subject.see(metrics(0.9), only, engaged=True) is None for _ in range(CYCLES))
    leaning = np.array([0.05, 0.05, np.nan, 0.5])
    assert any(told(subject, metrics(leaning), CYCLES))


def test_the_loop_is_held_against_its_own_best_too() -> None:
    """Engaged on a beam that leant much, it led to one that did not, then away: told, with what it was."""
    subject = engaged(before=0.5)
    assert told(subject, metrics(0.01), 2 * BEFORE) == [None] * 2 * BEFORE
    found = told(subject, metrics(0.2), CYCLES)
    assert found[:-1] == [None] * (CYCLES - 1)
    assert found[-1] is not None
    assert found[-1].since == "the loop had it before"
    assert found[-1].asymmetry_before == pytest.approx(0.01)


def test_one_point_that_goes_astray_is_told() -> None:
    """The mean of four hardly moves; the point does."""
    subject = engaged()
    astray = np.array([0.05, 0.05, 0.05, 0.4])
    found = told(subject, metrics(astray), CYCLES)
    assert found[-1] is not None
    assert found[-1].more_at_a_point == pytest.approx(0.35)
    assert told(engaged(), metrics(np.array([0.05, 0.05, 0.05, 0.3])), CYCLES) == [None] * CYCLES


def test_engaged_in_its_first_cycle_it_is_held_against_that() -> None:
    """Nothing was seen before: the first cycle is what there is."""
    subject = Benefit()
    assert told(subject, metrics(0.05), 1) == [None]
    assert any(told(subject, metrics(0.3), CYCLES))


def test_the_loop_tells_and_records_it_and_goes_on(tmp_path: Path) -> None:
    """Nothing moves; from the eighth cycle on profiles lean: one sentence, one event, no end."""
    phase = (np.arange(N) + 0.5) / N
    leans = np.where((phase > 0.2) & (phase < 0.8), phase - 0.2, 0.0).astype(np.float32)

    def leaning(reading: Reading) -> Reading:
        if reading.cycle < 8:
            return reading
        return replace(reading, profile=np.broadcast_to(leans, reading.profile.shape))

    view = Collect()
    still = policy(proportional_policy(n_slices=N, gain_rad=0.0))
    loop = closed_loop(Spy(alter=leaning), tmp_path, cycles=50, view=view, policy=still)
    summary = loop.run()
    assert summary.error is None
    (said,) = summary.worse
    assert said.startswith(f"cycle {8 + CYCLES - 1}: mean |asymmetry| ")
    assert sum(note.startswith("the beam is worse than when the loop") for note in view.notes) == 1
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        events = [
            (record.reading.cycle, event)
            for record in (trace.record(k) for k in range(len(trace)))
            for event in record.events
            if event["kind"] == "worse"
        ]
    ((cycle, event),) = events
    assert event["cycle"] == 8 + CYCLES - 1
    assert cycle == event["cycle"] + 1  # told behind the cycle's function, in the next record
    assert event["asymmetry"] > event["asymmetry_before"] + 0.1
