"""Requests that may be sent again: under the same Idempotency-Key they are answered as the first time, and done once.

The key is taken in the transaction of the change, so that of two at once the second waits for the first, and a change that failed leaves
no key behind. Answers are sealed: one may hold a credential that is shown once. Source: draft-ietf-httpapi-idempotency-key-header.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from webmacs import clock, keys
from webmacs.http.problem import Problem, Unprocessable
from webmacs.storage.pool import Connection

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"
KEPT_H: Final = 24
KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
REPLAYABLE: Final = frozenset({"content-type", "location", "etag"})


@dataclass(frozen=True, slots=True)
class Claim:
    """A key of one owner (the caller's public id), and the digest of the request it came with."""

    owner: UUID
    key: str
    request_hash: bytes


def check(key: str) -> None:
    """Raises Unprocessable."""
    if not KEY.fullmatch(key):
        raise Unprocessable.at("header", HEADER, msg="A key has 1 to 200 printable ASCII characters and no spaces.")


async def take(conn: Connection, claim: Claim, sealing: bytes) -> Response | None:
    """None when the key is new and now taken; else the answer it was given. Raises Problem when it came with another request."""
    taken = await conn.fetchval(
        """INSERT INTO idempotency_keys (owner, key, request_hash, created_on) VALUES ($1, $2, $3, $4)
           ON CONFLICT DO NOTHING RETURNING true""",
        claim.owner, claim.key, claim.request_hash, clock.to_datetime(clock.now_us()),
    )  # fmt: skip
    if taken:
        return None
    row = await conn.fetchrow(
        "SELECT request_hash, status, headers, body FROM idempotency_keys WHERE owner = $1 AND key = $2", claim.owner, claim.key
    )
    if row is None or row["request_hash"] != claim.request_hash:
        raise Problem(
            422, "idempotency-key-reused", "Key was used",
            "This Idempotency-Key came with another request before; use a new key for each new request.",
        )  # fmt: skip
    body = keys.unseal(sealing, row["body"], _context(claim))
    return Response(body, row["status"], row["headers"] | {REPLAYED: "true"})


async def keep(conn: Connection, claim: Claim, sealing: bytes, response: Response) -> None:
    headers: dict[str, Any] = {name: value for name, value in response.headers.items() if name in REPLAYABLE}
    await conn.execute(
        "UPDATE idempotency_keys SET status = $3, headers = $4, body = $5 WHERE owner = $1 AND key = $2",
        claim.owner, claim.key, response.status_code, headers, keys.seal(sealing, bytes(response.body), _context(claim)),
    )  # fmt: skip


async def forget_old(conn: Connection) -> None:
    await conn.execute("DELETE FROM idempotency_keys WHERE created_on < $1", clock.to_datetime(clock.now_us()) - timedelta(hours=KEPT_H))


def _context(claim: Claim) -> bytes:
    return claim.owner.bytes + claim.key.encode()
