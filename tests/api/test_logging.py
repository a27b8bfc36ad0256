"""The log over REST: written once, never changed, found by type, time, words and whether it was read."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from parts.rest import Rest

from webmacs.api import logging

LOG = "/api/v1/logging"


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM log_entries")


async def write(client: Any, *contents: str, logging_type: str = "info") -> list[dict[str, Any]]:
    written = [await client.post(LOG, json={"content": content, "logging_type": logging_type}) for content in contents]
    assert {answer.status_code for answer in written} <= {201}
    return [answer.json() for answer in written]


async def found(client: Any, **query: Any) -> list[str]:
    answer = await client.get(LOG, params=query)
    assert answer.status_code == 200, answer.text
    return [entry["content"] for entry in answer.json()["data"]]


async def test_an_entry_says_who_wrote_it_and_is_unread(rest: Rest) -> None:
    async with rest.client("operator") as client:
        made = await client.post(LOG, json={"content": "Filter exchanged."})
        entry = made.json()
        expected = {"content": "Filter exchanged.", "logging_type": "info", "status": "unread", "author": "operator", "author_kind": "user"}
        assert entry == expected | {"public_id": entry["public_id"], "created_on": entry["created_on"]}
        assert made.headers["location"] == f"{LOG}/{entry['public_id']}"
        assert (await client.get(made.headers["location"])).json() == entry


@pytest.mark.parametrize("content", [" ", "\n\t ", "\u00a0\u2003"])
async def test_an_entry_says_something(rest: Rest, content: str) -> None:
    async with rest.client("operator") as client:
        refused = await client.post(LOG, json={"content": content})
        told = (refused.status_code, refused.json()["errors"])
        assert told == (422, [{"loc": ["body", "content"], "msg": "It holds more than blanks."}])
        assert await found(client) == []
        assert (await client.post(LOG, json={"content": "\n  Filter\nexchanged. "})).json()["content"] == "\n  Filter\nexchanged. "


async def test_only_whether_it_was_read_changes(rest: Rest) -> None:
    async with rest.client("operator") as client:
        (entry,) = await write(client, "one")
        address = f"{LOG}/{entry['public_id']}"
        for body in ({"content": "other"}, {"status": "read", "content": "one"}, {"status": "gone"}, {}):
            assert (await client.put(address, json=body)).status_code == 422
        for status in ("read", "read", "unread"):
            assert (await client.put(address, json={"status": status})).json() == entry | {"status": status}
        assert (await client.get(address)).json() == entry
        assert (await client.delete(address)).status_code == 405
    async with rest.connection() as conn:
        marks = await conn.fetch(
            "SELECT before::text, after::text FROM audit_log WHERE kind = 'log entry' AND action = 'update' ORDER BY id"
        )
    assert [tuple(row) for row in marks] == [
        ('{"status": "unread"}', '{"status": "read"}'),
        ('{"status": "read"}', '{"status": "unread"}'),
    ]


async def test_an_entry_is_marked_only_if_it_is_as_it_was_seen(rest: Rest) -> None:
    async with rest.client("operator") as client:
        made = await client.post(LOG, json={"content": "one"})
        address, tag = made.headers["location"], made.headers["etag"]
        assert (await client.get(address)).headers["etag"] == tag
        marked = await client.put(address, json={"status": "read"}, headers={"If-Match": tag})
        assert (marked.status_code, marked.headers["etag"]) == (200, (await client.get(address)).headers["etag"])
        late = await client.put(address, json={"status": "read"}, headers={"If-Match": tag})
        assert (late.status_code, late.json()["type"]) == (412, "/problems/changed-meanwhile")
        assert (await client.put(address, json={"status": "unread"}, headers={"If-Match": marked.headers["etag"]})).headers["etag"] == tag


async def test_content_has_1_to_10_000_characters(rest: Rest) -> None:
    async with rest.client("operator") as client:
        for content, status in (("", 422), ("é" * 10_000, 201), ("é" * 10_001, 422)):
            assert (await client.post(LOG, json={"content": content})).status_code == status


async def test_entries_are_found_by_type_status_and_time(rest: Rest) -> None:
    async with rest.client("operator") as client:
        first, second = await write(client, "first", "second")
        (third,) = await write(client, "third", logging_type="error")
        assert await found(client) == ["third", "second", "first"]
        assert await found(client, logging_type="error") == ["third"]
        assert await found(client, logging_type="warning") == []
        assert await found(client, **{"from": second["created_on"]}) == ["third", "second"]
        assert await found(client, to=second["created_on"]) == ["first"]
        await client.put(f"{LOG}/{third['public_id']}", json={"status": "read"})
        assert await found(client, status="read") == ["third"]
        assert await found(client, status="unread") == ["second", "first"]
        assert await found(client, status="unread", logging_type="error") == []
        assert await found(client, status="read", logging_type="error", search="thi", **{"from": first["created_on"]}) == ["third"]


@pytest.mark.parametrize(
    ("search", "finds"),
    [
        ("", True), ("pump", True), ("PUMP", True), ("pu", True), ("ump", False), ("inlet", True), ("pump/inlet-2", True), ("2", True),
        ("inlet pump", True), ("pump outlet", False), ("10.5", True), ("über", False), ("Über", True), ("Überdruck", True), ("🔥", True),
        ("it's", True), ("example.org", True), ("a@example.org", True), ("https://example.org/x", True), ("x' | 'y", True),
        ("!", False), ("&|!():*<->\\'", False), ("🔥" * 200, False), ("x" * 200, False), ("\u00a0", False), ("1e5", True), ("-3", True),
    ],
)  # fmt: skip
async def test_words_are_found_by_their_beginnings(rest: Rest, search: str, finds: bool) -> None:
    content = "Pump/inlet-2: Überdruck 10.5 bar, it's 🔥; a@example.org wrote https://example.org/x?y=1 (1e5, -3)"
    async with rest.client("operator") as client:
        await write(client, content)
        assert await found(client, search=search) == ([content] if finds else [])


async def test_any_content_finds_itself(rest: Rest) -> None:
    random.seed(5)
    alphabet = "ab 1.5-e/\\'\"&|!:*()<>@_%\t\n\x1f\x7fé\u00a0\u2028ßÜ\u0301日本\U0001f525\uffff"
    async with rest.client("operator") as client:
        for _ in range(60):
            content = "".join(random.choices(alphabet, k=random.randint(1, 40)))
            await write(client, content)
            if logging.WORD.search(content):
                assert content in await found(client, search=content[:200]), content


async def test_all_or_some_entries_are_marked_read_at_once(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rest.client("operator") as client:
        await write(client, "a1", "a2")
        (third,) = await write(client, "b3", logging_type="error")
        await write(client, "b4")

        async def mark(**filter: Any) -> dict[str, Any]:
            answer: dict[str, Any] = (await client.put(f"{LOG}/read", json=filter)).json()
            return answer

        assert await mark(search="nothing") == {"n": 0, "complete": True}
        assert await mark(logging_type="error") == {"n": 1, "complete": True}
        assert await found(client, status="unread") == ["b4", "a2", "a1"]
        monkeypatch.setattr(logging, "MARKED_MAX", 1)
        assert await mark(to=third["created_on"]) == {"n": 1, "complete": False}
        assert await found(client, status="unread") == ["b4", "a1"]
        monkeypatch.undo()
        assert await mark() == {"n": 2, "complete": True}
        assert await found(client, status="unread") == []
        assert (await client.put(f"{LOG}/read", json={"status": "unread"})).status_code == 422
        assert await mark() == {"n": 0, "complete": True}
    async with rest.client("admin") as admin:  # marking nothing leaves no row
        told = (await admin.get("/api/v1/audit", params={"action": "read"})).json()["data"]
    assert [entry["detail"] for entry in told] == ["2 entries", "1 entries", "1 entries"]


async def test_a_long_log_is_read_by_cursor(rest: Rest) -> None:
    async with rest.client("operator") as client:
        await write(client, *(f"entry {n}" for n in range(7)))
        read, cursor = [], None
        while True:
            page = (await client.get(LOG, params={"limit": 3, "search": "entry"} | ({"cursor": cursor} if cursor else {}))).json()
            read += [entry["content"] for entry in page["data"]]
            if (cursor := page["next"]) is None:
                break
        assert read == [f"entry {n}" for n in reversed(range(7))]
        for query in ({"limit": 0}, {"limit": 1001}, {"cursor": "x"}, {"cursor": ""}, {"page": 1}):
            assert (await client.get(LOG, params=query)).status_code == 422


async def test_the_status_of_an_entry_goes_with_it(rest: Rest) -> None:
    async with rest.client("operator") as client, rest.connection() as conn:
        await write(client, "kept")
        assert await conn.fetchval("SELECT count(*) FROM log_status") == 1
        await conn.execute("DELETE FROM log_entries")
        assert await conn.fetchval("SELECT count(*) FROM log_status") == 0


async def test_a_viewer_reads_and_does_not_write(rest: Rest) -> None:
    async with rest.client("operator") as operator, rest.client("viewer") as client:
        (entry,) = await write(operator, "seen")
        assert await found(client) == ["seen"]
        assert (await client.post(LOG, json={"content": "x"})).status_code == 403
        assert (await client.put(f"{LOG}/{entry['public_id']}", json={"status": "read"})).status_code == 403
