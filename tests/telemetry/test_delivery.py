"""The telemetry socket from a source's side: what is acknowledged is stored once, what is refused is said and stored as refused."""

import asyncio
import json
import struct
import time
from typing import Any

import httpx
import pytest
from parts import stored
from parts.backend import Backend, make_source, make_user, sign_in
from parts.source import Source, data
from webmacs_controller import wire

from webmacs import ingest_core
from webmacs.api.events.event import Event

Conn = "asyncpg.Connection[Any]"


def now_us() -> int:
    return time.time_ns() // 1_000


async def test_an_acknowledged_frame_is_stored_reading_by_reading(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "one")
    t = now_us()
    async with Source(backend.sockets, credential) as source:
        welcome = await source.hello(["a", "b"])
        assert welcome.committed_seq == 0
        assert [number for number, _ in welcome.accepted] == [0, 1]
        await source.send(data(1, {0: ([t, t + 1_000, t + 5_000], [1.0, -2.5, 3.25]), 1: ([t], [7.0])}))
        await source.acknowledged(1)
    assert await stored.readings(conn, "one", "a") == [(t, 1.0), (t + 1_000, -2.5), (t + 5_000, 3.25)]
    assert await stored.readings(conn, "one", "b") == [(t, 7.0)]
    assert await stored.rows(
        conn,
        "SELECT r.first_seq, r.last_seq, r.frames, r.readings FROM receipts r JOIN sources s ON s.id = r.source_id WHERE s.name = 'one'",
    ) == [(1, 1, 1, 4)]
    assert await stored.rows(
        conn, "SELECT value FROM latest l JOIN events e ON e.id = l.event_id WHERE e.name IN ('a', 'b') ORDER BY e.name"
    ) == [(3.25,), (7.0,)]


async def test_frames_of_one_flush_become_one_run_of_each_event(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "merged")
    t = now_us()
    async with Source(backend.sockets, credential) as source:
        await source.hello(["m"])
        for seq in range(1, 201):
            await source.send(data(seq, {0: ([t + seq * 1_000], [float(seq)])}))
        await source.acknowledged(200)
    runs = await stored.rows(conn, "SELECT n, overlapping FROM datapoints d JOIN events e ON e.id = d.event_id WHERE e.channel_key = 'm'")
    assert sum(n for n, _ in runs) == 200
    assert len(runs) < 100
    assert not any(overlapping for _, overlapping in runs)


async def test_a_source_resumes_behind_what_is_committed_and_duplicates_are_dropped(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "resuming")
    t = now_us()
    first = data(1, {0: ([t], [1.0])})
    async with Source(backend.sockets, credential) as source:
        await source.hello(["r"])
        await source.send(first)
        await source.acknowledged(1)
        stream = source.stream
    async with Source(backend.sockets, credential, stream) as source:
        welcome = await source.hello(["r"], next_seq=3)
        assert (welcome.committed_seq, welcome.new_stream) == (1, False)
        await source.send(first)
        await source.send(data(2, {0: ([t + 1], [2.0])}))
        await source.acknowledged(2)
    assert await stored.readings(conn, "resuming", "r") == [(t, 1.0), (t + 1, 2.0)]


async def test_a_stream_whose_numbers_run_back_is_told_to_begin_a_new_one(backend: Backend) -> None:
    credential = await make_source(backend.database, "restored")
    async with Source(backend.sockets, credential) as source:
        await source.hello(["back"])
        await source.send(data(1, {0: ([now_us()], [1.0])}))
        await source.acknowledged(1)
        assert (await source.hello(["back"], next_seq=1)).new_stream


async def test_a_gap_further_on_stands_for_as_many_numbers_up_to_its_own_as_it_says(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "gapped")
    t = now_us()
    async with Source(backend.sockets, credential) as source:
        await source.hello(["g"])
        await source.send(data(1, {0: ([t], [1.0])}))
        await source.send(wire.encode(wire.Gap(9, None, t + 1, t + 8, 16, "spool_overflow", 8)))
        await source.send(data(10, {0: ([t + 9], [2.0])}))
        await source.acknowledged(10)
        assert (await source.hello(["g"], next_seq=11)).committed_seq == 10
    assert await stored.rows(conn, "SELECT seq, n, cause FROM gaps g JOIN sources s ON s.id = g.source_id WHERE s.name = 'gapped'") == [
        (9, 16, "spool_overflow")
    ]


@pytest.mark.parametrize("frames", [1, 2, 0, -3])
async def test_a_gap_does_not_hide_frames_that_it_does_not_stand_for(backend: Backend, conn: Conn, frames: int) -> None:
    """Frame 2 was lost under way, by a relay that is broken: the gap that comes next declares others."""
    name = f"hidden {frames}"
    credential = await make_source(backend.database, name)
    t = now_us()
    gap = wire.encode(wire.Gap(4, None, t + 1, t + 8, 16, "spool_overflow", frames))
    async with Source(backend.sockets, credential) as source:
        await source.hello(["g"])
        await source.send(data(1, {0: ([t], [1.0])}))
        await source.send(gap)
        nack = await source.expect(wire.Nack)
        assert (nack.seq, nack.code) == (4, "seq_gap")
        await source.send(data(2, {0: ([t + 9], [2.0])}))
        await source.send(wire.encode(wire.Gap(4, None, t + 1, t + 8, 16, "spool_overflow", 2)))
        await source.acknowledged(4)
    assert await stored.readings(conn, name, "g") == [(t, 1.0), (t + 9, 2.0)]


async def test_a_hole_is_refused_and_consumes_nothing(backend: Backend) -> None:
    credential = await make_source(backend.database, "holes")
    t = now_us()
    async with Source(backend.sockets, credential) as source:
        await source.hello(["h"])
        await source.send(data(2, {0: ([t], [1.0])}))
        nack = await source.expect(wire.Nack)
        assert (nack.seq, nack.code) == (2, "seq_gap")
        await source.send(data(1, {0: ([t], [1.0])}))
        await source.acknowledged(1)


def frame(seq: int, columns: list[Any]) -> bytes:
    return wire.encode(wire.Data(seq, 0, columns))


def offsets(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def values(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)


DAY_US = 24 * 3600 * 1_000_000
T = now_us()
BAD_FRAMES = {
    "malformed": lambda seq: b"\x94\x04" + wire.encode(seq) + b"\xc0\x91",
    "unknown_channel": lambda seq: frame(seq, [wire.Column(99, T, offsets(0), values(1.0))]),
    "not_granted": lambda seq: frame(seq, [wire.Column(1, T, offsets(0), values(1.0))]),
    "not_finite": lambda seq: frame(seq, [wire.Column(0, T, offsets(0, 1), values(1.0, float("nan")))]),
    "lengths_differ": lambda seq: frame(seq, [wire.Column(0, T, offsets(0, 1), values(1.0))]),
    "not_increasing": lambda seq: frame(seq, [wire.Column(0, T, offsets(0, 5, 5), values(1.0, 2.0, 3.0))]),
    "out_of_bounds": lambda seq: frame(seq, [wire.Column(0, T - 31 * DAY_US, offsets(0), values(1.0))]),
    "too_large": lambda seq: frame(seq, [wire.Column(0, T, 1, values(*[0.0] * (ingest_core.FRAME_READINGS_MAX + 1)))]),
}


@pytest.mark.parametrize("code", BAD_FRAMES)
async def test_a_refused_frame_does_not_close_its_socket(backend: Backend, conn: Conn, code: str) -> None:
    """Nor its neighbours; the refusal is committed with its number, and the next frame follows it."""
    credential = await make_source(backend.database, f"refused {code}")
    neighbour_credential = await make_source(backend.database, f"neighbour {code}")
    t = now_us()
    async with Source(backend.sockets, credential) as source, Source(backend.sockets, neighbour_credential) as neighbour:
        await neighbour.hello(["n"])
        await source.send(wire.encode(wire.Describe([wire.Instance("bench", "test", True, wire.NO_SETTINGS, [_channel(code)])])))
        granted = wire.HelloChannel(0, code, None, code, "", "sensor")
        foreign = wire.HelloChannel(1, "foreign", None, "foreign", "", "sensor")
        await source.send(wire.encode(wire.Hello(1, 1, "test", source.stream, 1, [granted, foreign], 0, 0)))
        assert [number for number, _ in (await source.expect(wire.Welcome)).refused] == [1]
        await source.send(BAD_FRAMES[code](1))
        nack = await source.expect(wire.Nack)
        assert (nack.seq, nack.code) == (1, code), nack
        await source.send(data(2, {0: ([t], [5.0])}))
        await source.acknowledged(2)
        await neighbour.send(data(1, {0: ([t], [6.0])}))
        await neighbour.acknowledged(1)
    assert await stored.readings(conn, f"refused {code}", code) == [(t, 5.0)]
    gaps = await stored.rows(
        conn, "SELECT g.seq, g.cause, g.code FROM gaps g JOIN sources s ON s.id = g.source_id WHERE s.name = $1", f"refused {code}"
    )
    assert gaps == [(1, "refused", code)]


def _channel(key: str) -> wire.DescribedChannel:
    return wire.DescribedChannel(key, f"channel {key}", "", "sensor", None, None, None, None)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", "malformed"),
        (b"\xff\x00\x01", "malformed"),
        (b"\x92\x63\x01", "malformed"),
        (b"\x91\x01", "malformed"),
        (wire.encode(wire.Hello(7, 9, "test", bytes(16), 1, [], 0, 0)), "version"),
        (wire.encode(wire.Hello(1, 1, "test", b"short", 1, [], 0, 0)), "malformed"),
        (b"\x91" * 5_000, "malformed"),
        (wire.encode([3, [["bench", "test", True, [], []]]]), "malformed"),
    ],
    ids=["empty", "no array", "unknown kind", "cut hello", "other version", "short stream", "deep", "schema is no map"],
)
async def test_a_message_that_cannot_be_read_is_refused_by_its_index(backend: Backend, message: bytes, code: str) -> None:
    credential = await make_source(backend.database, f"unreadable {message[:20].hex()} {code}")
    async with Source(backend.sockets, credential) as source:
        await source.send(message)
        nack = await source.expect(wire.Nack)
        assert (nack.seq, nack.index, nack.code) == (None, 0, code)
        assert (await source.hello([f"alive {credential[-8:]}"])).committed_seq == 0


async def test_a_frame_before_hello_is_refused(backend: Backend) -> None:
    async with Source(backend.sockets, await make_source(backend.database, "hasty")) as source:
        await source.send(data(1, {0: ([now_us()], [1.0])}))
        assert "hello" in (await source.expect(wire.Nack)).detail


async def test_a_newer_connection_fences_the_older(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "twice")
    t = now_us()
    async with Source(backend.sockets, credential) as older, Source(backend.sockets, credential) as newer:
        await older.hello(["f"])
        await older.send(data(1, {0: ([t], [1.0])}))
        await older.acknowledged(1)
        await newer.hello(["f"])
        assert (await older.closed())[0] == 4409
        await newer.send(data(1, {0: ([t + 1], [2.0])}))
        await newer.acknowledged(1)
    assert await stored.readings(conn, "twice", "f") == [(t, 1.0), (t + 1, 2.0)]


async def test_late_readings_are_marked_overlapping_and_the_newest_written_wins(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "late")
    t = now_us()
    async with Source(backend.sockets, credential) as source:
        await source.hello(["l"])
        for seq, (times, numbers) in enumerate([([t, t + 10], [1.0, 2.0]), ([t + 5, t + 10], [9.0, 8.0]), ([t + 20], [3.0])], 1):
            await source.send(data(seq, {0: (times, numbers)}))
            await source.acknowledged(seq)
    marks = await stored.rows(
        conn, "SELECT overlapping FROM datapoints d JOIN events e ON e.id = d.event_id WHERE e.channel_key = 'l' ORDER BY d.id"
    )
    assert marks == [(False,), (True,), (False,)]


async def test_gaps_and_doubts_are_stored_under_their_numbers(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "doubtful")
    t = now_us()
    async with Source(backend.sockets, credential) as source:
        await source.hello(["d"])
        await source.send(wire.encode(wire.Gap(1, 0, t - 100, t, 42, "spool_overflow")))
        await source.send(wire.encode(wire.Gap(2, None, t - 100, t, 7, "source_stopped")))
        await source.send(wire.encode(wire.Quality(3, 0, t, None, "simulated")))
        await source.acknowledged(3)
        await source.send(wire.encode(wire.Quality(4, 0, t + 50, None, "good")))
        await source.acknowledged(4)
    found = await stored.rows(
        conn,
        """SELECT g.seq, g.event_id IS NULL, g.n, g.cause FROM gaps g JOIN sources s ON s.id = g.source_id
            WHERE s.name = 'doubtful' ORDER BY g.seq""",
    )
    assert found == [(1, False, 42, "spool_overflow"), (2, True, 7, "source_stopped")]
    doubts = await stored.rows(
        conn, "SELECT q.code, q.to_on - q.from_on FROM quality q JOIN events e ON e.id = q.event_id WHERE e.channel_key = 'd'"
    )
    assert [(code, open_for.microseconds) for code, open_for in doubts] == [("simulated", 50)]


async def test_text_frames_are_stored_whole_or_refused_whole(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "scripted")
    async with Source(backend.sockets, credential) as source:
        await source.hello(["x"])
        (event,) = [row[0] for row in await stored.rows(conn, "SELECT public_id::text FROM events WHERE channel_key = 'x'")]
        await source.send(json.dumps({"datapoints": [{"event_public_id": event, "value": 1.5}, {"event_public_id": event, "value": 2.5}]}))
        assert json.loads(await source.expect(str)) == {"type": "ack", "index": 2}
        await source.send(json.dumps({"datapoints": [{"event_public_id": event, "value": 3.5}, {"event_public_id": event, "value": "no"}]}))
        nack = json.loads(await source.expect(str))
        assert (nack["type"], nack["index"], nack["code"], nack["position"]) == ("nack", 3, "malformed", 1)
        await source.send("no json at all")
        assert json.loads(await source.expect(str))["code"] == "malformed"
    found = await stored.readings(conn, "scripted", "x")
    assert [value for _, value in found] == [1.5, 2.5]
    assert found[1][0] == found[0][0] + 1


async def test_a_rule_fires_in_the_transaction_of_its_readings(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "ruled")
    t = now_us()
    async with Source(backend.sockets, credential) as source:
        await source.hello(["ruled"])
        await conn.execute(
            """INSERT INTO rules (public_id, name, event_id, operator, threshold)
               SELECT gen_random_uuid(), 'too hot', id, 'gt', 80 FROM events WHERE channel_key = 'ruled'"""
        )
        await conn.execute("SELECT pg_notify('webmacs_config', 'rules')")
        seq = 0
        while not await conn.fetchval("SELECT count(*) FROM rule_transitions"):  # until the notification has arrived
            seq += 2
            await source.send(data(seq - 1, {0: ([t + seq * 1_000_000, t + seq * 1_000_000 + 1], [70.0, 90.0])}))
            await source.send(data(seq, {0: ([t + seq * 1_000_000 + 2], [60.0])}))
            await source.acknowledged(seq)
    fired = await stored.rows(conn, "SELECT t.fired, t.value FROM rule_transitions t ORDER BY t.id")
    assert fired == [(True, 90.0), (False, 60.0)]
    assert await stored.rows(conn, "SELECT fired FROM rules") == [(False,)]


async def test_without_a_credential_the_socket_is_not_opened(backend: Backend) -> None:
    from websockets.exceptions import InvalidStatus

    for credential, status in (("wms_" + "x" * 43, 401), ("nonsense", 401)):
        with pytest.raises(InvalidStatus) as refusal:
            await Source(backend.sockets, credential).__aenter__()
        assert refusal.value.response.status_code == status


@pytest.mark.parametrize(
    "channel",
    [
        {"name": ""},
        {"name": "n" * 101},
        {"unit": "\0"},
        {"min_value": 2.0, "max_value": 1.0},
        {"decimals": 13},
        {"expected_interval_ms": 2**31},
    ],
    ids=lambda channel: ",".join(channel),
)
async def test_a_device_described_wrongly_is_refused_with_the_place(backend: Backend, channel: dict[str, Any]) -> None:
    described = {"key": "k", "name": "n", "unit": "", "type": "sensor", "min_value": None, "max_value": None, "decimals": None}
    fields = list((described | {"expected_interval_ms": None} | channel).values())
    async with Source(backend.sockets, await make_source(backend.database, f"wrong {channel}"[:60])) as source:
        await source.send(wire.encode([3, [["bench", "test", True, {}, [fields]]]]))
        nack = await source.expect(wire.Nack)
        assert (nack.index, nack.code) == (0, "malformed")
        assert "$[1][0][4][0]" in nack.detail


async def test_events_that_a_source_makes_have_their_account_and_what_people_change_stays(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "describing")
    async with Source(backend.sockets, credential) as source:
        await source.hello(["made 1", "made 2"])
    account = """
        SELECT a.action, a.object_name, a.actor_kind, a.actor_name, v.version, v.actor_name, v.content = a.after,
               a.actor_public_id = s.public_id
          FROM events e JOIN writers w ON w.id = e.writer_id JOIN sources s ON s.id = w.source_id
          JOIN audit_log a ON a.object_public_id = e.public_id
          JOIN versions v ON v.kind = 'event' AND v.object_public_id = e.public_id
         WHERE s.name = 'describing' ORDER BY e.name"""
    expected = [("create", name, "source", "describing", 1, "describing", True, True) for name in ("made 1", "made 2")]
    assert await stored.rows(conn, account) == expected
    told = json.loads(await conn.fetchval("SELECT after FROM audit_log WHERE object_name = 'made 1'"))
    assert told.keys() == set(Event.__struct_fields__)
    assert (told["unit"], told["source"], told["channel_key"], told["tags"]) == ("°C", "describing", "made 1", [])
    await conn.execute("UPDATE events SET unit = 'K', max_value = 5, limit_hi = 4, path = 'plant' WHERE name = 'made 1'")
    async with Source(backend.sockets, credential) as source:
        await source.hello(["made 1", "made 2"])
    assert await stored.rows(conn, "SELECT unit, max_value, limit_hi, path FROM events WHERE name = 'made 1'") == [("K", 5.0, 4.0, "plant")]
    assert await stored.rows(conn, account) == expected


async def test_two_channels_cannot_be_one_event(backend: Backend) -> None:
    async with Source(backend.sockets, await make_source(backend.database, "double")) as source:
        await source.send(wire.encode(wire.Describe([wire.Instance("bench", "test", True, wire.NO_SETTINGS, [_channel("double")])])))
        channels = [wire.HelloChannel(number, "double", None, "double", "", "sensor") for number in (0, 1)]
        await source.send(wire.encode(wire.Hello(1, 1, "test", source.stream, 1, channels, 0, 0)))
        welcome = await source.expect(wire.Welcome)
        assert [number for number, _ in welcome.accepted] == [0]
        assert [number for number, _ in welcome.refused] == [1]


async def test_a_refused_text_frame_is_answered_once(backend: Backend) -> None:
    async with Source(backend.sockets, await make_source(backend.database, "answered")) as source:
        await source.hello(["answered"])
        await source.send("[]")
        assert json.loads(await source.expect(str))["code"] == "malformed"
        await source.send(data(1, {0: ([now_us()], [1.0])}))
        message = await source.expect(wire.Ack)
        assert message.committed_seq == 1
        assert source.nacks == []


async def test_a_bad_preview_is_refused_and_a_good_one_is_not_answered(backend: Backend) -> None:
    async with Source(backend.sockets, await make_source(backend.database, "previewing")) as source:
        await source.hello(["previewed"])
        await source.send(wire.encode(wire.Preview([(99, now_us(), 1.0)])))
        assert (await source.expect(wire.Nack)).code == "unknown_channel"
        await source.send(wire.encode(wire.Preview([(0, now_us(), 1.0)])))
        await source.send(data(1, {0: ([now_us()], [1.0])}))
        await source.acknowledged(1)
        assert len(source.nacks) == 1


async def test_a_day_without_a_partition_is_made_when_a_reading_needs_it(backend: Backend, conn: Conn) -> None:
    """As after a clock that was set forward by weeks."""
    t = now_us() + 20 * 3_600_000_000
    day = time.strftime("%Y%m%d", time.gmtime(t / 1e6))
    await conn.execute(f"DROP TABLE datapoints_{day}")
    async with Source(backend.sockets, await make_source(backend.database, "ahead")) as source:
        await source.hello(["ahead"])
        await source.send(data(1, {0: ([t], [1.0])}))
        await source.acknowledged(1)
    assert await stored.readings(conn, "ahead", "ahead") == [(t, 1.0)]


@pytest.mark.parametrize("message", [[11, 2**64 - 1, 0], [11, 0, -1], [1, 1, 1, "test", bytes(16), 1, [], 2**64 - 1, 0]])
async def test_a_clock_beyond_all_bounds_is_refused(backend: Backend, message: list[Any]) -> None:
    async with Source(backend.sockets, await make_source(backend.database, f"clock {message[0]} {message[1]}")) as source:
        await source.send(wire.encode(message))
        assert (await source.expect(wire.Nack)).code == "malformed"


async def test_a_source_whose_event_was_deleted_must_say_hello_again(backend: Backend, conn: Conn) -> None:
    credential = await make_source(backend.database, "bereft")
    async with Source(backend.sockets, credential) as source:
        await source.hello(["deleted", "kept"])
        await conn.execute("DELETE FROM events WHERE channel_key = 'deleted'")
        await conn.execute("SELECT pg_notify('webmacs_config', 'events')")
        assert (await source.closed())[0] == 4409
    async with Source(backend.sockets, credential) as source:
        channels = [
            wire.HelloChannel(0, "deleted", None, "deleted", "", "sensor"),
            wire.HelloChannel(1, "kept", None, "kept", "", "sensor"),
        ]
        await source.send(wire.encode(wire.Hello(1, 1, "test", source.stream, 1, channels, 0, 0)))
        welcome = await source.expect(wire.Welcome)
        assert ([number for number, _ in welcome.accepted], [number for number, _ in welcome.refused]) == ([1], [0])


async def test_a_channel_whose_event_was_deleted_gets_a_new_one_of_the_same_name(backend: Backend, conn: Conn) -> None:
    admin = await sign_in(backend, "admin@example.org", await make_user(backend.database, backend.data_dir, "admin@example.org"))
    credential, t = await make_source(backend.database, "bereft once"), now_us()
    async with Source(backend.sockets, credential) as source:
        (_, first), *_ = (await source.hello(["deleted once"])).accepted
        await source.send(data(1, {0: ([t], [1.0])}))
        await source.acknowledged(1)
        async with httpx.AsyncClient(base_url=backend.url, headers={"Authorization": f"Bearer {admin}"}) as client:
            assert (await client.delete(f"/api/v1/events/{first}")).status_code == 204
        assert (await source.closed())[0] == 4409
    async with Source(backend.sockets, credential) as source:
        named = [wire.HelloChannel(0, "deleted once", first, "deleted once", "", "sensor")]
        await source.send(wire.encode(wire.Hello(1, 1, "test", source.stream, 1, named, 0, 0)))
        ((_, reason),) = (await source.expect(wire.Welcome)).refused
        assert reason == f"event {first} does not exist or is not this source's"
    async with Source(backend.sockets, credential) as source:
        (_, second), *_ = (await source.hello(["deleted once"])).accepted
        assert second != first
        await source.send(data(1, {0: ([t], [2.0])}))
        await source.acknowledged(1)
    query = """SELECT e.public_id::text, e.name, e.deleted_on IS NULL, d.first
                 FROM datapoints d JOIN events e ON e.id = d.event_id WHERE e.name = 'deleted once' ORDER BY e.id"""
    assert await stored.rows(conn, query) == [(first, "deleted once", False, 1.0), (second, "deleted once", True, 2.0)]


async def test_a_hello_longer_than_allowed_is_refused(backend: Backend) -> None:
    async with Source(backend.sockets, await make_source(backend.database, "verbose")) as source:
        await source.send(wire.encode(wire.Describe([wire.Instance("a" * wire.CONTROL_BYTES_MAX, "b", True, wire.NO_SETTINGS, [])])))
        assert (await source.expect(wire.Nack)).code == "too_large"


async def test_a_source_says_how_far_behind_it_is_and_what_it_has_lost(backend: Backend) -> None:
    credential = await make_source(backend.database, "behind")
    password = await make_user(backend.database, backend.data_dir, "looks@example.org", "viewer")
    looking = {"Authorization": f"Bearer {await sign_in(backend, 'looks@example.org', password)}"}
    minute = now_us() - 60_000_000
    async with Source(backend.sockets, credential) as source, httpx.AsyncClient(base_url=backend.url, headers=looking) as client:
        await source.hello(["temperature"])
        await source.send(data(1, {0: ([minute, minute + 1], [20.5, 21.0])}))
        await source.send(wire.encode(wire.Gap(2, 0, minute - 9_000_000, minute - 1_000_000, 9, "spool_overflow")))
        await source.send(wire.encode(wire.Gap(3, 0, minute - 30_000_000, minute - 20_000_000, 10, "device_error")))
        await source.acknowledged(3)
        async with asyncio.timeout(20):
            seen: dict[str, Any] = {"lag_ms": None}
            while seen["lag_ms"] is None:  # it is written every 5 s, without a word
                await asyncio.sleep(0.1)
                (seen,) = (await client.get("/api/v1/sources", params={"search": "behind"})).json()["data"]
    assert seen["lag_ms"] >= 59_000
    assert seen["readings_lost"] == 9
