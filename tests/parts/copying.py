"""PostgreSQL's binary COPY in plain Python: what a segment's rows say, and what COPY TO would answer about them."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from webmacs import ingest_core

EPOCH_US = 946_684_800_000_000
"""2000-01-01, PostgreSQL's zero."""


@dataclass(frozen=True)
class Row:
    event_id: int
    created_us: int
    last_us: int
    n: int
    min: float
    max: float
    sum: float
    first: float
    last: float
    experiment_id: int | None
    encoding: int
    overlapping: bool
    payload: bytes

    def readings(self) -> list[tuple[int, float]]:
        times, values = ingest_core.decode_run(self.created_us, self.encoding, self.payload)
        return list(zip(struct.unpack(f"<{self.n}q", times), struct.unpack(f"<{self.n}d", values), strict=True))


def read_rows(rows: bytes) -> list[Row]:
    return [_row(cells) for cells in _tuples(rows, len(ingest_core.COPY_COLUMNS))]


def read_latest(rows: bytes) -> list[tuple[int, int, float, int | None]]:
    """(event id, time in µs, value, experiment id) of each row of `latest`."""
    found = []
    for event, created, value, experiment in _tuples(rows, len(ingest_core.LATEST_COLUMNS)):
        experiment_id = None if experiment is None else _number(experiment, "i")
        found.append((_number(event, "i"), _number(created, "q") + EPOCH_US, _real(value), experiment_id))
    return found


def _tuples(rows: bytes, columns: int) -> Iterator[list[bytes | None]]:
    at = 0
    while at < len(rows):
        (fields,) = struct.unpack_from(">h", rows, at)
        assert fields == columns
        at += 2
        cells: list[bytes | None] = []
        for _ in range(fields):
            (length,) = struct.unpack_from(">i", rows, at)
            at += 4
            cells.append(None if length < 0 else rows[at : at + length])
            at += max(length, 0)
        yield cells


def _number(cell: bytes | None, form: str) -> int:
    return int(struct.unpack(">" + form, cell or b"")[0])


def _real(cell: bytes | None) -> float:
    return float(struct.unpack(">d", cell or b"")[0])


def _row(cells: list[bytes | None]) -> Row:
    event, created, last_on, n, low, high, total, first, last, experiment, encoding, overlapping, payload = cells
    assert None not in (event, created, last_on, n, low, high, total, first, last, encoding, overlapping, payload)
    return Row(
        event_id=_number(event, "i"),
        created_us=_number(created, "q") + EPOCH_US,
        last_us=_number(last_on, "q") + EPOCH_US,
        n=_number(n, "i"),
        min=_real(low),
        max=_real(high),
        sum=_real(total),
        first=_real(first),
        last=_real(last),
        experiment_id=None if experiment is None else _number(experiment, "i"),
        encoding=_number(encoding, "h"),
        overlapping=overlapping == b"\x01",
        payload=payload or b"",
    )


def _copy(tuples: list[list[bytes]]) -> bytes:
    body = b"".join(
        struct.pack(">h", len(fields)) + b"".join(struct.pack(">i", len(field)) + field for field in fields) for fields in tuples
    )
    return ingest_core.COPY_HEADER + body + ingest_core.COPY_TRAILER


def write_stats(rows: list[Row]) -> bytes:
    """COPY (SELECT created_on, id, last_on, n, min, max, sum, first, last, encoding, overlapping ...); a row's id is its index."""
    return _copy(
        [
            [
                struct.pack(">q", row.created_us - EPOCH_US),
                struct.pack(">q", row_id),
                struct.pack(">q", row.last_us - EPOCH_US),
                struct.pack(">i", row.n),
                *(struct.pack(">d", value) for value in (row.min, row.max, row.sum, row.first, row.last)),
                struct.pack(">h", row.encoding),
                struct.pack(">?", row.overlapping),
            ]
            for row_id, row in enumerate(rows)
        ]
    )


def write_payloads(rows: list[Row], wanted: list[tuple[int, int]]) -> bytes:
    """COPY (SELECT created_on, id, encoding, payload ...) of the wanted rows."""
    return _copy(
        [
            [
                struct.pack(">q", created_us - EPOCH_US),
                struct.pack(">q", row_id),
                struct.pack(">h", rows[row_id].encoding),
                rows[row_id].payload,
            ]
            for created_us, row_id in wanted
        ]
    )
