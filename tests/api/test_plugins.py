"""Plugin instances and channels: what a source describes is listed, people map it, and readings follow the mapping."""

import time
from typing import Annotated, Any, Literal

import asyncpg
import httpx
import msgspec
import pytest
from parts import stored
from parts.backend import Backend, make_source, make_user, sign_in
from parts.source import Source, data
from webmacs_controller import wire

PLUGINS = "/api/v1/plugins"


@pytest.fixture(scope="module")
async def admin(backend: Backend) -> Any:
    password = await make_user(backend.database, backend.data_dir, "plugins@example.org", "admin")
    token = await sign_in(backend, "plugins@example.org", password)
    async with httpx.AsyncClient(base_url=backend.url, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


async def source_id(admin: httpx.AsyncClient, name: str) -> str:
    (found,) = (await admin.get("/api/v1/sources", params={"search": name})).json()["data"]
    return str(found["public_id"])


async def channels_of(admin: httpx.AsyncClient, source: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A source's one instance, and its channels by key."""
    found = (await admin.get(PLUGINS, params={"source_public_id": await source_id(admin, source)})).json()["data"]
    (instance,) = found
    channels = (await admin.get(f"{PLUGINS}/{instance['public_id']}/channels")).json()["data"]
    return instance, {channel["channel_key"]: channel for channel in channels}


async def test_what_a_source_describes_is_listed_with_its_events(backend: Backend, admin: httpx.AsyncClient) -> None:
    credential = await make_source(backend.database, "describing")
    async with Source(backend.sockets, credential) as source:
        await source.hello(["d1", "d2"])
    instance, channels = await channels_of(admin, "describing")
    assert (instance["name"], instance["plugin_id"], instance["channels"], instance["mapped"]) == ("bench", "test", 2, 2)
    assert channels.keys() == {"d1", "d2"}
    assert (channels["d1"]["event"], channels["d1"]["unit"], channels["d1"]["described"]) == ("d1", "°C", True)
    async with Source(backend.sockets, credential) as source:  # it comes back with one channel less
        await source.hello(["d2"])
    instance, channels = await channels_of(admin, "describing")
    assert (instance["channels"], channels["d1"]["described"], channels["d2"]["described"]) == (1, False, True)


async def test_a_unit_that_a_source_spells_oddly_is_one_that_an_event_may_have(backend: Backend, admin: httpx.AsyncClient) -> None:
    channel = wire.DescribedChannel("odd", "odd unit", " m³\t/\u200bh\n", "sensor", None, None, None, None)
    async with Source(backend.sockets, await make_source(backend.database, "odd")) as source:
        await source.send(wire.encode(wire.Describe([wire.Instance("bench", "test", True, wire.NO_SETTINGS, [channel])])))
        await source.hello(["other"])
    (event,) = (await admin.get("/api/v1/events", params={"search": "odd unit"})).json()["data"]
    assert event["unit"] == "m³ / h"
    assert (await admin.put(f"/api/v1/events/{event['public_id']}", json={"unit": event["unit"]})).status_code == 200


async def test_readings_follow_the_mapping_and_none_is_lost(backend: Backend, admin: httpx.AsyncClient, conn: asyncpg.Connection) -> None:
    credential = await make_source(backend.database, "mapped")
    other = (await admin.post("/api/v1/events", json={"name": "Boiler", "type": "sensor", "unit": "°C"})).json()
    t = time.time_ns() // 1_000
    async with Source(backend.sockets, credential) as source:
        await source.hello(["m1"])
        await source.send(data(1, {0: ([t], [1.0])}))
        await source.acknowledged(1)
        instance, channels = await channels_of(admin, "mapped")
        address = f"{PLUGINS}/{instance['public_id']}/channels/{channels['m1']['public_id']}"
        mapped = await admin.put(address, json={"event_public_id": other["public_id"]}, headers={"If-Match": '"1"'})
        assert (mapped.status_code, mapped.json()["event"], mapped.headers["etag"]) == (200, "Boiler", '"2"')
        await source.closed()
        stream = source.stream
    async with Source(backend.sockets, credential, stream) as source:
        welcome = await source.hello(["m1"], next_seq=2)
        assert (welcome.committed_seq, [public for _, public in welcome.accepted]) == (1, [other["public_id"]])
        await source.send(data(2, {0: ([t + 1_000], [2.0])}))
        await source.acknowledged(2)
    assert await stored.readings(conn, "mapped", "m1") == [(t + 1_000, 2.0)]
    old = await stored.rows(conn, "SELECT writer_id, channel_key FROM events WHERE name = 'm1'")
    assert old == [(1, None)]
    for public_id, source in ((channels["m1"]["event_public_id"], None), (other["public_id"], "mapped")):
        version = (await admin.get(f"/api/v1/versions/event/{public_id}/2")).json()  # both events are changed by it
        assert (version["content"]["source"], version["actor_name"]) == (source, "plugins")
    readings = await stored.rows(
        conn, "SELECT sum(n) FROM datapoints d JOIN events e ON e.id = d.event_id WHERE e.name IN ('m1', 'Boiler')"
    )
    assert readings == [(2,)]


async def test_an_event_takes_the_readings_of_one_channel(backend: Backend, admin: httpx.AsyncClient) -> None:
    credential = await make_source(backend.database, "single")
    async with Source(backend.sockets, credential) as source:
        await source.hello(["s1", "s2"])
    instance, channels = await channels_of(admin, "single")
    address = f"{PLUGINS}/{instance['public_id']}/channels"
    taken = await admin.put(f"{address}/{channels['s2']['public_id']}", json={"event_public_id": channels["s1"]["event_public_id"]})
    assert taken.status_code == 409
    assert (await admin.put(f"{address}/{channels['s1']['public_id']}", json={"event_public_id": None})).json()["event"] is None
    swapped = await admin.put(f"{address}/{channels['s2']['public_id']}", json={"event_public_id": channels["s1"]["event_public_id"]})
    assert swapped.json()["event"] == "s1"
    missing = await admin.put(f"{address}/{channels['s1']['public_id']}", json={"event_public_id": instance["public_id"]})
    assert missing.json()["errors"][0]["loc"] == ["body", "event_public_id"]


async def test_instances_and_channels_are_made_changed_and_deleted(backend: Backend, admin: httpx.AsyncClient) -> None:
    await make_source(backend.database, "by hand")
    new = {"source_public_id": await source_id(admin, "by hand"), "plugin_id": "chiller", "name": "roof", "settings": {"port": 502}}
    made = await admin.post(PLUGINS, json=new)
    assert made.status_code == 201, made.text
    assert (await admin.post(PLUGINS, json=new)).status_code == 409
    address = made.headers["location"]
    changed = await admin.put(address, json={"demo_mode": True}, headers={"If-Match": '"1"'})
    assert (changed.json()["demo_mode"], changed.json()["settings"], changed.json()["version"]) == (True, {"port": 502}, 2)
    assert (await admin.put(address, json={"settings": {"x": "y" * 70_000}})).status_code == 422
    for enabled, found in (("true", ["roof"]), ("false", [])):
        listed = await admin.get(PLUGINS, params={"plugin_id": "chiller", "enabled": enabled})
        assert [one["name"] for one in listed.json()["data"]] == found
    channel = await admin.post(f"{address}/channels", json={"channel_key": "flow", "name": "Flow", "unit": "l/s"})
    assert (channel.status_code, channel.json()["described"]) == (201, False)
    assert (await admin.post(f"{address}/channels", json={"channel_key": "flow", "name": "Flow", "unit": "l/s"})).status_code == 409
    renamed = await admin.put(channel.headers["location"], json={"name": "Flow of water"})
    assert renamed.json()["name"] == "Flow of water"
    assert (await admin.get(channel.headers["location"])).json() == renamed.json()
    assert (await admin.delete(channel.headers["location"])).status_code == 204
    assert (await admin.delete(address)).status_code == 204
    assert (await admin.get(f"{address}/channels")).status_code == 404


async def test_a_channel_that_its_source_has_is_not_deleted_nor_renamed_here(backend: Backend, admin: httpx.AsyncClient) -> None:
    credential = await make_source(backend.database, "keeping")
    async with Source(backend.sockets, credential) as source:
        await source.hello(["k1"])
    instance, channels = await channels_of(admin, "keeping")
    address = f"{PLUGINS}/{instance['public_id']}/channels/{channels['k1']['public_id']}"
    assert (await admin.delete(address)).status_code == 409
    assert (await admin.put(address, json={"unit": "K"})).json()["errors"][0]["loc"] == ["body", "unit"]
    assert (await admin.put(address, json={"unit": "°C"})).status_code == 200


class Serial(msgspec.Struct, tag="serial", forbid_unknown_fields=True):
    port: Annotated[str, msgspec.Meta(pattern="^/dev/", max_length=20)]


class Net(msgspec.Struct, tag="net", forbid_unknown_fields=True):
    host: str


class PluginSettings(msgspec.Struct, forbid_unknown_fields=True):
    """As a plugin would write them, with whatever a type can say."""

    seed: int
    rate: Annotated[float, msgspec.Meta(gt=0, le=10)] = 1.0
    mode: Literal["fast", "slow"] = "fast"
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    names: Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(max_length=3)] = []
    pair: tuple[int, str] = (1, "")
    lines: dict[str, Serial] = {}
    over: Serial | Net | None = None
    on: bool = False


async def described_with(backend: Backend, admin: httpx.AsyncClient, name: str, schema: Any) -> str:
    """The address of an instance of which a source of this name has described this schema."""
    raw = msgspec.Raw(msgspec.msgpack.encode(schema))
    async with Source(backend.sockets, await make_source(backend.database, name)) as source:
        await source.send(wire.encode(wire.Describe([wire.Instance("bench", "test", False, raw, [])])))
        await source.send(wire.encode(wire.Hello(1, 1, "test", source.stream, 1, [], 0, 0)))
        await source.expect(wire.Welcome)
    instance, _ = await channels_of(admin, name)
    return f"{PLUGINS}/{instance['public_id']}"


async def test_settings_are_judged_by_the_schema_that_their_source_describes(backend: Backend, admin: httpx.AsyncClient) -> None:
    address = await described_with(backend, admin, "judging", msgspec.json.schema(PluginSettings))

    async def faults(settings: dict[str, Any]) -> list[list[Any]]:
        answer = await admin.put(address, json={"settings": settings})
        assert answer.status_code in (200, 422), answer.text
        assert all(error["loc"][:2] == ["body", "settings"] for error in answer.json().get("errors", []))
        return [error["loc"][2:] for error in answer.json().get("errors", [])]

    assert await faults({"seed": "x", "bogus": 1}) == [["seed"], ["bogus"]]
    whole = {
        "seed": 1, "rate": 10, "mode": "slow", "limit": None, "names": ["a"], "pair": [1, "x"], "on": True,
        "lines": {"a": {"type": "serial", "port": "/dev/ttyS0"}}, "over": {"type": "net", "host": "plc"},
    }  # fmt: skip
    assert await faults(whole) == []
    assert await faults({"seed": 2.0}) == []  # JSON knows one kind of number
    for settings, places in (
        ({}, [["seed"]]),
        ({"seed": True}, [["seed"]]),
        ({"seed": 1.5, "rate": 0, "mode": "x", "limit": 0, "on": 1}, [["seed"], ["rate"], ["mode"], ["limit"], ["on"]]),
        ({"seed": 1, "rate": 10.5, "names": ["", 1]}, [["rate"], ["names", 0], ["names", 1]]),
        ({"seed": 1, "names": ["a"] * 4, "pair": [1, 1]}, [["names"], ["pair", 1]]),
        ({"seed": 1, "pair": [1]}, [["pair"]]),
        ({"seed": 1, "lines": {"a": {"type": "serial", "port": "COM1"}}}, [["lines", "a", "port"]]),
        ({"seed": 1, "lines": {"a": {"type": "serial", "port": "/dev/" + "x" * 20}}}, [["lines", "a", "port"]]),
        ({"seed": 1, "over": {"type": "net"}}, [["over"]]),
    ):
        assert await faults(settings) == places, settings
    assert (await admin.get(address)).json()["settings"] == {"seed": 2.0}
    assert (await admin.put(address, json={"demo_mode": True})).status_code == 200


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("no type", {"type": "banana"}),
        ("no object", {"properties": 5}),
        ("no number", {"minProperties": "x"}),
        ("no place", {"$ref": "#/$defs/Nowhere"}),
        ("elsewhere", {"$ref": "http://127.0.0.1:1/schema.json"}),
        ("itself", {"$ref": "#"}),
        ("itself in parts", {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        ("no pattern", {"properties": {"a": {"pattern": "("}}}),
        ("huge pattern", {"properties": {"a": {"pattern": r"(\w{1000}){1000}"}}}),
        ("words unknown", {"oneOf": 5, "if": [], "format": {}}),
        (
            "doubling",
            {"$ref": "#/$defs/0", "$defs": {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(40)} | {"40": False}},
        ),
    ],
)
async def test_a_schema_that_is_none_or_never_ends_refuses_nothing(
    backend: Backend, admin: httpx.AsyncClient, name: str, schema: dict[str, Any]
) -> None:
    address = await described_with(backend, admin, f"nonsense {name}", schema)
    assert (await admin.get(address)).json()["settings_schema"] == schema
    answer = await admin.put(address, json={"settings": {"a": "x" * 100}})
    assert answer.status_code == 200, answer.text
