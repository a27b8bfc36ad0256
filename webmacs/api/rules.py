"""Rules: what each reading of an event is judged by, and what follows when one fires or clears.

The core judges operator and thresholds of every enabled rule, for every reading, and keeps `fired` and the transitions. What a rule holds
beyond that is stored for the engine that acts on it; `not_in_effect` of the answer names it, so that nobody relies on it too early.
"""

from typing import Annotated, Any, Final, Literal, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from webmacs import clock
from webmacs.api.events.asked import asked_for
from webmacs.api.logging import LoggingType
from webmacs.api.webhooks import WebhookEventType
from webmacs.http.page import CursorPage, Page, PageQuery, TimesQuery, fetch_after, fetch_page
from webmacs.http.problem import Conflict, NotFound, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import NAME, Shape, Timestamp, fields_given, of_row
from webmacs.storage.ids import uuid7
from webmacs.storage.pool import Connection, Pool

Operator: TypeAlias = Literal["gt", "lt", "gte", "lte", "eq", "between", "not_between"]
Severity: TypeAlias = Literal["low", "medium", "high", "critical"]
Moment: TypeAlias = Literal["fired", "cleared"]
Deferred: TypeAlias = Literal["dead_band", "for_ms", "clear_for_ms", "cooldown_seconds", "actions"]

LATER: Final = "Stored, but not in effect yet."
DURATION_MS_MAX: Final = 7 * 86_400_000

Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=NAME, examples=["Boiler too hot"])]
Description = Annotated[str, Meta(max_length=10_000, description="What it is for, and what to do when it fires.")]
Threshold = Annotated[float, Meta(description="In the event's unit; the lower one of between and not_between.", examples=[95.0])]
ThresholdHigh = Annotated[float | None, Meta(description="The upper one of between and not_between, which both include it; null else.")]
DeadBand = Annotated[float, Meta(ge=0, description=f"How far back a value must come before the rule clears. {LATER}")]
For = Annotated[int, Meta(ge=0, le=DURATION_MS_MAX, description=f"How long it must hold before the rule fires, in ms. {LATER}")]
ClearFor = Annotated[int, Meta(ge=0, le=DURATION_MS_MAX, description=f"How long it must not hold before it clears, in ms. {LATER}")]
Cooldown = Annotated[int, Meta(ge=0, le=86_400, description=f"No action follows another of this rule within this time. {LATER}")]


class LogAction(Shape, frozen=True, tag_field="type", tag="log"):
    """Writes a log entry."""

    on: Moment = "fired"
    logging_type: LoggingType = "warning"
    content: Annotated[str, Meta(min_length=1, max_length=1_000, description="null: rule, event and value in words.")] | None = None


class WebhookAction(Shape, frozen=True, tag_field="type", tag="webhook"):
    """Tells every webhook that wants this type."""

    on: Moment = "fired"
    webhook_event_type: WebhookEventType = "sensor.threshold_exceeded"


class AlarmAction(Shape, frozen=True, tag_field="type", tag="alarm"):
    """Raises an alarm of the rule's severity when it fires, which returns to normal when it clears."""


class CommandAction(Shape, frozen=True, tag_field="type", tag="command"):
    """Sets an actuator."""

    event_public_id: Annotated[UUID, Meta(description="The actuator, range or button; not the rule's own event.")]
    value: float
    on: Moment = "fired"
    ttl_seconds: Annotated[int, Meta(ge=1, le=300, description="What is not sent within this time is not applied any more.")] = 10


Action: TypeAlias = LogAction | WebhookAction | AlarmAction | CommandAction
Actions = Annotated[list[Action], Meta(max_length=20, description=f"What follows, in this order. {LATER}")]


class RuleIn(Shape, frozen=True):
    name: Name
    event_public_id: UUID
    operator: Operator
    threshold: Threshold
    threshold_high: ThresholdHigh = None
    description: Description = ""
    severity: Severity = "medium"
    enabled: bool = True
    dead_band: DeadBand = 0.0
    for_ms: For = 0
    clear_for_ms: ClearFor = 0
    cooldown_seconds: Cooldown = 60
    actions: Actions = []  # noqa: RUF012 - msgspec copies an empty list for each


class RuleChange(Shape, frozen=True):
    """What is not given stays as it is."""

    name: Name | UnsetType = UNSET
    event_public_id: UUID | UnsetType = UNSET
    operator: Operator | UnsetType = UNSET
    threshold: Threshold | UnsetType = UNSET
    threshold_high: ThresholdHigh | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    severity: Severity | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    dead_band: DeadBand | UnsetType = UNSET
    for_ms: For | UnsetType = UNSET
    clear_for_ms: ClearFor | UnsetType = UNSET
    cooldown_seconds: Cooldown | UnsetType = UNSET
    actions: Actions | UnsetType = UNSET


class Rule(msgspec.Struct, frozen=True):
    public_id: UUID
    name: str
    event_public_id: UUID
    event: Annotated[str, Meta(description="Name of the event.")]
    operator: Operator
    threshold: float
    threshold_high: float | None
    description: str
    severity: Severity
    enabled: bool
    dead_band: float
    for_ms: int
    clear_for_ms: int
    cooldown_seconds: int
    actions: list[Action]
    not_in_effect: Annotated[list[Deferred], Meta(description="Of what was asked for: stored only, nothing acts on it yet.")]
    fired: Annotated[bool, Meta(description="Whether the newest reading that it judged lets it fire.")]
    state_changed_on: Annotated[Timestamp | None, Meta(description="Time of the reading by which it last fired or cleared.")]
    created_on: Timestamp
    changed_on: Timestamp
    version: Annotated[int, Meta(description="Counts its changes; also its ETag.")]


class RulesQuery(PageQuery, frozen=True):
    sort: Literal[
        "name",
        "-name",
        "event",
        "-event",
        "created_on",
        "-created_on",
        "changed_on",
        "-changed_on",
        "state_changed_on",
        "-state_changed_on",
    ] = "name"
    event_public_id: Annotated[UUID | None, Meta(description="Only rules of this event.")] = None
    severity: Annotated[Severity | None, Meta(description="Only those of this severity.")] = None
    enabled: Annotated[bool | None, Meta(description="Only those that are enabled, or only those that are not.")] = None
    fired: Annotated[bool | None, Meta(description="Only those that have fired and not cleared, or only the others.")] = None


class Transition(msgspec.Struct, frozen=True):
    fired: Annotated[bool, Meta(description="true: it fired; false: it cleared.")]
    at: Annotated[Timestamp, Meta(description="Time of the reading that caused it.")]
    value: float


SELECT: Final = """
    SELECT r.id, r.public_id, r.name, e.public_id AS event_public_id, e.name AS event, r.operator, r.threshold, r.threshold_high,
           r.description, r.severity, r.enabled, r.dead_band, r.for_ms, r.clear_for_ms, r.cooldown_seconds, r.actions,
           r.enabled AND r.fired AS fired, r.state_changed_on, r.created_on, r.changed_on, r.version
      FROM rules r JOIN events e ON e.id = r.event_id
"""
CONDITION: Final = ("event_public_id", "operator", "threshold", "threshold_high", "enabled")
"""A change of these begins anew: the core then takes the rule as not fired."""


@route("GET", "/api/v1/rules")
async def list_rules(call: Call[None, RulesQuery]) -> Page[Rule]:
    """List rules. `search` looks into names, ignoring the case of a to z."""
    query = call.query
    if query.event_public_id is not None:
        await asked_for(call.pool, "event_public_id", query.event_public_id)
    matching = (
        SELECT
        + """ WHERE strpos(lower(r.name), lower($1)) > 0 AND ($2::uuid IS NULL OR e.public_id = $2)
                AND ($3::bool IS NULL OR r.enabled = $3) AND ($4::bool IS NULL OR (r.enabled AND r.fired) = $4)
                AND ($5::text IS NULL OR r.severity = $5)"""
    )
    arguments = [query.search, query.event_public_id, query.enabled, query.fired, query.severity]
    total, rows = await fetch_page(call.pool, matching, arguments, query, query.sort)
    return Page(query.page, query.page_size, total, [_rule(row) for row in rows])


@route("POST", "/api/v1/rules", status=201, problems=(409,), changes="rule")
async def create_rule(call: Call[RuleIn]) -> Rule:
    """Create a rule. It judges every reading that comes from now on; what it keeps but does not act on yet is in `not_in_effect`."""
    new, public_id = call.body, uuid7()
    event_id = await _judge(call.conn, new, new.actions)
    try:
        await call.conn.execute(
            """INSERT INTO rules (public_id, event_id, name, operator, threshold, threshold_high, description, severity, enabled, dead_band,
                                  for_ms, clear_for_ms, cooldown_seconds, actions, created_on, changed_on)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15)""",
            public_id, event_id, *_columns(new), clock.now(),
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken(new.name) from None
    rule = await _read(call.conn, public_id)
    return call.changed(None, rule, "rules")


@route("GET", "/api/v1/rules/{public_id}")
async def get_rule(call: Call) -> Rule:
    """Read a rule and its state."""
    return await _read(call.pool, call.public_id)


@route("PUT", "/api/v1/rules/{public_id}", problems=(409,), changes="rule")
async def change_rule(call: Call[RuleChange]) -> Rule:
    """Change a rule. Fields that are not given stay; with another condition, or switched off or on, it counts as not fired."""
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    given = fields_given(call.body)
    wanted = RuleIn(**{name: given.get(name, getattr(before, name)) for name in RuleIn.__struct_fields__})
    event_id = await _judge(call.conn, wanted, wanted.actions if given.keys() & {"actions", "event_public_id"} else [])
    anew = any(getattr(wanted, name) != getattr(before, name) for name in CONDITION)
    try:
        await call.conn.execute(
            """UPDATE rules SET event_id = $2, name = $3, operator = $4, threshold = $5, threshold_high = $6, description = $7,
                                severity = $8, enabled = $9, dead_band = $10, for_ms = $11, clear_for_ms = $12, cooldown_seconds = $13,
                                actions = $14, changed_on = $15, fired = fired AND NOT $16, version = version + 1
                WHERE public_id = $1""",
            call.public_id, event_id, *_columns(wanted), clock.now(), anew,
        )  # fmt: skip
    except asyncpg.UniqueViolationError:
        raise _taken(wanted.name) from None
    rule = await _read(call.conn, call.public_id)
    return call.changed(before, rule, "rules")


@route("DELETE", "/api/v1/rules/{public_id}", changes="rule")
async def delete_rule(call: Call) -> None:
    """Delete a rule and its transitions."""
    before = await _read(call.conn, call.public_id, lock=True)
    call.match(before.version)
    await call.conn.execute("DELETE FROM rules WHERE public_id = $1", call.public_id)
    call.changed(before, None, "rules")


@route("GET", "/api/v1/rules/{public_id}/transitions")
async def list_transitions(call: Call[None, TimesQuery]) -> CursorPage[Transition]:
    """List when a rule fired and cleared, the newest first."""
    rule_id = await call.pool.fetchval("SELECT id FROM rules WHERE public_id = $1", call.public_id)
    if rule_id is None:
        raise NotFound("rule")
    matching = """SELECT t.id, t.fired, t.at, t.value FROM rule_transitions t
                   WHERE t.rule_id = $1 AND ($2::timestamptz IS NULL OR t.at >= $2) AND ($3::timestamptz IS NULL OR t.at < $3)"""
    cursor, rows = await fetch_after(call.pool, matching, [rule_id, call.query.start, call.query.end], call.query)
    return CursorPage(cursor, [Transition(row["fired"], row["at"], row["value"]) for row in rows])


async def delete_those_of(call: Call[Any, Any], event_id: int) -> None:
    """Its event is deleted."""
    rows = await call.conn.fetch(SELECT + " WHERE r.event_id = $1 ORDER BY r.id FOR UPDATE OF r", event_id)
    if rows:
        await call.conn.execute("DELETE FROM rules WHERE event_id = $1", event_id)
    for row in rows:
        call.changed(_rule(row), None, "rules", kind="rule", detail="with its event")


async def read_all(conn: Connection) -> list[Rule]:
    return [_rule(row) for row in await conn.fetch(SELECT)]


async def _judge(conn: Connection, rule: RuleIn, actions: list[Action]) -> int:
    """The id of its event. Raises Unprocessable for what does not fit together or names an event that does not exist.

    `actions`: those to be judged; a rule whose actuator was deleted can still be switched off.
    """
    if (rule.operator in ("between", "not_between")) != (rule.threshold_high is not None):
        needs = "needs it" if rule.threshold_high is None else "has no upper threshold; leave it away or give null"
        raise Unprocessable.at("body", "threshold_high", msg=f"The operator {rule.operator} {needs}.")
    if rule.threshold_high is not None and rule.threshold > rule.threshold_high:
        raise Unprocessable.at("body", "threshold", msg="It must not be above threshold_high.")
    commands = [(index, one) for index, one in enumerate(actions) if isinstance(one, CommandAction)]
    rows = await conn.fetch(
        """SELECT id, public_id, name, type, min_value, max_value FROM events
            WHERE public_id = ANY($1::uuid[]) AND deleted_on IS NULL FOR KEY SHARE""",
        [rule.event_public_id, *(command.event_public_id for _, command in commands)],
    )
    events = {row["public_id"]: row for row in rows}
    if rule.event_public_id not in events:
        raise Unprocessable.at("body", "event_public_id", msg=f"There is no event {rule.event_public_id}.")
    for index, command in commands:
        _judge_command(rule, index, command, events.get(command.event_public_id))
    event_id: int = events[rule.event_public_id]["id"]
    return event_id


def _judge_command(rule: RuleIn, index: int, command: CommandAction, event: asyncpg.Record | None) -> None:
    """Raises Unprocessable."""
    at = ("body", "actions", index)
    if event is None:
        raise Unprocessable.at(*at, "event_public_id", msg=f"There is no event {command.event_public_id}.")
    if command.event_public_id == rule.event_public_id:
        raise Unprocessable.at(*at, "event_public_id", msg="A rule that sets the event it watches would fire itself; choose another.")
    if event["type"] == "sensor":
        raise Unprocessable.at(*at, "event_public_id", msg=f"{event['name']} is a sensor, which nobody can set.")
    low, high = event["min_value"], event["max_value"]
    if (low is not None and command.value < low) or (high is not None and command.value > high):
        raise Unprocessable.at(*at, "value", msg=f"{event['name']} takes values from {low} to {high}.")


def _columns(rule: RuleIn) -> list[Any]:
    """From name to actions, as the statements above write them."""
    return [
        rule.name, rule.operator, rule.threshold, rule.threshold_high, rule.description, rule.severity, rule.enabled, rule.dead_band,
        rule.for_ms, rule.clear_for_ms, rule.cooldown_seconds, msgspec.to_builtins(rule.actions),
    ]  # fmt: skip


async def _read(database: Pool | Connection, public_id: UUID, *, lock: bool = False) -> Rule:
    """Raises NotFound. With `lock` nobody else changes it until the transaction ends."""
    row = await database.fetchrow(SELECT + " WHERE r.public_id = $1" + (" FOR UPDATE OF r" if lock else ""), public_id)
    if row is None:
        raise NotFound("rule")
    return _rule(row)


def _rule(row: asyncpg.Record) -> Rule:
    deferred: list[Deferred] = [name for name in ("dead_band", "for_ms", "clear_for_ms", "actions") if row[name]]
    if row["actions"]:
        deferred.append("cooldown_seconds")
    return of_row(Rule, row, actions=msgspec.convert(row["actions"], list[Action]), not_in_effect=deferred)


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a rule called {name} already; choose another name.")


routes = [list_rules, create_rule, get_rule, change_rule, delete_rule, list_transitions]
