"""Uploaded wheels: a whole one is kept and given out as it came; one that could do harm leaves nothing behind."""

import stat
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from parts import wheels
from parts.rest import Rest
from parts.wheels import INFO, NAME, files, pack

PACKAGES = "/api/v1/plugins/packages"


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM plugin_packages")


def kept(rest: Rest) -> list[Path]:
    return [path for folder in ("packages", "uploads") for path in (rest.data_dir / folder).rglob("*") if path.is_file()]


async def upload(client: httpx.AsyncClient, wheel: bytes, file_name: str = wheels.FILE_NAME, **query: str) -> httpx.Response:
    return await client.post(PACKAGES, params={"file_name": file_name} | query, content=wheel)


async def test_a_wheel_is_kept_and_comes_out_as_it_went_in(rest: Rest) -> None:
    wheel = pack(files())
    async with rest.client("admin") as client:
        judged = await upload(client, wheel, dry_run="true")
        assert (judged.status_code, kept(rest)) == (201, [])
        made = await upload(client, wheel)
        assert made.status_code == 201, made.text
        package = made.json()
        assert (package["name"], package["package_version"], package["plugin_ids"]) == ("webmacs-plugin-chiller", "1.2.0", ["chiller"])
        assert (package["summary"], package["requires_python"], package["size"]) == ("Reads a chiller", ">=3.11", len(wheel))
        assert (await upload(client, wheel)).status_code == 409
        available = (await client.get("/api/v1/plugins/available")).json()["data"]
        assert [one for one in available if one["plugin_id"] == "chiller"] == [
            {"plugin_id": "chiller", "settings_schema": None, "instances": 0, "packages": ["webmacs-plugin-chiller 1.2.0"]}
        ]
        async with rest.client("source") as source:
            content = await source.get(f"{made.headers['location']}/content")
        assert content.content == wheel
        assert (await client.delete(made.headers["location"])).status_code == 204
    assert kept(rest) == []


def changed(path: str, data: bytes | None) -> bytes:
    """The whole wheel with one file more, other, or less."""
    content = {name: old for name, old in (files() | {path: data or b""}).items() if data is not None or name != path}
    return pack(content)


def linked(archive: zipfile.ZipFile) -> None:
    info = zipfile.ZipInfo(f"{NAME}/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(info, "/etc/passwd")


def twice(archive: zipfile.ZipFile) -> None:
    archive.writestr(f"{NAME}/__INIT__.py", b"")


def local_header_differs() -> bytes:
    wheel = pack(files())
    name = f"{NAME}/__init__.py".encode()
    place = wheel.index(name)
    return wheel[:place] + name.replace(b"__init__", b"__evil__") + wheel[place + len(name) :]


HARMFUL = {
    "a member that leaves the archive": changed("../outside.py", b""),
    "an absolute name": changed("/etc/cron.d/x", b""),
    "a backslash": changed("a\\b.py", b""),
    "a link": pack(files(), linked),
    "two spellings of one name": pack(files(), twice),
    "a .pth file": changed("start.pth", b"import os"),
    "a module of the standard library": changed("json/__init__.py", b""),
    "a module of ours": changed("webmacs/app.py", b""),
    "scripts": changed(f"{NAME}-{wheels.VERSION}.data/scripts/run", b""),
    "another distribution": changed("other-1.dist-info/METADATA", b""),
    "no METADATA": changed(f"{INFO}/METADATA", None),
    "no entry point": changed(f"{INFO}/entry_points.txt", b"[console_scripts]\nx = y:z\n"),
    "a file that RECORD does not list": pack(files(), lambda archive: archive.writestr(f"{NAME}/more.py", b"")),
    "a RECORD that lies": pack(files() | {f"{INFO}/RECORD": wheels.record(files() | {f"{NAME}/__init__.py": b"other"})}),
    "something before it": b"#!/bin/sh\n" + pack(files()),
    "something after it": pack(files()) + b"more",
    "a header that says something else": local_header_differs(),
    "a bomb": changed(f"{NAME}/zeros", bytes(20_000_000)),
    "half of it": pack(files())[:-30],
    "no zip at all": b"not a zip",
    "nothing": b"",
}


@pytest.mark.parametrize("wheel", HARMFUL.values(), ids=HARMFUL.keys())
async def test_a_wheel_that_could_do_harm_is_refused_and_leaves_nothing(rest: Rest, wheel: bytes) -> None:
    async with rest.client("admin") as client:
        refused = await upload(client, wheel)
        assert (refused.status_code, refused.json()["type"]) == (422, "/problems/wheel-refused"), refused.text
        assert (await client.get(PACKAGES)).json()["total"] == 0
    assert kept(rest) == []


@pytest.mark.parametrize(
    "file_name",
    [
        "../x-1-py3-none-any.whl",
        "x.tar.gz",
        "",
        "x-1.whl",
        "other-1.2.0-py3-none-any.whl",
        f"{NAME}-9.9-py3-none-any.whl",
        "a/b-1-py3-none-any.whl",
    ],
)
async def test_a_file_name_that_is_none_of_this_wheel_is_refused(rest: Rest, file_name: str) -> None:
    async with rest.client("admin") as client:
        refused = await upload(client, pack(files()), file_name)
    assert refused.status_code == 422
    assert kept(rest) == []


async def test_too_large_a_wheel_is_not_read_to_its_end(rest: Rest) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1024 * 1024)

    async with rest.client("admin") as client:
        refused = await client.post(PACKAGES, params={"file_name": wheels.FILE_NAME}, content=endless())
    assert refused.status_code == 413
    assert kept(rest) == []
