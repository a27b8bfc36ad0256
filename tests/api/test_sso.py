"""Single sign-on from the login page to the session, with a provider that is strict, and one that misbehaves."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey
from parts import provider as parts
from parts.provider import Answer, Provider
from parts.rest import PASSWORD, Rest, serve

from webmacs import oidc
from webmacs.api import sso
from webmacs.http import guard

HERE = "http://webmacs.test"
AUTHORIZE = "/api/v1/auth/sso/authorize"
EXCHANGE = "/api/v1/auth/sso/exchange"
LINK = "/api/v1/auth/sso/link"
FRONTEND = Path(__file__).parents[2] / "frontend" / "src"


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    with parts.provider() as provider:
        yield provider


@pytest.fixture(scope="module")
async def plant(module_database: str, tmp_path_factory: pytest.TempPathFactory, running: Provider) -> AsyncIterator[Rest]:
    folder = tmp_path_factory.mktemp("sso")
    (folder / "secret").write_text(parts.SECRET + "\n")
    given = {
        "public_url": HERE,
        "sso_issuer": running.issuer,
        "sso_client_id": parts.CLIENT_ID,
        "sso_client_secret_file": folder / "secret",
        "sso_allow_creation": True,
    }
    async with serve(module_database, folder, **given) as served:
        yield served


@pytest.fixture
async def provider(running: Provider, plant: Rest) -> AsyncIterator[Provider]:
    """Well-behaved again, with a plant that knows nobody of it and has read nothing of it."""
    running.__dict__.update(Provider(running.issuer, closing=running.closing).__dict__)
    settings = plant.app.state.parts.settings
    configure(plant)
    async with plant.connection() as conn:
        await conn.execute("DELETE FROM sso_identities")
        await conn.execute("DELETE FROM users WHERE username NOT IN ('viewer', 'operator', 'admin')")
        await conn.execute("UPDATE users SET enabled = true, role = username")
    yield running
    plant.app.state.parts.settings = settings


def configure(plant: Rest, **settings: Any) -> None:
    """A provider that has cached nothing, under changed settings."""
    own = plant.app.state.parts
    own.settings = own.settings.model_copy(update=settings)
    own.provider = sso.make_provider(own.settings)


async def begin(client: httpx.AsyncClient, path: str = "/") -> str:
    """The address at the provider to which the browser is sent."""
    answer = await client.get(AUTHORIZE, params={"next": path})
    assert answer.status_code == 302
    return answer.headers["location"]


async def approve(url: str) -> str:
    """What the browser does at the provider; the address to which it is sent back."""
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(url)
    assert answer.status_code == 302
    return answer.headers["location"]


async def come_back(client: httpx.AsyncClient, path: str = "/") -> str:
    """The whole way to the provider and back; where it ends: /sso-callback?code=... or /login?sso=..."""
    answer = await client.get(await approve(await begin(client, path)))
    assert answer.status_code == 302
    return answer.headers["location"]


async def exchange(client: httpx.AsyncClient, end: str) -> httpx.Response:
    return await client.post(EXCHANGE, json={"code": parse_qs(urlsplit(end).query)["code"][0]})


async def sign_on(plant: Rest) -> dict[str, Any]:
    """The user that a new browser becomes."""
    async with plant.client() as client:
        end = await come_back(client)
        assert end.startswith("/sso-callback?"), end
        session = await exchange(client, end)
    assert session.status_code == 200
    user: dict[str, Any] = session.json()["user"]
    return user


async def refusal(plant: Rest) -> str:
    """The reason for which a new browser is sent back to the login."""
    async with plant.client() as client:
        end = await come_back(client)
    assert end.startswith("/login?sso="), end
    return end.removeprefix("/login?sso=")


async def test_the_way_to_the_provider_and_back_ends_in_a_session(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client:
        config = (await client.get("/api/v1/auth/sso/config")).json()
        assert config == {"enabled": True, "provider_name": "single sign-on", "authorize_url": HERE + AUTHORIZE}
        begun = await client.get(config["authorize_url"], params={"next": "/?range=1h"})
        cookie = begun.headers["set-cookie"]
        for part in ("webmacs_sso=", "HttpOnly", "SameSite=Lax", "Path=/api/v1/auth/sso", "Max-Age=600"):
            assert part in cookie
        back = await client.get(await approve(begun.headers["location"]))
        end = urlsplit(back.headers["location"])
        assert (end.netloc, end.path, parse_qs(end.query)["next"]) == ("", "/sso-callback", ["/?range=1h"])
        session = await exchange(client, back.headers["location"])
        assert "SameSite=Strict" in session.headers["set-cookie"]
        user = session.json()["user"]
        assert (user["email"], user["username"], user["role"]) == ("alice@example.org", "alice", "viewer")
        assert (await client.get("/api/v1/auth/me")).json() == user
    assert (await sign_on(plant))["public_id"] == user["public_id"]


async def test_the_browser_carries_no_secret_of_the_sign_on_that_can_be_read(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client:
        asked = parse_qs(urlsplit(await begin(client)).query)
        cookie = client.cookies["webmacs_sso"]
    kept = base64.urlsafe_b64decode(cookie)
    assert asked["state"][0].encode() not in kept
    assert asked["nonce"][0].encode() not in kept
    assert asked["code_challenge_method"] == ["S256"]
    assert "code_verifier" not in asked


async def test_without_an_issuer_single_sign_on_is_off(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_issuer=None)
    async with plant.client() as client:
        config = (await client.get("/api/v1/auth/sso/config")).json()
        answers = [await client.get(AUTHORIZE), await client.get(sso.CALLBACK), await client.post(EXCHANGE, json={"code": "x"})]
    assert config == {"enabled": False, "provider_name": None, "authorize_url": None}
    assert [(answer.status_code, answer.json()["type"]) for answer in answers] == [(404, "/problems/sso-off")] * 3


@pytest.mark.parametrize(
    "path",
    ["//elsewhere.example", "/\\elsewhere.example", "https://elsewhere.example", "", "x", "/a\r\nSet-Cookie: a=b", "/" + "a" * 1_000],
)
async def test_the_way_back_never_leads_to_another_host(plant: Rest, provider: Provider, path: str) -> None:
    async with plant.client() as client:
        answer = await client.get(AUTHORIZE, params={"next": path})
    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


async def test_the_longest_way_back_still_fits_in_a_cookie(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client:
        answer = await client.get(AUTHORIZE, params={"next": "/" + '"' * 999})
    assert len(answer.headers["set-cookie"]) < 4_096


# the browser


async def test_a_state_of_another_browser_is_refused(plant: Rest, provider: Provider) -> None:
    async with plant.client() as attacker, plant.client() as victim:
        back = await approve(await begin(attacker))
        await begin(victim)
        assert (await victim.get(back)).headers["location"] == "/login?sso=expired"
        async with plant.client() as stranger:
            assert (await stranger.get(back)).headers["location"] == "/login?sso=expired"
    assert "/token" not in provider.asked


async def test_a_wrong_state_is_refused_before_the_provider_is_asked(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client:
        back = await approve(await begin(client))
        for wrong in (back.replace("state=", "state=x"), back.replace("state=", "stat="), sso.CALLBACK):
            assert (await client.get(wrong)).headers["location"] == "/login?sso=expired"
    assert "/token" not in provider.asked


async def test_a_state_is_used_once(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client:
        back = await approve(await begin(client))
        cookies = dict(client.cookies)
        assert (await client.get(back)).headers["location"].startswith("/sso-callback?")
        client.cookies.clear()
        again = await client.get(back, headers={"Cookie": f"webmacs_sso={cookies['webmacs_sso']}"})
    assert again.headers["location"] == "/login?sso=expired"
    assert provider.asked.count("/token") == 1


async def test_a_state_ends_after_ten_minutes(plant: Rest, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    async with plant.client() as client:
        back = await approve(await begin(client))
        now = sso.clock.now_us()
        monkeypatch.setattr(sso.clock, "now_us", lambda: now + 600_000_000)
        assert (await client.get(back)).headers["location"] == "/login?sso=expired"


async def test_a_code_becomes_a_session_once_and_in_its_browser_only(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client, plant.client() as other:
        end = await come_back(client)
        await begin(other)
        async with plant.client() as stranger:
            assert (await exchange(stranger, end)).status_code == 401
        assert (await exchange(other, end)).status_code == 401
        assert (await exchange(client, end.replace("code=", "code=x"))).status_code == 401
        assert (await exchange(client, end)).status_code == 200
        again = await exchange(client, end)
    assert (again.status_code, again.json()["type"]) == (401, "/problems/sso-code")
    assert guard.COOKIE not in again.headers.get("set-cookie", "")


async def test_a_code_ends_after_a_minute(plant: Rest, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    async with plant.client() as client:
        end = await come_back(client)
        now = sso.clock.now_us()
        monkeypatch.setattr(sso.clock, "now_us", lambda: now + 61_000_000)
        assert (await exchange(client, end)).status_code == 401


async def test_the_database_holds_neither_state_nor_code(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client:
        state = parse_qs(urlsplit(await begin(client)).query)["state"][0]
        code = parse_qs(urlsplit(await come_back(client)).query)["code"][0]
    async with plant.connection() as conn:
        rows = repr(await conn.fetch("SELECT * FROM sso_logins"))
    assert state not in rows
    assert code not in rows


async def test_the_provider_gives_nothing_for_the_verifier_of_another_sign_on(plant: Rest, provider: Provider) -> None:
    """What PKCE is for: a code that was caught leads nowhere."""
    async with plant.client() as client, plant.client() as victim:
        caught = parse_qs(urlsplit(await approve(await begin(victim))).query)["code"][0]
        own = parse_qs(urlsplit(await begin(client)).query)["state"][0]
        answer = await client.get(sso.CALLBACK, params={"code": caught, "state": own})
    assert answer.headers["location"] == "/login?sso=provider"


# the ID token


def signed(claims: dict[str, Any], key: Any, **header: str) -> str:
    header = {"alg": "RS256", **header}
    return jws.serialize_compact(header, json.dumps(claims), key, algorithms=[header["alg"]])


def unsigned(claims: dict[str, Any]) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "none"}, claims)]
    return ".".join([*parts, ""])


def with_public_key(claims: dict[str, Any]) -> str:
    """HS256, whose secret is what everybody knows: the classic confusion of algorithms."""
    public = parts.rsa_key("first").as_pem(private=False)
    return signed(claims, OctKey.import_key(base64.b64encode(public)), alg="HS256", kid="first")


def by_a_stranger(claims: dict[str, Any]) -> str:
    return signed(claims, parts.rsa_key("stranger"), kid="first")


def altered(claims: dict[str, Any]) -> str:
    head, _, signature = signed(claims, parts.rsa_key("first"), kid="first").split(".")
    return f"{head}.{base64.urlsafe_b64encode(json.dumps(claims | {'sub': 'admin'}).encode()).rstrip(b'=').decode()}.{signature}"


def with_header(header: object) -> Any:
    encoded = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return lambda claims: f"{encoded}.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.eA"


@pytest.mark.parametrize(
    "sign",
    [
        unsigned, with_public_key, by_a_stranger, altered, lambda claims: "", lambda claims: "a.b.c", lambda claims: "ä.ö.ü",
        with_header([]), with_header("RS256"), with_header({"alg": ["RS256"]}), with_header({"alg": "RS256", "kid": []}),
        with_header({"alg": "RS256", "crit": ["x"], "x": 1}), with_header({"kid": "first"}), with_header({"alg": "ES256", "kid": "first"}),
    ],
)  # fmt: skip
async def test_an_id_token_that_the_provider_has_not_signed_is_refused(plant: Rest, provider: Provider, sign: Any) -> None:
    provider.sign = sign
    assert await refusal(plant) == "untrusted"


NOW = int(time.time())


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere.example"}, {"iss": None}, {"aud": "another"}, {"aud": None}, {"aud": []}, {"aud": {"webmacs": 1}},
        {"aud": ["webmacs", "another"]}, {"azp": "another"}, {"aud": ["webmacs", "another"], "azp": "another"}, {"nonce": "x"},
        {"nonce": None}, {"nonce": "\ud800"}, {"exp": NOW - 61}, {"exp": None}, {"exp": "never"}, {"exp": True}, {"iat": NOW + 1_000},
        {"iat": None}, {"nbf": NOW + 1_000}, {"sub": None}, {"sub": ""}, {"sub": "a" * 256}, {"sub": "\0"}, {"sub": "\ud800"}, {"sub": 7},
    ],
)  # fmt: skip
async def test_an_id_token_with_a_wrong_claim_is_refused(plant: Rest, provider: Provider, claims: dict[str, Any]) -> None:
    provider.claims = claims
    assert await refusal(plant) == "untrusted"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["webmacs"]}, {"azp": "webmacs"}, {"aud": ["webmacs", "another"], "azp": "webmacs"}, {"exp": NOW + 1_000.5},
        {"sub": "a" * 255}, {"nbf": NOW}, {"email": "ALICE@example.org"},
    ],
)  # fmt: skip
async def test_an_id_token_at_the_edge_of_what_is_allowed_is_taken(plant: Rest, provider: Provider, claims: dict[str, Any]) -> None:
    provider.claims = claims
    await sign_on(plant)


async def test_the_providers_clock_may_be_a_minute_off(plant: Rest, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    for off, end in ((-59, "/sso-callback"), (-120, "/login"), (359 - 10, "/sso-callback"), (361, "/login")):
        async with plant.client() as client:
            back = await approve(await begin(client))
            with monkeypatch.context() as patch:
                now = oidc.clock.now_us
                patch.setattr(oidc.clock, "now_us", lambda now=now, off=off: now() + off * 1_000_000)
                assert urlsplit((await client.get(back)).headers["location"]).path == end, off


@pytest.mark.parametrize("algorithm", oidc.ALGORITHMS)
async def test_every_algorithm_with_a_public_key_is_taken(plant: Rest, provider: Provider, algorithm: str) -> None:
    curves = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
    if algorithm in curves:
        provider.key = ECKey.generate_key(curves[algorithm], {"kid": algorithm})
    provider.algorithm = algorithm
    await sign_on(plant)


async def test_keys_are_kept_and_read_anew_when_they_were_changed(plant: Rest, provider: Provider) -> None:
    await sign_on(plant)
    await sign_on(plant)
    assert provider.asked.count("/jwks") == 1
    assert provider.asked.count("/.well-known/openid-configuration") == 1
    provider.key = parts.rsa_key("second")
    await sign_on(plant)
    assert provider.asked.count("/jwks") == 2
    provider.sign = by_a_stranger
    assert await refusal(plant) == "untrusted"
    assert provider.asked.count("/jwks") == 3


async def test_a_key_without_a_name_is_found(plant: Rest, provider: Provider) -> None:
    provider.sign = lambda claims: signed(claims, provider.key)
    await sign_on(plant)


async def test_keys_of_other_kinds_are_passed_over(plant: Rest, provider: Provider) -> None:
    keys: list[Any] = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "first"}, {"kty": "RSA", "kid": "first"}, {"kty": "new"}, {},
        parts.rsa_key("stranger").as_dict(private=False) | {"use": "enc", "kid": "first"},
        provider.key.as_dict(private=False),
    ]  # fmt: skip
    provider.answers["/jwks"] = Answer(json.dumps({"keys": keys}).encode())
    await sign_on(plant)


# the person


async def test_a_verified_email_links_an_account_that_is_no_admins(plant: Rest, provider: Provider) -> None:
    made = await make_user(plant)
    provider.person = {"sub": "n-1", "email": "Newcomer@Example.org", "email_verified": True}
    user = await sign_on(plant)
    assert (user["public_id"], user["role"]) == (made["public_id"], "operator")


async def make_user(plant: Rest, **more: Any) -> dict[str, Any]:
    """By an administrator, without a password: one is made."""
    async with plant.client("admin") as admin:
        body = {"email": "newcomer@example.org", "username": "newcomer", "role": "operator"}
        answer = await admin.post("/api/v1/users", json=body | more)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def sign_in(client: httpx.AsyncClient, email: str, password: str) -> httpx.Response:
    return await client.post("/api/v1/auth/login", json={"email": email, "password": password})


async def test_a_password_that_was_made_holds_nobody_back_who_comes_from_the_provider(plant: Rest, provider: Provider) -> None:
    made = await make_user(plant)
    provider.person = {"sub": "n-1", "email": "newcomer@example.org", "email_verified": True}
    async with plant.client() as earlier, plant.client() as client, plant.client("admin") as admin, plant.connection() as conn:
        assert (await sign_in(earlier, "newcomer@example.org", made["initial_password"])).status_code == 200
        for again in (False, True):
            if again:  # of an account that is linked already
                changed = await admin.put(f"/api/v1/users/{made['public_id']}", json={"password": None})
                made["initial_password"] = changed.json()["initial_password"]
            session = await exchange(client, await come_back(client))
            assert (session.status_code, session.json()["user"]["must_change_password"]) == (200, False)
            assert (await client.get("/api/v1/events")).status_code == 200
            assert (await client.post(LINK, json={}, headers={"X-WebMACS": "1"})).status_code == 200
            # whoever else knows the made password is not let in by that
            assert (await earlier.get("/api/v1/events")).status_code == 401
            assert (await sign_in(earlier, "newcomer@example.org", made["initial_password"])).status_code == 401
            assert await conn.fetchval("SELECT password_hash IS NULL FROM users WHERE username = 'newcomer'")
        void = "SELECT actor_name, detail FROM audit_log WHERE object_public_id = $1 AND detail LIKE '% void' ORDER BY id"
        told = await conn.fetch(void, made["public_id"])
    details = [f"sso: linked to {provider.issuer} by e-mail; the password is void", "sso: the made password is void"]
    assert [tuple(row) for row in told] == [("newcomer", detail) for detail in details]


async def test_a_link_by_email_leaves_nothing_of_who_had_the_account_before(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_role_mapping=MAPPING)
    made = await make_user(plant, password="a quite uncommon phrase", role="viewer")
    provider.person = {"sub": "n-1", "email": "newcomer@example.org", "email_verified": True, "groups": ["/heads"]}
    async with plant.client() as client, plant.client() as earlier, plant.connection() as conn:
        assert (await sign_in(earlier, "newcomer@example.org", "a quite uncommon phrase")).status_code == 200
        session = await exchange(client, await come_back(client))
        assert (session.json()["user"]["public_id"], session.json()["user"]["role"]) == (made["public_id"], "admin")
        assert (await earlier.get("/api/v1/auth/me")).status_code == 401
        assert (await sign_in(earlier, "newcomer@example.org", "a quite uncommon phrase")).status_code == 401
        linked = "SELECT detail FROM audit_log WHERE object_public_id = $1 AND detail LIKE 'sso: linked%'"
        assert await conn.fetchval(linked, made["public_id"]) == f"sso: linked to {provider.issuer} by e-mail; the password is void"


async def test_a_password_that_is_set_after_the_link_stays_beside_the_provider(plant: Rest, provider: Provider) -> None:
    user = await sign_on(plant)
    async with plant.client() as client, plant.client("admin") as admin:
        await admin.put(f"/api/v1/users/{user['public_id']}", json={"password": "a quite uncommon phrase"})
        await exchange(client, await come_back(client))
        assert (await sign_in(client, "alice@example.org", "a quite uncommon phrase")).status_code == 200


async def test_an_email_that_its_user_entered_links_nobody(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_role_mapping=MAPPING)
    mallory = await make_user(plant, password="a quite uncommon phrase", role="viewer", email="mallory@example.org")
    provider.person = {"sub": "boss-1", "email": "Boss@example.org", "email_verified": True, "groups": ["/heads"]}
    own = {"password": "a quite uncommon phrase"}
    async with plant.client() as client:
        client.headers["X-WebMACS"] = "1"
        await sign_in(client, "mallory@example.org", own["password"])
        assert (await client.put("/api/v1/auth/me", json=own | {"email": "boss@example.org"})).status_code == 200
        assert await refusal(plant) == "taken"
        assert (await client.put("/api/v1/auth/me", json=own | {"email": "BOSS@example.org"})).status_code == 200
        assert await refusal(plant) == "taken"
        assert (await client.get("/api/v1/auth/me")).json()["role"] == "viewer"
    async with plant.client("admin") as admin:  # who gives it back, and knows whose the address is
        path = f"/api/v1/users/{mallory['public_id']}"
        assert (await admin.put(path, json={"username": "mal"})).status_code == 200
        assert await refusal(plant) == "taken"
        assert (await admin.put(path, json={"email": "mallory@example.org"})).status_code == 200
    assert (await sign_on(plant))["public_id"] != mallory["public_id"]
    provider.person = {"sub": "mallory-1", "email": "mallory@example.org", "email_verified": True, "groups": ["/line"]}
    assert (await sign_on(plant))["public_id"] == mallory["public_id"]


async def test_another_spelling_of_the_own_email_is_still_the_administrators(plant: Rest, provider: Provider) -> None:
    await make_user(plant, password="a quite uncommon phrase")
    provider.person = {"sub": "n-1", "email": "newcomer@example.org", "email_verified": True}
    async with plant.client() as client:
        client.headers["X-WebMACS"] = "1"
        await sign_in(client, "newcomer@example.org", "a quite uncommon phrase")
        changed = await client.put("/api/v1/auth/me", json={"email": "Newcomer@example.org", "password": "a quite uncommon phrase"})
        assert changed.status_code == 200
    assert (await sign_on(plant))["username"] == "newcomer"


async def test_who_is_linked_is_told_to_them_and_to_administrators(plant: Rest, provider: Provider) -> None:
    async def linked() -> tuple[bool, bool, dict[str, bool]]:
        async with plant.client("viewer") as viewer, plant.client("admin") as admin:
            me = (await viewer.get("/api/v1/auth/me")).json()["sso_linked"]
            user = (await admin.get(f"/api/v1/users/{plant.users['viewer']}")).json()["sso_linked"]
            users = (await admin.get("/api/v1/users?search=e")).json()["data"]
        return me, user, {one["username"]: one["sso_linked"] for one in users if one["username"] in ("viewer", "operator")}

    assert await linked() == (False, False, {"viewer": False, "operator": False})
    async with plant.client("viewer") as viewer:
        assert await link(plant, viewer) == "/?sso_link=linked"
    assert await linked() == (True, True, {"viewer": True, "operator": False})
    configure(plant, sso_issuer="http://127.0.0.1:9")  # the link is to a provider that counts no more
    assert await linked() == (False, False, {"viewer": False, "operator": False})
    configure(plant, sso_issuer=provider.issuer)
    async with plant.client("viewer") as viewer:
        assert (await viewer.delete(LINK)).status_code == 204
        again = await viewer.delete(LINK)
    assert (again.status_code, again.json()["type"]) == (404, "/problems/not-found")
    assert again.json()["detail"] == "This account is not linked to the provider; sso_linked of GET /api/v1/auth/me says whether it is."
    assert await linked() == (False, False, {"viewer": False, "operator": False})


@pytest.mark.parametrize("verified", [None, False, "true", "false", 1])
async def test_an_email_that_is_not_verified_neither_links_nor_creates(plant: Rest, provider: Provider, verified: object) -> None:
    for email in ("operator@example.org", "new@example.org"):
        provider.person = {"sub": "x-1", "email": email, "email_verified": verified}
        assert await refusal(plant) == "email"


@pytest.mark.parametrize("email", [None, "", "a", "a@", "a b@c", "a@b\0", "ädmin@example.org", "a@" + "b" * 253, ["a@b"]])
async def test_what_is_no_email_is_none(plant: Rest, provider: Provider, email: object) -> None:
    provider.person = {"sub": "x-1", "email": email, "email_verified": True}
    assert await refusal(plant) == "email"


async def test_an_email_and_its_verification_come_from_one_document(plant: Rest, provider: Provider) -> None:
    provider.claims = {"email": "operator@example.org", "email_verified": None}
    user = await sign_on(plant)
    assert user["email"] == "alice@example.org"


async def test_what_the_token_does_not_tell_userinfo_is_asked(plant: Rest, provider: Provider) -> None:
    provider.in_token = ("sub",)
    assert (await sign_on(plant))["email"] == "alice@example.org"
    assert provider.asked.count("/userinfo") == 1
    provider.about = {"sub": "another"}
    assert await refusal(plant) == "untrusted"


async def test_an_admins_account_is_not_opened_by_an_email(plant: Rest, provider: Provider) -> None:
    provider.person = {"sub": "x-1", "email": "admin@example.org", "email_verified": True}
    assert await refusal(plant) == "admin"
    async with plant.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM sso_identities") == 0


async def link(plant: Rest, client: httpx.AsyncClient, path: str = "/", **headers: str) -> str:
    """Where the browser of a signed-in person ends."""
    begun = await client.post(LINK, json={"next": path}, headers=headers)
    assert begun.status_code == 200, begun.text
    del client.headers["Authorization"]  # a browser sends no session at the end of a chain that began elsewhere
    back = await client.get(await approve(begun.json()["authorize_url"]))
    assert back.status_code == 302
    return back.headers["location"]


async def test_who_is_signed_in_links_the_own_account_an_administrator_too(plant: Rest, provider: Provider) -> None:
    provider.person = {"sub": "x-1", "email": "elsewhere@example.org", "email_verified": False}
    async with plant.client("admin") as client:
        assert await link(plant, client, "/?range=1h") == "/?range=1h&sso_link=linked"
    assert (await sign_on(plant))["username"] == "admin"
    async with plant.client("admin") as client:
        assert await link(plant, client) == "/?sso_link=linked"  # once more changes nothing
    async with plant.client("operator") as client:  # the person has an account already
        assert await link(plant, client) == "/?sso_link=taken"
    provider.person = {"sub": "x-2"}
    async with plant.client("admin") as client:  # and the account its person
        assert await link(plant, client) == "/?sso_link=taken"
    async with plant.connection() as conn:
        told = "detail LIKE 'sso: linked%by themself' AND object_name IN ('admin', 'operator')"
        rows = await conn.fetch(f"SELECT actor_name, object_name FROM audit_log WHERE {told}")
        assert [tuple(row) for row in rows] == [("admin", "admin")]
    async with plant.client("admin") as client:
        assert (await client.delete(LINK)).status_code == 204
    provider.person = {"sub": "x-1", "email": "elsewhere@example.org", "email_verified": False}
    assert await refusal(plant) == "email"


async def test_linking_needs_the_password_anew_and_the_session_to_the_end(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client:
        answer = await client.post("/api/v1/auth/login", json={"email": "viewer@example.org", "password": PASSWORD})
        token = answer.json()["access_token"]
        client.cookies.clear()
        client.headers["Authorization"] = f"Bearer {token}"
        async with plant.connection() as conn:
            own = "jti = (SELECT jti FROM sessions ORDER BY begun_on DESC LIMIT 1)"
            await conn.execute(f"UPDATE sessions SET confirmed_on = begun_on - interval '1 h' WHERE {own}")
            plant.app.state.parts.known.forget()
            refused = await client.post(LINK, json={})
            assert (refused.status_code, refused.json()["type"]) == (403, "/problems/password-needed")
            assert (await client.post("/api/v1/auth/confirm", json={"password": PASSWORD})).status_code == 200
            begun = await client.post(LINK, json={})
            assert (await client.post("/api/v1/auth/logout")).status_code == 204
            back = await client.get(await approve(begun.json()["authorize_url"]))
            assert back.headers["location"] == "/?sso_link=expired"
            assert await conn.fetchval("SELECT count(*) FROM sso_identities") == 0
    async with plant.client("viewer") as client:
        assert (await client.post(LINK, json={"next": "//elsewhere.example"})).status_code == 422
        provider.answers["/.well-known/openid-configuration"] = Answer(b"away", 500)
        configure(plant)
        assert (await client.post(LINK, json={})).status_code == 503


async def test_an_account_without_a_password_stays_linked(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client:
        session = (await exchange(client, await come_back(client))).json()
        client.cookies.clear()
        client.headers["Authorization"] = f"Bearer {session['access_token']}"
        answer = await client.delete(LINK)
        assert (await client.get("/api/v1/auth/me")).json()["sso_linked"]
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/conflict")


async def test_the_subject_is_the_person_and_not_the_email(plant: Rest, provider: Provider) -> None:
    first = await sign_on(plant)
    provider.person["email"] = "operator@example.org"
    assert (await sign_on(plant))["public_id"] == first["public_id"]
    provider.person = {"sub": "alice-2", "email": "alice@example.org", "email_verified": True}
    assert await refusal(plant) == "taken"


async def test_a_disabled_account_is_refused_known_or_not(plant: Rest, provider: Provider) -> None:
    await make_user(plant)
    provider.person = {"sub": "n-1", "email": "newcomer@example.org", "email_verified": True}
    async with plant.connection() as conn:
        await conn.execute("UPDATE users SET enabled = false WHERE username = 'newcomer'")
        assert await refusal(plant) == "disabled"
        await conn.execute("UPDATE users SET enabled = true WHERE username = 'newcomer'")
        await sign_on(plant)
        async with plant.client() as client:
            end = await come_back(client)
            await conn.execute("UPDATE users SET enabled = false WHERE username = 'newcomer'")
            assert (await exchange(client, end)).status_code == 401
        assert await refusal(plant) == "disabled"


async def test_nobody_is_created_unless_it_is_allowed(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_allow_creation=False)
    assert await refusal(plant) == "unknown"
    configure(plant, sso_allow_creation=True)
    await sign_on(plant)
    configure(plant, sso_allow_creation=False)
    await sign_on(plant)


@pytest.mark.parametrize(
    ("names", "username"),
    [
        ({"preferred_username": "admin"}, "admin-2"), ({"name": " A.\nMüller "}, "A. Müller"), ({"preferred_username": "x"}, "carla"),
        ({"preferred_username": "\0\ud800"}, "carla"), ({"preferred_username": 7}, "carla"), ({"name": "n" * 60}, "n" * 50), ({}, "carla"),
    ],
)  # fmt: skip
async def test_a_new_user_gets_a_name_that_nobody_has(plant: Rest, provider: Provider, names: dict[str, Any], username: str) -> None:
    provider.person = {"sub": "c-1", "email": "carla@example.org", "email_verified": True, **names}
    provider.in_token = ("sub", "email", "email_verified", "preferred_username", "name")
    assert (await sign_on(plant))["username"] == username


async def test_of_two_first_sign_ons_at_once_one_account_is_made(plant: Rest, provider: Provider) -> None:
    async with plant.client() as one, plant.client() as other:
        ends = await asyncio.gather(come_back(one), come_back(other))
    assert [end for end in ends if not end.startswith("/sso-callback?") and end != "/login?sso=again"] == []
    assert any(end.startswith("/sso-callback?") for end in ends)
    async with plant.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM users WHERE email = 'alice@example.org'") == 1
        assert await conn.fetchval("SELECT count(*) FROM sso_identities") == 1


async def test_no_password_is_right_for_a_user_without_one(plant: Rest, provider: Provider) -> None:
    await sign_on(plant)
    async with plant.client() as client:
        for password in (PASSWORD, "", "None"):
            answer = await client.post("/api/v1/auth/login", json={"email": "alice@example.org", "password": password})
            assert answer.status_code == 401
        end = await come_back(client)
        await exchange(client, end)
        body = {"current_password": "", "new_password": "a long enough password"}
        change = await client.put("/api/v1/auth/me/password", json=body, headers={"X-WebMACS": "1"})
    assert change.status_code == 422


MAPPING = ("/line=operator", "/heads=admin", "a=b=viewer")


@pytest.mark.parametrize(
    ("groups", "default", "role"),
    [
        (["/line"], "none", "operator"), (["/line", "/heads", "else"], "viewer", "admin"), ("/line", "none", "operator"),
        (["a=b"], "none", "viewer"), (["else"], "viewer", "viewer"), (["else"], "none", None), (None, "none", None),
        ([7, {}], "none", None), ({"/heads": 1}, "none", None), ("/LINE", "none", None),
    ],
)  # fmt: skip
async def test_the_highest_role_of_the_groups_counts(
    plant: Rest, provider: Provider, groups: object, default: str, role: str | None
) -> None:
    configure(plant, sso_role_mapping=MAPPING, sso_default_role=default)
    provider.person["groups"] = groups
    if role is None:
        assert await refusal(plant) == "groups"
    else:
        assert (await sign_on(plant))["role"] == role


async def test_the_role_follows_the_groups_at_each_sign_on(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_role_mapping=MAPPING, sso_default_role="viewer")
    for groups, role in ((["/heads"], "admin"), (["/line"], "operator"), ([], "viewer")):
        provider.person["groups"] = groups
        assert (await sign_on(plant))["role"] == role
    configure(plant, sso_default_role="none")
    assert await refusal(plant) == "groups"


async def test_another_role_by_the_groups_ends_the_sessions_at_once(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_role_mapping=MAPPING, sso_default_role="viewer")
    async with plant.client() as earlier, plant.client() as client:
        await exchange(earlier, await come_back(earlier))
        assert (await earlier.get("/api/v1/auth/me")).status_code == 200
        await exchange(client, await come_back(client))
        assert (await earlier.get("/api/v1/auth/me")).status_code == 200  # the role is the same
        provider.person["groups"] = ["/line"]
        session = await exchange(client, await come_back(client))
        assert (await earlier.get("/api/v1/auth/me")).status_code == 401
        assert (await client.get("/api/v1/auth/me")).json() == session.json()["user"]


async def test_what_a_sign_on_makes_and_changes_leaves_its_versions(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_role_mapping=MAPPING, sso_default_role="viewer")
    user = await sign_on(plant)
    provider.person["groups"] = ["/line"]
    assert (await sign_on(plant))["version"] == 2
    async with plant.client("admin") as admin:
        await admin.put(f"/api/v1/users/{user['public_id']}", json={"password": None})
        assert (await sign_on(plant))["version"] == 4  # the made one is void
        found = await admin.get("/api/v1/versions", params={"object_public_id": user["public_id"], "content": "true"})
        assert (await admin.get(f"/api/v1/users/{user['public_id']}")).json()["version"] == 4
    states = [(one["number"], one["actor_name"], one["content"]["role"]) for one in found.json()["data"]]
    assert states == [(4, "alice", "operator"), (3, "admin", "operator"), (2, "alice", "operator"), (1, "alice", "viewer")]
    assert [one["content"]["must_change_password"] for one in found.json()["data"]] == [False, True, False, False]


async def test_without_a_mapping_the_role_is_whatever_it_was_made_here(plant: Rest, provider: Provider) -> None:
    provider.person["groups"] = ["/heads"]
    assert (await sign_on(plant))["role"] == "viewer"
    async with plant.connection() as conn:
        await conn.execute("UPDATE users SET role = 'admin' WHERE username = 'alice'")
    assert (await sign_on(plant))["role"] == "admin"


async def test_the_last_active_administrator_stays_one_whatever_the_groups_say(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_role_mapping=MAPPING, sso_default_role="viewer")
    provider.person["groups"] = ["/heads"]
    alice = await sign_on(plant)
    provider.person["groups"] = []
    async with plant.connection() as conn:
        await conn.execute("UPDATE users SET enabled = false WHERE username = 'admin'")
        assert (await sign_on(plant))["role"] == "admin"
        row = await conn.fetchrow("SELECT action, object_name, detail FROM audit_log WHERE action = 'role_kept' ORDER BY id DESC")
        assert tuple(row) == ("role_kept", alice["username"], "sso: the groups say viewer, but there is no other administrator")
        await conn.execute("UPDATE users SET enabled = true WHERE username = 'admin'")
    assert (await sign_on(plant))["role"] == "viewer"


async def test_groups_that_only_userinfo_tells_are_asked_for(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_role_mapping=MAPPING)
    provider.in_token = ("sub", "email", "email_verified")
    provider.person["groups"] = ["/line"]
    assert (await sign_on(plant))["role"] == "operator"


# the provider as a server


async def test_a_provider_that_is_away_is_said_at_the_login(plant: Rest, provider: Provider) -> None:
    configure(plant, sso_issuer="http://127.0.0.1:9")
    async with plant.client() as client:
        assert (await client.get(AUTHORIZE)).headers["location"] == "/login?sso=provider"


PATHS = ("/.well-known/openid-configuration", "/token", "/jwks", "/userinfo")


async def first_refusal(plant: Rest) -> str:
    """Wherever on the way it comes."""
    async with plant.client() as client:
        begun = await client.get(AUTHORIZE)
        location: str = begun.headers["location"]
        if not location.startswith("/login"):
            location = (await client.get(await approve(location))).headers["location"]
    return location


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "answer",
    [
        Answer(b" " * 65_536 + b"{}"), Answer(b"[" * 60_000), Answer(b"\xff"), Answer(b"<html>"), Answer(b"[]"), Answer(status=500),
        Answer(b'{"error": "invalid_client"}', 401), Answer(status=302, headers={"Location": "/elsewhere"}),
        Answer(b"x", headers={"Content-Encoding": "gzip"}),
    ],
)  # fmt: skip
async def test_an_answer_that_cannot_be_used_is_said_at_the_login(plant: Rest, provider: Provider, path: str, answer: Answer) -> None:
    provider.in_token = ("sub",)
    provider.answers[path] = answer
    assert await first_refusal(plant) == "/login?sso=provider"
    assert "/elsewhere" not in provider.asked


async def test_an_answer_of_64_kb_is_still_read(plant: Rest, provider: Provider) -> None:
    document = json.dumps(provider.document()).encode()
    provider.answers[PATHS[0]] = Answer(document + b" " * (65_536 - len(document)))
    await sign_on(plant)
    configure(plant)
    provider.answers[PATHS[0]].body += b" "
    assert await first_refusal(plant) == "/login?sso=provider"


@pytest.mark.parametrize("path", PATHS)
async def test_a_provider_that_does_not_answer_is_not_waited_for(
    plant: Rest, provider: Provider, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "ANSWER_S_MAX", 0.5)
    provider.in_token = ("sub",)
    provider.answers[path] = Answer(never=True)
    assert await first_refusal(plant) == "/login?sso=provider"


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "http://127.0.0.1"}, {"token_endpoint": "ftp://127.0.0.1/x"}, {"token_endpoint": "file:///etc/passwd"},
        {"jwks_uri": "/jwks"}, {"userinfo_endpoint": "http://"}, {"authorization_endpoint": "javascript:alert(1)"}, {"jwks_uri": 7},
        {"jwks_uri": "http://[/"},
    ],
)  # fmt: skip
async def test_a_discovery_document_that_leads_astray_is_refused(plant: Rest, provider: Provider, document: dict[str, Any]) -> None:
    provider.discovery = document
    assert await first_refusal(plant) == "/login?sso=provider"


@pytest.mark.parametrize(("error", "reason"), [("access_denied", "denied"), ("server_error", "provider"), ("<script>", "provider")])
async def test_what_the_provider_says_of_a_refusal_is_not_shown(plant: Rest, provider: Provider, error: str, reason: str) -> None:
    provider.refuse_with = error
    async with plant.client() as client:
        end = await client.get(await approve(await begin(client)))
        again = await client.get(await approve(await begin(client, "/?range=1h")))
    assert end.headers["location"] == f"/login?sso={reason}"
    assert end.text == ""
    assert again.headers["location"] == f"/login?sso={reason}&next=%2F%3Frange%3D1h"


async def test_an_answer_in_the_name_of_another_issuer_is_refused(plant: Rest, provider: Provider) -> None:
    async with plant.client() as client:
        back = await approve(await begin(client))
        answer = await client.get(back.replace("iss=", "iss=https://elsewhere.example"))
    assert answer.headers["location"] == "/login?sso=untrusted"


async def test_the_secret_is_shown_as_the_provider_wants_it(plant: Rest, provider: Provider, tmp_path: Path) -> None:
    provider.discovery = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    await sign_on(plant)
    (tmp_path / "secret").write_text("wrong")
    configure(plant, sso_client_secret_file=tmp_path / "secret")
    assert await refusal(plant) == "provider"
    configure(plant, sso_client_secret_file=tmp_path / "missing")
    assert await refusal(plant) == "provider"
    provider.secret = None
    configure(plant, sso_client_secret_file=None)
    await sign_on(plant)


# what is left behind


async def test_the_audit_log_tells_of_creation_role_login_and_refusal(plant: Rest, provider: Provider) -> None:
    async with plant.connection() as conn:
        await plant.app.state.parts.refusals.write(plant.app.state.parts.pool)
        since = await conn.fetchval("SELECT coalesce(max(id), 0) FROM audit_log")
        configure(plant, sso_role_mapping=MAPPING)
        user = await sign_on(plant)
        provider.person["groups"] = ["/line"]
        await sign_on(plant)
        provider.person = {"sub": "x-1", "email": "admin@example.org", "email_verified": True}
        await refusal(plant)
        await plant.app.state.parts.refusals.write(plant.app.state.parts.pool)
        rows = await conn.fetch("SELECT * FROM audit_log WHERE id > $1 ORDER BY id", since)
    told = [(row["action"], row["kind"], row["actor_name"], row["detail"]) for row in rows]
    assert told == [
        ("create", "user", "alice", "sso"),
        ("login", "session", "alice", "sso"),
        ("update", "user", "alice", "sso: role of the groups"),
        ("login", "session", "alice", "sso"),
        ("login_refused", "session", None, "sso: admin: the account admin@example.org is an administrator's, which no e-mail opens"),
    ]
    assert rows[0]["object_public_id"].hex == user["public_id"].replace("-", "")
    assert all(row["address"] == "127.0.0.1" for row in rows)


async def test_no_secret_of_a_sign_on_is_logged(plant: Rest, provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with plant.client() as client:
        url = await begin(client)
        cookie = client.cookies["webmacs_sso"]
        back = await approve(url)
        ours = caplog.records.copy()
        caplog.clear()
        end = (await client.get(back)).headers["location"]
        session = (await exchange(client, end)).json()
    asked, answered = (parse_qs(urlsplit(one).query) for one in (url, back))
    told = [
        record for record in (*ours, *caplog.records) if "webmacs.test" not in record.getMessage()
    ]  # the test's own client tells its URLs
    text = "".join(f"{record.getMessage()} {vars(record)}" for record in told)
    assert "/token" in text
    secrets = [asked["nonce"], answered["code"], answered["state"], parse_qs(urlsplit(end).query)["code"], [cookie, parts.SECRET]]
    assert [secret for several in secrets for secret in several if secret in text] == []
    assert session["access_token"] not in text


def test_the_login_page_has_words_for_every_reason() -> None:
    words = (FRONTEND / "features" / "login" / "refusal.ts").read_text()
    assert [reason for reason in get_args(oidc.Reason) if f"\n  {reason}: " not in words] == []
