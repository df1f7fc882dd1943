"""Points that go to and fro and get nowhere are told, once, and recorded; what leads somewhere is not."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from memrl_ctrl.backend import Reading
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.trace import TraceReader
from memrl_deploy.hunting import CYCLES, MOVE_DEG, TURNS, USELESS_DEG, Hunt, Hunting, turns

from .online_loop import Collect, N, Spy, closed_loop, policy

POINTS = 3


def told(subject: Hunting, changes_deg: np.ndarray, begin_deg: float = 0.0) -> list[Hunt | None]:
    """Return what it says of a function that changes so [cycles, points], engaged all the time."""
    path = begin_deg + np.concatenate([np.zeros((1, POINTS)), np.cumsum(changes_deg, axis=0)])
    return [subject.see(np.radians(applied), engaged=True) for applied in path]


def swinging(size_deg: float, cycles: int, period: int = 4) -> np.ndarray:
    """Return changes of which point 1 has all: half a period up, half a period down."""
    changes = np.zeros((cycles, POINTS))
    changes[:, 1] = np.where(np.arange(cycles) % period < period // 2, size_deg, -size_deg)
    return changes


@pytest.mark.parametrize(("size_deg", "hunts"), [(4.9, False), (5.1, True), (60.0, True)])
@pytest.mark.parametrize("period", [2, 4, 8])
def test_five_degrees_a_cycle_that_lead_nowhere_are_told_once(
    size_deg: float, period: int, *, hunts: bool
) -> None:
    """In the cycle in which 40 changes are known, and not again while it goes on."""
    found = told(Hunting(), swinging(size_deg, 200, period))
    assert [k for k, each in enumerate(found) if each is not None] == ([CYCLES] if hunts else [])
    if hunts:
        said = found[CYCLES]
        assert said is not None
        assert said.points == (1,)
        assert said.useless_deg == pytest.approx(40.0 * size_deg)
        assert f"point 1, up to {size_deg:.1f} degrees a cycle" in str(said)


def test_a_way_that_leads_somewhere_is_none() -> None:
    """A long way in one direction, and one there and back by a turn of the circle, turn round too seldom."""
    assert told(Hunting(), np.full((100, POINTS), 10.0)) == [None] * 101
    back = np.concatenate([np.full((18, POINTS), 10.0), np.full((36, POINTS), -10.0)])
    assert told(Hunting(), np.concatenate([back, np.zeros((60, POINTS))])) == [None] * 115


@pytest.mark.parametrize(("period", "hunts"), [(16, True), (20, False), (27, False)])
def test_it_takes_four_turns(period: int, *, hunts: bool) -> None:
    """A slow swing turns round less often in the time that is looked at."""
    found = told(Hunting(), swinging(20.0, CYCLES, period))
    count = turns(swinging(20.0, CYCLES, period))[1]
    assert (count >= TURNS) == hunts == any(found)


def test_turns_are_counted_between_moves() -> None:
    """A rest between two moves is no turn, nor is a change below a degree."""
    small = 0.9 * MOVE_DEG
    moves = np.array([[5.0, 5.0], [0.0, -small], [-5.0, 5.0], [small, 5.0], [5.0, -MOVE_DEG]])
    assert turns(moves).tolist() == [2, 1]


def test_it_is_told_again_when_it_had_stopped() -> None:
    """Less than half as much in between; a little less is the same hunt."""
    subject = Hunting()
    swing, rest = swinging(10.0, 60), np.zeros((60, POINTS))
    assert sum(each is not None for each in told(subject, swing)) == 1
    assert told(subject, swinging(3.5, 60)) == [None] * 61
    assert sum(each is not None for each in told(subject, swing)) == 0
    assert told(subject, rest) == [None] * 61
    assert sum(each is not None for each in told(subject, swing)) == 1


def test_what_others_do_is_no_hunt_of_the_loop() -> None:
    """While it does not lead nothing is counted, and what was counted is forgotten."""
    subject, path = Hunting(), np.radians(np.cumsum(swinging(20.0, 200), axis=0))
    assert all(subject.see(applied, engaged=False) is None for applied in path)
    assert all(subject.see(applied, engaged=True) is None for applied in path[:CYCLES])
    assert subject.see(path[0], engaged=False) is None
    assert all(subject.see(applied, engaged=True) is None for applied in path[:CYCLES])
    assert subject.see(path[CYCLES], engaged=True) is not None


def test_what_is_not_finite_counts_as_unmoved() -> None:
    """A lost reading neither hides a hunt nor makes one."""
    subject = Hunting()
    path = np.radians(np.cumsum(swinging(20.0, 120), axis=0))
    path[::7] = np.nan
    assert sum(subject.see(applied, engaged=True) is not None for applied in path) == 1
    still = np.where(np.arange(120)[:, None] % 2, np.full(POINTS, 3.0), np.nan)
    subject = Hunting()
    assert all(subject.see(applied, engaged=True) is None for applied in still[1:])


def test_many_points_are_not_all_named() -> None:
    """Five, and how many more."""
    hunt = Hunt(points=tuple(range(3, 15)), useless_deg=400.0)
    assert "points 3, 4, 5, 6, 7 and 7 more, up to 10.0 degrees a cycle" in str(hunt)
    assert hunt.event(9) == {
        "kind": "hunting",
        "cycle": 9,
        "points": list(range(3, 15)),
        "useless_deg": 400.0,
    }


def test_the_loop_tells_and_records_it_and_goes_on(tmp_path: Path) -> None:
    """Profiles of two cycles ago: the policy answers its own past, every limit is kept, nothing rests."""
    shown: deque[np.ndarray] = deque(maxlen=3)

    def late(reading: Reading) -> Reading:
        shown.append(reading.profile)
        return replace(reading, profile=shown[0])

    view = Collect()
    eager = policy(proportional_policy(n_slices=N, gain_rad=2.0))
    loop = closed_loop(Spy(alter=late), tmp_path, cycles=100, view=view, policy=eager)
    summary = loop.run()
    assert summary.error is None
    (said,) = summary.hunting
    assert said.startswith("cycle ")
    assert sum(note.startswith("the loop goes to and fro") for note in view.notes) == 1
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        events = [
            event
            for text in trace.array("events_json")
            for event in msgspec.json.decode(text)
            if event["kind"] == "hunting"
        ]
    assert len(events) == 1
    assert events[0]["useless_deg"] >= USELESS_DEG
    assert f"cycle {events[0]['cycle']}: " in said
    eager.reset(0)
    in_time = closed_loop(Spy(), tmp_path / "other", cycles=100, policy=eager).run()
    assert in_time.hunting == []
