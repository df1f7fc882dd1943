"""What the report's figures and verdicts mean, in words for whoever has to decide."""

from __future__ import annotations

VERDICTS = {
    "PROMOTE": "Every declared limit is met: by these figures the policy may be engaged, guarded and "
    "watched.",
    "HOLD": "No declared limit is broken, but not all that it takes is shown: the policy stays in shadow.",
    "REJECT": "A declared limit is broken: by these figures the policy must not write.",
}
"""What each verdict says of the next step."""

UNTUNED = (
    "the operators moved nothing in this run: how far a recommendation is from a setting that nobody tuned "
    "says little of the policy; |asymmetry| and the counterfactual say whether the beam was at its best"
)
"""Said where a difference breaks its limit beside operators who did not act."""

MEANINGS = {
    "min_cycles": "fewer cycles cannot bound rates as low as those that are declared here",
    "min_agreement": "of all control points and cycles, the share in which the recommendation was within "
    "{tolerance:g}° of what the operators played",
    "max_p95_difference_deg": "95 of 100 recommendations are nearer to what the operators played. A "
    "recommendation is one step, {step:g}° at most: a goal that is farther away shows as that",
    "min_sign_agreement": "of the operators' moves, how many the policy had recommended in the cycle before; "
    "a coin reaches half",
    "max_asymmetry_excess": "mean |skewness| of the profiles while the operators were within {tolerance:g}° "
    "of the recommendation, less that while they were not, each control point compared with itself. Below 0: "
    "the beam was better where the policy wants it",
    "max_refused_rate": "the guard would have let nothing of these cycles through; in closed loop each leads "
    "to the fallback",
    "max_altered_rate": "the guard would have changed these values: range, step, slope, or the way round the "
    "circle",
    "max_unanswered_rate": "usable readings to which the policy gave no finite number",
    "max_out_of_distribution_rate": "readings unlike all that the policy was trained on; their points would "
    "hold",
    "max_late_rate": "decisions that took longer than the machine's period; three in a row end a run",
    "max_decision_p99_ms": "99 of 100 decisions took less, from the reading's arrival on",
    "min_gain": "how much smaller the mean |asymmetry| is with the policy in closed loop, in a simulation "
    "fitted to these readings",
}
"""What each limit holds, by its name in the thresholds' file."""


def meaning(name: str, *, tolerance_deg: float, step_deg: float) -> str:
    """Return what a limit holds, in words."""
    return MEANINGS[name].format(tolerance=tolerance_deg, step=step_deg)
