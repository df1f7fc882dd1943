"""What goes wrong in a run, and its changes of mode: counted, told, put into the next record.

The third failure of a kind in a row leaves the loop: the machine goes on with the last function that it took.
Shadow has nothing to leave: it waits while the machine stands still.
"""

from __future__ import annotations

from typing import Any

from memrl_ctrl.backend import Reading, Receipt
from memrl_ctrl.errors import RefusalReason, Refused
from memrl_deploy.fallback import Rung
from memrl_deploy.guard import Guard
from memrl_deploy.guard.decision import FloatArray
from memrl_deploy.modes import Fallback
from memrl_deploy.receiving import check_played
from memrl_deploy.states import Cause, control_in
from memrl_deploy.steering import Steering
from memrl_deploy.strikes import (
    NOT_PLAYED,
    REFUSALS,
    STRIKES,
    TIMEOUT,
    Disengaged,
    Fence,
    Strikes,
    not_in_control,
    refusal,
)
from memrl_deploy.summary import RunSummary, View

RUNG_WORDS = {
    Rung.HOLD: "the last function stays",
    Rung.CLASSICAL: "a classical controller moves the points whose reading is not doubted",
    Rung.RESTORE: "back to the function at which the loop was engaged",
}
ATTENDED = ("no-answer", NOT_PLAYED, *REFUSALS)
"""Failures after which a run goes on in manual where somebody sits at the keys: readings come, and what was
refused, or could not be answered, moved nothing; of what plays instead of what was taken they judge."""


class Failures:
    """Counts failures in a row, and leaves the loop where they are too many.

    Args:
        steering: leads the run through its modes.
        guard: is told where control is taken and given back.
        view: where it is shown.
        summary: counts them all.
    """

    def __init__(self, steering: Steering, guard: Guard, view: View, summary: RunSummary) -> None:
        self._steering, self._guard = steering, guard
        self._view, self._summary = view, summary
        self._strikes, self._fence = Strikes(), Fence()
        self._acknowledged: Receipt | None = None
        self._rung = ""
        self._next_unseen = 1
        self.events: list[dict[str, Any]] = []
        """What happened since the last record: it stands in the next one."""
        self.cycle = -1
        """Number of the last cycle that was read."""
        self.attended = False
        """Whether somebody sits at the keys."""
        self._waits = 0

    def tell_changes(self, applied_rad: FloatArray | None = None) -> None:
        """Put transitions into the record and on the terminal; control is taken at what is applied."""
        for change in self._steering.news():
            event = change.event()
            self.events.append(event)
            self._view.note(str(change))
            self._summary.changes.append(str(change))
            taken = control_in([event], change.cycle)
            self._guard.note_control(taken, applied_rad)
            if taken:  # a person engaged: what was refused before is over
                self._strikes.clear(NOT_PLAYED, *REFUSALS)
            elif taken is False:  # what plays from now on is somebody else's
                self._acknowledged = None

    def tell_rung(self) -> None:
        """Say what the fallback does, where that is another thing than in the cycle before."""
        mode = self._steering.mode
        rung = mode.ladder.last if isinstance(mode, Fallback) else ""
        if rung and rung != self._rung:
            self._view.note(f"fallback, rung {rung!r}: {RUNG_WORDS[Rung(rung)]}")
        self._rung = rung

    def unseen(self, cycle: int) -> None:
        """Count the cycles before this one of which no reading came, and tell of them now and then."""
        missing = cycle - self.cycle - 1
        if missing <= 0:
            return
        self._summary.unseen += missing
        self.events.append({"kind": "unseen", "cycles": missing})
        if self._summary.unseen >= self._next_unseen:
            self._next_unseen = 2 * self._summary.unseen
            self._view.note(
                f"no reading came of {missing} cycles before {cycle}; {self._summary.unseen} in all "
                "(told again at twice as many)"
            )

    def leave(self, cause: Cause, detail: str) -> None:
        """Leave the machine to the operator, with the cause in the record and on the terminal."""
        self._steering.give_up(cause, self.cycle, detail)
        self.tell_changes()

    def strike(self, kind: str, detail: str) -> None:
        """Count a failure.

        Raises:
            Disengaged: it is the third of its kind in a row.
        """
        end = self.count(kind, detail)
        if end is not None:
            raise end

    def count(self, kind: str, detail: str) -> Disengaged | None:
        """Count a failure; return what ends the run at the third of its kind in a row.

        Where somebody sits at the keys the run goes on in manual, if it can.
        """
        self._summary.missed[kind] += 1
        self.events.append({"kind": kind, "detail": detail})
        self._view.note(f"{kind}: {detail}")
        end = self._strikes.add(kind, detail)
        if end is None:
            return None
        self.leave(Cause.MISSED, f"{STRIKES} times {kind!r} in a row: {detail}")
        if not self.attended or kind not in ATTENDED:
            return end
        self._strikes.clear(kind)
        return None

    def wait(self, detail: str) -> None:
        """Count a wait that is no failure: the first stands in the record, some are told."""
        self._summary.missed[TIMEOUT] += 1
        self._waits += 1
        if self._waits == 1:
            self.events.append({"kind": TIMEOUT, "detail": detail})
        if self._waits.bit_count() == 1:  # a power of two
            self._view.note(f"{TIMEOUT}: {detail}; waiting on (told again after twice the time)")

    def clear(self, *kinds: str) -> None:
        """Tell that these went well."""
        self._strikes.clear(*kinds)
        if self._waits and TIMEOUT in kinds:
            said = f"the machine plays again, after {self._waits} times no reading"
            self.events.append({"kind": "waited", "timeouts": self._waits})
            self._view.note(said)
            self._waits = 0

    def refused(self, refused: Refused) -> Disengaged | None:
        """Count a function that was not taken; return what ends the run.

        Lost control ends it at once, any other reason the third time that it is given since a function was
        taken.
        """
        self._fence.refused()
        if refused.reason is RefusalReason.FENCED:
            self.leave(Cause.TAKEN_OVER, refused.detail)
            return not_in_control(refused.detail)
        return self.count(refusal(refused.reason), refused.detail)

    def played(self, reading: Reading) -> Disengaged | None:
        """Hold what a cycle plays against the function that was taken for it; return what ends the run.

        To be called behind the guard's decision: a replay sees it where it reads the record's events.
        """
        receipt = self._acknowledged
        if receipt is None or reading.cycle < receipt.cycle:
            return None
        self._acknowledged = None
        other = check_played(receipt, reading)
        if other:
            return self.count(NOT_PLAYED, other)
        self._strikes.clear(NOT_PLAYED)
        return None

    def taken(self, receipt: Receipt, other: str) -> Disengaged | None:
        """Tell that a function was taken; return what ends the run.

        Args:
            receipt: the machine's.
            other: in words, what was taken instead of what was sent; empty where it was that.
        """
        self._strikes.clear(*REFUSALS)
        self._acknowledged = receipt
        end = self._fence.check(receipt.fence)
        if end is not None:
            self.leave(Cause.TAKEN_OVER, str(end))
        elif other:
            end = self.count("receipt", other)
        else:
            self._strikes.clear("receipt")
        return end
