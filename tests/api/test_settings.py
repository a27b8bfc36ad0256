"""What changes at run time: it has defaults, a change is judged, kept as a version and in the audit log, and no secret is shown."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from parts.rest import Rest

from webmacs import keys
from webmacs.api.settings import SMTP_PASSWORD
from webmacs.storage.changes import CHANNEL

SMTP = {"host": "mail.example.org", "port": 587, "security": "starttls", "user": "plant", "sender": "plant@example.org"}
EARLY = {"name": "Early", "start": "06:00", "end": "14:00", "days": ["mon", "tue"]}


@pytest.fixture(autouse=True)
async def defaults(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("UPDATE settings SET content = '{}', smtp_password = NULL")


async def change(rest: Rest, expected: int = 200, role: str = "admin", **body: Any) -> Any:
    async with rest.client(role) as client:
        answer = await client.put("/api/v1/settings", json=body)
    assert answer.status_code == expected, answer.text
    return answer.json()


async def get(rest: Rest, role: str = "viewer") -> Any:
    async with rest.client(role) as client:
        return (await client.get("/api/v1/settings")).json()


async def test_what_nobody_set_has_its_default(rest: Rest) -> None:
    shown = await get(rest)
    assert {name: shown[name] for name in ("plant_name", "time_zone", "shifts", "smtp", "smtp_password_set", "jobs_kept_days")} == {
        "plant_name": "", "time_zone": "UTC", "shifts": [], "smtp": None, "smtp_password_set": False, "jobs_kept_days": 7,
    }  # fmt: skip
    assert shown["retention"] == {"raw_days": None, "statistics_days": None}


async def test_a_change_touches_what_it_names_and_is_announced_versioned_and_audited(rest: Rest) -> None:
    before = await get(rest)
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with rest.connection() as conn:
        await conn.add_listener(CHANNEL, lambda _c, _p, _n, what: heard.put_nowait(what))
        after = await change(rest, plant_name="North", time_zone="Europe/Berlin", shifts=[EARLY], retention={"raw_days": 400})
        async with asyncio.timeout(5):
            assert await heard.get() == "settings"
        audited = await conn.fetchrow("SELECT * FROM audit_log WHERE kind = 'settings' ORDER BY id DESC LIMIT 1")
        kept = await conn.fetchrow("SELECT * FROM versions WHERE kind = 'settings' ORDER BY version DESC LIMIT 1")
    assert after == before | {
        "plant_name": "North", "time_zone": "Europe/Berlin", "shifts": [EARLY], "version": before["version"] + 1,
        "retention": {"raw_days": 400, "statistics_days": None}, "changed_on": after["changed_on"],
    }  # fmt: skip
    assert await get(rest) == after
    assert audited["actor_name"] == "admin"
    assert '"plant_name": ""' in audited["before"]
    assert '"plant_name": "North"' in audited["after"]
    assert (kept["version"], kept["object_public_id"]) == (after["version"], kept["object_public_id"])


async def test_only_an_admin_changes_settings(rest: Rest) -> None:
    await change(rest, 403, role="operator", plant_name="Mine")


async def test_a_change_made_from_an_old_state_is_refused(rest: Rest) -> None:
    version = (await change(rest, plant_name="One"))["version"]
    async with rest.client("admin") as client:
        headers = {"If-Match": f'"{version - 1}"'}
        assert (await client.put("/api/v1/settings", json={"plant_name": "Two"}, headers=headers)).status_code == 412
        headers = {"If-Match": f'"{version}"'}
        assert (await client.put("/api/v1/settings", json={"plant_name": "Two"}, headers=headers)).status_code == 200


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../../etc/passwd", "UTC+3", "europe/berlin"])
async def test_a_zone_that_the_iana_list_does_not_have_is_refused(rest: Rest, zone: str) -> None:
    refused = await change(rest, 422, time_zone=zone)
    assert refused["errors"][0]["loc"] == ["body", "time_zone"]


@pytest.mark.parametrize(
    ("other", "loc"),
    [
        ({"name": "Late", "start": "13:59", "end": "22:00", "days": ["tue"]}, [1]),
        ({"name": "Night", "start": "22:00", "end": "06:01", "days": ["sun"]}, [1]),
        ({"name": "Always", "start": "00:00", "end": "00:00", "days": ["mon"]}, [1]),
        ({"name": "Early", "start": "14:00", "end": "22:00", "days": ["mon"]}, [1, "name"]),
        ({"name": "Twice", "start": "14:00", "end": "22:00", "days": ["mon", "mon"]}, [1, "days"]),
    ],
)
async def test_no_moment_belongs_to_two_shifts(rest: Rest, other: dict[str, Any], loc: list[Any]) -> None:
    refused = await change(rest, 422, shifts=[EARLY, other])
    assert refused["errors"][0]["loc"] == ["body", "shifts", *loc]


async def test_shifts_that_touch_each_other_fill_the_week(rest: Rest) -> None:
    week = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    times = [("Early", "06:00", "14:00"), ("Late", "14:00", "22:00"), ("Night", "22:00", "06:00")]
    await change(rest, shifts=[{"name": name, "start": start, "end": end, "days": week} for name, start, end in times])


@pytest.mark.parametrize("start", ["6:00", "24:00", "06:60", "06:00\n", "06:00:00"])
async def test_a_shifts_time_is_hours_and_minutes(rest: Rest, start: str) -> None:
    await change(rest, 422, shifts=[EARLY | {"start": start}])


async def test_a_mail_password_is_kept_sealed_and_never_shown(rest: Rest) -> None:
    after = await change(rest, smtp=SMTP | {"password": "s3cret-of-mail"})
    assert (after["smtp"], after["smtp_password_set"]) == (SMTP, True)
    async with rest.connection() as conn:
        sealed = await conn.fetchval("SELECT smtp_password FROM settings")
        everything = [str(await conn.fetch(f"SELECT t::text FROM {table} t")) for table in ("settings", "audit_log", "versions")]
    sealing = rest.app.state.parts.sealing_key
    assert keys.unseal(sealing, sealed, SMTP_PASSWORD) == b"s3cret-of-mail"
    assert "s3cret-of-mail" not in "".join(everything)


async def test_a_mail_password_stays_for_its_server_only(rest: Rest) -> None:
    await change(rest, smtp=SMTP | {"password": "s3cret"})
    assert (await change(rest, smtp=SMTP | {"sender": "other@example.org"}))["smtp_password_set"]
    refused = await change(rest, 422, smtp=SMTP | {"host": "elsewhere.example.org"})
    assert refused["errors"][0]["loc"] == ["body", "smtp", "password"]
    assert not (await change(rest, smtp=SMTP | {"host": "elsewhere.example.org", "password": None}))["smtp_password_set"]
    await change(rest, smtp=SMTP | {"password": "s3cret"})
    gone = await change(rest, smtp=None)
    assert (gone["smtp"], gone["smtp_password_set"]) == (None, False)


@pytest.mark.parametrize(
    "wrong", [{"sender": "a@b\nBcc: all@c"}, {"sender": "nobody"}, {"host": "a b\r\n"}, {"port": 0}, {"security": "ssl"}]
)
async def test_a_mail_server_that_cannot_be_one_is_refused(rest: Rest, wrong: dict[str, Any]) -> None:
    await change(rest, 422, smtp=SMTP | wrong)


async def test_statistics_are_kept_at_least_as_long_as_readings(rest: Rest) -> None:
    await change(rest, 422, retention={"raw_days": 400, "statistics_days": 399})
    await change(rest, retention={"raw_days": 400, "statistics_days": 400})


async def test_a_dry_run_changes_nothing(rest: Rest) -> None:
    before = await get(rest)
    async with rest.client("admin") as client:
        answer = await client.put("/api/v1/settings?dry_run=true", json={"plant_name": "Never"})
    assert answer.json()["plant_name"] == "Never"
    assert await get(rest) == before
