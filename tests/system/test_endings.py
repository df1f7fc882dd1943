"""How each fault of a scenario ends: the table in docs/safety.md, the code, and what the loop really does."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memrl_backends.twin.faults import KINDS
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.policy.write import proportional_policy
from memrl_ctrl.registry import open_backend
from memrl_ctrl.trace import TraceReader
from memrl_deploy.endings import (
    ANY,
    KNOWN,
    LONG,
    LONGEST_HOLD,
    WIDE,
    Ending,
    Happening,
    Known,
    descent,
    documented,
    run_lengths,
)
from memrl_deploy.guard.excess import PERSISTENT
from memrl_deploy.modes import ClosedLoop
from memrl_deploy.runtime import Runtime
from memrl_deploy.soak import Operator, faults_of
from memrl_deploy.soak_checks import Truth, check_segment
from memrl_deploy.strikes import STRIKES

DOCUMENT = Path(__file__).parents[2] / "docs" / "safety.md"
POINTS, APART, BEFORE = 6, 90, 20
FAULTS: list[dict[str, Any]] = [
    {"fault": "missing_reading", "for_cycles": 12},
    {"fault": "late_reading", "for_cycles": 2, "delay_s": 0.01},
    {"fault": "nan_profile", "for_cycles": 12},
    {"fault": "nan_profile", "for_cycles": 6, "share": 0.1},
    {"fault": "dead_pickup", "for_cycles": 12, "flagged": True},
    {"fault": "frozen_profile", "for_cycles": 12, "flagged": True},
    {"fault": "offset_jump", "for_cycles": 30, "offset_deg": 40.0},
    {"fault": "operator", "for_cycles": STRIKES - 1, "change_deg": 10.0},
    {"fault": "operator", "for_cycles": STRIKES, "change_deg": 10.0},
    {"fault": "operator", "for_cycles": 4, "change_deg": 0.3},
    {"fault": "setpoint_ignored", "for_cycles": STRIKES - 1},
    {"fault": "setpoint_ignored", "for_cycles": 12},
    {"fault": "dead_pickup", "for_cycles": 12, "points": [1, 2]},
    {"fault": "dead_pickup", "for_cycles": LONG - 1},
    {"fault": "dead_pickup", "for_cycles": LONG},
    {"fault": "dead_pickup", "for_cycles": LONGEST_HOLD},
    {"fault": "dead_pickup", "for_cycles": LONGEST_HOLD + 1},
    {"fault": "flipped_polarity", "for_cycles": LONG - 1},
    {"fault": "flipped_polarity", "for_cycles": LONG, "points": [0, 1, 2]},
    {"fault": "flipped_polarity", "for_cycles": 20},
    {"fault": "frozen_profile", "for_cycles": LONG - 1},
    {"fault": "frozen_profile", "for_cycles": LONG},
    {"fault": "frozen_profile", "for_cycles": LONGEST_HOLD},
    {"fault": "frozen_profile", "for_cycles": 30},
    {"fault": "frozen_profile", "for_cycles": 30, "points": [2, 5]},
    {"fault": "noise_burst", "for_cycles": 4, "noise": 0.3},
    {"fault": "noise_burst", "for_cycles": 12, "noise": 3.0},
    {"fault": "cavity_trip", "for_cycles": 3, "recovery_cycles": 4},
]


def rows() -> dict[str, list[str]]:
    """The table of the document: a fault's cells."""
    text = DOCUMENT.read_text(encoding="utf-8").partition("## How each fault ends")[2]
    found = {}
    for line in text.partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        named = re.fullmatch(r"`(\w+)`(, flagged|, without noise)?", cells[0])
        if named:
            found[named[1] + (named[2] or "")] = cells[1:]
    return found


def test_the_table_has_every_fault_and_says_what_the_code_does() -> None:
    """A row a fault of the twin; its three cells are what `documented` gives for short, middle and long."""
    table = rows()
    frozen = {"frozen_profile, flagged", "frozen_profile, without noise"}
    assert set(table) == {*KINDS, *frozen, "dead_pickup, flagged"}
    assert set(KNOWN) == set(KINDS)
    for name, cells in table.items():
        kind, _, which = name.partition(", ")
        lengths = (LONG - 1, LONG, LONGEST_HOLD, LONGEST_HOLD + 1, 500)
        ones = [
            Happening(
                kind=kind,
                first=1,
                cycles=cycles,
                flagged=which == "flagged",
                noisy=which != "without noise",
            )
            for cycles in lengths
        ]
        if ones[0].known in (Known.SEEN, Known.TURNED):
            assert cells[:3] == ["as seen"] * 3, name
            continue
        short, *middle, long_, very_long = (documented(one) for one in ones)
        assert set(middle) == {middle[0]}
        assert long_ is very_long
        assert cells[:3] == [short, middle[0], long_], name
        assert cells[3]  # why


def test_the_table_states_the_lengths_that_the_code_has() -> None:
    """Its heading names the cycles at which the ending changes, and the points that count as many."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"| fault | under {LONG} cycles | {LONG} to {LONGEST_HOLD} | longer | why |" in text
    few = Happening(kind="dead_pickup", first=1, cycles=50, share=0.4)
    assert documented(few) is Ending.CLOSED
    with pytest.raises(ValueError, match="noise_burst ends depends"):
        documented(Happening(kind="noise_burst", first=1, cycles=4))
    turned = Happening(kind="operator", first=1, cycles=STRIKES)
    with pytest.raises(
        ValueError, match="operator ends depends on what the readings say is played"
    ):
        documented(turned)
    assert documented(replace(turned, cycles=STRIKES - 1)) is Ending.CLOSED


def test_what_counts_are_the_guards_stages() -> None:
    """The stages that are counted here are those that the guard counts."""
    assert {*WIDE, *ANY} == {stage.label for stage in PERSISTENT}


@pytest.mark.parametrize(
    ("hard", "ending"),
    [
        ("....................", Ending.CLOSED),
        ("....#...............", Ending.RECOVERED),
        ("....###.............", Ending.RECOVERED),
        ("....####............", Ending.HANDED_OVER),
        ("....#.#.#...........", Ending.HANDED_OVER),
        ("...............#....", Ending.CLOSED),
    ],
)
def test_the_ladder_leads_where_two_healthy_cycles_say(hard: str, ending: Ending) -> None:
    """Five cycles of holding: two healthy ones in a row recover, otherwise the ladder hands over."""
    assert descent(np.array([c == "#" for c in hard]), 15) is ending


def test_runs_are_counted_to_the_cycle() -> None:
    """Each cycle's run includes itself and begins anew behind a cycle that does not count."""
    counts = np.array([True, True, False, True, True, True, False])
    assert run_lengths(counts).tolist() == [1, 2, 0, 1, 2, 3, 0]


def test_every_fault_ends_in_the_documented_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop on the twin, every fault short and long: it ends as the table says, each of them judged."""
    monkeypatch.setattr(os, "fdatasync", lambda _file: None)  # what a sync costs is no matter here
    faults = [
        {**fault, "at_cycle": [BEFORE + APART * number]} for number, fault in enumerate(FAULTS)
    ]
    cycles = BEFORE + APART * len(FAULTS)
    scenario = tmp_path / "all.yaml"
    scenario.write_text(
        "kind: scenario\ndescription: Every fault.\nlike: psb\nseed: 3\nfaults:\n"
        + "".join(f"  - {fault}\n" for fault in faults).replace("'", "").replace("True", "true")
    )
    assert len(faults_of(str(scenario))) == len(FAULTS)
    machine = open_backend(
        "twin", scenario=str(scenario), points=POINTS, n_slices=128, period_s=0.0,
        intensity=1.5e12, filling=0.6,
    )  # fmt: skip
    policy = OnnxPolicy.load(proportional_policy(n_slices=128, gain_rad=0.5))
    operator = Operator(0, cycles)
    runtime = Runtime(
        ClosedLoop(machine), policy, records=tmp_path, cycles=cycles - 12, view=operator
    )
    runtime.listen(operator.key)
    summary = runtime.run()
    assert summary.error is None
    assert summary.trace is not None
    with TraceReader(summary.trace) as trace:
        truth = Truth(cycle=trace.cycles, phi_hw_rad=trace.array("applied_rad"))
        found = check_segment(trace, truth, faults, operator.decided, operator.acknowledged)
    assert [text for text in found.wrong if "did not play" not in text] == []
    assert sum(found.faults.values()) == len(FAULTS)
    assert not [name for name in found.faults if "not judged" in name]
    assert found.faults["dead_pickup: recovered"] == 2
    assert found.faults["dead_pickup: handed over"] == 1
    assert found.faults["frozen_profile: recovered"] == 2
    assert found.faults["frozen_profile: handed over"] == 1
    assert found.faults["flipped_polarity: recovered"] == 1
    assert found.faults["flipped_polarity: handed over"] == 1
    assert found.faults["operator: closed loop"] == 2
    assert found.faults["operator: handed over"] == 1
