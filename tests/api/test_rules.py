"""Rules over REST: what fits together is stored, what nothing acts on yet says so, and the state that the core keeps is shown."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from parts.rest import Rest

RULES = "/api/v1/rules"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
async def empty(rest: Rest) -> AsyncIterator[None]:
    yield
    async with rest.connection() as conn:
        await conn.execute("DELETE FROM events")


async def make_event(client: Any, name: str = "Boiler", **fields: Any) -> str:
    made = await client.post("/api/v1/events", json={"name": name, "type": "sensor", "unit": "°C"} | fields)
    assert made.status_code == 201
    return str(made.json()["public_id"])


async def make(client: Any, event: str, **fields: Any) -> dict[str, Any]:
    made = await client.post(RULES, json={"name": "hot", "event_public_id": event, "operator": "gt", "threshold": 80} | fields)
    assert made.status_code == 201, made.text
    rule: dict[str, Any] = made.json()
    return rule


async def test_a_rule_is_made_read_changed_and_deleted(rest: Rest) -> None:
    async with rest.client("operator") as client:
        event = await make_event(client)
        rule = await make(client, event, description="Open the valve.", severity="high")
        address = f"{RULES}/{rule['public_id']}"
        assert rule == {
            "public_id": rule["public_id"], "name": "hot", "event_public_id": event, "event": "Boiler", "operator": "gt", "threshold": 80.0,
            "threshold_high": None, "description": "Open the valve.", "severity": "high", "enabled": True, "dead_band": 0.0, "for_ms": 0,
            "clear_for_ms": 0, "cooldown_seconds": 60, "actions": [], "not_in_effect": [], "fired": False, "state_changed_on": None,
            "created_on": rule["created_on"], "changed_on": rule["created_on"], "version": 1,
        }  # fmt: skip
        answer = await client.get(address)
        assert (answer.json(), answer.headers["etag"]) == (rule, '"1"')
        change = {"operator": "between", "threshold_high": 90}
        changed = (await client.put(address, json=change, headers={"If-Match": '"1"'})).json()
        assert changed == rule | change | {"threshold_high": 90.0, "changed_on": changed["changed_on"], "version": 2}
        assert (await client.put(address, json={"name": "x"}, headers={"If-Match": '"1"'})).status_code == 412
        assert (await client.delete(address)).status_code == 204
        assert (await client.get(address)).status_code == 404


async def test_every_field_is_given_back_as_it_was_given(rest: Rest) -> None:
    async with rest.client("operator") as client:
        event, valve = await make_event(client), await make_event(client, "Valve", type="actuator", min_value=0, max_value=1)
        given = {
            "name": "all", "operator": "not_between", "threshold": -1.5, "threshold_high": -1.5, "enabled": False, "dead_band": 0.25,
            "for_ms": 604_800_000, "clear_for_ms": 1, "cooldown_seconds": 0, "severity": "critical", "description": "",
            "actions": [
                {"type": "log", "on": "cleared", "logging_type": "error", "content": "It is over."},
                {"type": "webhook", "on": "fired", "webhook_event_type": "sensor.reading"},
                {"type": "alarm"},
                {"type": "command", "event_public_id": valve, "value": 1.0, "on": "fired", "ttl_seconds": 300},
            ],
        }  # fmt: skip
        rule = await make(client, event, **given)
        assert rule == rule | given
        assert (await client.get(f"{RULES}/{rule['public_id']}")).json() == rule
        kept = (await client.put(f"{RULES}/{rule['public_id']}", json={"severity": "low"})).json()
        assert kept == rule | {"severity": "low", "version": 2, "changed_on": kept["changed_on"]}


async def test_a_rule_says_which_of_its_fields_nothing_acts_on_yet(rest: Rest) -> None:
    async with rest.client("operator") as client:
        event = await make_event(client)
        rule = await make(client, event, dead_band=1, for_ms=5, clear_for_ms=5, actions=[{"type": "log"}])
        assert rule["not_in_effect"] == ["dead_band", "for_ms", "clear_for_ms", "actions", "cooldown_seconds"]
        address = f"{RULES}/{rule['public_id']}"
        assert (await client.put(address, json={"actions": [], "dead_band": 0})).json()["not_in_effect"] == ["for_ms", "clear_for_ms"]


async def test_names_of_rules_are_taken_once(rest: Rest) -> None:
    async with rest.client("operator") as client:
        event = await make_event(client)
        await make(client, event)
        other = await make(client, event, name="cold")
        again = {"name": "hot", "event_public_id": event, "operator": "gt", "threshold": 1}
        assert (await client.post(RULES, json=again)).status_code == 409
        assert (await client.put(f"{RULES}/{other['public_id']}", json={"name": "hot"})).status_code == 409
        assert (await client.put(f"{RULES}/{other['public_id']}", json={"name": "cold"})).status_code == 200


@pytest.mark.parametrize("operator", ["gt", "lt", "gte", "lte", "eq", "between", "not_between"])
@pytest.mark.parametrize(("low", "high", "fits"), [(1, None, False), (1, 2, True), (1, 1, True), (2, 1, False)])
async def test_thresholds_fit_their_operator(rest: Rest, operator: str, low: float, high: float | None, fits: bool) -> None:
    expected = fits if operator in ("between", "not_between") else high is None
    async with rest.client("operator") as client:
        event = await make_event(client)
        body = {"name": "r", "event_public_id": event, "operator": operator, "threshold": low, "threshold_high": high}
        assert (await client.post(RULES, json=body)).status_code == (201 if expected else 422)
        if not expected:  # nor does a change lead there
            two = operator in ("between", "not_between")
            rule = await make(client, event, operator=operator, threshold=1, threshold_high=1 if two else None)
            change = {"threshold": low, "threshold_high": high}
            assert (await client.put(f"{RULES}/{rule['public_id']}", json=change)).status_code == 422


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": None}, {"threshold": "1"}, {"operator": "neq"}, {"severity": "urgent"}, {"dead_band": -0.1}, {"for_ms": -1},
        {"for_ms": 604_800_001}, {"clear_for_ms": 0.5}, {"cooldown_seconds": -1}, {"cooldown_seconds": 86_401}, {"name": ""},
        {"name": "x" * 201}, {"priority": 1}, {"event_public_id": "x"}, {"event_public_id": "01a20a7a-1b53-79ca-9623-0f2e8d54601f"},
        {"actions": [{}]}, {"actions": [{"type": "mail"}]}, {"actions": [{"type": "log", "text": "x"}]},
        {"actions": [{"type": "alarm"}] * 21},
        {"actions": [{"type": "webhook", "webhook_event_type": "x"}]}, {"actions": [{"type": "log", "on": "changed"}]},
    ],
)  # fmt: skip
async def test_what_a_rule_cannot_be_is_refused(rest: Rest, fields: dict[str, Any]) -> None:
    async with rest.client("operator") as client:
        event = await make_event(client)
        body = {"name": "r", "event_public_id": event, "operator": "gt", "threshold": 1} | fields
        refused = await client.post(RULES, json=body)
        assert (refused.status_code, refused.json()["errors"][0]["loc"][0]) == (422, "body")
        assert (await client.get(RULES)).json()["total"] == 0


async def test_a_command_goes_to_an_actuator_within_its_bounds_and_never_to_the_own_event(rest: Rest) -> None:
    async with rest.client("operator") as client:
        event = await make_event(client, type="range")
        valve = await make_event(client, "Valve", type="actuator", min_value=0, max_value=1)
        sensor = await make_event(client, "Sensor")

        async def judged(target: str, value: float, **fields: Any) -> Any:
            action = {"type": "command", "event_public_id": target, "value": value} | fields
            body = {"name": "r", "event_public_id": event, "operator": "gt", "threshold": 1, "actions": [{"type": "alarm"}, action]}
            answer = await client.post(RULES, json=body, params={"dry_run": "true"})
            return 201 if answer.status_code == 201 else answer.json()["errors"][0]["loc"][-2:]

        assert [await judged(valve, value) for value in (0, 1)] == [201, 201]
        assert [await judged(valve, value) for value in (-0.001, 1.001)] == [[1, "value"]] * 2
        assert await judged(sensor, 1) == [1, "event_public_id"]
        assert await judged(event, 1) == [1, "event_public_id"]
        assert await judged("01a20a7a-1b53-79ca-9623-0f2e8d54601f", 1) == [1, "event_public_id"]
        for ttl, loc in ((0, "ttl_seconds"), (301, "ttl_seconds")):
            assert loc in await judged(valve, 1, ttl_seconds=ttl)


async def test_a_rule_whose_actuator_is_gone_can_still_be_switched_off(rest: Rest) -> None:
    async with rest.client("admin") as client:
        event, valve = await make_event(client), await make_event(client, "Valve", type="actuator")
        actions = [{"type": "command", "event_public_id": valve, "value": 1}]
        rule = await make(client, event, actions=actions)
        address = f"{RULES}/{rule['public_id']}"
        assert (await client.delete(f"/api/v1/events/{valve}")).status_code == 204
        assert (await client.put(address, json={"enabled": False})).json()["enabled"] is False
        assert (await client.put(address, json={"actions": actions})).status_code == 422


async def test_a_rule_goes_with_its_event(rest: Rest) -> None:
    async with rest.client("admin") as client:
        event = await make_event(client)
        rule = await make(client, event)
        assert (await client.delete(f"/api/v1/events/{event}")).status_code == 204
        assert (await client.get(f"{RULES}/{rule['public_id']}")).status_code == 404


async def fire(rest: Rest, rule: dict[str, Any], times: int) -> None:
    """As a flush does: `times` transitions, the first of them fired."""
    async with rest.connection() as conn:
        rule_id = await conn.fetchval("SELECT id FROM rules WHERE public_id = $1", UUID(rule["public_id"]))
        for n in range(times):
            at = NOON + timedelta(seconds=n)
            await conn.execute(
                "INSERT INTO rule_transitions (rule_id, fired, at, value) VALUES ($1, $2, $3, $4)", rule_id, n % 2 == 0, at, n
            )
            await conn.execute("UPDATE rules SET fired = $2, state_changed_on = $3 WHERE id = $1", rule_id, n % 2 == 0, at)


async def test_state_and_transitions_of_a_rule_are_shown(rest: Rest) -> None:
    async with rest.client("operator") as client:
        event = await make_event(client)
        rule, other = await make(client, event), await make(client, event, name="other")
        await fire(rest, rule, 3)
        await fire(rest, other, 2)
        address = f"{RULES}/{rule['public_id']}"
        assert (await client.get(address)).json() == rule | {"fired": True, "state_changed_on": "2026-11-24T12:00:02Z"}
        page = (await client.get(f"{address}/transitions", params={"limit": 2})).json()
        assert page["data"] == [
            {"fired": True, "at": "2026-11-24T12:00:02Z", "value": 2.0},
            {"fired": False, "at": "2026-11-24T12:00:01Z", "value": 1.0},
        ]
        last = (await client.get(f"{address}/transitions", params={"limit": 2, "cursor": page["next"]})).json()
        assert last == {"next": None, "data": [{"fired": True, "at": "2026-11-24T12:00:00Z", "value": 0.0}]}
        within = {"from": "2026-11-24T12:00:00Z", "to": "2026-11-24T12:00:01Z"}
        assert (await client.get(f"{address}/transitions", params=within)).json() == last
        assert (await client.get(f"{RULES}/{event}/transitions")).status_code == 404


@pytest.mark.parametrize(
    ("change", "fired"),
    [
        ({"name": "x", "severity": "low", "actions": [{"type": "alarm"}], "for_ms": 1}, True), ({"threshold": 80}, True),
        ({"threshold": 81}, False), ({"operator": "gte"}, False), ({"enabled": False}, False), ({"event_public_id": "other"}, False),
    ],
)  # fmt: skip
async def test_another_condition_begins_as_not_fired(rest: Rest, change: dict[str, Any], fired: bool) -> None:
    async with rest.client("operator") as client:
        event, other = await make_event(client), await make_event(client, "other")
        rule = await make(client, event)
        await fire(rest, rule, 1)
        if "event_public_id" in change:
            change = {"event_public_id": other}
        assert (await client.put(f"{RULES}/{rule['public_id']}", json=change)).json()["fired"] is fired


async def test_rules_are_listed_by_event_state_and_name(rest: Rest) -> None:
    async with rest.client("viewer") as client, rest.client("operator") as operator:
        a, b = await make_event(operator, "a"), await make_event(operator, "b")
        hot = await make(operator, a)
        await make(operator, b, name="Cold", enabled=False, severity="low")
        await make(operator, a, name="warm")
        await fire(rest, hot, 1)

        async def names(**query: Any) -> list[str]:
            return [rule["name"] for rule in (await client.get(RULES, params=query)).json()["data"]]

        assert await names() == ["Cold", "hot", "warm"]
        assert await names(sort="-event") == ["Cold", "hot", "warm"]
        assert (await names(sort="-state_changed_on"))[0] == "hot"
        assert await names(event_public_id=a) == ["hot", "warm"]
        assert await names(enabled="false") == ["Cold"]
        assert await names(severity="low") == ["Cold"]
        assert await names(fired="true") == ["hot"]
        assert await names(search="COL") == ["Cold"]
        assert await names(page_size=1, page=2) == ["hot"]
        assert (await client.post(RULES, json={})).status_code == 403


async def test_what_a_rule_was_stays_as_its_versions(rest: Rest) -> None:
    async with rest.client("operator") as client, rest.connection() as conn:
        rule = await make(client, await make_event(client))
        address = f"{RULES}/{rule['public_id']}"
        await client.put(address, json={"threshold": 85})
        await client.delete(address)
        versions = await conn.fetch(
            """SELECT version, actor_name, content ->> 'threshold' AS threshold FROM versions
                WHERE kind = 'rule' AND object_public_id = $1 ORDER BY version""",
            UUID(rule["public_id"]),
        )
        assert [tuple(row) for row in versions] == [(1, "operator", "80.0"), (2, "operator", "85.0"), (3, "operator", None)]
        change = await conn.fetchrow(
            "SELECT before::text, after::text FROM audit_log WHERE kind = 'rule' AND action = 'update' ORDER BY id DESC"
        )
        assert tuple(change) == ('{"threshold": 80.0}', '{"threshold": 85.0}')
