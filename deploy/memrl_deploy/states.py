"""The modes of a run as a state machine: which may follow which, and for what cause.

The table is all there is: a transition that is not in it raises, and every one that is made is kept with
its cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """What a run does to the machine."""

    SHADOW = "shadow"
    """Sees and recommends; writes nothing."""
    TRANSITION = "transition"
    """Writes a growing part of each step."""
    CLOSED_LOOP = "closed-loop"
    """Writes what the guard lets through."""
    FALLBACK = "fallback"
    """The policy is not followed; the ladder is."""
    MANUAL = "manual"
    """The operator has the machine; sees and records, writes nothing."""


class Cause(StrEnum):
    """Why a mode is left."""

    AGREED = "agreed"
    """The recommendations agreed for as many cycles as asked."""
    BLENDED = "blended"
    """The machine took every function of the transition: lease and arming are proven."""
    TROUBLE = "trouble"
    """The guard refused a function, or the policy gave no answer."""
    RECOVERED = "recovered"
    """There was no trouble while the last function was held."""
    LADDER_ENDED = "ladder-ended"
    """The fallback did what it could."""
    OPERATOR = "operator"
    """A key or a signal."""
    MISSED = "missed"
    """Three failures of one kind in a row: deadlines, readings, records or answers."""
    TAKEN_OVER = "taken-over"
    """Control is lost: another client or `operator take-over` took it, or the machine ended the lease."""
    LOST = "lost"
    """The machine is gone, or cannot be controlled."""


class Control(StrEnum):
    """What a transition does to the loop's control of the machine, as its event in the trace says it.

    Where control is taken stand the snapshot and the place from which drift is counted. Only a person
    renews them: who started the run, or engaged it again out of manual.
    """

    TAKEN = "taken"
    """The loop engages for the first time since a person started it, or engaged it again."""
    KEPT = "kept"
    """It goes on as it was: a fallback that recovers, and engages by itself, is no new beginning."""
    LEFT = "left"
    """The operator has the machine."""


GIVING_UP = (Cause.OPERATOR, Cause.MISSED, Cause.TAKEN_OVER, Cause.LOST)
"""Causes that leave the machine to the operator from everywhere; all but the first end the run."""


WRITING = frozenset({State.TRANSITION, State.CLOSED_LOOP, State.FALLBACK})
"""Modes in which anything is written."""

TRANSITIONS: dict[tuple[State, Cause], State] = {
    (State.SHADOW, Cause.AGREED): State.TRANSITION,
    (State.TRANSITION, Cause.BLENDED): State.CLOSED_LOOP,
    (State.TRANSITION, Cause.TROUBLE): State.FALLBACK,
    (State.CLOSED_LOOP, Cause.TROUBLE): State.FALLBACK,
    # Behind a fallback that recovered; before the loop was engaged there is nothing to fall back to.
    (State.SHADOW, Cause.TROUBLE): State.FALLBACK,
    (State.FALLBACK, Cause.RECOVERED): State.SHADOW,
    (State.FALLBACK, Cause.LADDER_ENDED): State.MANUAL,
    (State.MANUAL, Cause.OPERATOR): State.SHADOW,
    **{
        (state, cause): State.MANUAL
        for state in State
        if state is not State.MANUAL
        for cause in GIVING_UP
    },
}
"""Mode and cause to the mode that follows; nothing else is allowed."""


def control_in(
    events: Sequence[Mapping[str, Any]], cycle: int, *, late: bool = False
) -> bool | None:
    """Whether the loop took control in a recorded cycle (it engaged), or gave it back; None: neither.

    The guard's budgets begin where control is taken, and end where it is given back.

    Args:
        events: of the cycle's record.
        cycle: its number.
        late: ask for the cycles before, whose events had no record of their own; the run's begin is one:
            it begins without control.
    """
    taken: bool | None = None
    for event in events:
        kind, number = event.get("kind"), event.get("cycle")
        if kind == "begun" and late:
            taken = False
        if kind != "mode" or not isinstance(number, int):
            continue
        if number < cycle if late else number == cycle:
            control = _control_of(event)
            if control != Control.KEPT:
                taken = control == Control.TAKEN
    return taken


def _control_of(event: Mapping[str, Any]) -> object:
    """Return what an event says of control; earlier releases did not, and took it at every engagement."""
    after = event.get("to")
    if "control" in event:
        return event["control"]
    if after == State.TRANSITION.value:
        return Control.TAKEN
    return Control.KEPT if after in list(WRITING) else Control.LEFT


class IllegalTransitionError(RuntimeError):
    """A transition that is not in the table: a defect of this program, no user's mistake."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A transition that was made."""

    cycle: int
    """Number of the machine's cycle in which it was made."""
    before: State
    after: State
    cause: Cause
    control: Control
    detail: str

    def event(self) -> dict[str, str | int]:
        """Return it as the trace holds it."""
        return {
            "kind": "mode",
            "cycle": self.cycle,
            "from": self.before.value,
            "to": self.after.value,
            "cause": self.cause.value,
            "control": self.control.value,
            "detail": self.detail,
        }

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.before.value} -> {self.after.value} ({self.cause.value}): {self.detail}"


class StateMachine:
    """Where a run is; begins in shadow."""

    def __init__(self) -> None:
        self.state = State.SHADOW
        self.changes: list[Change] = []
        self.in_control = False
        """Whether the loop engaged since a person began it, and did not leave the machine since."""

    def allows(self, cause: Cause) -> bool:
        """Whether a cause leads out of this mode now.

        Out of shadow nothing is written for any trouble, unless a person engaged the loop before.
        """
        unengaged = self.state is State.SHADOW and not self.in_control
        return (self.state, cause) in TRANSITIONS and not (unengaged and cause is Cause.TROUBLE)

    def go(self, cause: Cause, cycle: int, detail: str) -> Change:
        """Leave the mode for a cause.

        Raises:
            IllegalTransitionError: the cause does not lead out of this mode.
        """
        if not self.allows(cause):
            raise IllegalTransitionError(
                f"no transition out of {self.state.value} for {cause.value}"
            )
        after = TRANSITIONS[self.state, cause]
        change = Change(
            cycle=cycle,
            before=self.state,
            after=after,
            cause=cause,
            control=self._control(after),
            detail=detail,
        )
        self.state, self.in_control = after, change.control is not Control.LEFT
        self.changes.append(change)
        return change

    def _control(self, after: State) -> Control:
        """Return what going to a mode does to control of the machine."""
        if after is State.MANUAL:
            return Control.LEFT
        if self.in_control:
            return Control.KEPT
        return Control.TAKEN if after in WRITING else Control.LEFT
