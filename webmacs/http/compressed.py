"""Bodies that come compressed, with `Content-Encoding: gzip`: bounded by what they become."""

import asyncio
import zlib
from typing import Final

from webmacs.http.problem import Problem

RATIO_MAX: Final = 100
"""Text of readings becomes five to twenty times smaller; what becomes a hundred times larger is no such text."""
GZIP: Final = 16 + zlib.MAX_WBITS
INLINE_BYTES: Final = 8 * 1024
"""Longer bodies are decompressed in a thread."""


async def decompress(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """The body as it was before it was compressed. Raises a 400, a 413 or a 415."""
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            pass
        case _:
            raise _unknown(f"A body is sent as it is, or with Content-Encoding: gzip, not {encoding[:40]!r}.")
    return _gunzip(body, bytes_max) if len(body) <= INLINE_BYTES else await asyncio.to_thread(_gunzip, body, bytes_max)


def refuse_compressed(encoding: str) -> None:
    """Of an upload, whose SHA-256 is that of the file. Raises a 415."""
    if encoding.strip().lower() not in ("", "identity"):
        raise _unknown(f"A file is uploaded as it is, without Content-Encoding: {encoding[:40]!r} is not undone here.")


def _unknown(detail: str) -> Problem:
    return Problem(415, "unsupported-media-type", "Unsupported media type", detail)


def _gunzip(body: bytes, bytes_max: int) -> bytes:
    """Never makes more than it may answer."""
    allowed = min(bytes_max, RATIO_MAX * len(body))
    reader = zlib.decompressobj(GZIP)
    try:
        plain = reader.decompress(body, allowed + 1)
    except zlib.error:
        raise _no_gzip() from None
    if len(plain) > allowed:
        limit = f"{bytes_max:,} bytes" if allowed == bytes_max else f"{RATIO_MAX} times its own size"
        raise Problem(413, "too-large", "Too large", f"A compressed body here becomes at most {limit}; send less at a time.")
    if not reader.eof or reader.unused_data:
        raise _no_gzip()
    return plain


def _no_gzip() -> Problem:
    return Problem(400, "malformed", "Malformed", "The body is not one whole gzip, though Content-Encoding says so.")
