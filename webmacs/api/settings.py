"""Settings that change at run time: what the plant is called, its time zone and shifts, how long readings are kept, how mail is sent.

What is needed to start (addresses, folders, the database) comes from the environment: webmacs/settings.py. One row holds what people set;
what they did not set has its default here. Whoever needs one reads it when it needs it.
"""

import itertools
from typing import Annotated, Any, Final, Literal, get_args
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock, keys
from webmacs.http.problem import Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import LABEL, NAME, TIME_OF_DAY, Shape, Timestamp, fields_given
from webmacs.jobs import queue
from webmacs.storage.pool import Connection, Pool

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
LocalTime = Annotated[str, Meta(pattern=TIME_OF_DAY, max_length=5, description="Of the plant's zone.", examples=["06:00"])]
KeptDays = Annotated[int, Meta(ge=1, le=36_500)]
PlantName = Annotated[str, Meta(max_length=200, pattern=LABEL)]
TimeZone = Annotated[str, Meta(min_length=1, max_length=100, description="A name of the IANA list.", examples=["Europe/Berlin"])]
Security = Annotated[Literal["none", "starttls", "tls"], Meta(description="`tls` from the first byte, `starttls` before signing in.")]
Password = Annotated[str, Meta(max_length=500, description="Never shown. Not given: as it was, while server and user stay the same.")]
JobDays = Annotated[int, Meta(ge=1, le=365, description="Jobs that are over are forgotten after so many days.")]

DAYS: Final = get_args(Day)
DAY_MINUTES: Final = 24 * 60
WEEK_MINUTES: Final = len(DAYS) * DAY_MINUTES
SMTP_PASSWORD: Final = b"settings/smtp_password"
"""What the sealed password belongs to."""


class Shift(Shape, frozen=True):
    """One that ends at or before its start ends on the next day."""

    name: Annotated[str, Meta(min_length=1, max_length=50, pattern=NAME, examples=["Early"])]
    start: LocalTime
    end: LocalTime
    days: Annotated[list[Day], Meta(min_length=1, max_length=7, description="On which it begins.")]


class Retention(Shape, frozen=True):
    """How long readings and their statistics are kept where an event does not say otherwise; null: for ever."""

    raw_days: KeptDays | None = None
    statistics_days: KeptDays | None = None

    def __post_init__(self) -> None:
        if self.raw_days is not None and self.statistics_days is not None and self.statistics_days < self.raw_days:
            raise ValueError("Statistics are kept at least as long as the readings.")


class Smtp(Shape, frozen=True, kw_only=True):
    """The mail server."""

    host: Annotated[str, Meta(min_length=1, max_length=253, examples=["mail.example.org"])]
    port: Annotated[int, Meta(ge=1, le=65_535)] = 587
    security: Security = "starttls"
    user: Annotated[str, Meta(max_length=254)] | None = None
    sender: Annotated[str, Meta(min_length=3, max_length=254, examples=["webmacs@example.org"])]

    def __post_init__(self) -> None:
        if not all(text.isprintable() for text in (self.host, self.user or "", self.sender)):
            raise ValueError("Host, user and sender are one line each.")
        if "@" not in self.sender[1:-1]:
            raise ValueError("The sender is an e-mail address.")


class SmtpIn(Smtp, frozen=True, kw_only=True):
    password: Password | UnsetType | None = UNSET


class SettingsChange(Shape, frozen=True):
    """What is not given stays as it is; `shifts`, `retention` and `smtp` are given whole."""

    plant_name: PlantName | UnsetType = UNSET
    time_zone: TimeZone | UnsetType = UNSET
    shifts: Annotated[list[Shift], Meta(max_length=50)] | UnsetType = UNSET
    retention: Retention | UnsetType = UNSET
    smtp: SmtpIn | UnsetType | None = UNSET
    jobs_kept_days: JobDays | UnsetType = UNSET


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    public_id: UUID
    plant_name: PlantName = ""
    time_zone: TimeZone = "UTC"
    shifts: list[Shift] = []
    retention: Retention = Retention()
    smtp: Annotated[Smtp | None, Meta(description="null: no mail is sent.")] = None
    smtp_password_set: bool
    jobs_kept_days: JobDays = queue.KEPT_DAYS
    changed_on: Timestamp
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


NAMES: Final = SettingsChange.__struct_fields__
SELECT: Final = "SELECT public_id, content, smtp_password, changed_on, version FROM settings"


@route("GET", "/api/v1/settings")
async def get_settings(call: Call) -> Settings:
    """Read the settings. Passwords are not among them, only whether there is one."""
    return (await read(call.pool))[0]


@route("PUT", "/api/v1/settings", changes="settings")
async def change_settings(call: Call[SettingsChange]) -> Settings:
    """Change settings. Fields that are not given stay; they take effect at once, without a restart."""
    given = fields_given(call.body)
    before, kept = await read(call.conn, lock=True)
    password = kept
    call.match(before.version)
    if "time_zone" in given:
        await _check_zone(call.conn, given["time_zone"])
    if "shifts" in given:
        _check_shifts(given["shifts"])
    if "smtp" in given:
        smtp: SmtpIn | None = given["smtp"]
        password = _password(call, before, kept)
        given["smtp"] = None if smtp is None else Smtp(**{name: getattr(smtp, name) for name in Smtp.__struct_fields__})
    content: dict[str, Any] = {name: given.get(name, getattr(before, name)) for name in NAMES}
    # the state of the beginning was made by nobody, so no change has kept it: the first one does
    await call.conn.execute(
        """WITH first AS (
               INSERT INTO versions (kind, object_public_id, version, at, content) VALUES ('settings', $4, $5, $6, $7)
               ON CONFLICT DO NOTHING)
           UPDATE settings SET content = $1, smtp_password = $2, changed_on = $3, version = version + 1""",
        msgspec.to_builtins(content), password, clock.now(),
        before.public_id, before.version, before.changed_on, msgspec.to_builtins(before, str_keys=True),
    )  # fmt: skip
    after, _ = await read(call.conn)
    replaced = None if password in (kept, None) else "mail password replaced"
    return call.changed(before, after, "settings", name="settings", detail=replaced)


async def read(database: Pool | Connection, *, lock: bool = False) -> tuple[Settings, bytes | None]:
    """(the settings, the sealed password of the mail server). With `lock` nobody else changes them until the transaction ends."""
    (row,) = await database.fetch(SELECT + (" FOR NO KEY UPDATE" if lock else ""))
    columns = {name: row[name] for name in ("public_id", "changed_on", "version")}
    values = row["content"] | columns | {"smtp_password_set": row["smtp_password"] is not None}
    return msgspec.convert(values, Settings), row["smtp_password"]


def _password(call: Call[SettingsChange], before: Settings, sealed: bytes | None) -> bytes | None:
    """The sealed password of the mail server from now on. It is not sent to another server than it was given for."""
    smtp = call.body.smtp
    if smtp is None or smtp is UNSET or smtp.password is None:
        return None
    if smtp.password is not UNSET:
        return keys.seal(call.parts.sealing_key, smtp.password.encode(), SMTP_PASSWORD)
    same = before.smtp is not None and (before.smtp.host, before.smtp.port, before.smtp.user) == (smtp.host, smtp.port, smtp.user)
    if sealed is not None and not same:
        raise Unprocessable.at("body", "smtp", "password", msg="Server or user change: give the password again, or null for none.")
    return sealed


async def _check_zone(conn: Connection, name: str) -> None:
    """By the database's list: it is there on every machine, and it is what sums up by days and shifts. Raises Unprocessable."""
    if not await conn.fetchval("SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1)", name):
        raise Unprocessable.at("body", "time_zone", msg=f"{name} is no time zone; give a name of the IANA list, as Europe/Berlin.")


def _check_shifts(shifts: list[Shift]) -> None:
    """Raises Unprocessable where a moment would belong to two shifts, or a name to two."""
    names: set[str] = set()
    spans: list[tuple[int, int, int]] = []
    for index, shift in enumerate(shifts):
        if shift.name in names:
            raise Unprocessable.at("body", "shifts", index, "name", msg=f"Another shift is called {shift.name} already.")
        if len(set(shift.days)) < len(shift.days):
            raise Unprocessable.at("body", "shifts", index, "days", msg="A day stands there twice.")
        names.add(shift.name)
        begin, end = _minutes(shift.start), _minutes(shift.end)
        length = (end - begin - 1) % DAY_MINUTES + 1
        spans += [(DAYS.index(day) * DAY_MINUTES + begin, length, index) for day in shift.days]
    spans.sort()
    next_week = [(begin + WEEK_MINUTES, length, index) for begin, length, index in spans[:1]]
    for (begin, length, index), (following, _, other) in itertools.pairwise(spans + next_week):
        if begin + length > following:
            raise Unprocessable.at("body", "shifts", max(index, other), msg=f"It overlaps the shift {shifts[min(index, other)].name}.")


def _minutes(time: str) -> int:
    hours, _, minutes = time.partition(":")
    return int(hours) * 60 + int(minutes)


routes = [get_settings, change_settings]
