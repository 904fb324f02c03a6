"""Until when partitions are certainly ours."""

from math import inf
from typing import Final

LEASE_SHARE: Final = 0.8
"""Share of the session, and of a rebalance, within which a write that starts is acknowledged before it can end."""


class Lease:
    """Until when our partitions are certainly ours: a session from the last heartbeat that the broker answered.

    Only after that may the group give them to another; or, in a rebalance, when we have not joined again in its time,
    though heartbeats are answered: it began after the last one that found none. The broker does not fence us, so we
    must stop by ourselves.

    >>> lease = Lease(session_s=6.0, rebalance_s=60.0)
    >>> lease.renew(100.0)
    >>> lease.holds(104.0), lease.holds(105.0)
    (True, False)
    >>> lease.renew(147.0, rebalancing=True)
    >>> lease.holds(147.5), lease.holds(148.0)
    (True, False)
    """

    def __init__(self, session_s: float, rebalance_s: float) -> None:
        self._session_s, self._rebalance_s = session_s, rebalance_s
        self._renewed = self._at_rest = -inf

    def renew(self, at: float, *, rebalancing: bool = False) -> None:
        """A heartbeat sent at `at` (seconds) was answered; `rebalancing`: we are asked to join again."""
        self._renewed = max(self._renewed, at)
        if not rebalancing:
            self._at_rest = max(self._at_rest, at)

    def end(self) -> None:
        """The group does not know us any more."""
        self._renewed = -inf

    def holds(self, now: float) -> bool:
        """Whether a write may start at `now`."""
        return now < min(self._renewed + LEASE_SHARE * self._session_s, self._at_rest + LEASE_SHARE * self._rebalance_s)
