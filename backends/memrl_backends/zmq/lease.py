"""The lease: the right to write, held by one session for a short time."""

from __future__ import annotations

from dataclasses import dataclass

from memrl_ctrl.errors import RefusalReason, Refused


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


class LeaseDesk:
    """Grants the lease to one session at a time.

    Args:
        duration_s: how long a grant or a renewal lasts.
        first_fence: the first fencing number; must be above every one given out before.
    """

    def __init__(self, *, duration_s: float, first_fence: int) -> None:
        self.duration_s = duration_s
        self._next_fence = first_fence
        self._lease: Lease | None = None

    def current(self, now_ns: int) -> Lease | None:
        """Return the lease that is held now."""
        if self._lease is not None and now_ns >= self._lease.expires_ns:
            self._lease = None
        return self._lease

    def request(self, session: int, holder: str, now_ns: int) -> Lease:
        """Grant the lease, or renew it for its holder.

        Raises:
            Refused: another session holds it; says who.
        """
        held = self.current(now_ns)
        if held is not None and held.session != session:
            left_s = (held.expires_ns - now_ns) * 1e-9
            raise Refused(
                RefusalReason.FENCED,
                f"{held.holder!r} is in control (fencing number {held.fence}, lease for another "
                f"{left_s:.1f} s unless renewed); stop it first, or observe",
            )
        if held is None:
            fence, self._next_fence = self._next_fence, self._next_fence + 1
        else:
            fence = held.fence
        return self._grant(session, holder, fence, now_ns)

    def use(self, session: int, fence: int, now_ns: int) -> Lease:
        """Renew the lease for a request that needs it.

        Raises:
            Refused: the session does not hold it, or not under this fencing number.
        """
        held = self.current(now_ns)
        if held is None:
            raise Refused(
                RefusalReason.FENCED, f"the lease with fencing number {fence} has expired"
            )
        if held.session != session or held.fence != fence:
            raise Refused(
                RefusalReason.FENCED,
                f"fencing number {fence} is out of date: {held.holder!r} holds {held.fence}",
            )
        return self._grant(session, held.holder, fence, now_ns)

    def release(self) -> None:
        """Free the lease."""
        self._lease = None

    def _grant(self, session: int, holder: str, fence: int, now_ns: int) -> Lease:
        self._lease = Lease(
            session=session,
            holder=holder,
            fence=fence,
            expires_ns=now_ns + int(self.duration_s * 1e9),
        )
        return self._lease
