"""The spool's files: append-only segments of records, on disk or in shared memory, and how they are read back after anything.

A file is a head (magic, length, CRC32C, what the stream is) and records (mark, length, CRC32C, meta, frame), little-endian. The
mark lets a reader find the next record behind one whose length cannot be believed. A record is believed only by its checksum, so a
torn tail is simply not there, and a damaged record costs itself alone.
"""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import google_crc32c
import msgspec

from webmacs_controller import wire
from webmacs_controller.disk import Disk

_MAGIC: Final = b"WMSPOOL1"
_MARK: Final = b"\xf5REC"
_SIZES = struct.Struct("<II")  # length of what follows, CRC32C over the length and what follows
_META = struct.Struct("<QQIqq")
RECORD_OVERHEAD: Final = len(_MARK) + _SIZES.size + _META.size


class Head(msgspec.Struct, array_like=True, frozen=True):
    stream: bytes
    channels: list[wire.HelloChannel]
    started_us: int
    """When the stream began."""


class Record(msgspec.Struct, frozen=True, gc=False):
    index: int
    """The frame's place in its stream, from 1; it never changes, while its seq may."""
    before: int
    """Readings in all frames of the stream before this one: what makes the count of a loss exact."""
    n: int
    from_us: int
    to_us: int
    frame: bytes


class Contents(NamedTuple):
    head: Head | None
    """None when the head is damaged; the records are good without it."""
    records: list[Record]
    damaged: int
    """Stretches of the file that are no record; a torn tail is one."""


class Name(NamedTuple):
    """What a segment's name says of it, so that it is known although its first record is damaged."""

    order: int
    """counts the starts of the controller: names sort by age"""
    stream: bytes
    first: int
    """index of its first record"""
    before: int
    """readings in all frames before that"""

    def __str__(self) -> str:
        return f"{self.order:08d}-{self.stream.hex()}-{self.first:012d}-{self.before:015d}.segment"


def parse_name(path: Path) -> Name | None:
    """None for a file that is not ours."""
    try:
        order, stream, first, before = path.name.removesuffix(".segment").split("-")
        return Name(int(order), bytes.fromhex(stream), int(first), int(before))
    except ValueError:
        return None


def encode_head(head: Head) -> bytes:
    return _MAGIC + sealed(wire.encode(head))


def sealed(body: bytes) -> bytes:
    """The body with its length and checksum before it."""
    length = len(body).to_bytes(4, "little")
    return b"".join((length, _checksum(length, body).to_bytes(4, "little"), body))


def _checksum(length: bytes, body: bytes) -> int:
    checksum: int = google_crc32c.extend(google_crc32c.value(length), body)
    return checksum


def unsealed(data: bytes, at: int) -> bytes | None:
    """The body that `sealed` put at this offset; None when it is not whole."""
    if at + _SIZES.size > len(data):
        return None
    length, checksum = _SIZES.unpack_from(data, at)
    start = at + _SIZES.size
    if start + length > len(data):
        return None
    body = data[start : start + length]
    return body if _checksum(data[at : at + 4], body) == checksum else None


def encode_record(record: Record) -> bytes:
    meta = _META.pack(record.index, record.before, record.n, record.from_us, record.to_us)
    return _MARK + sealed(meta + record.frame)


def parse(data: bytes) -> Contents:
    """Nothing in a file makes it fail."""
    head: Head | None = None
    at, damaged = 0, 0
    if data.startswith(_MAGIC) and (body := unsealed(data, len(_MAGIC))) is not None:
        try:
            head = _head.decode(body)
            at = len(_MAGIC) + _SIZES.size + len(body)
        except msgspec.DecodeError:
            head = None
    records: list[Record] = []
    while at < len(data):
        if data.startswith(_MARK, at) and (body := unsealed(data, at + len(_MARK))) is not None and len(body) > _META.size:
            index, before, n, from_us, to_us = _META.unpack_from(body)
            if not records or index > records[-1].index:
                records.append(Record(index, before, n, from_us, to_us, body[_META.size :]))
            at += len(_MARK) + _SIZES.size + len(body)
            continue
        damaged += 1
        at = data.find(_MARK, at + 1)
        if at < 0:
            break
    return Contents(head, records, damaged)


_head: msgspec.msgpack.Decoder[Head] = msgspec.msgpack.Decoder(Head)


class Writer:
    """One segment being written. After an OSError it must be closed: what the disk holds behind `synced` is not known."""

    def __init__(self, disk: Disk, path: Path, head: Head, first: Record, durable: bool) -> None:
        self.path = path
        self.first = first.index
        self.before = first.before
        self.synced = False
        """Some records are safe in it."""
        self._durable = durable
        self._file = disk.create(path)
        try:
            self._file.write(encode_head(head))
            if durable:
                disk.sync_directory(path.parent)
        except OSError:
            self.close()
            raise

    @property
    def bytes(self) -> int:
        return self._file.bytes

    def append(self, records: Iterable[Record]) -> None:
        """Returns when the records are on disk (durable), or where a killed process leaves them (shared memory)."""
        self._file.write(b"".join(map(encode_record, records)))
        if self._durable:
            self._file.sync()
        self.synced = True

    def close(self) -> None:
        self._file.close()
