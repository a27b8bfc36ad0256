"""InfluxDB's line protocol, so that Telegraf and whoever speaks to InfluxDB can send here as they are."""

from functools import partial
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from webmacs import ingest_core, logs
from webmacs.api.datapoints import MAKING, may_make_events, store
from webmacs.http.guard import Identity
from webmacs.http.problem import MEDIA_TYPE, FieldError, ProblemDocument, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.shape import Shape
from webmacs.ingest_core import Refused, Taken
from webmacs.telemetry.intake import Intake

LINES_TOLD_MAX: Final = 100
"""Refused fields that an answer names; of the others it says how many they are."""
LINE_PROTOCOL: Final = "text/plain"

Ignored = Annotated[str | None, Meta(description="What InfluxDB's clients send; there is one database here.")]
LineProtocol = Annotated[str, Meta(examples=["cpu,host=hall-3,cpu=cpu0 usage_idle=97.5,usage_user=1.25 1795539291000000000"])]


class WriteQuery(Shape, frozen=True):
    precision: Annotated[
        Literal["ns", "n", "us", "u", "ms", "s", "m", "h"],
        Meta(description="What the lines' times count since 1970; ns unless it is said."),
    ] = "ns"
    db: Ignored = None
    rp: Ignored = None
    bucket: Ignored = None
    org: Ignored = None
    consistency: Ignored = None


class PartialWrite(ProblemDocument, frozen=True, kw_only=True, rename={"kind": "type"}):
    """Some lines were refused; all the others are stored. To send them again would not help."""

    error: Annotated[str, Meta(description="The detail, where clients of InfluxDB look for it.")]


@route(
    "POST",
    "/api/v1/write",
    status=204,
    accepts={LINE_PROTOCOL: LineProtocol},
    problems=("malformed", "partial-write", 415),
    body_bytes_max=ingest_core.BATCH_BYTES_MAX,
    once=True,
    readings=True,
)
async def write(call: Call[bytes, WriteQuery]) -> Response:
    """Store readings in InfluxDB's line protocol. 204: all of it is committed; 400 names lines that were refused, the others are stored.

    Each field is a series, `measurement.field;tag=value` with the tags in order (and a backslash before a dot of the field and before what
    parts the tags), and belongs to the event with this channel key, or else this name. For an operator or above it is made when there is
    none; a source writes its own events only. A text, or an integer beyond 2^53, is refused by its line; true and false are 1 and 0. The
    credential may also come as `Token ...`, or as the password of Basic.
    """
    intake: Intake = call.request.app.state.intake
    batch = await intake.read(call.query.precision, call.body)
    if isinstance(batch, Refused):
        raise Unprocessable.at("body", msg=batch.detail)
    return await store(call, batch, intake.stamp(batch.untimed), partial(_answer, _why_not_made(call.identity)))


def _why_not_made(identity: Identity) -> str:
    """Added to what is said of a series without an event."""
    if identity.kind == "source":
        return "; a source makes none, it needs one of its own"
    return "" if may_make_events(identity) else f"; this token lacks {MAKING}, with which it would be made"


def _answer(why_not_made: str, taken: Taken) -> Response:
    if not taken.refused_count:
        return Response(status_code=204)
    told = [
        FieldError(["line", line + 1], detail + why_not_made * (code == "unknown_channel"))
        for line, code, detail in taken.refused[:LINES_TOLD_MAX]
    ]
    first = f"line {taken.refused[0][0] + 1}: {told[0].msg}"
    detail = f"partial write: {taken.refused_count:,} refused, {taken.readings:,} stored; {first}"
    document = PartialWrite(
        kind="/problems/partial-write",
        title="Partial write",
        status=400,
        detail=detail,
        errors=told,
        request_id=logs.request_id.get(),
        error=detail,
    )
    return Response(msgspec.json.encode(document), 400, None, MEDIA_TYPE)


routes = [write]
