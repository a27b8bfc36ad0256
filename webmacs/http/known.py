"""Callers that were identified a moment ago: a page's next request, or a machine's, does not ask the database again who it is.

What is withdrawn counts at once where it was withdrawn through this process, and everywhere after KEPT_S.
"""

from collections import OrderedDict
from typing import Final

from starlette.requests import HTTPConnection

from webmacs import clock
from webmacs.http import guard
from webmacs.http.guard import Identity, SessionKeys
from webmacs.storage.pool import Pool

KEPT_S: Final = 2.0
"""A withdrawn credential stops within 5 s, whoever withdrew it: another process, the command line, the database's owner."""
KEPT_MAX: Final = 10_000
"""Credentials; beyond it the one that was identified longest ago is forgotten."""


class Known:
    def __init__(self, pool: Pool, session_keys: SessionKeys) -> None:
        self._pool = pool
        self._session_keys = session_keys
        self._kept: OrderedDict[tuple[str, str], tuple[Identity, float]] = OrderedDict()
        self._withdrawals = 0

    def recall(self, connection: HTTPConnection) -> Identity | None:
        """Who asks, when that is still known."""
        shown = _shown(connection)
        kept = None if shown is None else self._kept.get(shown)
        return None if kept is None or clock.monotonic() >= kept[1] else kept[0]

    async def identify(self, connection: HTTPConnection, address: str) -> Identity | None:
        """As guard.identify; whom it finds is known for a while, but for a change by cookie, which needs its header each time."""
        shown, withdrawals = _shown(connection), self._withdrawals
        identity = await guard.identify(self._pool, self._session_keys, connection, address)
        if shown is not None and identity is not None and withdrawals == self._withdrawals:  # else it was perhaps read before one of them
            self._keep(shown, identity)
        return identity

    def forget(self) -> None:
        """Called after everything that may have withdrawn something: nobody is known any more."""
        self._withdrawals += 1
        self._kept.clear()

    def _keep(self, shown: tuple[str, str], identity: Identity) -> None:
        kept_s = KEPT_S
        if identity.expires_on is not None:
            kept_s = min(kept_s, (clock.from_datetime(identity.expires_on) - clock.now_us()) / 1e6)
        self._kept[shown] = (identity, clock.monotonic() + kept_s)
        self._kept.move_to_end(shown)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)


def _shown(connection: HTTPConnection) -> tuple[str, str] | None:
    """What identifies the caller, and where it stands."""
    authorization = connection.headers.get("authorization")
    if authorization is not None:
        return "authorization", authorization
    if connection.scope["type"] == "http" and connection.scope["method"] in guard.SAFE_METHODS:
        cookie = connection.cookies.get(guard.COOKIE)
        return None if cookie is None else ("cookie", cookie)
    return None
