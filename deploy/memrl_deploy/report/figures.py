"""The figures of a shadow run, from its trace alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.angles import wrap
from memrl_ctrl.backend import Quality
from memrl_ctrl.errors import TraceError
from memrl_ctrl.trace import TraceReader, Verdict
from memrl_ctrl.trace.scan import Progress
from memrl_deploy.endings import hard_cycles
from memrl_deploy.guard import STAGES
from memrl_deploy.guard.outlook import KIND as OUTLOOK
from memrl_deploy.modes import Shadow
from memrl_deploy.pacing import RECORD_BEFORE
from memrl_deploy.report.thresholds import Thresholds
from memrl_deploy.statistics import Figure, Rate, bootstrapped, of_points

MOST_PROFILES = 4000
"""Cycles whose profiles are read for the intensity; of more, every so manieth."""
BOOTSTRAP_CYCLES = 4000
"""Cycles that take part in a bootstrap; of more, every so manieth."""
MOVED_DEG = 0.5
"""The operators moved a point if they changed it by more, degrees."""
LOOK_BACK = 50
"""Cycles before a move that are looked at."""
GROUPS = 4
"""Classes of intensity, by quartiles."""
OUTSIDE = "distribution"
"""A guard stage or a measure with this in its name judges how unlike the training a reading is."""

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Recommended less applied, round the circle, degrees."""

    count: int
    median: Figure
    """Of the magnitude."""
    p95: Figure
    p99: float
    bias: float
    """Circular mean, with its sign."""
    within: Figure
    """Share within the tolerance."""


@dataclass(frozen=True, kw_only=True)
class Lead:
    """Whether the policy moved before the operators did."""

    moves: int
    """Times that operators moved a point for which there was a recommendation."""
    elsewhere: int
    """Times that they moved one for which there was none: nothing can be said of these."""
    same_sign: Rate
    """Of the moves, those in the direction that was recommended in the cycle before."""
    cycles: NDArray[np.int64]
    """For each of those: cycles without a break in which the policy had recommended that direction."""


@dataclass(frozen=True, kw_only=True)
class ShadowFigures:
    """Everything that the report says, but the verdict. Arrays [cycles, points] where not said."""

    cycle: NDArray[np.int64]
    stamp_ns: NDArray[np.int64]
    ctime_ms: FloatArray
    asked: int
    """Cycles in which the policy was asked."""
    unseen: Rate
    """Cycles between the first and the last that the run never saw, of all that the machine played."""
    usable: Rate
    quality: dict[str, int]
    """Readings by what was wrong with them."""
    difference_deg: FloatArray
    """NaN where there is nothing to compare: the reading could not be used, the policy gave no answer, or the
    guard held the point or refused the cycle."""
    asymmetry: FloatArray
    intensity: FloatArray
    """Area of the profiles over the run's median [cycles]; NaN where it was not read."""
    applied_deg: FloatArray
    recommended_deg: FloatArray
    compared: tuple[Rate, ...]
    """Cycles in which there was something to compare [points]."""
    all_points: Differences
    by_ctime: tuple[Differences, ...]
    by_intensity: dict[str, Differences]
    near: Figure
    """Mean |asymmetry| while the operators were within the tolerance of the recommendation."""
    far: Figure
    """And while they were not."""
    excess: Figure
    """Near less far: negative where the beam was better near the recommendation."""
    lead: Lead
    stages: dict[str, Rate]
    """Points that each guard stage would have altered, held or refused."""
    refused: Rate
    """Cycles that the guard would have refused."""
    altered: Rate
    """Points brought within a limit."""
    unanswered: Rate
    outside: Rate | None
    """Readings unlike those of the training; None where the run did not record it."""
    decision_ms: FloatArray
    """Until the record is on the disk, and a setpoint answered, where there was one [cycles]."""
    late: Rate
    """Decisions that took longer than the machine's period."""
    events: dict[str, int] = field(default_factory=dict)
    """What was out of the ordinary, by kind."""


def shadow_figures(
    trace: TraceReader,
    thresholds: Thresholds,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> ShadowFigures:
    """Compute the figures of a shadow run.

    Args:
        trace: the recorded run.
        thresholds: for the tolerance.
        seed: of the bootstrap.
        progress: called with the cycles read and their number.

    Raises:
        TraceError: no cycle of it was decided in shadow.
    """
    chosen = _shadow_cycles(trace)
    rng = np.random.default_rng(seed)
    quality = trace.array("quality")[chosen]
    usable = (quality & np.uint16(0xFFFF ^ Quality.NO_MATCH)) == 0
    applied = trace.array("applied_rad")[chosen]
    action = trace.array("action")[chosen][:, :, 0]
    answered = np.isfinite(action)
    recommended = trace.array("measures/recommended_rad")[chosen]
    skew = trace.array("measures/asymmetry")[chosen]
    difference = np.degrees(wrap(recommended - applied))
    verdicts = trace.array("verdicts")[chosen]
    # What the guard holds stays where it is applied: that is no agreement with the operators.
    held = ((verdicts == Verdict.HELD) | (verdicts == Verdict.REFUSED)).any(axis=2)
    difference[~(usable & answered) | held] = np.nan
    near = np.abs(difference) <= thresholds.tolerance_deg
    known = np.isfinite(difference) & np.isfinite(skew)
    intensity = _intensity(trace, chosen, progress)
    points = difference.shape[1]
    ctime = trace.header.machine.ctime_ms
    decision_ms = _decision_ms(trace, chosen)
    period_s = trace.header.machine.period_s
    late = decision_ms > 1e3 * period_s if period_s else np.zeros(decision_ms.size, dtype=np.bool_)
    stages = {
        name: of_points(
            verdicts[:, :, index] != Verdict.PASSED, verdicts[:, :, index] != Verdict.NOT_RUN
        )
        for index, name in enumerate(trace.header.guard_stages)
    }
    compared = np.isfinite(difference)
    everywhere = np.ones_like(usable)
    tolerance = thresholds.tolerance_deg
    return ShadowFigures(
        cycle=trace.cycles[chosen],
        stamp_ns=trace.array("stamp_ns")[chosen],
        ctime_ms=np.arange(points, dtype=np.float64) if ctime is None else np.asarray(ctime),
        asked=int(chosen.size),
        unseen=_unseen(trace, chosen),
        usable=of_points(usable, everywhere),
        quality=_quality(quality),
        difference_deg=difference,
        asymmetry=skew,
        intensity=intensity,
        applied_deg=np.degrees(applied),
        recommended_deg=np.degrees(recommended),
        compared=tuple(
            Rate(events=int(column.sum()), of=int(chosen.size)) for column in compared.T
        ),
        all_points=_differences(difference, tolerance, rng),
        by_ctime=tuple(
            _differences(difference[:, [point]], tolerance, None) for point in range(points)
        ),
        by_intensity=_by_intensity(difference, intensity, tolerance),
        near=_mean_of(np.where(known & near, np.abs(skew), np.nan), rng),
        far=_mean_of(np.where(known & ~near, np.abs(skew), np.nan), rng),
        excess=_excess(np.abs(skew), known & near, known & ~near, rng),
        lead=_lead(applied, np.where(compared, recommended - applied, np.nan)),
        stages=stages,
        refused=Rate(events=int(_refused(trace, verdicts, chosen).sum()), of=int(chosen.size)),
        altered=of_points((verdicts == Verdict.ALTERED).any(axis=2), everywhere),
        unanswered=of_points(~answered, usable),
        outside=_outside(stages),
        decision_ms=decision_ms,
        late=Rate(events=int(late.sum()), of=int(chosen.size) if period_s else 0),
        events=_events(trace, chosen),
    )


def _shadow_cycles(trace: TraceReader) -> NDArray[np.intp]:
    """Return the cycles in which the policy was asked in shadow."""
    if not len(trace) or "cycles/action" not in trace.names:
        raise TraceError(trace.path, "no cycle in it asked a policy: there is nothing to report")
    shadow = trace.array("mode") == Shadow.name
    chosen = np.flatnonzero(shadow & (trace.array("policy_ran") != 0))
    if not chosen.size:
        modes = ", ".join(sorted(set(trace.array("mode").tolist())))
        raise TraceError(
            trace.path,
            f"was recorded in {modes}: the report is about shadow, where the operators set the function",
        )
    if "cycles/measures/recommended_rad" not in trace.names:
        raise TraceError(trace.path, "holds no recommendations: it was recorded by another program")
    return np.asarray(chosen, dtype=np.intp)


def _unseen(trace: TraceReader, chosen: NDArray[np.intp]) -> Rate:
    """Return how many of the cycles that were played from the first to the last were not seen."""
    cycles = trace.cycles
    first, last = int(cycles[chosen[0]]), int(cycles[chosen[-1]])
    seen = int(((cycles >= first) & (cycles <= last)).sum())
    return Rate(events=max(0, last - first + 1 - seen), of=max(seen, last - first + 1))


def _differences(
    difference: FloatArray, tolerance_deg: float, rng: np.random.Generator | None
) -> Differences:
    """Summarise differences [cycles, n]; without a generator there are no intervals."""
    finite = difference[np.isfinite(difference)]
    size = np.abs(finite)
    statistics: dict[str, Callable[[FloatArray], float]] = {
        "median": lambda v: _of(v, lambda x: float(np.median(np.abs(x)))),
        "p95": lambda v: _of(v, lambda x: float(np.percentile(np.abs(x), 95.0))),
        "within": lambda v: _of(v, lambda x: float((np.abs(x) <= tolerance_deg).mean())),
    }
    found = {}
    for name, statistic in statistics.items():
        if rng is None:
            value = statistic(difference)
            found[name] = Figure(value=value, low=float("nan"), high=float("nan"))
        else:
            found[name] = bootstrapped(_thinned(difference), statistic, rng=rng)
    vector = np.exp(1j * np.radians(finite)).mean() if finite.size else complex("nan")
    return Differences(
        count=int(finite.size),
        p99=float(np.percentile(size, 99.0)) if size.size else float("nan"),
        bias=float(np.degrees(np.angle(vector))),
        **found,
    )


def _of(values: FloatArray, statistic: Callable[[FloatArray], float]) -> float:
    finite = values[np.isfinite(values)]
    return statistic(finite) if finite.size else float("nan")


def _thinned(values: FloatArray) -> FloatArray:
    return values[:: max(1, -(-values.shape[0] // BOOTSTRAP_CYCLES))]


def _mean_of(values: FloatArray, rng: np.random.Generator) -> Figure:
    return bootstrapped(_thinned(values), lambda v: _of(v, lambda x: float(x.mean())), rng=rng)


def _excess(skew: FloatArray, near: BoolArray, far: BoolArray, rng: np.random.Generator) -> Figure:
    """Near less far in mean |asymmetry|: the same points of the cycle are compared with each other."""
    both = np.stack([np.where(near, skew, np.nan), np.where(far, skew, np.nan)], axis=-1)

    def statistic(values: FloatArray) -> float:
        known = np.isfinite(values)
        number = known.sum(axis=0)
        total = np.where(known, values, 0.0).sum(axis=0)
        compared = (number > 0).all(axis=1)
        if not compared.any():
            return float("nan")
        means = total[compared] / number[compared]
        weight = np.minimum(number[compared, 0], number[compared, 1])
        return float(np.average(means[:, 0] - means[:, 1], weights=weight))

    return bootstrapped(_thinned(both), statistic, rng=rng)


def _by_intensity(
    difference: FloatArray, intensity: FloatArray, tolerance_deg: float
) -> dict[str, Differences]:
    known = np.isfinite(intensity)
    if not known.any():
        return {}
    edges = np.quantile(intensity[known], np.linspace(0.0, 1.0, GROUPS + 1))
    if edges[-1] - edges[0] < 0.05 * edges[-1]:  # one intensity: there is nothing to compare
        name = f"{edges[0]:.2f} to {edges[-1]:.2f}"
        return {name: _differences(difference[known], tolerance_deg, None)}
    group = np.clip(np.searchsorted(edges, intensity, side="right") - 1, 0, GROUPS - 1)
    return {
        f"{edges[k]:.2f} to {edges[k + 1]:.2f}": _differences(
            difference[known & (group == k)], tolerance_deg, None
        )
        for k in range(GROUPS)
    }


def _intensity(
    trace: TraceReader, chosen: NDArray[np.intp], progress: Progress | None
) -> FloatArray:
    """Return the area of the profiles over its median [cycles].

    The control system's intensity is not in the trace; a profile's area above its baseline (its lowest
    tenth) goes with it, in units of the monitor.
    """
    result = np.full(chosen.size, np.nan)
    step = max(1, -(-chosen.size // MOST_PROFILES))
    for place in range(0, chosen.size, step):
        profile = trace.array("profile", int(chosen[place])).astype(np.float64)
        finite = profile[np.isfinite(profile).all(axis=1)]
        if finite.size:
            base = np.percentile(finite, 10.0, axis=1, keepdims=True)
            result[place] = float(np.median((finite - base).sum(axis=1)))
        if progress is not None:
            progress(place + 1, chosen.size)
    middle = np.nanmedian(result) if np.isfinite(result).any() else np.nan
    return result / middle if middle > 0.0 else np.full(chosen.size, np.nan)


def _lead(applied: FloatArray, wanted: FloatArray) -> Lead:
    """Compare the operators' moves with the direction that was recommended before them.

    Args:
        applied: [cycles, points], rad.
        wanted: recommended less applied, rad; NaN where nothing was recommended. A move of such a point is
            neither for nor against the policy.
    """
    move = wrap(np.diff(applied, axis=0))
    moved = np.abs(np.degrees(move)) > MOVED_DEG
    known = np.isfinite(wanted)
    told = moved & known[:-1]
    cycles, points = np.nonzero(told)
    wanted = np.where(known, wrap(np.where(known, wanted, 0.0)), 0.0)
    sign = np.where(np.abs(np.degrees(wanted)) <= MOVED_DEG, 0.0, np.sign(wanted))
    agrees, leads = 0, []
    run = _run_lengths(sign)
    for cycle, point in zip(cycles.tolist(), points.tolist(), strict=True):
        if sign[cycle, point] == np.sign(move[cycle, point]):
            agrees += 1
            leads.append(min(int(run[cycle, point]), LOOK_BACK))
    return Lead(
        moves=int(cycles.size),
        elsewhere=int((moved & ~told).sum()),
        same_sign=Rate(events=agrees, of=int(cycles.size), groups=int(told.any(axis=1).sum())),
        cycles=np.array(leads, dtype=np.int64),
    )


def _run_lengths(sign: FloatArray) -> NDArray[np.int64]:
    """For each cycle and point: how many cycles in a row, this one included, had this sign."""
    run = np.ones(sign.shape, dtype=np.int64)
    for cycle in range(1, sign.shape[0]):
        same = (sign[cycle] == sign[cycle - 1]) & (sign[cycle] != 0.0)
        run[cycle] = np.where(same, run[cycle - 1] + 1, 1)
    return run


def _refused(
    trace: TraceReader, verdicts: NDArray[np.uint8], chosen: NDArray[np.intp]
) -> BoolArray:
    """Return in which cycles the guard lets nothing through: refused, or with hard excess [cycles]."""
    refused = np.asarray((verdicts == Verdict.REFUSED).any(axis=(1, 2)))
    if set(STAGES) <= set(trace.header.guard_stages):  # else another program's
        refused |= hard_cycles(trace)[chosen]
    return refused


def _outside(stages: dict[str, Rate]) -> Rate | None:
    """Return how many readings were judged unlike the training; None where none was judged."""
    judged = (rate for name, rate in stages.items() if OUTSIDE in name and rate.of)
    return next(judged, None)


def _quality(quality: NDArray[np.uint16]) -> dict[str, int]:
    return {
        str(flag.name).lower().replace("_", " "): int(((quality & flag.value) != 0).sum())
        for flag in Quality
        if flag.value and ((quality & flag.value) != 0).any()
    }


def _decision_ms(trace: TraceReader, chosen: NDArray[np.intp]) -> FloatArray:
    """From the reading's arrival until the record is on the disk, and what the machine answered where
    something was written [cycles]; what a section did not take is 0."""
    total = np.zeros(len(trace))
    for name in trace.names:
        group, _, section = name.rpartition("/")
        if group not in ("cycles/timings_ns", "outcomes/timings_ns") or section == "receive":
            continue
        taken = np.maximum(trace.array(name), 0)
        if section == RECORD_BEFORE:
            total[:-1] += taken[1:]
        else:
            total += taken
    return np.asarray(total[chosen] / 1e6)


def _events(trace: TraceReader, chosen: NDArray[np.intp]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name in ("events_json", "outcomes/events_json"):
        if name not in trace.names and f"cycles/{name}" not in trace.names:
            continue
        for text in trace.array(name)[chosen]:
            if text not in ("", "[]"):
                counts.update(str(event["kind"]) for event in msgspec.json.decode(text))
    # What the guard looks ahead with, and that a run has a beginning, is nothing out of the ordinary.
    for usual in (OUTLOOK, "begun"):
        counts.pop(usual, None)
    return dict(sorted(counts.items()))


__all__ = ["Differences", "Lead", "ShadowFigures", "shadow_figures"]
