"""The guard: what may alter or refuse what a policy asks for, stage by stage, each with its verdict.

Whatever comes in, what goes out keeps the limits or is not written. The guard knows nothing of
policies, machines or transport; it needs numpy only. `docs/safety.md` draws it.

Stages, in this order:

1. `applied`: what is applied now is finite and keeps the limits; else the whole function is refused.
2. `finite-fresh`: the point's reading may be used; else it holds what is applied.
3. `action`: the policy's answer is finite; else the point holds what is applied.
4. `coherence`: the points go round the circle together (`memrl_deploy.coherence`), and back by a turn
   where their goals are beyond the range of values (`memrl_deploy.returning`).
5. `step`, `value`, `slope`: `memrl_ctrl.limits.PhaseLimits`. What comes out is checked as the machine
   checks it; should it fail, the whole function is refused.

The points that go back are all that a guard remembers from one cycle to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Reading
from memrl_ctrl.errors import MismatchError, RefusalReason, Refused
from memrl_ctrl.limits import PhaseLimits, Restricted
from memrl_ctrl.trace.records import Verdict
from memrl_deploy.coherence import coherent
from memrl_deploy.returning import MARGIN_RAD, Returning

STAGES = ("applied", "finite-fresh", "action", "coherence", "step", "value", "slope")
"""Names of the stages, in the order of the verdicts."""
APPLIED, FINITE_FRESH, ACTION, COHERENCE, STEP, VALUE, SLOPE = range(len(STAGES))

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What the guard can be told."""

    coherence_fraction: float = 0.8
    """A point that asks for this fraction of the policy's largest step, or more, is far from its goal:
    the directions of all points are then looked at together."""

    def __post_init__(self) -> None:
        """Refuse a fraction that would look at every small correction."""
        if not self.coherence_fraction >= 0.5:
            raise ValueError(
                f"coherence_fraction must be 0.5 or more, not {self.coherence_fraction}"
            )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What may be written, and why it is not what was asked for."""

    phi_hw_rad: FloatArray
    """What may be written, or stays where it is [points], rad. NaN only if `applied` is NaN."""
    proposed_rad: FloatArray
    """What the policy asked for, held where it was not asked or gave no number [points], rad."""
    verdicts: NDArray[np.uint8]
    """`Verdict` of each stage [points, stages]."""

    @property
    def refused(self) -> bool:
        """Whether the whole function must not be written."""
        return bool((self.verdicts == Verdict.REFUSED).any())

    @property
    def held(self) -> BoolArray:
        """Points that keep what is applied, for want of a reading or an answer [points]."""
        return np.asarray((self.verdicts == Verdict.HELD).any(axis=1))

    @property
    def altered(self) -> BoolArray:
        """Points that go elsewhere than the policy asked [points]."""
        return np.asarray((self.verdicts == Verdict.ALTERED).any(axis=1))

    @property
    def write(self) -> bool:
        """Whether there is anything to write: not refused, and not held at every point."""
        return not self.refused and not bool(self.held.all())


def usable_points(reading: Reading) -> BoolArray:
    """Which points may be shown to a policy [points]: nothing is known against them, all finite."""
    finite = np.isfinite(reading.profile).all(axis=1)
    finite &= np.isfinite(reading.applied_rad) & np.isfinite(reading.synchronous_phase_rad)
    return np.asarray(finite & reading.usable)


class Guard:
    """Keeps what is written within the limits.

    It is to be shown every cycle of a run, in order: it remembers which points go back by a turn.

    Args:
        limits: value, step and slope.
        ctime_ms: control points [points]; None where the rows are unrelated (no slope, no coherence).
        max_step_rad: the policy's largest step, rad.
        config: see there.
    """

    def __init__(
        self,
        limits: PhaseLimits,
        ctime_ms: FloatArray | None,
        max_step_rad: float,
        config: GuardConfig | None = None,
    ) -> None:
        self.limits = limits
        self.ctime_ms = ctime_ms
        self.config = config or GuardConfig()
        self._max_step_rad = max_step_rad
        self._far_rad = self.config.coherence_fraction * max_step_rad
        self._returning: Returning | None = None
        self._returning_before: Returning | None = None

    def check_engage(self, applied_rad: FloatArray) -> None:
        """Refuse to begin on a function that does not itself keep the limits.

        Raises:
            MismatchError: with the limit and the point.
        """
        try:
            self.limits.check(applied_rad, applied_rad, self.ctime_ms)
        except Refused as refused:
            raise MismatchError(
                f"not engaged: what the machine plays now does not keep the limits: {refused.detail}; "
                "bring the function within the limits first"
            ) from refused

    def decide(self, delta_rad: FloatArray, applied_rad: FloatArray, usable: BoolArray) -> Decision:
        """Turn what the policy asked for into what may be written.

        Args:
            delta_rad: change that the policy asked for [points], rad; anything, NaN too.
            applied_rad: what is applied now [points], rad.
            usable: points whose reading may be used [points].
        """
        self._returning_before = self._returning
        verdicts = np.full((applied_rad.size, len(STAGES)), Verdict.PASSED, dtype=np.uint8)
        if not self._keeps_limits(applied_rad):
            verdicts[:] = Verdict.NOT_RUN
            verdicts[:, APPLIED] = Verdict.REFUSED
            return Decision(
                phi_hw_rad=applied_rad.copy(),
                proposed_rad=applied_rad.copy(),
                verdicts=verdicts,
            )
        answered = np.isfinite(delta_rad)
        verdicts[~usable, FINITE_FRESH] = Verdict.HELD
        verdicts[~usable, ACTION] = Verdict.NOT_RUN
        verdicts[usable & ~answered, ACTION] = Verdict.HELD
        held = ~(usable & answered)
        delta = np.where(held, 0.0, delta_rad)
        proposed = applied_rad + delta
        delta, altered = self._round_the_circle(delta, applied_rad, held)
        verdicts[altered, COHERENCE] = Verdict.ALTERED
        restricted = self._restrict(applied_rad + delta, applied_rad, held)
        verdicts[restricted.step, STEP] = Verdict.ALTERED
        verdicts[restricted.value, VALUE] = Verdict.ALTERED
        verdicts[restricted.slope, SLOPE] = Verdict.ALTERED
        verdicts[held, COHERENCE:] = Verdict.NOT_RUN
        phi_hw_rad, broken = restricted.phi_hw_rad, self._broken(restricted.phi_hw_rad, applied_rad)
        if broken is not None:
            phi_hw_rad = applied_rad.copy()
            verdicts[:, broken] = Verdict.REFUSED
        return Decision(phi_hw_rad=phi_hw_rad, proposed_rad=proposed, verdicts=verdicts)

    def _broken(self, phi_hw_rad: FloatArray, applied_rad: FloatArray) -> int | None:
        """Return the stage whose limit a function breaks after all, None if it keeps all.

        What is applied may itself be beyond a limit by what a check forgives; the function that comes
        nearest may then be beyond it by a little more.
        """
        try:
            self.limits.check(phi_hw_rad, applied_rad, self.ctime_ms)
        except Refused as refused:
            return {RefusalReason.STEP: STEP, RefusalReason.SLOPE: SLOPE}.get(refused.reason, VALUE)
        return None

    def undo(self) -> None:
        """Forget the last `decide`: as if its cycle had never been seen."""
        self._returning = self._returning_before

    def _keeps_limits(self, applied_rad: FloatArray) -> bool:
        return self._broken(applied_rad, applied_rad) is None

    def _round_the_circle(
        self, delta: FloatArray, applied: FloatArray, held: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Return the changes [points] that lead to goals that can be reached, and which were altered."""
        returning = self._returning or Returning.nowhere(delta.size)
        returning = returning.seen(applied, ~held)
        together, altered = self._coherent(delta, applied, ~held & ~returning.going)
        returning = returning.begun(
            applied + together, self.limits, together=self.ctime_ms is not None
        )
        self._returning = returning
        back = returning.going & ~held
        way = np.where(back, returning.aim_rad - applied, 0.0)
        way = np.clip(way, -self._max_step_rad, self._max_step_rad)
        return np.where(back, way, together), altered | (back & (way != delta))

    def _coherent(
        self, delta: FloatArray, applied: FloatArray, asked: BoolArray
    ) -> tuple[FloatArray, BoolArray]:
        """Return the changes [points] that lead to one smooth function, and which were altered.

        Asked only while a point is far from its goal, or where the function that is asked for cannot
        be played: a cycle that has converged is left alone.
        """
        altered = np.zeros(delta.size, dtype=np.bool_)
        free = np.flatnonzero(asked)
        if self.ctime_ms is None or free.size < 2:
            return delta, altered
        wanted = (applied + delta)[free]
        far = np.abs(delta[free]) >= self._far_rad
        slope = np.abs(np.diff(wanted)) / np.diff(self.ctime_ms[free])
        outside = (wanted > self.limits.max_rad + MARGIN_RAD) | (
            wanted < self.limits.min_rad - MARGIN_RAD
        )
        if not (far | outside).any() and slope.max() <= self.limits.slope_rad_per_ms:
            return delta, altered
        chosen, altered[free] = coherent(delta[free], applied[free], self._max_step_rad)
        together = delta.copy()
        together[free] = chosen
        return together, altered

    def _restrict(self, wanted: FloatArray, applied: FloatArray, held: BoolArray) -> Restricted:
        """Bring a function within the limits while the held points stay exactly where they are.

        What no slope allows beside a held point is cut first; the projection then leaves the held
        points alone, because they are bounds of every other point already.
        """
        within, ctime = wanted, self.ctime_ms
        if ctime is not None and held.any():
            reach = self.limits.slope_rad_per_ms * np.abs(ctime[:, None] - ctime[None, held])
            within = np.clip(
                wanted,
                np.max(applied[None, held] - reach, axis=1),
                np.min(applied[None, held] + reach, axis=1),
            )
        cut = np.abs(within - wanted) > 0.0
        restricted = self.limits.restrict(within, applied, ctime)
        return Restricted(
            phi_hw_rad=np.where(held, applied, restricted.phi_hw_rad),
            step=restricted.step,
            value=restricted.value,
            slope=restricted.slope | cut,
        )
