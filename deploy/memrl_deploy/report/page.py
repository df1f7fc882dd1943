"""The report as one HTML page that needs nothing else, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from memrl_ctrl import __version__
from memrl_ctrl.trace import TraceHeader
from memrl_ctrl.trace.report import TraceReport
from memrl_deploy.counterfactual import Counterfactual
from memrl_deploy.report.figures import Differences, ShadowFigures
from memrl_deploy.report.judgement import (
    NO_INTERVAL,
    Finding,
    Judgement,
    State,
    Verdict,
    rate_words,
)
from memrl_deploy.report.pictures import pictures
from memrl_deploy.report.thresholds import Declared, recorded_in
from memrl_deploy.report.words import VERDICTS, meaning
from memrl_deploy.statistics import Figure, Rate

BLIND_SPOT = (
    "In shadow the policy never meets the consequences of its own functions. Its memory follows the "
    "trajectory that the operators chose: the changes it is told were applied are theirs, and the readings "
    "are those of their settings. Agreement here is therefore no proof that the closed loop is stable, and "
    "a difference is no proof that the policy is wrong: it may be right where the operators were not. What "
    "the loop would do is known only from the counterfactual simulation, as far as its model holds, and from "
    "the first cycles after engaging, which the guard watches."
)
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1020px;padding:24px;
color:#1c1c1c;background:#fff}
h1{font-size:25px;margin:0 0 4px}h2{font-size:18px;margin:30px 0 8px;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:8px 0}td,th{padding:3px 14px 3px 0;text-align:left;vertical-align:top}
th{font-weight:600;border-bottom:1px solid #bbb}td.n,th.n{text-align:right}
.verdict{display:inline-block;color:#fff;font-size:25px;font-weight:700;padding:6px 20px;border-radius:5px}
.PROMOTE{background:#2d7d46}.HOLD{background:#a86d00}.REJECT{background:#b3382c}
.covered td:first-child{white-space:nowrap}
.met{color:#2d7d46}.open{color:#a86d00}.broken{color:#b3382c;font-weight:600}
.note{background:#fff7e3;border-left:4px solid #d9a300;padding:9px 14px;margin:10px 0}
.pictures{display:grid;grid-template-columns:1fr 1fr;gap:14px}svg{width:100%;height:auto}
.wide{overflow-x:auto}.dim{color:#666}
@media(max-width:760px){body{padding:12px}.pictures{grid-template-columns:1fr}td,th{padding-right:8px}}
@media print{body{max-width:none;padding:0;font-size:12px}.wide{overflow:visible}
.verdict{print-color-adjust:exact;-webkit-print-color-adjust:exact;border:2px solid #1c1c1c}
h2{break-after:avoid}tr,svg,.note{break-inside:avoid}}
"""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the report is about."""

    header: TraceHeader
    state: TraceReport
    figures: ShadowFigures
    judgement: Judgement
    declared: Declared
    twin: Counterfactual | None = None
    twin_problem: str = ""
    """Why there is no counterfactual."""

    @property
    def in_trace(self) -> Mapping[str, str] | None:
        """The thresholds that the run was begun with, as its trace holds them; None where it holds none."""
        return recorded_in(self.header.configuration)


def page(subject: Subject) -> str:
    """Return the whole page."""
    header, judgement = subject.header, subject.judgement
    title = f"Shadow report: policy {header.policy_name or '(unnamed)'} on machine {header.machine.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="dim">program {escape(header.program)}, run {escape(header.run_id)}, started '
        f"{escape(header.started_utc)}; policy SHA-256 {escape(header.policy_sha256[:16])}…</p>",
        f'<p><span class="verdict {judgement.verdict}">{judgement.verdict}</span></p>',
        f"<p>{escape(VERDICTS[judgement.verdict])}</p>",
        *_reasons(judgement),
        f'<p class="note"><b>What shadow cannot show.</b> {escape(BLIND_SPOT)}</p>',
        "<h2>Limits declared, and what was measured</h2>",
        _thresholds(subject),
        "<h2>What was covered</h2>",
        f'<div class="covered">{_table(("", ""), _covered(subject))}</div>',
        "<h2>Pictures</h2>",
        f'<div class="pictures">{"".join(pictures(subject.figures, subject.twin))}</div>',
        *_comparison(subject),
        *_safety(subject),
        *_counterfactual(subject),
        f'<p class="dim">memrl-ctrl {escape(__version__)}; recorded with '
        f"{escape(', '.join(f'{n} {v}' for n, v in header.versions.items()))}</p>",
    ]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _reasons(judgement: Judgement) -> list[str]:
    """Return the reasons in groups: what each of them does to the verdict."""
    broken, open_ = (
        [one.sentence for one in judgement.findings if one.state is state]
        for state in (State.BROKEN, State.OPEN)
    )
    others = [one for one in judgement.reasons if one not in (*broken, *open_)]
    alone = judgement.verdict is Verdict.REJECT
    rejects = (
        ", each of which alone rejects" if alone else ", about the operators more than the policy"
    )
    groups = (
        (f"{len(broken)} broken{rejects}:", broken),
        (f"{len(open_)} open: this run does not show whether they are kept:", open_),
        ("What else is to be known:" if broken or open_ else "", others),
    )
    parts = []
    for words, reasons in groups:
        if reasons:
            items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
            parts.append(
                f"<p>{escape(words)}</p><ul>{items}</ul>" if words else f"<ul>{items}</ul>"
            )
    return parts


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 99) -> str:
    """Return a table; columns from `numbers` on are set flush right."""

    def cells(row: Sequence[str], tag: str) -> str:
        classes = ['class="n"' if index >= numbers else "" for index in range(len(row))]
        joined = zip(row, classes, strict=True)
        return "".join(f"<{tag} {kind}>{escape(cell)}</{tag}>" for cell, kind in joined)

    heading = [f"<tr>{cells(head, 'th')}</tr>"] if any(head) else []
    lines = [f"<tr>{cells(row, 'td')}</tr>" for row in rows]
    return f'<div class="wide"><table>{"".join([*heading, *lines])}</table></div>'


def _thresholds(subject: Subject) -> str:
    tolerance_deg = subject.declared.thresholds.tolerance_deg
    step_deg = math.degrees(subject.header.limits.step_rad)

    def row(one: Finding) -> str:
        means = meaning(one.name, tolerance_deg=tolerance_deg, step_deg=step_deg)
        return (
            f'<tr><td>{escape(one.words)}<br><span class="dim">{escape(means)}</span></td>'
            f"<td>{escape(one.measured)}</td><td>{escape(one.limit)}</td>"
            f'<td class="{one.state}">{one.state}</td><td class="dim">{escape(one.name)}</td></tr>'
        )

    rows = "".join(map(row, subject.judgement.findings))
    source = escape(subject.declared.words(subject.in_trace))
    return (
        '<div class="wide"><table><tr><th>figure</th><th>measured (95 % interval)</th><th>declared</th>'
        f"<th>limit is</th><th>its name in the file</th></tr>{rows}</table></div>"
        f'<p class="dim">Thresholds: {source}. A limit is met where the whole interval keeps it, broken '
        "where the whole interval does not, and open in between. One broken limit rejects, one open limit "
        "holds. Limits of what the run covered are never broken.</p>"
    )


def _covered(subject: Subject) -> list[tuple[str, str]]:
    figures, header = subject.figures, subject.header
    hours = seconds(figures) / 3600.0
    area = figures.intensity[np.isfinite(figures.intensity)]
    spread = (
        f"{area.min():.2f} to {area.max():.2f} of its median" if area.size else "could not be read"
    )
    quality = ", ".join(f"{name}: {count}" for name, count in figures.quality.items())
    events = ", ".join(f"{name}: {count}" for name, count in figures.events.items())
    low, high = figures.applied_deg.min(), figures.applied_deg.max()
    limits, ctime = header.limits, figures.ctime_ms
    step, least, most = (math.degrees(v) for v in (limits.step_rad, limits.min_rad, limits.max_rad))
    first, last = figures.cycle[0], figures.cycle[-1]
    played = int(last - first) + 1
    seen = f"{figures.asked} of the {played}" if played > figures.asked else f"all {played}"
    if figures.unseen.events:
        seen += f" ({figures.unseen.events} never seen)"
    lasted = f"{hours:.2f} h" if hours >= 1.0 else f"{60.0 * hours:.1f} min"
    if hours < 1.0 / 30.0:
        lasted = f"{3600.0 * hours:.1f} s"
    others = subject.state.cycles - figures.asked
    return [
        ("cycles", f"{seen} from {first} to {last}, in {lasted}"),
        *(
            [("not reported", f"{others} recorded cycles that were not in shadow")]
            if others > 0
            else []
        ),
        ("control points", f"{ctime.size}, ctime {ctime[0]:g} to {ctime[-1]:g} ms"),
        ("intensity (area of the profiles)", spread),
        ("phi_hw that the operators played", f"{low:.1f} to {high:.1f} degrees"),
        ("limits of the run", f"step {step:.1f}, values {least:.0f} to {most:.0f} degrees"),
        ("usable readings", f"{figures.usable.events} of {figures.usable.of}"),
        ("flags on readings", quality or "none"),
        ("out of the ordinary", events or "nothing"),
        ("trace", "; ".join(subject.state.sentences())),
    ]


def seconds(figures: ShadowFigures) -> float:
    """Return how long the run lasted, from its first to its last cycle."""
    return float(figures.stamp_ns[-1] - figures.stamp_ns[0]) / 1e9


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _between(figure: Figure, digits: int = 4) -> str:
    if not math.isfinite(figure.value):
        return "not measured"
    if not math.isfinite(figure.low):
        return f"{figure.value:.{digits}f} ({NO_INTERVAL})"
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def _difference_row(name: str, one: Differences) -> tuple[str, ...]:
    return (
        name,
        str(one.count),
        _number(one.median.value),
        _number(one.p95.value),
        _number(one.p99),
        _number(one.bias),
        _number(100.0 * one.within.value, 1),
    )


def _comparison(subject: Subject) -> list[str]:
    figures = subject.figures
    tolerance = subject.declared.thresholds.tolerance_deg
    head = ("", "values", "median", "p95", "p99", "bias", f"within {tolerance:g}° [%]")
    rows = [_difference_row("all points", figures.all_points)]
    rows += [_difference_row(f"intensity {n}", one) for n, one in figures.by_intensity.items()]
    rows += [
        _difference_row(f"ctime {ctime:.1f} ms", one)
        for ctime, one in zip(figures.ctime_ms, figures.by_ctime, strict=True)
    ]
    lead = figures.lead
    median = f"{np.median(lead.cycles):.0f}" if lead.cycles.size else "–"
    moves = f"The operators moved a point {lead.moves} times by more than half a degree" + (
        f", in {lead.same_sign.groups} cycles; {rate_words(lead.same_sign, least=True)} of them in the "
        f"direction that the policy had recommended the cycle before, for {median} cycles in the median."
        if lead.moves
        else ": whether it would have moved before them cannot be said."
    )
    if lead.elsewhere:
        moves += (
            f" {lead.elsewhere} more moves were of points for which there was no recommendation: the "
            "reading could not be used, or the guard held."
        )
    moves += " Whoever sets the function counts as an operator: the trace does not say who it was."
    return [
        "<h2>Difference to the operators' settings</h2>",
        '<p class="dim">Recommended less applied phi_hw, round the circle, degrees: median, p95 and p99 of '
        "its size, below which half, 95 and 99 of 100 values lie; bias is the circular mean, with its sign. "
        "What is recommended is one step, as the guard would let it through; points that it held are left "
        "out, as are readings that could not be used.</p>",
        _table(head, rows, numbers=1),
        f"<p>{escape(moves)}</p>",
        "<h2>The beam near the recommendation, and elsewhere</h2>",
        _table(
            ("mean |asymmetry|", "value (95 % interval)"),
            [
                (f"operators within {tolerance:g}° of it", _between(figures.near)),
                ("farther away", _between(figures.far)),
                ("near less far, at the same control points", _between(figures.excess)),
            ],
        ),
        '<p class="dim">Asymmetry is the skewness of a profile; 0 is symmetric. The first two rows average '
        "over different control points, some of which are hardly ever near; the third compares each with "
        "itself, and is the one that is judged: below 0 the beam was better near the recommendation.</p>",
    ]


def _safety(subject: Subject) -> list[str]:
    figures = subject.figures

    def row(name: str, rate: Rate) -> tuple[str, ...]:
        return (
            name,
            str(rate.events),
            str(rate.of),
            *([f"{100 * v:.3g}" for v in (rate.value, rate.high)] if rate.of else ["–", "–"]),
        )

    rates = {
        "cycles that the guard would have refused": figures.refused,
        "points brought within a limit": figures.altered,
        "usable readings without a finite answer": figures.unanswered,
        "decisions longer than the period": figures.late,
        "cycles never seen": figures.unseen,
    }
    if figures.outside is not None:
        rates["readings unlike those of the training"] = figures.outside
    rows = [row(name, rate) for name, rate in rates.items()]
    rows += [row(f"guard stage {name}", rate) for name, rate in figures.stages.items()]
    p50, p99, p999, largest = np.percentile(figures.decision_ms, [50.0, 99.0, 99.9, 100.0])
    none = (
        ""
        if figures.outside is not None
        else (" How unlike the training a reading was, this run did not record.")
    )
    zero = Rate(events=0, of=figures.asked)
    period_s = subject.header.machine.period_s
    period = f"{period_s:g} s" if period_s else "as short as it is asked for"
    return [
        "<h2>Would-be limit hits, answers, deadlines</h2>",
        '<p class="dim">Events among all cases; the last column is what the true share is below at 95 % '
        "(Clopper and Pearson), as if all points of a cycle were one case. A guard stage's events are the "
        "points that it would have altered, held or refused; the stages stand in docs/safety.md.</p>",
        _table(("", "events", "cases", "share [%]", "below, at 95 % [%]"), rows, numbers=1),
        f"<p>Nothing seen in {figures.asked} cycles means, at 95 %: less often than once in "
        f"{1.0 / zero.high:,.0f} cycles (rule of three), if cycles were independent; they are alike for as "
        f"long as the machine is, so that the true bound is weaker.{none}</p>",
        f"<p>Time from the reading's arrival until the decision is on the disk: median {p50:.2f}, p99 "
        f"{p99:.2f}, p99.9 {p999:.2f}, longest {largest:.2f} ms; the machine's period is {period}. In closed "
        "loop the function is sent then, and the machine's answer comes on top.</p>",
    ]


def _counterfactual(subject: Subject) -> list[str]:
    twin = subject.twin
    head = "<h2>Counterfactual: the policy in closed loop on a fitted simulation</h2>"
    if twin is None:
        return [head, f"<p>{escape(subject.twin_problem or 'Not asked for.')}</p>"]

    def row(name: str, figure: Any) -> tuple[str, str]:
        return name, f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})"

    doubt = (
        ""
        if twin.credible
        else (f'<p class="note">Do not decide on the gain: {escape(twin.doubt)}.</p>')
    )
    fit = twin.fitted[0]
    return [
        head,
        _table(
            ("mean |asymmetry|", "value (95 % interval)"),
            [
                ("measured", f"{twin.recorded:.4f}"),
                row("model, functions as recorded", twin.model_recorded),
                row("model, policy in closed loop", twin.model_policy),
                row("gain of the policy (positive: less asymmetry)", twin.gain),
                row("gain in bunching factor (negative: a shorter bunch)", twin.bunching_gain),
            ],
        ),
        '<p class="dim">The kernel is fitted to some of the recorded readings and stands in for the machine '
        "from there on. The gain is what the policy takes off the model's own asymmetry under the functions "
        "that were really played.</p>",
        f"<p>The first {twin.cycles} cycles of the run, from {twin.first_cycle} (`memrl-ctrl replay --twin` "
        f"takes others); points whose reading could be used. Fitted emittance {fit.emittance_evs:.3f} eV s, "
        f"intensity {fit.intensity:.3g}, reduced chi2 {fit.chi2_reduced:.2f}.</p>",
        doubt,
    ]
