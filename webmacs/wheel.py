"""Judges an uploaded wheel without unpacking, importing or running anything of it.

Source of the format: the binary distribution format of the Python packaging specifications (RECORD, METADATA, entry points).
"""

import base64
import configparser
import csv
import hashlib
import io
import re
import stat
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

ENTRIES_MAX: Final = 10_000
UNPACKED_BYTES_MAX: Final = 512 * 1024 * 1024
RATIO_MAX: Final = 100
"""Of an entry unpacked to itself packed; what is shorter than RATIO_FREE_BYTES may be anything."""
RATIO_FREE_BYTES: Final = 64 * 1024
METADATA_BYTES_MAX: Final = 1024 * 1024
CHUNK_BYTES: Final = 256 * 1024
ENTRY_POINTS: Final = "webmacs.plugins"
FILE_NAME: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9.!+_]{1,100})(?:-\d[A-Za-z0-9_.]*)?"
    r"-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+\.whl"
)
PLUGIN_ID: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,99}")
RESERVED: Final = sys.stdlib_module_names | {"webmacs", "webmacs_controller", "tests", "migrations"}
"""Top-level names that would shadow ours or the standard library's."""
LOCAL_HEADER: Final = struct.Struct("<4s5H3I2H")


class WheelError(Exception):
    """It is no wheel that could be installed safely. One sentence: what is wrong, and where."""


@dataclass(frozen=True, slots=True)
class Wheel:
    name: str
    """Normalised: lower case, one hyphen for any of -_. in a row."""
    version: str
    summary: str
    requires_python: str | None
    plugin_ids: list[str]


def inspect(file: Path, file_name: str) -> Wheel:
    """Reads the whole file once; takes seconds for a large one. `file_name`: as its sender calls it. Raises WheelError."""
    named = FILE_NAME.fullmatch(file_name)
    if named is None:
        raise WheelError("its file name is none of a wheel (name-version-python-abi-platform.whl); source archives are not taken")
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
            entries = _judge_entries(archive, raw, file.stat().st_size)
            return _judge_content(archive, entries, named["name"], named["version"])
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OverflowError, struct.error, UnicodeDecodeError) as error:
        raise WheelError(f"it is no whole zip file: {error}") from None


def _judge_entries(archive: zipfile.ZipFile, raw: io.BufferedReader, size: int) -> dict[str, zipfile.ZipInfo]:
    """Every file by its name. What the directory says must be what stands before each file, without a byte between or around them."""
    infos = archive.infolist()
    if len(infos) > ENTRIES_MAX:
        raise WheelError(f"it has more than {ENTRIES_MAX:,} entries")
    if sum(info.file_size for info in infos) > UNPACKED_BYTES_MAX:
        raise WheelError(f"unpacked it would have more than {UNPACKED_BYTES_MAX:,} bytes")
    seen: set[str] = set()
    place = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        _judge_name(info)
        if info.filename.casefold() in seen:
            raise WheelError(f"{info.filename} is in it twice, or in two spellings")
        seen.add(info.filename.casefold())
        if info.flag_bits & 0x1:
            raise WheelError(f"{info.filename} is encrypted")
        if info.file_size > RATIO_FREE_BYTES and info.file_size > RATIO_MAX * max(info.compress_size, 1):
            raise WheelError(f"{info.filename} is packed more than {RATIO_MAX} to 1")
        if info.header_offset != place:
            raise WheelError(f"there is something before {info.filename} that belongs to no file")
        place = _judge_header(raw, info)
    if archive.start_dir != place:
        raise WheelError("there is something between its files and its directory")
    if archive.comment or not _ends_with_directory(raw, size):
        raise WheelError("there is something after its directory")
    return {info.filename: info for info in infos if not info.is_dir()}


def _judge_name(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    parts = name.removesuffix("/").split("/")
    if name != info.filename or "\0" in name or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        raise WheelError(f"{name!r} is no plain path inside the archive")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise WheelError(f"{name} is a link or a device")
    if len(parts) == 1 and name.endswith(".pth"):
        raise WheelError(f"{name} would run code at each start of Python")


def _judge_header(raw: io.BufferedReader, info: zipfile.ZipInfo) -> int:
    """Where the entry ends: local header, name, extra, data, and a data descriptor where there is one."""
    raw.seek(info.header_offset)
    signature, _, flags, method, _, _, crc, packed, unpacked, name_length, extra_length = LOCAL_HEADER.unpack(raw.read(LOCAL_HEADER.size))
    name = raw.read(name_length).decode("utf-8" if flags & 0x800 else "cp437")
    streamed = bool(flags & 0x8)
    same = (signature, flags, method, name) == (b"PK\x03\x04", info.flag_bits, info.compress_type, info.orig_filename)
    sizes_same = streamed or (crc, packed, unpacked) == (info.CRC, info.compress_size, info.file_size)
    if not same or not sizes_same:
        raise WheelError(f"the header of {info.filename} says something else than the directory")
    end: int = info.header_offset + LOCAL_HEADER.size + name_length + extra_length + info.compress_size
    if streamed:
        raw.seek(end)
        end += 16 if raw.read(4) == b"PK\x07\x08" else 12
    return end


def _ends_with_directory(raw: io.BufferedReader, size: int) -> bool:
    raw.seek(max(0, size - 22))
    return raw.read(4) == b"PK\x05\x06"


def _judge_content(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], name: str, version: str) -> Wheel:
    info_dir = f"{name}-{version}.dist-info"
    for needed in ("METADATA", "WHEEL", "RECORD", "entry_points.txt"):
        if f"{info_dir}/{needed}" not in entries:
            raise WheelError(f"{info_dir}/{needed} is missing")
    for path in entries:
        top = path.split("/", 1)[0]
        if top.endswith(".dist-info") and top != info_dir:
            raise WheelError(f"{path} belongs to another distribution")
        if top.endswith(".data"):
            if top != f"{name}-{version}.data" or path.split("/", 2)[1:][:1] not in (["purelib"], ["platlib"]):
                raise WheelError(f"{path} would be installed outside the packages")
            top = path.split("/", 3)[2] if path.count("/") >= 2 else top
        if top.split(".", 1)[0] in RESERVED:
            raise WheelError(f"{path} would take the place of a module of Python or WebMACS")
        if top.endswith(".pth"):
            raise WheelError(f"{path} would run code at each start of Python")
    _judge_record(archive, entries, info_dir)
    metadata = HeaderParser().parsestr(_text(archive, entries[f"{info_dir}/METADATA"]))
    if _normal(metadata.get("Name", "")) != _normal(name) or metadata.get("Version", "").strip() != version.replace("_", "-"):
        raise WheelError("METADATA names another distribution or version than the file name")
    return Wheel(
        _normal(name), version, metadata.get("Summary", "")[:500], metadata.get("Requires-Python"),
        _plugin_ids(_text(archive, entries[f"{info_dir}/entry_points.txt"])),
    )  # fmt: skip


def _judge_record(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], info_dir: str) -> None:
    """Every file is listed with the SHA-256 and size that it has, and none is listed that is not there."""
    listed = {}
    for row in csv.reader(io.StringIO(_text(archive, entries[f"{info_dir}/RECORD"]))):
        if len(row) != 3 or row[0] in listed:
            raise WheelError(f"RECORD has a line that is none, or {row[:1]} twice")
        listed[row[0]] = (row[1], row[2])
    unlisted = {f"{info_dir}/RECORD", f"{info_dir}/RECORD.jws", f"{info_dir}/RECORD.p7s"}
    differing = (entries.keys() - unlisted) ^ (listed.keys() - unlisted)
    if differing:
        raise WheelError(f"RECORD and the files differ: {min(differing)}")
    for path in entries.keys() - unlisted:
        digest, size = hashlib.sha256(), 0
        for chunk in _chunks(archive, entries[path]):
            digest.update(chunk)
            size += len(chunk)
        expected = "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")
        if listed[path] != (expected, str(size)):
            raise WheelError(f"{path} is not as RECORD says")


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Counts what is really unpacked, whatever the directory says."""
    size = 0
    with archive.open(info) as file:
        while chunk := file.read(CHUNK_BYTES):
            size += len(chunk)
            if size > info.file_size:
                raise WheelError(f"{info.filename} is longer than the directory says")
            yield chunk


def _text(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    if info.file_size > METADATA_BYTES_MAX:
        raise WheelError(f"{info.filename} has more than {METADATA_BYTES_MAX:,} bytes")
    return b"".join(_chunks(archive, info)).decode()


def _plugin_ids(text: str) -> list[str]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    try:
        parser.read_string(text)
        ids = sorted(parser[ENTRY_POINTS]) if parser.has_section(ENTRY_POINTS) else []
    except configparser.Error as error:
        raise WheelError(f"entry_points.txt cannot be read: {error.message.splitlines()[0]}") from None
    if not ids:
        raise WheelError(f"it has no entry point in the group {ENTRY_POINTS}, so it brings no plugin")
    for one in ids:
        if not PLUGIN_ID.fullmatch(one):
            raise WheelError(f"{one!r} is no plugin id (lower-case letters, digits, . _ -)")
    return ids


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
