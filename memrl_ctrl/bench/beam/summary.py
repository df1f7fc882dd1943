"""Where each policy stands against the rivals: the best of them in each condition, and the worst case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memrl_ctrl.bench.beam.figures import AFTER

MEDIAN, P95 = f"median_deg_after_{AFTER}", f"p95_deg_after_{AFTER}"
LATE = "late_median_deg"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A policy against the best rival in one condition, for one figure."""

    policy: str
    condition: str
    figure: str
    policy_deg: float
    rival: str
    """The best one."""
    rival_deg: float

    @property
    def lost(self) -> bool:
        """Whether the rival is better, in the digits that are shown: else it is a tie."""
        return self.policy_deg > self.rival_deg and shown(self.policy_deg) != shown(self.rival_deg)


def shown(degrees: float) -> str:
    """Return a figure as the sentences give it."""
    return f"{degrees:.3g}"


def standings(
    found: Mapping[tuple[str, str], Mapping[str, float]],
    policies: Sequence[str],
    rivals: Sequence[str],
) -> list[Standing]:
    """Return where each policy stands, by condition.

    Args:
        found: figures by contestant and condition.
        policies: names of those that are judged.
        rivals: names of those that they are judged against.
    """
    conditions = dict.fromkeys(condition for _, condition in found)
    result = []
    for policy in policies:
        for condition in conditions:
            for figure in (MEDIAN, P95, LATE):
                own = found.get((policy, condition), {}).get(figure, math.nan)
                others = {
                    rival: value
                    for rival in rivals
                    if math.isfinite(
                        value := found.get((rival, condition), {}).get(figure, math.nan)
                    )
                }
                if not others or not math.isfinite(own):
                    continue
                best = min(others, key=others.__getitem__)
                result.append(
                    Standing(
                        policy=policy,
                        condition=condition,
                        figure=figure,
                        policy_deg=own,
                        rival=best,
                        rival_deg=others[best],
                    )
                )
    return result


def sentences(standing: Sequence[Standing]) -> list[str]:
    """Say plainly where a rival wins, one sentence a policy and condition where one does."""
    said = []
    for policy in dict.fromkeys(each.policy for each in standing):
        lost = [each for each in standing if each.policy == policy and each.lost]
        for condition in dict.fromkeys(each.condition for each in lost):
            parts = [
                f"{each.figure} {shown(each.policy_deg)} against {shown(each.rival_deg)} of {each.rival}"
                for each in lost
                if each.condition == condition
            ]
            said.append(f"{policy} is beaten in {condition}: {', '.join(parts)}.")
        if not lost:
            said.append(f"{policy} is beaten by no rival in any condition.")
    return said
