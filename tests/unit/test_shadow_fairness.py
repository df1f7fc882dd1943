"""The shadow report claims no more than its run can bear, for a policy and against it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.backend import Quality
from memrl_ctrl.beam import CycleFit
from memrl_ctrl.errors import MemrlError
from memrl_ctrl.testing.traces import sample_cycle, sample_header
from memrl_ctrl.trace import CycleRecord, JournalWriter, TraceHeader, TraceReader, Verdict
from memrl_deploy.cli_report import report
from memrl_deploy.counterfactual import Counterfactual
from memrl_deploy.report import judge, load_thresholds, shadow_figures
from memrl_deploy.report.figures import ShadowFigures
from memrl_deploy.report.thresholds import DECLARED_KEY, Declared, Thresholds
from memrl_deploy.statistics import Figure, Rate, bootstrapped

from .played import played

POINTS, CYCLES, ACTION = 4, 200, 40
BEFORE = "2026-01-01T00:00:00+00:00"
Change = Callable[[CycleRecord], CycleRecord | None]


def recorded(
    folder: Path, change: Change = lambda record: record, *, cycles: int = CYCLES, **header: object
) -> Path:
    """Record a run in which the operators move all points every 40 cycles, as was recommended."""
    folder.mkdir(parents=True)
    head = dataclasses.replace(
        sample_header(points=POINTS, mode="shadow"),
        measures={"asymmetry": "1", "recommended_rad": "rad"},
        **header,  # type: ignore[arg-type]
    )
    with JournalWriter(folder / "trace.journal", head) as journal:
        for cycle in range(cycles):
            record = change(_cycle(head, cycle))
            if record is not None:
                journal.append(record, durable=False)
        journal.close("all cycles done")
    return folder


def _cycle(header: TraceHeader, cycle: int) -> CycleRecord:
    sample = sample_cycle(header, 120)
    assert sample.policy is not None
    applied = np.full(POINTS, np.radians(2.0 * (cycle // ACTION)))
    wanted = np.full(POINTS, np.radians(2.0))
    return CycleRecord(
        reading=played(sample.reading, cycle, applied),
        mode="shadow",
        policy=dataclasses.replace(sample.policy, action=wanted.astype(np.float32)[:, None]),
        verdicts=np.full((POINTS, 3), Verdict.PASSED, dtype=np.uint8),
        proposed_rad=applied + wanted,
        measures={"asymmetry": np.full(POINTS, 0.01), "recommended_rad": applied + wanted},
        timings_ns={"receive": 10**9, "infer": 10**6},
    )


def figures_of(folder: Path, thresholds: Thresholds | None = None) -> ShadowFigures:
    with TraceReader(folder) as trace:
        return shadow_figures(trace, thresholds or Thresholds())


def declared(folder: Path, text: str = "{}\n") -> Declared:
    path = folder / "limits.yaml"
    path.write_text(text)
    os.utime(path, (0, 0))
    return load_thresholds(path)


def state_of(figures: ShadowFigures, limits: Declared, name: str) -> tuple[str, str]:
    """Return a finding's state and what was measured."""
    found = judge(figures, limits, started_utc=BEFORE).findings
    (one,) = (finding for finding in found if finding.name == name)
    return one.state, one.measured


def test_points_that_are_moved_together_are_one_action(tmp_path: Path) -> None:
    """Sixteen moves in four cycles bound a share as four do."""
    lead = figures_of(recorded(tmp_path / "run")).lead
    assert (lead.moves, lead.same_sign) == (16, Rate(events=16, of=16, groups=4))
    assert lead.same_sign.low == pytest.approx(0.05 ** (1 / 4))
    half = Rate(events=8, of=16, groups=4)
    assert half.low == pytest.approx(Rate(events=2, of=4).low)
    assert half.high == pytest.approx(Rate(events=2, of=4).high)
    assert Rate(events=0, of=93_000, groups=3100).high == Rate(events=0, of=3100).high


def test_moves_of_a_point_without_a_reading_are_neither_for_nor_against(tmp_path: Path) -> None:
    """A dead pick-up's point is moved with the others; the policy was never shown it."""

    def dead(record: CycleRecord) -> CycleRecord:
        quality = np.array([0, 0, 0, Quality.DEAD], dtype=np.uint16)
        return dataclasses.replace(
            record, reading=dataclasses.replace(record.reading, quality=quality)
        )

    figures = figures_of(recorded(tmp_path / "run", dead))
    assert (figures.lead.moves, figures.lead.elsewhere) == (12, 4)
    assert figures.lead.same_sign.value == 1.0
    # and nobody is promoted on it: what was never compared stays open, and is never held against the policy
    state, measured = state_of(figures, declared(tmp_path), "min_compared_rate")
    assert (state, measured[:8]) == ("open", "0 of 200")


def test_a_held_point_agrees_with_nobody(tmp_path: Path) -> None:
    """Where the guard holds, the recommendation is what is applied: no agreement to be counted."""

    def held(record: CycleRecord) -> CycleRecord:
        verdicts = record.verdicts.copy()
        verdicts[1, 0] = Verdict.HELD
        function = record.measures["recommended_rad"].copy()
        function[1] = record.reading.applied_rad[1]
        measures = {**record.measures, "recommended_rad": function}
        return dataclasses.replace(record, verdicts=verdicts, measures=measures)

    figures = figures_of(recorded(tmp_path / "run", held), Thresholds(tolerance_deg=1.0))
    assert np.isnan(figures.difference_deg[:, 1]).all()
    assert figures.all_points.within.value == 0.0
    assert figures.all_points.median.value == pytest.approx(2.0)


def test_cycles_that_were_never_seen_are_a_finding(tmp_path: Path) -> None:
    """A hole in the cycle numbers is told, and open beyond its limit; it never rejects."""

    def lost(record: CycleRecord) -> CycleRecord | None:
        return None if record.reading.cycle % 10 == 5 else record

    figures = figures_of(recorded(tmp_path / "run", lost))
    assert figures.unseen == Rate(events=20, of=200)
    state, measured = state_of(figures, declared(tmp_path), "max_unseen_rate")
    assert (state, measured[:9]) == ("open", "20 of 200")
    whole = figures_of(recorded(tmp_path / "whole"))
    assert whole.unseen == Rate(events=0, of=200)


def test_recording_is_part_of_a_decision(tmp_path: Path) -> None:
    """What recording a cycle took stands in the record of the next one, where nothing was written."""

    def timed(record: CycleRecord) -> CycleRecord:
        before = {"record_before": 30_000_000} if record.reading.cycle == 8 else {}
        return dataclasses.replace(record, timings_ns={**record.timings_ns, **before})

    figures = figures_of(recorded(tmp_path / "run", timed))
    assert figures.decision_ms[7] == pytest.approx(31.0)
    assert figures.decision_ms[[6, 8]] == pytest.approx([1.0, 1.0])


def test_few_cycles_have_no_interval_and_decide_nothing(tmp_path: Path) -> None:
    """Of fewer than five blocks a bootstrap knows nothing: no width is no certainty."""
    rng = np.random.default_rng(0)
    for count, known in ((8, False), (49, False), (50, True)):
        found = bootstrapped(rng.normal(size=(count, 2)), lambda v: float(v.mean()), rng=rng)
        assert math.isfinite(found.value)
        assert math.isfinite(found.low) == math.isfinite(found.high) == known
    figures = figures_of(recorded(tmp_path / "run", cycles=8), Thresholds(tolerance_deg=0.5))
    limits = declared(tmp_path, "tolerance_deg: 0.5\n")
    judgement = judge(figures, limits, started_utc=BEFORE)
    assert judgement.verdict == "HOLD"
    state, measured = state_of(figures, limits, "min_agreement")
    assert (state, measured) == ("open", "0 % (too few cycles for an interval)")


def test_operators_who_were_worse_off_do_not_reject_a_policy(tmp_path: Path) -> None:
    """The difference breaks its limits; whether that speaks against the policy the beam says."""
    limits = declared(tmp_path, "tolerance_deg: 0.5\n")
    figures = figures_of(recorded(tmp_path / "run"), limits.thresholds)
    assert judge(figures, limits, started_utc=BEFORE).verdict == "REJECT"
    better = dataclasses.replace(figures, excess=Figure(value=-0.1, low=-0.12, high=-0.08))
    found = judge(better, limits, started_utc=BEFORE)
    assert found.verdict == "HOLD"
    assert "the beam was better where" in found.reasons[-1]
    unsure = dataclasses.replace(figures, excess=Figure(value=-0.1, low=-0.3, high=0.01))
    assert judge(unsure, limits, started_utc=BEFORE).verdict == "REJECT"
    refused = dataclasses.replace(better, refused=Rate(events=100, of=200))
    assert judge(refused, limits, started_utc=BEFORE).verdict == "REJECT"
    apart = dataclasses.replace(
        better,
        lead=dataclasses.replace(figures.lead, same_sign=Rate(events=7, of=16, groups=4)),
    )
    assert judge(apart, limits, started_utc=BEFORE).verdict == "REJECT"
    still = dataclasses.replace(
        figures, lead=dataclasses.replace(figures.lead, moves=0, same_sign=Rate(events=0, of=0))
    )
    idle = judge(still, limits, started_utc=BEFORE)
    assert (idle.verdict, idle.reasons[-1][:30]) == ("HOLD", "the operators moved nothing in")


def test_thresholds_in_the_trace_prove_themselves(tmp_path: Path) -> None:
    """The digest that the run was begun with counts, whatever date the file has."""
    limits = declared(tmp_path)
    assert limits.doubt("1960-01-01T00:00:00+00:00", "", limits.recorded) == ""
    assert "the trace holds the digest" in limits.words(limits.recorded)
    other = {"path": "other.yaml", "sha256": "0" * 64}
    assert "begun with other thresholds: other.yaml" in limits.doubt(BEFORE, "", other)
    assert "which anybody can set" in limits.words()
    run = recorded(tmp_path / "run", configuration={DECLARED_KEY: limits.recorded})
    assert (
        report(run, out=tmp_path / "r.html", thresholds=tmp_path / "limits.yaml", twin=False) == 0
    )
    values = json.loads((tmp_path / "r.json").read_text())
    assert values["thresholds"]["recorded_with_the_run"] is True
    # the defaults are others than those that the run was begun with
    assert report(run, out=tmp_path / "d.html", twin=False) == 0
    reasons = json.loads((tmp_path / "d.json").read_text())["reasons"]
    assert any("begun with other thresholds" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_decision_p99_ms: -5\n", "max_decision_p99_ms must be above 0 and finite, not -5"),
        ("max_p95_difference_deg: .nan\n", "max_p95_difference_deg must be above 0"),
        ("min_gain: .nan\n", "min_gain must be a finite number"),
        ("max_refused_rate: 0\n", "which no number of cycles can show"),
        ("min_sign_agreement: 1\n", "which no number of cycles can show"),
        (
            "min_cycles: 4\nmin_gain: 0\nmin_cycles: 5\n",
            "line 3: .*'min_cycles' stands there a second",
        ),
        ("min_cycles: 3.5\n", "limits.yaml: min_cycles: expected int"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    """Before the first figure is made, with the file."""
    with pytest.raises(MemrlError, match=said):
        declared(tmp_path, text)


def test_the_numbers_say_all_that_the_page_says(tmp_path: Path) -> None:
    """When, how long, which cycles, what was played, within which limits, and both bounds of a rate."""
    run = recorded(tmp_path / "run")
    assert report(run, out=tmp_path / "r.html", twin=False) == 0
    values = json.loads((tmp_path / "r.json").read_text())
    assert (values["first_cycle"], values["last_cycle"]) == (0, CYCLES - 1)
    assert values["duration_s"] == pytest.approx(1.2 * (CYCLES - 1))
    assert values["applied_deg"] == pytest.approx([0.0, 8.0])
    assert values["operators_moves"]["same_sign"]["independent"] == 4
    assert values["operators_moves"]["same_sign"]["low"] == pytest.approx(0.05**0.25)
    assert len(values["compared"]) == POINTS
    for name in ("started_utc", "flags", "events", "limits_deg", "intensity_over_median"):
        assert name in values
    with pytest.raises(MemrlError, match=r"r\.json names the page"):
        report(run, out=tmp_path / "r.json", twin=False)


def fitted(*, chi2_reduced: float, second_offset_rad: float) -> CycleFit:
    return CycleFit(
        offset_rad=0.1,
        offset_sigma_rad=0.01,
        emittance_evs=1.0,
        emittance_sigma_evs=0.01,
        intensity=math.nan,
        intensity_sigma=math.nan,
        chi2_reduced=chi2_reduced,
        p_value=0.0,
        second_offset_rad=second_offset_rad,
        verdict="poor",
        model=np.zeros((0, 0)),
        points=None,  # type: ignore[arg-type]
    )


def test_a_fit_is_believed_while_it_misses_less_than_the_noise() -> None:
    """An improbable chi2 of many slices is no reason; a large one, or a second offset, is."""

    def doubt(*fits: tuple[float, float]) -> str:
        figure = Figure(value=0.1, low=0.09, high=0.11)
        made = tuple(fitted(chi2_reduced=c, second_offset_rad=s) for c, s in fits)
        return Counterfactual(
            policy_name="p",
            first_cycle=0,
            cycles=20,
            fitted=made,
            recorded=0.1,
            model_recorded=figure,
            model_policy=figure,
            gain=figure,
            bunching_gain=figure,
            by_cycle=np.zeros((3, 20)),
        ).doubt

    good, bad, second = (1.2, math.nan), (2.5, math.nan), (1.0, 3.0)
    assert doubt(good, good, bad) == ""
    assert doubt(bad, good, bad) == "2 of 3 fits are not believed (reduced chi2 2.5)"
    assert "another offset fits as well" in doubt(second, second, good)
    assert doubt((math.nan, math.nan)) != ""
