"""What ends a run from inside: failures of one kind in a row, and control that somebody else took."""

from __future__ import annotations

from collections import Counter

from memrl_ctrl.errors import MachineError, RefusalReason

STRIKES = 3
"""So many failures of one kind in a row end a run."""


def refusal(reason: RefusalReason) -> str:
    """Return the kind of failure that a refusal is; a missed deadline is one, here or at the machine."""
    return reason.value if reason is RefusalReason.LATE else f"refused ({reason.value})"


REFUSALS = tuple(refusal(reason) for reason in RefusalReason)
"""Failures that a function which is taken ends."""


TIMEOUT = "timeout"
"""The failure that no reading came."""
NOT_PLAYED = "not-played"
"""The failure that a machine took one function, and its reading shows another."""


class Disengaged(MachineError):  # noqa: N818 - a sentence, not a suffix
    """The loop gave up; the machine goes on with the last function that it took."""


class Strikes:
    """Counts failures in a row, by kind."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, detail: str) -> Disengaged | None:
        """Count a failure; return what ends the run at the third of its kind in a row."""
        self._counts[kind] += 1
        if self._counts[kind] < STRIKES:
            return None
        return Disengaged(
            f"disengaged after {STRIKES} times {kind!r} in a row: {detail}; "
            "the machine stays at the last applied function"
        )

    def clear(self, *kinds: str) -> None:
        """Tell that these went well."""
        for kind in kinds:
            self._counts[kind] = 0


class Fence:
    """Watches the fencing numbers of the leases under which functions were taken."""

    def __init__(self) -> None:
        self._last = 0
        self._refused = 0

    def refused(self) -> None:
        """Tell that a function was refused."""
        self._refused += 1

    def check(self, fence: int) -> Disengaged | None:
        """Return what ends the run where another client was in control since the last function was taken.

        A client that slept through its lease takes a new one, whose number is one higher, at most once
        for every function that it sends. A larger gap is somebody else's lease. A number that is smaller
        is of a machine that has forgotten who was in control.
        """
        allowed, before = 1 + self._refused, self._last
        self._last, self._refused = fence, 0
        if before and fence > before + allowed:
            return not_in_control(
                f"somebody else was: the fencing number went from {before} to {fence}"
            )
        if fence < before:
            return not_in_control(
                f"the machine has forgotten who is: the fencing number went back from {before} to {fence}"
            )
        return None


def not_in_control(detail: str) -> Disengaged:
    """Return the error of a run that lost control: somebody else took it, or the machine ended its lease.

    Args:
        detail: what is known of it.
    """
    return Disengaged(
        f"disengaged: this agent is not in control any more ({detail}); it takes control no more until "
        "someone starts it again, and the machine stays at the last applied function"
    )
