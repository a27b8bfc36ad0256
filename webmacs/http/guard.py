"""Who is asking: sessions, source credentials, socket tickets, and from which page. The role is the one in the database, every time."""

import base64
import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import jwt
from starlette.requests import HTTPConnection

from webmacs import accounts, clock, keys
from webmacs.http.access import Access, Role
from webmacs.http.problem import Forbidden, Unauthorized
from webmacs.settings import Settings
from webmacs.storage.pool import Connection, Pool

ISSUER: Final = "webmacs"
AUDIENCE: Final = "webmacs"
ALGORITHM: Final = "HS256"
CLAIMS: Final = ("iss", "aud", "sub", "iat", "exp", "jti")
SESSION_S: Final = 24 * 3600
TICKET_S: Final = 30
COOKIE: Final = "webmacs_session"
WRITE_HEADER: Final = "x-webmacs"
"""A page of another origin cannot send it without being asked first, and CORS is closed."""
MACHINE_PREFIXES: Final = (accounts.CREDENTIAL_PREFIX, "wm_")
"""Of sources' credentials and of API tokens."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})

ENDED: Final = "This session has ended or its credential is not valid; sign in again."


@dataclass(frozen=True, slots=True)
class Identity:
    """A user in a session, or a source with its credential, as the database knew it when asked."""

    kind: Literal["user", "source"]
    id: int
    public_id: UUID
    name: str
    role: Role
    jti: UUID | None = None
    expires_on: datetime | None = None
    issued_on: datetime | None = None
    credential_hash: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A session as its holder keeps it."""

    text: str = field(repr=False)
    jti: UUID
    issued_on: datetime
    expires_on: datetime


def session_key(signing_key: bytes) -> bytes:
    """The key that signs sessions."""
    return keys.derive(signing_key, "sessions")


def issue_token(key: bytes, user: UUID, sessions_valid_from: datetime) -> Token:
    """A new session of 24 h. It never begins before `sessions_valid_from`, whatever the database's clock says."""
    issued_on = max(clock.to_datetime(clock.now_us()), sessions_valid_from)
    expires_on = issued_on + timedelta(seconds=SESSION_S)
    jti = uuid4()
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": str(user),
        "iat": clock.from_datetime(issued_on) / 1e6,
        "exp": clock.from_datetime(expires_on) / 1e6,
        "jti": str(jti),
    }
    return Token(jwt.encode(claims, key, ALGORITHM), jti, issued_on, expires_on)


async def identify(pool: Pool, key: bytes, connection: HTTPConnection) -> Identity | None:
    """Who asks; None when nothing was shown. One round trip. `key` is session_key(...).

    Raises Unauthorized for a credential that is not (any more) valid, Forbidden for a cookie that writes without its header.
    """
    authorization = connection.headers.get("authorization")
    if authorization is not None:
        shown = _shown(authorization)
        if shown.startswith(accounts.CREDENTIAL_PREFIX):
            return await _identify_source(pool, shown)
        return await _identify_user(pool, key, shown)
    cookie = connection.cookies.get(COOKIE) if connection.scope["type"] == "http" else None
    if not cookie:
        return None
    if connection.scope["method"] not in SAFE_METHODS and connection.headers.get(WRITE_HEADER) != "1":
        raise Forbidden("A change made with the session cookie needs the header X-WebMACS: 1.", "write-header-missing")
    return await _identify_user(pool, key, cookie)


def _shown(authorization: str) -> str:
    """The credential of `Bearer ...`; machines may say `Token ...`, or Basic with it as the password, too. Raises Unauthorized."""
    scheme, _, shown = authorization.partition(" ")
    shown = shown.strip()
    match scheme.lower():
        case "bearer":
            return shown
        case "token":
            pass
        case "basic":
            try:
                shown = base64.b64decode(shown, validate=True).decode().partition(":")[2]
            except ValueError:
                raise Unauthorized from None
        case _:
            raise Unauthorized
    if not shown.startswith(MACHINE_PREFIXES):  # a browser would send a person's by itself, wherever the request comes from
        raise Unauthorized
    return shown


async def require(pool: Pool, key: bytes, connection: HTTPConnection, access: Access) -> Identity | None:
    """The caller where `access` admits them; None only on what is public. Raises Unauthorized or Forbidden."""
    if access.public:
        return None
    identity = await identify(pool, key, connection)
    return admit(identity, access)


def admit(identity: Identity | None, access: Access) -> Identity:
    if identity is None:
        raise Unauthorized
    if not access.admits(identity.role):
        needed = f"the role {access.minimum} or above" + (", or a source's credential" if access.source else "")
        raise Forbidden(f"This needs {needed}; you are {identity.role}.")
    return identity


def check_origin(connection: HTTPConnection, settings: Settings) -> None:
    """For sockets and writing requests: a browser must come from our own page or an allowed one. Raises Forbidden.

    Machines send no Origin. The own host is what Host says; forwarded headers are not trusted. The cookie is bound to that host.
    """
    origin = connection.headers.get("origin")
    if origin is None or origin in settings.allowed_origins:
        return
    parts = urlsplit(origin)
    schemes = ("https",) if settings.secure_cookies else ("http", "https")
    if parts.scheme in schemes and _bare(parts.netloc) == _bare(connection.headers.get("host", "")):
        return
    raise Forbidden("Pages of other origins may not do this; the setting allowed_origins names those that may.", "foreign-origin")


async def make_ticket(conn: Connection, identity: Identity, path: str) -> tuple[str, datetime]:
    """A socket ticket for the session that asks, and when it ends. Only its SHA-256 is kept; those that have ended are removed."""
    ticket = secrets.token_urlsafe(32)
    now = clock.to_datetime(clock.now_us())
    expires_on = now + timedelta(seconds=TICKET_S)
    await conn.execute("DELETE FROM socket_tickets WHERE expires_on < $1", now)
    await conn.execute(
        """INSERT INTO socket_tickets (hash, user_id, jti, session_expires_on, session_issued_on, path, expires_on)
           VALUES ($1, $2, $3, $4, $5, $6, $7)""",
        _sha256(ticket), identity.id, identity.jti, identity.expires_on, identity.issued_on, path, expires_on,
    )  # fmt: skip
    return ticket, expires_on


async def redeem_ticket(pool: Pool, ticket: str, path: str) -> Identity:
    """The session behind a ticket, which is used up by it, also when it was for another path. Raises Unauthorized."""
    row = await pool.fetchrow(
        """
        WITH ticket AS (DELETE FROM socket_tickets WHERE hash = $1 RETURNING *)
        SELECT u.id, u.public_id, u.username, u.role, t.jti, t.session_expires_on, t.session_issued_on
          FROM ticket t JOIN users u ON u.id = t.user_id
         WHERE t.path = $2 AND t.expires_on > $3 AND t.session_expires_on > $3
           AND u.enabled AND u.sessions_valid_from <= t.session_issued_on
           AND NOT EXISTS (SELECT FROM blacklist_tokens b WHERE b.jti = t.jti)
        """,
        _sha256(ticket), path, clock.to_datetime(clock.now_us()),
    )  # fmt: skip
    if row is None:
        raise Unauthorized("This ticket was used, has ended, or is for another address; ask for a new one.")
    return Identity(
        "user", row["id"], row["public_id"], row["username"], row["role"], row["jti"], row["session_expires_on"], row["session_issued_on"]
    )


async def find_ended(pool: Pool, identities: Collection[Identity]) -> set[Identity]:
    """Those whose session or credential has ended since: signed out, expired, disabled, deleted, password or role changed.

    One query for all, for the sockets' sweep. A changed role ends a session's sockets, so that they open again under the new one.
    """
    now = clock.to_datetime(clock.now_us())
    ended = {identity for identity in identities if identity.expires_on is not None and identity.expires_on <= now}
    users = [identity for identity in identities if identity.kind == "user"]
    sources = [identity for identity in identities if identity.kind == "source"]
    if not users and not sources:
        return ended
    rows = await pool.fetch(
        """
        SELECT true AS of_user, i.n FROM unnest($1::int4[], $2::uuid[], $3::timestamptz[], $4::text[])
               WITH ORDINALITY AS i (id, jti, issued_on, role, n)
         WHERE EXISTS (SELECT FROM blacklist_tokens b WHERE b.jti = i.jti)
            OR NOT EXISTS (SELECT FROM users u
                            WHERE u.id = i.id AND u.enabled AND u.role = i.role AND u.sessions_valid_from <= i.issued_on)
        UNION ALL
        SELECT false, i.n FROM unnest($5::int4[], $6::bytea[]) WITH ORDINALITY AS i (id, hash, n)
         WHERE NOT EXISTS (SELECT FROM sources s WHERE s.id = i.id AND s.enabled AND s.credential_hash = i.hash)
        """,
        [u.id for u in users], [u.jti for u in users], [u.issued_on for u in users], [u.role for u in users],
        [s.id for s in sources], [s.credential_hash for s in sources],
    )  # fmt: skip
    return ended | {(users if row["of_user"] else sources)[row["n"] - 1] for row in rows}


async def _identify_source(pool: Pool, credential: str) -> Identity:
    digest = _sha256(credential)
    row = await pool.fetchrow("SELECT id, public_id, name FROM sources WHERE credential_hash = $1 AND enabled", digest)
    if row is None:
        raise Unauthorized("This source credential is not valid; make a new one with `webmacs source add`.")
    return Identity("source", row["id"], row["public_id"], row["name"], "source", credential_hash=digest)


async def _identify_user(pool: Pool, key: bytes, token: str) -> Identity:
    user, jti, issued_on, expires_on = _read_token(key, token)
    row = await pool.fetchrow(
        """
        SELECT id, public_id, username, role FROM users
         WHERE public_id = $1 AND enabled AND sessions_valid_from <= $3
           AND NOT EXISTS (SELECT FROM blacklist_tokens WHERE jti = $2)
        """,
        user, jti, issued_on,
    )  # fmt: skip
    if row is None:
        raise Unauthorized(ENDED)
    return Identity("user", row["id"], row["public_id"], row["username"], row["role"], jti, expires_on, issued_on)


def _read_token(key: bytes, token: str) -> tuple[UUID, UUID, datetime, datetime]:
    """(user, jti, issued, expires). Times are judged by our own clock, not by the library's."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"require": list(CLAIMS), "verify_exp": False, "verify_iat": False},
        )
        issued_us, expires_us = round(float(claims["iat"]) * 1e6), round(float(claims["exp"]) * 1e6)
        read = UUID(claims["sub"]), UUID(claims["jti"]), clock.to_datetime(issued_us), clock.to_datetime(expires_us)
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise Unauthorized(ENDED) from None
    if clock.now_us() >= expires_us:
        raise Unauthorized(ENDED)
    return read


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _bare(host: str) -> str:
    """A host and port without the ports that need not be said."""
    return host.lower().removesuffix(":80").removesuffix(":443")
