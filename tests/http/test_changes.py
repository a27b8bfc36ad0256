"""What every change has in common: judged on trial, done once, not over another's change, and told of in the audit log."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from parts.rest import Rest, begin_session

from webmacs import app
from webmacs.http import openapi

IF_MATCH = {"$ref": "#/components/parameters/If-Match"}
EVENT: dict[str, Any] = {"name": "Boiler", "type": "sensor", "unit": "°C"}
EVENTS = "/api/v1/events"


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM events; DELETE FROM sources WHERE name <> 'source'; DELETE FROM idempotency_keys")


async def newest(rest: Rest, kind: str) -> asyncpg.Record:
    """The audit log's newest row of a kind, once what is gathered has been written."""
    await rest.app.state.parts.refusals.write(rest.app.state.parts.pool)
    async with rest.connection() as conn:
        return await conn.fetchrow(
            "SELECT *, before::text AS old, after::text AS new FROM audit_log WHERE kind = $1 ORDER BY id DESC LIMIT 1", kind
        )


async def rows(rest: Rest, table: str) -> int:
    async with rest.connection() as conn:
        return int(await conn.fetchval(f"SELECT count(*) FROM {table}"))


async def test_a_dry_run_is_answered_as_the_change_and_leaves_nothing(rest: Rest) -> None:
    before = {table: await rows(rest, table) for table in ("events", "audit_log", "versions", "idempotency_keys")}
    async with rest.client("operator") as client:
        judged = await client.post(EVENTS, params={"dry_run": "true"}, json=EVENT, headers={"Idempotency-Key": "k"})
        assert (judged.status_code, judged.headers["x-webmacs-dry-run"], judged.json()["name"]) == (201, "true", "Boiler")
        assert (await client.post(EVENTS, params={"dry_run": "true"}, json=EVENT | {"type": "x"})).status_code == 422
        assert (await client.post(EVENTS, params={"dry_run": "yes"}, json=EVENT)).status_code == 422
        assert {table: await rows(rest, table) for table in before} == before
        made = await client.post(EVENTS, params={"dry_run": "false"}, json=EVENT)
        assert "x-webmacs-dry-run" not in made.headers
        assert (await client.post(EVENTS, params={"dry_run": "true"}, json=EVENT)).status_code == 409


async def test_a_dry_run_answers_no_secret_that_looks_like_one(rest: Rest) -> None:
    new = {"email": "m@example.org", "username": "maria", "role": "viewer"}
    async with rest.client("admin") as client:
        source = (await client.post("/api/v1/sources", json={"name": "gateway"})).json()
        for method, address, body, field in (
            ("POST", "tokens", {"name": "x", "scopes": ["read"]}, "token"),
            ("POST", "sources", {"name": "x"}, "credential"),
            ("POST", f"sources/{source['public_id']}/credential", None, "credential"),
            ("POST", "users", new, "initial_password"),
            ("PUT", f"users/{rest.users['viewer']}", {"password": None}, "initial_password"),
        ):
            judged = await client.request(method, f"/api/v1/{address}", params={"dry_run": "true"}, json=body)
            assert judged.is_success, judged.text
            assert judged.json()[field] == "(not made: this was a dry run)"
        given = await client.post("/api/v1/users", params={"dry_run": "true"}, json=new | {"password": "a Wonderful one 77"})
        assert given.json()["initial_password"] is None


async def test_a_route_that_changes_nothing_knows_no_dry_run_and_no_other_parameter(rest: Rest) -> None:
    async with rest.client("viewer") as client:
        refused = await client.get("/api/v1/auth/me", params={"dry_run": "true"})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["loc"] == ["query", "dry_run"]


async def test_under_one_key_a_request_is_done_once_and_answered_the_same(rest: Rest) -> None:
    async with rest.client("operator") as client:
        first = await client.post(EVENTS, json=EVENT, headers={"Idempotency-Key": "once"})
        again = await client.post(EVENTS, json=EVENT, headers={"Idempotency-Key": "once"})
        assert (again.status_code, again.content, again.headers["location"]) == (201, first.content, first.headers["location"])
        assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
        other = await client.post(EVENTS, json=EVENT | {"name": "Pump"}, headers={"Idempotency-Key": "once"})
        assert (other.status_code, other.json()["type"]) == (422, "/problems/idempotency-key-reused")
    async with rest.client("admin") as client:  # keys are each caller's own
        assert (await client.post(EVENTS, json=EVENT, headers={"Idempotency-Key": "once"})).status_code == 409
    assert await rows(rest, "events") == 1


async def test_a_key_is_each_tokens_own_and_a_persons_after_signing_in_again(rest: Rest) -> None:
    secret, once = {"name": "strong", "scopes": ["users:write"]}, {"Idempotency-Key": "secret"}
    async with rest.client("admin") as admin, rest.client() as client:
        strong, weak = [
            {"Authorization": f"Bearer {(await admin.post('/api/v1/tokens', json={'name': 'maker', 'scopes': scopes})).json()['token']}"}
            for scopes in (["tokens:write", "users:write"], ["tokens:write"])
        ]
        made = await client.post("/api/v1/tokens", json=secret, headers=strong | once)
        assert made.status_code == 201, made.text
        assert (await client.post("/api/v1/tokens", json=secret, headers=strong | once)).content == made.content
        refused = await client.post("/api/v1/tokens", json=secret, headers=weak | once)
        assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", "scopes"])
        mine = await admin.post("/api/v1/tokens", json=secret, headers=once)
        assert mine.status_code == 201
        assert mine.json()["token"] != made.json()["token"]
        async with rest.connection() as conn:
            session = await begin_session(conn, rest.session_key, rest.users["admin"])
        again = await client.post("/api/v1/tokens", json=secret, headers={"Authorization": f"Bearer {session}"} | once)
        assert again.content == mine.content


async def test_of_two_requests_at_once_under_one_key_one_is_done(rest: Rest) -> None:
    async with rest.client("operator") as client:
        answers = await asyncio.gather(*(client.post(EVENTS, json=EVENT, headers={"Idempotency-Key": "at-once"}) for _ in range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 5
    assert await rows(rest, "events") == 1


async def test_a_refused_request_leaves_its_key_free(rest: Rest) -> None:
    async with rest.client("operator") as client:
        await client.post(EVENTS, json=EVENT)
        assert (await client.post(EVENTS, json=EVENT, headers={"Idempotency-Key": "free"})).status_code == 409
        assert (await client.post(EVENTS, json=EVENT | {"name": "Pump"}, headers={"Idempotency-Key": "free"})).status_code == 201


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 201, "ä"])
async def test_a_key_that_is_none_is_refused(rest: Rest, key: str) -> None:
    async with rest.client("operator") as client:
        refused = await client.post(EVENTS, json=EVENT, headers=[(b"Idempotency-Key", key.encode())])
    assert refused.status_code == 422
    assert await rows(rest, "events") == 0


async def test_a_credential_in_a_kept_answer_cannot_be_read_in_the_database(rest: Rest) -> None:
    async with rest.client("admin") as client:
        made = await client.post("/api/v1/sources", json={"name": "hall"}, headers={"Idempotency-Key": "source"})
        again = await client.post("/api/v1/sources", json={"name": "hall"}, headers={"Idempotency-Key": "source"})
    credential = made.json()["credential"].encode()
    assert again.json() == made.json()
    async with rest.connection() as conn:
        kept = await conn.fetchval("SELECT body FROM idempotency_keys")
        assert credential not in kept
        audited = await conn.fetchval("SELECT string_agg(a::text, ' ') FROM audit_log a")
        assert made.json()["credential"] not in audited


async def test_who_changes_what_somebody_else_has_changed_meanwhile_is_told(rest: Rest) -> None:
    async with rest.client("operator") as client:
        made = await client.post(EVENTS, json=EVENT)
        address = made.headers["location"]
        assert made.headers["etag"] == '"1"' == (await client.get(address)).headers["etag"]
        changed = await client.put(address, json={"unit": "K"}, headers={"If-Match": '"1"'})
        assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
        late = await client.put(address, json={"unit": "F"}, headers={"If-Match": '"1"'})
        assert (late.status_code, late.json()["type"]) == (412, "/problems/changed-meanwhile")
        for unquoted in ("2", "", '"1", 2', "W/2", "'2'"):
            refused = await client.put(address, json={"unit": "F"}, headers={"If-Match": unquoted})
            assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["header", "If-Match"])
            assert 'in quotes, as the ETag "2"' in refused.json()["detail"]
        for fitting in ('"1", "2"', 'W/"2"', "*"):
            assert (await client.put(address, json={"unit": "K"}, headers={"If-Match": fitting})).status_code == 200
    async with rest.client("admin") as client:
        assert (await client.delete(address, headers={"If-Match": '"1"'})).status_code == 412
        tag = (await client.get(address)).headers["etag"]
        assert (await client.delete(address, headers={"If-Match": tag})).status_code == 204


DEAF = [
    (method.upper(), path)
    for path, operations in openapi.document(app.ROUTES, app.SOCKETS)["paths"].items()
    for method, operation in operations.items()
    if method != "get" and IF_MATCH not in operation.get("parameters", [])
]


@pytest.mark.parametrize(("method", "path"), DEAF, ids=[" ".join(one) for one in DEAF])
async def test_if_match_is_refused_where_nothing_is_compared_with_it(rest: Rest, method: str, path: str) -> None:
    async with rest.client("admin") as client:  # of any version, a request is as one without
        assert (await client.post(EVENTS, json=EVENT, headers={"If-Match": "*"})).status_code == 201
        address = re.sub(r"{[^}]*}", str(uuid4()), path)
        refused = await client.request(method, address, headers={"If-Match": '"1"', "X-WebMACS-Write": "1"})
        assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["header", "If-Match"]), refused.text


async def test_every_change_tells_who_when_from_where_and_from_what_to_what(rest: Rest) -> None:
    async with rest.client("operator", address="192.0.2.7") as client:
        made = await client.post(EVENTS, json=EVENT, headers={"X-Request-ID": "abc"})
        row = await newest(rest, "event")
        assert (row["action"], row["object_name"], row["object_public_id"]) == ("create", "Boiler", UUID(made.json()["public_id"]))
        assert (row["actor_kind"], row["actor_name"], row["address"], row["request_id"]) == ("user", "operator", "192.0.2.7", "abc")
        assert (row["old"], '"unit": "°C"' in row["new"]) == (None, True)
        await client.put(made.headers["location"], json={"unit": "K", "name": "Boiler"})
        row = await newest(rest, "event")
        assert (row["action"], row["old"], row["new"]) == ("update", '{"unit": "°C"}', '{"unit": "K"}')
    async with rest.client("admin") as client:
        await client.delete(made.headers["location"])
    row = await newest(rest, "event")
    assert (row["action"], row["actor_name"], row["new"]) == ("delete", "admin", None)
    async with rest.connection() as conn:
        made_id = UUID(made.json()["public_id"])
        kept = await conn.fetch(
            "SELECT version, content IS NULL AS gone FROM versions WHERE object_public_id = $1 ORDER BY version", made_id
        )
    assert [tuple(one) for one in kept] == [(1, False), (2, False), (3, True)]


async def test_refusals_are_told_of_and_the_same_ones_are_counted(rest: Rest) -> None:
    async with rest.client("viewer", address="192.0.2.8") as client:
        for _ in range(3):
            assert (await client.post(EVENTS, json=EVENT)).status_code == 403
    row = await newest(rest, "request")
    assert (row["action"], row["actor_name"], row["address"], row["n"]) == ("refused", "viewer", "192.0.2.8", 3)
    assert row["detail"].startswith("POST /api/v1/events: ")
    async with rest.client() as client:
        await client.get(EVENTS)
    row = await newest(rest, "request")
    assert (row["actor_kind"], row["actor_name"], row["n"]) == ("nobody", None, 1)


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor_name = 'me'", "DELETE FROM audit_log", "TRUNCATE audit_log"])
async def test_rows_of_the_audit_log_are_only_added(rest: Rest, statement: str) -> None:
    async with rest.client("operator") as client:
        await client.post(EVENTS, json=EVENT)
    async with rest.connection() as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)


async def things(rest: Rest) -> dict[str, str]:
    """An address of each kind of thing that people change."""
    async with rest.client("admin") as client:

        async def made(path: str, body: dict[str, Any]) -> Any:
            answer = await client.post(f"/api/v1/{path}", json=body)
            assert answer.status_code == 201, answer.text
            return answer.json()

        event = await made("events", EVENT | {"tags": ["hot"], "path": "plant / line", "max_value": 120})
        of_event = {"event_public_id": event["public_id"]}
        source = await made("sources", {"name": "hall"})
        instance = await made("plugins", {"source_public_id": source["public_id"], "plugin_id": "simulated", "name": "boiler house"})
        channel = await made(f"plugins/{instance['public_id']}/channels", {"channel_key": "t", "name": "T", "unit": "K"} | of_event)
        board = await made("dashboards", {"name": "Reactor"})
        widget = await made(f"dashboards/{board['public_id']}/widgets", {"config": {"widget_type": "gauge"}})
        shown = {
            "events": event,
            "rules": await made("rules", {"name": "Hot", "operator": "gt", "threshold": 95} | of_event),
            "webhooks": await made("webhooks", {"url": "https://example.org/", "events": ["sensor.reading"], "secret": "s"}),
            "experiments": await made("experiments", {"name": "Run", "tags": ["a"], "parameters": {"charge": 1}}),
            "annotations": await made("annotations", {"from": "2026-11-23T12:00:00Z", "text": "Valve exchanged"}),
            "sources": source,
            "plugins": instance,
            f"plugins/{instance['public_id']}/channels": channel,
            "dashboards": board,
            f"dashboards/{board['public_id']}/widgets": widget,
            "users": await made("users", {"email": "new@example.org", "username": "newcomer", "role": "viewer"}),
        }
    found = {path: f"/api/v1/{path}/{one['public_id']}" for path, one in shown.items()}
    return found | {"settings": "/api/v1/settings", "auth/me": "/api/v1/auth/me"}


async def written(rest: Rest, address: str) -> set[str]:
    """The fields that a change of what is at this address may hold, but passwords."""
    async with rest.client("viewer") as client:
        document = (await client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        if "put" in operations and re.fullmatch(re.sub("{[^}]*}", "[0-9a-f-]{36}", path), address):
            body = operations["put"]["requestBody"]["content"]["application/json"]["schema"]
            return set(document["components"]["schemas"][body["$ref"].rpartition("/")[2]]["properties"]) - {"password", "email"}
    raise LookupError(address)


async def test_a_change_to_what_is_there_already_changes_nothing_and_leaves_nothing(rest: Rest) -> None:
    addresses = await things(rest)
    left = {table: await rows(rest, table) for table in ("audit_log", "versions")}
    async with rest.client("admin") as client:
        for address in addresses.values():
            of_widget = "/widgets/" in address  # which has no address of its own
            board = address.partition("/widgets/")[0]
            before = await client.get(board)
            shown = before.json()["widgets"][0] if of_widget else before.json()
            names = await written(rest, address)
            fields = {name: value for name, value in shown.items() if name in names}
            for same in ({}, fields):
                answer = await client.put(address, json=same, headers={"If-Match": before.headers["etag"]})
                assert (answer.status_code, answer.headers.get("etag")) == (200, before.headers["etag"]), (address, answer.text)
                assert shown.items() <= answer.json().items(), address
            assert (await client.get(board)).json() == before.json(), address
        assert {table: await rows(rest, table) for table in left} == left
        for address, hidden in ((addresses["webhooks"], {"secret": "s"}), (addresses["users"], {"password": "a long enough phrase"})):
            before = await client.get(address)  # what is never shown may differ
            assert (await client.put(address, json=hidden)).headers["etag"] != before.headers["etag"]
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM dashboards; DELETE FROM webhooks; DELETE FROM annotations; DELETE FROM experiments")
        await conn.execute("DELETE FROM users WHERE username = 'newcomer'")


async def test_what_changes_nothing_is_announced_to_nobody(rest: Rest) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with rest.connection() as conn, rest.client("admin") as client:
        made = await client.post(EVENTS, json=EVENT)
        await conn.add_listener("webmacs_config", lambda _c, _p, _n, what: heard.put_nowait(what))
        await client.put(made.headers["location"], json=EVENT)
        await client.put("/api/v1/settings", json={"plant_name": "North"})
        assert await heard.get() == "settings"
        await client.put("/api/v1/settings", json={"plant_name": ""})


async def test_what_changes_nothing_is_kept_under_its_key_all_the_same(rest: Rest) -> None:
    async with rest.client("admin") as client:
        made = await client.post(EVENTS, json=EVENT)
        restore = f"/api/v1/versions/event/{made.json()['public_id']}/1/restore"
        first = await client.post(restore, headers={"Idempotency-Key": "restore"})
        assert (first.status_code, first.json()["version"]) == (200, 1)
        await client.put(made.headers["location"], json={"unit": "K"})
        again = await client.post(restore, headers={"Idempotency-Key": "restore"})
        assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
        assert (await client.get(made.headers["location"])).json()["unit"] == "K"


async def test_a_body_that_is_compressed_anew_is_the_same_request(rest: Rest) -> None:
    plain = json.dumps(EVENT).encode()
    made = []
    async with rest.client("operator") as client:
        for body in (gzip.compress(plain, mtime=1), gzip.compress(plain, mtime=2), plain):
            headers = {"Idempotency-Key": "compressed", "Content-Type": "application/json"}
            headers |= {} if body is plain else {"Content-Encoding": "gzip"}
            made.append(await client.post(EVENTS, content=body, headers=headers))
    assert {(one.status_code, one.json()["public_id"]) for one in made} == {(201, made[0].json()["public_id"])}
    assert await rows(rest, "events") == 1
