"""How much one caller and one address may ask for. Readings have budgets of their own, so that neither a busy gateway keeps people out
nor a busy page the gateway.

An address is counted before anything else is done for it, a caller (a session, an API token, a source) when it is known who that is. The
counts live in memory, in each process its own. No network is exempt; `/health/live` is free.
"""

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Hashable, Set
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from webmacs import clock, logs
from webmacs.http import guard
from webmacs.http.audit import Actor, Refusals
from webmacs.http.guard import Identity
from webmacs.http.problem import Problem, exhausted
from webmacs.settings import Settings

WINDOW_S: Final = 60.0
TRACKED_MAX: Final = 10_000
"""Callers or addresses that a budget remembers; beyond it the one that asked longest ago is forgotten, and begins anew."""
FREE: Final = frozenset({"/health/live"})
FREE_OF_CALLERS: Final = frozenset({("POST", "/api/v1/auth/logout")})
"""Whoever has asked too often can still sign out; the address's budget counts it."""
MB: Final = 1_000_000


class Budget:
    """So much a minute for each of many keys: as much may come at once, and it grows again steadily.

    Kept is one number a key: until when what was spent is paid for at the allowed rate.
    """

    def __init__(self, name: str, what: str, per_minute: int) -> None:
        self._name = name
        self._what = what
        self._per_minute = per_minute
        self._paid: OrderedDict[Hashable, float] = OrderedDict()

    def spend(self, key: Hashable) -> None:
        """One. Raises a 429 when there is none left."""
        now = clock.monotonic()
        after = max(self._paid.get(key, now), now) + WINDOW_S / self._per_minute
        if after - now > WINDOW_S:
            raise self._exhausted(after - now - WINDOW_S)
        self._keep(key, after)

    def charge(self, key: Hashable, amount: int) -> None:
        """What has come already, also beyond what was left: it is paid for before the next."""
        now = clock.monotonic()
        self._keep(key, max(self._paid.get(key, now), now) + amount * WINDOW_S / self._per_minute)

    def check(self, key: Hashable) -> None:
        """Raises a 429 when nothing is left."""
        over_s = self._paid.get(key, 0.0) - clock.monotonic() - WINDOW_S
        if over_s >= 0:
            raise self._exhausted(over_s)

    def _keep(self, key: Hashable, paid: float) -> None:
        self._paid[key] = paid
        self._paid.move_to_end(key)
        if len(self._paid) > TRACKED_MAX:
            self._paid.popitem(last=False)

    def _exhausted(self, wait_s: float) -> Problem:
        seconds = max(1, math.ceil(wait_s))
        return Problem(
            429, "too-many-requests", "Too many requests",
            f"The limit {self._name} of {self._per_minute:,} {self._what} a minute is used up; try again in {seconds} s.",
            headers=exhausted(self._name, self._per_minute, WINDOW_S, seconds),
        )  # fmt: skip


class Limits:
    """Every budget of this process. Each is named after its setting."""

    def __init__(self, settings: Settings) -> None:
        self._callers = Budget("requests_per_minute", "requests of one session, token or source", settings.requests_per_minute)
        self._addresses = Budget("address_requests_per_minute", "requests of one address", settings.address_requests_per_minute)
        self._readings = Budget(
            "readings_requests_per_minute", "requests with readings of one session, token or source", settings.readings_requests_per_minute
        )
        self._address_readings = Budget(
            "address_readings_requests_per_minute", "requests with readings of one address", settings.address_readings_requests_per_minute
        )
        self._bytes = Budget(
            "readings_mb_per_minute", "bytes of readings of one session, token or source", settings.readings_mb_per_minute * MB
        )

    def admit_address(self, address: str, *, readings: bool) -> None:
        """Counts one request. Raises a 429."""
        (self._address_readings if readings else self._addresses).spend(network_of(address))

    def admit_caller(self, caller: Identity, *, readings: bool) -> None:
        """Counts one request. Raises a 429."""
        key = _credential(caller)
        if readings:
            self._bytes.check(key)
            self._readings.spend(key)
        else:
            self._callers.spend(key)

    def charge_readings(self, caller: Identity, size: int) -> None:
        """Counts the bytes of a body with readings, when it has come."""
        self._bytes.charge(_credential(caller), size)


def _credential(caller: Identity) -> Hashable:
    """The session, token or source: two sessions of one person do not share a budget."""
    return caller.kind, caller.id, caller.jti or caller.credential_hash


def network_of(address: str) -> str:
    """Whom an address stands for: an IPv6 host has all of a /64."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    except ValueError:
        return address


class AddressLimits:
    """Counts every request and opening of a socket against its address, before anything else is done for it."""

    def __init__(self, app: ASGIApp, readings: Set[tuple[str, str]]) -> None:
        """`readings` are the routes, (method, path), that have the budget of readings."""
        self._app = app
        self._readings = readings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] not in FREE:
            parts = scope["app"].state.parts
            address = guard.client_address(HTTPConnection(scope), parts.settings)
            try:
                parts.limits.admit_address(address, readings=(scope.get("method", "WS"), scope["path"]) in self._readings)
            except Problem as problem:
                refusals: Refusals = parts.refusals
                actor = Actor("nobody", None, None, address)
                refusals.note(actor, logs.request_id.get(), "refused", "request", problem.detail.partition(";")[0])
                raise
        await self._app(scope, receive, send)
