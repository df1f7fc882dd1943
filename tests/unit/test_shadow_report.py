"""The shadow report says what is in the trace, bounds what was not seen, and gives reasons."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from memrl_ctrl.errors import MemrlError, TraceError
from memrl_ctrl.testing.traces import sample_cycle, sample_header
from memrl_ctrl.trace import CycleRecord, JournalWriter, TraceReader, Verdict
from memrl_deploy.cli_report import report
from memrl_deploy.counterfactual import Counterfactual
from memrl_deploy.report import judge, load_thresholds, shadow_figures
from memrl_deploy.report.judgement import quiet_cases, rate_words
from memrl_deploy.report.thresholds import Declared, Thresholds
from memrl_deploy.statistics import Figure, Rate, bootstrapped

from .played import played

POINTS, CYCLES = 3, 400
STEP_DEG = 2.0
NAME = "</title><script>alert(1)</script>"


def shadow_run(folder: Path, *, mode: str = "shadow", hits: int = 0, late: int = 0) -> Path:
    """Record a run in which the operators go 2 degrees a cycle towards a goal, then stand at it.

    The policy recommends the same way at points 0 and 1; at point 2 it is 20 degrees off.
    """
    folder.mkdir(parents=True)
    header = dataclasses.replace(
        sample_header(points=POINTS, mode=mode),
        measures={"asymmetry": "1", "recommended_rad": "rad"},
        policy_name=NAME,
    )
    with JournalWriter(folder / "trace.journal", header) as journal:
        for cycle in range(CYCLES):
            journal.append(_cycle(header, cycle, hits=hits, late=late), durable=False)
        journal.close("all cycles done")
    return folder


def _cycle(header: object, cycle: int, *, hits: int, late: int) -> CycleRecord:
    sample = sample_cycle(header, 4 * 30)  # type: ignore[arg-type]
    assert sample.policy is not None
    left_deg = max(60.0 - STEP_DEG * cycle, 0.0)
    applied = np.radians([left_deg, -left_deg, 0.0])
    wanted = np.radians([-min(left_deg, STEP_DEG), min(left_deg, STEP_DEG), 20.0])
    verdicts = np.full((POINTS, 3), Verdict.PASSED, dtype=np.uint8)
    if cycle < hits:
        verdicts[:, 1] = Verdict.REFUSED
    return CycleRecord(
        reading=played(sample.reading, cycle, applied),
        mode=header.mode,  # type: ignore[attr-defined]
        policy=dataclasses.replace(sample.policy, action=wanted.astype(np.float32)[:, None]),
        verdicts=verdicts,
        proposed_rad=applied + wanted,
        measures={
            "asymmetry": np.array([0.01 + left_deg / 600, -0.01 - left_deg / 600, 0.2]),
            "recommended_rad": applied + wanted,
        },
        timings_ns={"receive": 10**9, "infer": 2 * 10**9 if cycle < late else 10**6},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shadow_run(tmp_path_factory.mktemp("report") / "run")


def declared(tmp_path: Path, **values: float) -> Declared:
    """Thresholds that were declared long ago, in a file."""
    path = tmp_path / "thresholds.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in values.items()) or "{}\n")
    os.utime(path, (0, 0))
    return load_thresholds(path)


def test_figures_are_those_of_the_run(run: Path) -> None:
    """Median, percentiles, bias, share, moves and leads are what was put into the trace."""
    with TraceReader(run) as trace:
        figures = shadow_figures(trace, Thresholds(tolerance_deg=5.0))
    assert figures.asked == CYCLES
    points = figures.by_ctime
    assert points[2].median.value == pytest.approx(20.0)
    assert points[2].bias == pytest.approx(20.0)
    assert points[0].median.value == pytest.approx(0.0, abs=1e-9)
    assert points[0].p95.value == pytest.approx(STEP_DEG)
    assert points[0].bias == pytest.approx(-STEP_DEG * 30 / CYCLES, rel=1e-3)
    assert figures.all_points.within.value == pytest.approx(2 / 3)
    # 30 moves at each of two points, all of them recommended since the first cycle
    assert (figures.lead.moves, figures.lead.same_sign.events) == (60, 60)
    assert sorted(set(figures.lead.cycles.tolist())) == list(range(1, 31))
    assert figures.late == Rate(events=0, of=CYCLES)
    assert figures.decision_ms == pytest.approx(np.ones(CYCLES))
    assert figures.outside is None


def test_the_beam_is_compared_at_the_same_control_points(run: Path) -> None:
    """A point where the operators were never near does not count for the others."""
    with TraceReader(run) as trace:
        figures = shadow_figures(trace, Thresholds(tolerance_deg=1.0))
    assert figures.near.value == pytest.approx(0.01)
    assert figures.far.value > 0.15  # point 2, with its large asymmetry, is always far
    # at points 0 and 1: 0.01 near, 0.01 + mean(60 ... 2)/600 far
    assert figures.excess.value == pytest.approx(-31.0 / 600.0, rel=1e-6)


def test_a_run_that_keeps_all_limits_is_promoted(run: Path, tmp_path: Path) -> None:
    """With limits that are met, declared beforehand, the verdict is PROMOTE."""
    limits = declared(
        tmp_path,
        min_cycles=100,
        tolerance_deg=1.0,
        min_agreement=0.5,
        max_asymmetry_excess=1.0,
        max_refused_rate=0.01,
        max_late_rate=0.01,
        max_unanswered_rate=0.01,
        max_out_of_distribution_rate=1.0,
        max_altered_rate=0.01,
    )
    with TraceReader(run) as trace:
        figures = shadow_figures(trace, limits.thresholds)
    found = judge(figures, limits, started_utc="2026-01-01T00:00:00+00:00")
    # what the run did not record is open, never met
    assert [one.name for one in found.findings if one.state == "open"] == [
        "max_out_of_distribution_rate"
    ]
    assert found.verdict == "HOLD"
    seen = dataclasses.replace(figures, outside=Rate(events=0, of=1000))
    assert judge(seen, limits, started_utc="2026-01-01T00:00:00+00:00").verdict == "PROMOTE"
    before = judge(seen, limits, started_utc="1969-01-01T00:00:00+00:00")
    assert before.verdict == "HOLD"
    assert "not declared beforehand" in before.reasons[-1]
    lossy = judge(seen, limits, started_utc="2026-01-01T00:00:00+00:00", problems=("it is torn",))
    assert (lossy.verdict, lossy.reasons) == ("HOLD", ("it is torn",))


def test_the_shipped_thresholds_are_the_defaults_with_a_reason_for_each() -> None:
    """The file that is used where none is given holds every default, behind a comment of its own."""
    shipped = load_thresholds(None)
    assert shipped.thresholds == Thresholds()
    lines = Path(shipped.path).read_text(encoding="utf-8").splitlines()
    names = [field.name for field in dataclasses.fields(Thresholds)]
    found = [line.partition(":")[0] for line in lines if line and not line.startswith("#")]
    assert found == names
    for name in names:
        (place,) = (n for n, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[place - 1].startswith("# ")


def test_thresholds_of_a_release_stand_before_the_runs_that_it_recorded(run: Path) -> None:
    """They were there when that release recorded; of another release's run that is not known."""
    shipped = load_thresholds(None)
    assert shipped.doubt("", shipped.release) == ""
    assert "recorded with memrl-ctrl 0.0.1" in shipped.doubt("", "0.0.1")
    assert "recorded with memrl-ctrl (unknown)" in shipped.doubt("", "")
    with TraceReader(run) as trace:
        figures = shadow_figures(trace, shipped.thresholds)
    found = judge(figures, shipped, started_utc="", recorded_with="0.0.1")
    assert "0.0.1" in found.reasons[-1]


def test_a_policy_that_shortens_the_bunch_in_simulation_is_held(run: Path, tmp_path: Path) -> None:
    """A gain in |asymmetry| at the other symmetric phase promotes nobody, and the reason says why."""
    limits = declared(tmp_path, min_cycles=1, max_asymmetry_excess=1.0)
    with TraceReader(run) as trace:
        figures = shadow_figures(trace, limits.thresholds)
    small = Figure(value=0.1, low=0.09, high=0.11)
    twin = Counterfactual(
        policy_name="p",
        first_cycle=0,
        cycles=20,
        fitted=(SimpleNamespace(doubt=lambda _: ""),),  # type: ignore[arg-type]
        recorded=0.1,
        model_recorded=small,
        model_policy=small,
        gain=small,
        bunching_gain=Figure(value=-0.1, low=-0.15, high=-0.05),
        by_cycle=np.zeros((3, 20)),
    )
    assert twin.credible
    found = judge(figures, limits, started_utc="2026-01-01T00:00:00+00:00", twin=twin)
    assert "leads to a shorter bunch (bunching factor -0.150 to -0.050)" in found.reasons[-1]
    longer = dataclasses.replace(twin, bunching_gain=small)
    other = judge(figures, limits, started_utc="2026-01-01T00:00:00+00:00", twin=longer)
    assert len(other.reasons) == len(found.reasons) - 1


def test_open_rates_say_how_long_a_quiet_run_has_to_be() -> None:
    """Of zero events the rule of three turned round; of what is asked for at least, the bound from below."""
    assert quiet_cases(0.001) == 2995
    assert Rate(events=0, of=2995).high <= 0.001 < Rate(events=0, of=2994).high
    assert (
        rate_words(Rate(events=90, of=100), least=True) == "90 of 100 (90 %; above 83.6 % at 95 %)"
    )
    assert rate_words(Rate(events=0, of=0)) == "no case"


def test_a_broken_limit_rejects_with_its_reason(tmp_path: Path) -> None:
    """Hits of the guard that cannot be chance reject, and the reason names figure and limit."""
    folder = shadow_run(tmp_path / "run", hits=40, late=60)
    limits = declared(tmp_path, max_refused_rate=0.01, max_late_rate=0.01)
    with TraceReader(folder) as trace:
        figures = shadow_figures(trace, limits.thresholds)
    found = judge(figures, limits, started_utc="2026-01-01T00:00:00+00:00")
    assert found.verdict == "REJECT"
    (reason,) = [text for text in found.reasons if "guard would have refused" in text]
    assert reason.startswith("cycles that the guard would have refused: 40 of 400 (10 %")
    assert "at most 1 % was declared" in reason
    broken = {one.name for one in found.findings if one.state == "broken"}
    assert {"max_refused_rate", "max_late_rate", "max_decision_p99_ms"} <= broken


def test_zero_events_bound_the_rate_by_the_rule_of_three() -> None:
    """Of 0 in n the limit is 1 - 0.05^(1/n), nearly 3/n; of k in n that of Clopper and Pearson."""
    for n in (10, 1000, 72_000):
        assert Rate(events=0, of=n).high == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)
    assert Rate(events=0, of=72_000).high == pytest.approx(3 / 72_000, rel=2e-3)
    # 2 of 20: one-sided 95 % limits from the binomial distribution, solved by bisection
    high, low = Rate(events=2, of=20).high, Rate(events=2, of=20).low

    def at_most(k: int, p: float) -> float:
        return sum(math.comb(20, i) * p**i * (1 - p) ** (20 - i) for i in range(k + 1))

    assert at_most(2, high) == pytest.approx(0.05, rel=1e-6)
    assert 1 - at_most(1, low) == pytest.approx(0.05, rel=1e-6)
    assert Rate(events=3, of=3).high == 1.0
    assert math.isnan(Rate(events=0, of=0).value)


def test_an_interval_covers_what_it_should() -> None:
    """Of 100 samples of a known mean, the interval covers it in some 95."""
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        found = bootstrapped(
            rng.normal(size=(400, 1)), lambda v: float(v.mean()), rng=rng, resamples=200
        )
        covered += found.low <= 0.0 <= found.high
    assert 86 <= covered <= 100
    empty = bootstrapped(np.full((5, 1), np.nan), lambda v: 0.0, rng=np.random.default_rng(0))
    assert isinstance(empty, Figure)
    assert math.isnan(empty.value)


def test_the_page_stands_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One HTML file without script or link, its texts escaped, with pictures; and JSON beside it."""
    out = tmp_path / "report.html"
    assert report(run, out=out, twin=False) == 0
    text = out.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(src|href)=", text)
    assert text.count("<svg") == text.count("</svg>") == 7
    assert "What shadow cannot show." in text
    assert "nan" not in re.sub(r"<[^>]*>", " ", text).split()
    assert "rule of three" in text
    values = json.loads(out.with_suffix(".json").read_text())
    assert values["verdict"] == "REJECT"  # a third of the points is 20 degrees away
    assert values["cycles"] == CYCLES
    assert values["difference_deg"]["within"]["value"] == pytest.approx(2 / 3)
    assert "memory follows the trajectory" in values["blind_spot"]
    said = capsys.readouterr().out
    assert said.startswith("REJECT")
    assert "the defaults of memrl-ctrl" in said  # nobody declared others


def test_svg_is_well_formed(run: Path, tmp_path: Path) -> None:
    """Every picture is XML."""
    from xml.etree import ElementTree as ET

    report(run, out=tmp_path / "r.html", twin=False)
    for svg in re.findall(r"<svg.*?</svg>", (tmp_path / "r.html").read_text(), flags=re.DOTALL):
        assert "nan" not in svg
        ET.fromstring(svg)  # noqa: S314 - made here


def test_a_run_in_closed_loop_is_no_shadow_run(tmp_path: Path) -> None:
    """The report refuses what is not about shadow, and a threshold that does not exist."""
    folder = shadow_run(tmp_path / "run", mode="closed-loop")
    with TraceReader(folder) as trace, pytest.raises(TraceError, match="recorded in closed-loop"):
        shadow_figures(trace, Thresholds())
    with pytest.raises(MemrlError, match="min_cycle"):
        declared(tmp_path, min_cycle=3)
    with pytest.raises(MemrlError, match="tolerance_deg must be above 0 and at most 180"):
        declared(tmp_path, tolerance_deg=0.0)
    with pytest.raises(MemrlError, match=r"max_late_rate is a share.* not 2\.0"):
        declared(tmp_path, max_late_rate=2.0)
