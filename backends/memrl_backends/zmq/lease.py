"""Who may write: the mode that operators set, and the lease that one session holds for a short time."""

from __future__ import annotations

from dataclasses import dataclass

from memrl_backends.zmq.fence import FenceCounter
from memrl_backends.zmq.wire import Mode, Role
from memrl_ctrl.errors import FileError, RefusalReason, Refused


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One grant."""

    session: int
    holder: str
    """Name for people."""
    fence: int
    """Greater than that of every earlier lease."""
    expires_ns: int
    """Server clock."""


class Authority:
    """Grants the lease to one session at a time, as far as the mode lets it.

    Args:
        duration_s: how long a grant or a renewal lasts.
        fences: gives out the fencing numbers.
        mode: at the start.
    """

    def __init__(self, *, duration_s: float, fences: FenceCounter, mode: Mode) -> None:
        self.duration_s = duration_s
        self.mode = mode
        self.operator = ""
        """Name of the operator who set the mode, or empty."""
        self._fences = fences
        self._lease: Lease | None = None

    def current(self, now_ns: int) -> Lease | None:
        """Return the lease that is held now."""
        if self._lease is not None and now_ns >= self._lease.expires_ns:
            self._lease = None
        return self._lease

    # Holding

    def request(
        self, session: int, holder: str, now_ns: int, *, role: Role, after: int = 0
    ) -> Lease:
        """Grant the lease, or renew it for its holder.

        Args:
            session: who asks.
            holder: its name for people.
            now_ns: server clock.
            role: of the session; an operator gets it in mode `manual` too.
            after: grant it only if this was the last fencing number given out; 0 for any.

        Raises:
            Refused: the mode does not allow it, or another session holds it (says who), or somebody
                was in control since `after`.
        """
        self._check_mode(role)
        held = self.current(now_ns)
        if held is not None and held.session != session:
            left_s = (held.expires_ns - now_ns) * 1e-9
            raise Refused(
                RefusalReason.FENCED,
                f"{held.holder!r} is in control (fencing number {held.fence}, lease for another "
                f"{left_s:.1f} s unless renewed); stop it first, or observe",
            )
        if held is not None:
            return self._grant(session, holder, held.fence, now_ns)
        if after and after != self._fences.last:
            raise Refused(
                RefusalReason.FENCED,
                f"somebody else was in control since fencing number {after}: "
                "take control anew if that is wanted",
            )
        return self._grant(session, holder, self._next_fence(), now_ns)

    def _check_mode(self, role: Role) -> None:
        if self.mode is Mode.OFF:
            raise Refused(
                RefusalReason.NOT_ARMED,
                "the machine is not armed: an operator arms it (memrl-ctrl operator arm)",
            )
        if self.mode is Mode.MANUAL and not role.may(Role.OPERATOR):
            raise Refused(
                RefusalReason.FENCED,
                f"operator {self.operator!r} has taken over; control comes back when an operator "
                "arms the machine again (memrl-ctrl operator arm)",
            )

    def use(self, session: int, fence: int, now_ns: int) -> Lease:
        """Renew the lease for a request that needs it.

        Raises:
            Refused: the session does not hold it, or not under this fencing number.
        """
        held = self.current(now_ns)
        if held is None:
            raise Refused(RefusalReason.FENCED, self._why_lost(fence))
        if held.session != session or held.fence != fence:
            raise Refused(
                RefusalReason.FENCED,
                f"fencing number {fence} is out of date: {held.holder!r} holds {held.fence}",
            )
        return self._grant(session, held.holder, fence, now_ns)

    def _why_lost(self, fence: int) -> str:
        if fence != self._fences.last and self.operator:
            return f"fencing number {fence} is out of date: the machine is {self.describe()}"
        return f"the lease with fencing number {fence} has expired"

    def describe(self) -> str:
        """Return the mode in words."""
        by = f" by {self.operator!r}" if self.operator else ""
        return {
            Mode.OFF: f"not armed{by and f', disarmed{by}'}",
            Mode.ARMED: f"armed{by}",
            Mode.MANUAL: f"taken over{by}",
        }[self.mode]

    def release(self) -> None:
        """Free the lease."""
        self._lease = None

    def end(self, session: int) -> None:
        """End the lease of a session that is no more; its fencing number is good for nothing then."""
        if self._lease is not None and self._lease.session == session:
            self._lease = None
            self._next_for_operator()

    # Operators

    def set_mode(self, mode: Mode, operator: str) -> None:
        """Arm or disarm; every lease from before ends, except that arming leaves an armed machine alone.

        Args:
            mode: `armed` or `off`.
            operator: name of who does it.
        """
        if mode is Mode.ARMED and self.mode is Mode.ARMED:
            return
        self._lease = None
        self.mode, self.operator = mode, operator
        self._next_for_operator()  # so that nobody's earlier number is the newest any more

    def take_over(self, session: int, operator: str, now_ns: int) -> Lease:
        """Give an operator the lease at once, whoever holds it; controllers get none until armed."""
        self._lease = None
        self.mode, self.operator = Mode.MANUAL, operator
        return self._grant(session, operator, self._next_for_operator(), now_ns)

    def _next_for_operator(self) -> int:
        try:
            return self._fences.next(spare=True)
        except FileError as error:
            self.mode = Mode.OFF  # without new numbers nobody may write any more
            raise Refused(RefusalReason.NOT_ARMED, f"nobody can write any more: {error}") from error

    def _next_fence(self) -> int:
        try:
            return self._fences.next()
        except FileError as error:
            raise Refused(RefusalReason.NOT_ARMED, f"no lease can be given: {error}") from error

    def _grant(self, session: int, holder: str, fence: int, now_ns: int) -> Lease:
        self._lease = Lease(
            session=session,
            holder=holder,
            fence=fence,
            expires_ns=now_ns + int(self.duration_s * 1e9),
        )
        return self._lease
