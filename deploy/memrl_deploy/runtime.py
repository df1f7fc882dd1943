"""The online loop: read, observe, ask, guard, record, write; one cycle after the other.

A cycle is recorded durably before its function is written; a cycle that cannot be recorded is not
written. Whatever goes wrong, the machine goes on with the last function that it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import Reading
from memrl_ctrl.errors import (
    MachineError,
    MemrlError,
    ReadingTimeout,
    RefusalReason,
    Refused,
    Standstill,
    TraceError,
)
from memrl_ctrl.metrics import ProfileMetrics, measure
from memrl_ctrl.trace import CycleRecord, OutcomeRecord, PolicyStep
from memrl_deploy.benefit import Benefit
from memrl_deploy.collecting import Collector
from memrl_deploy.engaging import EngageConfig
from memrl_deploy.failures import Failures
from memrl_deploy.fallback import Classical, FallbackConfig
from memrl_deploy.foreseeing import Foresight, outlook_in
from memrl_deploy.guard import STAGES, Decision, Guard, GuardConfig
from memrl_deploy.hunting import Hunting
from memrl_deploy.inference import Asked, Inference
from memrl_deploy.modes import ClosedLoop, Fallback, Mode, Transition
from memrl_deploy.pacing import RECORD_BEFORE, Pacing
from memrl_deploy.recording import Recorder
from memrl_deploy.signals import stopped_by_signals
from memrl_deploy.states import Cause, State, control_in
from memrl_deploy.steering import Steering
from memrl_deploy.stopping import Stopping, StopRequestedError
from memrl_deploy.strikes import TIMEOUT, Disengaged
from memrl_deploy.summary import CycleView, NoView, RunSummary, View, stage_counts

__all__ = ["Disengaged", "Runtime", "stopped_by_signals"]

UNPACED_DEADLINE_S = 2.0
"""Deadline of a setpoint where the machine waits for it (period 0)."""

FloatArray = NDArray[np.float64]
Measures = dict[str, FloatArray]


class Runtime:
    """One run of a policy on a machine.

    Args:
        mode: how, and on what; closed at the end of `run`.
        policy: what is asked.
        records: folder of all runs.
        cycles: how many to decide; None goes on until stopped.
        timeout_s: how long to wait for a reading, three times at most; None leaves it to the machine's
            period; where a machine stands still shadow then waits until it plays on.
        pace_s: least time between readings, for a simulation that plays as fast as it is asked.
        view: where it is shown.
        guard: settings of the guard.
        foresight: fits readings for its look-ahead; closed at the end of `run`. None: it does not look.
        engage: how the policy comes in; the default engages in the first cycle that agrees.
        fallback: what is done when the policy must not be followed.
        classical: controller of the fallback; None leaves its rung out.
        configuration: of the run, resolved; goes into the trace.
        notices: what is to be said once the machine has answered.

    Raises:
        MismatchError: policy and machine do not fit.
    """

    def __init__(
        self,
        mode: Mode,
        policy: Asked,
        *,
        records: str | Path,
        cycles: int | None = None,
        timeout_s: float | None = None,
        pace_s: float = 0.0,
        view: View | None = None,
        guard: GuardConfig | None = None,
        foresight: Foresight | None = None,
        engage: EngageConfig | None = None,
        fallback: FallbackConfig | None = None,
        classical: Classical | None = None,
        configuration: Mapping[str, Any] | None = None,
        notices: tuple[str, ...] = (),
    ) -> None:
        machine = mode.description
        self._mode = mode
        self._policy = policy
        self._inference = Inference(policy, machine)
        spec = policy.manifest
        self._guard = Guard(
            machine.limits, machine.ctime_ms, spec.max_step_rad, guard, spec.statistics
        )
        self._foresight = foresight
        self._steering = Steering(
            mode, machine, engage=engage, fallback=fallback, classical=classical
        )
        self._records = records
        self._cycles = cycles
        self._timeout_s = timeout_s
        self._patient = timeout_s is None and not isinstance(mode, ClosedLoop)
        self._pace_s = pace_s
        self._due_s = 0.0
        self._view: View = view or NoView()
        self._configuration = dict(configuration or {})
        self._notices = notices
        self._period_s = machine.period_s
        self._pacing = Pacing()
        # What no record tells yet of the cycle before.
        self._untold_ns: dict[str, int] = {}
        self._key: Callable[[], str] | None = None
        self._stopping = Stopping()
        self._recorder: Recorder | None = None
        self.summary = RunSummary(mode=mode.name, machine=machine.name)
        self._failures = Failures(self._steering, self._guard, self._view, self.summary)
        self._benefit = Benefit()
        self._hunting = Hunting()
        self._collector = Collector()

    def stop(self, cause: str) -> None:
        """End the run after the cycle that is being decided, or at once while waiting for one.

        To be called from a signal handler of the thread that runs.
        """
        self._stopping.ask(cause)

    @property
    def stop_cause(self) -> str:
        """Why it was asked to end, if only while it was being ended; empty if nobody asked."""
        return self._stopping.cause

    def take_over(self) -> None:
        """Give the machine to the operator, now: nothing more is written until it is engaged again.

        May be called from a signal handler; the last applied function stays.
        """
        self._steering.ask_manual()

    def engage_again(self) -> None:
        """Leave manual for shadow, from where the loop engages; may be called from a signal handler."""
        self._steering.ask_engage()

    def listen(self, key: Callable[[], str]) -> None:
        """Ask for a pressed key in every cycle: m is `take_over`, e is `engage_again`."""
        self._key, self._failures.attended = key, True

    def _press(self) -> None:
        pressed = self._key() if self._key is not None else ""
        if pressed == "m":
            self.take_over()
        elif pressed == "e":
            self.engage_again()

    def run(self) -> RunSummary:
        """Run to the end and say how it went; errors that ended it are in the summary."""
        summary = self.summary
        try:
            with self._collector:
                self._decide_all()
            summary.reason = self._stopping.cause or "all cycles done"
            summary.error = self._left_over()
        except StopRequestedError:
            summary.reason = self._stopping.cause
            summary.error = self._left_over()
        except MemrlError as error:
            if self._recorder is not None:
                self._failures.leave(Cause.LOST, f"ended by {type(error).__name__}")
            summary.error, summary.reason = error, str(error)
        finally:
            summary.not_engaged = self._steering.not_engaged
            self._finish()
        return summary

    def _decide_all(self) -> None:
        reading = self._engage()
        while True:
            self._decide(reading)
            self._collector.between_cycles()
            if self._stopping.cause or self.summary.cycles == self._cycles:
                break
            reading = self._next()

    def _left_over(self) -> Disengaged | None:
        """Return what is to be said at the end of a run whose machine nobody leads as was wanted."""
        said = self._steering.left_over
        return Disengaged(said) if said else None

    def _engage(self) -> Reading:
        self._pacing.begin()
        with self._stopping.interrupts():
            reading = self._mode.first(self._timeout_s)
        self._pacing.split(reading.received_ns, "receive", "decode")
        if isinstance(self._mode, ClosedLoop):
            self._guard.check_engage(reading.applied_rad)
        self._recorder = Recorder(
            self._records,
            mode=self._mode.name,
            machine=self._mode.description,
            limits=self._guard.limits,
            policy=self._policy,
            guard_stages=STAGES,
            configuration=self._configuration,
        )
        self._failures.events.append({"kind": "begun", "mode": self._steering.mode.name})
        self._guard.note_control(taken=False)
        for notice in self._notices:
            self._view.note(notice)
        self._failures.cycle = reading.cycle
        self._pacing.skip()
        return reading

    def _next(self) -> Reading:
        """Wait for a cycle that was not seen before."""
        self._pacing.begin()
        while True:
            try:
                with self._stopping.interrupts():
                    self._wait_until_due()
                    reading = self._mode.next(self._timeout_s)
            except ReadingTimeout as error:
                if self._patient and isinstance(error, Standstill):
                    self._failures.wait(str(error))
                else:
                    self._failures.strike(TIMEOUT, str(error))
                self._collector.between_cycles()  # a machine may stand still for days
                continue
            self._pacing.split(reading.received_ns, "receive", "decode")
            if reading.cycle <= self._failures.cycle:
                self._failures.strike("stale", f"cycle {reading.cycle} came again")
                continue
            break
        self._failures.clear(TIMEOUT, "stale")
        self._failures.unseen(reading.cycle)
        self._failures.cycle = reading.cycle
        return reading

    def _wait_until_due(self) -> None:
        now_s = time.monotonic()
        if self._pace_s > 0.0 and now_s < self._due_s:
            time.sleep(self._due_s - now_s)
        self._due_s = max(self._due_s, now_s) + self._pace_s

    # A reading of numbers that no monitor gives may overflow; what then is not finite is held.
    @np.errstate(over="ignore", invalid="ignore")
    def _decide(self, reading: Reading) -> None:
        pacing = self._pacing
        usable = self._guard.usable(reading)
        seen = self._inference.observe(reading, usable)
        pacing.lap("observe")
        step = self._inference.step(seen, reading.applied_rad, usable)
        pacing.lap("infer")
        delta = step.action[:, 0].astype(np.float64)
        self._note_outlook(reading)
        decision = self._guard.decide(delta, reading, usable, seen)
        pacing.lap("guard")
        metrics = measure(reading.profile)
        measures = {
            "asymmetry": metrics.asymmetry,
            "bunching_factor": metrics.bunching_factor,
            "recommended_rad": decision.phi_hw_rad,
        }
        pacing.lap("measure")
        end = self._failures.played(reading)
        self._press()
        function = self._steering.choose(decision, reading)
        mode = self._steering.mode.name
        self._failures.tell_changes(reading.applied_rad)
        self._failures.tell_rung()
        outcome = self._record_and_write(reading, step, decision, function, measures)
        self._failures.tell_changes()
        pacing.end()
        self.summary.see(decision, metrics.asymmetry)
        self._view.cycle(
            CycleView(
                mode=mode,
                cycle=reading.cycle,
                decided=self.summary.cycles,
                recommended_rad=decision.phi_hw_rad,
                applied_rad=reading.applied_rad,
                asymmetry=metrics.asymmetry,
                stages=stage_counts(decision),
                outcome=outcome,
                decision_ms=pacing.decision_ns / 1e6,
                trace=self._recorder,
                written_rad=function,
            )
        )
        if end is not None:
            raise end
        self._note_answer(usable, delta)
        self._note_benefit(reading, metrics, usable)
        if self._foresight is not None:
            self._foresight.ask(reading, usable)

    def _note_answer(self, usable: NDArray[np.bool_], delta: FloatArray) -> None:
        """Count a cycle in which the policy had no answer for any point that it was shown."""
        answered = usable & np.isfinite(delta)
        leads = self._steering.mode.name not in (State.FALLBACK, State.MANUAL)
        if leads and usable.any() and not answered.any():
            self._failures.strike("no-answer", "the policy gave no finite number for any point")
        else:
            self._failures.clear("no-answer")

    def _note_benefit(
        self, reading: Reading, metrics: ProfileMetrics, usable: NDArray[np.bool_]
    ) -> None:
        """Tell those who can take over, and the next record, what the loop does no good with."""
        engaged = self._steering.in_control
        worse = self._benefit.see(metrics, usable, engaged=engaged)
        hunt = self._hunting.see(reading.applied_rad, engaged=engaged)
        for found, kept in ((worse, self.summary.worse), (hunt, self.summary.hunting)):
            if found is not None:
                self._failures.events.append(found.event(reading.cycle))
                self._view.note(str(found))
                kept.append(f"cycle {reading.cycle}: {found.numbers}")

    def _note_outlook(self, reading: Reading) -> None:
        """Give the guard a fit that was made meanwhile, and put it into the record."""
        event = self._foresight.news() if self._foresight is not None else None
        if event is not None:
            self._failures.events.append(event)
            if self._foresight is not None and self._foresight.ended:
                self._view.note("the guard looks ahead no more: the process that fits has ended")
            outlook = outlook_in([event], reading.applied_rad.size)
            if outlook is not None:
                self._guard.note_outlook(outlook)

    def _record_and_write(
        self,
        reading: Reading,
        step: PolicyStep,
        decision: Decision,
        function: FloatArray | None,
        measures: Measures,
    ) -> str:
        """Record the cycle and, in closed loop, write its function; return what became of it."""
        mode, recorder = self._steering.mode, self._recorder
        events = self._failures.events
        if recorder is None:
            raise RuntimeError("not engaged")
        if isinstance(mode, Transition) and function is not None:
            events.append({"kind": "blend", "cycle": reading.cycle, "factor": mode.factor})
        if isinstance(mode, Fallback):
            events.append({"kind": "fallback", "cycle": reading.cycle, "rung": mode.ladder.last})
        writer = mode if isinstance(mode, ClosedLoop) else None
        writes = writer is not None and function is not None
        record = CycleRecord(
            reading=reading,
            mode=mode.name,
            policy=step,
            verdicts=decision.verdicts,
            proposed_rad=decision.proposed_rad,
            written_rad=function if writes else None,
            target_cycle=reading.cycle + 1 if writes else None,
            measures=measures,
            timings_ns=self._pacing.timings_ns() | self._untold_ns,
            events=tuple(events),
        )
        try:
            recorder.cycle(record)
        except TraceError as error:
            # What is not in the record must leave no mark on what comes after, or no replay repeats it.
            self._inference.undo(step)
            self._guard.undo()
            self._guard.note_control(control_in(events, reading.cycle + 1, late=True))
            self._steering.undo()
            self._failures.strike("unrecorded", str(error))
            return "not recorded, held"
        finally:
            self._pacing.lap("record")
        self._untold_ns = {RECORD_BEFORE: self._pacing.timings_ns("record")["record"]}
        self._failures.clear("unrecorded")
        events.clear()
        if writer is None:
            idle = isinstance(self._mode, ClosedLoop) and not decision.write
            self.summary.held += int(idle)
            return "held" if idle else "recommended"
        if function is None:
            self.summary.held += 1
            return "refused by the guard, held" if decision.refused else "held"
        return self._write(writer, recorder, reading, function)

    def _write(
        self, mode: ClosedLoop, recorder: Recorder, reading: Reading, phi_hw_rad: FloatArray
    ) -> str:
        target, cycle = reading.cycle + 1, reading.cycle
        deadline_s = UNPACED_DEADLINE_S
        if self._period_s > 0.0:
            elapsed_s = (time.monotonic_ns() - reading.received_ns) / 1e9
            deadline_s = self._period_s - elapsed_s
        if self._steering.taken_over:
            self._outcome(recorder, cycle, reason="operator", detail="taken over by the operator")
            return "taken over, held"
        try:
            if deadline_s <= 0.0:
                raise Refused(
                    RefusalReason.LATE, f"decided {-deadline_s:.3f} s after cycle {target} began"
                )
            receipt, other = mode.write(phi_hw_rad, target, deadline_s)
        except Refused as refused:
            self._pacing.lap("write")
            reason, end = refused.reason.value, self._failures.refused(refused)
            ends = end is not None
            self._outcome(recorder, cycle, last=ends, reason=reason, detail=refused.detail)
            if end is not None:
                raise end from refused
            return f"refused ({reason}), held"
        except MachineError as error:
            self._pacing.lap("write")
            self._failures.leave(Cause.LOST, f"ended by {type(error).__name__}")
            self._outcome(
                recorder, cycle, last=True, reason=type(error).__name__, detail=str(error)
            )
            raise
        self._pacing.split(receipt.sent_ns or receipt.committed_ns, "write", "answer")
        end = self._failures.taken(receipt, other)
        self._outcome(recorder, cycle, last=end is not None, receipt=receipt)
        self.summary.written += 1
        if end is not None:
            raise end
        self._steering.written(cycle)
        return "written"

    def _outcome(self, recorder: Recorder, cycle: int, *, last: bool = False, **what: Any) -> None:
        """Record what became of a function; the last outcome of a run takes the events that wait."""
        waiting = self._failures.events
        events = tuple(waiting) if last else ()
        timings = self._pacing.timings_ns("record", "write", "answer")
        record = OutcomeRecord(cycle=cycle, timings_ns=timings, events=events, **what)
        if last:
            waiting.clear()
        problem = recorder.outcome(record)
        if problem:
            self._view.note(problem)
        else:
            self._untold_ns = {}

    def _finish(self) -> None:
        self._stopping.over()
        summary = self.summary
        summary.times_ns = self._pacing.history_ns()
        with ExitStack() as ending:  # all of it, in the reverse order, whatever fails
            ending.callback(self._finish_record)
            ending.callback(self._mode.close)
            if self._foresight is not None:
                ending.callback(self._foresight.close)
            ending.callback(self._view.close)

    def _finish_record(self) -> None:
        if self._recorder is not None:
            summary = self.summary
            # A transition behind the last record stands in words in the reason of the end.
            waiting = self._failures.events
            late = [f"{e['from']} -> {e['to']} ({e['cause']})" for e in waiting if "cause" in e]
            reason = "; ".join([summary.reason or "internal error", *late])
            summary.trace_problem = self._recorder.finish(reason)
            summary.trace = self._recorder.hdf5 or self._recorder.folder
