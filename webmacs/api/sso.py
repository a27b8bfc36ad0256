"""Single sign-on: the way to an OpenID Connect provider and back. What is believed of its answers is in webmacs/oidc.py.

The browser keeps the secrets of its sign-on sealed in a cookie, so that a state, an answer or a code of another browser leads nowhere. The
session's cookie is SameSite=Strict and would not be sent at the end of a chain of redirects that began at the provider: the way back
therefore ends at a page of ours with a code for 60 s, which the page exchanges for the session.
"""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta
from starlette.responses import RedirectResponse, Response

from webmacs import accounts, clock, keys, logs
from webmacs.api import auth, users
from webmacs.api.auth import Session
from webmacs.http import audit
from webmacs.http.access import Role
from webmacs.http.audit import Actor, Entry
from webmacs.http.problem import Conflict, Problem, Unprocessable, unavailable
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape
from webmacs.oidc import Attempt, Person, Provider, Refused
from webmacs.settings import ROLES, Settings
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection

log = logs.get(__name__)

CALLBACK: Final = "/api/v1/auth/sso/callback"
COOKIE: Final = "webmacs_sso"
COOKIE_PATH: Final = "/api/v1/auth/sso"
SEALED_FOR: Final = b"sso/attempt"
ATTEMPT_S: Final = 600
CODE_S: Final = 60
NEXT_CHARACTERS_MAX: Final = 1_000
"""The sealed cookie stays below the 4,096 bytes that browsers keep."""
LOCAL_PATH: Final = re.compile(r"/(?:[!-.0-\[\]-~][!-~]*)?")
"""A path of this host in ASCII: `//host` and `/\\host` would lead to another."""
USERNAME_CHARACTERS: Final = range(2, 51)
NAMESAKES_MAX: Final = 1_000


class SsoConfig(msgspec.Struct, frozen=True):
    enabled: bool
    provider_name: Annotated[str | None, Meta(description="What the login page calls the provider.")]
    authorize_url: Annotated[str | None, Meta(description="Where a browser begins; `?next=/path` says where to go afterwards.")]


class AuthorizeQuery(Shape, frozen=True):
    next: Annotated[str, Meta(max_length=NEXT_CHARACTERS_MAX, description="A path of this host, where to go after the sign-on.")] = "/"


class CallbackQuery(msgspec.Struct, frozen=True):
    """What providers add besides is left aside."""

    state: Annotated[str, Meta(description="What the browser took along to the provider.")] = ""
    code: Annotated[str, Meta(description="What the provider answers; it is exchanged for an ID token.")] = ""
    error: Annotated[str, Meta(description="Why the provider refused, in place of a code.", examples=["access_denied"])] = ""
    iss: Annotated[str | None, Meta(description="The provider, where it says so (RFC 9207).")] = None


class Code(Shape, frozen=True):
    code: Annotated[str, Meta(max_length=200)]


class LinkIn(Shape, frozen=True):
    next: Annotated[str, Meta(max_length=NEXT_CHARACTERS_MAX, description="A path of this host, where to go afterwards.")] = "/"


class LinkBegun(msgspec.Struct, frozen=True):
    authorize_url: Annotated[str, Meta(description="At the provider; the browser goes there next.")]


class _Kept(msgspec.Struct, frozen=True):
    """What the browser's cookie holds, sealed."""

    state: str
    nonce: str
    verifier: str
    next: str
    expires_us: int
    link: UUID | None = None
    """The session whose user is to be linked; None: somebody signs in."""


@dataclass(frozen=True, slots=True)
class _Account:
    """A user as a sign-on finds it."""

    id: int
    public_id: UUID
    email: str
    username: str
    role: Role
    enabled: bool
    registered_on: datetime


COLUMNS: Final = "u.id, u.public_id, u.email, u.username, u.role, u.enabled, u.registered_on"


def make_provider(settings: Settings) -> Provider | None:
    """None when single sign-on is off."""
    if settings.sso_issuer is None or settings.sso_client_id is None or settings.public_url is None:
        return None
    return Provider(
        issuer=settings.sso_issuer,
        client_id=settings.sso_client_id,
        secret_file=settings.sso_client_secret_file,
        scopes=settings.sso_scopes,
        redirect_uri=settings.public_url + CALLBACK,
        groups_claim=settings.sso_groups_claim if settings.sso_role_mapping else None,
    )


@route("GET", "/api/v1/auth/sso/config")
async def get_sso_config(call: Call) -> SsoConfig:
    """Whether single sign-on is on, what the provider is called, and where a browser begins."""
    if call.parts.provider is None:
        return SsoConfig(False, None, None)
    return SsoConfig(True, call.settings.sso_provider_name, f"{call.settings.public_url}/api/v1/auth/sso/authorize")


@route("GET", "/api/v1/auth/sso/authorize", status=302, problems=("sso-off",))
async def begin_sso(call: Call[None, AuthorizeQuery]) -> Response:
    """Send the browser to the provider. When that cannot be, to the login page with the reason."""
    _check_next("query", call.query.next)
    try:
        return _redirect(*await _begin(call, call.query.next, None))
    except Refused as refused:
        return _to_login(call, refused, call.query.next)


@route("POST", "/api/v1/auth/sso/link", problems=("sso-off",))
async def begin_sso_link(call: Call[LinkIn]) -> LinkBegun:
    """Begin to link one's account to oneself at the provider. The browser goes to the address that is answered, and comes back to `next`
    with `sso_link=linked`, or with the reason why not; from then on the account is opened there, an administrator's too."""
    _check_next("body", call.body.next)
    try:
        url, call.headers["Set-Cookie"] = await _begin(call, call.body.next, call.identity.jti)
    except Refused as refused:
        raise unavailable(f"The provider does not answer as it should ({refused.detail}); try again.") from None
    return LinkBegun(url)


@route("DELETE", "/api/v1/auth/sso/link", problems=(404, 409, "sso-off"), changes="user")
async def delete_sso_link(call: Call) -> None:
    """Unlink one's account from the provider. It is then opened by its password alone; an account without one cannot be unlinked."""
    issuer = _provider(call).issuer
    password_hash = await call.conn.fetchval("SELECT password_hash FROM users WHERE id = $1 FOR NO KEY UPDATE", call.identity.id)
    deleted = await call.conn.fetchval(
        "DELETE FROM sso_identities WHERE user_id = $1 AND issuer = $2 RETURNING true", call.identity.id, issuer
    )
    if deleted is None:
        detail = "This account is not linked to the provider; sso_linked of GET /api/v1/auth/me says whether it is."
        raise Problem(404, "not-found", "Not found", detail)
    if password_hash is None:
        raise Conflict("This account has no password, so nothing would open it; an administrator can give it one.")
    detail = f"sso: unlinked from {issuer}"
    call.entries.append(Entry("update", "user", call.identity.public_id, call.identity.name, detail=detail))


@route("GET", CALLBACK, status=302, problems=("sso-off", 503))
async def end_sso(call: Call[None, CallbackQuery]) -> Response:
    """Take the provider's answer. The browser is sent on to /sso-callback with a code for 60 s, or to the login page with the reason; when
    it is to link an account, to where that began."""
    provider = _provider(call)
    begun = _read_cookie(call)
    try:
        kept = _same_browser(begun, call.query.state)
        await _use_up(call, kept)
        if call.query.error:
            raise Refused("denied" if call.query.error == "access_denied" else "provider", "it refused the sign-on")
        if call.query.iss not in (None, provider.issuer):
            raise Refused("untrusted", "its answer names another issuer")
        person = await provider.identify(call.query.code, Attempt(kept.state, kept.nonce, kept.verifier))
        if kept.link is not None:
            await _link_own(call, provider.issuer, person, kept.link)
            return _linked(call, kept, "linked")
        code = await _admit(call, provider.issuer, person, kept)
    except Refused as refused:
        if begun is not None and begun.link is not None:
            log.info("link_refused", by="sso", reason=refused.reason, detail=refused.detail, address=call.actor.address)
            return _linked(call, begun, refused.reason)
        return _to_login(call, refused, begun.next if begun else "/")
    return _redirect("/sso-callback?" + urlencode({"code": code, "next": kept.next}))


@route("POST", "/api/v1/auth/sso/exchange", problems=("sso-code", "sso-off", 503))
async def exchange_sso_code(call: Call[Code]) -> Session:
    """Exchange the code of /sso-callback for a session, in the browser that began the sign-on. Sets the session's cookie."""
    _provider(call)
    kept = _read_cookie(call)
    if kept is None:
        raise _no_session()
    async with call.pool.acquire() as conn, conn.transaction():
        row = await conn.fetchrow(
            """
            WITH used AS (UPDATE sso_logins SET code_hash = NULL
                           WHERE code_hash = $1 AND state_hash = $2 AND code_expires_on > $3 RETURNING user_id)
            SELECT u.id, u.public_id, u.username FROM used JOIN users u ON u.id = used.user_id WHERE u.enabled FOR NO KEY UPDATE OF u
            """,
            _sha256(call.body.code), _sha256(kept.state), clock.now(),
        )  # fmt: skip
        if row is None:
            raise _no_session()
        await _void_made_password(conn, call, row)
        session = await auth.begin_session(conn, call, row["id"], None, "sso")
    log.info("login", user=str(row["public_id"]), address=call.address, by="sso")
    return session


async def _void_made_password(conn: Connection, call: Call[Code], user: asyncpg.Record) -> None:
    """Of one who has proved at the provider who they are: a password that was made for them would let this session do nothing but choose
    another. Sessions that began with it end, or they would go on without that choice. Call it with the user's row locked."""
    before = await users.read(conn, call.settings.sso_issuer, user["public_id"])
    if not before.must_change_password:
        return
    await _void_password(conn, user["id"])
    await accounts.end_sessions(conn, user["id"])
    after = await users.read(conn, call.settings.sso_issuer, user["public_id"])
    call.changed(before, after, kind="user", name=after.username, detail="sso: the made password is void")
    await _account_for(conn, call, after)


async def _void_password(conn: Connection, user_id: int) -> bool:
    """Whether there was one."""
    void = await conn.fetchval(
        """UPDATE users SET password_hash = NULL, initial_password_until = NULL, password_changed_on = clock_timestamp(),
                            version = version + 1
            WHERE id = $1 AND password_hash IS NOT NULL RETURNING true""",
        user_id,
    )
    return void is not None


async def _account_for(conn: Connection, call: Call[Any, Any], user: "_Account | users.User") -> None:
    """What was changed, by the person themself."""
    actor = Actor("user", user.public_id, user.username, call.actor.address)
    await audit.account(conn, actor, call.request_id, call.entries, call.versions, call.announced)


async def _begin(call: Call[Any, Any], wanted: str, link: UUID | None) -> tuple[str, str]:
    """(the address at the provider, the cookie that the browser keeps meanwhile). Raises Problem and Refused."""
    provider = _provider(call)
    attempt = Attempt(*(secrets.token_urlsafe(32) for _ in range(3)))
    url = await provider.authorize_url(attempt)
    kept = _Kept(attempt.state, attempt.nonce, attempt.verifier, wanted, clock.now_us() + ATTEMPT_S * 1_000_000, link)
    sealed = keys.seal(call.parts.sealing_key, msgspec.json.encode(kept), SEALED_FOR)
    return url, _cookie(call, base64.urlsafe_b64encode(sealed).decode(), ATTEMPT_S)


def _check_next(place: str, wanted: str) -> None:
    """Raises Unprocessable."""
    if not LOCAL_PATH.fullmatch(wanted):
        raise Unprocessable.at(place, "next", msg="It must be a path of this host, as /dashboards, in ASCII.")


def _same_browser(kept: _Kept | None, state: str) -> _Kept:
    """The attempt that this browser keeps, when the answer's state is its own. Raises Refused."""
    if kept is None or not secrets.compare_digest(kept.state.encode(), state.encode()):
        raise Refused("expired", "its state is not of this browser")
    return kept


async def _use_up(call: Call[None, CallbackQuery], kept: _Kept) -> None:
    """A state is used once. Raises Refused."""
    now = clock.now()
    async with call.pool.acquire() as conn, conn.transaction():
        await conn.execute("DELETE FROM sso_logins WHERE state_expires_on < $1", now)
        first = await conn.fetchval(
            "INSERT INTO sso_logins (state_hash, state_expires_on) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true",
            _sha256(kept.state), clock.to_datetime(kept.expires_us),
        )  # fmt: skip
    if not first:
        raise Refused("expired", "its state was used already")


async def _admit(call: Call[None, CallbackQuery], issuer: str, person: Person, kept: _Kept) -> str:
    """Finds or makes the user and the code for its browser. Raises Refused."""
    code = secrets.token_urlsafe(32)
    now = clock.now()
    try:
        async with call.pool.acquire() as conn, conn.transaction():
            account = await _find_or_make(conn, call, issuer, person, now)
            await conn.execute(
                "UPDATE sso_logins SET code_hash = $2, code_expires_on = $3, user_id = $4 WHERE state_hash = $1",
                _sha256(kept.state), _sha256(code), now + timedelta(seconds=CODE_S), account.id,
            )  # fmt: skip
            await _account_for(conn, call, account)
    except asyncpg.UniqueViolationError:
        raise Refused("again", "an account of this name, e-mail or identity was made at the same moment") from None
    finally:
        call.parts.known.forget()  # also when it failed: the answer to a commit may be lost
    return code


async def _link_own(call: Call[None, CallbackQuery], issuer: str, person: Person, session: UUID) -> None:
    """Binds the person to the user who began it in this session, which must not have ended meanwhile. Raises Refused."""
    now = clock.now()
    async with call.pool.acquire() as conn, conn.transaction():
        user = await conn.fetchrow(
            """SELECT u.id, u.public_id, u.username FROM sessions s JOIN users u ON u.id = s.user_id
                WHERE s.jti = $1 AND s.expires_on > $2 AND u.enabled FOR NO KEY UPDATE OF u""",
            session, now,
        )  # fmt: skip
        if user is None:
            raise Refused("expired", "the session that began it has ended")
        made = await conn.fetchval(
            """INSERT INTO sso_identities (issuer, subject, user_id, created_on, last_login_on) VALUES ($1, $2, $3, $4, $4)
               ON CONFLICT DO NOTHING RETURNING true""",
            issuer, person.subject, user["id"], now,
        )  # fmt: skip
        if made is not None:
            entry = Entry("update", "user", user["public_id"], user["username"], detail=f"sso: linked to {issuer} by themself")
            await audit.write(conn, Actor("user", user["public_id"], user["username"], call.actor.address), call.request_id, [entry])
            return
        known = "SELECT user_id FROM sso_identities WHERE issuer = $1 AND subject = $2"
        if await conn.fetchval(known, issuer, person.subject) != user["id"]:
            raise Refused("taken", "the account or the person is linked to another one already")


async def _find_or_make(conn: Connection, call: Call[None, CallbackQuery], issuer: str, person: Person, now: datetime) -> _Account:
    """The person's user, with the role that the groups give. Raises Refused."""
    settings = call.settings
    role = _role_of(settings, person)
    row = await conn.fetchrow(
        f"""WITH known AS (UPDATE sso_identities SET last_login_on = $3 WHERE issuer = $1 AND subject = $2 RETURNING user_id)
            SELECT {COLUMNS} FROM known JOIN users u ON u.id = known.user_id FOR NO KEY UPDATE OF u""",  # noqa: S608
        issuer, person.subject, now,
    )  # fmt: skip
    if row is not None:
        account = _account(row)
    else:
        account = await _link(conn, call, issuer, person, role, now)
    if not account.enabled:
        raise Refused("disabled", f"the account {account.email} is disabled")
    if settings.sso_role_mapping and role != account.role:
        if role is None:
            raise Refused("groups", f"{account.email} is in no group that may sign in")
        if account.role == "admin" and await accounts.is_last_administrator(conn, account.id):
            detail = f"sso: the groups say {role}, but there is no other administrator"
            call.entries.append(Entry("role_kept", "user", account.public_id, account.username, detail=detail))
            log.warning("last_administrator_kept", user=str(account.public_id), groups_say=role)
            return account
        before = await users.read(conn, issuer, account.public_id)
        await conn.execute("UPDATE users SET role = $2, version = version + 1 WHERE id = $1", account.id, role)
        await accounts.end_sessions(conn, account.id)
        after = await users.read(conn, issuer, account.public_id)
        call.changed(before, after, kind="user", name=after.username, detail="sso: role of the groups")
    return account


async def _link(
    conn: Connection, call: Call[None, CallbackQuery], issuer: str, person: Person, role: Role | None, now: datetime
) -> _Account:
    """The user of the verified e-mail, else a new one, bound to this identity from now on. Whoever had the account before may be somebody
    else: their password and their sessions end. Raises Refused."""
    if person.email is None:
        raise Refused("email", "it vouches for no e-mail of a person who is not known here")
    row = await conn.fetchrow(
        f"""SELECT {COLUMNS}, u.email_vouched,
                   EXISTS (SELECT FROM sso_identities i WHERE i.user_id = u.id AND i.issuer = $2) AS linked
              FROM users u WHERE lower(u.email) = lower($1) FOR NO KEY UPDATE OF u""",  # noqa: S608
        person.email, issuer,
    )  # fmt: skip
    before, detail = None, "sso"
    if row is None:
        account = await _create(conn, call.settings, person, role, now)
    else:
        account = _account(row)
        if not account.enabled:
            raise Refused("disabled", f"the account {account.email} is disabled")
        if account.role == "admin":
            raise Refused("admin", f"the account {account.email} is an administrator's, which no e-mail opens")
        ours = await conn.fetchval("SELECT user_id FROM sso_identities WHERE issuer = $1 AND subject = $2", issuer, person.subject)
        if ours == account.id:  # it was made while this waited for the account
            raise Refused("again", "its identity was made at the same moment")
        if row["linked"]:
            raise Refused("taken", f"the account {account.email} belongs to another person of the same provider")
        if not row["email_vouched"]:
            raise Refused("taken", f"the e-mail {account.email} was entered by its user {account.username}, not by an administrator")
        before = await users.read(conn, issuer, account.public_id)
        void = await _void_password(conn, account.id)
        await accounts.end_sessions(conn, account.id)
        detail = f"sso: linked to {issuer} by e-mail" + ("; the password is void" if void else "")
    await conn.execute(
        "INSERT INTO sso_identities (issuer, subject, user_id, created_on, last_login_on) VALUES ($1, $2, $3, $4, $4)",
        issuer, person.subject, account.id, now,
    )  # fmt: skip
    call.changed(before, await users.read(conn, issuer, account.public_id), kind="user", name=account.username, detail=detail)
    return account


async def _create(conn: Connection, settings: Settings, person: Person, role: Role | None, now: datetime) -> _Account:
    """A user without a password. Raises Refused."""
    if not settings.sso_allow_creation:
        raise Refused("unknown", f"there is no account for {person.email}, and sso_allow_creation is off")
    if role is None:
        raise Refused("groups", f"{person.email} is in no group that may sign in")
    row = await conn.fetchrow(
        f"""
        INSERT INTO users AS u (public_id, email, username, role, registered_on)
        SELECT $1, $2, name, $4, $5
          FROM (SELECT n, CASE n WHEN 1 THEN $3 ELSE left($3, 45) || '-' || n END AS name FROM generate_series(1, $6::int) n)
         WHERE NOT EXISTS (SELECT FROM users WHERE username = name)
         ORDER BY n LIMIT 1
        RETURNING {COLUMNS}
        """,  # noqa: S608
        uuid7(), person.email, _username(person), role, now, NAMESAKES_MAX,
    )  # fmt: skip
    if row is None:
        raise Refused("again", f"there are {NAMESAKES_MAX:,} users of this name")
    return _account(row)


def _role_of(settings: Settings, person: Person) -> Role | None:
    """The highest role of the person's groups, else the default; None: may not come in, or not without being known."""
    mapped: list[Role] = []
    for part in settings.sso_role_mapping:
        group, _, role = part.rpartition("=")
        if group in person.groups:
            mapped.append(role)  # type: ignore[arg-type]
    if mapped:
        return max(mapped, key=ROLES.index)
    return None if settings.sso_default_role == "none" else settings.sso_default_role


def _username(person: Person) -> str:
    """What can be shown in a list, from the provider's names or the e-mail."""
    for name in (*person.names, (person.email or "").partition("@")[0]):
        printable = " ".join("".join(char if char.isprintable() else " " for char in name).split())[: USERNAME_CHARACTERS.stop - 1]
        if len(printable) in USERNAME_CHARACTERS:
            return printable
    return "user"


def _account(row: asyncpg.Record) -> _Account:
    values: dict[str, Any] = {name: row[name] for name in _Account.__dataclass_fields__}
    return _Account(**values)


def _provider(call: Call[Any, Any]) -> Provider:
    if call.parts.provider is None:
        raise Problem(
            404, "sso-off", "Single sign-on is off", "No sign-on provider is configured; the setting sso_issuer names one (docs/sso.md)."
        )
    return call.parts.provider


def _read_cookie(call: Call[Any, Any]) -> _Kept | None:
    """None when there is none that is ours and of the last 10 min."""
    try:
        sealed = base64.urlsafe_b64decode(call.request.cookies.get(COOKIE, ""))
        kept = msgspec.json.decode(keys.unseal(call.parts.sealing_key, sealed, SEALED_FOR), type=_Kept)
    except (ValueError, keys.KeyFileError, msgspec.DecodeError):
        return None
    return kept if clock.now_us() < kept.expires_us else None


def _to_login(call: Call[Any, Any], refused: Refused, wanted: str) -> Response:
    log.info("login_refused", by="sso", reason=refused.reason, detail=refused.detail, address=call.actor.address)
    call.parts.refusals.note(call.actor, call.request_id, "login_refused", "session", f"sso: {refused.reason}: {refused.detail}")
    query = {"sso": refused.reason} | ({} if wanted == "/" else {"next": wanted})
    return _redirect("/login?" + urlencode(query), _cookie(call, "", 0))


def _linked(call: Call[Any, Any], kept: _Kept, outcome: str) -> Response:
    """Back to where the linking began."""
    path, mark, fragment = kept.next.partition("#")
    sign = "&" if "?" in path else "?"
    return _redirect(f"{path}{sign}{urlencode({'sso_link': outcome})}{mark}{fragment}", _cookie(call, "", 0))


def _redirect(url: str, cookie: str | None = None) -> Response:
    return RedirectResponse(url, 302, None if cookie is None else {"Set-Cookie": cookie})


def _cookie(call: Call[Any, Any], value: str, max_age_s: int) -> str:
    secure = "; Secure" if call.settings.secure_cookies else ""
    return f"{COOKIE}={value}; Max-Age={max_age_s}; Path={COOKIE_PATH}; HttpOnly; SameSite=Lax{secure}"


def _no_session() -> Problem:
    return Problem(
        401, "sso-code", "Sign-in not finished", "This code was used, has ended, or is of another browser; begin the sign-on again."
    )


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


routes = [get_sso_config, begin_sso, begin_sso_link, delete_sso_link, end_sso, exchange_sso_code]
