"""The one place where parts meet: routes, middleware, and what lives as long as the process."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Page

from webmacs import accounts, keys, live
from webmacs.api import (
    annotations,
    audit,
    auth,
    configuration,
    dashboards,
    datapoints,
    experiments,
    gaps,
    health,
    jobs,
    logging,
    metrics,
    ota,
    rules,
    sessions,
    sources,
    sso,
    tokens,
    users,
    versions,
    webhooks,
    write,
)
from webmacs.api import settings as plant_settings
from webmacs.api.events import bulk, event, sheet
from webmacs.api.plugins import channels, instances, packages
from webmacs.fanout.stream import datapoints_stream
from webmacs.http import access, guard, openapi, problem_pages, static
from webmacs.http.audit import Refusals
from webmacs.http.compression import Compression
from webmacs.http.envelope import Envelope
from webmacs.http.known import Known
from webmacs.http.limits import AddressLimits, Limits
from webmacs.http.passwords import LoginThrottle, Passwords
from webmacs.http.problem import bug, problem_of, render
from webmacs.http.route import Parts, compose
from webmacs.settings import Settings
from webmacs.storage import pool as database
from webmacs.storage.vitals import Pulse, Vitals
from webmacs.telemetry.socket import telemetry_socket

ROUTES: Final = [
    *audit.routes,
    *auth.routes,
    *sso.routes,
    *sessions.routes,
    *tokens.routes,
    *users.routes,
    *event.routes,
    *bulk.routes,
    *sheet.routes,
    *experiments.routes,
    *annotations.routes,
    *datapoints.routes,
    *write.routes,
    *sources.routes,
    *gaps.routes,
    *health.routes,
    *jobs.routes,
    *plant_settings.routes,
    *metrics.routes,
    *instances.routes,
    *channels.routes,
    *packages.routes,
    *logging.routes,
    *rules.routes,
    *webhooks.routes,
    *ota.routes,
    *dashboards.routes,
    *configuration.routes,
    *versions.routes,
]
SOCKETS: Final = [telemetry_socket, datapoints_stream]
PAGES: Final = [("GET", "/openapi.json"), *problem_pages.ROUTES, *static.ROUTES]


def create_app(settings: Settings) -> Starlette:
    """The whole backend. Raises access.AccessError when the access table and the routes differ."""
    access.check([*((one.method, one.path) for one in ROUTES), *(("WS", one.path) for one in SOCKETS), *PAGES])
    document = openapi.encode(ROUTES, SOCKETS)

    async def refuse(request: Request, error: Exception) -> Response:
        return render(problem_of(error) or bug())

    async def describe(request: Request) -> Response:
        return Response(document, media_type="application/json")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        installation_key = keys.load_or_make_installation_key(settings.data_dir)
        dsn = settings.database_url or ""
        pool = await database.open_pool(dsn, settings.database_pool_size)
        passwords, vitals = Passwords(accounts.password_key(installation_key)), Vitals()
        refusals = Refusals()
        provider = sso.make_provider(settings)
        session_keys = guard.SessionKeys(settings.data_dir)
        app.state.parts = Parts(
            settings,
            pool,
            session_keys,
            Known(pool, session_keys),
            keys.derive(installation_key, "sealing"),
            refusals,
            Limits(settings),
            passwords,
            LoginThrottle(),
            vitals,
            Pulse(pool),
            provider,
        )
        try:
            async with live.run(app, pool, dsn, vitals, refusals):
                _settle_memory()
                yield
        finally:
            passwords.close()
            if provider is not None:
                await provider.close()
            await pool.close()

    app = Starlette(
        routes=[*compose(ROUTES, SOCKETS), Page("/openapi.json", describe, methods=["GET"]), *problem_pages.routes(), *static.routes()],
        middleware=[
            Middleware(Envelope, settings=settings),
            Middleware(AddressLimits, readings={(one.method, one.path) for one in ROUTES if one.readings}),
            Middleware(Compression),
        ],
        exception_handlers={HTTPException: refuse},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # it would lead to whatever host the request names
    return app


def _settle_memory() -> None:
    """What was made until now stays as long as the process. Python's collector need not walk over it twice a second under load: that
    stopped everything for 40 ms each time."""
    gc.collect()
    gc.freeze()
