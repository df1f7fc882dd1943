"""The checks of a soak find what they are there to find."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memrl_backends.twin import with_faults
from memrl_backends.twin.faults import FrozenProfile
from memrl_ctrl.errors import FileError, UsageError
from memrl_ctrl.limits import PhaseLimits
from memrl_ctrl.trace import TraceReader
from memrl_deploy import soak_checks
from memrl_deploy.endings import Ending, Happening, Known, documented
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Runtime
from memrl_deploy.soak import Tally, count, faults_of, length
from memrl_deploy.soak_checks import Truth, breaks_limits, check_segment, happenings

from .online_loop import Collect, Spy, policy

LIMITS = PhaseLimits(min_rad=-1.0, max_rad=1.0, step_rad=0.5, slope_rad_per_ms=0.1)
CTIME_MS = np.array([0.0, 1.0, 3.0])
FROZEN = FrozenProfile(at_cycle=(20,), for_cycles=12)


@pytest.mark.parametrize(
    ("function", "bad"),
    [
        ([0.1, 0.2, 0.4], False),
        ([0.1, 0.2, np.nan], True),
        ([0.5, 0.6, 0.61], True),
        ([0.1, 0.21, 0.3], True),
    ],
)
def test_a_function_outside_the_limits_is_found(function: list[float], bad: bool) -> None:
    """NaN, too large a step and too steep a slope are outside; what keeps all limits is not."""
    found = breaks_limits(np.array([function]), np.zeros((1, 3)), LIMITS, CTIME_MS)
    assert found.tolist() == [bad]


def test_a_value_outside_is_found_without_a_step() -> None:
    """A value beyond the range is outside also where nothing is known of the cycle before."""
    before = np.full((1, 3), np.nan)
    assert breaks_limits(np.full((1, 3), 1.1), before, LIMITS, CTIME_MS).all()
    assert not breaks_limits(np.full((1, 3), 1.0), before, LIMITS, CTIME_MS).any()


def test_faults_are_found_where_they_happen() -> None:
    """Cycle 1 of a scenario is the machine's first one; repeated faults come again."""
    faults = [
        {"fault": "operator", "at_cycle": [3], "every_cycles": 10, "for_cycles": 2},
        {"fault": "cavity_trip", "at_cycle": [5], "for_cycles": 3, "recovery_cycles": 4},
    ]
    found = happenings(faults, first=100, last=115, points=30)
    assert [(one.kind, one.first, one.last) for one in found] == [
        ("operator", 102, 103),
        ("cavity_trip", 104, 110),
        ("operator", 112, 113),
    ]


@pytest.mark.parametrize(("noise", "known"), [(0.02, Known.SICK), (0.0, Known.SEEN)])
def test_a_frozen_profile_is_known_by_its_noise(
    noise: float, known: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise it may be that of a bunch at rest; then the recorded verdicts say how it has to end."""
    judged: list[Happening] = []

    def see(one: Happening, *known: np.ndarray) -> Ending:
        judged.append(one)
        return documented(one, *known)

    monkeypatch.setattr(soak_checks, "documented", see)
    machine, view = with_faults(Spy(noise=noise), [FROZEN]), Collect()
    run = Runtime(ClosedLoop(machine), policy(), records=tmp_path, cycles=120, view=view)
    operator = iter([*[""] * 60, "e"])
    run.listen(lambda: next(operator, ""))
    summary = run.run()
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        truth = Truth(cycle=trace.cycles, phi_hw_rad=trace.array("applied_rad"))
        fault = {"fault": "frozen_profile", "at_cycle": [20], "for_cycles": 12}
        found = check_segment(trace, truth, [fault], [], [])
    assert [one.known for one in judged] == [known]
    assert found.wrong == []
    ending = Ending.HANDED_OVER if noise else Ending.CLOSED
    assert found.faults == {f"frozen_profile: {ending}": 1}


def test_a_fault_at_random_is_refused() -> None:
    """What happens at random cannot be judged, and one sentence says so."""
    with pytest.raises(UsageError, match="happens at random"):
        happenings([{"fault": "noise_burst", "probability": 0.1}], 1, 10, 30)


def test_loss_and_what_was_not_played_are_found(tmp_path: Path) -> None:
    """A whole run passes; a cycle that is missing, or that was played otherwise, is counted."""
    machine, view = Spy(), Collect()
    run = Runtime(ClosedLoop(machine), policy(), records=tmp_path, cycles=12, view=view)
    summary = run.run()
    assert summary.trace is not None
    decided = [seen.cycle for seen in view.cycles]
    taken = [seen.cycle for seen in view.cycles if seen.outcome == "written"]
    with TraceReader(summary.trace) as trace:
        truth = Truth(cycle=trace.cycles, phi_hw_rad=trace.array("applied_rad"))
        whole = check_segment(trace, truth, [], decided, taken)
        assert (whole.cycles, whole.written, whole.lost, whole.outside) == (12, len(taken), 0, 0)
        assert whole.wrong == []
        unknown = [*decided, decided[-1] + 1]
        assert check_segment(trace, truth, [], unknown, taken).lost == 1
        assert check_segment(trace, truth, [], decided, unknown).lost == 1
        other = truth.phi_hw_rad.copy()
        other[-1] += 1e-3
        assert check_segment(trace, replace(truth, phi_hw_rad=other), [], decided, taken).lost == 1
        other[-1] += 100.0
        assert check_segment(trace, replace(truth, phi_hw_rad=other), [], decided, taken).outside


def test_a_truth_log_that_is_none_is_refused(tmp_path: Path) -> None:
    """An empty truth log, and one that is no JSON, end in a sentence; a torn last line does not."""
    path = tmp_path / "truth.jsonl"
    path.write_text("")
    with pytest.raises(FileError, match="wrote no cycle"):
        Truth.read(path)
    path.write_text("no json\n")
    with pytest.raises(FileError, match="truth log"):
        Truth.read(path)
    path.write_text(json.dumps({"cycle": 1, "phi_hw_rad": [0.0]}) + '\n{"cyc')
    assert Truth.read(path).cycle.tolist() == [1]


def test_a_soak_with_other_settings_is_refused(tmp_path: Path) -> None:
    """A folder with another soak, or with a state that is none, is refused in one sentence."""
    (tmp_path / "soak.json").write_text(json.dumps({"settings": {"seed": 1}}))
    assert Tally.load(tmp_path, {"seed": 1}).segments == 0
    with pytest.raises(UsageError, match="another --out"):
        Tally.load(tmp_path, {"seed": 2})
    (tmp_path / "soak.json").write_text("[1]")
    with pytest.raises(FileError, match="no state of a soak"):
        Tally.load(tmp_path, {"seed": 1})


def test_a_scenario_that_does_not_repeat_makes_a_short_segment() -> None:
    """After its last fault nothing more is to be seen; one that repeats fills the segment."""
    assert length([{"fault": "operator", "at_cycle": [112], "for_cycles": 3}], 2560) == 215
    repeating = [{"fault": "operator", "at_cycle": [112], "every_cycles": 200}]
    assert length(repeating, 2560) == 2560


def test_an_unknown_scenario_is_one_sentence() -> None:
    """A name that does not exist is said as `memrl-ctrl scenario show` says it."""
    with pytest.raises(UsageError, match="no scenario"):
        faults_of("no-such")


def test_counts_add_up() -> None:
    """Counts of a segment are added to those of all."""
    into = {"a": 1}
    count(into, {"a": 2, "b": 3})
    assert into == {"a": 3, "b": 3}
