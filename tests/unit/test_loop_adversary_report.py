"""The shadow report read as whoever decides reads it: nothing that was not measured looks as if it was."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from memrl_ctrl.backend import Reading
from memrl_ctrl.testing import FakeBackend
from memrl_ctrl.trace import TraceReader
from memrl_deploy.cli_report import report
from memrl_deploy.engaging import EngageConfig
from memrl_deploy.modes import Shadow
from memrl_deploy.report import judge, load_thresholds, shadow_figures
from memrl_deploy.report.judgement import Judgement, State, Verdict
from memrl_deploy.report.thresholds import Thresholds
from memrl_deploy.report.words import MEANINGS, VERDICTS, meaning
from memrl_deploy.runtime import Runtime

from .online_loop import N, closed_loop, policy

DEAD = range(8, 15)
"""Cycles whose profiles are dead: hard excess from the fifth on, that is in three of them."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shadow run beside operators who move nothing, on a machine without a period."""

    def dead(reading: Reading) -> Reading:
        flat = np.zeros_like(reading.profile)
        return dataclasses.replace(reading, profile=flat) if reading.cycle in DEAD else reading

    fake = FakeBackend(points=8, n_slices=N, offset_rad=1.4, noise=0.01, alter=dead)
    summary = Runtime(
        Shadow(fake), policy(), records=tmp_path_factory.mktemp("report"), cycles=60
    ).run()
    assert summary.trace is not None
    return summary.trace


def judged(run: Path) -> Judgement:
    with TraceReader(run) as trace:
        figures = shadow_figures(trace, Thresholds())
    return judge(figures, load_thresholds(None), started_utc="")


def test_every_limit_and_verdict_is_explained() -> None:
    """A limit without a sentence of its own, or a verdict, is one that somebody has to guess."""
    names = {field.name for field in dataclasses.fields(Thresholds)} - {"tolerance_deg"}
    assert set(MEANINGS) == names
    assert set(VERDICTS) == {str(verdict) for verdict in Verdict}
    for name in names:
        assert "{" not in meaning(name, tolerance_deg=5.0, step_deg=90.0)


def test_cycles_with_hard_excess_count_as_refused(run: Path) -> None:
    """Five dead cycles in a row would have led to the fallback: the report counts what the loop would do."""
    with TraceReader(run) as trace:
        figures = shadow_figures(trace, Thresholds())
    assert (figures.refused.events, figures.refused.of) == (3, 60)


def test_what_did_not_run_bounds_nothing(run: Path) -> None:
    """No deadline without a period, no verdicts of a stage that was never asked: open, and a dash."""
    with TraceReader(run) as trace:
        figures = shadow_figures(trace, Thresholds())
    assert (figures.late.of, figures.stages["look-ahead"].of) == (0, 0)
    assert figures.stages["health"].of == 60 * 8
    (late,) = [one for one in judged(run).findings if one.name == "max_late_rate"]
    assert (late.state, late.measured) == (State.OPEN, "no case: the machine has no period")


def test_what_is_not_asked_for_is_not_met(run: Path) -> None:
    """A gain that no threshold asks for stands in no list of limits; one that is asked for does."""
    assert "min_gain" not in [one.name for one in judged(run).findings]
    with TraceReader(run) as trace:
        figures = shadow_figures(trace, Thresholds())
    declared = dataclasses.replace(load_thresholds(None), thresholds=Thresholds(min_gain=0.01))
    (gain,) = [
        one for one in judge(figures, declared, started_utc="").findings if one.name == "min_gain"
    ]
    assert (gain.state, gain.measured, gain.limit) == (State.OPEN, "not computed", "at least 0.01")


def test_a_difference_to_operators_who_did_nothing_says_so(run: Path) -> None:
    """Where the operators moved nothing, a reason beside the broken difference says what it is worth."""
    found = judged(run)
    assert found.verdict == Verdict.REJECT
    assert "the operators moved nothing in this run" in found.reasons[-1]


def test_the_page_parts_what_rejects_from_what_is_open(run: Path, tmp_path: Path) -> None:
    """Verdict, what it means, then the broken limits, then the open ones, each with its meaning below."""
    out = tmp_path / "report.html"
    report(run, out=out, twin=False)
    html = out.read_text()
    text = re.sub(r"<[^>]+>", " ", html)
    found = judged(run)
    broken = [one for one in found.findings if one.state is State.BROKEN]
    open_ = [one for one in found.findings if one.state is State.OPEN]
    places = [
        text.index(words)
        for words in (
            VERDICTS["REJECT"],
            f"{len(broken)} broken, each of which alone rejects:",
            broken[0].words,
            f"{len(open_)} open: this run does not show whether they are kept:",
            "What shadow cannot show.",
            "its name in the file",
        )
    ]
    assert places == sorted(places)
    assert text.count("a coin reaches half") == 1
    assert not re.search(r"\bnan\b", text)
    assert "begun" not in text


def test_a_run_that_was_not_only_in_shadow_says_so(tmp_path: Path) -> None:
    """Of a run that engaged only the cycles before are reported; the page says how many are not."""
    fake = FakeBackend(points=8, n_slices=N, offset_rad=0.4)
    summary = closed_loop(
        fake, tmp_path, cycles=12, engage=EngageConfig(after_cycles=3, blend_cycles=2)
    ).run()
    assert summary.trace is not None
    report(summary.trace, out=tmp_path / "report.html", twin=False)
    html = (tmp_path / "report.html").read_text()
    assert "10 recorded cycles that were not in shadow" in html
