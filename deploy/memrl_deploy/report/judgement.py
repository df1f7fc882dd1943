"""PROMOTE, HOLD or REJECT: the thresholds held against the figures, each with its reason.

A limit is met where the figure's interval lies within it, broken where the interval lies beyond it, and
open in between or where nothing was measured. One broken limit rejects; one open limit holds. Limits of what
the run covered are never broken: what was not seen speaks neither for nor against a policy. Where only the
difference to the operators breaks its limit, and the beam says that they were not right, that holds too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from memrl_deploy.counterfactual import Counterfactual
from memrl_deploy.report.figures import ShadowFigures
from memrl_deploy.report.thresholds import NO_GAIN, Declared, Thresholds
from memrl_deploy.report.words import BETTER_THERE, UNTUNED
from memrl_deploy.statistics import LEVEL, Figure, Rate

NO_INTERVAL = "too few cycles for an interval"
NO_CASE = {
    "min_sign_agreement": "no case: the operators moved no point for which there was a recommendation",
    "max_late_rate": "no case: the machine has no period",
}
"""What is said where nothing could be counted."""
COVERAGE = ("min_cycles", "max_unseen_rate", "min_compared_rate")
"""Limits of what the run covered."""
OF_DIFFERENCE = ("min_agreement", "max_p95_difference_deg")
"""Limits of what lies between the policy and the operators."""


class State(StrEnum):
    """What a figure says of its limit."""

    MET = "met"
    OPEN = "open"
    BROKEN = "broken"


class Verdict(StrEnum):
    """What the thresholds say of the policy."""

    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    REJECT = "REJECT"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One limit and what was measured."""

    name: str
    """As in the thresholds' file."""
    words: str
    measured: str
    limit: str
    state: State

    @property
    def sentence(self) -> str:
        """The figure beside its limit."""
        return f"{self.words}: {self.measured}, {self.limit} was declared"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict and its reasons."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...]
    """Sentences, the decisive ones first."""


def judge(
    figures: ShadowFigures,
    declared: Declared,
    *,
    started_utc: str,
    recorded_with: str = "",
    in_trace: Mapping[str, str] | None = None,
    problems: tuple[str, ...] = (),
    twin: Counterfactual | None = None,
) -> Judgement:
    """Hold the thresholds against the figures.

    Args:
        figures: of the run.
        declared: the thresholds, and where they come from.
        started_utc: start of the run: thresholds that are younger were not declared beforehand.
        recorded_with: release that recorded it: its own thresholds were.
        in_trace: thresholds that the run was begun with, as its trace holds them.
        problems: what is wrong with the trace itself.
        twin: what the fitted simulation says, if it was asked.
    """
    limits = declared.thresholds
    everything, lead = figures.all_points, figures.lead
    names = _Limits(limits)
    findings = (
        _count(figures.asked, limits.min_cycles),
        names.rate("max_unseen_rate", "cycles that the run did not see", figures.unseen),
        _compared(names, figures),
        names.interval("min_agreement", "points within the tolerance", everything.within, " %"),
        names.interval(
            "max_p95_difference_deg", "95th percentile of the difference", everything.p95, "°"
        ),
        names.rate(
            "min_sign_agreement", "operators' moves in the recommended direction", lead.same_sign
        ),
        names.interval(
            "max_asymmetry_excess",
            "|asymmetry| near the recommendation less that elsewhere",
            figures.excess,
        ),
        names.rate("max_refused_rate", "cycles that the guard would have refused", figures.refused),
        names.rate("max_altered_rate", "points brought within a limit", figures.altered),
        names.rate("max_unanswered_rate", "readings without a finite answer", figures.unanswered),
        names.rate("max_out_of_distribution_rate", "readings unlike the training", figures.outside),
        names.rate("max_late_rate", "decisions longer than the period", figures.late),
        _latency(figures, limits.max_decision_p99_ms),
        *([_gain(twin, limits.min_gain)] if limits.min_gain > NO_GAIN else []),
    )
    broken = [one for one in findings if one.state is State.BROKEN]
    open_ = [one for one in findings if one.state is State.OPEN]
    doubt = declared.doubt(started_utc, recorded_with, in_trace)
    doubts = [*problems, doubt] if doubt else [*problems]
    if twin is not None and twin.credible and twin.shortens:
        gain = twin.bunching_gain
        doubts.append(
            "in the fitted simulation the policy leads to a shorter bunch (bunching factor "
            f"{gain.low:+.3f} to {gain.high:+.3f}): it is symmetric there too, and its peak is higher"
        )
    of_difference = [one for one in broken if one.name in OF_DIFFERENCE]
    remark = _remark(figures) if of_difference else ""
    if remark:
        doubts.append(remark)
    excused = bool(remark) and len(of_difference) == len(broken)
    reasons = [one.sentence for one in (*broken, *open_)]
    verdict = Verdict.PROMOTE
    if broken and not excused:
        verdict = Verdict.REJECT
    elif broken or open_ or doubts:
        verdict = Verdict.HOLD
    if verdict is Verdict.PROMOTE:
        reasons = [f"all {len(findings)} limits are met"]
    return Judgement(verdict=verdict, findings=findings, reasons=(*reasons, *doubts))


def _remark(figures: ShadowFigures) -> str:
    """Return why a difference to the operators does not speak against the policy; empty if it does."""
    lead = figures.lead
    if not lead.moves and not lead.elsewhere:
        return UNTUNED
    # A step is small where the beam is good already, also one that leads away: the signs have to agree too.
    return BETTER_THERE if figures.excess.high < 0.0 and lead.same_sign.value > 0.5 else ""


def _state(figure_low: float, figure_high: float, limit: float, *, most: bool) -> State:
    """Compare an interval with a limit."""
    if not (math.isfinite(figure_low) and math.isfinite(figure_high)):
        return State.OPEN
    if most:
        met, broken = figure_high <= limit, figure_low > limit
    else:
        met, broken = figure_low >= limit, figure_high < limit
    return State.MET if met else State.BROKEN if broken else State.OPEN


def rate_words(rate: Rate, *, least: bool = False) -> str:
    """Return a rate in words, with what it bounds: from above, or from below where a `least` is asked for."""
    if not rate.of:
        return "no case"
    bound = f"above {100 * rate.low:.3g}" if least else f"below {100 * rate.high:.3g}"
    together = "" if rate.groups is None else f", by {rate.groups} cycles"
    return f"{rate.events} of {rate.of} ({100 * rate.value:.3g} %; {bound} % at 95 %{together})"


def quiet_cases(limit: float) -> int:
    """Return in how many cases nothing has to happen before a rate is below a limit, one-sided at 95 %."""
    return math.ceil(math.log(1.0 - LEVEL) / math.log1p(-limit))


class _Limits:
    """Makes findings of figures, by the name of the limit: `max_` is an upper one, `min_` a lower one."""

    def __init__(self, limits: Thresholds) -> None:
        self._limits = limits

    def interval(self, name: str, words: str, figure: Figure, unit: str = "") -> Finding:
        """Hold a figure with an interval against its limit."""
        scale = 100.0 if unit == " %" else 1.0
        measured = "not measured"
        if math.isfinite(figure.value):
            value, low, high = (scale * one for one in (figure.value, figure.low, figure.high))
            between = f"{low:.3g} to {high:.3g}{unit}" if math.isfinite(low) else NO_INTERVAL
            measured = f"{value:.3g}{unit} ({between})"
        return self._finding(name, words, measured, (figure.low, figure.high), (scale, unit))

    def rate(self, name: str, words: str, rate: Rate | None) -> Finding:
        """Hold a rate against its limit; None was not recorded."""
        if rate is None or not rate.of:
            measured = "not recorded by this run" if rate is None else NO_CASE.get(name, "no case")
            return self._finding(name, words, measured, (math.nan, math.nan), (100.0, " %"))
        measured = rate_words(rate, least=name.startswith("min_"))
        most = float(getattr(self._limits, name))
        if name.startswith("max_") and not rate.events and rate.high > most > 0.0:
            measured = f"{measured[:-1]}, {quiet_cases(most):,} without one would do)"
        return self._finding(name, words, measured, (rate.low, rate.high), (100.0, " %"))

    def _finding(
        self,
        name: str,
        words: str,
        measured: str,
        interval: tuple[float, float],
        unit: tuple[float, str],
    ) -> Finding:
        most, limit = name.startswith("max_"), float(getattr(self._limits, name))
        state = _state(*interval, limit, most=most)
        if state is State.BROKEN and name in COVERAGE:
            state = State.OPEN
        return Finding(
            name=name,
            words=words,
            measured=measured,
            limit=f"{'at most' if most else 'at least'} {unit[0] * limit:.3g}{unit[1]}",
            state=state,
        )


def _compared(names: _Limits, figures: ShadowFigures) -> Finding:
    """Hold the control point with the fewest recommendations to compare against its limit."""
    place = int(np.argmin([rate.events for rate in figures.compared]))
    words = (
        f"cycles with a recommendation to compare, fewest: ctime {figures.ctime_ms[place]:.1f} ms"
    )
    return names.rate("min_compared_rate", words, figures.compared[place])


def _count(cycles: int, limit: int) -> Finding:
    more = f", {limit - cycles:,} more are needed" if cycles < limit else ""
    return Finding(
        name="min_cycles",
        words="cycles in which the policy was asked",
        measured=f"{cycles}{more}",
        limit=f"at least {limit}",
        state=State.MET if cycles >= limit else State.OPEN,
    )


def _latency(figures: ShadowFigures, limit_ms: float) -> Finding:
    p99 = float(np.percentile(figures.decision_ms, 99.0))
    return Finding(
        name="max_decision_p99_ms",
        words="99th percentile of the time until a decision is recorded",
        measured=f"{p99:.3g} ms",
        limit=f"at most {limit_ms:.3g} ms",
        state=State.MET if p99 <= limit_ms else State.BROKEN,
    )


def _gain(twin: Counterfactual | None, limit: float) -> Finding:
    measured, state = "not computed", State.OPEN
    if twin is not None and twin.credible:
        measured = f"{twin.gain.value:.4f} ({twin.gain.low:.4f} to {twin.gain.high:.4f})"
        state = _state(twin.gain.low, twin.gain.high, limit, most=False)
    elif twin is not None:
        measured = f"not to be decided on: {twin.doubt}"
    return Finding(
        name="min_gain",
        words="counterfactual gain in mean |asymmetry|",
        measured=measured,
        limit=f"at least {limit:.3g}",
        state=state,
    )
