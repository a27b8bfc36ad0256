"""What a request costs the database: a list is one statement with its total, however many rows it has. The lists are those of ROUTES."""

import typing
from typing import Any

import pytest
from parts.queries import Queries, counting
from parts.rest import Rest

from webmacs import app
from webmacs.api.events import event
from webmacs.http import known
from webmacs.http.page import CursorPage, Page

LENGTHS = {Page: "page_size", CursorPage: "limit"}
LISTS = {
    one.path: LENGTHS[kind]
    for one in app.ROUTES
    if one.method == "GET" and (kind := typing.get_origin(one.returns)) in LENGTHS and one.path != "/api/v1/datapoints"
}
"""Readings come out of runs and are counted apart."""
MANY = 50
EACH = "SELECT gen_random_uuid(), 'row ' || n"
ROWS = {
    "/api/v1/annotations": (
        "INSERT INTO annotations (public_id, text, from_on, scoped, author_name, author_public_id, created_on, changed_on)"
        f" {EACH}, now(), false, 'ann', gen_random_uuid(), now(), now() FROM {{n}}"
    ),
    "/api/v1/audit": "INSERT INTO audit_log (at, action, kind, actor_kind) SELECT now(), 'read', 'row', 'system' FROM {n}",
    "/api/v1/dashboards": (
        "INSERT INTO dashboards (public_id, name, description, tags, is_global, owner_name, created_on, changed_on)"
        f" {EACH}, '', '{{{{}}}}', true, 'ann', now(), now() FROM {{n}}"
    ),
    "/api/v1/events": f"INSERT INTO events (public_id, name, type, unit) {EACH}, 'sensor', 'bar' FROM {{n}}",
    "/api/v1/experiments": (
        "INSERT INTO experiments (public_id, name, started_on, stopped_on)"
        f" {EACH}, now() - interval '2 s', now() - interval '1 s' FROM {{n}}"
    ),
    "/api/v1/experiments/{public_id}/summary": (
        "WITH made AS (INSERT INTO events (public_id, name, type, unit)"
        " SELECT gen_random_uuid(), 'scoped ' || n, 'sensor', 'bar' FROM {n} RETURNING id)"
        " INSERT INTO experiment_events SELECT (SELECT min(id) FROM experiments), id, gen_random_uuid(), '' FROM made"
    ),
    "/api/v1/gaps": "INSERT INTO gaps (from_on, to_on, n, cause) SELECT now(), now(), 1, 'spool_overflow' FROM {n}",
    "/api/v1/jobs": (
        f"INSERT INTO jobs (public_id, kind, subject, parameters, state, finished_on) {EACH}, 'x', '{{{{}}}}', 'done', now() FROM {{n}}"
    ),
    "/api/v1/logging": (
        "WITH made AS (INSERT INTO log_entries (public_id, content, created_on, logging_type, author_kind)"
        f" {EACH}, now(), 'info', 'system' FROM {{n}} RETURNING id, created_on)"
        " INSERT INTO log_status (entry_id, created_on) SELECT id, created_on FROM made"
    ),
    "/api/v1/ota": f"INSERT INTO firmware_updates (public_id, version, changelog, created_on) {EACH}, '', now() FROM {{n}}",
    "/api/v1/plugins": (
        "INSERT INTO plugin_instances (public_id, name, source_id, plugin_id, created_on, changed_on)"
        f" {EACH}, (SELECT min(id) FROM sources), 'x', now(), now() FROM {{n}}"
    ),
    "/api/v1/plugins/packages": (
        "INSERT INTO plugin_packages (public_id, name, version, summary, plugin_ids, file_name, size, sha256, created_on)"
        f" {EACH}, '1', '', ARRAY['x'], 'x.whl', 1, 'sha ' || n, now() FROM {{n}}"
    ),
    "/api/v1/rules": (
        f"INSERT INTO rules (public_id, name, event_id, operator, threshold) {EACH}, (SELECT min(id) FROM events), 'gt', 1 FROM {{n}}"
    ),
    "/api/v1/rules/{public_id}/transitions": (
        "INSERT INTO rule_transitions (rule_id, fired, at, value) SELECT (SELECT min(id) FROM rules), true, now(), n FROM {n}"
    ),
    "/api/v1/sources": f"INSERT INTO sources (public_id, name, credential_hash) {EACH}, sha256(n::text::bytea) FROM {{n}}",
    "/api/v1/tokens": (
        "INSERT INTO api_tokens (public_id, name, user_id, hash, role, scopes, created_on)"
        f" {EACH}, (SELECT id FROM users WHERE username = 'admin'), sha256(n::text::bytea), 'viewer', ARRAY['read'], now() FROM {{n}}"
    ),
    "/api/v1/users": (
        f"INSERT INTO users (public_id, username, email, password_hash, role) {EACH}, n || '@rows.example.org', '', 'viewer' FROM {{n}}"
    ),
    "/api/v1/versions": (
        "INSERT INTO versions (kind, object_public_id, version, at, content) SELECT 'event', gen_random_uuid(), 1, now(), '{{}}' FROM {n}"
    ),
    "/api/v1/webhooks": (
        "INSERT INTO webhooks (public_id, name, url, description, events, scoped, enabled, created_on, changed_on)"
        f" {EACH}, 'https://example.org/' || n, '', ARRAY['sensor.reading'], false, true, now(), now() FROM {{n}}"
    ),
    "/api/v1/webhooks/{public_id}/deliveries": (
        "INSERT INTO webhook_deliveries (public_id, webhook_id, event_type, payload, next_attempt_on, created_on)"
        " SELECT gen_random_uuid(), (SELECT min(id) FROM webhooks), 'sensor.reading', '{{}}', now() + '1 day', now() FROM {n}"
    ),
}
"""By the path of a list: SQL that makes its rows. {n} stands for a series of numbers."""
SEVERAL = {"/api/v1/experiments/{public_id}/summary": 3}
"""A list below a thing looks for that first; the summary of an experiment also reads runs and gaps."""
PARENTS = {
    "/api/v1/experiments/{public_id}": (
        "INSERT INTO experiments (public_id, name, started_on, stopped_on, scoped)"
        " SELECT gen_random_uuid(), 'parent', now(), now() + '1 s', true",
        "experiments",
    ),
    "/api/v1/rules/{public_id}": (
        "WITH made AS (INSERT INTO events (public_id, name, type, unit) SELECT gen_random_uuid(), 'parent', 'sensor', '' RETURNING id)"
        " INSERT INTO rules (public_id, name, event_id, operator, threshold) SELECT gen_random_uuid(), 'parent', id, 'gt', 1 FROM made",
        "rules",
    ),
    "/api/v1/webhooks/{public_id}": (
        "INSERT INTO webhooks (public_id, name, url, description, events, scoped, enabled, created_on, changed_on) SELECT"
        " gen_random_uuid(), 'parent', 'https://example.org', '', ARRAY['sensor.reading'], false, true, now(), now()",
        "webhooks",
    ),
}
"""By the path of the thing that has lists below it: SQL that makes the first one, and its table."""


@pytest.fixture(scope="module", autouse=True)
async def parents(rest: Rest) -> dict[str, str]:
    """The address of one of each."""
    made = {}
    async with rest.connection() as conn:
        for path, (statement, table) in PARENTS.items():
            await conn.execute(statement)
            public_id = await conn.fetchval(f"SELECT public_id FROM {table} ORDER BY id LIMIT 1")
            made[path] = path.replace("{public_id}", str(public_id))
    return made


async def make_rows(rest: Rest, path: str, first: int, last: int) -> None:
    assert path in ROWS, f"Say in ROWS how rows of {path} are made, so that its statements can be counted."
    async with rest.connection() as conn:
        await conn.execute(ROWS[path].format(n=f"generate_series({first}, {last}) n"))


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is known throughout, however slow the machine is."""
    monkeypatch.setattr(known, "KEPT_S", 3_600.0)


async def statements(rest: Rest, queries: Queries, method: str, path: str, **more: Any) -> list[str]:
    """Those of a request of an administrator who is known already."""
    async with rest.client("admin") as admin:
        await admin.get("/api/v1/auth/me")
        response, sent = await queries.of(admin, method, path, **more)
        assert response.is_success, response.text
        return sent


@pytest.mark.parametrize(("path", "length"), LISTS.items())
async def test_a_list_is_one_statement_however_long_it_is(rest: Rest, parents: dict[str, str], path: str, length: str) -> None:
    address = path
    for parent, made in parents.items():
        address = address.replace(parent, made)
    async with counting(rest) as queries, rest.client("admin") as admin:
        counted = []
        for first, last in ((1, 1), (2, MANY)):
            await make_rows(rest, path, first, last)
            await admin.get(address)  # a connection's first look at a type is a statement of the driver's own
            counted.append(await statements(rest, queries, "GET", f"{address}?{length}={MANY}"))
        assert len((await admin.get(f"{address}?{length}={MANY}")).json()["data"]) == MANY
    allowed = SEVERAL.get(path, 2 if "{" in path else 1)
    assert [len(sent) for sent in counted] == [allowed, allowed], counted


async def test_who_asks_is_one_statement_and_then_none(rest: Rest) -> None:
    async with counting(rest) as queries, rest.client("viewer") as viewer:
        rest.app.state.parts.known.forget()
        _, first = await queries.of(viewer, "GET", "/api/v1/gaps")
        _, second = await queries.of(viewer, "GET", "/api/v1/gaps")
    assert (len(first), len(second)) == (2, 1)


async def test_a_page_of_readings_costs_the_same_however_many_there_are(rest: Rest) -> None:
    async with counting(rest) as queries, rest.client("admin") as admin:
        event = (await admin.post("/api/v1/events", json={"name": "read", "type": "sensor", "unit": ""})).json()["public_id"]
        address, counted = f"/api/v1/datapoints?event_public_ids={event}&limit={MANY}", []
        for count in (1, 4_000):
            readings = [{"event_public_id": event, "value": value} for value in range(count)]
            stored = await admin.post("/api/v1/datapoints/batch", json={"datapoints": readings})
            assert stored.json()["accepted"] == count
            await admin.get(address)
            counted.append(len(await statements(rest, queries, "GET", address)))
    assert counted[0] == counted[1]


async def test_one_object_is_one_statement(rest: Rest) -> None:
    async with counting(rest) as queries, rest.client("admin") as admin:
        address = (await admin.post("/api/v1/events", json={"name": "one", "type": "sensor", "unit": ""})).headers["location"]
        assert len(await statements(rest, queries, "GET", address)) == 1


async def test_a_change_costs_three_round_trips_besides_its_own(rest: Rest) -> None:
    """Its beginning, what it leaves behind (audit row, version, word of it), and its commit."""
    async with counting(rest) as queries:
        new = {"name": "another", "type": "sensor", "unit": ""}
        sent = await statements(rest, queries, "POST", "/api/v1/events", json=new)
        insert, select = sent[1:3]
        assert (insert.startswith("INSERT INTO events"), select.startswith("SELECT e.id")) == (True, True)
        assert (sent[0], sent[-1]) == ("BEGIN;", "COMMIT;")
        assert [line for line in sent if "INSERT INTO audit_log" in line and "INSERT INTO versions" in line and "pg_notify" in line] == [
            sent[3]
        ]
        assert len(sent) == 5


async def test_deleting_an_event_costs_the_same_however_much_names_it(rest: Rest) -> None:
    counted = []
    async with counting(rest) as queries, rest.client("admin") as admin:
        for times in (1, 5):
            event = (await admin.post("/api/v1/events", json={"name": "named", "type": "sensor", "unit": ""})).json()["public_id"]
            for n in range(times):
                rule = {"name": f"naming {n}", "event_public_id": event, "operator": "gt", "threshold": 1}
                hook = {"url": f"https://example.org/named/{event}/{n}", "events": ["sensor.reading"], "event_public_ids": [event]}
                dashboard = (await admin.post("/api/v1/dashboards", json={"name": f"showing {n}"})).headers["location"]
                widget = {"config": {"widget_type": "gauge"}, "event_public_ids": [event]}
                for path, body in (("/api/v1/rules", rule), ("/api/v1/webhooks", hook), (f"{dashboard}/widgets", widget)):
                    assert (await admin.post(path, json=body)).status_code == 201
            counted.append(len(await statements(rest, queries, "DELETE", f"/api/v1/events/{event}")))
    assert counted[0] == counted[1]


async def test_a_list_that_asks_again_for_each_row_is_found_out(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_page = event.fetch_page

    async def asking_again(pool: Any, *more: Any) -> Any:
        total, rows = await fetch_page(pool, *more)
        for row in rows:
            await pool.fetchval("SELECT name FROM events WHERE id = $1", row["id"])
        return total, rows

    monkeypatch.setattr(event, "fetch_page", asking_again)
    await make_rows(rest, "/api/v1/events", 101, 107)
    async with counting(rest) as queries:
        assert len(await statements(rest, queries, "GET", "/api/v1/events?page_size=7")) == 1 + 7


async def test_what_only_inserts_is_one_round_trip(rest: Rest) -> None:
    """Its rows and what it leaves behind go in together; with a key, or on trial, there is a transaction around them."""
    async with counting(rest) as queries:
        new = {"content": "Filter exchanged."}
        (sent,) = await statements(rest, queries, "POST", "/api/v1/logging", json=new)
        assert ("INSERT INTO log_entries" in sent, "INSERT INTO audit_log" in sent) == (True, True)
        tried = await statements(rest, queries, "POST", "/api/v1/logging?dry_run=true", json=new)
        assert (tried[0], tried[-1]) == ("BEGIN;", "ROLLBACK;")
    async with rest.client("admin") as admin:
        entries = (await admin.get("/api/v1/logging?search=exchanged")).json()["data"]
        audited = (await admin.get("/api/v1/audit?kind=log entry")).json()["data"]
    assert len(entries) == 1
    assert [one["object_public_id"] for one in audited if one["action"] == "create"] == [entries[0]["public_id"]]
