"""The report's numbers as JSON: all that the page says."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from memrl_deploy.report.page import BLIND_SPOT, Subject, seconds
from memrl_deploy.statistics import FloatArray, Rate

MODELLED = ("model_recorded", "model_policy", "gain", "bunching_gain")
"""Figures of the counterfactual."""


def as_json(subject: Subject) -> dict[str, Any]:
    """Return the report's numbers; what is not a number is null."""
    figures, twin, limits = subject.figures, subject.twin, subject.header.limits

    def rate(one: Rate | None) -> dict[str, Any] | None:
        if one is None:
            return None
        groups = one.of if one.groups is None else one.groups
        bounds = {"low": one.low, "high": one.high} if one.of else {"low": None, "high": None}
        return {
            "events": one.events,
            "of": one.of,
            "independent": groups,
            "value": one.value,
            **bounds,
        }

    result = {
        "verdict": str(subject.judgement.verdict),
        "reasons": list(subject.judgement.reasons),
        "findings": [asdict(one) for one in subject.judgement.findings],
        "blind_spot": BLIND_SPOT,
        "thresholds": asdict(subject.declared)
        | {"recorded_with_the_run": subject.in_trace is not None},
        "run_id": subject.header.run_id,
        "machine": subject.header.machine.name,
        "program": subject.header.program,
        "policy": subject.header.policy_name,
        "policy_sha256": subject.header.policy_sha256,
        "trace": subject.state.sentences(),
        "started_utc": subject.header.started_utc,
        "duration_s": seconds(figures),
        "cycles": figures.asked,
        "first_cycle": int(figures.cycle[0]),
        "last_cycle": int(figures.cycle[-1]),
        "cycles_not_in_shadow": subject.state.cycles - figures.asked,
        "unseen": rate(figures.unseen),
        "usable": rate(figures.usable),
        "flags": figures.quality,
        "events": figures.events,
        "intensity_over_median": _extremes(figures.intensity),
        "applied_deg": _extremes(figures.applied_deg),
        "limits_deg": {
            "step": math.degrees(limits.step_rad),
            "least": math.degrees(limits.min_rad),
            "most": math.degrees(limits.max_rad),
        },
        "compared": [rate(one) for one in figures.compared],
        "difference_deg": asdict(figures.all_points),
        "by_ctime": [
            {"ctime_ms": float(ctime), **asdict(one)}
            for ctime, one in zip(figures.ctime_ms, figures.by_ctime, strict=True)
        ],
        "by_intensity": {name: asdict(one) for name, one in figures.by_intensity.items()},
        "asymmetry": {n: asdict(getattr(figures, n)) for n in ("near", "far", "excess")},
        "operators_moves": {
            "moves": figures.lead.moves,
            "moves_without_a_recommendation": figures.lead.elsewhere,
            "same_sign": rate(figures.lead.same_sign),
            "lead_cycles_median": float(np.median(figures.lead.cycles))
            if figures.lead.cycles.size
            else None,
        },
        "refused": rate(figures.refused),
        "altered": rate(figures.altered),
        "unanswered": rate(figures.unanswered),
        "out_of_distribution": rate(figures.outside),
        "late": rate(figures.late),
        "stages": {name: rate(one) for name, one in figures.stages.items()},
        "decision_ms": {
            f"p{p:g}": float(np.percentile(figures.decision_ms, p)) for p in (50, 99, 99.9, 100)
        },
        "zero_events_bound": Rate(events=0, of=figures.asked).high,
        "counterfactual": None
        if twin is None
        else {
            "recorded": twin.recorded,
            **{n: asdict(getattr(twin, n)) for n in MODELLED},
            "credible": twin.credible,
            "doubt": twin.doubt,
            "first_cycle": twin.first_cycle,
            "cycles": twin.cycles,
            "fits": [
                {
                    "offset_deg": math.degrees(fit.offset_rad),
                    "emittance_evs": fit.emittance_evs,
                    "intensity": fit.intensity,
                    "chi2_reduced": fit.chi2_reduced,
                }
                for fit in twin.fitted
            ],
        },
    }
    numbers: dict[str, Any] = _finite(result)
    return numbers


def _extremes(values: FloatArray) -> list[float] | None:
    """Return the smallest and the largest that is known."""
    known = values[np.isfinite(values)]
    return [float(known.min()), float(known.max())] if known.size else None


def _finite(value: Any) -> Any:
    """Return the same with NaN and infinity as None."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
