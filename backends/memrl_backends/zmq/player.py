"""Plays a backend's cycles, one at a time, in a thread of its own."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from memrl_backends.zmq.gate import Gate
from memrl_ctrl.backend import BeamBackend, FloatArray, Reading, Receipt
from memrl_ctrl.errors import RefusalReason, Refused, UsageError
from memrl_ctrl.progress import Cancelled, listening

MOST_STEPS = 200
"""Most cycles in which an earlier function is gone back to."""
RESOLUTION_RAD = 1e-3
"""A function generator need not play a function closer than this, rad."""
DEADLINE_S = 60.0


class Player:
    """Owns the backend; only `play` runs in the thread, and nothing else touches it meanwhile.

    Args:
        backend: any backend that may be written.
        wake: file descriptor that gets one byte when a cycle has been played.
        gate: what functions must keep; without, the limits of the backend's description.
        low_priority: cycles are played with what nobody else wants of the cores (Linux: SCHED_IDLE).
    """

    def __init__(
        self,
        backend: BeamBackend,
        wake: int,
        gate: Gate | None = None,
        *,
        low_priority: bool = False,
    ) -> None:
        self._backend = backend
        self.gate = gate or Gate(backend.description)
        self._wake = wake
        begin = stand_back if low_priority else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="machine", initializer=begin)
        self._playing: Future[Reading] | None = None
        self._closing = False
        self.last = backend.start()
        self.gate.played(self.last.applied_rad)
        self.played = 1
        self.upcoming: FloatArray = self.last.applied_rad
        """What the next cycle plays as things stand [points], rad."""
        self._before = self.upcoming
        self.committed_for = -1
        """Newest cycle for which a function was taken, or that is to hold."""

    @property
    def playing(self) -> bool:
        """Whether a cycle is being played now."""
        return self._playing is not None

    @property
    def next_cycle(self) -> int:
        """First cycle that can still be written."""
        return self.last.cycle + (2 if self.playing else 1)

    def take(self, phi_hw_rad: FloatArray, cycle: int, deadline_s: float) -> Receipt:
        """Have the backend take a function for the next cycle, whole or not at all.

        Raises:
            Refused: late, too early, or outside a limit; or a cycle is being played, during which
                the backend must not be touched.
        """
        if cycle < self.next_cycle:
            raise Refused(
                RefusalReason.LATE,
                f"cycle {cycle} has begun; the next that can be written is {self.next_cycle}",
            )
        if deadline_s <= 0:
            raise Refused(RefusalReason.LATE, f"the deadline passed {-deadline_s * 1e3:.1f} ms ago")
        if cycle > self.next_cycle:
            raise Refused(
                RefusalReason.INVALID,
                f"cycle {cycle} is too far ahead; only cycle {self.next_cycle} can be written now",
            )
        if self.playing:
            raise Refused(RefusalReason.INVALID, "a cycle is being played; ask again after it")
        self.check(phi_hw_rad)
        receipt = self._backend.submit(phi_hw_rad, cycle, deadline_s)
        self.committed_for = cycle
        self._before, self.upcoming = self.upcoming, receipt.applied_rad
        return receipt

    def take_back(self) -> None:
        """Have the next cycle play what it would have played without the function taken last."""
        self._backend.submit(self._before, self.next_cycle, 1.0)
        self.upcoming = self._before

    def check(self, phi_hw_rad: FloatArray) -> None:
        """Check a function for the next cycle against the gate; raises `Refused`."""
        self.gate.check(phi_hw_rad, self.last.applied_rad)

    def go_to(self, phi_hw_rad: FloatArray) -> None:
        """Play cycles until a function is applied, as few as the limits allow; before anybody is let in.

        Raises:
            Refused: it cannot be reached within the limits.
        """
        for _ in range(MOST_STEPS):
            if np.allclose(self.last.applied_rad, phi_hw_rad, rtol=0.0, atol=RESOLUTION_RAD):
                return
            step = self.gate.limits.restrict(
                phi_hw_rad, self.last.applied_rad, self._backend.description.ctime_ms
            )
            self._backend.submit(step.phi_hw_rad, self.last.cycle + 1, DEADLINE_S)
            self.last = self._backend.observe()
            self.played += 1
            self.upcoming = self.last.applied_rad
            self.gate.played(self.last.applied_rad)
        raise Refused(
            RefusalReason.LIMIT,
            f"the function that was acknowledged last is not reached in {MOST_STEPS} cycles",
        )

    def hold(self, cycle: int) -> None:
        """Note that nothing will be written for the next cycle; said of a later one it says nothing."""
        if cycle == self.next_cycle:
            self.committed_for = cycle

    def begin(self) -> None:
        """Begin the next cycle."""
        self._playing = self._thread.submit(self._observe)
        # Not in the thread's work: the result must be there before anybody is woken for it.
        self._playing.add_done_callback(lambda _: os.write(self._wake, b"c"))

    def _observe(self) -> Reading:
        with listening(self._go_on):
            return self._backend.observe()

    def _go_on(self, _done: int, _total: int) -> None:
        if self._closing:
            raise Cancelled

    def finished(self) -> Reading | None:
        """Return the reading of the cycle that was begun, once it is there."""
        if self._playing is None or not self._playing.done():
            return None
        self.last = self._playing.result()
        self._playing = None
        self.gate.played(self.last.applied_rad)
        self.upcoming = self.last.applied_rad
        self.played += 1
        return self.last

    def close(self) -> None:
        """End the cycle that is being played where it next reports progress, and take no more.

        A cycle that reports none, as a matched one, is waited for.
        """
        self._closing = True
        self._thread.shutdown(wait=True)


def stand_back() -> None:
    """Give the thread that calls this only what nobody else wants of the cores.

    A thread that answers is otherwise put behind one that computes for up to some milliseconds, where
    they meet on a core. Where the operating system knows no such priority, nothing is changed.
    """
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


class Pacer:
    """Says when the next cycle begins.

    With a period, at fixed times; a cycle that took longer shifts the later ones. Without one
    (`period_s` 0) as soon as the holder of the lease has written, or said that it will not; when
    nobody holds the lease, `idle_s` after the last cycle.
    """

    def __init__(self, *, period_s: float, idle_s: float, now_s: float) -> None:
        self._period_s, self._idle_s = period_s, idle_s
        self._begins_s = now_s + period_s
        self._ended_s = now_s

    def begun(self, now_s: float) -> None:
        """Note that a cycle has begun."""
        self._begins_s += self._period_s

    def ended(self, now_s: float) -> None:
        """Note that a cycle has been played."""
        self._ended_s = now_s
        if now_s > self._begins_s:
            # Whoever writes needs the time between a reading and the next cycle.
            self._begins_s = now_s + self._period_s

    def due_in_s(self, now_s: float, *, leased: bool, written: bool) -> float | None:
        """Return the time until the next cycle begins; None while it waits for the holder."""
        if self._period_s > 0:
            return max(0.0, self._begins_s - now_s)
        if leased:
            return 0.0 if written else None
        return max(0.0, self._ended_s + self._idle_s - now_s)


class TruthLog:
    """Writes what only the simulation knows, one JSON object a cycle; for the scorer, afterwards.

    Folders that are missing are made.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("wb")
        except OSError as error:
            raise UsageError(f"truth log {path} cannot be written: {error.strerror}") from error

    def write(self, reading: Reading) -> None:
        """Append a cycle and hand it to the operating system; NaN becomes null.

        Raises:
            UsageError: the reading carries no truth.
        """
        truth = reading.truth
        if truth is None:
            raise UsageError("this backend knows no truth: leave out --truth-log")
        line = {
            "cycle": reading.cycle,
            "stamp_ns": reading.stamp_ns,
            "phi_hw_rad": reading.applied_rad.tolist(),
            "phase_error_rad": truth.phase_error_rad.tolist(),
            "reference_rad": truth.reference_rad.tolist(),
            "offset_rad": truth.offset_rad.tolist(),
            "phi2_rad": truth.phi2_rad.tolist(),
            "emittance_evs": truth.emittance_evs.tolist(),
            "intensity": truth.intensity.tolist(),
        }
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
