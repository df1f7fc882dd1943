"""The online loop: read, observe, ask, guard, record, write; one cycle after the other.

A cycle is recorded durably before its function is written; a cycle that cannot be recorded is not
written. Whatever goes wrong, the machine goes on with the last function that it took.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
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
    TraceError,
)
from memrl_ctrl.metrics import measure
from memrl_ctrl.policy import OnnxPolicy
from memrl_ctrl.trace import CycleRecord, OutcomeRecord, PolicyStep
from memrl_deploy.guard import STAGES, Decision, Guard, GuardConfig
from memrl_deploy.inference import Inference
from memrl_deploy.modes import ClosedLoop, Mode
from memrl_deploy.pacing import Pacing
from memrl_deploy.recording import Recorder
from memrl_deploy.summary import CycleView, NoView, RunSummary, View, stage_counts

STRIKES = 3
"""So many failures of one kind in a row end a run."""
UNPACED_DEADLINE_S = 2.0
"""Deadline of a setpoint where the machine waits for it (period 0)."""

FloatArray = NDArray[np.float64]
Measures = dict[str, FloatArray]


class Disengaged(MachineError):  # noqa: N818 - a sentence, not a suffix
    """The loop gave up; the machine goes on with the last function that it took."""


class _StopRequestedError(Exception):
    """Ends the wait for a reading."""


class Runtime:
    """One run of a policy on a machine.

    Args:
        mode: how, and on what; closed at the end of `run`.
        policy: what is asked.
        records: folder of all runs.
        cycles: how many to decide; None goes on until stopped.
        timeout_s: how long to wait for a reading; None leaves it to the machine's period.
        pace_s: least time between readings, for a simulation that plays as fast as it is asked.
        view: where it is shown.
        guard: settings of the guard.
        configuration: of the run, resolved; goes into the trace.

    Raises:
        MismatchError: policy and machine do not fit.
    """

    def __init__(
        self,
        mode: Mode,
        policy: OnnxPolicy,
        *,
        records: str | Path,
        cycles: int | None = None,
        timeout_s: float | None = None,
        pace_s: float = 0.0,
        view: View | None = None,
        guard: GuardConfig | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        machine = mode.description
        self._mode = mode
        self._policy = policy
        self._inference = Inference(policy, machine)
        spec = policy.manifest
        self._guard = Guard(
            machine.limits, machine.ctime_ms, spec.max_step_rad, guard, spec.statistics
        )
        self._records = records
        self._cycles = cycles
        self._timeout_s = timeout_s
        self._pace_s = pace_s
        self._due_s = 0.0
        self._view: View = view or NoView()
        self._configuration = dict(configuration or {})
        self._period_s = machine.period_s
        self._pacing = Pacing()
        self._strikes: Counter[str] = Counter()
        self._events: list[dict[str, Any]] = []
        self._waiting = False
        self._stop_cause = ""
        self._last_cycle = -1
        self._fence = 0
        self._refused_since = 0
        self._recorder: Recorder | None = None
        self.summary = RunSummary(mode=mode.name, machine=machine.name)

    def stop(self, cause: str) -> None:
        """End the run after the cycle that is being decided, or at once while waiting for one.

        To be called from a signal handler of the thread that runs.
        """
        self._stop_cause = cause
        if self._waiting:
            raise _StopRequestedError

    def run(self) -> RunSummary:
        """Run to the end and say how it went; errors that ended it are in the summary."""
        summary = self.summary
        try:
            reading = self._engage()
            while True:
                self._decide(reading)
                if self._stop_cause or summary.cycles == self._cycles:
                    break
                reading = self._next()
            summary.reason = self._stop_cause or "all cycles done"
        except _StopRequestedError:
            summary.reason = self._stop_cause
        except MemrlError as error:
            summary.error, summary.reason = error, str(error)
        finally:
            self._finish()
        return summary

    def _engage(self) -> Reading:
        self._pacing.begin()
        with self._interruptible():
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
        self._events.append({"kind": "engaged", "mode": self._mode.name})
        self._last_cycle = reading.cycle
        self._pacing.skip()
        return reading

    def _next(self) -> Reading:
        """Wait for a cycle that was not seen before."""
        self._pacing.begin()
        while True:
            try:
                with self._interruptible():
                    self._wait_until_due()
                    reading = self._mode.next(self._timeout_s)
            except ReadingTimeout as error:
                self._strike("timeout", str(error))
                continue
            self._pacing.split(reading.received_ns, "receive", "decode")
            if reading.cycle <= self._last_cycle:
                self._strike("stale", f"cycle {reading.cycle} came again")
                continue
            break
        self._clear("timeout", "stale")
        self._last_cycle = reading.cycle
        return reading

    def _wait_until_due(self) -> None:
        now_s = time.monotonic()
        if self._pace_s > 0.0 and now_s < self._due_s:
            time.sleep(self._due_s - now_s)
        self._due_s = max(self._due_s, now_s) + self._pace_s

    def _decide(self, reading: Reading) -> None:
        pacing = self._pacing
        usable = self._guard.usable(reading)
        seen = self._inference.observe(reading, usable)
        pacing.lap("observe")
        step = self._inference.step(seen, reading.applied_rad, usable)
        pacing.lap("infer")
        delta = step.action[:, 0].astype(np.float64)
        decision = self._guard.decide(delta, reading, usable)
        pacing.lap("guard")
        metrics = measure(reading.profile)
        measures = {
            "asymmetry": metrics.asymmetry,
            "bunching_factor": metrics.bunching_factor,
            "recommended_rad": decision.phi_hw_rad,
        }
        pacing.lap("measure")
        outcome = self._record_and_write(reading, step, decision, measures)
        pacing.end()
        summary = self.summary
        summary.cycles += 1
        summary.stages.update(stage_counts(decision))
        asymmetry = np.abs(metrics.asymmetry[np.isfinite(metrics.asymmetry)])
        mean = float(asymmetry.mean()) if asymmetry.size else float("nan")
        summary.asymmetry = [*summary.asymmetry[:1], mean]
        self._view.cycle(
            CycleView(
                mode=self._mode.name,
                cycle=reading.cycle,
                decided=summary.cycles,
                recommended_rad=decision.phi_hw_rad,
                applied_rad=reading.applied_rad,
                asymmetry=metrics.asymmetry,
                stages=stage_counts(decision),
                outcome=outcome,
                decision_ms=pacing.decision_ns / 1e6,
            )
        )
        answered = usable & np.isfinite(delta)
        if usable.any() and not answered.any():
            self._strike("no-answer", "the policy gave no finite number for any point")
        else:
            self._clear("no-answer")

    def _record_and_write(
        self, reading: Reading, step: PolicyStep, decision: Decision, measures: Measures
    ) -> str:
        """Record the cycle and, in closed loop, write its function; return what became of it."""
        mode, recorder = self._mode, self._recorder
        if recorder is None:
            raise RuntimeError("not engaged")
        writes = isinstance(mode, ClosedLoop) and decision.write
        record = CycleRecord(
            reading=reading,
            mode=mode.name,
            policy=step,
            verdicts=decision.verdicts,
            proposed_rad=decision.proposed_rad,
            written_rad=decision.phi_hw_rad if writes else None,
            target_cycle=reading.cycle + 1 if writes else None,
            measures=measures,
            timings_ns=self._pacing.timings_ns(),
            events=tuple(self._events),
        )
        try:
            recorder.cycle(record)
        except TraceError as error:
            # What is not in the record must leave no mark on what comes after, or no replay repeats it.
            self._inference.undo(step)
            self._guard.undo()
            self._strike("unrecorded", str(error))
            return "not recorded, held"
        finally:
            self._pacing.lap("record")
        self._clear("unrecorded")
        self._events.clear()
        if not isinstance(mode, ClosedLoop):
            return "recommended"
        if not writes:
            self.summary.held += 1
            return "refused by the guard, held" if decision.refused else "held"
        return self._write(mode, recorder, reading, decision.phi_hw_rad)

    def _write(
        self, mode: ClosedLoop, recorder: Recorder, reading: Reading, phi_hw_rad: FloatArray
    ) -> str:
        target, cycle = reading.cycle + 1, reading.cycle
        deadline_s = UNPACED_DEADLINE_S
        if self._period_s > 0.0:
            elapsed_s = (time.monotonic_ns() - reading.received_ns) / 1e9
            deadline_s = self._period_s - elapsed_s
        try:
            if deadline_s <= 0.0:
                raise Refused(
                    RefusalReason.LATE, f"decided {-deadline_s:.3f} s after cycle {target} began"
                )
            receipt = mode.write(phi_hw_rad, target, deadline_s)
        except Refused as refused:
            self._pacing.lap("write")
            reason = refused.reason.value
            self._outcome(recorder, cycle, reason=reason, detail=refused.detail)
            self._refused_since += 1
            if refused.reason is RefusalReason.FENCED:
                raise _taken_over(refused.detail) from refused
            self._missed(reason, refused.detail)
            return f"refused ({reason}), held"
        except MachineError as error:
            self._pacing.lap("write")
            self._outcome(recorder, cycle, reason=type(error).__name__, detail=str(error))
            raise
        self._pacing.lap("write")
        self._outcome(recorder, cycle, receipt=receipt)
        self._clear(RefusalReason.LATE.value)
        self.summary.written += 1
        self._check_fence(receipt.fence)
        return "written"

    def _check_fence(self, fence: int) -> None:
        """End the run where another client was in control since the last function was taken.

        A client that slept through its lease takes a new one, whose number is one higher, at most once
        for every function that it sends. A larger gap is somebody else's lease.

        Raises:
            Disengaged: control was taken and given back.
        """
        allowed, before = 1 + self._refused_since, self._fence
        self._fence, self._refused_since = fence, 0
        if before and fence > before + allowed:
            raise _taken_over(f"the fencing number went from {before} to {fence}")

    def _outcome(self, recorder: Recorder, cycle: int, **what: Any) -> None:
        record = OutcomeRecord(
            cycle=cycle, timings_ns=self._pacing.timings_ns("record", "write"), **what
        )
        problem = recorder.outcome(record)
        if problem:
            self._view.note(problem)

    def _missed(self, reason: str, detail: str) -> None:
        """Count a refusal; only missed deadlines can end the run."""
        if reason == RefusalReason.LATE:
            self._strike(reason, detail)
            return
        self.summary.missed[reason] += 1
        self._view.note(f"refused ({reason}): {detail}")

    def _strike(self, kind: str, detail: str) -> None:
        """Count a failure; end the run at the third of its kind in a row.

        Raises:
            Disengaged: it is the third.
        """
        self.summary.missed[kind] += 1
        self._strikes[kind] += 1
        self._events.append({"kind": kind, "detail": detail})
        self._view.note(f"{kind}: {detail}")
        if self._strikes[kind] >= STRIKES:
            raise Disengaged(
                f"disengaged after {STRIKES} times {kind!r} in a row: {detail}; "
                "the machine stays at the last applied function"
            )

    def _clear(self, *kinds: str) -> None:
        for kind in kinds:
            self._strikes[kind] = 0

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        # In this order: a stop that comes in between is then seen by one of the two.
        self._waiting = True
        try:
            if self._stop_cause:
                raise _StopRequestedError
            yield
        finally:
            self._waiting = False

    def _finish(self) -> None:
        self._waiting = False
        summary = self.summary
        summary.times_ns = self._pacing.history_ns()
        with ExitStack() as ending:  # all of it, in the reverse order, whatever fails
            ending.callback(self._finish_record)
            ending.callback(self._mode.close)
            ending.callback(self._view.close)

    def _finish_record(self) -> None:
        if self._recorder is not None:
            summary = self.summary
            summary.trace_problem = self._recorder.finish(summary.reason or "internal error")
            summary.trace = self._recorder.hdf5 or self._recorder.folder


def _taken_over(detail: str) -> Disengaged:
    return Disengaged(
        f"disengaged: control was taken over ({detail}); it stays with whoever took it until someone "
        "starts the agent again, and the machine stays at the last applied function"
    )


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run."""


@contextmanager
def stopped_by_signals(runtime: Runtime) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end a run cleanly; a second one ends it at once.

    A closed terminal is no reason where SIGHUP is ignored from the start (`nohup`).
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        runtime.stop(f"stopped by {signal.Signals(number).name}")

    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    ending = [number for number in ENDING if not (number is signal.SIGHUP and ignored)]
    before = {number: signal.signal(number, handle) for number in ending}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
