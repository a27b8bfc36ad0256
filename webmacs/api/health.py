"""How the installation is: alive, and able to store."""

from typing import Literal

import msgspec

from webmacs.http import guard
from webmacs.http.openapi import VERSION
from webmacs.http.problem import Problem
from webmacs.http.route import Call, route
from webmacs.http.shape import Timestamp


class Alive(msgspec.Struct, frozen=True):
    status: Literal["ok"]


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """Strangers see the status alone."""

    status: Literal["ok", "unavailable"]
    version: str | None = None
    storing: bool | None = None
    stored_per_s: float | None = None
    lag_ms: float | None = None
    refused: int | None = None
    since: Timestamp | None = None
    database: Literal["ok", "unreachable"] | None = None


@route("GET", "/health/live")
async def get_liveness(call: Call) -> Alive:
    """Whether the process answers. Never touches the database."""
    return Alive("ok")


@route("GET", "/health", problems=(503,))
async def get_health(call: Call) -> Health:
    """Whether readings can be stored; 503 when not. With a credential also how well."""
    reachable = await call.parts.pulse.answers()
    vitals = call.parts.vitals
    able = reachable and vitals.storing
    call.status = 200 if able else 503
    status: Literal["ok", "unavailable"] = "ok" if able else "unavailable"
    if not reachable or not await _is_known(call):
        return Health(status)
    return Health(status, VERSION, vitals.storing, vitals.stored_per_s, vitals.lag_ms, vitals.refused, vitals.since, "ok")


async def _is_known(call: Call) -> bool:
    try:
        return await guard.identify(call.pool, call.parts.session_keys, call.request, call.address) is not None
    except Problem:
        return False


routes = [get_health, get_liveness]
