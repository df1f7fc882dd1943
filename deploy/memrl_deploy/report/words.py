"""What the report's figures and verdicts mean, in words for whoever has to decide."""

from __future__ import annotations

VERDICTS = {
    "PROMOTE": "Every declared limit is met: by these figures the policy may be engaged, guarded and "
    "watched.",
    "HOLD": "Nothing that was measured speaks against the policy, but not all that it takes is shown: it "
    "stays in shadow.",
    "REJECT": "A declared limit is broken: by these figures the policy must not write.",
}
"""What each verdict says of the next step."""

UNTUNED = (
    "the operators moved nothing in this run: how far a recommendation is from a setting that nobody tuned "
    "says little of the policy; |asymmetry| and the counterfactual say whether the beam was at its best"
)
"""Said where a difference breaks its limit beside operators who did not act."""

BETTER_THERE = (
    "the difference to the operators breaks its limit, but by the whole interval the beam was better where "
    "they were near the recommendation, and most of their own moves were as recommended: the difference does "
    "not say that the policy is wrong"
)
"""Said where the operators were worse off than the policy."""

MEANINGS = {
    "min_cycles": "fewer cycles cannot bound rates as low as those that are declared here",
    "max_unseen_rate": "cycles between the first and the last that were played and never seen: a decision "
    "took too long, or the reading was lost",
    "min_compared_rate": "cycles in which its reading could be used, the policy answered and the guard did "
    "not hold: of a point that was hardly ever compared nothing is known",
    "min_agreement": "of all control points and cycles in which there was a recommendation to compare, the "
    "share in which it was within {tolerance:g}° of what the operators played",
    "max_p95_difference_deg": "95 of 100 recommendations are nearer to what the operators played. A "
    "recommendation is one step, {step:g}° at most: a goal that is farther away shows as that",
    "min_sign_agreement": "of the operators' moves, how many the policy had recommended in the cycle before; "
    "a coin reaches half. Points that are moved in the same cycle are one action",
    "max_asymmetry_excess": "mean |skewness| of the profiles while the operators were within {tolerance:g}° "
    "of the recommendation, less that while they were not, each control point compared with itself. Below 0: "
    "the beam was better where the policy wants it. Operators who were always near leave it open: they would "
    "have to leave the recommendation at some points for some cycles",
    "max_refused_rate": "the guard would have let nothing of these cycles through; in closed loop each leads "
    "to the fallback",
    "max_altered_rate": "the guard would have changed these values: range, step, slope, or the way round the "
    "circle",
    "max_unanswered_rate": "usable readings to which the policy gave no finite number",
    "max_out_of_distribution_rate": "readings unlike all that the policy was trained on; their points would "
    "hold",
    "max_late_rate": "from the reading's arrival until the record is on the disk, longer than the machine's "
    "period; how much earlier the next cycle begins the machine does not say. Three in a row end a run",
    "max_decision_p99_ms": "99 of 100 took less, from the reading's arrival until the record is on the disk; "
    "in closed loop the machine's answer comes on top",
    "min_gain": "how much smaller the mean |asymmetry| is with the policy in closed loop, in a simulation "
    "fitted to these readings",
}
"""What each limit holds, by its name in the thresholds' file."""


def meaning(name: str, *, tolerance_deg: float, step_deg: float) -> str:
    """Return what a limit holds, in words."""
    return MEANINGS[name].format(tolerance=tolerance_deg, step=step_deg)
