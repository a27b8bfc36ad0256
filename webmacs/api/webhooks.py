"""Webhooks: addresses of others that are told what happens here, and the outbox of what they were told or are to be told."""

import ipaddress
import re
import socket
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock, keys
from webmacs.http.page import CursorPage, Page, PageQuery, TimesQuery, fetch_after, fetch_page
from webmacs.http.problem import Conflict, NotFound, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import LABEL, Shape, Timestamp, of_row
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

WebhookEventType: TypeAlias = Literal[
    "sensor.reading", "sensor.threshold_exceeded", "experiment.started", "experiment.stopped", "system.health_changed"
]
DeliveryStatus: TypeAlias = Literal["pending", "delivered", "failed", "dead_letter"]

Name = Annotated[str, Meta(max_length=200, pattern=LABEL)]
Description = Annotated[str, Meta(max_length=10_000)]
Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=2_048,
        description="http or https, without user, password or fragment. Addresses of private networks and of this machine are refused.",
        examples=["https://example.org/hooks/webmacs"],
    ),
]
Secret = Annotated[str, Meta(min_length=1, max_length=255, description="Signs what is sent. It is never shown again.")] | None
Types = Annotated[list[WebhookEventType], Meta(min_length=1, max_length=5, description="What it is told of; each once.")]
Scope = Annotated[list[UUID], Meta(max_length=10_000, description="Only what concerns these events; null: every event.")] | None

VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
HOST: Final = re.compile(r"[a-z0-9._-]+|[a-f0-9:.]+")
"""A name or an address; what stands in brackets has none of a zone."""


class WebhookIn(Shape, frozen=True):
    url: Url
    events: Types
    name: Name = ""
    description: Description = ""
    secret: Secret = None
    event_public_ids: Scope = None
    enabled: bool = True


class WebhookChange(Shape, frozen=True):
    """What is not given stays as it is, the secret too; null takes it away."""

    url: Url | UnsetType = UNSET
    events: Types | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    secret: Secret | UnsetType = UNSET
    event_public_ids: Scope | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class Webhook(msgspec.Struct, frozen=True):
    public_id: UUID
    name: str
    description: str
    url: str
    events: list[WebhookEventType]
    event_public_ids: Annotated[list[UUID] | None, Meta(description="null: every event. An event that is deleted goes from the list.")]
    has_secret: bool
    enabled: bool
    created_on: Timestamp
    changed_on: Timestamp
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class WebhooksQuery(PageQuery, frozen=True):
    sort: Literal["name", "-name", "url", "-url", "created_on", "-created_on", "changed_on", "-changed_on"] = "url"
    enabled: Annotated[bool | None, Meta(description="Only those that are enabled, or only those that are not.")] = None


class Delivery(msgspec.Struct, frozen=True):
    public_id: Annotated[UUID, Meta(description="The receiver sees it, too: by it a repetition is known.")]
    event_type: WebhookEventType
    status: Annotated[
        DeliveryStatus,
        Meta(description="pending: it is or will be tried; failed: refused for good; dead_letter: tried too often without success."),
    ]
    attempts: int
    next_attempt_on: Annotated[Timestamp | None, Meta(description="null unless pending.")]
    response_code: Annotated[int | None, Meta(description="HTTP status of the last attempt's answer.")]
    duration_ms: Annotated[int | None, Meta(description="How long the last attempt took.")]
    last_error: str | None
    created_on: Timestamp
    delivered_on: Timestamp | None


class DeliveryWithPayload(Delivery, frozen=True):
    webhook_public_id: UUID
    payload: Annotated[msgspec.Raw, Meta(description="The body, as it is sent.")]


class DeliveriesQuery(TimesQuery, frozen=True):
    status: Annotated[DeliveryStatus | None, Meta(description="Only deliveries with this status.")] = None


SELECT: Final = """
    SELECT w.id, w.public_id, w.name, w.description, w.url, w.events, w.secret_sealed IS NOT NULL AS has_secret, w.enabled, w.created_on,
           w.changed_on, w.version,
           CASE WHEN w.scoped THEN ARRAY(
               SELECT e.public_id FROM webhook_events m JOIN events e ON e.id = m.event_id WHERE m.webhook_id = w.id ORDER BY e.id
           ) END AS event_public_ids
      FROM webhooks w
"""
SELECT_DELIVERY: Final = """
    SELECT d.id, d.public_id, w.public_id AS webhook_public_id, d.event_type, d.status, d.attempts, d.next_attempt_on, d.response_code,
           d.duration_ms, d.last_error, d.created_on, d.delivered_on, d.payload
      FROM webhook_deliveries d JOIN webhooks w ON w.id = d.webhook_id
"""


@route("GET", "/api/v1/webhooks")
async def list_webhooks(call: Call[None, WebhooksQuery]) -> Page[Webhook]:
    """List webhooks. `search` looks into names and addresses, ignoring the case of a to z."""
    query = call.query
    matching = SELECT + " WHERE strpos(lower(w.name || ' ' || w.url), lower($1)) > 0 AND ($2::bool IS NULL OR w.enabled = $2)"
    total, rows = await fetch_page(call.pool, matching, [query.search, query.enabled], query, query.sort)
    return Page(query.page, query.page_size, total, [of_row(Webhook, row) for row in rows])


@route("POST", "/api/v1/webhooks", status=201, problems=(409,), changes="webhook")
async def create_webhook(call: Call[WebhookIn]) -> Webhook:
    """Create a webhook. Its secret is sealed and never answered."""
    new, public_id = call.body, uuid7()
    check_url(new.url)
    _check_types(new.events)
    try:
        webhook_id = await call.conn.fetchval(
            """INSERT INTO webhooks (public_id, name, description, url, events, secret_sealed, scoped, enabled, created_on, changed_on)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9) RETURNING id""",
            public_id, new.name, new.description, new.url, new.events, _sealed(call, public_id, new.secret),
            new.event_public_ids is not None, new.enabled, clock.now(),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken() from None
    if new.event_public_ids is not None:
        await _set_scope(call.conn, webhook_id, new.event_public_ids)
    return call.changed(None, await _read(call.conn, public_id))


@route("GET", "/api/v1/webhooks/{public_id}")
async def get_webhook(call: Call) -> Webhook:
    """Read a webhook."""
    return await _read(call.pool, call.public_id)


@route("PUT", "/api/v1/webhooks/{public_id}", problems=(409,), changes="webhook")
async def change_webhook(call: Call[WebhookChange]) -> Webhook:
    """Change a webhook. Fields that are not given stay, the secret too."""
    asked, before = call.body, await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    wanted = {
        name: getattr(before, name) if (value := getattr(asked, name)) is UNSET else value
        for name in ("url", "events", "name", "description", "enabled", "event_public_ids")
    }
    check_url(wanted["url"])
    _check_types(wanted["events"])
    secret = None if asked.secret is UNSET else _sealed(call, call.public_id, asked.secret)
    try:
        webhook_id = await call.conn.fetchval(
            """UPDATE webhooks SET url = $2, events = $3, name = $4, description = $5, enabled = $6, scoped = $7,
                                   secret_sealed = CASE WHEN $8 THEN $9 ELSE secret_sealed END, changed_on = $10, version = version + 1
                WHERE public_id = $1 RETURNING id""",
            call.public_id, wanted["url"], wanted["events"], wanted["name"], wanted["description"], wanted["enabled"],
            wanted["event_public_ids"] is not None, asked.secret is not UNSET, secret, clock.now(),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken() from None
    if asked.event_public_ids is not UNSET:
        await _set_scope(call.conn, webhook_id, asked.event_public_ids or [])
    replaced = None if asked.secret in (UNSET, None) else "secret replaced"  # that it is taken away, the states show
    return call.changed(before, await _read(call.conn, call.public_id), detail=replaced)


@route("DELETE", "/api/v1/webhooks/{public_id}", changes="webhook")
async def delete_webhook(call: Call) -> None:
    """Delete a webhook and the records of its deliveries."""
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    await call.conn.execute("DELETE FROM webhooks WHERE public_id = $1", call.public_id)
    call.changed(before, None)


@route("GET", "/api/v1/webhooks/{public_id}/deliveries")
async def list_deliveries(call: Call[None, DeliveriesQuery]) -> CursorPage[Delivery]:
    """List what a webhook was told or is to be told, the newest first."""
    webhook_id = await call.pool.fetchval("SELECT id FROM webhooks WHERE public_id = $1", call.public_id)
    if webhook_id is None:
        raise NotFound("webhook")
    conditions = """ WHERE d.webhook_id = $1 AND ($2::timestamptz IS NULL OR d.created_on >= $2)
                      AND ($3::timestamptz IS NULL OR d.created_on < $3)"""
    arguments = [webhook_id, call.query.start, call.query.end]
    if call.query.status is not None:
        conditions, arguments = conditions + " AND d.status = $4", [*arguments, call.query.status]
    cursor, rows = await fetch_after(call.pool, SELECT_DELIVERY + conditions, arguments, call.query)
    return CursorPage(cursor, [of_row(Delivery, row) for row in rows])


@route("GET", "/api/v1/webhooks/deliveries/{delivery_id}")
async def get_delivery(call: Call) -> DeliveryWithPayload:
    """Read a delivery with its payload."""
    return await _read_delivery(call.pool, call.path["delivery_id"])


@route("POST", "/api/v1/webhooks/deliveries/{delivery_id}/redeliver", problems=(409,), changes="webhook delivery")
async def redeliver(call: Call) -> DeliveryWithPayload:
    """Try a delivery again that was given up."""
    before = await _read_delivery(call.conn, call.path["delivery_id"], lock=True)
    if before.status not in ("failed", "dead_letter"):
        raise Conflict(f"This delivery is {before.status}; only one that was given up (failed, dead_letter) can be tried again.")
    now = clock.now()
    await call.conn.execute(
        "UPDATE webhook_deliveries SET status = 'pending', attempts = 0, next_attempt_on = $2 WHERE public_id = $1", before.public_id, now
    )
    delivery = msgspec.structs.replace(before, status="pending", attempts=0, next_attempt_on=now)
    call.changed(_without_payload(before), _without_payload(delivery), action="redeliver")
    return delivery


async def leave_out(call: Call[Any, Any], event_id: int) -> None:
    """An event is deleted: webhooks that are told of it among others are told of these others."""
    told = " WHERE w.id IN (SELECT webhook_id FROM webhook_events WHERE event_id = $1) ORDER BY w.id FOR UPDATE OF w"
    before = await call.conn.fetch(SELECT + told, event_id)
    if not before:
        return
    ids = [row["id"] for row in before]
    await call.conn.execute(
        """WITH scope AS (DELETE FROM webhook_events WHERE event_id = $2)
           UPDATE webhooks SET changed_on = $3, version = version + 1 WHERE id = ANY($1)""",
        ids, event_id, clock.now(),
    )  # fmt: skip
    after = await call.conn.fetch(SELECT + " WHERE w.id = ANY($1) ORDER BY w.id", ids)
    for old, new in zip(before, after, strict=True):
        call.changed(of_row(Webhook, old), of_row(Webhook, new), kind="webhook")


async def read_all(conn: Connection) -> list[Webhook]:
    return [of_row(Webhook, row) for row in await conn.fetch(SELECT)]


def check_url(url: str) -> None:
    """Raises Unprocessable for what is no address of a webhook. Names are judged when they are resolved, at each delivery; a literal
    address that is not public is refused at once."""

    def refuse(msg: str) -> Unprocessable:
        return Unprocessable.at("body", "url", msg=msg)

    if not VISIBLE.fullmatch(url) or "\\" in url:
        raise refuse("It has visible ASCII characters only and no backslash; write others as %C3%BC, and names of hosts as xn--...")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise refuse(f"It is no URL: {error}.") from None
    if "@" in parts.netloc:
        raise refuse("It names no user and no password; what is sent is signed with the secret instead.")
    if parts.scheme not in ("http", "https") or not host or not HOST.fullmatch(host) or port == 0:
        raise refuse("It begins with http:// or https:// and the name or the address of a host.")
    if "#" in url:
        raise refuse("It has no fragment (#...), which would not be sent.")
    if not _may_be_public(host):
        raise refuse(f"{host} is an address of this machine or of a private network; give a public one.")


def _may_be_public(host: str) -> bool:
    """False for a literal address that is not public, in any spelling, and for names of this machine."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return False
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(name))  # 127.1, 0x7f.0.0.1 and 2130706433, as resolvers read them
        except OSError:
            return True
    return all(one.is_global and not one.is_multicast for one in (address, *_embedded(address)))


def _embedded(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The addresses of IPv4 to which one of IPv6 leads."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64 or address in IPV4_COMPATIBLE:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return [one for one in found if one is not None]


NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
IPV4_COMPATIBLE: Final = ipaddress.ip_network("::/96")


def _check_types(types: list[WebhookEventType]) -> None:
    if len(set(types)) != len(types):
        raise Unprocessable.at("body", "events", msg="A type stands there twice; name each once.")


def _sealed(call: Call[Any, Any], public_id: UUID, secret: str | None) -> bytes | None:
    return None if secret is None else keys.seal(call.parts.sealing_key, secret.encode(), b"webhooks/" + public_id.bytes)


async def _set_scope(conn: Connection, webhook_id: int, public_ids: list[UUID]) -> None:
    """Raises Unprocessable naming the first event that does not exist."""
    rows = await conn.fetch(
        "SELECT id, public_id FROM events WHERE public_id = ANY($1::uuid[]) AND deleted_on IS NULL FOR KEY SHARE", public_ids
    )
    known = {row["public_id"]: row["id"] for row in rows}
    for index, public_id in enumerate(public_ids):
        if public_id not in known:
            raise Unprocessable.at("body", "event_public_ids", index, msg=f"There is no event {public_id}.")
    await conn.execute("DELETE FROM webhook_events WHERE webhook_id = $1", webhook_id)
    await conn.execute("INSERT INTO webhook_events SELECT $1, unnest($2::int4[])", webhook_id, list(known.values()))


async def _read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> Webhook:
    """Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE w.public_id = $1" + (" FOR UPDATE OF w" if lock else ""), public_id)
    if row is None:
        raise NotFound("webhook")
    return of_row(Webhook, row)


async def _read_delivery(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> DeliveryWithPayload:
    """Raises NotFound."""
    row = await database.fetchrow(SELECT_DELIVERY + " WHERE d.public_id = $1" + (" FOR UPDATE OF d" if lock else ""), public_id)
    if row is None:
        raise NotFound("delivery")
    return of_row(DeliveryWithPayload, row, payload=msgspec.Raw(row["payload"].encode()))


def _without_payload(delivery: DeliveryWithPayload) -> Delivery:
    return Delivery(**{name: getattr(delivery, name) for name in Delivery.__struct_fields__})


def _taken() -> Conflict:
    return Conflict("There is a webhook with this address already; change that one, or give another address.")


routes = [
    list_webhooks, create_webhook, get_webhook, change_webhook, delete_webhook,
    list_deliveries, get_delivery, redeliver,
]  # fmt: skip
