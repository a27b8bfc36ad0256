"""OpenID Connect as its client: the requests to the provider of single sign-on, and what of its answers is believed.

webmacs/api/sso.py calls it. The provider's address is the operator's own configuration, so it may lie in a private network; the addresses
that its discovery document names are bound to https unless the operator has configured the issuer itself without.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from webmacs import clock

if TYPE_CHECKING:
    import httpx
    from joserfc.jwk import ECKey, RSAKey

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Signatures with the provider's public key, and no other: neither `none` nor a secret that we would share with it."""
RSA_BITS_MIN: Final = 2048
ANSWER_S_MAX: Final = 8.0
"""For all requests of one step together; the browser waits for it, and a request to us ends after 10 s."""
ANSWER_BYTES_MAX: Final = 64 * 1024
CONNECTIONS_MAX: Final = 10
"""Requests to the provider at once; further ones wait, within ANSWER_S_MAX."""
CACHED_S: Final = 3600.0
"""Discovery document and keys; a token whose key is not among these has them read anew at once."""
SKEW_S: Final = 60
"""How far the provider's clock may be from ours."""
SUBJECT_CHARACTERS_MAX: Final = 255
EMAIL: Final = re.compile(r"(?=.{3,254}$)[!-?A-~]+@[!-?A-~]+")
"""As the table of users takes it, in ASCII: look-alikes of another script are another person's."""

Reason: TypeAlias = Literal[
    "admin", "again", "denied", "disabled", "email", "expired", "groups", "provider", "taken", "unknown", "untrusted",
]  # fmt: skip
"""Why a sign-on was refused; the login page has the words for each."""

T = TypeVar("T")


class Refused(Exception):
    """A sign-on ends here. `detail` is for the log and the audit log: it holds no secret and no text of the provider's making."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the provider vouches for."""

    subject: str
    email: str | None
    """None unless the provider says that it is verified."""
    names: tuple[str, ...]
    """What the person may be called, best first."""
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class Attempt:
    """The secrets of one sign-on, which its browser keeps sealed."""

    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: list[str] | None = None


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str | None = None


class _Keys(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


class Provider:
    """One provider, with its discovery document and keys for an hour."""

    def __init__(
        self, *, issuer: str, client_id: str, secret_file: Path | None, scopes: str, redirect_uri: str, groups_claim: str | None
    ) -> None:
        """`groups_claim` None: nobody's groups are asked for."""
        self.issuer = issuer
        self._client_id = client_id
        self._secret_file = secret_file
        self._scopes = scopes
        self._redirect_uri = redirect_uri
        self._groups_claim = groups_claim
        self._http: httpx.AsyncClient | None = None
        self._discovery: tuple[float, _Discovery] | None = None
        self._keys: tuple[float, list[RSAKey | ECKey]] | None = None
        self._reading = asyncio.Lock()

    async def close(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def authorize_url(self, attempt: Attempt) -> str:
        """Where the browser goes. Raises Refused."""
        async with _in_time():
            discovery = await self._discover()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": self._scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        endpoint = discovery.authorization_endpoint
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}"

    async def identify(self, code: str, attempt: Attempt) -> Person:
        """Exchanges the code that the browser brought back for the person behind it. Raises Refused."""
        async with _in_time():
            discovery = await self._discover()
            tokens = await self._exchange(discovery, code, attempt.verifier)
            claims = await self._verify(discovery, tokens.id_token)
            self._check(claims, attempt.nonce)
            more = await self._ask_userinfo(discovery, tokens, claims)
        return self._person(claims, more)

    async def _discover(self) -> _Discovery:
        async with self._reading:
            if self._discovery is None or self._discovery[0] < clock.monotonic():
                url = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
                found = await self._request("GET", url, _Discovery)
                if found.issuer != self.issuer:
                    raise Refused("provider", "its discovery document names another issuer than the setting sso_issuer; they must be equal")
                for endpoint in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri, found.userinfo_endpoint):
                    if endpoint is not None:
                        self._check_endpoint(endpoint)
                self._discovery = clock.monotonic() + CACHED_S, found
            return self._discovery[1]

    def _check_endpoint(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"https", urlsplit(self.issuer).scheme} and bool(parts.hostname) and not parts.fragment
        except ValueError:
            usable = False
        if not usable:
            raise Refused("provider", "its discovery document names an address that is not https")

    async def _exchange(self, discovery: _Discovery, code: str, verifier: str) -> _Tokens:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": self._redirect_uri, "code_verifier": verifier}
        auth: tuple[str, str] | None = None
        methods = discovery.token_endpoint_auth_methods_supported or ["client_secret_basic"]
        if self._secret_file is None:
            form["client_id"] = self._client_id
        elif "client_secret_basic" not in methods and "client_secret_post" in methods:
            form |= {"client_id": self._client_id, "client_secret": self._read_secret(self._secret_file)}
        else:
            auth = quote(self._client_id, safe=""), quote(self._read_secret(self._secret_file), safe="")
        return await self._request("POST", discovery.token_endpoint, _Tokens, data=form, auth=auth)

    def _read_secret(self, file: Path) -> str:
        """Read at each sign-on, so that a new secret counts at once."""
        try:
            return file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused("provider", f"the file that sso_client_secret_file names cannot be read: {type(error).__name__}") from None

    async def _verify(self, discovery: _Discovery, token: str) -> dict[str, Any]:
        """The claims of an ID token that one of the provider's keys has signed. When none of those known has, they are read anew, once."""
        from joserfc import jws, jwt
        from joserfc.errors import JoseError

        registry = jws.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        try:
            header = jws.extract_compact(token.encode(), registry=registry).headers()
            registry.get_alg(header["alg"])
        except (JoseError, ValueError, KeyError, TypeError, RecursionError):
            raise Refused("untrusted", "its ID token is none, or signed in a way that is not allowed") from None
        kid, kind = header.get("kid"), "EC" if header["alg"].startswith("ES") else "RSA"
        for anew in (False, True):
            for key in await self._read_keys(discovery, anew=anew):
                if key.key_type == kind and kid in (None, key.get("kid")):
                    try:
                        return jwt.decode(token, key, registry=registry).claims
                    except (JoseError, ValueError, RecursionError):
                        continue
        raise Refused("untrusted", "its ID token is signed by none of its keys")

    async def _read_keys(self, discovery: _Discovery, *, anew: bool) -> "list[RSAKey | ECKey]":
        async with self._reading:
            if anew or self._keys is None or self._keys[0] < clock.monotonic():
                read = await self._request("GET", discovery.jwks_uri, _Keys)
                self._keys = clock.monotonic() + CACHED_S, _usable(read.keys)
            return self._keys[1]

    def _check(self, claims: Mapping[str, Any], nonce: str) -> None:
        """Raises Refused unless the token is this provider's, for us, for this sign-on, and of now."""
        now = clock.now_us() / 1e6
        audience, party = claims.get("aud"), claims.get("azp")
        audiences = [audience] if isinstance(audience, str) else audience
        subject = claims.get("sub")
        judged = {
            "iss": claims.get("iss") == self.issuer,
            "aud": isinstance(audiences, list) and self._client_id in audiences,
            "azp": party == self._client_id or (party is None and isinstance(audiences, list) and len(audiences) == 1),
            "sub": isinstance(subject, str) and 0 < len(subject) <= SUBJECT_CHARACTERS_MAX and subject.isprintable(),
            "exp": _is_time(claims.get("exp")) and now < claims["exp"] + SKEW_S,
            "iat": _is_time(claims.get("iat")) and claims["iat"] <= now + SKEW_S,
            "nbf": "nbf" not in claims or (_is_time(claims["nbf"]) and claims["nbf"] <= now + SKEW_S),
            "nonce": claims.get("nonce") == nonce,
        }
        wrong = [claim for claim, right in judged.items() if not right]
        if wrong:
            raise Refused("untrusted", f"its ID token has a wrong {', '.join(wrong)}")

    async def _ask_userinfo(self, discovery: _Discovery, tokens: _Tokens, claims: Mapping[str, Any]) -> dict[str, Any]:
        """What the ID token does not tell of e-mail and groups; empty when it tells all, or when there is nothing to ask."""
        told = {"email", "email_verified"} <= claims.keys() and (self._groups_claim is None or self._groups_claim in claims)
        if told or discovery.userinfo_endpoint is None or tokens.access_token is None:
            return {}
        headers = {"Authorization": f"Bearer {tokens.access_token}"}
        more = await self._request("GET", discovery.userinfo_endpoint, dict[str, Any], headers=headers)
        if more.get("sub") != claims["sub"]:
            raise Refused("untrusted", "its userinfo is about another person than its ID token")
        return more

    def _person(self, claims: Mapping[str, Any], more: Mapping[str, Any]) -> Person:
        about = claims if {"email", "email_verified"} <= claims.keys() else more  # both of one document: they belong together
        email = about.get("email") if about.get("email_verified") is True else None  # "false" is true, as a text
        names = [source.get(name) for name in ("preferred_username", "name") for source in (claims, more)]
        groups: object = None
        if self._groups_claim is not None:
            groups = claims.get(self._groups_claim, more.get(self._groups_claim))
        listed = groups if isinstance(groups, list) else [groups]
        return Person(
            claims["sub"],
            email if isinstance(email, str) and EMAIL.fullmatch(email) else None,
            tuple(name for name in names if isinstance(name, str)),
            frozenset(group for group in listed if isinstance(group, str)),
        )

    async def _request(self, method: str, url: str, kind: type[T], **given: Any) -> T:
        """A bounded answer of status 200, decoded. Raises Refused, which names the address without its query."""
        from httpx import HTTPError, InvalidURL

        if self._http is None:
            self._http = await asyncio.to_thread(self._open)
        where = url.partition("?")[0]
        body = bytearray()
        try:
            async with self._http.stream(method, url, **given) as response:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > ANSWER_BYTES_MAX:
                        raise Refused("provider", f"{where} answered more than {ANSWER_BYTES_MAX:,} bytes")
        except (HTTPError, InvalidURL) as error:
            raise Refused("provider", f"{where} cannot be reached: {type(error).__name__}") from None
        if response.status_code != 200:
            raise Refused("provider", f"{where} answered {response.status_code}{_error_of(body)}")
        try:
            return msgspec.json.decode(bytes(body), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Refused("provider", f"{where} answered what is not the JSON of OpenID Connect") from None

    def _open(self) -> "httpx.AsyncClient":
        """In a thread: reading the certificates of this machine takes some 30 ms."""
        from httpx import AsyncClient, Limits

        return AsyncClient(
            follow_redirects=False,
            timeout=ANSWER_S_MAX,
            limits=Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=0),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "webmacs"},
        )


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            yield
    except TimeoutError:
        raise Refused("provider", f"it did not answer within {ANSWER_S_MAX:g} s") from None


def _usable(keys: list[dict[str, Any]]) -> "list[RSAKey | ECKey]":
    """Those that may sign ID tokens; a set holds others too, as for encryption."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    usable: list[RSAKey | ECKey] = []
    for one in keys:
        if one.get("use", "sig") != "sig" or one.get("alg", ALGORITHMS[0]) not in ALGORITHMS:
            continue
        try:
            if one.get("kty") == "EC":
                usable.append(ECKey.import_key(one))
            elif one.get("kty") == "RSA" and (key := RSAKey.import_key(one)).raw_value.key_size >= RSA_BITS_MIN:
                usable.append(key)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    return usable


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _error_of(body: bytearray) -> str:
    """The OAuth error code in a refusal, as invalid_client; nothing else of the provider's words is passed on."""
    found = re.search(rb'"error"\s*:\s*"([a-z_]{1,40})"', body)
    return f" {found[1].decode()}" if found else ""
