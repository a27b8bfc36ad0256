"""PostgreSQL's binary COPY in plain Python: what a segment's rows say, and what COPY TO would answer about them."""

import struct
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
    found = []
    at = 0
    while at < len(rows):
        (fields,) = struct.unpack_from(">h", rows, at)
        assert fields == len(ingest_core.COPY_COLUMNS)
        at += 2
        cells: list[bytes | None] = []
        for _ in range(fields):
            (length,) = struct.unpack_from(">i", rows, at)
            at += 4
            cells.append(None if length < 0 else rows[at : at + length])
            at += max(length, 0)
        found.append(_row(cells))
    return found


def _row(cells: list[bytes | None]) -> Row:
    event, created, last_on, n, low, high, total, first, last, experiment, encoding, overlapping, payload = cells
    assert None not in (event, created, last_on, n, low, high, total, first, last, encoding, overlapping, payload)

    def number(cell: bytes | None, form: str) -> int:
        return int(struct.unpack(">" + form, cell or b"")[0])

    def real(cell: bytes | None) -> float:
        return float(struct.unpack(">d", cell or b"")[0])

    return Row(
        event_id=number(event, "i"),
        created_us=number(created, "q") + EPOCH_US,
        last_us=number(last_on, "q") + EPOCH_US,
        n=number(n, "i"),
        min=real(low),
        max=real(high),
        sum=real(total),
        first=real(first),
        last=real(last),
        experiment_id=None if experiment is None else number(experiment, "i"),
        encoding=number(encoding, "h"),
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
