"""Events as a CSV file: what is exported, edited in a spreadsheet and imported again changes what was edited, and nothing else."""

import asyncio
import csv
import io
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Meta
from starlette.responses import Response, StreamingResponse

from webmacs.api.events.bulk import BODY_BYTES_MAX, DEFAULTS, EVENTS_MAX, Item, SavedEvents, Version, Writer, save
from webmacs.api.events.event import FIELDS, MATCHING, SELECT, EventIn, EventsFilter, Name, series_key, wanted_of
from webmacs.http.faults import field_error
from webmacs.http.problem import FieldError, Problem, Unprocessable
from webmacs.http.route import Call, route
from webmacs.http.sheet import guard, unguard
from webmacs.telemetry.catalogue import REST_WRITER

COLUMNS: Final = ("public_id", *FIELDS, "channel_key", "version")
TEXT: Final = frozenset({"name", "type", "unit", "description", "path"})
"""An empty cell is an empty text; elsewhere it is nothing."""
TYPES: Final[Mapping[str, Any]] = {
    **{field.name: field.type for field in msgspec.structs.fields(EventIn)},
    "public_id": UUID,
    "channel_key": Name,
    "version": Version,
}
DELIMITERS: Final = (",", ";", "\t")
ROWS_AT_ONCE: Final = 1_000


SAMPLE: Final = (
    "public_id,name,type,unit,limit_hi,tags,critical\r\n"
    '019a0d5e-7c00-7a41-9d3c-5b8e2f6a1c04,Boiler temperature,sensor,°C,90.5,"hot,audited",true\r\n'
)


@route("GET", "/api/v1/events/export/csv", produces="text/csv", answers=Annotated[str, Meta(examples=[SAMPLE])])
async def export_events(call: Call[None, EventsFilter]) -> Response:
    """Download events as CSV. UTF-8 with a byte order mark, comma-separated, a header row, sorted by name. Text that begins like a
    formula has an apostrophe before it, which the import takes away again; tags are separated by commas in their cell."""
    rows = await call.pool.fetch(SELECT + MATCHING + " ORDER BY e.name, e.id", *wanted_of(call.query))
    return StreamingResponse(_write(rows), media_type="text/csv", headers={"Content-Disposition": 'attachment; filename="events.csv"'})


@route(
    "POST",
    "/api/v1/events/import/csv",
    problems=(400, 409),
    changes="event",
    accepts="text/csv",
    body_bytes_max=BODY_BYTES_MAX,
    sample=SAMPLE,
)
async def import_events(call: Call[bytes]) -> SavedEvents:
    """Create or change events from a CSV file, all of them or none. A row is the event of its public_id, else of its name; one that was
    deleted comes back under its public_id. Columns are those of the export, in any order; a column that is not there leaves its field as
    it is, an empty cell empties it; a row with a version changes its event only if that still has it.
    channel_key is the series of line protocol that an event is under another name. Separated by commas, semicolons (then numbers may have
    a decimal comma) or tabs; UTF-8, up to 10,000 rows. `errors` names every line and column that cannot be used; with
    dry_run=true the answer says what would be done."""
    return await save(call, await asyncio.to_thread(_read, call.body))


async def _write(rows: Sequence[asyncpg.Record]) -> AsyncIterator[bytes]:
    yield "\N{BYTE ORDER MARK}".encode() + _lines([COLUMNS])
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        yield _lines(_cells(row) for row in rows[begin : begin + ROWS_AT_ONCE])


def _lines(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cells(row: asyncpg.Record) -> list[str]:
    key = series_key(row["name"], row["source"], row["channel_key"])
    return [_cell(key if column == "channel_key" else row[column]) for column in COLUMNS]


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value).removesuffix(".0")
        case list():
            return guard(", ".join(value))
        case str():
            return guard(value)
    return str(value)


def _read(raw: bytes) -> list[Item]:
    """Raises a 400 for what is no text, Unprocessable with every line and column that cannot be read."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem(400, "malformed", "Malformed", "The file is not in UTF-8; save it as CSV UTF-8.") from None
    header, _, _ = text.partition("\n")
    delimiter = max(DELIMITERS, key=header.count)
    rows = _rows(text, delimiter)
    _, names = next(rows, (1, []))
    columns = [name.strip().lower() for name in names]
    _judge_columns(columns)
    items: list[Item] = []
    errors: list[FieldError] = []
    for line, cells in rows:
        if len(items) == EVENTS_MAX:
            raise Unprocessable.at("body", line, msg=f"A file has at most {EVENTS_MAX:,} events; split it.")
        if len(cells) != len(columns):
            errors.append(FieldError(["body", line], f"It has {len(cells)} cells, the header has {len(columns)}."))
            continue
        values: dict[str, Any] = {}
        for column, cell in zip(columns, cells, strict=True):
            try:
                values[column] = _value(column, cell, decimal_comma=delimiter == ";")
            except msgspec.ValidationError as error:
                errors.append(field_error(["body", line], error, EventIn, [column], text=True))
            except ValueError as error:
                errors.append(FieldError(["body", line, column], str(error)))
        public_id, version, key = (values.pop(column, None) for column in ("public_id", "version", "channel_key"))
        writer = UNSET if key is None else Writer(REST_WRITER, None, None, key)
        items.append(Item(line, ("body", line), public_id, values, writer, takes=False, version=version))
    if errors:
        raise Unprocessable(errors)
    if not items:
        raise Unprocessable.at("body", msg="The file has no events below its header.")
    return items


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(the line in which it begins, its cells) of every row that is not empty. Raises Unprocessable."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Unprocessable.at("body", line, msg=f"This is no CSV: {error}.") from None
        if any(cells):
            yield line, cells


def _judge_columns(columns: Sequence[str]) -> None:
    errors = [FieldError(["body", 1, column], "There is no such column.") for column in columns if column not in COLUMNS]
    errors += [FieldError(["body", 1, column], "It is there twice.") for column in COLUMNS if columns.count(column) > 1]
    if not errors and "name" not in columns and "public_id" not in columns:
        errors.append(FieldError(["body", 1], "The header needs the column name or public_id."))
    if errors:
        raise Unprocessable(errors)


def _value(column: str, cell: str, *, decimal_comma: bool) -> Any:
    """Raises ValueError."""
    if "\0" in cell:
        raise ValueError("Text holds no NUL character.")
    if column in TEXT or (column == "channel_key" and cell):
        return msgspec.convert(unguard(cell), TYPES[column])
    if column == "tags":
        return msgspec.convert([tag for tag in unguard(cell).split(",") if tag.strip()], TYPES[column])
    cell = cell.strip()
    if not cell:
        return DEFAULTS.get(column)
    if decimal_comma and "." not in cell:
        cell = cell.replace(",", ".")
    value = msgspec.convert(cell, TYPES[column], strict=False)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("Expected a finite number.")
    return value


routes = [export_events, import_events]
