"""Who is asking: sessions, API tokens, source credentials, socket tickets, and from which page. The role is the one in the database,
every time."""

import base64
import hashlib
import ipaddress
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import jwt
from starlette.requests import HTTPConnection

from webmacs import accounts, clock, keys
from webmacs.http import access
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
FRESH_S: Final = 300
"""So long a password counts as given just now."""
TOUCHED_S: Final = 60
"""When a session or a token was used last is known to this: a request does not cost a write."""
COOKIE: Final = "webmacs_session"
WRITE_HEADER: Final = "x-webmacs"
"""A page of another origin cannot send it without being asked first, and CORS is closed."""
MACHINE_PREFIXES: Final = (accounts.CREDENTIAL_PREFIX, accounts.TOKEN_PREFIX)
"""Of sources' credentials and of API tokens."""
SAFE_METHODS: Final = frozenset({"GET", "HEAD"})

ENDED: Final = "This session has ended or its credential is not valid; sign in again."


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as the database knew them when asked: a person in a session or by an API token, or a source with its credential.

    Of a token `id` and `public_id` are its owner's, `role` is its own and at most the owner's. `jti` or `credential_hash` says which
    session or credential it was.
    """

    kind: Literal["user", "token", "kiosk", "source"]
    id: int
    public_id: UUID
    name: str
    role: Role
    jti: UUID | None = None
    expires_on: datetime | None = None
    issued_on: datetime | None = None
    credential_hash: bytes | None = field(default=None, repr=False)
    confirmed_on: datetime | None = None
    """When the password was given last in this session."""
    initial: bool = False
    """The password was made for them: first they choose their own."""
    scopes: frozenset[str] | None = None
    """What a token may; None: whatever the role allows."""
    dashboard: UUID | None = None
    """Of a kiosk token: the dashboard that it opens."""


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


class SessionKeys:
    """The keys of sessions: the one that signs, and after a rotation the former for as long as sessions that it signed may last.

    Their files are looked at each time, so that `webmacs key rotate` counts at once, in every process. Raises keys.KeyFileError.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._seen: object = None
        self._signing = b""
        self._former: tuple[bytes, int] | None = None
        self._read()

    def signing(self) -> bytes:
        self._read()
        return self._signing

    def accepted(self) -> list[bytes]:
        self._read()
        if self._former is None:
            return [self._signing]
        former, rotated_us = self._former
        return [self._signing, former] if clock.now_us() < rotated_us + SESSION_S * 1_000_000 else [self._signing]

    def _read(self) -> None:
        seen = keys.signing_key_state(self._data_dir)
        if seen is None or seen != self._seen:
            former = keys.load_former_signing_key(self._data_dir)
            self._former = None if former is None else (session_key(former[0]), former[1])
            self._signing = session_key(keys.load_or_make_signing_key(self._data_dir))
            self._seen = seen


def issue_token(key: bytes, user: UUID, sessions_valid_from: datetime) -> Token:
    """A new session of 24 h. It never begins before `sessions_valid_from`, whatever the database's clock says."""
    issued_on = max(clock.now(), sessions_valid_from)
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


async def identify(pool: Pool, session_keys: SessionKeys, connection: HTTPConnection, address: str = "") -> Identity | None:
    """Who asks; None when nothing was shown. One round trip. `address` is client_address(...).

    Raises Unauthorized for a credential that is not (any more) valid, Forbidden for a cookie that writes without its header.
    """
    authorization = connection.headers.get("authorization")
    if authorization is not None:
        shown = _shown(authorization)
        if shown.startswith(accounts.CREDENTIAL_PREFIX):
            return await _identify_source(pool, shown)
        if shown.startswith(accounts.TOKEN_PREFIX):
            return await _identify_token(pool, _sha256(shown), address)
        return await _identify_user(pool, *_read_token(session_keys, shown))
    cookie = connection.cookies.get(COOKIE) if connection.scope["type"] == "http" else None
    if not cookie:
        return None
    if connection.scope["method"] not in SAFE_METHODS and connection.headers.get(WRITE_HEADER) != "1":
        raise Forbidden("A change made with the session cookie needs the header X-WebMACS: 1.", "write-header-missing")
    return await _identify_user(pool, *_read_token(session_keys, cookie))


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


def admit(identity: Identity | None, row: Access, scope: str) -> Identity:
    """The caller whom this row of the access table admits; `scope` is access.scope_of(...). Raises Unauthorized or Forbidden."""
    if identity is None:
        raise Unauthorized
    if not row.admits(identity.role):
        needed = f"the role {row.minimum} or above" + (", or a source's credential" if row.source else "")
        raise Forbidden(f"This needs {needed}; you are {identity.role}.")
    if identity.kind == "kiosk":
        if not row.kiosk:
            raise Forbidden("A kiosk token opens its dashboard and nothing else.")
    elif identity.kind == "token":
        if row.session:
            raise Forbidden("This is for a person who is signed in; an API token cannot do it.", "session-needed")
        check_scope(identity, scope, by_name=row.fresh)
    elif identity.kind == "user":
        _admit_session(identity, row)
    return identity


def check_scope(identity: Identity, scope: str, *, by_name: bool = False) -> None:
    """For an API token: of what else a request reads or changes than its address says. Raises Forbidden."""
    if identity.kind == "token" and not access.covers(identity.scopes or frozenset(), scope, by_name=by_name):
        raise Forbidden(f"This token lacks the scope {scope}; make one that has it.", "scope-missing")


def _admit_session(identity: Identity, row: Access) -> None:
    if identity.initial and not row.initial:
        raise Forbidden(
            "Your password was made for you: choose your own first, with PUT /api/v1/auth/me/password.", "password-change-needed"
        )
    if row.fresh and not is_fresh(identity):
        raise Forbidden(
            f"Give your password again, with POST /api/v1/auth/confirm; or sign in again; it then counts for {FRESH_S // 60} min.",
            "password-needed",
        )


def is_fresh(identity: Identity) -> bool:
    """Whether the password was given in this session within FRESH_S."""
    confirmed_on = identity.confirmed_on
    return confirmed_on is not None and clock.now() - confirmed_on <= timedelta(seconds=FRESH_S)


def check_origin(connection: HTTPConnection, settings: Settings) -> None:
    """For sockets and writing requests: a browser must come from our own page or an allowed one. Raises Forbidden.

    Machines send no Origin. The own host is what Host says, and no forwarded header. The cookie is bound to that host.
    """
    origin = connection.headers.get("origin")
    if origin is None or origin in settings.allowed_origins:
        return
    parts = urlsplit(origin)
    schemes = ("https",) if settings.secure_cookies else ("http", "https")
    if parts.scheme in schemes and _bare(parts.netloc) == _bare(connection.headers.get("host", "")):
        return
    raise Forbidden("Pages of other origins may not do this; the setting allowed_origins names those that may.", "foreign-origin")


def client_address(connection: HTTPConnection, settings: Settings) -> str:
    """The address that asks: of limits, the login throttle and the audit log. "" where the transport has none.

    The peer's own, unless the peer is one of `trusted_proxies`: then the last hop in X-Forwarded-For that is none of them. What a client
    writes into that header stands before what proxies append, so it changes nothing.
    """
    client = connection.scope.get("client")
    peer = "" if client is None else client[0]
    if not settings.trusted_proxies or (address := _address(peer)) is None:
        return _spelled(peer)
    told = ",".join(connection.headers.getlist("x-forwarded-for")).split(",")
    while any(address in network for network in settings.trusted_proxies) and told:
        hop = _address(told.pop().strip())
        if hop is None:
            break
        address = hop
    return str(address)


async def make_ticket(conn: Connection, identity: Identity, path: str) -> tuple[str, datetime]:
    """A socket ticket for the session or the API token that asks, and when it ends. Only its SHA-256 is kept."""
    ticket = secrets.token_urlsafe(32)
    expires_on = clock.now() + timedelta(seconds=TICKET_S)
    await conn.execute(
        """INSERT INTO socket_tickets (hash, user_id, jti, session_expires_on, session_issued_on, token_hash, path, expires_on)
           VALUES ($1, $2, $3, CASE WHEN $3::uuid IS NOT NULL THEN $4::timestamptz END, $5, $6, $7, $8)""",
        _sha256(ticket), identity.id, identity.jti, identity.expires_on, identity.issued_on, identity.credential_hash, path, expires_on,
    )  # fmt: skip
    return ticket, expires_on


async def redeem_ticket(pool: Pool, ticket: str, path: str, address: str = "") -> Identity:
    """Who asked for this ticket, which is used up by it, also when it was for another path. Raises Unauthorized."""
    row = await pool.fetchrow(
        """WITH ticket AS (DELETE FROM socket_tickets WHERE hash = $1 RETURNING *)
           SELECT u.public_id AS user, t.* FROM ticket t JOIN users u ON u.id = t.user_id""",
        _sha256(ticket),
    )
    now = clock.now()
    if row is None or row["path"] != path or row["expires_on"] <= now:
        raise Unauthorized("This ticket was used, has ended, or is for another address; ask for a new one.")
    if row["token_hash"] is not None:
        return await _identify_token(pool, row["token_hash"], address)
    if row["session_expires_on"] <= now:
        raise Unauthorized(ENDED)
    return await _identify_user(pool, row["user"], row["jti"], row["session_issued_on"], row["session_expires_on"])


async def find_ended(pool: Pool, identities: Collection[Identity]) -> set[Identity]:
    """Those whose session or credential has ended since: signed out, expired, disabled, deleted, password or role changed.

    One query for all, for the sockets' sweep. A changed role ends sockets, so that they open again under the new one.
    """
    now = clock.now()
    ended = {identity for identity in identities if identity.expires_on is not None and identity.expires_on <= now}
    users = [identity for identity in identities if identity.kind == "user"]
    tokens = [identity for identity in identities if identity.kind in ("token", "kiosk")]
    sources = [identity for identity in identities if identity.kind == "source"]
    if not users and not tokens and not sources:
        return ended
    rows = await pool.fetch(
        """
        SELECT 'user' AS kind, i.n FROM unnest($1::int4[], $2::uuid[], $3::timestamptz[], $4::text[])
               WITH ORDINALITY AS i (id, jti, issued_on, role, n)
         WHERE EXISTS (SELECT FROM blacklist_tokens b WHERE b.jti = i.jti)
            OR NOT EXISTS (SELECT FROM users u
                            WHERE u.id = i.id AND u.enabled AND u.role = i.role AND u.sessions_valid_from <= i.issued_on)
        UNION ALL
        SELECT 'token', i.n FROM unnest($5::bytea[], $6::int4[]) WITH ORDINALITY AS i (hash, rank, n)
         WHERE NOT EXISTS (SELECT FROM api_tokens t JOIN users u ON u.id = t.user_id
                            WHERE t.hash = i.hash AND u.enabled
                              AND least(array_position($7::text[], t.role), array_position($7::text[], u.role)) = i.rank)
        UNION ALL
        SELECT 'source', i.n FROM unnest($8::int4[], $9::bytea[]) WITH ORDINALITY AS i (id, hash, n)
         WHERE NOT EXISTS (SELECT FROM sources s WHERE s.id = i.id AND s.enabled AND s.credential_hash = i.hash)
        """,
        [u.id for u in users], [u.jti for u in users], [u.issued_on for u in users], [u.role for u in users],
        [t.credential_hash for t in tokens], [access.ROLES.index(t.role) + 1 for t in tokens], list(access.ROLES),
        [s.id for s in sources], [s.credential_hash for s in sources],
    )  # fmt: skip
    listed = {"user": users, "token": tokens, "source": sources}
    return ended | {listed[row["kind"]][row["n"] - 1] for row in rows}


async def _identify_source(pool: Pool, credential: str) -> Identity:
    digest = _sha256(credential)
    row = await pool.fetchrow("SELECT id, public_id, name FROM sources WHERE credential_hash = $1 AND enabled", digest)
    if row is None:
        raise Unauthorized("This source credential is not valid; make a new one with `webmacs source add`.")
    return Identity("source", row["id"], row["public_id"], row["name"], "source", credential_hash=digest)


async def _identify_token(pool: Pool, digest: bytes, address: str) -> Identity:
    row = await pool.fetchrow(
        """
        WITH used AS (
            UPDATE api_tokens SET last_used_on = $2, last_address = $3
             WHERE id = (SELECT id FROM api_tokens WHERE hash = $1 AND (last_used_on IS NULL OR last_used_on <= $4)
                            FOR UPDATE SKIP LOCKED))
        SELECT u.id, u.public_id, u.username, u.role AS owner_role, t.name, t.role, t.scopes, t.dashboard_public_id, t.expires_on
          FROM api_tokens t JOIN users u ON u.id = t.user_id
         WHERE t.hash = $1 AND u.enabled AND (t.expires_on IS NULL OR t.expires_on > $2)
        """,
        digest, *_touching(address),
    )  # fmt: skip
    if row is None:
        raise Unauthorized("This API token is not (any more) valid; make a new one.")
    dashboard = row["dashboard_public_id"]
    return Identity(
        "token" if dashboard is None else "kiosk",
        row["id"],
        row["public_id"],
        f"{row['username']} ({row['name']})",
        min(row["role"], row["owner_role"], key=access.ROLES.index),
        expires_on=row["expires_on"],
        credential_hash=digest,
        scopes=frozenset(row["scopes"]),
        dashboard=dashboard,
    )


async def _identify_user(pool: Pool, user: UUID, jti: UUID, issued_on: datetime, expires_on: datetime) -> Identity:
    now, _, before = _touching("")
    row = await pool.fetchrow(
        """
        WITH used AS (
            UPDATE sessions SET last_used_on = $4
             WHERE jti = (SELECT jti FROM sessions WHERE jti = $2 AND last_used_on <= $5 FOR UPDATE SKIP LOCKED))
        SELECT u.id, u.public_id, u.username, u.role, u.initial_password_until IS NOT NULL AS initial, s.confirmed_on
          FROM users u LEFT JOIN sessions s ON s.jti = $2
         WHERE u.public_id = $1 AND u.enabled AND u.sessions_valid_from <= $3
           AND NOT EXISTS (SELECT FROM blacklist_tokens b WHERE b.jti = $2)
        """,
        user, jti, issued_on, now, before,
    )  # fmt: skip
    if row is None:
        raise Unauthorized(ENDED)
    return Identity(
        "user",
        row["id"],
        row["public_id"],
        row["username"],
        row["role"],
        jti,
        expires_on,
        issued_on,
        confirmed_on=row["confirmed_on"],
        initial=row["initial"],
    )


def _touching(address: str) -> tuple[datetime, str, datetime]:
    """(now, address, when a last use is old enough to be written anew)"""
    now = clock.now()
    return now, address, now - timedelta(seconds=TOUCHED_S)


def _read_token(session_keys: SessionKeys, token: str) -> tuple[UUID, UUID, datetime, datetime]:
    """(user, jti, issued, expires). Times are judged by our own clock, not by the library's."""
    try:
        claims = _verified(token, session_keys.accepted())
        issued_us, expires_us = round(float(claims["iat"]) * 1e6), round(float(claims["exp"]) * 1e6)
        read = UUID(claims["sub"]), UUID(claims["jti"]), clock.to_datetime(issued_us), clock.to_datetime(expires_us)
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise Unauthorized(ENDED) from None
    if clock.now_us() >= expires_us:
        raise Unauthorized(ENDED)
    return read


def _verified(token: str, accepted: Iterable[bytes]) -> dict[str, Any]:
    """Its claims. Raises jwt.InvalidTokenError unless one of the keys has signed it and it has them all."""
    refused: jwt.InvalidTokenError = jwt.InvalidSignatureError()
    for key in accepted:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                options={"require": list(CLAIMS), "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidSignatureError as error:
            refused = error
        else:
            return claims
    raise refused


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


@lru_cache(4_096)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IPv4 address also where a socket for both families wrote it as IPv6."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(1024)
def _spelled(peer: str) -> str:
    """In the one spelling of an address; what is none stays."""
    address = _address(peer)
    return peer if address is None else str(address)


def _bare(host: str) -> str:
    """A host and port without the ports that need not be said."""
    return host.lower().removesuffix(":80").removesuffix(":443")
