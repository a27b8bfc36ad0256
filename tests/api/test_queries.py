"""What a request costs the database: a list is one statement with its total, however many rows it has. The lists are those of ROUTES."""

import typing
from typing import Any

import pytest
from parts.queries import Queries, counting
from parts.rest import Rest

from webmacs import app
from webmacs.api import events
from webmacs.http.page import CursorPage, Page

LENGTHS = {Page: "page_size", CursorPage: "limit"}
LISTS = {one.path: LENGTHS[kind] for one in app.ROUTES if one.method == "GET" and (kind := typing.get_origin(one.returns)) in LENGTHS}
MANY = 50
EACH = "SELECT gen_random_uuid(), 'row ' || n"
ROWS = {
    "/api/v1/audit": "INSERT INTO audit_log (at, action, kind, actor_kind) SELECT now(), 'read', 'row', 'system' FROM {n}",
    "/api/v1/events": f"INSERT INTO events (public_id, name, type, unit) {EACH}, 'sensor', 'bar' FROM {{n}}",
    "/api/v1/experiments": f"INSERT INTO experiments (public_id, name, started_on, stopped_on) {EACH}, now(), now() + '1 s' FROM {{n}}",
    "/api/v1/plugins": (
        "INSERT INTO plugin_instances (public_id, name, source_id, plugin_id, created_on, changed_on)"
        f" {EACH}, (SELECT min(id) FROM sources), 'x', now(), now() FROM {{n}}"
    ),
    "/api/v1/plugins/packages": (
        "INSERT INTO plugin_packages (public_id, name, version, summary, plugin_ids, file_name, size, sha256, created_on)"
        f" {EACH}, '1', '', ARRAY['x'], 'x.whl', 1, 'sha ' || n, now() FROM {{n}}"
    ),
    "/api/v1/sources": f"INSERT INTO sources (public_id, name, credential_hash) {EACH}, sha256(n::text::bytea) FROM {{n}}",
}
"""By the path of a list: SQL that makes its rows. {n} stands for a series of numbers."""


async def make_rows(rest: Rest, path: str, first: int, last: int) -> None:
    assert path in ROWS, f"Say in ROWS how rows of {path} are made, so that its statements can be counted."
    async with rest.connection() as conn:
        await conn.execute(ROWS[path].format(n=f"generate_series({first}, {last}) n"))


async def statements(rest: Rest, queries: Queries, method: str, path: str, **more: Any) -> list[str]:
    """Those of a request of an administrator who is known already."""
    async with rest.client("admin") as admin:
        await admin.get("/api/v1/auth/me")
        response, sent = await queries.of(admin, method, path, **more)
        assert response.is_success, response.text
        return sent


@pytest.mark.parametrize(("path", "length"), LISTS.items())
async def test_a_list_is_one_statement_however_long_it_is(rest: Rest, path: str, length: str) -> None:
    async with counting(rest) as queries, rest.client("admin") as admin:
        await admin.get(path)  # a connection's first look at a type is a statement of the driver's own
        counted = []
        for first, last in ((1, 1), (2, MANY)):
            await make_rows(rest, path, first, last)
            counted.append(await statements(rest, queries, "GET", f"{path}?{length}={MANY}"))
        assert len((await admin.get(f"{path}?{length}={MANY}")).json()["data"]) == MANY
    assert [len(sent) for sent in counted] == [1, 1], counted


async def test_who_asks_is_one_statement_and_then_none(rest: Rest) -> None:
    async with counting(rest) as queries, rest.client("viewer") as viewer:
        rest.app.state.parts.known.forget()
        _, first = await queries.of(viewer, "GET", "/api/v1/gaps")
        _, second = await queries.of(viewer, "GET", "/api/v1/gaps")
    assert (len(first), len(second)) == (2, 1)


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


async def test_a_list_that_asks_again_for_each_row_is_found_out(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_page = events.fetch_page

    async def asking_again(pool: Any, *more: Any) -> Any:
        total, rows = await fetch_page(pool, *more)
        for row in rows:
            await pool.fetchval("SELECT name FROM events WHERE id = $1", row["id"])
        return total, rows

    monkeypatch.setattr(events, "fetch_page", asking_again)
    await make_rows(rest, "/api/v1/events", 101, 107)
    async with counting(rest) as queries:
        assert len(await statements(rest, queries, "GET", "/api/v1/events?page_size=7")) == 1 + 7
