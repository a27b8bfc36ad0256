"""Frames on their way from the spool's memory to segments on disk. The spool says what is due and takes in what became of it; only what
lies between, `Writing.run`, is done by a worker thread.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from webmacs_controller import segment
from webmacs_controller.disk import Disk
from webmacs_controller.segment import Record
from webmacs_controller.spooled_stream import SpooledStream


class Due(NamedTuple):
    """Records of a stream that have waited long enough, and the segment that is open for them."""

    stream: SpooledStream
    writer: segment.Writer | None
    records: list[Record]


class Written(NamedTuple):
    """What became of one `Due`."""

    stream: SpooledStream
    ended: list[segment.Writer]
    """Full, or given up by an error; whoever reads this closes them."""
    writer: segment.Writer | None
    """Still open."""
    safe: list[Record]
    """Those that are on disk."""
    error: OSError | None


class Writing(NamedTuple):
    """Frames on their way to disk. `run` touches nothing but the writers."""

    disk: Disk
    directory: Path
    segment_bytes: int
    due: list[Due]

    def run(self) -> list[Written]:
        return [self._write(*item) for item in self.due]

    def _write(self, stream: SpooledStream, writer: segment.Writer | None, records: list[Record]) -> Written:
        ended: list[segment.Writer] = []
        safe = 0
        try:
            for part in _parts(records, self.segment_bytes):
                if writer is not None and writer.bytes >= self.segment_bytes:
                    ended.append(writer)
                    writer = None
                if writer is None:
                    writer = segment.Writer(self.disk, self.directory / segment_name(stream, part[0]), stream.head, part[0], durable=True)
                writer.append(part)
                safe += len(part)
        except OSError as error:
            if writer is not None:
                ended.append(writer)
            return Written(stream, ended, None, records[:safe], error)
        return Written(stream, ended, writer, records, None)


def segment_name(stream: SpooledStream, first: Record) -> str:
    return str(segment.Name(stream.order, stream.home, first.index, first.before))


def size(record: Record) -> int:
    """Bytes that it takes in a segment, and as counted in the spool's bounds."""
    return len(record.frame) + segment.RECORD_OVERHEAD


def _parts(records: list[Record], bytes_max: int) -> Iterator[list[Record]]:
    """Cuts what is written at once, so that no segment becomes much longer than it should."""
    part: list[Record] = []
    held = 0
    for record in records:
        if part and held + size(record) > bytes_max:
            yield part
            part, held = [], 0
        part.append(record)
        held += size(record)
    if part:
        yield part
