"""Webhooks over REST: whom we may tell, what is never told again, and the outbox of deliveries."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from parts.rest import Rest

from webmacs import keys
from webmacs.storage.ids import uuid7

WEBHOOKS = "/api/v1/webhooks"
WEBHOOK = {"url": "https://example.org/hook", "events": ["sensor.threshold_exceeded", "experiment.started"]}
SECRET = "canary-of-a-secret"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM webhooks; DELETE FROM events")


async def make(client: Any, **fields: Any) -> dict[str, Any]:
    made = await client.post(WEBHOOKS, json=WEBHOOK | fields)
    assert made.status_code == 201, made.text
    webhook: dict[str, Any] = made.json()
    return webhook


async def make_event(client: Any, name: str) -> str:
    made = await client.post("/api/v1/events", json={"name": name, "type": "sensor", "unit": "°C"})
    return str(made.json()["public_id"])


async def test_a_webhook_is_made_read_changed_listed_and_deleted(rest: Rest) -> None:
    async with rest.client("admin") as client:
        webhook = await make(client, name="MES", description="of the hall", enabled=False)
        address = f"{WEBHOOKS}/{webhook['public_id']}"
        assert webhook == webhook | WEBHOOK | {
            "name": "MES", "description": "of the hall", "enabled": False, "has_secret": False, "event_public_ids": None, "version": 1,
        }  # fmt: skip
        answer = await client.get(address)
        assert (answer.json(), answer.headers["etag"]) == (webhook, '"1"')
        changed = (await client.put(address, json={"enabled": True, "events": ["sensor.reading"]}, headers={"If-Match": '"1"'})).json()
        assert changed == webhook | {"enabled": True, "events": ["sensor.reading"], "changed_on": changed["changed_on"], "version": 2}
        assert (await client.put(address, json={"name": "x"}, headers={"If-Match": '"1"'})).status_code == 412
        await make(client, url="https://example.org/other")
        assert (await client.get(WEBHOOKS, params={"search": "mes"})).json()["data"] == [changed]
        assert (await client.get(WEBHOOKS, params={"search": "OTHER"})).json()["total"] == 1
        assert (await client.get(WEBHOOKS, params={"enabled": "false"})).json()["total"] == 0
        assert (await client.delete(address)).status_code == 204
        assert (await client.get(address)).status_code == 404


async def test_an_address_is_taken_once(rest: Rest) -> None:
    async with rest.client("admin") as client:
        await make(client)
        other = await make(client, url="https://example.org/other")
        assert (await client.post(WEBHOOKS, json=WEBHOOK)).status_code == 409
        address = f"{WEBHOOKS}/{other['public_id']}"
        assert (await client.put(address, json={"url": WEBHOOK["url"]})).status_code == 409
        assert (await client.put(address, json={"url": other["url"]})).status_code == 200


async def test_a_secret_is_sealed_kept_replaced_and_taken_away_but_never_shown(rest: Rest) -> None:
    async with rest.client("admin") as client, rest.connection() as conn:
        made = await client.post(WEBHOOKS, json=WEBHOOK | {"secret": SECRET})
        webhook = made.json()
        assert webhook["has_secret"] is True
        address = f"{WEBHOOKS}/{webhook['public_id']}"

        async def unsealed() -> bytes:
            sealed = await conn.fetchval("SELECT secret_sealed FROM webhooks WHERE public_id = $1", UUID(webhook["public_id"]))
            context = b"webhooks/" + UUID(webhook["public_id"]).bytes
            return keys.unseal(rest.app.state.parts.sealing_key, sealed, context)

        assert await unsealed() == SECRET.encode()
        kept = await client.put(address, json={"name": "kept"})
        assert (kept.json()["has_secret"], await unsealed()) == (True, SECRET.encode())
        replaced = await client.put(address, json={"secret": SECRET + "2"})
        assert (replaced.json()["has_secret"], await unsealed()) == (True, SECRET.encode() + b"2")
        read = await client.get(address)
        assert SECRET not in made.text + kept.text + replaced.text + read.text
        for table in ("audit_log", "versions", "idempotency_keys", "webhooks"):
            rows = await conn.fetchval(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t")
            assert SECRET not in rows
            assert SECRET.encode().hex() not in rows
        details = [
            row["detail"] for row in await conn.fetch("SELECT detail FROM audit_log WHERE kind = 'webhook' ORDER BY id DESC LIMIT 3")
        ]
        assert details == ["secret replaced", None, None]
        assert (await client.put(address, json={"secret": None})).json()["has_secret"] is False
        assert await conn.fetchval("SELECT secret_sealed IS NULL FROM webhooks")
        for secret in ("", "x" * 256):
            assert (await client.put(address, json={"secret": secret})).status_code == 422


@pytest.mark.parametrize(
    "url",
    [
        "", "example.org", "ftp://example.org/", "file:///etc/passwd", "http://", "http:///x", "https:example.org", "//example.org/x",
        "http://u:p@example.org/", "http://u@example.org/", "http://@example.org/", "http://example.org/#x", "http://example.org/#",
        "http://example.org:0/", "http://example.org:65536/", "http://example.org:x/", "http://[::1", "http://exämple.org/",
        "http://example.org/a b", "http://example.org/\t", "http://example.org\\@x/", "http://%6cocalhost/", "http://a,b/",
        "https://example.org/" + "x" * 2_029,
    ],
)  # fmt: skip
async def test_what_is_no_address_of_a_webhook_is_refused(rest: Rest, url: str) -> None:
    async with rest.client("admin") as client:
        refused = await client.post(WEBHOOKS, json=WEBHOOK | {"url": url})
    assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", "url"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "localhost.", "x.localhost", "127.0.0.1", "127.0.0.1.", "127.1", "127.255.255.254", "2130706433",
        "0x7f.0.0.1", "0x7f000001", "0177.0.0.1", "017700000001", "0.0.0.0", "0", "10.0.0.1", "10.1", "172.16.0.1", "172.31.255.255",
        "192.168.1.1", "169.254.169.254", "0xa9fea9fe", "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[fe80::1]",
        "[fc00::1]", "[fd12:3456::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]", "[::127.0.0.1]",
        "[64:ff9b::7f00:1]", "[64:ff9b::10.0.0.1]", "[2002:7f00:1::]", "[2002:a00:1::1]", "[2001:0:7f00:1::]", "[2001:db8::1]",
        "[fe80::1%25eth0]", "[fe80::1%eth0]", "[::1%25lo]",
    ],
)  # fmt: skip
async def test_an_address_that_is_not_public_is_refused_in_any_spelling(rest: Rest, host: str) -> None:
    async with rest.client("admin") as client:
        for url in (f"http://{host}/", f"https://{host}:8443/x?y=1"):
            refused = await client.post(WEBHOOKS, json=WEBHOOK | {"url": url})
            assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", "url"])
        webhook = await make(client)
        assert (await client.put(f"{WEBHOOKS}/{webhook['public_id']}", json={"url": f"http://{host}/"})).status_code == 422


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org", "HTTPS://Example.ORG/Hook", "https://xn--bcher-kva.example/", "http://93.184.216.34/", "https://[2606:4700::1111]/x",
        "http://example.org:8080/a?b=%C3%BC&c='\"<>", "http://a_b.example/", "https://example.org/" + "x" * 2_028,
        "http://10.example.org/", "http://localhost.example.org/", "http://172.15.255.255/", "http://192.169.0.1/",
    ],
)  # fmt: skip
async def test_a_public_address_is_taken_as_it_is(rest: Rest, url: str) -> None:
    async with rest.client("admin") as client:
        assert (await make(client, url=url))["url"] == url


@pytest.mark.parametrize("events", [[], ["sensor"], ["sensor.reading", "sensor.reading"], [None], "sensor.reading"])
async def test_a_webhook_wants_one_to_five_types(rest: Rest, events: Any) -> None:
    async with rest.client("admin") as client:
        assert (await client.post(WEBHOOKS, json=WEBHOOK | {"events": events})).status_code == 422


async def test_a_webhook_of_some_events_never_becomes_one_of_all(rest: Rest) -> None:
    async with rest.client("admin") as client:
        a, b = await make_event(client, "a"), await make_event(client, "b")
        webhook = await make(client, event_public_ids=[b, a, b])
        address = f"{WEBHOOKS}/{webhook['public_id']}"
        assert webhook["event_public_ids"] == [a, b]
        assert (await client.put(address, json={"name": "x"})).json()["event_public_ids"] == [a, b]
        assert (await client.put(address, json={"event_public_ids": [a]})).json()["event_public_ids"] == [a]
        assert (await client.delete(f"/api/v1/events/{a}")).status_code == 204
        assert (await client.get(address)).json()["event_public_ids"] == []
        refused = await client.put(address, json={"event_public_ids": [b, a]})
        assert (refused.status_code, refused.json()["errors"][0]["loc"]) == (422, ["body", "event_public_ids", 1])
        assert (await client.put(address, json={"event_public_ids": None})).json()["event_public_ids"] is None


async def add_deliveries(rest: Rest, webhook: dict[str, Any], *statuses: str) -> list[str]:
    """Records as the engine leaves them, the oldest first. Answers their public ids."""
    made = []
    async with rest.connection() as conn:
        for n, status in enumerate(statuses):
            made.append(uuid7())
            await conn.execute(
                """INSERT INTO webhook_deliveries (public_id, webhook_id, event_type, payload, status, attempts, next_attempt_on,
                                                   response_code, duration_ms, last_error, created_on, delivered_on)
                   SELECT $1, id, 'sensor.reading', $3, $4, 3, CASE WHEN $4 = 'pending' THEN $5::timestamptz END, 500, 12, 'no', $5,
                          CASE WHEN $4 = 'delivered' THEN $5 END FROM webhooks WHERE public_id = $2""",
                made[-1], UUID(webhook["public_id"]), f'{{"n": {n},  "unit": "°C"}}', status, NOON,
            )  # fmt: skip
    return [str(one) for one in made]


async def test_deliveries_are_listed_by_cursor_and_status_and_shown_with_their_payload(rest: Rest) -> None:
    async with rest.client("admin") as client:
        webhook = await make(client)
        other = await make(client, url="https://example.org/other")
        ids = await add_deliveries(rest, webhook, "delivered", "failed", "pending", "failed")
        await add_deliveries(rest, other, "failed")
        address = f"{WEBHOOKS}/{webhook['public_id']}/deliveries"

        async def listed(**query: Any) -> tuple[str | None, list[str]]:
            page = (await client.get(address, params=query)).json()
            assert all("payload" not in one for one in page["data"])
            return page["next"], [one["public_id"] for one in page["data"]]

        cursor, newest = await listed(limit=3)
        assert newest == ids[:0:-1]
        assert await listed(limit=3, cursor=cursor) == (None, ids[:1])
        assert await listed(status="failed") == (None, [ids[3], ids[1]])
        assert await listed(status="dead_letter") == (None, [])
        assert await listed(**{"from": "2026-11-24T12:00:00Z"}) == (None, ids[::-1])
        assert await listed(to="2026-11-24T12:00:00Z", status="failed") == (None, [])
        assert (await client.get(address, params={"status": "gone"})).status_code == 422
        answer = await client.get(f"{WEBHOOKS}/deliveries/{ids[1]}")
        assert '"payload":{"n": 1,  "unit": "°C"}' in answer.text
        delivery = answer.json()
        assert delivery == delivery | {
            "webhook_public_id": webhook["public_id"], "event_type": "sensor.reading", "status": "failed", "attempts": 3,
            "last_error": "no", "next_attempt_on": None, "response_code": 500, "duration_ms": 12, "created_on": "2026-11-24T12:00:00Z",
            "delivered_on": None,
        }  # fmt: skip
        assert (await client.get(f"{WEBHOOKS}/{ids[0]}/deliveries")).status_code == 404
        assert (await client.get(f"{WEBHOOKS}/deliveries/{webhook['public_id']}")).status_code == 404


@pytest.mark.parametrize(("status", "answered"), [("failed", 200), ("dead_letter", 200), ("pending", 409), ("delivered", 409)])
async def test_only_what_was_given_up_is_delivered_again(rest: Rest, status: str, answered: int) -> None:
    async with rest.client("admin") as client:
        (public_id,) = await add_deliveries(rest, await make(client), status)
        address = f"{WEBHOOKS}/deliveries/{public_id}"
        before = (await client.get(address)).json()
        answer = await client.post(f"{address}/redeliver")
        assert answer.status_code == answered
        after = (await client.get(address)).json()
        if answered == 409:
            assert after == before
        else:
            assert after == answer.json() == before | {"status": "pending", "attempts": 0, "next_attempt_on": after["next_attempt_on"]}
            assert after["next_attempt_on"] > before["created_on"]
            assert (await client.post(f"{address}/redeliver")).status_code == 409


async def test_deliveries_go_with_their_webhook(rest: Rest) -> None:
    async with rest.client("admin") as client:
        webhook = await make(client)
        (public_id,) = await add_deliveries(rest, webhook, "failed")
        assert (await client.delete(f"{WEBHOOKS}/{webhook['public_id']}")).status_code == 204
        assert (await client.get(f"{WEBHOOKS}/deliveries/{public_id}")).status_code == 404


async def test_operators_do_not_see_webhooks(rest: Rest) -> None:
    async with rest.client("admin") as admin, rest.client("operator") as client:
        webhook = await make(admin)
        for path in ("", f"/{webhook['public_id']}", f"/{webhook['public_id']}/deliveries"):
            assert (await client.get(WEBHOOKS + path)).status_code == 403
