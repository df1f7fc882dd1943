"""The guard itself, stage by stage, each with its verdict.

Whatever comes in, what goes out keeps the limits or is not written. The guard knows nothing of
policies, machines or transport.

Stages, in this order:

1. `applied`: what is applied now is finite and keeps the limits; else the whole function is refused.
2. `finite-fresh`: the point's reading may be used; else it holds what is applied.
3. `health`: the pick-up is neither dead nor saturated nor frozen (`guard.health`); else it holds.
4. `distribution`: the reading is like the training's (`memrl_ctrl.policy.statistics`); else it holds.
   Not run where the policy's file has no statistics.
5. `action`: the policy's answer is finite; else the point holds.
6. `readback`: the hardware reports what is applied; else the point holds.
7. `coherence`: the points go round the circle together (`guard.coherence`), and back by a turn where
   their goals are beyond the range of values (`guard.returning`).
8. `rate`, `drift`: the travel over the last cycles, and the distance from where the point was at
   engage (`guard.budget`).
9. `step`, `value`, `slope`: `memrl_ctrl.limits.PhaseLimits`.
10. `look-ahead`: what comes out of it all does not lose the beam, nor does the fallback behind it, by the
   model that was fitted to a recent reading (`guard.outlook`); else the points go as far as they may. Not
   run where there is no such model, or none that describes the machine any more.

What comes out is checked as the machine checks it; should it fail, the whole function is refused.

How bad a cycle was in all, and what is too much, says `guard.excess`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Reading
from memrl_ctrl.errors import MismatchError, RefusalReason, Refused
from memrl_ctrl.limits import PhaseLimits, Restricted
from memrl_ctrl.metrics import measure
from memrl_ctrl.observation import beam_observation
from memrl_ctrl.policy.statistics import ObservationStatistics
from memrl_ctrl.profile_sums import ProfileSums
from memrl_ctrl.trace.records import Verdict
from memrl_deploy.guard.budget import Bounds, Budget, readback_distance
from memrl_deploy.guard.coherence import coherent
from memrl_deploy.guard.config import GuardConfig
from memrl_deploy.guard.decision import STAGES, BoolArray, Decision, FloatArray, Stage
from memrl_deploy.guard.excess import Judged, judge
from memrl_deploy.guard.health import (
    NumberArray,
    ProfileArray,
    came_again,
    unhealthy_points,
    usable_points,
)
from memrl_deploy.guard.outlook import Outlook
from memrl_deploy.guard.returning import MARGIN_RAD, Returning

BREAKS = {RefusalReason.STEP: Stage.STEP, RefusalReason.SLOPE: Stage.SLOPE}
"""Stage whose limit a refused function breaks; any other reason is `value`."""


@dataclass(frozen=True, kw_only=True)
class _Memory:
    """What is remembered from one cycle to the next; a new one each time, so that a cycle can be undone."""

    profile: ProfileArray | None = None
    numbers: NumberArray | None = None
    """Of the profiles of the last readings [readings, points]."""
    returning: Returning | None = None
    budget: Budget | None = None
    in_control: bool = True
    outlook: Outlook | None = None
    repeats: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What is known of a reading before the policy is asked. All [points]."""

    reading: Reading
    complete: BoolArray
    healthy: BoolArray
    numbers: NumberArray
    """Of the profiles of the last readings, this one's among them [readings, points]."""


class Guard:
    """Keeps what is written within the limits.

    It is to be shown every cycle of a run, in order: it remembers the last profiles, which
    points go back by a turn, and how far the points went.

    Args:
        limits: value, step and slope.
        ctime_ms: control points [points]; None where the rows are unrelated (no slope, no coherence).
        max_step_rad: the policy's largest step, rad.
        config: thresholds.
        statistics: of the observations that the policy was trained on; None where they are not known.
    """

    def __init__(
        self,
        limits: PhaseLimits,
        ctime_ms: FloatArray | None,
        max_step_rad: float,
        config: GuardConfig | None = None,
        statistics: ObservationStatistics | None = None,
    ) -> None:
        self.limits = limits
        self.ctime_ms = ctime_ms
        self.config = config or GuardConfig()
        self.statistics = statistics
        self._max_step_rad = max_step_rad
        self._far_rad = self.config.coherence_fraction * max_step_rad
        # How far two points may part by the slope [points, points], rad.
        self._reach_rad: FloatArray | None = None
        if ctime_ms is not None:
            apart_ms = np.abs(ctime_ms[:, None] - ctime_ms[None, :])
            with np.errstate(over="ignore"):  # a machine may have no limit to speak of
                self._reach_rad = limits.slope_rad_per_ms * apart_ms
        self._now = _Memory()
        self._before = self._now
        self._seen: _Seen | None = None

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

    def note_control(self, taken: bool | None, applied_rad: FloatArray | None = None) -> None:
        """Begin the budgets anew where control is taken, and keep none while somebody else has it.

        What an operator does with the function is not the agent's travel or drift. A guard that is not
        told begins with the first cycle that it sees.

        Args:
            taken: control is taken now (True) or given back; None changes nothing.
            applied_rad: what is applied [points], rad; None begins with the next cycle.
        """
        if taken is not None:
            begun = Budget.begun(applied_rad) if taken and applied_rad is not None else None
            self._now = replace(self._now, budget=begun, in_control=taken)

    def note_outlook(self, outlook: Outlook) -> None:
        """Look ahead by this model from the next `decide` on; the cycle's record has to hold it."""
        self._now = replace(self._now, outlook=outlook)

    def usable(self, reading: Reading) -> BoolArray:
        """Which points may be shown to the policy [points]: complete, and their pick-ups healthy.

        Args:
            reading: the next cycle's; `decide` is to be given the same.
        """
        seen = self._watch(reading)
        return np.asarray(seen.complete & seen.healthy)

    def decide(
        self,
        delta_rad: FloatArray,
        reading: Reading,
        usable: BoolArray | None = None,
        observation: NDArray[np.float32] | None = None,
    ) -> Decision:
        """Turn what the policy asked for into what may be written.

        Args:
            delta_rad: change that the policy asked for [points], rad; anything, NaN too.
            reading: the cycle's.
            usable: points that were shown to the policy [points]; None takes those of `usable`.
            observation: what the policy saw [points, n_slices + 1], if it was made already.
        """
        seen = self._watch(reading)
        shown = seen.complete & seen.healthy if usable is None else usable
        like = self._like_training(reading, shown, observation)
        applied = np.asarray(reading.applied_rad)
        self._before = self._now
        self._now = replace(self._now, profile=reading.profile, numbers=seen.numbers)
        self._seen = None
        verdicts = np.full((applied.size, len(STAGES)), Verdict.PASSED, dtype=np.uint8)
        if not self._keeps_limits(applied):
            verdicts[:] = Verdict.NOT_RUN
            verdicts[:, Stage.APPLIED] = Verdict.REFUSED
            judged = judge(verdicts, None, None, self._now.repeats, self.config)
            self._now = replace(self._now, repeats=judged.repeats)
            return _decision(applied.copy(), applied.copy(), verdicts, like, judged)
        budget = self._now.budget or Budget.begun(applied)
        budget = budget.seen(applied, self.config.rate_cycles)
        far = readback_distance(reading)
        held = self._hold(verdicts, delta_rad, seen, shown, far=far, like=like)
        delta = np.where(held, 0.0, delta_rad)
        proposed = applied + delta
        bounds = {
            Stage.RATE: budget.rate_bounds(applied, self.config.rate_travel_rad),
            Stage.DRIFT: budget.drift_bounds(applied, self.config.drift_rad),
        }
        delta, altered = self._round_the_circle(delta, applied, held, bounds[Stage.DRIFT])
        verdicts[altered, Stage.COHERENCE] = Verdict.ALTERED
        wanted = applied + delta
        restricted, fits = self._look_ahead(wanted, reading, held, bounds, verdicts)
        verdicts[restricted.step, Stage.STEP] = Verdict.ALTERED
        verdicts[restricted.value, Stage.VALUE] = Verdict.ALTERED
        verdicts[restricted.slope & fits, Stage.SLOPE] = Verdict.ALTERED
        verdicts[held, Stage.COHERENCE :] = Verdict.NOT_RUN
        phi_hw_rad, broken = restricted.phi_hw_rad, self._broken(restricted.phi_hw_rad, applied)
        if broken is not None:
            phi_hw_rad = applied.copy()
            verdicts[:, broken] = Verdict.REFUSED
        beyond = np.abs(np.where(shown, delta_rad, 0.0)) / self._max_step_rad
        judged = judge(verdicts, beyond, far, self._now.repeats, self.config)
        self._now = replace(
            self._now,
            budget=budget if self._now.in_control else None,
            repeats=judged.repeats,
        )
        return _decision(phi_hw_rad, proposed, verdicts, like, judged)

    def _watch(self, reading: Reading) -> _Seen:
        """Return what is known of a reading, once for each."""
        if self._seen is None or self._seen.reading is not reading:
            sums = ProfileSums.of(reading.profile)
            complete = usable_points(reading, sums)
            again, numbers = came_again(sums.number, self._now.numbers, self.config)
            bad = unhealthy_points(reading.profile, self._now.profile, self.config, again, sums)
            self._seen = _Seen(
                reading=reading, complete=complete, healthy=~(bad & complete), numbers=numbers
            )
        return self._seen

    def _like_training(
        self, reading: Reading, shown: BoolArray, observation: NDArray[np.float32] | None
    ) -> BoolArray:
        """Which of the points that were shown have a reading like the training's; all others count so."""
        if self.statistics is None:
            return np.ones(shown.size, dtype=np.bool_)
        if observation is None:
            observation = beam_observation(
                reading.profile, reading.synchronous_phase_rad, self.statistics.n_slices
            )
        score = self.statistics.score(observation)
        return np.asarray((score <= self.config.distribution_factor) | ~shown)

    def _hold(
        self,
        verdicts: NDArray[np.uint8],
        delta: FloatArray,
        seen: _Seen,
        shown: BoolArray,
        *,
        far: FloatArray,
        like: BoolArray,
    ) -> BoolArray:
        """Write the verdicts on reading, answer and readback; return the points that hold [points]."""
        held = np.zeros(shown.size, dtype=np.bool_)
        for stage, passes in (
            (Stage.FINITE_FRESH, seen.complete & (shown | ~seen.healthy)),
            (Stage.HEALTH, seen.healthy),
            (Stage.DISTRIBUTION, like),
            (Stage.ACTION, np.isfinite(delta)),
            (Stage.READBACK, ~(far > self.config.readback_rad)),
        ):
            verdicts[held, stage] = Verdict.NOT_RUN
            if not passes.all():
                verdicts[~held & ~passes, stage] = Verdict.HELD
                held |= ~passes
        if self.statistics is None:
            verdicts[:, Stage.DISTRIBUTION] = Verdict.NOT_RUN
        verdicts[np.isnan(far), Stage.READBACK] = Verdict.NOT_RUN
        return held

    def _broken(self, phi_hw_rad: FloatArray, applied_rad: FloatArray) -> Stage | None:
        """Return the stage whose limit a function breaks after all, None if it keeps all.

        What is applied may itself be beyond a limit by what a check forgives; the function that comes
        nearest may then be beyond it by a little more.
        """
        try:
            self.limits.check(phi_hw_rad, applied_rad, self.ctime_ms)
        except Refused as refused:
            return {RefusalReason.STEP: Stage.STEP, RefusalReason.SLOPE: Stage.SLOPE}.get(
                refused.reason, Stage.VALUE
            )
        return None

    def undo(self) -> None:
        """Forget the last `decide`: as if its cycle had never been seen."""
        self._now = self._before
        self._seen = None

    def _keeps_limits(self, applied_rad: FloatArray) -> bool:
        return self._broken(applied_rad, applied_rad) is None

    def _round_the_circle(
        self, delta: FloatArray, applied: FloatArray, held: BoolArray, drift: Bounds
    ) -> tuple[FloatArray, BoolArray]:
        """Return the changes [points] that lead to goals that can be reached, and which were altered."""
        returning = self._now.returning or Returning.nowhere(delta.size)
        returning = returning.seen(applied)
        together, altered = self._coherent(delta, applied, ~held & ~returning.going)
        returning = returning.begun(
            applied + together, self.limits, drift, together=self.ctime_ms is not None
        )
        self._now = replace(self._now, returning=returning)
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

    def _look_ahead(
        self,
        wanted: FloatArray,
        reading: Reading,
        held: BoolArray,
        bounds: dict[Stage, Bounds],
        verdicts: NDArray[np.uint8],
    ) -> tuple[Restricted, BoolArray]:
        """Bring a function within bounds and limits, and to where the beam is not lost.

        Points that would lose it go as near as they may; if that leads others there, or bends them into
        it, these stay; if that does not help either, nothing moves.
        """
        applied, config = reading.applied_rad, self.config
        restricted, fits = self._restrict(wanted, applied, held, bounds, verdicts)
        outlook = self._now.outlook
        verdicts[:, Stage.LOOK_AHEAD] = Verdict.NOT_RUN
        if outlook is None or not 0 <= reading.cycle - outlook.cycle <= config.lookahead_age_cycles:
            return restricted, fits
        stays, passes = config.lookahead_loss, config.lookahead_passing_loss
        may = outlook.nearest(restricted.phi_hw_rad, applied, stays=stays, passes=passes)
        lost = may != restricted.phi_hw_rad
        # Measured only where it matters: what cuts must still be true of the newest reading.
        if lost.any() and not outlook.explains(
            measure(reading.profile).asymmetry, applied, config.lookahead_asymmetry
        ):
            return restricted, fits
        verdicts[:, Stage.LOOK_AHEAD] = Verdict.PASSED
        low, high = np.full(lost.size, -np.inf), np.full(lost.size, np.inf)
        for near in (may, applied):
            if not lost.any():
                return restricted, fits
            low = np.where(lost, np.minimum(near, applied), low)
            high = np.where(lost, np.maximum(near, applied), high)
            verdicts[lost, Stage.LOOK_AHEAD] = Verdict.ALTERED
            ahead = bounds | {Stage.LOOK_AHEAD: (low, high)}
            restricted, fits = self._restrict(wanted, applied, held, ahead, verdicts)
            may = outlook.nearest(restricted.phi_hw_rad, applied, stays=stays, passes=passes)
            lost = may != restricted.phi_hw_rad
        if lost.any():
            verdicts[:, Stage.LOOK_AHEAD] = Verdict.ALTERED
            restricted = replace(restricted, phi_hw_rad=applied.copy())
        return restricted, fits

    def _restrict(
        self,
        wanted: FloatArray,
        applied: FloatArray,
        held: BoolArray,
        bounds: dict[Stage, Bounds],
        verdicts: NDArray[np.uint8],
    ) -> tuple[Restricted, BoolArray]:
        """Bring a function within bounds and limits; held points stay exactly where they are.

        What no slope allows beside a bound is cut first; the projection then keeps the bounds, because
        the bounds themselves keep the slope.

        Returns:
            The function, and the points that were within their bounds.
        """
        low, high = np.full(wanted.size, -np.inf), np.full(wanted.size, np.inf)
        fits = np.ones(wanted.size, dtype=np.bool_)
        for stage, (least, most) in bounds.items():
            inside = (wanted >= least) & (wanted <= most)
            verdicts[~inside, stage] = Verdict.ALTERED
            fits &= inside
            low, high = np.maximum(low, least), np.minimum(high, most)
        if fits.all() and self._plays(wanted, applied):  # a held point wants what is applied
            none = np.zeros(wanted.size, dtype=np.bool_)
            return Restricted(phi_hw_rad=wanted, step=none, value=none, slope=none), fits
        low, high = np.where(held, applied, low), np.where(held, applied, high)
        within = np.clip(wanted, low, high)
        if self._reach_rad is not None:
            low = np.max(low - self._reach_rad, axis=1)
            high = np.min(high + self._reach_rad, axis=1)
            within = np.clip(within, low, high)
        cut = np.abs(within - wanted) > 0.0
        restricted = self.limits.restrict(within, applied, self.ctime_ms)
        return Restricted(
            phi_hw_rad=np.where(held, applied, restricted.phi_hw_rad),
            step=restricted.step,
            value=restricted.value,
            slope=restricted.slope | cut,
        ), fits

    def _plays(self, wanted: FloatArray, applied: FloatArray) -> bool:
        """Whether a function keeps step, value and slope as it is, with no rounding forgiven."""
        limits = self.limits
        kept = np.abs(wanted - applied) <= limits.step_rad
        kept &= (wanted >= limits.min_rad) & (wanted <= limits.max_rad)
        if self._reach_rad is not None:
            kept[1:] &= np.abs(np.diff(wanted)) <= np.diagonal(self._reach_rad, 1)
        return bool(kept.all())


def _decision(
    phi_hw_rad: FloatArray,
    proposed_rad: FloatArray,
    verdicts: NDArray[np.uint8],
    like: BoolArray,
    judged: Judged,
) -> Decision:
    return Decision(
        phi_hw_rad=phi_hw_rad,
        proposed_rad=proposed_rad,
        verdicts=verdicts,
        excess=judged.excess,
        hard_stage=judged.stage,
        reason=judged.reason,
        in_distribution=like,
    )
