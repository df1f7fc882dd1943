"""Which mode a run is in, and what that mode would write.

A run that may write begins in shadow with the policy's memory kept warm, engages when the
recommendations agree, and leaves the loop for the fallback or for the operator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memrl_ctrl.backend import MachineDescription, Reading
from memrl_ctrl.registry import ObserveOnly
from memrl_deploy.engaging import Agreement, EngageConfig, blended
from memrl_deploy.fallback import Classical, FallbackConfig, Ladder, Snapshot, shown_points
from memrl_deploy.guard import STAGES, Decision, Excess
from memrl_deploy.modes import ClosedLoop, Fallback, Manual, Mode, Shadow, Transition
from memrl_deploy.states import Cause, Change, Control, State, StateMachine

FloatArray = NDArray[np.float64]


class Steering:
    """Leads a run through its modes.

    Args:
        access: what the run was given: a `Shadow` never leaves shadow.
        machine: for its limits and control points.
        engage: how the policy comes in.
        fallback: what happens when it is in trouble.
        classical: the controller of the fallback; None leaves it out.
    """

    def __init__(
        self,
        access: Mode,
        machine: MachineDescription,
        *,
        engage: EngageConfig | None = None,
        fallback: FallbackConfig | None = None,
        classical: Classical | None = None,
    ) -> None:
        self._backend = access.backend if isinstance(access, ClosedLoop) else None
        self._limits, self._ctime_ms = machine.limits, machine.ctime_ms
        self._engage = engage or EngageConfig()
        self._fallback, self._classical = fallback or FallbackConfig(), classical
        self._machine = StateMachine()
        self._agreement = Agreement(self._engage)
        self._snapshot: Snapshot | None = None
        self._recovered: list[int] = []
        self._stuck = 0
        self._asked = ""
        self._fresh: list[Change] = []
        self.mode: Mode = access if self._backend is None else Shadow(ObserveOnly(self._backend))

    @property
    def changes(self) -> list[Change]:
        """All transitions so far."""
        return self._machine.changes

    @property
    def in_control(self) -> bool:
        """Whether a person engaged the loop and nobody took the machine from it since."""
        return self._machine.in_control

    @property
    def taken_over(self) -> bool:
        """Whether the operator asked for the machine and nothing was decided since."""
        return self._asked == "manual"

    @property
    def left_over(self) -> str:
        """What people have to know of a run that ends now, in a sentence; empty if nothing.

        It handed over by itself and nobody engaged again, or its policy is not followed just now.
        """
        last = self.changes[-1] if self.changes else None
        if last is not None and last.cause in (Cause.LADDER_ENDED, Cause.MISSED):
            return f"handed over to the operator: {last.detail}"
        if last is not None and isinstance(self.mode, Fallback):
            return (
                f"ended in the fallback, on its rung {self.mode.ladder.last!r} ({last.detail}): the machine "
                "goes on with the last function that it took, and nobody leads it"
            )
        return ""

    @property
    def not_engaged(self) -> str:
        """Why the policy of a run that may write is not followed: it is in shadow; empty elsewhere."""
        if self._backend is None or self._machine.state is not State.SHADOW:
            return ""
        again = " again" if self._machine.in_control else ""
        seen = f": in the last cycle {self._agreement.seen}" if self._agreement.seen else ""
        return f"in shadow, it did not engage{again}{seen}"

    def ask_manual(self) -> None:
        """Give the machine to the operator; may be called from a signal handler. Nothing more is written."""
        self._asked = "manual"

    def ask_engage(self) -> None:
        """Engage again, from manual; may be called from a signal handler."""
        self._asked = "engage"

    def news(self) -> list[Change]:
        """Return the transitions since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def choose(self, decision: Decision, reading: Reading) -> FloatArray | None:
        """Go on by a cycle; return what is to be written [points], rad, None for nothing."""
        if self._backend is None:
            return None
        cycle = reading.cycle
        self._answer(cycle)
        trouble = trouble_of(decision)
        state = self._machine.state
        if state is State.SHADOW:
            self._agreement.see(decision, reading.applied_rad)
            self._stuck = self._stuck + 1 if trouble and self._machine.in_control else 0
            if self._agreement.reached:
                self._engage_now(reading)
            elif self._stuck >= self._fallback.stuck_cycles:
                self._go(Cause.TROUBLE, cycle, f"{trouble}; in shadow for {self._stuck} cycles")
        elif trouble and state in (State.TRANSITION, State.CLOSED_LOOP):
            self._go(Cause.TROUBLE, cycle, trouble + self._often(cycle))
        return self._function(decision, reading, trouble)

    def _engage_now(self, reading: Reading) -> None:
        """Go to the transition; what is applied is the snapshot where it is a person who engaged."""
        agreed = f"{self._agreement.cycles} cycles in a row agreed"
        if self._machine.in_control and self._snapshot is not None:
            agreed += (
                f"; snapshot and drift are counted from cycle {self._snapshot.cycle}, as before"
            )
        change = self._go(Cause.AGREED, reading.cycle, agreed)
        if change.control is Control.TAKEN:
            self._snapshot, self._recovered = Snapshot.of(reading), []

    def _function(self, decision: Decision, reading: Reading, trouble: str) -> FloatArray | None:
        mode = self.mode
        if isinstance(mode, Fallback):
            shown = shown_points(decision.verdicts, STAGES)
            wanted = mode.ladder.next(reading, trouble=trouble, shown=shown)
            if mode.ladder.ended:
                self._go(Cause.LADDER_ENDED, reading.cycle, mode.ladder.ended)
            elif mode.ladder.recovered:
                self._recovered.append(reading.cycle)
                self._go(Cause.RECOVERED, reading.cycle, "no trouble while the function is held")
            return wanted
        if not isinstance(mode, ClosedLoop) or not decision.write:
            return None
        factor = mode.factor if isinstance(mode, Transition) else 1.0
        return blended(reading.applied_rad, decision.phi_hw_rad, factor)

    def _recovers(self, cycle: int) -> bool:
        """Whether a descent that begins now may end by holding: it was not so often enough before."""
        if self._stuck >= self._fallback.stuck_cycles:
            return False
        since = cycle - self._fallback.recoveries_within
        return sum(one > since for one in self._recovered) < self._fallback.recoveries

    def _often(self, cycle: int) -> str:
        """Return what is to be said of a descent that does not recover; empty of one that may."""
        if self._recovers(cycle):
            return ""
        config = self._fallback
        within = f"{config.recoveries} times in {config.recoveries_within} cycles"
        return f"; it recovered {within} and does not again"

    def undo(self) -> None:
        """Tell that the cycle that was chosen last is not in the record."""
        if isinstance(self.mode, Fallback):
            self.mode.ladder.undo()

    def written(self, cycle: int) -> None:
        """Tell that the machine took the function."""
        if isinstance(self.mode, Transition):
            self.mode.taken += 1
            if self.mode.blended:
                self._go(Cause.BLENDED, cycle, "the machine took every function of the transition")

    def give_up(self, cause: Cause, cycle: int, detail: str) -> None:
        """Leave the machine to the operator, who may have it already: the policy cannot go on."""
        if self._backend is not None and self._machine.state is not State.MANUAL:
            self._go(cause, cycle, detail)

    def _answer(self, cycle: int) -> None:
        """Do what the operator asked for; asking for what is so already does nothing."""
        asked, self._asked = self._asked, ""
        manual = self._machine.state is State.MANUAL
        if (asked == "manual" and not manual) or (asked == "engage" and manual):
            self._go(Cause.OPERATOR, cycle, f"the operator asked to {_WORDS[asked]}")

    def _go(self, cause: Cause, cycle: int, detail: str) -> Change:
        change = self._machine.go(cause, cycle, detail)
        self._fresh.append(change)
        self._agreement.reset()
        self.mode = self._mode_of(change.after, cycle)
        self._stuck = 0
        return change

    def _mode_of(self, state: State, cycle: int) -> Mode:
        backend = self._backend
        if backend is None:
            raise RuntimeError("a run in shadow never leaves it")
        if state is State.SHADOW:
            return Shadow(ObserveOnly(backend))
        if state is State.MANUAL:
            return Manual(ObserveOnly(backend))
        if state is State.CLOSED_LOOP:
            return ClosedLoop(backend)
        if state is State.TRANSITION:
            return Transition(backend, self._engage.blend_cycles)
        if self._snapshot is None:
            raise RuntimeError("never engaged")
        ladder = Ladder(
            self._snapshot,
            self._limits,
            self._ctime_ms,
            self._fallback,
            self._classical,
            recovers=self._recovers(cycle),
        )
        return Fallback(backend, ladder)


_WORDS = {"manual": "take over", "engage": "engage again"}


def trouble_of(decision: Decision) -> str:
    """Return why a decision must not be followed; empty if it may be.

    A cycle in which no point could be shown is no trouble of the policy: it holds.
    """
    if decision.excess is not Excess.HARD:
        return ""
    return decision.reason or "the guard let nothing through"
