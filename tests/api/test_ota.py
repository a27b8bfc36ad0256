"""Updates as records over REST: their files are stored under names of ours with their SHA-256, and never applied by themselves."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from parts.rest import Rest

OTA = "/api/v1/ota"
FILE = b"an update" * 10_000
NAMED = {"version": "1.4.0", "file_name": "webmacs-1.4.0.tar.gz"}
STORED = {"file_name": NAMED["file_name"], "file_size": len(FILE), "file_sha256": hashlib.sha256(FILE).hexdigest()}


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM firmware_updates")
    for file in files(rest):
        file.unlink()


def files(rest: Rest) -> list[Path]:
    """Whatever uploads have left on the disk."""
    return [file for folder in ("updates", "uploads") for file in (rest.data_dir / folder).rglob("*") if file.is_file()]


async def upload(client: Any, content: bytes = FILE, **query: Any) -> Any:
    return await client.post(f"{OTA}/upload", params=NAMED | query, content=content)


async def set_status(rest: Rest, update: dict[str, Any], status: str) -> None:
    async with rest.connection() as conn:
        await conn.execute("UPDATE firmware_updates SET status = $2 WHERE public_id = $1", UUID(update["public_id"]), status)


async def test_an_update_is_recorded_given_its_file_listed_and_deleted(rest: Rest) -> None:
    async with rest.client("admin") as client:
        made = await client.post(OTA, json={"version": "1.4.0", "changelog": "Faster."})
        update = made.json()
        assert update == {
            "public_id": update["public_id"], "version": "1.4.0", "changelog": "Faster.", "status": "pending", "error": None,
            "file_name": None, "file_size": None, "file_sha256": None, "created_by": "admin", "created_on": update["created_on"],
            "started_on": None, "completed_on": None,
        }  # fmt: skip
        assert "etag" not in made.headers
        uploaded = await upload(client)
        assert (uploaded.status_code, uploaded.headers["location"]) == (201, made.headers["location"])
        assert uploaded.json() == update | STORED
        assert (await client.get(made.headers["location"])).json() == update | STORED
        assert [file.read_bytes() for file in files(rest)] == [FILE]
        assert (await client.get(OTA, params={"search": "FAST"})).json()["data"] == [update | STORED]
        assert (await client.get(OTA, params={"status": "failed"})).json()["total"] == 0
        assert (await client.delete(made.headers["location"])).status_code == 204
        assert (await client.get(made.headers["location"])).status_code == 404
        assert files(rest) == []


async def test_an_upload_records_what_was_not_recorded_and_applies_nothing(rest: Rest) -> None:
    async with rest.client("admin") as client:
        uploaded = await upload(client)
        update = uploaded.json()
        assert (uploaded.status_code, uploaded.headers["location"]) == (201, f"{OTA}/{update['public_id']}")
        assert update == update | STORED | {"status": "pending", "started_on": None, "changelog": ""}


async def test_an_update_whose_file_came_first_is_given_its_change_log_once(rest: Rest) -> None:
    async with rest.client("admin") as client, rest.connection() as conn:
        update = (await upload(client)).json()
        assert (await client.post(OTA, json={"version": "1.4.0", "changelog": ""})).status_code == 409
        recorded = await client.post(OTA, json={"version": "1.4.0", "changelog": "Faster."})
        assert (recorded.status_code, recorded.json()) == (201, update | {"changelog": "Faster."})
        assert (await client.get(recorded.headers["location"])).json() == recorded.json()
        assert (await client.post(OTA, json={"version": "1.4.0", "changelog": "Slower."})).status_code == 409
        told = await conn.fetchrow("SELECT action, before, after FROM audit_log WHERE kind = 'update' ORDER BY id DESC LIMIT 1")
    assert [told["action"], *map(json.loads, (told["before"], told["after"]))] == ["update", {"changelog": ""}, {"changelog": "Faster."}]


async def test_an_update_has_one_file(rest: Rest) -> None:
    async with rest.client("admin") as client:
        update = (await upload(client)).json()
        assert (await upload(client, b"another")).status_code == 409
        assert [file.read_bytes() for file in files(rest)] == [FILE]
        assert (await client.get(f"{OTA}/{update['public_id']}")).json() == update
        assert (await client.post(OTA, json={"version": "1.4.0"})).status_code == 409
        assert (await client.post(OTA, json={"version": "1.4.1"})).status_code == 201


async def test_what_is_refused_or_only_tried_leaves_no_file(rest: Rest) -> None:
    async with rest.client("admin") as client:
        assert (await upload(client, dry_run="true")).json()["file_sha256"] == STORED["file_sha256"]
        assert (await client.get(OTA)).json()["total"] == 0
        assert (await upload(client, b"")).status_code == 422
        assert (await upload(client, version="1.4")).status_code == 422
        async with rest.client("operator") as operator:
            assert (await upload(operator)).status_code == 403
    assert files(rest) == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "a\\b", "", "x" * 256, "a\nb", "a\x00b"])
async def test_a_name_of_a_file_is_no_path(rest: Rest, name: str) -> None:
    async with rest.client("admin") as client:
        assert (await upload(client, file_name=name)).status_code == 422


@pytest.mark.parametrize("name", ["..", "a b.tar.gz", "Ünïcode \U0001f525", "-rf", "x" * 255])
async def test_a_name_of_a_file_is_only_shown(rest: Rest, name: str) -> None:
    async with rest.client("admin") as client:
        update = (await upload(client, file_name=name)).json()
        assert update["file_name"] == name
        assert [file.name for file in files(rest)] == [update["public_id"]]


@pytest.mark.parametrize("version", ["0.0.0", "1.2.3", "10.20.30", "1.0.0-alpha", "1.0.0-alpha.1+build-7", "1.0.0+001", "2.0.0-rc.1"])
async def test_a_version_is_semantic(rest: Rest, version: str) -> None:
    async with rest.client("admin") as client:
        assert (await client.post(OTA, json={"version": version})).json()["version"] == version


@pytest.mark.parametrize(
    "version",
    ["", "1", "1.2", "v1.2.3", "1.2.3.4", "01.2.3", "1.2.03", "1.2.3-", "1.2.3-01", "1.2.3+", "1.2.3\n", " 1.2.3", "1.2.3-" + "a" * 45],
)
async def test_a_version_that_is_none_is_refused(rest: Rest, version: str) -> None:
    async with rest.client("admin") as client:
        assert (await client.post(OTA, json={"version": version})).status_code == 422


@pytest.mark.parametrize("status", ["pending", "downloading", "verifying", "applying", "completed", "failed", "rolled_back"])
async def test_an_update_under_way_is_not_deleted(rest: Rest, status: str) -> None:
    under_way = status in ("downloading", "verifying", "applying")
    async with rest.client("admin") as client:
        update = (await upload(client)).json()
        await set_status(rest, update, status)
        assert (await client.delete(f"{OTA}/{update['public_id']}")).status_code == (409 if under_way else 204)
        assert len(files(rest)) == under_way


async def test_only_a_pending_record_takes_a_file(rest: Rest) -> None:
    async with rest.client("admin") as client:
        update = (await client.post(OTA, json={"version": "1.4.0"})).json()
        await set_status(rest, update, "downloading")
        assert (await upload(client)).status_code == 409
        assert files(rest) == []


async def test_a_viewer_sees_updates_and_makes_none(rest: Rest) -> None:
    async with rest.client("admin") as admin, rest.client("viewer") as client:
        update = (await upload(admin)).json()
        assert (await client.get(OTA)).json()["data"] == [update]
        assert (await client.post(OTA, json={"version": "9.9.9"})).status_code == 403
        assert (await client.delete(f"{OTA}/{update['public_id']}")).status_code == 403
