"""API tokens: what a program shows in place of a person, with scopes and an end of its own. A kiosk token shows one dashboard."""

from datetime import timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta

from webmacs import accounts, clock
from webmacs.http import access, kiosk
from webmacs.http.access import ROLES
from webmacs.http.guard import Identity
from webmacs.http.page import Page, PageQuery, fetch_page
from webmacs.http.problem import Conflict, Forbidden, NotFound, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import NAME, Shape, Timestamp, of_row
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection

TOKENS_MAX: Final = 100
"""Of a user."""
KEPT_MAX: Final = timedelta(days=3_653)
Scope = Annotated[str, Meta(max_length=100, examples=["read", "datapoints:write"])]


class TokenIn(Shape, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=NAME, examples=["nightly report"])]
    scopes: Annotated[
        list[Scope],
        Meta(max_length=100, description="`read`, `write` (both: whatever the role allows), or of one resource, as `events:write`."),
    ] = msgspec.field(default_factory=lambda: ["read"])
    role: Annotated[Literal["viewer", "operator", "admin"] | None, Meta(description="At most the owner's, which null is.")] = None
    expires_on: Annotated[Timestamp | None, Meta(description="null: it lasts until it is deleted.")] = None
    dashboard_public_id: Annotated[
        UUID | None, Meta(description="Makes a kiosk token: it opens this dashboard, read-only, and nothing else, whatever its scopes.")
    ] = None


class ApiToken(msgspec.Struct, frozen=True):
    public_id: UUID
    name: str
    owner: Annotated[str, Meta(description="The user's name.")]
    role: Annotated[Literal["viewer", "operator", "admin"], Meta(description="What it counts for now: at most its owner's role.")]
    scopes: list[str]
    dashboard_public_id: UUID | None
    created_on: Timestamp
    expires_on: Timestamp | None
    last_used_on: Annotated[Timestamp | None, Meta(description="To the minute.")]
    last_address: str | None


class ApiTokenCreated(ApiToken, frozen=True):
    token: Annotated[str, Meta(description="Shown this once; only its SHA-256 is kept.")]


class TokensQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name", "created_on", "-created_on", "expires_on", "-expires_on", "last_used_on", "-last_used_on"] = "name"
    all: Annotated[bool, Meta(description="Of everybody, for an administrator.")] = False
    user: Annotated[UUID | None, Meta(description="Of this user, for an administrator.")] = None


SELECT: Final = """
    SELECT t.id, t.public_id, t.name, u.username AS owner, t.scopes, t.dashboard_public_id, t.created_on, t.expires_on, t.last_used_on,
           t.last_address, (ARRAY['viewer', 'operator', 'admin'])[
               least(array_position(ARRAY['viewer', 'operator', 'admin'], t.role),
                     array_position(ARRAY['viewer', 'operator', 'admin'], u.role))] AS role
      FROM api_tokens t JOIN users u ON u.id = t.user_id
"""


@route("GET", "/api/v1/tokens")
async def list_tokens(call: Call[None, TokensQuery]) -> Page[ApiToken]:
    """List API tokens: one's own; an administrator may see everybody's."""
    query = call.query
    if (query.all or query.user is not None) and call.identity.role != "admin":
        raise Forbidden("Only an administrator sees the tokens of others; leave out `all` and `user`.")
    matching = (
        SELECT + " WHERE strpos(lower(t.name), lower($1)) > 0 AND ($2 OR u.public_id = coalesce($3, u.public_id) AND ($3 IS NOT NULL"
        " OR u.id = $4))"
    )
    arguments = [query.search, query.all and query.user is None, query.user, call.identity.id]
    total, rows = await fetch_page(call.pool, matching, arguments, query, query.sort)
    return Page(query.page, query.page_size, total, [_token(row) for row in rows])


SHOWN_BY_KIOSK: Final = ("dashboards:read", "datapoints:read", "events:read")


@route("POST", "/api/v1/tokens", status=201, problems=(409,), changes="token")
async def create_token(call: Call[TokenIn]) -> ApiTokenCreated:
    """Create an API token. It is in this answer and nowhere else; a program sends it as `Authorization: Bearer`."""
    new, now = call.body, clock.now()
    kiosk_token = new.dashboard_public_id is not None
    role = "viewer" if kiosk_token else new.role or call.identity.role
    scopes = [] if kiosk_token else sorted(set(new.scopes))
    _check(new, scopes, role, call.identity)
    if new.expires_on is not None and not now < new.expires_on < now + KEPT_MAX:
        raise Unprocessable.at("body", "expires_on", msg="It lies in the future, within ten years.")
    if new.dashboard_public_id is not None and not await kiosk.sees(call.conn, call.identity.id, new.dashboard_public_id):
        raise Unprocessable.at("body", "dashboard_public_id", msg="There is no such dashboard, or you do not see it.")
    await call.conn.execute("SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE", call.identity.id)
    if await call.conn.fetchval("SELECT count(*) FROM api_tokens WHERE user_id = $1", call.identity.id) >= TOKENS_MAX:
        raise Conflict(f"A user has at most {TOKENS_MAX} API tokens; delete one that is not used any more.")
    public_id, plain = uuid7(), accounts.new_token()
    await call.conn.execute(
        """INSERT INTO api_tokens (public_id, user_id, name, hash, role, scopes, dashboard_public_id, created_on, expires_on)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)""",
        public_id, call.identity.id, new.name, accounts.credential_hash(plain), role, scopes, new.dashboard_public_id, now,
        new.expires_on,
    )  # fmt: skip
    token = await _read(call.conn, public_id, call.identity)
    call.changed(None, token, "access")
    return ApiTokenCreated(**msgspec.structs.asdict(token), token=call.shown_once(plain))


@route("DELETE", "/api/v1/tokens/{public_id}", changes="token")
async def delete_token(call: Call) -> None:
    """Delete an API token. It is void at once, and its sockets end within 5 s."""
    before = await _read(call.conn, call.public_id, call.identity)
    await call.conn.execute("DELETE FROM api_tokens WHERE public_id = $1", call.public_id)
    call.changed(before, None, "access")


def _check(new: TokenIn, scopes: list[str], role: str, asking: Identity) -> None:
    """Raises Unprocessable: nobody gives more than they have."""
    if ROLES.index(role) > ROLES.index(asking.role):
        raise Unprocessable.at("body", "role", msg=f"It must not be above your own, {asking.role}.")
    known = access.scopes()
    for index, scope in enumerate(new.scopes):
        if scope not in known:
            raise Unprocessable.at("body", "scopes", index, msg=f"There is no such scope; there are {', '.join(known)}.")
    if asking.scopes is not None and not set(scopes) <= asking.scopes:
        raise Unprocessable.at("body", "scopes", msg=f"A token gives only what it has: {', '.join(sorted(asking.scopes))}.")
    if new.dashboard_public_id is not None and asking.scopes is not None:
        lacking = [scope for scope in SHOWN_BY_KIOSK if not access.covers(asking.scopes, scope, by_name=False)]
        if lacking:
            raise Unprocessable.at("body", "dashboard_public_id", msg=f"A kiosk would show more than you may: {', '.join(lacking)}.")
    end = asking.expires_on if asking.scopes is not None else None  # a session's end is not the tokens' that its person makes
    if end is not None and (new.expires_on is None or new.expires_on > end):
        raise Unprocessable.at("body", "expires_on", msg=f"A token makes none that lasts longer than itself: at most {end.isoformat()}.")
    if not scopes and new.dashboard_public_id is None:
        raise Unprocessable.at("body", "scopes", msg="A token without a scope could do nothing; give one, as read.")


async def _read(conn: Connection, public_id: UUID, asking: Identity) -> ApiToken:
    """Raises NotFound, also for another user's when no administrator asks."""
    row = await conn.fetchrow(SELECT + " WHERE t.public_id = $1 AND (t.user_id = $2 OR $3)", public_id, asking.id, asking.role == "admin")
    if row is None:
        raise NotFound("token")
    return _token(row)


def _token(row: asyncpg.Record) -> ApiToken:
    return of_row(ApiToken, row)


routes = [list_tokens, create_token, delete_token]
